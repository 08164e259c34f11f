"""What all figures share, and how they are saved."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rastudy.errors import NothingToShow
from rastudy.paths import root, short, write_atomic

Plotted = ParamSpec("Plotted")
MISSING = "missing"  # the gid of a figure that is a sentence
AMPLIFIED = 5  # times: the difference that is shown beside the pictures


def theme(style: str) -> None:
    """The study's look, whatever the user's own matplotlibrc says."""
    matplotlib.rcdefaults()
    sns.set_theme(style=style, context="notebook")


def says_what_is_missing(plot: Callable[Plotted, Figure]) -> Callable[Plotted, Figure]:
    """Make a figure out of a sentence where there is nothing to show; :func:`save` leaves that one out."""

    @wraps(plot)
    def drawn(*args: Plotted.args, **kwargs: Plotted.kwargs) -> Figure:
        try:
            return plot(*args, **kwargs)
        except NothingToShow as missing:
            figure = plt.figure(figsize=(9, 0.5))
            figure.text(0.01, 0.5, str(missing), va="center", fontsize=9, wrap=True)
            figure.set_gid(MISSING)
            return figure

    return drawn


def save(figure: Figure, preset: str, name: str) -> Path | None:
    """Write ``figures/<preset>/<name>.png`` and return its path relative to the checkout; None of a sentence alone."""
    if figure.get_gid() == MISSING:
        return None
    path = root() / "figures" / preset / f"{name}.png"
    # no time stamp or version: the same figure gives the same bytes
    write = lambda p: figure.savefig(p, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})  # noqa: E731
    write_atomic(path, write)
    return short(path)


def rows_of(rows: pd.DataFrame, key: tuple[str, float]) -> pd.DataFrame:
    """The rows of one degradation."""
    return rows[(rows["task"] == key[0]) & (rows["strength"] == key[1])]


def verdict_colour(guess: int, label: int) -> str:
    """Green where a prediction is right, red where it is wrong, grey where the class is unknown (-1)."""
    return "#555555" if label < 0 else "#007a33" if guess == label else "#c00000"


def show_picture(ax, picture: np.ndarray, caption: str = "", colour: str = "black") -> None:
    """Draw a picture (H, W, 3) uint8 without ticks."""
    ax.imshow(picture, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(caption, fontsize=9, color=colour, labelpad=3)
