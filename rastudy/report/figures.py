"""Figures of the tables: ``plot_*(data) -> Figure``.

Names, colours and order of modes and recognisers come from the registry. Every figure states n and shows an interval or the
spread over seeds; differences to plain use a diverging map centred on 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rastudy.analysis.checks import control_name, paper_gains
from rastudy.analysis.comparisons import CELL, GAIN, UNSEEN
from rastudy.analysis.style import rows_of, says_what_is_missing
from rastudy.analysis.tables import headline, load_table, main_cells, without_variants
from rastudy.config import make_config
from rastudy.paths import to_read
from rastudy.presets import PRESETS, degradations
from rastudy.registry import MODES, TASKS, display_name, mode_name, modes, reader_name, short_name, task_name
from rastudy.report import style
from rastudy.report.style import Degradation, degradations_in, finish, intervals, look_of, panels, sample
from rastudy.training.run_store import curves_file, read_curves

LOWEST = -8  # of the axes of trade-off and controls; values below it are written as text
INTERVALS = "95 % intervals over trainings where there are three or more, else over pictures."
GAIN_AXIS = "gain over plain (points)"
VERDICTS = {"transfers": "#0072b2", "does not": "#d55e00"}
UNDECIDED = "#808080"


# --- the main comparison


@says_what_is_missing
def plot_accuracy(preset: str) -> Figure:
    """Top-1 of every R under every mode, with 95 % intervals over pictures; a panel per degradation."""
    rows = without_variants(main_cells(load_table(preset, "accuracy"), preset)).query("metric == 'top1'")
    keys, targets = degradations_in(rows, preset), list(rows["target_arch"].unique())
    shown = [mode for mode in ("clean", *reversed(modes("paper")), "none") if mode in set(rows["mode"])]
    figure, axes = panels(1, len(keys), (1 + 4.6 * len(keys), 4.6), sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        for k, mode in enumerate(shown):
            cell = rows_of(rows[rows["mode"] == mode], key).set_index("target_arch").reindex(targets)
            x = np.arange(len(targets)) + (k - (len(shown) - 1) / 2) * 0.11
            intervals(ax, x, cell, ms=6, lw=1.5, label=mode_name(mode), **look_of(mode))
        _name_below(ax, [display_name(arch) for arch in targets], task_name(*key))
    axes[0, 0].set_ylabel("top-1 (%)")
    source = display_name(PRESETS[preset]["source_arch"])
    return finish(figure, f"{_n(rows)} Bars: 95 % intervals over pictures. R in the loss: {source}.", axes[0, -1])


@says_what_is_missing
def plot_gains(preset: str) -> Figure:
    """Difference to plain in points, RA modes x target R's, a panel per degradation; intervals in the cells."""
    rows = headline(without_variants(main_cells(load_table(preset, "gains"), preset)))
    keys, shown = degradations_in(rows, preset), [mode for mode in modes("paper")[1:] if mode in set(rows["mode"])]
    figure, _ = _heatmaps(rows, keys, "mode", shown, mode_name, 0.9 + 1.05 * len(keys) * len(shown))
    return finish(figure, f"{_n(rows)} Top-1 minus plain's on the same pictures, in points. {INTERVALS}")


@says_what_is_missing
def plot_matrix(preset: str) -> Figure:
    """Gain of ``ra`` over plain by source R (rows) and target R (columns), a panel per degradation."""
    rows = headline(without_variants(load_table(preset, "gains")))
    rows = rows[(rows["mode"] == "ra") & (rows["baseline"] == "plain") & ~rows["source_arch"].str.contains(",")]
    same = [name for name in CELL if name != "source_arch"]  # as in the main comparison, with any R in the loss
    rows = rows.merge(main_cells(rows, preset)[same].drop_duplicates(), on=same)
    present = degradations_in(rows, preset)
    keys = [key for key in present if rows_of(rows, key)["source_arch"].nunique() > 1] or present[:1]
    sources = [arch for arch in rows["target_arch"].unique() if arch in set(rows["source_arch"])]
    rows = pd.concat([rows_of(rows, key) for key in keys])
    figure, axes = _heatmaps(rows, keys, "source_arch", sources, display_name, (1.3 + 0.75 * len(sources)) * len(keys))
    for ax in axes:
        ax.set_ylabel("R in the loss")
    return finish(figure, f"{_n(rows)} RA's top-1 minus plain's, in points. {INTERVALS}")


