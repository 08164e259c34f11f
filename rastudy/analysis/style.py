"""What all figures share: their width, the look of recognisers, modes and verdicts, intervals, and how they are saved."""

import hashlib
import io
import json
import math
import textwrap
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from PIL import Image, PngImagePlugin

from rastudy.analysis.comparisons import ESTIMATE
from rastudy.errors import NothingToShow
from rastudy.paths import root, short, write_atomic
from rastudy.presets import degradations
from rastudy.registry import MODES, RECOGNISERS, TASKS, is_variant, small_arch

Plotted = ParamSpec("Plotted")
Degradation = tuple[str, float]  # task and strength
Style = dict[str, Any]  # matplotlib's settings
MISSING = "missing"  # the gid of a figure that is a sentence
SAYS = "says"  # the PNG text that holds a figure's digest
AMPLIFIED = 5  # times: the difference that is shown beside the pictures
WIDTH, DPI = 8.4, 200  # of every figure, in inches, and its pixels: 1,680, twice what a README shows
SMALL = 7.5  # points, the smallest text: 10 pixels where a README shows the figure 840 wide
LINE, NAME = 134, 44  # letters of a note, and of a line's name, which goes on below
RIGHT, WRONG, UNKNOWN = "#005a96", "#b84a00", "#555555"  # verdicts; never told apart by colour alone
COLOURS, SEEN = 256, 16  # of a palette; levels of 255 that one pixel in 1,000 may be off by
PALETTE = sns.color_palette("colorblind", 10)
SOURCE: Style = {"color": "#d55e00", "marker": "^"}  # of the R in the loss
UNSEEN: Style = {"color": "#0072b2", "marker": "o"}  # of the others
LINES, MARKERS = ("-", "-.", ":"), "osD^vPX*<>"  # with the colour they tell recognisers apart
FAMILIES = [name for name in RECOGNISERS if f"{name}_small" not in RECOGNISERS]  # torchvision's five look as ours


def theme(style: str) -> None:
    """The study's look, whatever the user's own matplotlibrc says."""
    matplotlib.rcdefaults()
    sns.set_theme(style=style, context="paper")


def panels(rows: int, columns: int, height: float, style: str = "whitegrid", **settings: Any) -> tuple[Figure, Any]:
    """A figure as wide as all, ``height`` inches high, and its axes, always (rows, columns)."""
    theme(style)
    return plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained", **settings)


def square(count: int, height: float, columns: int = 2, **settings: Any) -> tuple[Figure, list[Axes], Axes | None]:
    """A figure of ``count`` panels in rows of ``columns``, ``height`` inches each; and the first place left over, if any."""
    rows = math.ceil(count / columns)
    figure, axes = panels(rows, min(count, columns), height * rows, **settings)
    shown, spare = list(axes.flat[:count]), list(axes.flat[count:])
    for ax in spare:
        ax.set_axis_off()
    return figure, shown, spare[0] if spare else None


def finish(figure: Figure, note: str = "", legend: Axes | None = None, spare: Axes | None = None, columns: int = 6) -> Figure:
    """Draw a panel's legend, above the panels or in the place that is left over, and write the note below them."""
    if legend is not None:
        handles, labels = legend.get_legend_handles_labels()
        if spare is not None:
            spare.legend(handles, labels, loc="center", frameon=False)
        else:
            figure.legend(handles, labels, loc="outside upper center", ncols=min(columns, len(labels)), frameon=False)
    note = note.replace(" %", "\u00a0%")  # no line ends between a number and its sign
    lines = math.ceil(len(note) / LINE)  # of about the same length
    figure.supxlabel(textwrap.fill(note, math.ceil(len(note) / max(lines, 1)) + 8, break_on_hyphens=False), fontsize=SMALL)
    return figure


def heatmap(ax: Axes, values: pd.DataFrame, texts: pd.DataFrame | None = None, fmt: str = "", **look: Any) -> None:
    """A coloured table with a text in each cell: the value or that of ``texts``, black or white, as is read better."""
    numbers = values.to_numpy(float)
    sns.heatmap(numbers, annot=numbers if texts is None else texts, fmt=fmt, ax=ax, linewidths=1, linecolor="white",
                xticklabels=values.columns, yticklabels=values.index, **{"annot_kws": {"size": SMALL}} | look)  # fmt: skip
    colours = np.reshape(ax.collections[0].get_facecolor(), (*numbers.shape, 4))
    for text in ax.texts:
        column, row = (int(place) for place in text.get_position())
        text.set_color(ink(colours[row, column]))


