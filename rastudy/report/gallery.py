"""Figures that show pictures: degraded, restored, with the R's verdicts, and those whose verdict RA turns."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib import cbook
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from rastudy import registry
from rastudy.analysis.comparisons import Cell, check_paired
from rastudy.analysis.style import AMPLIFIED, save, show_picture
from rastudy.config import Config, make_config
from rastudy.data.datasets import PictureSet
from rastudy.data.degradations import degrade, no_processing, round_to_8_bits, to_uint8
from rastudy.data.imagenet import class_names
from rastudy.data.loaders import Loader, evaluation_batches
from rastudy.errors import StudyError, one_of
from rastudy.evaluation.evaluate import load_pictures
from rastudy.evaluation.predictions import Predictions, load_predictions, predictions_file
from rastudy.models.classifiers import Classifier, load_classifier
from rastudy.models.processors import apply_processor
from rastudy.presets import PRESETS, degradations
from rastudy.registry import display_name, is_variant, mode_name, task_name
from rastudy.restore.image_io import eight_bit, open_picture
from rastudy.restore.restore import Models, files_of, verdict_lines
from rastudy.training.run_store import load_models, weights_file

SHOWN = 8  # pictures of a figure of turned verdicts
RIGHT, WRONG, UNKNOWN = "#007a33", "#c00000", "#555555"  # of verdicts
GAINED, LOST = "#0072b2", "#d55e00"  # the two ways in which RA turns a verdict


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
    config = make_config(preset, task, "plain", **overrides)
    targets = [load_classifier(name, config.dataset) for name in two_readers(config)]
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
        processor, transformer = (None, None) if registry.is_baseline(mode) else load_models(config)
        shown = round_to_8_bits(apply_processor(processor, batch.lq, batch.gt, config))
        shown = transformer(shown) if transformer is not None else shown
        verdicts = [target(shown).argmax(1) for target in targets]
        for row in range(count):
            label = int(batch.label[first + row])
            ax = axes[row, k]
            show_picture(ax, to_uint8(shown[first + row]))
            for line, verdict in enumerate(verdicts):
                guess = int(verdict[first + row])
                text = f"{display_name(targets[line].name)}: {subset.classes[guess]}"
                colour = UNKNOWN if label < 0 else RIGHT if guess == label else WRONG
                place = {"ha": "center", "va": "center", "transform": ax.transAxes}
                ax.text(0.5, -0.1 - 0.16 * line, text, fontsize=8, color=colour, **place)
        axes[0, k].set_title("T of P's picture" if mode == "ra_transformer" else mode_name(mode), fontsize=10)
    figure.suptitle(task_name(task, strength), y=0.95)
    figure.subplots_adjust(hspace=0.5, wspace=0.08)
    return figure


def two_readers(config: Config) -> list[str]:
    """The source R and one that P never met."""
    source = PRESETS[config.preset]["source_arch"]
    return [source, next(name for name in config.targets if name != source)]


def show_restored(config: Config) -> Figure:
    """:func:`plot_restored` of the first test pictures for the config's degradation, saved."""
    pictures = pictures_to_show(config, "test")
    figure = plot_restored(config.preset, config.task, pictures, strength=config.strength, data_dir=config.data_dir)
    save(figure, config.preset, f"restored_{_named(config)}")
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


def _named(config: Config) -> str:
    """A degradation in a figure's name: the task's first strength goes without saying."""
    first = degradations(config.preset, config.task)[0][1]
    return config.task if config.strength == first else f"{config.task}{config.strength:g}"


# --- verdicts that RA turns


class Turned(NamedTuple):
    """Places in the test set, ascending, of the pictures whose verdict RA turns: to right, to wrong; of ``n`` pictures."""

    gained: np.ndarray
    lost: np.ndarray
    n: int

    def chosen(self, count: int = SHOWN) -> tuple[list[int], list[int]]:
        """``count`` of them by rule: the first of either way, as many of each as its share of all turned ones, rounded."""
        total = len(self.gained) + len(self.lost)
        count = min(count, total)
        n_gained = int(count * len(self.gained) / total + 0.5) if total else 0
        return self.gained[:n_gained].tolist(), self.lost[: count - n_gained].tolist()


