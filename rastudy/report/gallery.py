"""Figures that show pictures: degraded, restored with the recognisers' predictions, and those that RA corrects or breaks."""

from collections.abc import Sequence
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

from rastudy.analysis import style
from rastudy.analysis.comparisons import Cell, check_paired
from rastudy.config import Config, make_config
from rastudy.data.datasets import PictureSet
from rastudy.data.degradations import degrade, no_processing, round_to_8_bits, to_uint8
from rastudy.data.imagenet import class_names
from rastudy.data.loaders import evaluation_batches
from rastudy.errors import NothingToShow, StudyError, one_of
from rastudy.evaluation.evaluate import load_pictures
from rastudy.evaluation.predictions import Predictions, load_predictions, predictions_file
from rastudy.models.classifiers import load_classifier
from rastudy.models.processors import apply_processor
from rastudy.paths import to_read
from rastudy.presets import PRESETS, degradations
from rastudy.registry import MODES, dataset_of, display_name, is_variant, mode_name, task_name
from rastudy.training.weights import load_models, weights_file

SHOWN = 8  # pictures in a figure of what RA turns
WAYS = {"gained": ("corrected \u2713", style.RIGHT), "lost": ("broken \u2717", style.WRONG)}  # in which RA turns a prediction
TURNED = ("task", "strength", "target_arch", "gained", "lost", "n_images")


def pictures_to_show(config: Config, split: str) -> PictureSet:
    """A split of the run's own pictures; for ImageNet photographs that anyone may publish.

    Those come with scikit-learn and matplotlib, have no label (-1) and are cut to ``image_size`` pixels.
    """
    if not config.of_photographs:
        return load_pictures(config, split)
    photographs = [Image.fromarray(picture) for picture in load_sample_images().images]
    photographs.append(Image.open(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))).convert("RGB"))
    cut = [ImageOps.fit(photo, (config.image_size, config.image_size), Image.Resampling.BICUBIC) for photo in photographs]
    unknown = np.full(len(cut), -1)
    return PictureSet("photographs", split, np.stack([np.asarray(c) for c in cut]), unknown, np.arange(len(cut)), class_names())


def two_readers(config: Config) -> list[str]:
    """The preset's source model and the first R that was not in its loss."""
    source = PRESETS[config.preset]["source_arch"]
    return [source, next(name for name in config.targets if name != source)]


def _name_of(config: Config) -> str:
    """A degradation in a figure's name; the strength is left out where it is the task's first."""
    first = degradations(config.preset, config.task)[0][1]
    return config.task if config.strength == first else f"{config.task}{config.strength:g}"


def _as_evaluated(pictures: PictureSet, config: Config, places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """``lq`` and ``gt`` of the pictures at these places, as evaluation has them: noise is seeded by the place."""
    if isinstance(pictures.pictures, np.ndarray):  # these are degraded all at once; nothing behind the last is needed
        pictures = pictures.subset(np.arange(max(places) + 1))
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for batch in evaluation_batches(pictures, config):
        at = {int(place): k for k, place in enumerate(batch.index)}
        found |= {place: (batch.lq[at[place]], batch.gt[at[place]]) for place in places if place in at}
        if len(found) == len(set(places)):
            break
    lq, gt = zip(*(found[place] for place in places), strict=True)
    return torch.stack(lq), torch.stack(gt)


def versions(pictures: PictureSet, plain: Config, ra: Config, places: Sequence[int]) -> dict[str, torch.Tensor]:
    """The pictures at these places (N, 3, H, W) as P gets them, by plain, by RA, and the original."""
    lq, gt = _as_evaluated(pictures, plain, places)
    before, after = (round_to_8_bits(apply_processor(load_models(run, to_read)[0], lq, gt, run)) for run in (plain, ra))
    none = make_config(plain.preset, plain.task, "none", strength=plain.strength, data_dir=plain.data_dir, device="cpu")
    return {"degraded": apply_processor(None, lq, gt, none), "plain": before, "RA": after, "original": gt}


# --- degraded and restored pictures


def plot_degradations(pictures: PictureSet, preset: str, count: int = 6) -> Figure:
    """The first pictures of a set: the original, and each task's input to P (sr: after bicubic upsampling)."""
    keys, count = degradations(preset), min(count, len(pictures))
    figure, axes = style.panels(1 + len(keys), count, 0.2 + 1.3 * (1 + len(keys)), "white")
    for k in range(count):
        gt, label = pictures.pictures[k], pictures.labels[k]
        style.show_picture(axes[0, k], gt, pictures.classes[label] if label >= 0 else "")
        for row, (task, strength) in enumerate(keys, start=1):
            style.show_picture(axes[row, k], to_uint8(no_processing(degrade(gt, task, strength, seed=k), task, strength)))
    names = ["original", *(style.two_lines(*key) for key in keys)]
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name, fontsize=9)
    return figure


