"""Checks of the gain: controls that show what it is not, and our figures beside what others have published.

``clean_check.csv`` comes before any other table of ImageNet's: an R with other weights, another normalisation or another
order of labels reads clean pictures worse than its weights' publisher says, and no gain computed from it means anything.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torchvision

from rastudy import registry
from rastudy.analysis import comparisons
from rastudy.analysis import statistics as stats
from rastudy.analysis.comparisons import CELL, COUNTS, ESTIMATE, GAIN, UNSEEN, Cell, named
from rastudy.config import make_config
from rastudy.evaluation.predictions import read_table
from rastudy.models.pretrained import TORCHVISION_WEIGHTS
from rastudy.paths import CHECKOUT
from rastudy.presets import EQUAL_GRADIENT, PRESETS, degradations

PUBLISHED = ("task", "strength", "mode", "source_arch", "target_arch", "metric", "value", "n_images")  # of the paper's tables


class Control(NamedTuple):
    """The main RA run with one thing changed."""

    shown: str
    change: dict  # what differs from the main RA run
    baseline: str = "plain"  # what its gain is measured against


CONTROLS = {
    "ra": Control("RA", {}),
    "untrained": Control("RA, an untrained R in the loss", {"source_arch": "resnet18_small_untrained"}),
    "untrained_equal": Control(
        "RA, an untrained R, with RA's gradient in size",
        {"source_arch": "resnet18_small_untrained", "ra_weight": EQUAL_GRADIENT},
    ),
    "shuffled": Control("RA, permuted labels in the loss", {"labels": "shuffled"}),
    "constant": Control("RA, class 0 for every picture in the loss", {"labels": "constant"}),
    "half": Control("RA at half the budget, against plain at half", {"budget": 0.5}),
    "half_to_whole": Control("RA at half the budget, against plain at the whole", {"budget": 0.5}, "plain_twice"),
    "twice": Control("RA at twice the budget, against plain at twice", {"budget": 2}),
    "whole_to_twice": Control("RA against plain at twice the budget", {}, "plain_twice"),
    "one_cycle": Control("RA against plain in one cycle", {}, "plain_one_cycle"),
    "unsupervised": Control("RA unsupervised", {"mode": "ra_unsupervised"}),
    "perceptual": Control("feature loss on R", {"mode": "perceptual"}),
}
WRONG_LABELS = ("shuffled", "constant")  # a degradation without these has no study of controls
OVER_RA = ("over_ra", "over_ra_low", "over_ra_high"), ("unseen_over_ra", "unseen_over_ra_low", "unseen_over_ra_high")
CONTROL_COLUMNS = ("preset", "task", "strength", "control", "baseline", *GAIN, *UNSEEN, *OVER_RA[0], *OVER_RA[1], *COUNTS)
TOLERANCE, WHOLE = 0.1, 50_000  # points, on the whole validation set; its pictures
CHECK = ("preset", "target_arch", "target_weights", "published", *ESTIMATE, "difference", "n_images", "flag")
PAPER = ("preset", "task", "mode", "target_arch", "paper", *ESTIMATE, "difference", "difference_low", "difference_high",
         "n_seeds", "n_images")  # fmt: skip


# --- controls


def control_name(control: str) -> str:
    """The name to show."""
    return CONTROLS[control].shown


def control_rows(preset: str, gains: pd.DataFrame, cells: dict[tuple, Cell]) -> Iterator[dict]:
    """A row per degradation and control that was run: the gain of the preset's source R and of the mean unseen R.

    Intervals are over trainings where a control has enough of them, else over pictures.

    ``over_ra``, ``unseen_over_ra``: paired differences to the main RA run, seed 0, where schedule and baseline are the same.
    """
    source = PRESETS[preset]["source_arch"]
    for key in degradations(preset):
        found = {name: _rows(gains, preset, key, control) for name, control in CONTROLS.items()}
        if not any(len(found[name]) for name in WRONG_LABELS):
            continue
        for name, (_, change, baseline) in CONTROLS.items():
            rows = found[name]
            if not len(rows):
                continue
            row = {"preset": preset, "task": key[0], "strength": key[1], "control": name, "baseline": baseline}
            for names, keep in ((GAIN, rows["target_arch"] == source), (UNSEEN, rows["role"] == "mean_unseen")):
                one = rows.loc[keep].iloc[0]
                row |= named(names, one[["value", *comparisons.ends(one)]])
            if change and "budget" not in change and baseline == "plain" and len(found["ra"]):
                row |= _over_ra(cells, rows, found["ra"], source)
            yield row | {count: int(rows[count].iloc[0]) for count in COUNTS}


def _over_ra(cells: dict[tuple, Cell], control: pd.DataFrame, main: pd.DataFrame, source: str) -> dict[str, float]:
    """The paired differences of a control to the main RA run, of the source R and of the mean unseen R."""
    one, ra = (cells[tuple(rows.iloc[0][list(CELL)])].seeds([0]) for rows in (control, main))
    comparisons.check_paired(one, ra)
    unseen = [ra.targets.index(arch) for arch in main.loc[main["role"] == "unseen", "target_arch"]]
    difference = one.hits[0] - ra.hits[0]  # R N
    values = np.stack([difference[ra.targets.index(source)], difference[unseen].mean(0)], 1)
    of_source, of_unseen = stats.mean_intervals(values, one.groups, differences=True)
    return named(OVER_RA[0], of_source) | named(OVER_RA[1], of_unseen)


def _rows(gains: pd.DataFrame, preset: str, key: tuple[str, float], control: Control) -> pd.DataFrame:
    """The rows of ``gains`` of a control."""
    change = dict(control.change)
    main = make_config(preset, key[0], change.pop("mode", "ra"), strength=key[1])
    budget = change.pop("budget", 1)
    change |= {name: int(budget * getattr(main, name)) for name in ("pretrain_epochs", "epochs")}
    wanted = dict(zip(CELL, comparisons.cell_key(main.science() | change), strict=True)) | {"baseline": control.baseline}
    return gains[(gains[list(wanted)] == pd.Series(wanted)).all(axis=1)]


# --- published figures


def published_top1(arch: str) -> float | None:
    """The top-1 in percent that torchvision publishes for an architecture's IMAGENET1K_V1 weights; None of others."""
    if arch not in torchvision.models.list_models(module=torchvision.models):
        return None
    weights = torchvision.models.get_model_weights(arch)[TORCHVISION_WEIGHTS]
    return weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]


