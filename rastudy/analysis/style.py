"""What all figures share, and how they are saved."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rastudy.paths import root, write_atomic

AMPLIFIED = 5  # times: the difference that is shown beside the pictures


def theme(style: str) -> None:
    """The study's look, whatever the user's own matplotlibrc says."""
    matplotlib.rcdefaults()
    sns.set_theme(style=style, context="notebook")


def save(figure: Figure, preset: str, name: str) -> Path:
    """Write ``figures/<preset>/<name>.png`` and return its path relative to the checkout."""
    path = root() / "figures" / preset / f"{name}.png"
    # no time stamp or version: the same figure gives the same bytes
    write = lambda p: figure.savefig(p, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})  # noqa: E731
    write_atomic(path, write)
    return path.relative_to(root())


def rows_of(rows: pd.DataFrame, key: tuple[str, float]) -> pd.DataFrame:
    """The rows of one degradation."""
    return rows[(rows["task"] == key[0]) & (rows["strength"] == key[1])]


def show_picture(ax, picture: np.ndarray, caption: str = "", colour: str = "black") -> None:
    """Draw a picture (H, W, 3) uint8 without ticks."""
    ax.imshow(picture, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(caption, fontsize=9, color=colour, labelpad=3)
