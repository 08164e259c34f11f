"""Judgements (:mod:`rastudy.judge`) in words, as tables and figures."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rastudy.analysis import style
from rastudy.analysis.comparisons import GAIN
from rastudy.analysis.judged import COLUMNS, UNSEEN
from rastudy.errors import NothingToShow
from rastudy.evaluation.predictions import read_table
from rastudy.paths import results_folder, to_read
from rastudy.presets import PRESETS
from rastudy.registry import MODES, TASKS, display_name, mode_name, short_name
from rastudy.report.claims import interval

SHOWN = {
    "none": "no processing", "lanczos": "Lanczos", "unsharp": "unsharp masking", "median": "median", "nl_means": "NL means",
    "tv": "total variation", "wavelet": "wavelets", "bm3d": "BM3D",
}  # fmt: skip
OF_OTHERS = {"realesrgan_x4plus": "Real-ESRGAN x4plus", "realesr_animevideo_x4": "Real-ESRGAN animevideo"}  # folders
NAMES_APART = 0.075  # of a panel's height
LONGEST = 26  # characters of a line of a name


def restorer_name(name: str) -> str:
    """The name to show: of a mode the study's, with its sources where they are not the preset's; ``blind RA``."""
    first, _, rest = name.partition(":")
    if first in TASKS:
        return f"{first} {restorer_name(rest)}"
    mode, _, sources = name.partition(":")
    if mode in MODES and mode not in SHOWN:
        return mode_name(mode) + (f" ({' + '.join(map(display_name, sources.split(',')))})" if sources else "")
    return (SHOWN | OF_OTHERS).get(name, name)


def wide(found: pd.DataFrame) -> tuple[list[list[str]], list[str]]:
    """A row per restorer: PSNR, SSIM, top-1's change by each recogniser (of the reference top-1), what a point costs."""
    readers = sorted(found["reader"].unique(), key=lambda name: name != UNSEEN)  # the mean first
    sources = set(found.loc[found["role"] == "source", "reader"])
    header = ["restorer", "PSNR (dB)", "SSIM", *(display_name(name) + " (source)" * (name in sources) for name in readers),
              "dB per pp"]  # fmt: skip
    rows = []
    for name, part in found.groupby("restorer", sort=False):
        by = part.set_index("reader")
        cells = [f"{by.loc[one, 'top1']:.1f} %" if name == part["reference"].iloc[0] else interval(by.loc[one], GAIN)
                 for one in readers]  # fmt: skip
        cost = by.loc[readers[0], "db_per_point"]
        rows.append([restorer_name(str(name)), f"{part['psnr'].iloc[0]:.2f}", f"{part['ssim'].iloc[0]:.3f}", *cells,
                     "" if pd.isna(cost) else f"{cost:+.2f}"])  # fmt: skip
    return rows, header


def told(found: pd.DataFrame) -> str:
    """What was judged, in a sentence."""
    row = found.iloc[0]
    n, groups = int(row["n_images"]), int(row["n_groups"])
    of = f" of {groups:,} source digits" if groups != n else ""
    reference = restorer_name(row["reference"])
    return (
        f"{n:,} pictures{of}, {short_name(row['task'], row['strength'])}, preset {row['preset']}; percentage points of top-1 "
        f"over {reference} on the same pictures, with 95 % intervals over pictures; dB per pp: the decibels that a point for "
        "the first recogniser costs (negative: both rise)."
    )


def by_restorer(found: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`wide`, for a notebook."""
    rows, header = wide(found)
    return pd.DataFrame(rows, columns=header).set_index("restorer")


def as_text(found: pd.DataFrame) -> str:
    """The sentence and the table for a terminal, a column per restorer."""
    return f"{told(found)}\n\n{by_restorer(found).T.to_string()}"


def panel(ax: Axes, found: pd.DataFrame) -> None:
    """Decibels against recognition: a point per restorer, the mean unseen recogniser's gain (else the first's)."""
    reader = UNSEEN if (found["reader"] == UNSEEN).any() else found["reader"].iloc[0]
    rows = found[found["reader"] == reader].sort_values("gain")
    for _, row in rows.iterrows():
        style.intervals(ax, row["psnr"], row, GAIN, ms=5, lw=1, **look_of(row["restorer"]))
    ax.axhline(0, color="0.6", lw=0.8)
    ax.margins(0.06)
    ax.set_xlabel("PSNR (dB)")
    ax.set_ylabel(f"gain of {display_name(reader)} (pp)")
    low, high = ax.get_ylim()
    names = [textwrap.fill(restorer_name(name), LONGEST) for name in rows["restorer"]]
    half = [NAMES_APART / 2 * (1 + name.count("\n")) for name in names]  # of a name's height
    heights: list[float] = []
    for k, gain in enumerate(rows["gain"]):  # a name beside the panel at its point's height, or just above the one below
        heights.append(max((gain - low) / (high - low), heights[-1] + half[k - 1] + half[k] if heights else 0))
    room = 1.0
    for (_, row), name, height, own in reversed(list(zip(rows.iterrows(), names, heights, half, strict=True))):
        place, room = (1.03, min(height, room - own)), min(height, room - own) - own
        line = {"arrowstyle": "-", "color": look_of(row["restorer"])["color"], "lw": 0.4, "relpos": (0, 0.5)}
        ax.annotate(name, (row["psnr"], row["gain"]), place, textcoords="axes fraction", va="center", fontsize=style.SMALL,
                    arrowprops=line)  # fmt: skip


def look_of(restorer: str) -> dict[str, Any]:
    """Colour and marker: of a mode the study's, open where P learned another task than the one judged."""
    first, _, rest = restorer.partition(":")
    mode = MODES.get(rest if first in TASKS else first)
    look = {"color": mode.colour, "marker": mode.marker} if mode else {"color": "#7a5195", "marker": "d"}
    return look | ({"mfc": "white"} if first in TASKS else {})


