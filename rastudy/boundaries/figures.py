"""Figures of decision boundaries: distances, planes, similarities, the path from plain's picture to RA's."""

import argparse
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rastudy import registry
from rastudy.analysis import style
from rastudy.analysis.comparisons import GAIN
from rastudy.boundaries import distances as boundary
from rastudy.boundaries import measure as boundaries
from rastudy.boundaries import tables
from rastudy.boundaries.measure import main_source
from rastudy.boundaries.tables import STRATA, Measured, load_measured, load_table
from rastudy.config import Config
from rastudy.data.datasets import PictureSet
from rastudy.data.degradations import degrade, to_tensor, to_uint8
from rastudy.errors import StudyError, one_of
from rastudy.models.classifiers import load_classifier
from rastudy.paths import BATCH
from rastudy.presets import PRESETS, degradations, tasks_of
from rastudy.registry import display_name, mode_name, names_in, short_name, task_name

DRAWN = 33  # points along either axis of a plane that is drawn
STRATUM_NAMES = {"leave": "correct: leaves its class", "enter": "misclassified: enters its true class"}
PLANE_NAMES = {"random": "a random one of\nRA's spectrum", "unsupervised": "unsupervised RA's",
               "gradient": "the source model's\ngradient", "pictures": "plain, RA and\nclean picture"}  # fmt: skip
BAND_NAMES = ("below 1/8 cycle a pixel", "1/8 to 1/4", "1/4 to 3/8", "above 3/8")
SIMILARITY_NAMES = ("kappa on planes", "rank correlation\nalong RA's direction", "rank correlation\nalong a random direction")
OTHERS = "#bbbbbb"  # classes beyond the ten most frequent


def direction_name(direction: str, source: str) -> str:
    """The name to show for a direction of :mod:`rastudy.boundaries.measure`, R named where it is not ``source``."""
    kind, _, name = direction.partition(":")
    fixed = {"clean": "to the clean picture", "white": "random, white", "spectrum": "random, RA's spectrum"}
    if kind in fixed:
        return fixed[kind]
    if kind == "gradient":
        return f"gradient of {display_name(name)}"
    return mode_name(kind) if name == source else f"{mode_name(kind)} from {display_name(name)}"


