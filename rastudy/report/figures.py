"""Figures of the tables: ``plot_*(data) -> Figure``.

Names, colours and order of modes and recognisers come from the registry. Every figure states n and shows an interval or the
spread over seeds; differences to plain use a diverging map centred on 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from rastudy import registry
from rastudy.analysis import style
from rastudy.analysis.checks import control_name, paper_gains
from rastudy.analysis.comparisons import CELL, GAIN, UNSEEN, headline
from rastudy.analysis.tables import load_table, main_cells, without_variants
from rastudy.config import make_config
from rastudy.errors import StudyError
from rastudy.paths import to_read
from rastudy.presets import PRESETS, degradations
from rastudy.registry import MODES, TASKS, display_name, mode_name, short_name, task_name
from rastudy.training.run_store import curves_file, read_curves

LOWEST = -8  # of the axes of trade-off and controls; values below it are written as text
INTERVALS = "95 % intervals over trainings where there are three or more, else over pictures."
SCALES = "Each panel has a scale of colours of its own."
GAIN_AXIS = "gain over plain (pp)"
VERDICTS = {
    "transfers": "\u2713",
    "does not": "\u2717",
    "undecided": "?",
    "undecided (floor)": "?",
    "nothing to transfer": "\u2013",
}
RING: dict[str, Any] = {"marker": "o", "mfc": "none", "mec": "black", "ms": 9, "mew": 1.3}  # around the chosen weight
MANY = 6  # names below a panel: more stand upright
CROWDED = 5  # times the smallest step between strengths: from there on the axis is logarithmic


# --- the main comparison


@style.says_what_is_missing
def plot_accuracy(preset: str) -> Figure:
    """Top-1 of every R under every mode, with 95 % intervals over pictures; a panel per degradation."""
    rows = without_variants(main_cells(load_table(preset, "accuracy"), preset)).query("metric == 'top1'")
    keys, targets = style.degradations_in(rows, preset), list(rows["target_arch"].unique())
    shown = [mode for mode in ("clean", *reversed(PRESETS[preset]["modes"]), "none") if mode in set(rows["mode"])]
    figure, axes, spare = style.square(len(keys), 2.6, sharey=True)
    for ax, key in zip(axes, keys, strict=True):
        for k, mode in enumerate(shown):
            cell = style.rows_of(rows[rows["mode"] == mode], key).set_index("target_arch").reindex(targets)
            x = np.arange(len(targets)) + (k - (len(shown) - 1) / 2) * 0.13
            style.intervals(ax, x, cell, ms=3.5, label=mode_name(mode), **style.look_of(mode))
        _name_below(ax, [display_name(arch) for arch in targets], task_name(*key))
    for ax in axes[::2]:
        ax.set_ylabel("top-1 (%)")
    source = display_name(PRESETS[preset]["source_arch"])
    return style.finish(
        figure,
        f"{_n(rows)} Bars, some hidden by their marker: 95 % intervals over pictures. Source model: {source}.",
        axes[-1],
        spare,
    )


@style.says_what_is_missing
def plot_gains(preset: str) -> Figure:
    """Difference to plain in points, RA modes x target R's, a panel per degradation; intervals in the cells."""
    rows = headline(without_variants(main_cells(load_table(preset, "gains"), preset)))
    keys, shown = style.degradations_in(rows, preset), [mode for mode in PRESETS[preset]["modes"] if mode in set(rows["mode"])]
    figure, _ = _heatmaps(rows, keys, "mode", shown, mode_name)
    note = f"{_n(rows)} Top-1 minus plain's, in pp; framed: the source model. {INTERVALS} {SCALES}"
    return style.finish(figure, note)