def draw(found: pd.DataFrame, path: Path) -> None:
    """Write the figure of one judgement."""
    figure, axes = style.panels(1, 1, 4.4)
    panel(axes[0, 0], found)
    style.write(style.finish(figure, told(found)), path)


# --- those of the record


def judgements(presets: Sequence[str], kind: str = "judged") -> list[pd.DataFrame]:
    """The committed judgements of studies: ``results/<preset>/<kind>_<task>.csv``."""
    folders = [to_read(results_folder(preset) / "runs.csv").parent for preset in presets]
    remedy = "its command in results/README.md"
    return [read_table(path, COLUMNS, remedy) for folder in folders for path in sorted(folder.glob(f"{kind}_*.csv"))]


def unseen_of(found: pd.DataFrame) -> list[str]:
    """The models that the mean unseen one is the mean of: no restorer of the judgement had them in its loss."""
    return list(found.loc[found["role"] == "unseen", "reader"].unique())


def place_of(found: pd.DataFrame) -> str:
    """Data and degradation, in words."""
    row = found.iloc[0]
    return f"{PRESETS[row['preset']]['shown']}, {short_name(row['task'], row['strength'])}"


@style.says_what_is_missing
def plot_judgements(presets: Sequence[str]) -> Figure:
    """A panel per judgement: decibels against the mean unseen model's gain over no processing."""
    found = judgements(presets)
    if not found:
        raise NothingToShow("Nothing is judged yet: rastudy judge.")
    figure, axes, _ = style.square(len(found), 3.3)
    for ax, one in zip(axes, found, strict=True):
        panel(ax, one)
        ax.set_title(f"{place_of(one)}; n = {int(one['n_images'].iloc[0]):,}, {len(unseen_of(one))} models")
    note = (
        "Gains over no processing, means over models that no restorer of the panel had in its loss (their number: title); "
        "bars: 95 % intervals over pictures, one training a P. RA with T: T's picture."
    )
    return style.finish(figure, note)


def best(found: pd.DataFrame) -> str:
    """Who is read best by the mean unseen model."""
    return str(found[found["reader"] == UNSEEN].set_index("restorer")["gain"].idxmax())


def has_recogniser(restorer: str) -> bool:
    """Whether it is a P with a recogniser in its loss."""
    return restorer.partition(":")[0] in MODES and MODES[restorer.partition(":")[0]].has_source


def best_of(found: pd.DataFrame) -> str:
    """Who is read best by the mean unseen model, who has the most decibels, the best filter, and RA, in a sentence."""
    rows = found[found["reader"] == UNSEEN].set_index("restorer")
    filters = rows[[name in SHOWN and name != "none" for name in rows.index]]
    roles = [(best(found), "highest top-1"), (str(rows["psnr"].idxmax()), "highest PSNR")]
    roles += [(str(filters["gain"].idxmax()), "best filter")] if len(filters) else []
    who = list(dict.fromkeys([*(name for name, _ in roles), *[name for name in ("plain", "ra") if name in rows.index]]))
    said = []
    for name in who:
        what = ", ".join(role for of, role in roles if of == name)
        gain = f"{interval(rows.loc[name], GAIN)} at {rows.loc[name, 'psnr']:.2f} dB"
        said.append(f"{restorer_name(name)} {f'({what}) ' * bool(what)}{gain}")
    return f"{place_of(found)} ({len(unseen_of(found))} models): {'; '.join(said)}"