def ink(colour: Any) -> str:
    """The colour of a text on this one: the one of black and white that contrasts more (WCAG 2)."""
    rgb = np.asarray(colour[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "white"


def two_lines(task: str, strength: float) -> str:
    """A degradation's name for a narrow panel."""
    return f"{TASKS[task].shown}\n{TASKS[task].long.format(strength)}"


def look_of_reader(arch: str) -> dict[str, Any]:
    """A recogniser's colour, line and marker, the same in all figures: by its place in the registry; a variant's is dashed."""
    own = small_arch(arch) or (f"{arch}_small" if f"{arch}_small" in RECOGNISERS else arch)
    place = FAMILIES.index(own) if own in FAMILIES else zlib.crc32(own.encode())
    line = "--" if is_variant(arch) else LINES[place // len(PALETTE) % len(LINES)]
    return {"color": PALETTE[place % len(PALETTE)], "ls": line, "marker": MARKERS[place % len(MARKERS)]}


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
    write(figure, path)
    return short(path)


def save_each(preset: str, plots: Iterable[tuple[str, Callable[[], Figure]]]) -> list[Path | None]:
    """Draw and :func:`save` figures by name, one at a time."""
    paths = []
    for name, plot in plots:
        paths.append(save(plot(), preset, name))
        plt.close("all")
    return paths


def write(figure: Figure, path: Path) -> None:
    """Write a figure as PNG with a digest of what it says; a file with the same pixels and digest stays as it is."""
    said, picture = digest(figure), rendered(figure)
    if digest_in(path) != said or not _shows(path, picture):
        info = PngImagePlugin.PngInfo()
        info.add_text(SAYS, said)
        write_atomic(path, lambda p: picture.save(p, format="PNG", optimize=True, pnginfo=info))


def digest(figure: Figure) -> str:
    """Of a figure's words and of the numbers that it draws, to four digits: whatever draws it, and however it looks."""
    words, numbers = [text.get_text() for text in figure.texts], list[Any]()
    for ax in figure.axes:
        legend = ax.get_legend()
        named = [axis for axis in (ax.xaxis, ax.yaxis) if isinstance(axis.get_major_locator(), FixedLocator)]
        texts = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts, *(legend.get_texts() if legend else ())]
        words += [text.get_text() for text in (*texts, *(tick for axis in named for tick in axis.get_ticklabels()))]
        numbers += [line.get_xydata() for line in ax.lines] + [picture.get_array() for picture in ax.images]
        numbers += [patch.get_path().transformed(patch.get_patch_transform()).vertices for patch in ax.patches]
        for drawn in ax.collections:
            numbers += [drawn.get_array(), drawn.get_offsets(), *(path.vertices for path in drawn.get_paths())]
    values: list[np.ndarray] = [np.ma.filled(np.ma.asarray(one, float), np.nan).ravel() for one in numbers if one is not None]
    said = json.dumps([words, [[f"{value:.4g}" for value in one] for one in values]])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def digest_in(path: Path) -> str:
    """The digest in a figure's file; empty where there is none."""
    try:
        with Image.open(path) as file:
            return str(file.info.get(SAYS, ""))
    except OSError:  # missing or damaged
        return ""


def rendered(figure: Figure) -> Image.Image:
    """A figure's pixels, in a palette where that cannot be seen."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.05)
    picture = Image.open(buffer).convert("RGB")
    few = picture.quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)
    off = np.abs(np.asarray(few.convert("RGB"), int) - np.asarray(picture, int)).max(2)
    return few if np.quantile(off, 0.999) <= SEEN else picture


def _shows(path: Path, picture: Image.Image) -> bool:
    """Whether a file shows exactly this picture."""
    try:
        with Image.open(path) as file:
            return np.array_equal(np.asarray(file.convert("RGB")), np.asarray(picture.convert("RGB")))
    except OSError:  # missing or damaged
        return False


def rows_of(rows: pd.DataFrame, key: tuple[str, float]) -> pd.DataFrame:
    """The rows of one degradation."""
    return rows[(rows["task"] == key[0]) & (rows["strength"] == key[1])]


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
    return {"color": MODES[mode].colour, "marker": MODES[mode].marker}


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


def name_lines(ax: Axes, names: Sequence[str]) -> None:
    """The names of a panel's lines from top to bottom, and a line at 0."""
    ax.set_yticks(range(len(names)), [textwrap.fill(name, NAME, break_on_hyphens=False) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.axvline(0, color="black", lw=1)
    ax.grid(axis="y", visible=False)


def sample(rows: pd.DataFrame, split: str = "test") -> tuple[str, str]:
    """What figures rest on, in words: ``2,500 test pictures of 500 digits`` and ``1 to 3 trainings``."""
    n, seeds, groups = span(rows["n_images"]), span(rows["n_seeds"]), rows["n_groups"].max()
    of = f" of {groups:,.0f} digits" if groups != rows["n_images"].max() else ""
    return f"{n} {split} pictures{of}".replace("  ", " "), f"{seeds} training{'s' * (seeds != '1')}"


def span(counts: pd.Series) -> str:
    """The least and the most, or the one number that all are."""
    low, high = counts.min(), counts.max()
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def verdict(said: str, guess: int, label: int) -> tuple[str, dict[str, Any]]:
    """The words for a prediction, and their look: a check mark where it is right, a cross and bold where it is wrong.

    Without either where the class is unknown (-1).
    """
    if label < 0:
        return said, {"color": UNKNOWN}
    return (f"{said} \u2713", {"color": RIGHT}) if guess == label else (f"{said} \u2717", {"color": WRONG, "weight": "bold"})


def say_below(ax: Axes, lines: Sequence[tuple[str, dict[str, Any]]], size: float = SMALL) -> None:
    """Write lines, words and their look, below a picture."""
    for k, (words, look) in enumerate(lines):
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "center"}
        ax.annotate(words, (0.5, 0), (0, -6 - 1.35 * size * k), fontsize=size, **place, **look)


def show_picture(ax: Axes, picture: np.ndarray, caption: str = "", **look: Any) -> None:
    """Draw a picture (H, W, 3) uint8 without ticks."""
    ax.imshow(picture, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(caption, fontsize=9, labelpad=3, **look)
