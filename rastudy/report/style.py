"""What the report's figures share: values with intervals, the look of modes and roles, and what they rest on, in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rastudy import registry
from rastudy.analysis.comparisons import ESTIMATE
from rastudy.analysis.style import rows_of
from rastudy.errors import NothingToShow
from rastudy.presets import degradations

Degradation = tuple[str, float]  # task and strength
Style = dict[str, Any]  # matplotlib's settings
SOURCE: Style = {"color": "#d55e00", "marker": "^"}  # of the R in the loss
UNSEEN: Style = {"color": "#0072b2", "marker": "o"}  # of the others


def degradations_in(rows: pd.DataFrame, preset: str) -> list[Degradation]:
    """The preset's degradations that a table has rows of; StudyError where there is none."""
    keys = [key for key in degradations(preset) if len(rows_of(rows, key))]
    if not keys:
        raise NothingToShow(
            f"Nothing to draw yet: results/{preset} has no run of this kind with the preset's own settings; rastudy sweep "
            f"--preset {preset} makes them."
        )
    return keys


def look_of(mode: str) -> Style:
    """A mode's colour and marker."""
    return {"color": registry.MODES[mode].colour, "marker": registry.MODES[mode].marker}


def intervals(
    ax: Axes, places: Any, rows: pd.DataFrame | pd.Series, names: Sequence[str] = ESTIMATE, across: bool = False, **look: Any
) -> None:
    """Points with their intervals.

    Args:
        places: where each row is drawn, on the x axis; with ``across`` on the y axis, and values go along x.
        rows: a row per point, or one row.
        names: the columns of value, lower and upper end.
    """
    value, low, high = (np.atleast_1d(rows[name]) for name in names)
    error, places = [value - low, high - value], np.atleast_1d(places)
    if across:
        ax.errorbar(value, places, xerr=error, **{"ls": ""} | look)
    else:
        ax.errorbar(places, value, yerr=error, **{"ls": ""} | look)


def sample(rows: pd.DataFrame, split: str = "test") -> tuple[str, str]:
    """What figures rest on, in words: ``2,500 test pictures of 500 digits`` and ``1 to 3 trainings``."""
    least, n, groups = int(rows["n_images"].min()), int(rows["n_images"].max()), int(rows["n_groups"].max())
    of = f" of {groups:,} digits" if groups != n else ""
    low, high = (int(end) for end in (rows["n_seeds"].min(), rows["n_seeds"].max()))
    trainings = f"{high} training{'s' * (high > 1)}" if low == high else f"{low} to {high} trainings"
    many = f"{n:,}" if least == n else f"{least:,} to {n:,}"
    return f"{many} {split} pictures{of}".replace("  ", " "), trainings
