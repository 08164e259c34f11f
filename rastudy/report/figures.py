"""Figures of the tables: ``plot_*(data) -> Figure``. This module, ``boundary_plots`` and ``gallery`` alone know matplotlib.

Names, colours and order of modes and R's are fixed here; an unknown one raises. Every figure states n and shows an
interval or the spread over seeds; differences to plain use a diverging map centred on 0.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rastudy import registry
from rastudy.analysis.comparisons import GAIN, UNSEEN
from rastudy.analysis.controls import control_name
from rastudy.analysis.style import note, rows_of
from rastudy.analysis.tables import load_table, main_cells, paper_gains, without_variants
from rastudy.config import make_config
from rastudy.errors import StudyError
from rastudy.presets import PRESETS, degradations
from rastudy.registry import display_name, mode_name, reader_name, short_name, task_name
from rastudy.training.run_store import read_curves

LOWEST = -8  # of the trade-off's and the controls' axes: what lies below is told in words


def plot_accuracy(preset: str) -> Figure:
    """Top-1 of every R under every mode, with 95 % intervals over pictures; a panel per degradation."""
    table = without_variants(main_cells(load_table(preset, "accuracy"), preset))
    rows = table[table["metric"] == "top1"]
    keys, targets = _present(rows, preset), list(rows["target_arch"].unique())
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(1, len(keys), figsize=(1 + 4.6 * len(keys), 4.6), sharey=True, squeeze=False)
    modes = [mode for mode in ("clean", *reversed(registry.modes("paper")), "none") if mode in set(rows["mode"])]
    for ax, key in zip(axes[0], keys, strict=True):
        part = rows_of(rows, key)
        for k, mode in enumerate(modes):
            look = registry.MODES[mode]
            cell = part[part["mode"] == mode].set_index("target_arch").reindex(targets)
            x = np.arange(len(targets)) + (k - (len(modes) - 1) / 2) * 0.11
            error = [cell["value"] - cell["low"], cell["high"] - cell["value"]]
            ax.errorbar(x, cell["value"], error, fmt=look.marker, color=look.colour, ms=6, lw=1.5, label=look.shown)
        ax.set_xticks(range(len(targets)), [display_name(arch) for arch in targets], rotation=30, ha="right")
        ax.set_title(task_name(*key))
        ax.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("top-1 (%)")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    note(
        figure,
        rows,
        f"Bars: 95 % intervals over pictures. R in the loss: {display_name(PRESETS[preset]['source_arch'])}.",
    )
    return figure


def _present(rows: pd.DataFrame, preset: str) -> list[tuple[str, float]]:
    """The preset's degradations that a table has rows of; StudyError where there is none."""
    keys = [key for key in degradations(preset) if len(rows_of(rows, key))]
    if not keys:
        raise StudyError(
            f"results/{preset} holds no such run with the preset's own settings, so there is nothing to draw; run python -m "
            f"rastudy.sweep.sweep --preset {preset} (runs with other settings are other cells)"
        )
    return keys


def _diverging(values: pd.DataFrame) -> dict:
    limit = max(float(np.nanmax(np.abs(values.to_numpy()))), 0.1)
    return {"cmap": "RdBu", "center": 0, "vmin": -limit, "vmax": limit, "linewidths": 1, "linecolor": "white"}


def _signed(value: float, low: float, high: float) -> str:
    return f"{value:+.1f}\n[{low:+.1f}, {high:+.1f}]" if np.isfinite(value) else ""