@style.says_what_is_missing
def plot_matrix(preset: str) -> Figure:
    """Gain of ``ra`` over plain by source model (rows) and target R (columns), a panel per degradation."""
    rows = headline(without_variants(load_table(preset, "gains")))
    rows = rows[(rows["mode"] == "ra") & (rows["baseline"] == "plain") & ~rows["source_arch"].str.contains(",")]
    same = [name for name in CELL if name != "source_arch"]  # as in the main comparison, with any source model
    rows = rows.merge(main_cells(rows, preset)[same].drop_duplicates(), on=same)
    present = style.degradations_in(rows, preset)
    keys = [key for key in present if style.rows_of(rows, key)["source_arch"].nunique() > 1] or present[:1]
    sources = [arch for arch in rows["target_arch"].unique() if arch in set(rows["source_arch"])]
    rows = pd.concat([style.rows_of(rows, key) for key in keys])
    figure, axes = _heatmaps(rows, keys, "source_arch", sources, display_name)
    for ax in axes:
        ax.set_ylabel("source model")
    return style.finish(figure, f"{_n(rows)} RA's top-1 minus plain's, in pp; framed: the source model. {INTERVALS} {SCALES}")


def _heatmaps(
    rows: pd.DataFrame, keys: list[style.Degradation], index: str, order: Sequence[str], name: Callable[[str], str]
) -> tuple[Figure, list[Axes]]:
    """Gains with their intervals, a panel and a scale of colours per degradation.

    A row per value of the column ``index``, a column per target R; the source model is framed.
    """
    targets = list(rows["target_arch"].unique())
    text = [f"{v:+.1f}\n[{low:+.1f}, {high:+.1f}]" for v, low, high in rows[["value", "low", "high"]].to_numpy()]
    rows = rows.assign(text=text)
    lines = {key: [one for one in order if one in set(style.rows_of(rows, key)[index])] for key in keys}
    heights = [0.55 + 0.38 * len(those) for those in lines.values()]
    figure, axes = style.panels(len(keys), 1, 0.5 + sum(heights), "white", height_ratios=heights)
    for ax, (key, those) in zip(axes[:, 0], lines.items(), strict=True):
        wide = style.rows_of(rows, key).pivot(index=index, columns="target_arch", values=["value", "text"]).reindex(those)
        values, texts = (wide[what].reindex(columns=targets) for what in ("value", "text"))
        limit = max(float(np.nanmax(np.abs(values.astype(float)))), 0.1)
        values.columns, values.index = [display_name(arch) for arch in targets], [name(one) for one in those]
        bar = {"label": "pp", "ticks": MaxNLocator(min(4, 1 + len(those)))}
        style.heatmap(ax, values, texts.fillna(""), cbar_kws=bar, cmap="RdBu", center=0, vmin=-limit, vmax=limit)
        of_source = style.rows_of(rows, key).query("role == 'source'")
        for column, row in zip(of_source["target_arch"], of_source[index], strict=True):
            place = (targets.index(column), those.index(row))
            ax.add_patch(Rectangle(place, 1, 1, fill=False, ec="black", lw=1.5, clip_on=False, zorder=3))
        ax.tick_params(rotation=0)
        ax.set(xlabel="", ylabel="")
        ax.set_title(task_name(*key), loc="left")
    return figure, list(axes[:, 0])