def _top1(cell: Cell, r: int) -> tuple[float, ...]:
    """Top-1 of a cell's ``r``-th R in percent, with its interval."""
    (estimate,) = stats.mean_intervals(cell.hits.mean(0)[r][:, None] / 100, cell.groups)
    return tuple(100 * x for x in estimate)


def clean_rows(preset: str, cells: dict[tuple, Cell]) -> Iterator[dict]:
    """Every R's clean top-1 beside the published one, of presets on ImageNet.

    ``flag``: ``differs`` on the whole validation set by more than ``TOLERANCE``, and on fewer pictures where the interval lies
    below the published value (``part`` where it does not: a sample, perhaps of easy classes alone); ``unpublished``.
    """
    clean = comparisons.clean_of(cells)
    if PRESETS[preset]["dataset"] != "imagenet" or clean is None:
        return
    for r, (arch, weights) in enumerate(clean.first.about["targets"].items()):
        top1, low, high = _top1(clean, r)
        known, n = published_top1(arch), clean.hits.shape[2]
        row = {"preset": preset, "target_arch": arch, "target_weights": weights, "n_images": n, "flag": "unpublished"}
        if known is not None:
            off = abs(top1 - known) > TOLERANCE if n == WHOLE else high < known
            flag = "differs" if off else "" if n == WHOLE else "part"
            row |= {"published": known, "difference": top1 - known, "flag": flag}
        yield row | named(ESTIMATE, (top1, low, high))


def warning(preset: str, table: pd.DataFrame) -> str:
    """What a reader must know before any other table, from a preset's ``clean_check.csv``; empty where nothing is wrong."""
    if PRESETS[preset]["dataset"] == "imagenet" and not len(table):
        return f"WARNING: there is no clean baseline yet; run rastudy sweep --preset {preset} --mode clean first."
    off = table[table["flag"] == "differs"]
    if not len(off):
        return ""
    pairs = zip(off["target_arch"], off["value"], off["published"], strict=True)
    found = ", ".join(f"{arch} reads {ours:.2f} % where {known:.2f} % are published" for arch, ours, known in pairs)
    return (
        f"WARNING: clean pictures are not read as published: {found} (n = {int(off['n_images'].max())}). Check the weights, "
        "the folder's labels and the validation pictures before you believe any table below."
    )


def paper_reported() -> pd.DataFrame:
    """The published tables (``results/paper_reported.csv``): the only figures that may be called the paper's."""
    path = CHECKOUT / "results" / "paper_reported.csv"
    if not path.is_file():  # an installed package
        warnings.warn("the published tables are in a clone alone (results/paper_reported.csv); left out", stacklevel=2)
        return pd.DataFrame(columns=PUBLISHED)
    return read_table(path, PUBLISHED, "git checkout results/paper_reported.csv")


def paper_gains() -> pd.DataFrame:
    """The paper's gains over plain by task, mode and R, in points, with the role of R."""
    table = paper_reported().pivot_table(index=["task", "target_arch"], columns="mode", values="value")
    gains = table.drop(columns="plain").sub(table["plain"], axis=0).stack().rename("value").reset_index()
    gains["role"] = np.where(gains["target_arch"] == "resnet18", "source", "unseen")
    return gains


def paper_rows(preset: str, cells: dict[tuple, Cell]) -> Iterator[dict]:
    """Our top-1 beside the paper's, cell by cell, where a preset has the paper's R's; the interval is ours, over pictures.

    The paper gives a figure without an interval, on the same 50,000 pictures; its own rounding is 0.05 points.
    """
    reported = paper_reported().set_index(["task", "mode", "target_arch"])["value"]
    for task, strength in degradations(preset):
        for mode in ("none", *registry.modes("paper"), "clean"):
            cell = cells.get(comparisons.main_key(preset, task, strength, mode))
            for r, arch in enumerate(cell.targets if cell else ()):
                paper = reported.get((task, mode, arch))
                if paper is None:
                    continue
                value, low, high = _top1(cell, r)
                difference = {"difference": value - paper, "difference_low": low - paper, "difference_high": high - paper}
                row = {"preset": preset, "task": task, "mode": mode, "target_arch": arch, "paper": paper}
                counts = {name: cell.counts()[name] for name in ("n_seeds", "n_images")}
                yield row | counts | named(ESTIMATE, (value, low, high)) | difference