def plot_gains(preset: str) -> Figure:
    """Difference to plain in points, RA modes x target R's, a panel per degradation; intervals in the cells."""
    rows = without_variants(main_cells(load_table(preset, "gains"), preset))
    keys, modes = _present(rows, preset), [mode for mode in registry.modes("paper")[1:] if mode in set(rows["mode"])]
    targets = list(rows["target_arch"].unique())
    sns.set_theme(style="white", context="notebook")
    figure, axes = plt.subplots(len(keys), 1, figsize=(11.5, 0.9 + 1.05 * len(keys) * len(modes)), squeeze=False)
    style = _diverging(rows[["value"]])
    for ax, key in zip(axes[:, 0], keys, strict=True):
        _gain_panel(ax, rows_of(rows, key), "mode", modes, targets, style)
        ax.set_yticklabels([mode_name(mode) for mode in modes], rotation=0)
        ax.set_title(task_name(*key), loc="left")
    figure.tight_layout()
    note(figure, rows, "Top-1 minus plain's on the same pictures, in points; 95 % intervals over pictures.")
    return figure


def plot_matrix(preset: str) -> Figure:
    """Gain of ``ra`` over plain by source R (rows) and target R (columns), a panel per degradation."""
    rows = without_variants(load_table(preset, "gains"))
    rows = rows[(rows["mode"] == "ra") & (rows["baseline"] == "plain") & ~rows["source_arch"].str.contains(",")]
    # the main cells but for their R
    rows = rows.loc[main_cells(rows.assign(source_arch=PRESETS[preset]["source_arch"]), preset).index]
    keys = [key for key in _present(rows, preset) if rows_of(rows, key)["source_arch"].nunique() > 1]
    keys = keys or _present(rows, preset)[:1]
    targets = list(rows["target_arch"].unique())
    sources = [arch for arch in targets if arch in set(rows["source_arch"])]
    sns.set_theme(style="white", context="notebook")
    height = 1.3 + 0.75 * len(sources)
    figure, axes = plt.subplots(len(keys), 1, figsize=(11.5, height * len(keys)), squeeze=False)
    shown = pd.concat([rows_of(rows, key) for key in keys])
    for ax, key in zip(axes[:, 0], keys, strict=True):
        _gain_panel(ax, rows_of(rows, key), "source_arch", sources, targets, _diverging(shown[["value"]]))
        ax.set_yticklabels([display_name(arch) for arch in sources], rotation=0)
        ax.set_ylabel("R in the loss")
        ax.set_title(task_name(*key), loc="left")
    figure.tight_layout()
    note(figure, shown, "RA's top-1 minus plain's, in points; 95 % intervals over pictures.")
    return figure


def _gain_panel(ax, rows: pd.DataFrame, index: str, order: Sequence[str], targets: Sequence[str], style: dict) -> None:
    rows = rows.assign(text=[_signed(*v) for v in rows[["value", "low", "high"]].to_numpy()])
    values = rows.pivot(index=index, columns="target_arch", values="value").reindex(order)[list(targets)]
    text = rows.pivot(index=index, columns="target_arch", values="text").reindex(order)[list(targets)].fillna("")
    sns.heatmap(values, annot=text, fmt="", ax=ax, annot_kws={"size": 9}, cbar_kws={"label": "points"}, **style)
    ax.set_xticklabels([display_name(arch) for arch in targets], rotation=0)
    ax.set(xlabel="", ylabel="")


def plot_paper(preset: str) -> Figure:
    """Our gains beside the paper's (ImageNet), by task and mode: each R a point, ours with intervals.

    Of a task with several strengths, the paper's: sr x4.
    """
    ours, paper = without_variants(main_cells(load_table(preset, "gains"), preset)), paper_gains()
    keys = [key for key in _present(ours, preset) if key[0] != "sr" or key[1] == 4]
    modes = [mode for mode in ("ra", "ra_unsupervised") if mode in set(ours["mode"])]
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(1, len(keys), figsize=(1 + 4.4 * len(keys), 4.2), sharey=True, squeeze=False)
    names = [display_name(arch) for arch in ours.loc[ours["role"] != "mean_unseen", "target_arch"].unique()]
    for ax, key in zip(axes[0], keys, strict=True):
        for k, mode in enumerate(modes):
            look = registry.MODES[mode]
            mine = rows_of(ours[(ours["mode"] == mode) & (ours["role"] != "mean_unseen")], key)
            mine = mine.assign(name=mine["target_arch"].map(display_name)).set_index("name").reindex(names)
            theirs = paper[(paper["task"] == key[0]) & (paper["mode"] == mode)]
            theirs = theirs.assign(name=theirs["target_arch"].map(display_name)).set_index("name").reindex(names)
            x = np.arange(len(names)) + (k - 0.5) * 0.3
            error = [mine["value"] - mine["low"], mine["high"] - mine["value"]]
            ax.errorbar(x, mine["value"], error, fmt=look.marker, color=look.colour, ms=7, label=f"{mode_name(mode)}, ours")
            ax.plot(x + 0.1, theirs["value"], look.marker, color=look.colour, mfc="none", ms=7, label=f"{mode_name(mode)}, paper")
        ax.axhline(0, color="black", lw=1)
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
        ax.set_title(task_name(*key))
        ax.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("gain over plain (points)")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    note(figure, ours, "Filled: ours, with 95 % intervals. Open: the paper, ImageNet, n = 50,000, one run a cell.")
    return figure


