"""What all figures share: how they are saved, and what is written below them."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rastudy.paths import root, write_atomic

AMPLIFIED = 5  # times: the difference that is shown beside the pictures


def save(figure: Figure, preset: str, name: str) -> Path:
    """Write ``figures/<preset>/<name>.png`` and return its path relative to the checkout."""
    path = root() / "figures" / preset / f"{name}.png"
    # no time stamp or version: the same figure gives the same bytes
    write = lambda p: figure.savefig(p, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})  # noqa: E731
    write_atomic(path, write)
    return path.relative_to(root())


def note(figure: Figure, rows: pd.DataFrame, what: str) -> None:
    n, groups, seeds = (int(rows[name].max()) for name in ("n_images", "n_groups", "n_seeds"))
    of = f" of {groups:,} digits" if groups != n else ""
    low = int(rows["n_seeds"].min())
    seeds = f"{seeds} seed{'s' * (seeds > 1)}" if seeds == low else f"{low} to {seeds} seeds"
    figure.text(0.5, -0.01, f"n = {n:,} test pictures{of}, {seeds}. {what}", ha="center", va="top", fontsize=9)


def rows_of(rows: pd.DataFrame, key: tuple[str, float]) -> pd.DataFrame:
    """The rows of one degradation."""
    return rows[(rows["task"] == key[0]) & (rows["strength"] == key[1])]


def show_picture(ax, picture: np.ndarray, caption: str = "", colour: str = "black") -> None:
    """Draw a picture (H, W, 3) uint8 without ticks."""
    ax.imshow(picture, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(caption, fontsize=9, color=colour, labelpad=3)