def turned(plain: Predictions, ra: Predictions, reader: str) -> Turned:
    """The pictures that a reader misreads in plain's version and reads rightly in RA's, and the other way round.

    Raises:
        StudyError: the runs saw other pictures, or were not read by ``reader``.
    """
    check_paired(Cell({0: plain}), Cell({0: ra}))
    one_of("reader", reader, plain.targets)
    before, after = (run.hits()[run.targets.index(reader)] for run in (plain, ra))
    return Turned(np.flatnonzero(~before & after), np.flatnonzero(before & ~after), len(before))


def pair_of(preset: str, task: str, strength: float = -1.0, **overrides) -> tuple[Config, Config]:
    """The main comparison's runs of plain and RA, seed 0."""
    plain, ra = (make_config(preset, task, mode, strength=strength, **overrides) for mode in ("plain", "ra"))
    return plain, ra


def turned_table(preset: str) -> pd.DataFrame:
    """How many test pictures RA turns to right (``gained``) and to wrong (``lost``), by degradation and R; seed 0."""
    rows = []
    for task, strength in degradations(preset):
        files = [predictions_file(config, "test") for config in pair_of(preset, task, strength)]
        if not all(path.is_file() for path in files):
            continue
        plain, ra = map(load_predictions, files)
        for reader in plain.targets:
            if not is_variant(reader):
                found = turned(plain, ra, reader)
                row = {"task": task, "strength": strength, "target_arch": reader}
                rows.append(row | {"gained": len(found.gained), "lost": len(found.lost), "n_images": found.n})
    return pd.DataFrame(rows, columns=["task", "strength", "target_arch", "gained", "lost", "n_images"])


def plot_turned_counts(preset: str) -> Figure:
    """Bars: pictures that RA turns to right, and to wrong, by R; a panel per degradation."""
    table = turned_table(preset)
    if table.empty:
        raise StudyError(f"results/{preset} holds no pair of plain and RA; run rastudy sweep --preset {preset}")
    keys = list(dict.fromkeys(zip(table["task"], table["strength"], strict=True)))
    readers = list(table["target_arch"].unique())
    most, most_lost = table[["gained", "lost"]].to_numpy().max(), table["lost"].max()
    sns.set_theme(style="white", context="notebook")
    size = (2 + 3.2 * len(keys), 1.7 + 0.42 * len(readers))
    figure, axes = plt.subplots(1, len(keys), figsize=size, sharey=True, squeeze=False)
    for ax, (task, strength) in zip(axes[0], keys, strict=True):
        part = table[(table["task"] == task) & (table["strength"] == strength)].set_index("target_arch").reindex(readers)
        for name, sign, colour in (("gained", 1, GAINED), ("lost", -1, LOST)):
            ax.barh(range(len(readers)), sign * part[name], color=colour)
            for y, value in enumerate(part[name]):
                align = "left" if sign > 0 else "right"
                ax.text(sign * (value + 0.03 * most), y, f"{value:,}", ha=align, va="center", fontsize=10)
        ax.axvline(0, color="black", lw=1)
        ax.set(title=task_name(task, strength), xlim=(-most_lost - 0.35 * most, 1.4 * most), xticks=[])
        for x, name, colour in ((-0.02, "to wrong", LOST), (0.02, "to right", GAINED)):
            place = {"ha": "right" if x < 0 else "left", "va": "top", "transform": ax.get_xaxis_transform()}
            ax.text(x * most, 0.0, name, fontsize=11, color=colour, **place)
        sns.despine(ax=ax, left=True, bottom=True)
    axes[0, 0].set_yticks(range(len(readers)), [display_name(arch) for arch in readers])
    axes[0, 0].invert_yaxis()
    figure.tight_layout()
    source = display_name(PRESETS[preset]["source_arch"])
    note = f"Pictures whose verdict RA turns; n = {table['n_images'].max():,} test pictures, seed 0. R in the loss: {source}."
    figure.text(0.5, 0.0, note, ha="center", va="top", fontsize=9)
    return figure