def plot_tradeoff(preset: str) -> Figure:
    """Validation: gain of source and unseen R's, and PSNR change, against the weight; the chosen weight is marked."""
    rows = load_table(preset, "tradeoff")
    rows = rows[rows["mode"] != "ra_transformer"]  # whose weight changes nothing
    keys, modes = _present(rows, preset), [mode for mode in registry.MODES if mode in set(rows["mode"])]
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(
        len(modes), len(keys), figsize=(1 + 4.4 * len(keys), 3.6 * len(modes)), sharey=True, squeeze=False
    )
    lowest = max(LOWEST, rows[["source_low", "unseen_low", "psnr_change"]].min(axis=None) - 0.5)
    highest = rows[["source_high", "unseen_high"]].max(axis=None) + 0.5
    for mode, line in zip(modes, axes, strict=True):
        for key, ax in zip(keys, line, strict=True):
            cell = rows_of(rows[rows["mode"] == mode], key).sort_values("ra_weight")
            if not len(cell):
                ax.set_axis_off()
                continue
            for role, colour, marker in (("source", "#d55e00", "^"), ("unseen", "#0072b2", "o")):
                label = {"source": "source R", "unseen": "mean unseen R"}[role]
                ax.plot(cell["ra_weight"], cell[f"{role}_gain"], color=colour, marker=marker, label=f"{label} (points)")
                ax.fill_between(cell["ra_weight"], cell[f"{role}_low"], cell[f"{role}_high"], color=colour, alpha=0.15)
            ax.plot(cell["ra_weight"], cell["psnr_change"], "s--", color="#4d4d4d", label="PSNR change (dB)")
            for weight in cell.loc[cell["chosen"], "ra_weight"]:
                ax.axvline(weight, color="#009e73", lw=6, alpha=0.25, zorder=0, label="chosen weight")
            ax.axhline(0, color="black", lw=1)
            for _, row in cell[cell[["source_gain", "unseen_gain", "psnr_change"]].min(axis=1) < LOWEST].iterrows():
                text = f"{row['source_gain']:+.0f} points\n{row['psnr_change']:+.1f} dB"
                ax.text(row["ra_weight"], LOWEST + 0.3, text, ha="center", va="bottom", fontsize=8, color="#c00000")
            ax.set(xscale="log", ylim=(lowest, highest))
            ax.set_xticks(cell["ra_weight"], [f"{weight:g}" for weight in cell["ra_weight"]], minor=False)
            ax.set_xticks([], minor=True)
            ax.set_xlim(cell["ra_weight"].min() / 1.5, cell["ra_weight"].max() * 1.5)
            ax.set_title(f"{task_name(*key)}, {mode_name(mode)}", fontsize=11)
        first = next(ax for ax in line if ax.axison)
        first.set_ylabel("change against plain")
        first.tick_params(labelleft=True)
    for ax in axes[-1]:
        ax.set_xlabel("recognition weight")
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    figure.tight_layout()
    n, groups = int(rows["n_images"].max()), int(rows["n_groups"].max())
    of = f" of {groups:,} digits" if groups != n else ""
    figure.text(0.5, -0.01, f"n = {n:,} validation pictures{of}, one seed. Bands: 95 % intervals over pictures.",
                ha="center", va="top", fontsize=9)  # fmt: skip
    return figure


