"""What notebooks show besides the study's figures: tables with intervals beside values, and small figures."""

import os
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_images

from rastudy import registry
from rastudy.analysis import statistics as stats
from rastudy.analysis import style
from rastudy.analysis.comparisons import paired, targets_by_role, weight_grid
from rastudy.analysis.tables import own_cells, shown_table
from rastudy.config import Config
from rastudy.data.loaders import load_pictures
from rastudy.evaluation.metrics import psnr
from rastudy.evaluation.predictions import load_predictions, predictions_file
from rastudy.models.classifiers import Classifier
from rastudy.paths import BATCH, expand, short
from rastudy.presets import PRESETS
from rastudy.registry import MODES, display_name, mode_name, names_in, short_name, source_names
from rastudy.report.figures import RING
from rastudy.report.words import said as with_interval
from rastudy.restore.image_io import open_picture
from rastudy.restore.restore import files_of as files_of_folder
from rastudy.training.weights import weights_files

NAMES: dict[str, Callable[[str], str]] = {
    "mode": mode_name, "target_arch": display_name, "reader": display_name,
    "source_arch": lambda spec: ", ".join(map(display_name, source_names(spec) or [spec])),
}  # fmt: skip
HEADINGS = {
    "target_arch": "target model", "source_arch": "source model", "p_holm": "p (Holm)", "n_pairs": "pairs",
    "n_seeds": "trainings", "within_seeds": "trainings of their own",
    "n_images": "pictures", "psnr_change": "PSNR change (dB)", "psnr": "PSNR (dB)", "clean": "clean (%)",
}  # fmt: skip
FORMATS = {"p": ".3f", "p_holm": ".3f", "rho": "+.2f", "psnr": ".2f", "psnr_change": "+.2f", "clean": ".1f", "stability": ".0f"}
CROSSING = RING | {"ms": 11, "ls": ""}  # around a boundary
LOWEST, FURTHEST = -4, 1.1  # percentage points and decibels: what costs more is outside the figure


