"""The first figure of the README: what RA does to a picture, and what it gains for each kind of reader."""

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rastudy.analysis import style
from rastudy.analysis.checks import paper_gains
from rastudy.analysis.comparisons import headline
from rastudy.analysis.tables import load_table, main_cells
from rastudy.data.degradations import to_uint8
from rastudy.errors import NothingToShow
from rastudy.evaluation.evaluate import load_pictures
from rastudy.evaluation.predictions import load_predictions, predictions_file
from rastudy.paths import to_read
from rastudy.presets import degradations, tasks_of
from rastudy.registry import TASKS, display_name, task_name, unlike_recognisers
from rastudy.report.claims import present_studies, study_name
from rastudy.report.gallery import pair_of, turned, two_readers, versions
from rastudy.transfer import tables as transfer

SHOWN = "digits"  # the preset whose pictures are shown
KINDS: dict[str, tuple[str, style.Style]] = {  # of reader: name and look
    "source": ("source", style.SOURCE),
    "mean_unseen": ("unseen, mean", style.UNSEEN),
    "families": ("other families, mean", {"color": style.PALETTE[4], "marker": "D"}),
    "black_box": ("black box", {"color": "#4d4d4d", "marker": "s"}),
}
PAPER = "ImageNet (paper)"


def gains() -> pd.DataFrame:
    """RA's gain over plain of each study, task, strength and kind of reader, with its headline interval; and the paper's."""
    paper = paper_gains().query("mode == 'ra'").replace({"role": {"unseen": "mean_unseen"}})
    paper = paper.groupby(["task", "role"])["value"].mean().reset_index().rename(columns={"role": "kind"})
    rows = [part for preset in present_studies() for part in _gains_of(preset)]
    return pd.concat([headline(pd.concat(rows)), paper.assign(preset=PAPER, strength=0.0)], ignore_index=True)


def _gains_of(preset: str) -> Iterator[pd.DataFrame]:
    """The rows of the main comparison, of the readers of other families and of black boxes on the study's own pictures."""
    rows = main_cells(load_table(preset, "gains"), preset).query("mode == 'ra'")
    yield rows[rows["role"].isin(["source", "mean_unseen"])].assign(kind=rows["role"])
    if not to_read(transfer.table_file(preset, "families")).is_file():
        yield rows[rows["target_arch"].isin(unlike_recognisers()) & (rows["role"] == "unseen")].assign(kind="families")
    for direction in ("families", "black_box"):
        if to_read(transfer.table_file(preset, direction)).is_file():
            found = transfer.load_table(preset, direction).query("mode == 'ra' and reader == 'mean' and metric == 'top1'")
            found = found[found["verdict"] != transfer.UNABLE]
            yield transfer.of_own_source(found[~found["variant"].str.contains("_on_")]).assign(kind=direction)


def plot_hero() -> Figure:
    """A row per task: pictures degraded, by plain, by RA, and original, with predictions; and gains by kind of reader."""
    style.theme("whitegrid")
    figure = plt.figure(figsize=(style.WIDTH, 4.6), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1, 1.05))
    left, right = parts
    keys, rows = [degradations(SHOWN, task)[0] for task in tasks_of(SHOWN)], gains()
    for key, line in zip(keys, left.subplots(len(keys), 4), strict=True):
        _show_pictures(line, *key, titles=key == keys[0])
    for (task, _), ax in zip(keys, right.subplots(len(keys), 1), strict=True):
        _show_gains(ax, rows[rows["task"] == task])
    ax.set_xlabel("RA's gain over plain (pp of top-1)")
    marks = [Line2D([], [], ls="", ms=4.5, label=name, **look) for name, look in KINDS.values()]
    marks.append(Line2D([], [], ls="", ms=4.5, label="the paper's", marker="o", color="#4d4d4d", mfc="white"))
    right.legend(handles=marks, loc="outside upper center", ncols=3, frameon=False, handletextpad=0.2, columnspacing=1)
    source, unseen = map(display_name, two_readers(pair_of(SHOWN, "sr")[0]))
    return style.finish(
        figure,
        f"Left: of {study_name(SHOWN)}, the first test picture that RA corrects for {source}, the "
        f"source model, and {unseen}, unseen (seed 0). Right: 95 % intervals over trainings where there are three or more, "
        f"else over pictures; n = {_counts(rows)}. On photographs the model of another family also counts in the unseen mean. "
        f"Black boxes: {_boxes(rows)}. Scales differ.",
    )