def plot_equal_cost(preset: str) -> Figure:
    """Gain over plain by every mode and reader, of ResNet-18's and of unseen R's, with the picture's PSNR."""
    rows = load_table(preset, "equal_cost")
    rows = rows[rows["mode"] != "clean"]
    keys = _present(rows, preset)
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(1, len(keys), figsize=(3.2 + 4.2 * len(keys), 5.6), sharey=True, squeeze=False)
    lines = list(dict.fromkeys(zip(rows["mode"], rows["reader"].map(reader_name), strict=True)))
    for ax, key in zip(axes[0], keys, strict=False):
        part = rows_of(rows, key)
        for row in part.to_dict("records"):
            y = lines.index((row["mode"], reader_name(row["reader"])))
            look = registry.MODES[row["mode"]]
            error = [[row["gain"] - row["gain_low"]], [row["gain_high"] - row["gain"]]]
            ax.errorbar(row["gain"], y, xerr=error, fmt="o", color=look.colour, ms=6)
            if reader_name(row["reader"]) == "clean pictures":
                error = [[row["unseen_gain"] - row["unseen_low"]], [row["unseen_high"] - row["unseen_gain"]]]
                ax.errorbar(row["unseen_gain"], y + 0.3, xerr=error, fmt="s", mfc="white", color=look.colour, ms=6)
            ax.text(1.01, y, f"{row['psnr']:.2f}", transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        ax.text(1.01, -0.9, "PSNR", transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        ax.axvline(0, color="black", lw=1)
        ax.set(title=task_name(*key), xlabel="gain over plain (points)")
    axes[0, 0].set_yticks(range(len(lines)), [f"{mode_name(mode)}; R on {reader}" for mode, reader in lines])
    axes[0, 0].invert_yaxis()
    for label, style in (("ResNet-18, adapted or not", {"marker": "o"}), ("unseen R's", {"marker": "s", "mfc": "white"})):
        axes[0, 0].plot([], [], ls="", color="#4d4d4d", label=label, **style)
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, frameon=False)
    figure.tight_layout()
    n = int(rows["n_images"].max()) if len(rows) else 0
    figure.text(0.5, -0.08, f"n = {n:,} test pictures, one seed. Bars: 95 % intervals over pictures.", ha="center", va="top",
                fontsize=9)  # fmt: skip
    return figure


def plot_controls(preset: str) -> Figure:
    """Gain over its baseline of every control, of the source R and of the mean unseen R; a panel per degradation."""
    rows = load_table(preset, "controls")
    keys, lines = _present(rows, preset), list(dict.fromkeys(rows["control"]))
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(
        1, max(len(keys), 1), figsize=(5 + 4.6 * len(keys), 1.6 + 0.42 * len(lines)), sharey=True, squeeze=False
    )
    for ax, key in zip(axes[0], keys, strict=False):
        part = rows_of(rows, key)
        y = part["control"].map(lines.index)
        for names, shift, colour, marker, label in (
            (GAIN, -0.12, "#d55e00", "^", display_name(PRESETS[preset]["source_arch"])),
            (UNSEEN, 0.12, "#0072b2", "o", "mean unseen R"),
        ):
            value, low, high = (part[name] for name in names)
            ax.errorbar(value, y + shift, xerr=[value - low, high - value], fmt=marker, color=colour, ms=6, label=label)
            for y_, value_ in zip(y, value, strict=True):
                if value_ < LOWEST:
                    ax.text(LOWEST, y_ + 1.5 * shift, f" {value_:+.0f} points", color=colour, va="center", fontsize=9)
        ax.axvline(0, color="black", lw=1)
        ax.set_xlim(left=max(LOWEST, part[["gain_low", "unseen_low"]].min(axis=None) - 0.5))
        ax.set(title=task_name(*key), xlabel="gain over its baseline (points)")
    axes[0, 0].set_yticks(range(len(lines)), [control_name(line) for line in lines])
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    figure.tight_layout()
    note(figure, rows, "Bars: 95 % intervals over pictures.")
    return figure


def plot_curves(preset: str, seed: int = 0) -> Figure:
    """Training curves of the main comparison's runs, one seed: image loss per picture seen, pretraining included."""
    keys, curves = degradations(preset), {run: pd.DataFrame(rows) for run, rows in read_curves(preset).items()}
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(1, len(keys), figsize=(1 + 4.4 * len(keys), 3.8), squeeze=False)
    for ax, (task, strength) in zip(axes[0], keys, strict=True):
        runs = [make_config(preset, task, mode, seed=seed, strength=strength) for mode in PRESETS[preset]["modes"]]
        start = curves.get(runs[0].pretraining.run_id) if runs[0].pretraining else None
        if start is not None:
            ax.plot(start["images"] / 1000, start["image_loss"], color=registry.MODES["none"].colour, lw=3, label="pretraining")
        for run in runs:
            curve = curves.get(run.run_id)
            if curve is not None:
                look = registry.MODES[run.mode]
                style = {"ls": "--", "lw": 3} if run.mode == "plain" else {"lw": 1.3}
                seen = curve["images"] + (0 if start is None else start["images"].iloc[-1])
                ax.plot(seen / 1000, curve["image_loss"], color=look.colour, label=look.shown, **style)
        ax.set(yscale="log", xlabel="thousand pictures seen", title=task_name(task, strength))
    axes[0, 0].set_ylabel("image loss (MSE)")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    figure.text(0.5, -0.01, f"Means between the points, one run each (seed {seed}). RA with T trains P as plain does.",
                ha="center", va="top", fontsize=9)  # fmt: skip
    return figure


def plot_strengths(table: pd.DataFrame, preset: str) -> Figure:
    """Top-1 of every R against the strength of each degradation; the preset's strength is marked."""
    tasks = list(table["task"].unique())
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(1, len(tasks), figsize=(1 + 4.2 * len(tasks), 3.8), sharey=True, squeeze=False)
    palette = sns.color_palette("colorblind", table["target_arch"].nunique())
    for ax, task in zip(axes[0], tasks, strict=True):
        part = table[table["task"] == task]
        for colour, (arch, line) in zip(palette, part.groupby("target_arch", sort=False), strict=True):
            ax.plot(line["strength"], line["top1"], "o-", color=colour, ms=5, label=display_name(arch))
        for k, (_, strength) in enumerate(degradations(preset, task)):
            ax.axvline(strength, color="#009e73", lw=6, alpha=0.25, label="the study's" if k == 0 else None)
        ax.set(title=task_name(task), xlabel={"sr": "factor", "dn": "sigma", "jpeg": "quality"}[task])
        ax.set_xticks(part["strength"].unique())
        ax.grid(axis="x", visible=False)
    axes[0, 0].set(ylabel="top-1 (%)", ylim=(0, 102))
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    figure.text(0.5, -0.01, f"n = {int(table['n_images'].max())} validation pictures, no processing.",
                ha="center", va="top", fontsize=9)  # fmt: skip
    return figure


BARS = {"release / ours": 1.4, "share of the bound": 0.9, "cache / decoding": 5.0}  # what the benchmark must reach


OPERATIONS = {  # of the profile's kinds, its largest
    "convolution, backward": ("convolution_backward",), "convolution": ("mkldnn_convolution",),
    "PReLU, both ways": ("_prelu_kernel", "_prelu_kernel_backward"), "pixel shuffle": ("pixel_shuffle", "pixel_unshuffle"),
    "all else": (),
}  # fmt: skip


def plot_benchmark(table: pd.DataFrame) -> Figure:
    """The ratios beside what they must reach, where our training step's time goes, and how an evaluation grows."""
    sns.set_theme(style="whitegrid", context="notebook")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), width_ratios=(1, 1, 1))
    ratios = table[table["unit"] == "ratio"].set_index("variant").loc[list(BARS)]
    for k, (name, row) in enumerate(ratios.iterrows()):
        bar = BARS[name]
        left.barh(k, row["value"] / bar, xerr=[[(row["value"] - row["low"]) / bar], [(row["high"] - row["value"]) / bar]],
                  color="#0072b2", capsize=3)  # fmt: skip
        left.text(max(row["high"] / bar, 1) + 0.1, k, f"{row['value']:.3g}\n(bar {bar:g})", va="center", fontsize=10)
    left.axvline(1, color="#d55e00", lw=2)
    left.set_yticks(range(len(ratios)), ["RA step:\nrelease / ours", "evaluation:\nshare of bound", "input:\ncache / decoding"])
    left.set(xlabel="measured / bar (median, quartiles)", xlim=(0, 1.35 * (ratios["high"] / list(BARS.values())).max()))
    layers = table[table["part"] == "layers"].set_index("variant")
    whole = layers.loc["whole step", "value"]
    parts = dict.fromkeys(OPERATIONS, 0.0)
    for name, value in layers["value"].drop("whole step").items():
        parts[next((shown for shown, kinds in OPERATIONS.items() if name.split(" ")[0] in kinds), "all else")] += value
    parts["all else"] = whole - sum(value for name, value in parts.items() if name != "all else")
    middle.barh(list(parts), [100 * value / whole for value in parts.values()], color="#009e73")
    middle.invert_yaxis()
    speeds = table[(table["part"] == "training step") & (table["unit"] == "GFLOP/s")].set_index("variant")["value"]
    middle.set(xlabel="share of our training step (%)", title=(
        f"ours {speeds['ours']:.0f} GFLOP/s, release {speeds['release']:.0f}, matrix product {speeds['peak']:.0f}"
    ))  # fmt: skip
    middle.title.set_fontsize(10)
    for name, rows in table[(table["part"] == "growth") & (table["unit"] == "s")].groupby("variant"):
        spread = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        exponent = table[table["part"] == "growth"].set_index("variant").loc[f"{name}: exponent", "value"]
        right.errorbar(rows["n"], rows["value"], spread, marker="o", label=f"{name}, time ~ n^{exponent:.2f}")
    right.set(xscale="log", yscale="log", xlabel="pictures, or R's", ylabel="seconds of an evaluation")
    right.legend(fontsize=10)
    figure.suptitle(table["machine"].iloc[0], fontsize=10)
    figure.tight_layout()
    return figure