def table(
    rows: pd.DataFrame, columns: Sequence[str], estimates: Mapping[str, Sequence[str]] | None = None, digits: int = 1,
    sign: str = "+", index: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Columns of a table under the names that people read, and estimates as ``+2.5 [1.9, 3.2]``, empty where there is none.

    Args:
        columns: ``task`` becomes task and strength where it is known; numbers have few digits (``FORMATS``).
        estimates: heading to the columns of value, lower and upper end.
        index: so many of the first columns name the rows.
    """
    found: dict[str, list] = {}
    for name in columns:
        if name == "task" and "strength" in rows:
            found[name] = [_whole(short_name(*key)) for key in zip(rows["task"], rows["strength"], strict=True)]
        else:
            found[HEADINGS.get(name, name.replace("_", " "))] = [_shown(name, value) for value in rows[name]]
    for heading, names in (estimates or {}).items():
        found[heading] = [with_interval(row, names, digits, sign) for row in rows.to_dict("records")]
    return pd.DataFrame(found).set_index(list(found)[:index])


def accuracy_table(preset: str, modes: Sequence[str] = tuple(MODES)) -> pd.DataFrame:
    """The main table (:func:`rastudy.analysis.tables.shown_table`) of some modes, under the names that people read."""
    found = shown_table(preset)
    found = found[found.index.get_level_values("mode").isin(modes)]
    tasks, named = ([one(name) for name in found.index.get_level_values(k)] for k, one in enumerate((_whole, mode_name)))
    return found.set_axis(pd.MultiIndex.from_arrays([tasks, named], names=("task", "pictures")))


def _whole(text: str) -> str:
    """The text with spaces and minus signs at which no line is broken."""
    return text.replace(" ", "\u00a0").replace("-", "\u2212")


def _shown(name: str, value: Any) -> Any:
    if name in NAMES:
        return NAMES[name](value)
    if isinstance(value, float):
        if np.isnan(value) or np.isinf(value):
            return "" if np.isnan(value) else "out of reach"
        return "< 0.001" if name in ("p", "p_holm") and value < 0.001 else f"{value:{FORMATS.get(name, '.3g')}}"
    return value


def section(title: str, says: str, *shown: pd.DataFrame | Figure | None) -> None:
    """A heading, a text, and what they are about: tables and figures. Nothing at all where all of these are empty."""
    kept = [one for one in shown if not _is_empty(one)]
    for one in shown:
        if isinstance(one, Figure):
            plt.close(one)  # else it is shown again at the cell's end
    if kept:
        display(Markdown(f"## {title}\n\n{says}"), *kept)


def _is_empty(one: pd.DataFrame | Figure | None) -> bool:
    return one is None or (one.get_gid() == style.MISSING if isinstance(one, Figure) else one.empty)


@contextmanager
def ticking(what: str, every: float = 5.0) -> Iterator[None]:
    """Say in one line, kept up to date, for how long something has been going on; silent where nobody watches."""
    if os.environ.get(BATCH):
        yield
        return
    line, over, started = display(Markdown(f"{what} ..."), display_id=True), threading.Event(), time.monotonic()

    def tick() -> None:
        while not over.wait(every):
            line.update(Markdown(f"{what} ... {time.monotonic() - started:.0f} s"))

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        line.update(Markdown(f"{what}: {time.monotonic() - started:.0f} s"))


def files_written(files: Sequence[Path | None]) -> None:
    """A line per file; figures that were sentences alone have none."""
    print(*dict.fromkeys(str(path) for path in files if path is not None), sep="\n")


def files_of(config: Config, splits: str) -> list[Path]:
    """What a run has written: weights and predictions."""
    read = [predictions_file(config, split) for split in names_in(splits)]
    return [short(path) for path in (*weights_files(config), *read) if path.is_file()]


def no_pictures(config: Config) -> str:
    """The sentence in the place of pictures that may not be published; empty where they may."""
    data = registry.dataset_of(config.dataset)
    return "" if data.may_show or data.photographs else f"No picture is shown: those of {data.shown} may not be published here."


# --- pictures


def plot_pictures(versions: Mapping[str, Sequence[np.ndarray]], says: Mapping[str, Sequence[str]] | None = None) -> Figure:
    """A column per version, a row per picture (H, W, 3) uint8; ``says``: a version's captions, a text per picture."""
    captions, rows = says or {}, len(next(iter(versions.values())))
    lines = 1 + max((text.count("\n") + 1 for texts in captions.values() for text in texts), default=0)
    figure, axes = style.panels(rows, len(versions), rows * (6.4 / max(len(versions), 4) + 0.13 * lines), "white")
    for (name, pictures), column in zip(versions.items(), axes.T, strict=True):
        for ax, picture, caption in zip(column, pictures, captions.get(name, [""] * rows), strict=True):
            style.show_picture(ax, picture, caption)
        column[0].set_title(name)
    return figure


def clean_pictures(config: Config, place: str = "", count: int = 4) -> dict[str, Image.Image]:
    """The first clean pictures by name: of a file or folder; without one test pictures, or scikit-learn's photographs."""
    if place:
        return {path.name: open_picture(path)[0] for path in files_of_folder(expand(place))[:count]}
    if registry.dataset_of(config.dataset).may_show:
        found = load_pictures(config, "test")
        names = [f"picture {k}: {found.classes[label]}" for k, label in enumerate(found.labels[:count])]
        return {name: Image.fromarray(found.pictures[k]) for k, name in enumerate(names)}
    data = load_sample_images()
    photographs = zip(data.filenames[:count], data.images, strict=False)
    return {Path(name).name: Image.fromarray(photo) for name, photo in photographs}


def plot_compared(
    versions: Mapping[str, Mapping[str, Image.Image]], said: Mapping[str, Mapping[str, list[tuple[str, float]]]],
    readers: Sequence[Classifier],
) -> Figure:  # fmt: skip
    """A row per picture, a column per version of it, below each what every R says.

    ``versions``: by picture, of :func:`rastudy.restore.restore.compare`; ``said``: of ``verdicts_of`` there.
    """
    first = next(iter(versions.values()))
    titles = {name: mode_name(name) if name in MODES else name for name in first}
    columns = {title: [np.asarray(one[name]) for one in versions.values()] for name, title in titles.items()}
    line = lambda r, name, p: textwrap.fill(f"{display_name(readers[r].name)}: {name} ({100 * p:.0f} %)", 26)  # noqa: E731
    text = lambda found: "\n".join(line(r, *one) for r, one in enumerate(found))  # noqa: E731
    figure = plot_pictures(columns, {title: [text(one[name]) for one in said.values()] for name, title in titles.items()})
    for ax, name in zip(figure.axes[:: len(columns)], versions, strict=True):
        ax.set_ylabel(name)
    return figure


# --- one run


def plot_loss(curves: Sequence[Sequence[Mapping[str, float]]]) -> Figure:
    """Training curves, those of what a run starts from first: image and recognition loss against the pictures seen."""
    figure, axes = style.panels(1, 2, 2.6)
    for ax, name in zip(axes[0], ("image_loss", "recognition_loss"), strict=True):
        seen = 0.0
        for k, curve in enumerate(curves):
            own = k == len(curves) - 1
            points = [(seen + row["images"], row[name]) for row in curve if row[name]]
            x, y = np.array(points).reshape(-1, 2).T
            ax.plot(x / 1000, y, color="#0072b2" if own else "#808080", label="this run" if own else "shared pretraining")
            seen += curve[-1]["images"] if curve else 0
        ax.set(xlabel="thousand pictures seen", ylabel=name.replace("_", " "))
    axes[0, 0].set_yscale("log")
    return style.finish(figure, "Means between the points.", axes[0, 0])


def run_table(config: Config, splits: str) -> pd.DataFrame:
    """A run's top-1 of every R (%), PSNR and SSIM, beside those of no processing, plain and clean where they are here.

    The last row of a split is the gain over plain with its 95 % interval over pictures, in percentage points.
    """
    rows: list[dict[str, Any]] = []
    for split in names_in(splits):
        runs = {run.run_id: run for run in (*(replace(config, mode=mode) for mode in ("none", "plain", "clean")), config)}
        order = sorted(runs.values(), key=lambda run: (run.mode == "clean", run.mode == config.mode))
        files = {run.mode: predictions_file(run, split) for run in order}
        found = {mode: load_predictions(path) for mode, path in files.items() if path.is_file()}
        for mode, run in found.items():
            row = {display_name(arch): f"{100 * hits.mean():.1f}" for arch, hits in zip(run.targets, run.hits(), strict=True)}
            quality = mode != "clean"
            row["PSNR"] = f"{psnr(run.arrays['mse']).mean():.2f}" if quality else ""
            row["SSIM"] = f"{run.arrays['ssim'].mean():.3f}" if quality else ""
            rows.append({"split": split, "pictures": mode_name(mode)} | row)
        plain, mine = found.get("plain"), found.get(config.mode)
        if MODES[config.mode].has_source and plain and mine and plain.about["data"] == mine.about["data"]:
            gains = 100.0 * (mine.hits().T.astype(float) - plain.hits().T)  # N R
            estimates = stats.mean_intervals(gains, stats.Groups(mine.arrays["group"]), differences=True)
            texts = [with_interval(one._asdict()) for one in estimates]
            row = dict(zip(map(display_name, mine.targets), texts, strict=True))
            row["PSNR"] = f"{psnr(mine.arrays['mse']).mean() - psnr(plain.arrays['mse']).mean():+.2f}"
            rows.append({"split": split, "pictures": "gain over plain"} | row)
    return pd.DataFrame(rows).fillna("").set_index(["split", "pictures"]) if rows else pd.DataFrame()


# --- one picture, and the boundary


def plot_margins(t: np.ndarray, margins: Mapping[tuple[str, str], np.ndarray]) -> Figure:
    """How sure R's are of the true class along directions from plain's picture: a panel per R, a line per direction.

    Args:
        t: (T,) distance in RA steps.
        margins: (R, direction) to (T,): the true class's probability minus the largest other; the boundary is where it is 0.
    """
    readers = list(dict.fromkeys(reader for reader, _ in margins))
    figure, axes = style.panels(1, len(readers), 2.7, sharey=True)
    looks = dict(zip(dict.fromkeys(along for _, along in margins), (("#d55e00", "-"), ("#808080", "--")), strict=False))
    for reader, ax in zip(readers, axes[0], strict=True):
        for along, (colour, line) in looks.items():
            margin = margins[reader, along]
            crossed = np.flatnonzero(np.diff(margin > 0))
            ax.plot(t, margin, color=colour, ls=line, label=along)
            ax.plot((t[crossed] + t[crossed + 1]) / 2, np.zeros(len(crossed)), **CROSSING)
        ax.axhline(0, color="black", lw=1)
        ax.axvline(1, color="#808080", lw=1, ls=":")
        ax.set(title=display_name(reader), xlabel="distance from plain's picture (RA steps)")
    axes[0, 0].set_ylabel("margin of the true class")
    axes[0, 0].plot([], [], label="boundary", **CROSSING)
    return style.finish(figure, "Dotted: RA's picture. Above 0 the true class is read.", axes[0, 0])


# --- the choice of a weight


def tried_weights(preset: str) -> pd.DataFrame:
    """The grid of weights (of T: of its learning rates) on validation, seed 0, a row per R that reads.

    ``gain`` over plain in percentage points with its standard ``error`` (of the bootstrap), ``db_lost`` of plain's PSNR.
    """
    rows = []
    for cell, change, gain in weight_grid(paired(own_cells(preset, "val"))):
        errors = cell.groups.bootstrap_each(gain).std(0)
        base = {name: cell.settings.get(name, 0.0) for name in ("task", "strength", "mode", "ra_weight", "transformer_lr")}
        for role in ("source", "unseen"):
            for r in targets_by_role(cell)[role]:
                found = {"gain": round(gain[:, r].mean(), 9), "error": errors[r], "db_lost": -change}
                rows.append(base | {"reader": cell.targets[r], "role": role} | found)
    return pd.DataFrame(rows)


def plot_cost(tried: pd.DataFrame, chosen: pd.DataFrame, preset: str) -> Figure:
    """Gain against decibels lost, a curve per reader through the weights (:func:`tried_weights`), ``chosen`` ones ringed."""
    tried = tried[~tried["mode"].map(lambda mode: MODES[mode].has_transformer)]  # T leaves P's picture as it is
    modes, keys = [mode for mode in MODES if mode in set(tried["mode"])], style.degradations_in(tried, preset)
    figure, axes = style.panels(len(modes), len(keys), 2.3 * len(modes), sharey="row")
    for mode, line in zip(modes, axes, strict=True):
        gains = tried.loc[tried["mode"] == mode, "gain"]
        line[0].set_ylim(max(LOWEST, gains.min() - 0.5), gains.max() + 1)
        for key, ax in zip(keys, line, strict=True):
            here, ringed = (style.rows_of(rows[rows["mode"] == mode], key) for rows in (tried, chosen))
            for reader, curve in here.sort_values("ra_weight").groupby("reader", sort=False):
                look = style.look_of_reader(reader) | {"lw": 2.2 if curve["role"].iloc[0] == "source" else 1.0, "ms": 3.5}
                ax.plot(curve["db_lost"], curve["gain"], label=display_name(reader), **look)
            ax.plot(ringed["db_lost"], ringed["gain"], **RING | {"ms": 8, "ls": ""})
            ax.axhline(0, color="black", lw=1)
            ax.set_title(f"{mode_name(mode)}\n{short_name(*key)}")
            ax.set_xlim(right=min(FURTHEST, here["db_lost"].max() + 0.05) if len(here) else None)
        line[0].set_ylabel("gain (pp)")
    for ax in axes[-1]:
        ax.set_xlabel("PSNR lost (dB)")
    source = display_name(PRESETS[preset]["source_arch"])
    note = f"Validation, one seed. A point is a weight; ringed: the chosen one. Thick: {source}, the source model."
    note += " What costs far more is outside."
    return style.finish(figure, note, axes[0, 0])