def _heatmaps(
    rows: pd.DataFrame, keys: list[Degradation], index: str, order: Sequence[str], name: Callable[[str], str], height: float
) -> tuple[Figure, list[Axes]]:
    """Gains with their intervals, a panel per degradation: a row per value of the column ``index``, a column per target R."""
    targets = list(rows["target_arch"].unique())
    limit = max(float(np.nanmax(np.abs(rows["value"]))), 0.1)
    text = [f"{v:+.1f}\n[{low:+.1f}, {high:+.1f}]" for v, low, high in rows[["value", "low", "high"]].to_numpy()]
    rows = rows.assign(text=text)
    figure, axes = panels(len(keys), 1, (11.5, height), "white")
    for ax, key in zip(axes[:, 0], keys, strict=True):
        wide = rows_of(rows, key).pivot(index=index, columns="target_arch", values=["value", "text"]).reindex(order)
        values, texts = (wide[what].reindex(columns=targets) for what in ("value", "text"))
        sns.heatmap(
            values.astype(float), annot=texts.fillna(""), fmt="", ax=ax, annot_kws={"size": 9}, cbar_kws={"label": "points"},
            cmap="RdBu", center=0, vmin=-limit, vmax=limit, linewidths=1, linecolor="white",
        )  # fmt: skip
        ax.set_xticklabels([display_name(arch) for arch in targets], rotation=0)
        ax.set_yticklabels([name(one) for one in order], rotation=0)
        ax.set(xlabel="", ylabel="")
        ax.set_title(task_name(*key), loc="left")
    return figure, list(axes[:, 0])