def plot_transfer(table: pd.DataFrame) -> Figure:
    """A direction's gains over plain with intervals, a panel per degradation; open: the same run's gain at home.

    A line per variant and reader; of many variants with many readers, their means alone.
    """
    table = table[table["metric"] != "ap_voc07"]
    many = table["variant"].nunique() > 2
    rows = table[table["reader"] == "mean"] if many else table
    preset = rows["preset"].iloc[0]
    keys = [key for key in degradations(preset) if len(rows_of(rows, key))]
    modes = [mode for mode in registry.MODES if mode in set(rows["mode"])]
    rows = rows.assign(line=[_line(row, many) for row in rows.to_dict("records")])
    lines = list(dict.fromkeys(rows["line"]))
    sns.set_theme(style="whitegrid", context="notebook")
    size = (3.4 + 3.6 * len(keys), 1.6 + 0.26 * len(lines) * max(2, len(modes)))
    figure, axes = plt.subplots(1, len(keys), figsize=size, sharey=True, squeeze=False)
    for ax, key in zip(axes[0], keys, strict=True):
        for k, mode in enumerate(modes):
            look = registry.MODES[mode]
            part = rows_of(rows[rows["mode"] == mode], key)
            y = np.array([lines.index(line) for line in part["line"]]) + (k - (len(modes) - 1) / 2) * 0.22
            error = [part["value"] - part["low"], part["high"] - part["value"]]
            ax.errorbar(part["value"], y, xerr=error, fmt=look.marker, color=look.colour, ms=6, label=look.shown)
            ax.plot(part["reference"], y, look.marker, color=look.colour, mfc="none", ms=6, label=f"{look.shown}, at home")
        ax.axvline(0, color="black", lw=1)
        ax.set(title=task_name(*key), xlabel="gain over plain (points)")
        ax.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(lines)), lines)
    axes[0, 0].set_ylim(len(lines) - 0.4, -0.6)
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    figure.tight_layout()
    note(figure, rows, "Filled: top-1 (detectors: AP50) minus plain's, 95 % intervals over pictures. Open: at home.")
    return figure