def plots(preset: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Every figure that shows no picture, of all degradations that have been measured, by its name."""
    measured = tables.measured_files(preset)
    each = {"distances": lambda *key: plot_distances(load_measured(*key)), "reached": plot_reached, "pairs": plot_pairs,
            "path": plot_path}  # fmt: skip
    for key in measured:
        yield from ((f"boundary_{name}_{key[0]}{key[1]:g}", partial(plot, preset, *key)) for name, plot in each.items())
    if measured:
        yield "boundary_added", partial(plot_added, preset)
        if len(load_table(preset, "boundary_explains")):
            yield "boundary_explains", partial(plot_explains, preset)


def plot_distances(m: Measured) -> Figure:
    """How many pictures have reached a boundary within so many RA steps, RA's direction against random ones.

    A panel per stratum; lines: means of the unseen R's, between the lowest and the highest of them; of the source model dotted.
    """
    ra = f"ra:{m.source}"
    colours = {ra: registry.MODES["ra"].colour, "clean": "#009e73", "spectrum": "#000000", "white": "#999999"}
    unseen = [r for r, reader in enumerate(m.readers) if m.is_unseen(reader, ra)]
    at = np.linspace(0, boundary.REACH, 81)
    figure, axes = style.panels(1, len(STRATA), 3.0, sharey=True)
    for ax, (stratum, right) in zip(axes[0], STRATA.items(), strict=True):
        chosen = m.right == right  # R N
        counts = chosen.sum(1)
        able = [r for r in unseen if counts[r] >= tables.FEWEST]
        for direction, colour in colours.items():
            if direction not in m.directions:
                continue
            steps = m.value[:, m.directions.index(direction)] / m.step  # R N
            share = {
                r: 100 * (steps[r, chosen[r], None] <= at).mean(0) for r in range(len(counts)) if counts[r] >= tables.FEWEST
            }
            name = direction_name(direction, m.source)
            if able:
                lines = np.stack([share[r] for r in able])
                ax.plot(at, lines.mean(0), color=colour, lw=1.8, label=name)
                ax.fill_between(at, lines.min(0), lines.max(0), color=colour, alpha=0.15, lw=0)
            source = m.readers.index(m.source)
            if direction == ra and source in share:
                ax.plot(at, share[source], color=colour, ls=":", lw=1.8, label=f"{name}, {display_name(m.source)} itself")
        ax.set(xlim=(0, boundary.REACH), ylim=(0, 100), xlabel="distance in RA steps")
        ax.set_title(f"{STRATUM_NAMES[stratum]}\n(n = {counts.min()} to {counts.max()})", loc="left")
    axes[0, 0].set_ylabel("boundary reached (%)")
    task, strength = m.base["task"], m.base["strength"]
    note = f"{task_name(task, strength)}. Means of {len(unseen)} unseen recognisers; bands: their range."
    return style.finish(figure, note, axes[0, 0])


def plot_reached(preset: str, task: str, strength: float) -> Figure:
    """Share of pictures whose boundary lies within the scan, with intervals: directions x R's, a panel per stratum."""
    table = style.rows_of(load_table(preset, "boundary_distances"), (task, strength))
    table = table[(table["metric"] == "reached") & (table["reader"] != "mean_unseen")]
    readers, directions = list(table["reader"].unique()), list(table["along"].unique())
    figure, axes = style.panels(1, 2, 1.5 + 0.22 * len(directions), "white", sharey=True)
    for ax, stratum in zip(axes[0], STRATA, strict=True):
        rows = table[table["stratum"] == stratum]
        value = rows.pivot(index="along", columns="reader", values="value").reindex(index=directions, columns=readers)
        value.columns = [display_name(reader) for reader in readers]
        value.index = [direction_name(direction, main_source(preset)) for direction in directions]
        style.heatmap(ax, value, fmt=".0f", cmap="Blues", vmin=0, vmax=100, cbar=False, annot_kws={"size": 8.5})
        ax.tick_params(axis="y", rotation=0)
        ax.tick_params(axis="x", rotation=90)
        title = f"{STRATUM_NAMES[stratum]} (n = {rows['n_images'].min()} to {rows['n_images'].max()})"
        ax.set_title(title.replace(": ", ":\n"), loc="left")
        ax.set(xlabel="", ylabel="")
    note = f"{task_name(task, strength)}: boundary within {boundary.REACH:g} RA steps, % of pictures."
    return style.finish(figure, f"{note} 95 % intervals: boundary_distances.csv.")


def save_if_free(figure: Figure, preset: str, name: str) -> Path | None:
    """Save a figure of pictures if these may be published: the data set's, or those that stand for its photographs."""
    dataset = registry.dataset_of(PRESETS[preset]["dataset"])
    return style.save(figure, preset, name) if dataset.may_show or dataset.photographs else None


class Around(NamedTuple):
    """One test picture and what lies around plain's picture of it."""

    start: torch.Tensor  # (3, H, W), plain's picture
    steps: dict[str, torch.Tensor]  # from there, by direction
    gt: torch.Tensor
    label: int  # -1: unknown
    classes: tuple[str, ...]
    source: str

    def at(self, t: float) -> torch.Tensor:
        """The picture at t on the way from plain's (0) through RA's (1)."""
        return self.start + t * self.steps[f"ra:{self.source}"]


def look_around(config: Config, pictures: PictureSet, place: int, source: str) -> Around:
    """Plain's picture of a test picture, the steps to RA's from a source and to the clean one, and the directions there.

    Raises:
        StudyError: there is no such picture, or no weights of a run (with the command that makes them).
    """
    if not 0 <= place < len(pictures):
        raise StudyError(f"picture {place}: there are {len(pictures)}, from 0 to {len(pictures) - 1}")
    picture, label = pictures.pictures[place], int(pictures.labels[place])
    lq, gt = degrade(picture, config.task, config.strength, seed=place), to_tensor(picture)
    ra = f"ra:{source}"
    if not boundaries.has_weights(config, ra):
        raise StudyError(f"no weights of RA from {source}; run {boundaries.sweep_command(config)}")
    names = [name for name in (ra, f"ra_unsupervised:{source}") if boundaries.has_weights(config, name)]
    start, steps = boundaries.steps_of(config, names, lq[None], gt[None])
    net = load_classifier(source, config.dataset)
    guess = torch.tensor([label]) if label >= 0 else net(start).argmax(1)
    steps |= {f"gradient:{source}": boundaries.descent(net, start, guess)}
    steps |= {"spectrum": boundary.with_spectrum_of(steps[ra], torch.Generator().manual_seed(place))}
    return Around(start[0], {name: step[0] for name, step in steps.items()}, gt, label, pictures.classes, source)


def plot_planes(config: Config, around: Around, readers: Sequence[str]) -> Figure:
    """Label maps of one picture's planes: rows kinds of plane, columns R's; colour the class, saturation its margin.

    RA's direction runs to the right; every R sees the same planes, points and colours.
    """
    planes = boundaries.planes_of(around.steps, around.source)
    nets = {name: boundaries.logits_of(load_classifier(name, config.dataset)) for name in readers}
    maps = {(kind, name): boundary.label_map(net, around.start, plane.axes, plane.extent, DRAWN)
            for kind, plane in planes.items() for name, net in nets.items()}  # fmt: skip
    labels, counts = np.unique(np.concatenate([found.ravel() for found, _ in maps.values()]), return_counts=True)
    order = [int(label) for label in labels[np.argsort(-counts)]]
    colours = np.full((max(order) + 1, 3), to_rgb(OTHERS))
    colours[order[:10]] = sns.color_palette("tab10", 10)[: len(order)]
    figure, axes = style.panels(len(planes), len(nets), 0.6 + 1.6 * len(planes), "white")
    for row, (kind, plane) in zip(axes, planes.items(), strict=True):
        for ax, name in zip(row, nets, strict=True):
            found, margin = maps[kind, name]
            shade = (0.25 + 0.75 * margin)[..., None]
            picture = 1 - shade * (1 - colours[found])
            ax.imshow(picture, origin="lower", extent=plane.extent, interpolation="nearest", aspect="equal")
            for mode, place in plane.anchors.items():
                ax.plot(*place, registry.MODES[mode].marker, color="white", mec="black", ms=5)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(PLANE_NAMES[kind])
    for ax, name in zip(axes[0], nets, strict=True):
        ax.set_title(display_name(name))
    handles: list[Artist] = [Patch(color=colours[label], label=f"{around.classes[label]}{' (true)' * (label == around.label)}")
                             for label in order[:10]]  # fmt: skip
    handles += [Patch(color=OTHERS, label="others")] if len(order) > 10 else []
    for mode in dict.fromkeys(mode for plane in planes.values() for mode in plane.anchors):
        marker = registry.MODES[mode].marker
        handles.append(Line2D([], [], marker=marker, ls="", color="white", mec="black", ms=7, label=mode_name(mode)))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(7, len(handles)), frameon=False)
    note = "One test picture, seed 0. Along x: RA's step; along y: the direction named at the left. Pale: the model is unsure."
    return style.finish(figure, note)