@style.says_what_is_missing
@torch.inference_mode()
def show_restored(config: Config, count: int = 6) -> Figure:
    """The first test pictures: the original, no processing, and every mode's P and T that is trained; drawn and saved.

    Under each picture are the predictions of the source model and an unseen R, a cross where wrong, grey where nobody knows.
    """
    pictures = pictures_to_show(config, "test")
    count, readers = min(count, len(pictures)), [load_classifier(name, config.dataset) for name in two_readers(config)]
    settings = {"strength": config.strength, "data_dir": config.data_dir, "device": "cpu"}  # a few pictures
    modes = ("clean", "none", *PRESETS[config.preset]["modes"])
    runs = [make_config(config.preset, config.task, mode, **settings) for mode in modes]
    shown = [run for run in runs if run.is_baseline or to_read(weights_file(run)).is_file()]
    if len(shown) == 2:
        what = f"{config.preset}, {task_name(config.task, config.strength)}"
        raise NothingToShow(f"Nothing to draw yet: no P of {what} is here; rastudy sweep --preset {config.preset} trains it.")
    lq, gt = _as_evaluated(pictures, shown[1], range(count))
    figure, axes = style.panels(count, len(shown), 0.5 + 1.65 * count, "white")
    for run, column in zip(shown, axes.T, strict=True):
        processor, transformer = (None, None) if run.is_baseline else load_models(run, to_read)
        restored = round_to_8_bits(apply_processor(processor, lq, gt, run))
        restored = restored if transformer is None else transformer(restored)
        verdicts = torch.stack([reader(restored).argmax(1) for reader in readers], 1).tolist()
        for ax, picture, guesses, label in zip(column, restored, verdicts, pictures.labels.tolist(), strict=False):
            style.show_picture(ax, to_uint8(picture))
            told = [(f"{display_name(reader.name)}: {pictures.classes[guess]}", guess)
                    for reader, guess in zip(readers, guesses, strict=True)]  # fmt: skip
            style.say_below(ax, [style.verdict(said, guess, label) for said, guess in told])
        column[0].set_title(mode_name(run.mode))
    figure.suptitle(task_name(config.task, config.strength))
    note = f"The first {count} pictures, seed 0; below each, the predictions of the source model and of one unseen model."
    style.finish(figure, note + " RA with T: T's output." * any(MODES[run.mode].has_transformer for run in shown))
    style.save(figure, config.preset, f"restored_{_name_of(config)}")
    return figure


# --- what RA corrects and breaks


class Turned(NamedTuple):
    """Places in the test set, ascending, of the pictures that RA corrects (``gained``) and breaks (``lost``), of ``n``."""

    gained: np.ndarray
    lost: np.ndarray
    n: int

    def chosen(self) -> tuple[list[int], list[int]]:
        """``SHOWN`` of them by rule: the first of either way, as many of each as its share of all turned ones, rounded."""
        total = len(self.gained) + len(self.lost)
        count = min(SHOWN, total)
        n_gained = int(count * len(self.gained) / total + 0.5) if total else 0
        return self.gained[:n_gained].tolist(), self.lost[: count - n_gained].tolist()


def turned(plain: Predictions, ra: Predictions, reader: str) -> Turned:
    """The pictures that a reader misclassifies in plain's version and not in RA's, and the other way round.

    Raises:
        StudyError: the runs saw other pictures, or were not read by ``reader``.
    """
    check_paired(Cell({0: plain}), Cell({0: ra}))
    one_of("reader", reader, plain.targets)
    before, after = (run.hits()[run.targets.index(reader)] for run in (plain, ra))
    return Turned(np.flatnonzero(~before & after), np.flatnonzero(before & ~after), len(before))


def pair_of(preset: str, task: str, strength: float = -1.0, **overrides: object) -> tuple[Config, Config]:
    """The main comparison's runs of plain and RA, seed 0."""
    plain, ra = (make_config(preset, task, mode, strength=strength, **overrides) for mode in ("plain", "ra"))
    return plain, ra


def turned_table(preset: str) -> pd.DataFrame:
    """How many test pictures RA corrects (``gained``) and breaks (``lost``), by degradation and R; seed 0."""
    rows = []
    for task, strength in degradations(preset):
        files = [to_read(predictions_file(config, "test")) for config in pair_of(preset, task, strength)]
        if all(path.is_file() for path in files):
            plain, ra = map(load_predictions, files)
            for reader in (name for name in plain.targets if not is_variant(name)):
                found = turned(plain, ra, reader)
                rows.append((task, strength, reader, len(found.gained), len(found.lost), found.n))
    return pd.DataFrame(rows, columns=list(TURNED))