def plot_transfer_summary(table: pd.DataFrame) -> Figure:
    """RA's gain in every direction that was tried, beside the same run's at home: a panel per preset, a line per row."""
    table = table[table["metric"] != "ap_voc07"]
    colours = {"transfers": "#0072b2", "does not": "#d55e00"}
    presets = list(table["preset"].unique())
    heights = [len(table[table["preset"] == preset]) for preset in presets]
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(
        len(presets), 1, figsize=(9, 1.2 + 0.24 * sum(heights)), height_ratios=heights, squeeze=False, sharex=True
    )
    for ax, preset in zip(axes[:, 0], presets, strict=True):
        rows = table[table["preset"] == preset]
        for y, row in enumerate(rows.to_dict("records")):
            colour = colours.get(row["verdict"], "#808080")
            ax.errorbar(
                row["value"], y, xerr=[[row["value"] - row["low"]], [row["high"] - row["value"]]], fmt="o", color=colour
            )
            ax.plot(row["reference"], y, "o", color=colour, mfc="none")
        lines = [f"{row['direction'].replace('_', ' ')}: {variant_name(row)}, {short_name(row['task'], row['strength'])}"
                 for row in rows.to_dict("records")]  # fmt: skip
        ax.set_yticks(range(len(lines)), lines, fontsize=9)
        ax.set_ylim(len(lines) - 0.4, -0.6)
        ax.axvline(0, color="black", lw=1)
        n, seeds = (_span(rows[name]) for name in ("n_images", "n_seeds"))
        ax.set_title(f"{preset}: n = {n}, {seeds} seed{'s' * (seeds != '1')}", fontsize=11)
        ax.grid(axis="y", visible=False)
    axes[-1, 0].set_xlabel("RA's gain over plain, mean of the readers (points of top-1; detectors: of AP50)")
    marks = [plt.Line2D([], [], marker="o", ls="", color=colour, label=name) for name, colour in (
        *colours.items(), ("undecided, or nothing to transfer", "#808080"))]  # fmt: skip
    marks.append(plt.Line2D([], [], marker="o", ls="", color="black", mfc="none", label="the same run at home"))
    figure.tight_layout()
    figure.legend(handles=marks, loc="upper center", ncol=4, bbox_to_anchor=(0.55, 0.0), frameon=False, fontsize=9)
    return figure


def _span(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def variant_name(row: dict | pd.Series) -> str:
    """A direction's variant for people; of several sources their number."""
    if row["variant"] == "held_out":
        n = str(row["source_arch"]).count(",") + 1
        return f"{n} R{'s' * (n > 1)} in the loss"
    taught = f", taught by {display_name(row['source_arch'])}" if row["variant"].startswith("detection_") else ""
    return row["variant"].replace("_", " ") + taught


def _line(row: dict, many: bool) -> str:
    """What a line of the figure of transfer stands for."""
    reader = "mean of the readers" if row["reader"] == "mean" else display_name(row["reader"])
    return variant_name(row) if many else reader if row["variant"] == "families" else f"{variant_name(row)}: {reader}"