def plot_pairs(preset: str, task: str, strength: float) -> Figure:
    """Matrices of R's: kappa over all planes, and rank correlations of distances along RA's and along random directions."""
    planes, pairs = (style.rows_of(load_table(preset, f"boundary_{name}"), (task, strength)) for name in ("planes", "pairs"))
    planes, pairs = planes.query("along == 'all' and metric == 'kappa'"), pairs.query("metric == 'rank' and stratum == 'leave'")
    readers = list(dict.fromkeys([*planes["reader"], *planes["other"]]))
    shown = {
        "Cohen's kappa on planes": planes,
        "rank correlation of distances\nalong RA's direction": pairs[pairs["along"] == f"ra:{main_source(preset)}"],
        "... along random directions\nof RA's spectrum": pairs[pairs["along"] == "spectrum"],
    }
    names = [display_name(r) for r in readers]
    figure, axes = style.panels(1, 3, 1.6 + 0.24 * len(readers), "white", sharey=True)
    for ax, (title, table) in zip(axes[0], shown.items(), strict=True):
        values = pd.DataFrame(np.nan, names, names)
        for row in table.itertuples():
            i, j = sorted((readers.index(row.reader), readers.index(row.other)), reverse=True)
            values.iloc[i, j] = row.value
        style.heatmap(ax, values.iloc[1:, :-1], fmt=".2f", cmap="viridis", vmin=0, vmax=1, cbar=False)
        ax.set_title(title, loc="left")
        ax.tick_params(axis="x", rotation=90)
        ax.tick_params(axis="y", rotation=0)
    low, high = pairs["n_images"].min(), pairs["n_images"].max()
    note = (
        f"{task_name(task, strength)}. Distances: of the {low} to {high} test pictures that both classify correctly. Planes: "
        f"of {planes['n_images'].max()} test pictures. 95 % intervals: boundary_pairs.csv, boundary_planes.csv."
    )
    return style.finish(figure, note)