@says_what_is_missing
def plot_paper(preset: str) -> Figure:
    """Our gains beside the paper's (ImageNet), by task and mode: each R a point, ours with intervals.

    Of a task with several strengths, the paper's: sr x4.
    """
    ours, paper = headline(without_variants(main_cells(load_table(preset, "gains"), preset))), paper_gains()
    keys = [key for key in degradations_in(ours, preset) if key[0] != "sr" or key[1] == 4]
    ours = ours[ours["role"] != "mean_unseen"]
    names = list(ours["target_arch"].map(display_name).unique())
    figure, axes = panels(1, len(keys), (1 + 4.4 * len(keys), 4.2), sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        for k, mode in enumerate(mode for mode in ("ra", "ra_unsupervised") if mode in set(ours["mode"])):
            look, x = look_of(mode), np.arange(len(names)) + (k - 0.5) * 0.3
            found = (rows_of(ours[ours["mode"] == mode], key), paper[(paper["task"] == key[0]) & (paper["mode"] == mode)])
            mine, theirs = (rows.set_index(rows["target_arch"].map(display_name)).reindex(names) for rows in found)
            intervals(ax, x, mine, ms=7, label=f"{mode_name(mode)}, ours", **look)
            ax.plot(x + 0.1, theirs["value"], ls="", mfc="none", ms=7, label=f"{mode_name(mode)}, paper", **look)
        ax.axhline(0, color="black", lw=1)
        _name_below(ax, names, task_name(*key))
    axes[0, 0].set_ylabel(GAIN_AXIS)
    note = f"Filled: ours. {INTERVALS} Open: the paper, ImageNet, n = 50,000, one run a cell."
    return finish(figure, f"{_n(ours)} {note}", axes[0, -1])


@says_what_is_missing
def plot_curves(preset: str, seed: int = 0) -> Figure:
    """Training curves of the main comparison's runs, one seed: image loss per picture seen, pretraining included."""
    keys, found = degradations(preset), read_curves(to_read(curves_file(preset)))
    curves = {run: pd.DataFrame(rows) for run, rows in found.items()}
    figure, axes = panels(1, len(keys), (1 + 4.4 * len(keys), 3.8))
    for ax, (task, strength) in zip(axes[0], keys, strict=True):
        runs = [make_config(preset, task, mode, seed=seed, strength=strength) for mode in PRESETS[preset]["modes"]]
        start = curves.get(runs[0].pretraining.run_id) if runs[0].pretraining else None
        if start is not None:
            ax.plot(start["images"] / 1000, start["image_loss"], color=MODES["none"].colour, lw=3, label="pretraining")
        for run in runs:
            if (curve := curves.get(run.run_id)) is not None:
                line = {"ls": "--", "lw": 3} if run.mode == "plain" else {"lw": 1.3}
                seen = curve["images"] + (0 if start is None else start["images"].iloc[-1])
                look = {"color": MODES[run.mode].colour, "label": mode_name(run.mode)}
                ax.plot(seen / 1000, curve["image_loss"], **look, **line)
        ax.set(yscale="log", xlabel="thousand pictures seen", title=task_name(task, strength))
    axes[0, 0].set_ylabel("image loss (MSE)")
    note = f"Means between the points, one run each (seed {seed}). RA with T trains P as plain does."
    return finish(figure, note, axes[0, -1])


@says_what_is_missing
def plot_strengths(table: pd.DataFrame, preset: str) -> Figure:
    """Top-1 of every R against the strength of each degradation; the preset's strength is marked.

    Args:
        table: of :func:`rastudy.evaluation.evaluate.degradation_table`.
    """
    tasks = list(table["task"].unique())
    figure, axes = panels(1, len(tasks), (1 + 4.2 * len(tasks), 3.8), sharey=True)
    palette = sns.color_palette("colorblind", table["target_arch"].nunique())
    for ax, task in zip(axes[0], tasks, strict=True):
        part = table[table["task"] == task]
        for colour, (arch, line) in zip(palette, part.groupby("target_arch", sort=False), strict=True):
            ax.plot(line["strength"], line["top1"], "o-", color=colour, ms=5, label=display_name(arch))
        for k, (_, strength) in enumerate(degradations(preset, task)):
            ax.axvline(strength, color="#009e73", lw=6, alpha=0.25, label="the study's" if k == 0 else None)
        ax.set(title=task_name(task), xlabel=TASKS[task].axis)
        ax.set_xticks(part["strength"].unique())
        ax.grid(axis="x", visible=False)
    axes[0, 0].set(ylabel="top-1 (%)", ylim=(0, 102))
    return finish(figure, f"n = {int(table['n_images'].max())} validation pictures, no processing.", axes[0, -1])


# --- weights, costs and controls


@says_what_is_missing
def plot_tradeoff(preset: str) -> Figure:
    """Validation: gain of source and unseen R's, and PSNR change, against the weight; the chosen weight is marked."""
    rows = load_table(preset, "tradeoff")
    has_t = rows["mode"].map(lambda mode: MODES[mode].has_transformer)  # whose weight changes nothing: its learning rate does
    rows = rows.assign(x=rows["transformer_lr"].where(has_t, rows["ra_weight"]))[~has_t | (rows["transformer_lr"] > 0)]
    keys, shown = degradations_in(rows, preset), [mode for mode in MODES if mode in set(rows["mode"])]
    figure, axes = panels(len(shown), len(keys), (1 + 4.4 * len(keys), 3.6 * len(shown)), sharey=True)
    lowest = max(LOWEST, rows[["source_low", "unseen_low", "psnr_change"]].min(axis=None) - 0.5)
    highest = rows[["source_high", "unseen_high"]].max(axis=None) + 0.5
    for mode, line in zip(shown, axes, strict=True):
        for key, ax in zip(keys, line, strict=True):
            cell = rows_of(rows[rows["mode"] == mode], key).sort_values("x")
            if len(cell):
                _weights_panel(ax, cell)
                ax.set_ylim(lowest, highest)
                ax.set_title(f"{task_name(*key)}, {mode_name(mode)}", fontsize=11)
                ax.set_xlabel("T's learning rate" if MODES[mode].has_transformer else "recognition weight")
            else:
                ax.set_axis_off()
        first = next(ax for ax in line if ax.axison)
        first.set_ylabel("change against plain")
        first.tick_params(labelleft=True)
    note = f"n = {sample(rows, 'validation')[0]}, one seed. Bands: 95 % intervals over pictures."
    return finish(figure, note, axes[0, -1], style.BESIDE_TOP)


def _weights_panel(ax: Axes, cell: pd.DataFrame) -> None:
    """One mode's gains and PSNR change by weight; what lies below the axis is written there."""
    weights = cell["x"]
    for role, shown, look in (("source", "source R", style.SOURCE), ("unseen", "mean unseen R", style.UNSEEN)):
        ax.plot(weights, cell[f"{role}_gain"], label=f"{shown} (points)", **look)
        ax.fill_between(weights, cell[f"{role}_low"], cell[f"{role}_high"], color=look["color"], alpha=0.15)
    ax.plot(weights, cell["psnr_change"], "s--", color="#4d4d4d", label="PSNR change (dB)")
    for weight in weights[cell["chosen"]]:
        ax.axvline(weight, color="#009e73", lw=6, alpha=0.25, zorder=0, label="chosen weight")
    ax.axhline(0, color="black", lw=1)
    for _, row in cell[cell[["source_gain", "unseen_gain", "psnr_change"]].min(axis=1) < LOWEST].iterrows():
        text = f"{row['source_gain']:+.0f} points\n{row['psnr_change']:+.1f} dB"
        ax.text(row["x"], LOWEST + 0.3, text, ha="center", va="bottom", fontsize=8, color="#c00000")
    ax.set_xscale("log")
    ax.set_xticks(weights, [f"{weight:g}" for weight in weights], minor=False)
    ax.set_xticks([], minor=True)
    ax.set_xlim(weights.min() / 1.5, weights.max() * 1.5)


@says_what_is_missing
def plot_equal_cost(preset: str) -> Figure:
    """Gain over plain by every mode and reader, of ResNet-18's and of unseen R's, with the picture's PSNR."""
    rows = load_table(preset, "equal_cost").query("mode != 'clean'")
    keys, rows = degradations_in(rows, preset), rows.assign(trained_on=rows["reader"].map(reader_name))
    lines = list(dict.fromkeys(zip(rows["mode"], rows["trained_on"], strict=True)))
    figure, axes = panels(1, len(keys), (3.2 + 4.2 * len(keys), 5.6), sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        for _, row in rows_of(rows, key).iterrows():
            y, colour = lines.index((row["mode"], row["trained_on"])), MODES[row["mode"]].colour
            intervals(ax, y, row, GAIN, across=True, marker="o", color=colour, ms=6)
            if row["trained_on"] == "clean pictures":
                intervals(ax, y + 0.3, row, UNSEEN, across=True, marker="s", mfc="white", color=colour, ms=6)
            ax.text(1.01, y, f"{row['psnr']:.2f}", transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        ax.text(1.01, -0.9, "PSNR", transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        ax.axvline(0, color="black", lw=1)
        ax.set(title=task_name(*key), xlabel=GAIN_AXIS)
    axes[0, 0].set_yticks(range(len(lines)), [f"{mode_name(mode)}; R on {reader}" for mode, reader in lines])
    axes[0, 0].invert_yaxis()
    for label, look in (("ResNet-18, adapted or not", {"marker": "o"}), ("unseen R's", {"marker": "s", "mfc": "white"})):
        axes[0, 0].plot([], [], ls="", color="#4d4d4d", label=label, **look)
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, frameon=False)
    return finish(figure, f"n = {sample(rows)[0]}, one seed. Bars: 95 % intervals over pictures.", below=0.08)


@says_what_is_missing
def plot_controls(preset: str) -> Figure:
    """Gain over its baseline of every control, of the source R and of the mean unseen R; a panel per degradation."""
    rows = load_table(preset, "controls")
    keys, lines = degradations_in(rows, preset), list(rows["control"].unique())
    figure, axes = panels(1, len(keys), (5 + 4.6 * len(keys), 1.6 + 0.42 * len(lines)), sharey=True)
    source = display_name(PRESETS[preset]["source_arch"])
    for ax, key in zip(axes[0], keys, strict=True):
        part = rows_of(rows, key)
        y = part["control"].map(lines.index)
        for names, shift, look, label in ((GAIN, -0.12, style.SOURCE, source), (UNSEEN, 0.12, style.UNSEEN, "mean unseen R")):
            intervals(ax, y + shift, part, names, across=True, ms=6, label=label, **look)
            for place, value in zip(y, part[names[0]], strict=True):
                if value < LOWEST:
                    text = f" {value:+.0f} points"
                    ax.text(LOWEST, place + 1.5 * shift, text, color=look["color"], va="center", fontsize=9)
        ax.axvline(0, color="black", lw=1)
        ax.set_xlim(left=max(LOWEST, part[["gain_low", "unseen_low"]].min(axis=None) - 0.5))
        ax.set(title=task_name(*key), xlabel="gain over its baseline (points)")
    axes[0, 0].set_yticks(range(len(lines)), [control_name(line) for line in lines])
    axes[0, 0].invert_yaxis()
    return finish(figure, f"{_n(rows)} Bars: 95 % intervals over pictures.", axes[0, -1], style.BESIDE_TOP)


# --- transfer


@says_what_is_missing
def plot_transfer(table: pd.DataFrame) -> Figure:
    """A direction's gains over plain with intervals, a panel per degradation; open: the same run's gain at home.

    A line per variant and reader; of many variants with many readers only their means.
    """
    table = table[table["metric"] != "ap_voc07"]
    many = table["variant"].nunique() > 2
    rows = table[table["reader"] == "mean"] if many else table
    keys, shown = degradations_in(rows, rows["preset"].iloc[0]), [mode for mode in MODES if mode in set(rows["mode"])]
    rows = rows.assign(line=[_line(row, many) for row in rows.to_dict("records")])
    lines = list(rows["line"].unique())
    figure, axes = panels(1, len(keys), (3.4 + 3.6 * len(keys), 1.6 + 0.26 * len(lines) * max(2, len(shown))), sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        for k, mode in enumerate(shown):
            part = rows_of(rows[rows["mode"] == mode], key)
            y = part["line"].map(lines.index) + (k - (len(shown) - 1) / 2) * 0.22
            intervals(ax, y, part, across=True, ms=6, label=mode_name(mode), **look_of(mode))
            ax.plot(part["reference"], y, ls="", mfc="none", ms=6, label=f"{mode_name(mode)}, at home", **look_of(mode))
        ax.set_title(task_name(*key))
        ax.set_xlabel(GAIN_AXIS)
        _name_lines(ax, lines)
    note = "Filled: top-1 (detectors: AP50) minus plain's, 95 % intervals over pictures. Open: at home."
    return finish(figure, f"{_n(rows)} {note}", axes[0, -1], style.BESIDE_TOP)


@says_what_is_missing
def plot_transfer_summary(table: pd.DataFrame) -> Figure:
    """RA's gain in every direction that was tried, beside the same run's at home: a panel per preset, a line per row."""
    table = table[table["metric"] != "ap_voc07"]
    parts = dict(iter(table.groupby("preset", sort=False)))
    figure, axes = panels(
        len(parts), 1, (9, 1.2 + 0.24 * len(table)), height_ratios=[len(rows) for rows in parts.values()], sharex=True
    )
    for ax, (preset, rows) in zip(axes[:, 0], parts.items(), strict=True):
        for y, (_, row) in enumerate(rows.iterrows()):
            colour = VERDICTS.get(row["verdict"], UNDECIDED)
            intervals(ax, y, row, across=True, marker="o", color=colour)
            ax.plot(row["reference"], y, "o", color=colour, mfc="none")
        lines = [f"{row['direction'].replace('_', ' ')}: {variant_name(row)}, {short_name(row['task'], row['strength'])}"
                 for row in rows.to_dict("records")]  # fmt: skip
        _name_lines(ax, lines, fontsize=9)
        n, seeds = (_span(rows[name]) for name in ("n_images", "n_seeds"))
        ax.set_title(f"{preset}: n = {n}, {seeds} seed{'s' * (seeds != '1')}", fontsize=11)
    axes[-1, 0].set_xlabel("RA's gain over plain, mean of the readers (points of top-1; detectors: of AP50)")
    colours = VERDICTS | {"undecided, or nothing to transfer": UNDECIDED}
    marks = [plt.Line2D([], [], marker="o", ls="", color=colour, label=name) for name, colour in colours.items()]
    marks.append(plt.Line2D([], [], marker="o", ls="", color="black", mfc="none", label="the same run at home"))
    figure.tight_layout()
    figure.legend(handles=marks, loc="upper center", ncol=4, bbox_to_anchor=(0.55, 0.0), frameon=False, fontsize=9)
    return figure


def variant_name(row: dict | pd.Series) -> str:
    """The name to show for a direction's variant; of several sources in the loss, their number."""
    if row["variant"] == "held_out":
        n = str(row["source_arch"]).count(",") + 1
        return f"{n} R{'s' * (n > 1)} in the loss"
    taught = f", taught by {display_name(row['source_arch'])}" if row["variant"].startswith("detection_") else ""
    return row["variant"].replace("_", " ") + taught


def _line(row: dict, many: bool) -> str:
    """The name of a line in the figure of transfer."""
    reader = "mean of the readers" if row["reader"] == "mean" else display_name(row["reader"])
    return variant_name(row) if many else reader if row["variant"] == "families" else f"{variant_name(row)}: {reader}"


def _span(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


# --- pieces


def _n(rows: pd.DataFrame) -> str:
    return f"n = {', '.join(sample(rows))}."


def _name_below(ax: Axes, names: Sequence[str], title: str) -> None:
    """A panel's title, and the names of its places along x."""
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    ax.set_title(title)
    ax.grid(axis="x", visible=False)


def _name_lines(ax: Axes, names: Sequence[str], **text: Any) -> None:
    """The names of a panel's lines from top to bottom, and a line at 0."""
    ax.set_yticks(range(len(names)), names, **text)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.axvline(0, color="black", lw=1)
    ax.grid(axis="y", visible=False)
