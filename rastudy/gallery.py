"""Figures that show pictures: degraded, restored, with the R's verdicts."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib import cbook
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from rastudy.classifiers import Classifier, load_classifier
from rastudy.config import BASELINES, Config, make_config
from rastudy.data import Loader, PictureSet
from rastudy.degrade import degrade, no_processing, round_to_8_bits, to_uint8
from rastudy.evaluate import load_pictures, restore
from rastudy.imagenet import class_names
from rastudy.pictures import eight_bit, open_picture
from rastudy.plots import mode_name, save, task_name
from rastudy.presets import PRESETS, degradations
from rastudy.restore import Models, files_of, verdict_lines
from rastudy.runs import load_models, weights_file
from rastudy.tables import display_name


def show_picture(ax, picture: np.ndarray, caption: str = "", colour: str = "black") -> None:
    """Draw a picture (H, W, 3) uint8 without ticks."""
    ax.imshow(picture, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(caption, fontsize=9, color=colour, labelpad=3)


def pictures_to_show(config: Config, split: str) -> PictureSet:
    """The set whose first pictures a figure shows: a split of the run's own, or for ImageNet photographs that anyone may show.

    These come with scikit-learn and matplotlib, have no label (-1) and are cut to ``image_size`` pixels.
    """
    if not config.of_photographs:
        return load_pictures(config, split)
    photographs = [Image.fromarray(picture) for picture in load_sample_images().images]
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        photographs.append(Image.open(file).convert("RGB"))
    cut = [ImageOps.fit(photo, (config.image_size, config.image_size), Image.Resampling.BICUBIC) for photo in photographs]
    unknown = np.full(len(cut), -1)
    return PictureSet("photographs", split, np.stack([np.asarray(c) for c in cut]), unknown, np.arange(len(cut)), class_names())


def plot_degradations(pictures: PictureSet, preset: str, count: int = 6) -> Figure:
    """The first pictures of a set: the original, and what each task's P gets to see (sr: after bicubic upsampling)."""
    keys, count = degradations(preset), min(count, len(pictures))
    sns.set_theme(style="white", context="notebook")
    figure, axes = plt.subplots(1 + len(keys), count, figsize=(1.55 * count, 1.6 * (1 + len(keys))), squeeze=False)
    for k in range(count):
        gt = pictures.pictures[k]
        show_picture(axes[0, k], gt, pictures.classes[pictures.labels[k]] if pictures.labels[k] >= 0 else "")
        for row, (task, strength) in enumerate(keys, start=1):
            lq = degrade(gt, task, strength, seed=k)
            show_picture(axes[row, k], to_uint8(no_processing(lq, task, strength)))
            axes[row, 0].set_ylabel(task_name(task, strength).replace(" ", "\n", 1), fontsize=9)
    axes[0, 0].set_ylabel("original", fontsize=9)
    figure.tight_layout()
    return figure