def plot_path(preset: str, task: str, strength: float) -> Figure:
    """Top-1 of every R, PSNR and SSIM on the line from plain's pictures (0) through RA's (1), with 95 % bands."""
    table = style.rows_of(load_table(preset, "boundary_path"), (task, strength))
    table = table.assign(t=table["along"].astype(float))
    readers = list(table["reader"].dropna().unique())
    figure, axes = style.panels(1, 3, 3.2, width_ratios=(1.6, 1, 1))
    for reader in readers:
        is_source = reader == main_source(preset)
        _line(axes[0, 0], table[table["reader"] == reader], display_name(reader), is_source, **style.look_of_reader(reader))
    for ax, metric in zip(axes[0, 1:], ("psnr", "ssim"), strict=True):
        _line(ax, table[table["metric"] == metric], "", band=True, color="black", marker="o")
    for ax, ylabel in zip(axes[0], ("top-1 (%)", "PSNR (dB)", "SSIM"), strict=True):
        for t, name in ((0, "plain"), (1, "RA")):
            ax.axvline(t, color="#808080", lw=1, ls=":")
            ax.text(t, 1.01, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=8)
        ax.set(xlabel="t, of plain + t (RA - plain)", ylabel=ylabel)
    note = (
        f"{task_name(task, strength)}, n = {table['n_images'].max()} test pictures; bands: 95 % intervals, of top-1 for "
        "the source model alone."
    )
    return style.finish(figure, note, axes[0, 0], columns=4)


def _line(ax: Axes, rows: pd.DataFrame, label: str, band: bool, **look: Any) -> None:
    ax.plot(rows["t"], rows["value"], label=label, lw=1.3, ms=3, **look)
    if band:
        ax.fill_between(rows["t"], rows["low"], rows["high"], color=look["color"], alpha=0.15, lw=0)


def plot_added(preset: str) -> Figure:
    """Where the energy lies that a step from plain's picture adds: frequency bands, edges, colour; and its size."""
    table = load_table(preset, "boundary_added")
    lines = [(key, along) for key in degradations(preset) for along in style.rows_of(table, key)["along"].unique()]
    names = [f"{short_name(*key)}: {direction_name(along, main_source(preset))}" for key, along in lines]
    rows = table.set_index(["task", "strength", "along", "metric"])
    of = lambda metric: rows.loc[[(*key, along, metric) for key, along in lines]]  # noqa: E731
    figure, (axes,) = style.panels(1, 3, 1.2 + 0.2 * len(lines), sharey=True, width_ratios=(1.6, 1, 1))
    y, left = range(len(lines)), np.zeros(len(lines))
    for k, (name, colour) in enumerate(zip(BAND_NAMES, sns.color_palette("viridis", len(BAND_NAMES)), strict=True)):
        width = of(f"band{k}")["value"].to_numpy()
        axes[0].barh(y, width, left=left, color=colour, label=name)
        left += width
    for k, metric, marker, colour in ((1, "edges", "o", "#d55e00"), (1, "colour", "s", "#0072b2"),
                                      (2, "rms", "o", "black"), (2, "largest", "s", "#808080")):  # fmt: skip
        style.intervals(axes[k], y, of(metric), across=True, marker=marker, ms=4, color=colour, label=metric)
    axes[0].set(xlim=(0, 100), xlabel="% of its energy, by frequency")
    axes[0].set_yticks(y, names)
    axes[0].set_ylim(len(lines) - 0.4, -0.6)
    for ax, xlabel in zip(axes[1:], ("% of its energy", "levels of 255"), strict=True):
        ax.set_xlabel(xlabel)
        ax.set_xlim(left=0)
    for ax in axes:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2, frameon=False, fontsize=8)
        ax.grid(axis="y", visible=False)
    note = (
        f"Means over n = {table['n_images'].max()} pictures with 95 % intervals. edges: the {100 * boundaries.EDGES:.0f} % of "
        "pixels where plain's luminance is steepest; colour: not the same in all three channels."
    )
    return style.finish(figure, note)


def plot_difference(around: Around, t: float = 1.0) -> Figure:
    """Plain's picture, the one on the way to RA's at t, the clean one, and the difference to plain, amplified around grey."""
    step = t * around.steps[f"ra:{around.source}"]
    shown = {"plain": around.start, f"t = {t:g}" if t != 1 else "RA": around.at(t), "clean": around.gt,
             f"RA - plain, x{style.AMPLIFIED}": 0.5 + style.AMPLIFIED * step}  # fmt: skip
    figure, axes = style.panels(1, len(shown), 2.4, "white")
    for ax, (name, picture) in zip(axes[0], shown.items(), strict=True):
        style.show_picture(ax, to_uint8(picture))
        ax.set_title(name)
    return style.finish(figure, f"The step has an RMS of {255 * float(boundary.rms(step)):.1f} levels of 255.")