def _counts(rows: pd.DataFrame) -> str:
    """How many test pictures each study has, in words."""
    most = rows[rows["kind"] == "source"].groupby("preset", sort=False)["n_images"].max().dropna()
    return ", ".join(f"{n:,.0f} ({study_name(preset)})" for preset, n in most.items())


def _boxes(rows: pd.DataFrame) -> str:
    """The black boxes of each study, in words."""
    found = rows[rows["kind"] == "black_box"].groupby("preset", sort=False)["variant"].unique()
    return "; ".join(f"{', '.join(map(display_name, names))} ({study_name(preset)})" for preset, names in found.items())


def first_turned(task: str, strength: float) -> int:
    """The first test picture that source and unseen R both misread in plain's version and not in RA's."""
    plain, ra = pair_of(SHOWN, task, strength)
    before, after = (load_predictions(to_read(predictions_file(run, "test"))) for run in (plain, ra))
    both = reduce(np.intersect1d, [turned(before, after, reader).gained for reader in two_readers(plain)])
    if not len(both):
        raise NothingToShow(f"RA turns no picture of {SHOWN}, {task_name(task, strength)}, for both recognisers.")
    return int(both[0])


@torch.inference_mode()
def _show_pictures(axes: Sequence[Axes], task: str, strength: float, titles: bool) -> None:
    """One task's picture; the predictions of source and unseen R below plain's version and RA's."""
    plain, ra = pair_of(SHOWN, task, strength, device="cpu")
    place, pictures = first_turned(task, strength), load_pictures(plain, "test")
    label = int(pictures.labels[place])
    read = {name: load_predictions(to_read(predictions_file(run, "test"))) for name, run in (("plain", plain), ("RA", ra))}
    for ax, (name, picture) in zip(axes, versions(pictures, plain, ra, [place]).items(), strict=True):
        style.show_picture(ax, to_uint8(picture[0].clamp(0, 1)))
        ax.set_title(name if titles else "")
        lines = []
        for reader in two_readers(plain) if name in read else ():
            guess = int(read[name].arrays["top5"][read[name].targets.index(reader), place, 0])
            lines.append(style.verdict(f"{display_name(reader)}: {pictures.classes[guess]}", guess, label))
        style.say_below(ax, lines or [(f"is: {pictures.classes[label]}", {})] * (name == "original"))
    axes[0].set_ylabel(task_name(task).replace(" ", "\n", 1))


def _show_gains(ax: Axes, rows: pd.DataFrame) -> None:
    """One task: a line per study and strength, the paper's last; the kinds of reader below each other."""
    order, task = [*present_studies(), PAPER], TASKS[rows["task"].iloc[0]]
    lines = sorted(set(zip(rows["preset"], rows["strength"], strict=True)), key=lambda line: (order.index(line[0]), -line[1]))
    for y, (preset, strength) in enumerate(lines):
        here = rows[(rows["preset"] == preset) & (rows["strength"] == strength)]
        for k, (kind, (_, look)) in enumerate(KINDS.items()):
            found, mark = here[here["kind"] == kind], look | ({"mfc": "white"} if preset == PAPER else {})
            style.intervals(ax, np.full(len(found), y + 0.2 * (k - 1.5)), found, across=True, ms=4.5, **mark)
    names = [
        f"{study_name(preset)} {task.short.format(strength) if task.choices and strength else ''}" for preset, strength in lines
    ]
    style.name_lines(ax, names)