@style.says_what_is_missing
def plot_paper(preset: str) -> Figure:
    """Our gains beside the paper's (ImageNet), by task and mode: each R a point, ours with intervals.

    Of a task with several strengths, the paper's: sr x4.
    """
    ours, paper = headline(without_variants(main_cells(load_table(preset, "gains"), preset))), paper_gains()
    keys = [key for key in style.degradations_in(ours, preset) if key[0] != "sr" or key[1] == 4]
    ours = ours[ours["role"] != "mean_unseen"]
    theirs = sorted(paper["target_arch"].unique(), key=list(registry.RECOGNISERS).index)
    names = list(dict.fromkeys(map(display_name, [*ours["target_arch"], *theirs])))
    figure, axes = style.panels(1, len(keys), 3.0 if len(names) <= MANY else 3.6, sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        for k, mode in enumerate(mode for mode in ("ra", "ra_unsupervised") if mode in set(ours["mode"])):
            look, x = style.look_of(mode), np.arange(len(names)) + (k - 0.5) * 0.3
            found = (style.rows_of(ours[ours["mode"] == mode], key), paper[(paper["task"] == key[0]) & (paper["mode"] == mode)])
            mine, published = (rows.set_index(rows["target_arch"].map(display_name)).reindex(names) for rows in found)
            style.intervals(ax, x, mine, ms=5, label=f"{mode_name(mode)}, ours", **look)
            ax.plot(x + 0.12, published["value"], ls="", mfc="none", ms=5, label=f"{mode_name(mode)}, paper", **look)
        ax.axhline(0, color="black", lw=1)
        _name_below(ax, names, task_name(*key))
    axes[0, 0].set_ylabel(GAIN_AXIS)
    note = f"Filled: ours. {INTERVALS} Open: the paper, ImageNet, n = 50,000, one run a cell."
    return style.finish(figure, f"{_n(ours)} {note}", axes[0, -1])


@style.says_what_is_missing
def plot_curves(preset: str, seed: int = 0) -> Figure:
    """Training curves of the main comparison's runs, one seed: image loss per picture seen, pretraining included."""
    keys, found = degradations(preset), read_curves(to_read(curves_file(preset)))
    curves = {run: pd.DataFrame(rows) for run, rows in found.items()}
    figure, axes, spare = style.square(len(keys), 2.3)
    for ax, (task, strength) in zip(axes, keys, strict=True):
        runs = [make_config(preset, task, mode, seed=seed, strength=strength) for mode in PRESETS[preset]["modes"]]
        start = curves.get(runs[0].pretraining.run_id) if runs[0].pretraining else None
        if start is not None:
            ax.plot(start["images"] / 1000, start["image_loss"], color=MODES["none"].colour, lw=2.5, label="pretraining")
        for run in runs:
            if (curve := curves.get(run.run_id)) is not None:
                line: dict[str, Any] = {"ls": "--", "lw": 2.5} if run.mode == "plain" else {"lw": 1.2}
                seen = curve["images"] + (0 if start is None else start["images"].iloc[-1])
                look: dict[str, Any] = {"color": MODES[run.mode].colour, "label": mode_name(run.mode)}
                ax.plot(seen / 1000, curve["image_loss"], **look, **line)
        ax.set(yscale="log", xlabel="thousand pictures seen", title=task_name(task, strength))
    for ax in axes[::2]:
        ax.set_ylabel("image loss (MSE)")
    note = f"Training loss, averaged between points; one run each (seed {seed})." + " P of RA with T is plain's." * any(
        MODES[mode].has_transformer for mode in PRESETS[preset]["modes"]
    )
    return style.finish(figure, note, axes[-1], spare)


@style.says_what_is_missing
def plot_strengths(table: pd.DataFrame, preset: str) -> Figure:
    """Top-1 of every R against the strength of each degradation, of ``degradation_table``; the preset's strength is marked."""
    tasks = list(table["task"].unique())
    figure, axes = style.panels(1, len(tasks), 2.8, sharey=True)
    for ax, task in zip(axes[0], tasks, strict=True):
        part = table[table["task"] == task]
        for arch, line in part.groupby("target_arch", sort=False):
            look, share = style.look_of_reader(arch), line["top1"] / 100
            ax.plot(line["strength"], line["top1"], ms=4, label=display_name(arch), **look)
            half = 196 * np.sqrt(share * (1 - share) / line["n_images"])
            ax.fill_between(line["strength"], line["top1"] - half, line["top1"] + half, color=look["color"], alpha=0.12, lw=0)
        for k, (_, strength) in enumerate(degradations(preset, task)):
            ax.axvline(strength, color="#009e73", lw=5, alpha=0.3, label="the study's strength" if k == 0 else None)
        ax.set(title=task_name(task), xlabel=TASKS[task].axis)
        places = part["strength"].unique()
        if np.ptp(steps := np.diff(places)) and steps.max() >= CROWDED * steps.min():
            ax.set_xscale("log")
        ax.set_xticks(places, [f"{place:g}" for place in places])
        ax.set_xticks([], minor=True)
        ax.grid(axis="x", visible=False)
    axes[0, 0].set(ylabel="top-1 (%)", ylim=(0, 102))
    note = f"n = {int(table['n_images'].max())} validation pictures, no processing. "
    note += "Bands: 95 % intervals, pictures taken as independent."
    return style.finish(figure, note, axes[0, -1])


# --- weights, costs and controls


@style.says_what_is_missing
def plot_tradeoff(preset: str) -> Figure:
    """Validation: gain of source and unseen R's, and below it PSNR change, against the weight; the chosen weight is ringed.

    T leaves P's picture as it is: there is no PSNR to show.
    """
    rows = load_table(preset, "tradeoff")
    has_t = rows["mode"].map(lambda mode: MODES[mode].has_transformer)  # whose weight changes nothing: its learning rate does
    rows = rows.assign(x=rows["transformer_lr"].where(has_t, rows["ra_weight"]))[~has_t | (rows["transformer_lr"] > 0)]
    keys, shown = style.degradations_in(rows, preset), [mode for mode in MODES if mode in set(rows["mode"])]
    lines = [(mode, what) for mode in shown for what in ("gain", "psnr")[: 1 if MODES[mode].has_transformer else 2]]
    heights = [1.5 if what == "gain" else 0.8 for _, what in lines]
    size = sum(heights) + 0.35 * len(shown) + 0.6
    figure, axes = style.panels(len(lines), len(keys), size, height_ratios=heights)
    for (mode, what), line in zip(lines, axes, strict=True):
        last, part = (mode, "psnr") not in lines or what == "psnr", rows[rows["mode"] == mode]
        for key, ax in zip(keys, line, strict=True):
            cell = style.rows_of(part, key).sort_values("x")
            if cell.empty:
                ax.set(xticks=[], yticks=[])
                ax.text(0.5, 0.5, "not tried", transform=ax.transAxes, ha="center", va="center", fontsize=8)
                continue
            (_gain_by_weight if what == "gain" else _psnr_by_weight)(ax, cell)
            _weight_axis(ax, cell["x"], last)
            if what == "gain":
                ax.set_title(f"{mode_name(mode)}\n{short_name(*key)}", fontsize=9)
            if last:
                ax.set_xlabel("T's learning rate" if MODES[mode].has_transformer else "recognition weight", fontsize=8)
        line[0].set_ylabel("gain (pp)" if what == "gain" else "PSNR (dB)")
    figure.align_ylabels(axes[:, 0])
    note = f"n = {style.sample(rows, 'validation')[0]}, one training. Changes against plain. Bands: 95 % intervals over "
    note += "pictures. Red: gains below the axis, of the source, then of unseen R's."
    return style.finish(figure, note, next(ax for ax in axes[0] if ax.lines))


def _gain_by_weight(ax: Axes, cell: pd.DataFrame) -> None:
    """One mode's gains by weight; what lies below the axis is written there."""
    weights, chosen = cell["x"], cell[cell["chosen"]]
    for role, shown, look in (("source", "source model", style.SOURCE), ("unseen", "mean unseen R", style.UNSEEN)):
        ax.plot(weights, cell[f"{role}_gain"], label=shown, ms=4, **look)
        ax.fill_between(weights, cell[f"{role}_low"], cell[f"{role}_high"], color=look["color"], alpha=0.15, lw=0)
        ax.plot(chosen["x"], chosen[f"{role}_gain"], ls="", label="chosen weight" if role == "unseen" else None, **RING)
    ax.axhline(0, color="black", lw=1)
    low, high = cell[["source_low", "unseen_low"]].min(axis=None), cell[["source_high", "unseen_high"]].max(axis=None)
    room = 0.12 * (high - max(LOWEST, min(low, 0)))
    ax.set_ylim(max(LOWEST, min(low, 0) - room), high + room)
    for _, row in cell[cell[["source_gain", "unseen_gain"]].min(axis=1) < LOWEST].iterrows():
        text = f"{row['source_gain']:+.0f}\n{row['unseen_gain']:+.0f}"
        ax.annotate(text, (row["x"], 0), (5, 3), xycoords=("data", "axes fraction"), textcoords="offset points", ha="left",
                    fontsize=style.SMALL, color="#c00000")  # fmt: skip


def _psnr_by_weight(ax: Axes, cell: pd.DataFrame) -> None:
    """One mode's change of PSNR by weight."""
    chosen = cell[cell["chosen"]]
    ax.plot(cell["x"], cell["psnr_change"], "s--", color="#4d4d4d", ms=3.5)
    ax.plot(chosen["x"], chosen["psnr_change"], ls="", **RING)
    ax.axhline(0, color="black", lw=1)
    ax.margins(y=0.25)


def _weight_axis(ax: Axes, weights: pd.Series, named: bool) -> None:
    """A logarithmic axis with the weights that were tried."""
    ax.set_xscale("log")
    ax.set_xticks(weights, [f"{weight:g}" for weight in weights] if named else [""] * len(weights), fontsize=8)
    ax.set_xticks([], minor=True)
    ax.set_xlim(weights.min() / 1.6, weights.max() * 1.6)


@style.says_what_is_missing
def plot_equal_cost(preset: str) -> Figure:
    """Gain over plain by every mode and reader, of ResNet-18's and of unseen R's, with the picture's PSNR."""
    rows = load_table(preset, "equal_cost").query("mode != 'clean'")
    keys, rows = style.degradations_in(rows, preset), rows.assign(trained_on=rows["reader"].map(registry.reader_name))
    lines = list(dict.fromkeys(zip(rows["mode"], rows["trained_on"], strict=True)))
    figure, axes = style.panels(1, len(keys), 0.9 + 0.24 * len(lines), sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        for _, row in style.rows_of(rows, key).iterrows():
            y, colour = lines.index((row["mode"], row["trained_on"])), MODES[row["mode"]].colour
            style.intervals(ax, y, row, GAIN, across=True, marker="o", color=colour, ms=4)
            if row["trained_on"] == "clean pictures":
                style.intervals(ax, y + 0.3, row, UNSEEN, across=True, marker="s", mfc="white", color=colour, ms=4)
            ax.text(1.01, y, f"{row['psnr']:.2f}", transform=ax.get_yaxis_transform(), va="center", fontsize=style.SMALL)
        ax.text(1.01, -0.9, "PSNR", transform=ax.get_yaxis_transform(), va="center", fontsize=style.SMALL)
        ax.axvline(0, color="black", lw=1)
        ax.set(title=style.two_lines(*key), xlabel=GAIN_AXIS)
    axes[0, 0].set_yticks(range(len(lines)), [f"{mode_name(mode)}; R on {reader}" for mode, reader in lines])
    axes[0, 0].invert_yaxis()
    for label, look in (("ResNet-18, adapted or not", {"marker": "o"}), ("unseen R's", {"marker": "s", "mfc": "white"})):
        axes[0, 0].plot([], [], ls="", color="#4d4d4d", label=label, **look)
    return style.finish(figure, f"n = {style.sample(rows)[0]}, one training. Bars: 95 % intervals over pictures.", axes[0, 0])


@style.says_what_is_missing
def plot_controls(preset: str) -> Figure:
    """Gain over its baseline of every control, of the source model and of the mean unseen R; a panel per degradation."""
    rows = load_table(preset, "controls")
    keys, lines = style.degradations_in(rows, preset), list(rows["control"].unique())
    figure, axes = style.panels(1, len(keys), 1 + 0.26 * len(lines), sharey=True)
    source = display_name(PRESETS[preset]["source_arch"])
    for ax, key in zip(axes[0], keys, strict=True):
        part = style.rows_of(rows, key)
        y = part["control"].map(lines.index)
        for names, shift, look, label in ((GAIN, -0.12, style.SOURCE, source), (UNSEEN, 0.12, style.UNSEEN, "mean unseen R")):
            style.intervals(ax, y + shift, part, names, across=True, ms=4, label=label, **look)
            for place, value in zip(y, part[names[0]], strict=True):
                if value < LOWEST:
                    text = f" {value:+.0f} pp"
                    ax.text(LOWEST, place + 1.7 * shift, text, color=look["color"], va="center", fontsize=style.SMALL)
        ax.axvline(0, color="black", lw=1)
        ax.set_xlim(left=max(LOWEST, part[["gain_low", "unseen_low"]].min(axis=None) - 0.5))
        ax.set(title=task_name(*key), xlabel="gain over its baseline (pp)")
    axes[0, 0].set_yticks(range(len(lines)), [control_name(line) for line in lines])
    axes[0, 0].invert_yaxis()
    return style.finish(figure, f"{_n(rows)} Bars: {INTERVALS} Numbers at the left edge: gains below the axis.", axes[0, -1])


# --- transfer


@style.says_what_is_missing
def plot_transfer(table: pd.DataFrame) -> Figure:
    """A direction's gains over plain with intervals, a panel per degradation; open: the same run's gain at home.

    A line per variant and reader; of many variants with many readers only their means.
    """
    table = table[table["metric"] != "ap_voc07"]
    many = table["variant"].nunique() > 2
    rows = table[table["reader"] == "mean"] if many else table
    alone = rows.groupby("variant")["reader"].transform(lambda readers: readers[readers != "mean"].nunique()) == 1
    rows = rows[many | ~(alone & (rows["reader"] == "mean"))]
    keys, shown = style.degradations_in(rows, rows["preset"].iloc[0]), [mode for mode in MODES if mode in set(rows["mode"])]
    rows = headline(rows.assign(line=[_line(row, many) for row in rows.to_dict("records")]))
    rows = one_row_a_place(rows, ("line", "mode", "task", "strength"))
    lines = list(rows["line"].unique())
    long = max(map(len, lines)) > style.NAME
    figure, axes = style.panels(1, len(keys), 1.6 + 0.11 * len(lines) * max(3 if long else 2, len(shown)), sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        for k, mode in enumerate(shown):
            part = style.rows_of(rows[rows["mode"] == mode], key)
            y = part["line"].map(lines.index) + (k - (len(shown) - 1) / 2) * 0.22
            style.intervals(ax, y, part, across=True, ms=4, label=mode_name(mode), **style.look_of(mode))
            ax.plot(part["reference"], y, ls="", mfc="none", ms=4, label=f"{mode_name(mode)}, at home", **style.look_of(mode))
        ax.set_title(style.two_lines(*key))
        ax.set_xlabel("gain (pp)" if len(keys) > 3 or long else GAIN_AXIS)
        style.name_lines(ax, lines)
    note = f"Filled: top-1 (detectors: AP50) minus plain's. {INTERVALS} Open: at home."
    return style.finish(figure, f"{_n(rows)} {note}", axes[0, 0], columns=3)


@style.says_what_is_missing
def plot_transfer_summary(table: pd.DataFrame) -> Figure:
    """RA's gain in every direction that was tried: a row per direction and variant, a panel per preset, a column per task.

    Colours are linear up to 2 points, logarithmic beyond; a mark in each cell is its verdict.
    """
    table = table[table["metric"] != "ap_voc07"]
    rows = table.assign(
        line=[
            ": ".join(dict.fromkeys((row["direction"].replace("_", " "), variant_name(row))))
            for row in table.to_dict("records")
        ],
        column=[_column(*key) for key in zip(table["task"], table["strength"], strict=True)],
    )
    rows = one_row_a_place(rows, ("preset", "line", "column"))
    every = [_column(name, strength) for name, task in TASKS.items() for strength in task.choices[::-1] or (0,)]
    present, shown = [name for name in every if name in set(rows["column"])], dict(iter(rows.groupby("preset", sort=False)))
    counts = [part["line"].nunique() for part in shown.values()]
    figure, axes = style.panels(
        len(shown), 1, 1.1 + 0.4 * len(shown) + 0.2 * sum(counts), "white", height_ratios=counts, sharex=True
    )
    limit = float(rows["value"].abs().max())
    colours = ScalarMappable(SymLogNorm(2, vmin=-limit, vmax=limit), "RdBu")
    for ax, (preset, part) in zip(axes[:, 0], shown.items(), strict=True):
        lines = list(part["line"].unique())
        for row in part.to_dict("records"):
            place = present.index(row["column"]), lines.index(row["line"])
            colour = colours.to_rgba(row["value"])
            ax.add_patch(Rectangle(place, 1, 1, fc=colour, ec="white"))
            said = f"{row['value']:+.1f}  {VERDICTS[row['verdict']]}"
            ax.text(place[0] + 0.5, place[1] + 0.5, said, ha="center", va="center", color=style.ink(colour), fontsize=8.5)
        ax.set_yticks(np.arange(len(lines)) + 0.5, lines, fontsize=8.5)
        ax.set(xlim=(0, len(present)), ylim=(len(lines), 0))
        ax.set_xticks(
            np.arange(len(present)) + 0.5,
            [name.replace("super-resolution", "SR").replace(" ", "\n", 1) for name in present],
            fontsize=8,
        )
        ax.tick_params(axis="x", labelbottom=False, labeltop=ax is axes[0, 0])
        n, seeds = (style.span(part[name]) for name in ("n_images", "n_seeds"))
        ax.set_title(f"{PRESETS[preset].get('shown') or preset}: n = {n}, {seeds} training{'s' * (seeds != '1')}", loc="left")
        sns.despine(ax=ax, left=True, bottom=True)
    bar = figure.colorbar(colours, ax=axes, label="RA's gain over plain (pp)", shrink=0.6, aspect=40)
    ticks = [tick for tick in (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50) if abs(tick) <= limit]
    bar.set_ticks(ticks, labels=[f"{tick:+d}" if tick else "0" for tick in ticks])
    bar.minorticks_off()
    note = ("Mean of the readers, in top-1 (detectors: AP50). \u2713 transfers, \u2717 does not, ? undecided, \u2013 nothing "
            "to transfer: by 95 % intervals, which the tables give.")  # fmt: skip
    return style.finish(figure, note)


def _column(task: str, strength: float) -> str:
    """The column of a degradation in the summary: tasks with a choice of strengths have one for each."""
    return task_name(task, strength if TASKS[task].choices else None)


def variant_name(row: dict | pd.Series) -> str:
    """The name to show for a direction's variant; of several sources, their number; one that is not the study's is named."""
    variant, sources = row["variant"], registry.source_names(str(row["source_arch"]))
    if variant == "held_out":
        return f"{len(sources)} source model{'s' * (len(sources) > 1)}"
    if variant in registry.DATASETS:
        return registry.DATASETS[variant].shown
    reader, _, elsewhere = variant.partition("_on_")
    name = PRESETS[variant]["shown"] if variant in PRESETS else display_name(reader).replace("_", " ")
    name += f" on {PRESETS[elsewhere]['shown']}" if elsewhere in PRESETS else ""
    if sources == [PRESETS[row["preset"]]["source_arch"]]:
        return name
    taught = "taught by" if variant.startswith("detection_") else "from"
    return f"{name}, {taught} {' and '.join(display_name(source) for source in sources)}"


def one_row_a_place(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows; StudyError where two would be shown in one place, the later over the earlier."""
    twice = rows[rows.duplicated(list(columns))]
    if len(twice):
        raise StudyError(f"{len(twice)} rows too many for one place each; the first: {dict(twice.iloc[0][list(columns)])}")
    return rows


def _line(row: dict, many: bool) -> str:
    """The name of a line in the figure of transfer."""
    reader = display_name(row["reader"])
    names = (variant_name(row),) if many else (reader,) if row["variant"] == "families" else (variant_name(row), reader)
    return ": ".join(dict.fromkeys(names))


# --- pieces


def _n(rows: pd.DataFrame) -> str:
    return f"n = {', '.join(style.sample(rows))}."


def _name_below(ax: Axes, names: Sequence[str], title: str) -> None:
    """A panel's title, and the names of its places along x."""
    look = {"rotation": 30, "ha": "right"} if len(names) <= MANY else {"rotation": 90}
    ax.set_xticks(range(len(names)), names, **look)
    ax.set_title(title)
    ax.grid(axis="x", visible=False)