@torch.inference_mode()
def plot_strip(
    config: Config, around: Around, readers: Sequence[str], steps: Sequence[float] = (-1, 0, 0.5, 1, 1.5, 2)
) -> Figure:
    """The picture at several t on the way from plain's (0) through RA's (1), with the R's predictions, a cross where wrong."""
    nets = {name: load_classifier(name, config.dataset) for name in readers}
    columns = math.ceil(len(steps) / 2)
    figure, axes, _ = style.square(len(steps), 2.8, columns, style="white")
    for ax, t in zip(axes, steps, strict=True):
        picture = around.at(t)
        style.show_picture(ax, to_uint8(picture))
        ax.set_title("plain (t = 0)" if t == 0 else "RA (t = 1)" if t == 1 else f"t = {t:g}")
        lines = []
        for name, net in nets.items():
            best = net(picture[None]).softmax(1).max(1)
            guess = int(best.indices)
            said = f"{display_name(name)}: {around.classes[guess]} ({100 * float(best.values):.0f} %)"
            lines.append(style.verdict(said, guess, around.label))
        style.say_below(ax, lines, 8)
    return style.finish(figure, "One test picture, seed 0; t: of plain + t (RA - plain).")


def slider(config: Config, around: Around, readers: Sequence[str]) -> object:
    """A slider over t for the picture and the predictions; :func:`plot_strip` where ipywidgets is missing.

    In a batch nobody moves it, and waiting for a widget's messages has been seen to last forever: there is none.
    """
    if os.environ.get(BATCH):
        return None
    try:
        import ipywidgets
    except ImportError:
        return plot_strip(config, around, readers)
    t = ipywidgets.FloatSlider(value=1, min=-1, max=2, step=0.1, description="t", continuous_update=False)

    def show(t: float) -> None:
        plot_strip(config, around, readers, steps=[round(t, 2)])
        plt.show()

    return ipywidgets.interactive(show, t=t)


def plot_explains(preset: str) -> Figure:
    """Similarity of two R's against what RA from one gains for the other: a dot per pair, rows degradations."""
    points, tests = load_table(preset, "boundary_points"), load_table(preset, "boundary_explains")
    keys = [key for key in degradations(preset) if len(style.rows_of(points, key).dropna(subset=["kappa", "gain"])) >= 4]
    if not keys:
        raise StudyError(f"{preset}: too few pairs of recognisers; run {boundaries.command_of(preset)} --full")
    figure, axes = style.panels(len(keys), 3, 0.8 + 2.2 * len(keys), sharey="row", sharex="col")
    for row, key in zip(axes, keys, strict=True):
        here, gains = style.rows_of(points, key), style.rows_of(tests, key).query("outcome == 'gain'")
        for ax, similarity in zip(row, tables.SIMILARITIES, strict=True):
            for source in sorted(points["source"].unique(), key=list(registry.RECOGNISERS).index):
                of = here[here["source"] == source]
                look = style.look_of_reader(source) | {"ls": "", "ms": 4, "lw": 1, "label": display_name(source)}
                style.intervals(ax, of[similarity], of, GAIN, **look)
            found = gains[gains["similarity"] == similarity].itertuples()
            names = {"mantel": "all pairs", "targets": "targets of one source"}
            ax.set_title("\n".join(f"{names[t.test]}: rho {t.rho:+.2f}, p {t.p_holm:.2g}" for t in found), fontsize=8)
            ax.axhline(0, color="black", lw=1)
        row[0].set_ylabel(f"{short_name(*key)}\ngain of the target (pp)")
    for ax, name in zip(axes[-1], SIMILARITY_NAMES, strict=True):
        ax.set_xlabel(name)
    note = (
        "A dot: an ordered pair of R's, coloured by the source; bars: 95 % intervals over pictures. p: by permuting networks, "
        "Holm-corrected over all tests of this data set."
    )
    return style.finish(figure, note, axes[0, -1])


def boundaries_command(args: argparse.Namespace) -> None:
    """``rastudy boundaries``: measure what is missing, rebuild tables and figures."""
    for preset in args.preset:
        one_of("preset", preset, PRESETS)
        if args.tables:
            paths = tables.make_tables(preset)
        else:
            if args.task:
                one_of("task", args.task, tasks_of(preset))
            keys = degradations(preset, args.task)
            registry.check_folder(args.data, PRESETS[preset]["dataset"])
            where = {"data_dir": args.data, "device": args.device}
            log, boxes = partial(print, flush=True), names_in(args.black_box)
            paths = tables.update(preset, keys, args.full, args.jobs, args.pictures, log, boxes, **where)
        print(*paths, *style.save_each(preset, plots(preset)), sep="\n")