@torch.inference_mode()
def plot_restored(preset: str, task: str, pictures: PictureSet, first: int = 0, count: int = 6, **overrides) -> Figure:
    """``count`` consecutive test pictures (not chosen): the original, no processing, and every mode's P and T, if trained.

    Under each picture the verdicts of the source R and of one unseen R, green where right, grey where nobody knows.
    """
    count = min(count, len(pictures) - first)
    overrides |= {"device": "cpu"}  # a few pictures
    targets = _two_targets(make_config(preset, task, "plain", **overrides))
    runs = [make_config(preset, task, mode, **overrides) for mode in PRESETS[preset]["modes"]]
    trained = [run.mode for run in runs if weights_file(run).is_file()]
    columns = ["clean", "none", *(trained or ["plain"])]  # without its weights plain raises, and says how to get them
    sns.set_theme(style="white", context="notebook")
    figure, axes = plt.subplots(count, len(columns), figsize=(1.75 * len(columns), 2.0 * count), squeeze=False)
    subset = PictureSet(pictures.name, pictures.split, *(a[: first + count] for a in
                        (pictures.pictures, pictures.labels, pictures.groups)), pictures.classes)  # fmt: skip
    strength = make_config(preset, task, **overrides).strength
    batch = next(Loader(subset, task, strength, first + count).ordered())
    for k, mode in enumerate(columns):
        config = make_config(preset, task, mode, **overrides)
        processor, transformer = (None, None) if mode in BASELINES else load_models(config)
        shown = round_to_8_bits(restore(processor, batch.lq, batch.gt, config))
        shown = transformer(shown) if transformer is not None else shown
        verdicts = [target(shown).argmax(1) for target in targets]
        for row in range(count):
            label = int(batch.label[first + row])
            ax = axes[row, k]
            show_picture(ax, to_uint8(shown[first + row]))
            for line, verdict in enumerate(verdicts):
                guess = int(verdict[first + row])
                text = f"{display_name(targets[line].name)}: {subset.classes[guess]}"
                colour = "#555555" if label < 0 else "#007a33" if guess == label else "#c00000"
                place = {"ha": "center", "va": "center", "transform": ax.transAxes}
                ax.text(0.5, -0.1 - 0.16 * line, text, fontsize=8, color=colour, **place)
        axes[0, k].set_title("T of P's picture" if mode == "ra_transformer" else mode_name(mode), fontsize=10)
    figure.suptitle(task_name(task, strength), y=0.95)
    figure.subplots_adjust(hspace=0.5, wspace=0.08)
    return figure


def _two_targets(config: Config) -> list[Classifier]:
    source = PRESETS[config.preset]["source_arch"]
    unseen = next(name for name in config.targets if name != source)
    return [load_classifier(name, config.dataset) for name in (source, unseen)]


def show_restored(config: Config) -> Figure:
    """:func:`plot_restored` of the first test pictures for the config's degradation, saved."""
    pictures = pictures_to_show(config, "test")
    figure = plot_restored(config.preset, config.task, pictures, strength=config.strength, data_dir=config.data_dir)
    first = degradations(config.preset, config.task)[0][1]
    save(figure, config.preset, f"restored_{config.task}" + ("" if config.strength == first else f"{config.strength:g}"))
    return figure


def own_pictures(config: Config, place: str = "", count: int = 4) -> dict[str, Image.Image]:
    """The first pictures of a file or folder by name; without one scikit-learn's photographs, degraded as the config has it."""
    if place:
        return {path.name: open_picture(path)[0] for path in files_of(Path(place).expanduser())[:count]}
    data = load_sample_images()
    found = {}
    for k, (name, photo) in enumerate(zip(data.filenames, data.images, strict=True)):
        whole = photo[: photo.shape[0] // 4 * 4, : photo.shape[1] // 4 * 4]  # divides by the factor
        found[Path(name).name] = Image.fromarray(to_uint8(degrade(whole, config.task, config.strength, seed=k)))
    return found


def plot_own(
    pictures: dict[str, Image.Image], restored: Sequence[Image.Image], models: Models, readers: list[Classifier]
) -> Figure:
    """A row per picture: whole before and after, and a piece of its middle; below, what each R says before and after."""
    sns.set_theme(style="white", context="notebook")
    figure, axes = plt.subplots(len(pictures), 4, figsize=(12, 2.5 * len(pictures)), squeeze=False, width_ratios=[3, 3, 2, 2])
    for row, (name, before), after in zip(axes, pictures.items(), restored, strict=True):
        lines = verdict_lines(before, after, models, readers)
        shown = [eight_bit(picture).convert("RGB") for picture in (before.resize(after.size, Image.Resampling.NEAREST), after)]
        side = min(160, *after.size)
        left, top = ((length - side) // 2 for length in after.size)
        for k, picture in enumerate(shown):
            whole = picture.copy()
            whole.thumbnail((480, 480))
            show_picture(row[k], np.asarray(whole), "" if k else "\n".join([name, *lines]))
            show_picture(row[k + 2], np.asarray(picture.crop((left, top, left + side, top + side))))
    for ax, title in zip(axes[0], ("before", "after", "before, its middle", "after"), strict=True):
        ax.set_title(title, fontsize=10)
    figure.tight_layout()
    return figure