@style.says_what_is_missing
def plot_turned_counts(preset: str) -> Figure:
    """Bars: pictures that RA corrects, and that it breaks, by R; a panel per degradation."""
    table = turned_table(preset)
    keys, readers = style.degradations_in(table, preset), list(table["target_arch"].unique())
    most, most_lost = table[["gained", "lost"]].to_numpy().max(), table["lost"].max()
    figure, axes = style.panels(1, len(keys), 1 + 0.26 * len(readers), "white", sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        part = style.rows_of(table, key).set_index("target_arch").reindex(readers)
        for (column, (way, colour)), sign in zip(WAYS.items(), (1, -1), strict=True):
            side = "left" if sign > 0 else "right"
            ax.barh(range(len(readers)), sign * part[column], color=colour)
            for y, value in enumerate(part[column]):
                ax.text(sign * (value + 0.03 * most), y, f"{value:,}", ha=side, va="center", fontsize=8.5)
            below = {"ha": side, "va": "top", "transform": ax.get_xaxis_transform()}
            ax.text(sign * 0.04 * most, 0.0, way, fontsize=8.5, color=colour, **below)
        ax.axvline(0, color="black", lw=1)
        ax.set(title=style.two_lines(*key), xlim=(-most_lost - 0.35 * most, 1.4 * most), xticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
    axes[0, 0].set_yticks(range(len(readers)), [display_name(arch) for arch in readers])
    axes[0, 0].invert_yaxis()
    n, source = table["n_images"].max(), display_name(PRESETS[preset]["source_arch"])
    note = f"Pictures that RA corrects and breaks; n = {n:,} test pictures, seed 0. Source model: {source}."
    return style.finish(figure, note)


@torch.inference_mode()
def plot_turned(
    preset: str, task: str, reader: str, pictures: PictureSet, strength: float = -1.0, **overrides: object
) -> Figure:
    """Pictures that RA corrects and breaks, a column each: P's input, plain's, RA's, the original, and RA's minus plain's.

    The predictions are the kept ones, seed 0; the pictures are those of :meth:`Turned.chosen`.

    Raises:
        StudyError: other pictures than those that the predictions are of, or weights or predictions that are missing.
    """
    plain, ra = pair_of(preset, task, strength, device="cpu", **overrides)
    read = {run: load_predictions(to_read(predictions_file(run, "test"))) for run in (plain, ra)}
    found = turned(read[plain], read[ra], reader)
    if pictures.digest != read[plain].about["data"]:
        raise StudyError(f"{pictures.name}: not the pictures that results/{preset} has read; run the sweep on them first")
    gained, lost = found.chosen()
    places = gained + lost
    names = ("degraded", "plain", "RA", "original", f"RA - plain,\n{style.AMPLIFIED} times")
    figure, axes = style.panels(len(names), max(len(places), 1), 0.7 + 1.2 * len(names), "white")
    if places:
        shown = versions(pictures, plain, ra, places)
        batches = (*shown.values(), 0.5 + style.AMPLIFIED * (shown["RA"] - shown["plain"]))
        labels = read[plain].arrays["label"][places].astype(int)
        first = read[plain].targets.index(reader)
        guesses = [run.arrays["top5"][first, places, 0].astype(int) for run in read.values()]
        for row, batch, said in zip(axes, batches, (None, *guesses, labels, None), strict=True):
            for k, ax in enumerate(row):
                name = "" if said is None else pictures.classes[said[k]]
                caption, look = (name, {}) if said is None or said is labels else style.verdict(name, said[k], labels[k])
                style.show_picture(ax, to_uint8(batch[k].clamp(0, 1)), caption, **look)
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name, fontsize=9)
    for ax, (way, colour) in zip(axes[0], [WAYS["gained"]] * len(gained) + [WAYS["lost"]] * len(lost), strict=False):
        ax.set_title(way, color=colour)
    figure.suptitle(
        f"{task_name(task, plain.strength)}, read by {display_name(reader)}: RA corrects {len(found.gained):,} of {found.n:,} "
        f"pictures and breaks {len(found.lost):,}", fontsize=10,
    )  # fmt: skip
    note = (
        f"The first {len(gained)} and {len(lost)} in the test set's order: {len(places)} in the proportion of all that change."
    )
    return style.finish(figure, f"{note} Predictions below plain's and RA's picture; seed 0.")


def show_turned(preset: str, data_dir: str = "") -> list[Path]:
    """Draw and save what RA turns: the counts and, where pictures and weights are at hand, :func:`plot_turned` for two R's.

    Pictures that are not the package's own need ``data_dir``; figures that show them are not committed.
    """
    saved = [style.save(plot_turned_counts(preset), preset, "turned")]
    at_hand = data_dir or not dataset_of(PRESETS[preset]["dataset"]).needs_folder
    for task, strength in degradations(preset) if at_hand else ():
        runs = pair_of(preset, task, strength, data_dir=data_dir)
        files = [*map(weights_file, runs), *(predictions_file(run, "test") for run in runs)]
        files = [to_read(file) for file in files]
        if all(path.is_file() for path in files):
            pictures = load_pictures(runs[0], "test")
            for reader in two_readers(runs[0]):
                figure = plot_turned(preset, task, reader, pictures, strength, data_dir=data_dir)
                saved.append(style.save(figure, preset, f"turned_{_name_of(runs[0])}_{reader}"))
    plt.close("all")
    return [path for path in saved if path is not None]