def _as_evaluated(pictures: PictureSet, config: Config, places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """``lq`` and ``gt`` of the pictures at these places, as evaluation has them: noise is seeded by the place."""
    if not pictures.crop:  # these are degraded all at once; nothing behind the last is needed
        n = max(places) + 1
        pictures = replace(pictures, pictures=pictures.pictures[:n], labels=pictures.labels[:n], groups=pictures.groups[:n])
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for batch in evaluation_batches(pictures, config):
        found |= {int(i): pair for i, *pair in zip(batch.index, batch.lq, batch.gt, strict=True) if int(i) in places}
        if len(found) == len(places):
            break
    lq, gt = zip(*(found[place] for place in places), strict=True)
    return torch.stack(lq), torch.stack(gt)


@torch.inference_mode()
def plot_turned(
    preset: str, task: str, reader: str, pictures: PictureSet | None = None, strength: float = -1.0, count: int = SHOWN,
    **overrides,
) -> Figure:  # fmt: skip
    """Pictures whose verdict RA turns, a column each: what P gets, plain's, RA's, the original, and RA's minus plain's.

    The verdicts are the kept predictions', seed 0; which pictures are shown says :meth:`Turned.chosen`.

    Args:
        pictures: the test pictures; default: loaded (``data_dir`` names the folder where the preset needs one).

    Raises:
        StudyError: other pictures than those that the predictions are of, or weights or predictions that are missing.
    """
    runs = pair_of(preset, task, strength, device="cpu", **overrides)
    read = [load_predictions(predictions_file(run, "test")) for run in runs]
    found = turned(*read, reader)
    pictures = load_pictures(runs[0], "test") if pictures is None else pictures
    if pictures.digest != read[0].about["data"]:
        raise StudyError(f"{pictures.name}: not the pictures that results/{preset} has read; run the sweep on them first")
    gained, lost = found.chosen(count)
    places, row_of = gained + lost, read[0].targets.index(reader)
    sns.set_theme(style="white", context="notebook")
    rows = ("degraded", "plain", "RA", "original", f"RA - plain,\n{AMPLIFIED} times")
    size = (0.9 + 1.3 * max(len(places), 3), 0.9 + 1.45 * len(rows))
    figure, axes = plt.subplots(len(rows), max(len(places), 1), figsize=size, squeeze=False)
    if places:
        lq, gt = _as_evaluated(pictures, runs[0], places)
        none = apply_processor(None, lq, gt, make_config(preset, task, "none", strength=runs[0].strength, **overrides))
        plain, ra = (round_to_8_bits(apply_processor(load_models(run)[0], lq, gt, run)) for run in runs)
        shown = (none, plain, ra, gt, 0.5 + AMPLIFIED * (ra - plain))
    for column, place in enumerate(places):
        label = int(read[0].arrays["label"][place])
        guesses = {row: int(run.arrays["top5"][row_of, place, 0]) for row, run in zip((1, 2), read, strict=True)}
        for row, batch in enumerate(shown):
            guess = guesses.get(row, label)
            caption = pictures.classes[guess] if row in (1, 2, 3) else ""
            colour = "black" if row not in guesses else RIGHT if guess == label else WRONG
            show_picture(axes[row, column], to_uint8(batch[column].clamp(0, 1)), caption, colour)
            axes[row, column].xaxis.label.set_fontsize(11)
        way, colour = ("to right", GAINED) if column < len(gained) else ("to wrong", LOST)
        axes[0, column].set_title(way, fontsize=11, color=colour)
    for ax, name in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(name, fontsize=10)
    figure.suptitle(
        f"{task_name(task, runs[0].strength)}, read by {display_name(reader)}: RA turns {len(found.gained):,} of {found.n:,} "
        f"pictures to right, {len(found.lost):,} to wrong", fontsize=12,
    )  # fmt: skip
    figure.tight_layout()
    note = f"The first {len(gained)} and {len(lost)} in the test set's order: {len(places)} in the proportion of all that turn."
    figure.text(0.5, 0.0, f"{note} Verdicts under plain's and RA's picture; seed 0.", ha="center", va="top", fontsize=9)
    return figure


def show_turned(preset: str, data_dir: str = "") -> list[Path]:
    """Draw and save what RA turns: the counts and, where pictures and weights are at hand, :func:`plot_turned` for two R's.

    Pictures that are not the package's own need ``data_dir``; figures that show them are not committed.
    """
    saved = [save(plot_turned_counts(preset), preset, "turned")]
    for task, strength in degradations(preset):
        runs = pair_of(preset, task, strength, data_dir=data_dir)
        files = [*map(weights_file, runs), *(predictions_file(run, "test") for run in runs)]
        if (runs[0].dataset == "digits" or data_dir) and all(path.is_file() for path in files):
            pictures = load_pictures(runs[0], "test")
            for reader in two_readers(runs[0]):
                figure = plot_turned(preset, task, reader, pictures, strength, data_dir=data_dir)
                saved.append(save(figure, preset, f"turned_{_named(runs[0])}_{reader}"))
    plt.close("all")
    return saved
