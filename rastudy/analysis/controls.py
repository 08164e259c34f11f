"""What RA's gain is not: the main RA run with one thing changed, against the baseline that tells."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rastudy.analysis.comparisons import CELL, COUNTS, ESTIMATE, GAIN, UNSEEN, Cell, cell_key, check_paired
from rastudy.analysis.statistics import mean_intervals
from rastudy.config import make_config
from rastudy.presets import PRESETS, degradations

CONTROLS = {  # name: what is shown, what differs from the main RA run, and the baseline
    "ra": ("RA", {}, "plain"),
    "untrained": ("RA, an untrained R in the loss", {"source_arch": "resnet18_small_untrained"}, "plain"),
    "shuffled": ("RA, permuted labels in the loss", {"labels": "shuffled"}, "plain"),
    "constant": ("RA, class 0 for every picture in the loss", {"labels": "constant"}, "plain"),
    "half": ("RA at half the budget, against plain at half", {"budget": 0.5}, "plain"),
    "half_to_whole": ("RA at half the budget, against plain at the whole", {"budget": 0.5}, "plain_twice"),
    "twice": ("RA at twice the budget, against plain at twice", {"budget": 2}, "plain"),
    "whole_to_twice": ("RA against plain at twice the budget", {}, "plain_twice"),
    "one_cycle": ("RA against plain in one cycle", {}, "plain_one_cycle"),
    "unsupervised": ("RA unsupervised", {"mode": "ra_unsupervised"}, "plain"),
    "perceptual": ("perceptual loss of R's features", {"mode": "perceptual"}, "plain"),
}
WRONG_LABELS = ("shuffled", "constant")  # a degradation without these has no study of controls
OVER_RA = ("over_ra", "over_ra_low", "over_ra_high"), ("unseen_over_ra", "unseen_over_ra_low", "unseen_over_ra_high")
COLUMNS = ("preset", "task", "strength", "control", "baseline", *GAIN, *UNSEEN, *OVER_RA[0], *OVER_RA[1], *COUNTS)


def control_name(control: str) -> str:
    """The name to show."""
    return CONTROLS[control][0]


def control_rows(preset: str, gains: pd.DataFrame, cells: dict[tuple, Cell]) -> Iterator[dict]:
    """A row per degradation and control that was run: the gain of the preset's source R and of the mean unseen R.

    ``over_ra``, ``unseen_over_ra``: paired differences to the main RA run, seed 0, where schedule and baseline are its own.

    Args:
        gains: rows of ``gains.csv``.
        cells: what they come from.
    """
    source = PRESETS[preset]["source_arch"]
    for key in degradations(preset):
        found = {name: _rows(gains, preset, key, change, baseline) for name, (_, change, baseline) in CONTROLS.items()}
        if not any(len(found[name]) for name in WRONG_LABELS):
            continue
        for name, (_, change, baseline) in CONTROLS.items():
            cell = found[name]
            if not len(cell):
                continue
            row = {"preset": preset, "task": key[0], "strength": key[1], "control": name, "baseline": baseline}
            for names, keep in ((GAIN, cell["target_arch"] == source), (UNSEEN, cell["role"] == "mean_unseen")):
                row |= dict(zip(names, cell.loc[keep, list(ESTIMATE)].iloc[0], strict=True))
            if change and "budget" not in change and baseline == "plain" and len(found["ra"]):
                row |= _over_ra(cells, cell, found["ra"], source)
            yield row | {name: int(cell[name].iloc[0]) for name in COUNTS}


def _over_ra(cells: dict[tuple, Cell], control: pd.DataFrame, main: pd.DataFrame, source: str) -> dict[str, float]:
    """The paired differences of a control to the main RA run, of the source R and of the mean unseen R."""
    one, ra = (cells[tuple(rows.iloc[0][list(CELL)])].seeds([0]) for rows in (control, main))
    check_paired(one, ra)
    unseen = [ra.targets.index(arch) for arch in main.loc[main["role"] == "unseen", "target_arch"]]
    difference = one.hits[0] - ra.hits[0]  # R N
    values = np.stack([difference[ra.targets.index(source)], difference[unseen].mean(0)], 1)
    estimates = mean_intervals(values, one.groups, differences=True)
    return dict(zip(OVER_RA[0] + OVER_RA[1], estimates[0] + estimates[1], strict=True))


def _rows(gains: pd.DataFrame, preset: str, key: tuple[str, float], change: dict, baseline: str) -> pd.DataFrame:
    """The rows of ``gains`` of the run that differs from the main RA run by ``change``."""
    change = dict(change)
    main = make_config(preset, key[0], change.pop("mode", "ra"), strength=key[1])
    budget = change.pop("budget", 1)
    change |= {name: int(budget * getattr(main, name)) for name in ("pretrain_epochs", "epochs")}
    wanted = dict(zip(CELL, cell_key(main.science() | change), strict=True)) | {"baseline": baseline}
    return gains[(gains[list(wanted)] == pd.Series(wanted)).all(axis=1)]
