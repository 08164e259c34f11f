"""Figures of decision boundaries: distances, planes, similarities, the path from plain's picture to RA's."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
from rastudy.analysis.style import AMPLIFIED, rows_of, save, show_picture, theme, verdict_colour
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
from rastudy.presets import PRESETS, degradations
from rastudy.registry import display_name, mode_name, task_name

DRAWN = 33  # points along either axis of a plane that is drawn
STRATUM_NAMES = {"leave": "read rightly: leaves its class", "enter": "misread: enters its true class"}
PLANE_NAMES = {"random": "a random one of\nRA's spectrum", "unsupervised": "unsupervised RA's",
               "gradient": "the source R's\ngradient", "pictures": "plain, RA and\nclean picture"}  # fmt: skip
BAND_NAMES = ("below 1/8 cycle a pixel", "1/8 to 1/4", "1/4 to 3/8", "above 3/8")
SIMILARITY_NAMES = ("kappa on planes", "rank correlation along RA's direction", "along a random one")
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


def reader_colours(readers: Sequence[str]) -> dict[str, tuple]:
    return dict(zip(readers, sns.color_palette("colorblind", len(readers)), strict=True))


def _note(figure: Figure, y: float, text: str) -> None:
    figure.text(0.5, y, text, ha="center", va="top", fontsize=9)


def draw(preset: str) -> list[Path]:
    """Draw and save every figure that shows no picture, of all degradations that have been measured."""
    paths = []
    for key in tables.measured_files(preset):
        figures = {"distances": plot_distances(load_measured(preset, *key)), "reached": plot_reached(preset, *key),
                   "pairs": plot_pairs(preset, *key), "path": plot_path(preset, *key)}  # fmt: skip
        paths += [save(figure, preset, f"boundary_{name}_{key[0]}{key[1]:g}") for name, figure in figures.items()]
        plt.close("all")
    paths.append(save(plot_added(preset), preset, "boundary_added"))
    if len(load_table(preset, "boundary_explains")):
        paths.append(save(plot_explains(preset), preset, "boundary_explains"))
    return paths


def plot_distances(m: Measured) -> Figure:
    """How many pictures have reached a boundary within so many RA steps: columns directions, rows strata, a line per R."""
    other = next((d for d in m.directions if d.startswith("gradient:") and d != f"gradient:{m.source}"), None)
    wanted = [f"ra:{m.source}", f"ra_unsupervised:{m.source}", "clean", "spectrum", "white", f"gradient:{m.source}", other]
    directions = [d for d in wanted if d in m.directions]
    colours = reader_colours(m.readers)
    theme("whitegrid")
    figure, axes = plt.subplots(2, len(directions), figsize=(2.5 * len(directions), 5.6), sharex=True, sharey="row")
    for row, (stratum, right) in zip(axes, STRATA.items(), strict=True):
        chosen = m.right == right  # R N
        counts = chosen.sum(1)
        for ax, direction in zip(row, directions, strict=True):
            for r in np.flatnonzero(counts >= tables.FEWEST):
                steps = np.sort(m.value[r, m.directions.index(direction), chosen[r]] / m.step[chosen[r]])
                share = 100 * np.arange(1, len(steps) + 1) / len(steps)
                share[np.isinf(steps)] = 100 * np.isfinite(steps).mean()
                at, share = np.r_[0, np.minimum(steps, boundary.REACH)], np.r_[0, share]
                reader = m.readers[r]
                ax.step(at, share, where="post", color=colours[reader], lw=1.5, label=display_name(reader))
            ax.set(xlim=(0, boundary.REACH), ylim=(0, 100))
        row[0].set_ylabel(f"{STRATUM_NAMES[stratum]}\n(% of {counts.min()} to {counts.max()})", fontsize=10)
    for ax, direction in zip(axes[0], directions, strict=True):
        ax.set_title(direction_name(direction, m.source).replace(" of ", "\nof ").replace(", ", ",\n"), fontsize=10.5)
    figure.supxlabel("distance in RA steps", fontsize=11)
    figure.tight_layout()
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), frameon=False, fontsize=10)
    return figure


def plot_reached(preset: str, task: str, strength: float) -> Figure:
    """Share of pictures whose boundary lies within the scan, with intervals: directions x R's, a panel per stratum."""
    table = rows_of(load_table(preset, "boundary_distances"), (task, strength))
    table = table[(table["metric"] == "reached") & (table["reader"] != "mean_unseen")]
    readers, directions = list(table["reader"].unique()), list(table["along"].unique())
    text = [f"{row.value:.0f}\n[{row.low:.0f}, {row.high:.0f}]" for row in table.itertuples()]
    table = table.assign(text=text)
    theme("white")
    size = (3.6 + 2 * 0.95 * len(readers), 1.4 + 0.52 * len(directions))
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True)
    for ax, stratum in zip(axes, STRATA, strict=True):
        rows = table[table["stratum"] == stratum]
        value, text = (
            rows.pivot(index="along", columns="reader", values=what).reindex(index=directions, columns=readers)
            for what in ("value", "text")
        )
        sns.heatmap(value.astype(float), annot=text.fillna(""), fmt="", ax=ax, cmap="Blues", vmin=0, vmax=100,
                    cbar=ax is axes[-1], cbar_kws={"label": "% of pictures"}, annot_kws={"size": 8}, linewidths=1)  # fmt: skip
        ax.set_xticklabels([display_name(r).replace(" ", "\n").replace("-", "-\n", 1) for r in readers], rotation=0, fontsize=9)
        title = f"{STRATUM_NAMES[stratum]} (n = {rows['n_images'].min()} to {rows['n_images'].max()})"
        ax.set_title(title.replace(": ", ":\n"), loc="left", fontsize=11)
        ax.set(xlabel="", ylabel="")
    names = [direction_name(d, main_source(preset)) for d in directions]
    axes[0].set_yticklabels(names, rotation=0, fontsize=10)
    figure.suptitle(f"{task_name(task, strength)}: a boundary within {boundary.REACH:g} RA steps, %", x=0.02, ha="left")
    figure.tight_layout()
    return figure


def save_if_free(figure: Figure, preset: str, name: str) -> Path | None:
    """Save a figure of pictures if these may be published: the data set's, or those that stand for its photographs."""
    dataset = registry.dataset_of(PRESETS[preset]["dataset"])
    return save(figure, preset, name) if dataset.may_show or dataset.photographs else None


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
    nets = {name: boundaries.reader_of(load_classifier(name, config.dataset)) for name in readers}
    maps = {(kind, name): boundary.label_map(net, around.start, plane.axes, plane.extent, DRAWN)
            for kind, plane in planes.items() for name, net in nets.items()}  # fmt: skip
    labels, counts = np.unique(np.concatenate([found.ravel() for found, _ in maps.values()]), return_counts=True)
    order = [int(label) for label in labels[np.argsort(-counts)]]
    colours = np.full((max(order) + 1, 3), to_rgb(OTHERS))
    colours[order[:10]] = sns.color_palette("tab10", 10)[: len(order)]
    theme("white")
    figure, axes = plt.subplots(len(planes), len(nets), figsize=(2.15 * len(nets), 2.2 * len(planes)), squeeze=False)
    for row, (kind, plane) in zip(axes, planes.items(), strict=True):
        for ax, name in zip(row, nets, strict=True):
            found, margin = maps[kind, name]
            shade = (0.25 + 0.75 * margin)[..., None]
            picture = 1 - shade * (1 - colours[found])
            ax.imshow(picture, origin="lower", extent=plane.extent, interpolation="nearest", aspect="equal")
            for mode, place in plane.anchors.items():
                ax.plot(*place, registry.MODES[mode].marker, color="white", mec="black", ms=7)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(PLANE_NAMES[kind], fontsize=10)
    for ax, name in zip(axes[0], nets, strict=True):
        ax.set_title(display_name(name), fontsize=11)
    handles: list[Artist] = [Patch(color=colours[label], label=f"{around.classes[label]}{' (true)' * (label == around.label)}")
                             for label in order[:10]]  # fmt: skip
    handles += [Patch(color=OTHERS, label="others")] if len(order) > 10 else []
    for mode in dict.fromkeys(mode for plane in planes.values() for mode in plane.anchors):
        marker = registry.MODES[mode].marker
        handles.append(Line2D([], [], marker=marker, ls="", color="white", mec="black", ms=7, label=mode_name(mode)))
    figure.tight_layout()
    figure.legend(handles=handles, loc="upper center", ncol=min(7, len(handles)), bbox_to_anchor=(0.5, 0.0), frameon=False)
    return figure


def plot_pairs(preset: str, task: str, strength: float) -> Figure:
    """Matrices of R's: kappa over all planes, and rank correlations of distances along RA's and along random directions."""
    planes = rows_of(load_table(preset, "boundary_planes"), (task, strength)).query("along == 'all' and metric == 'kappa'")
    pairs = rows_of(load_table(preset, "boundary_pairs"), (task, strength)).query("metric == 'rank' and stratum == 'leave'")
    readers = list(dict.fromkeys([*planes["reader"], *planes["other"]]))
    panels = {
        "Cohen's kappa on planes": planes,
        "rank correlation of distances\nalong RA's direction": pairs[pairs["along"] == f"ra:{main_source(preset)}"],
        "... along random directions\nof RA's spectrum": pairs[pairs["along"] == "spectrum"],
    }
    theme("white")
    size = 0.9 + 0.68 * len(readers)
    figure, axes = plt.subplots(1, 3, figsize=(3 * size + 2.5, size + 1.2), sharey=True, layout="constrained")
    names = [display_name(r) for r in readers]
    for ax, (title, table) in zip(axes, panels.items(), strict=True):
        values, text = np.full((len(readers),) * 2, np.nan), np.full((len(readers),) * 2, "", dtype=object)
        for row in table.itertuples():
            i, j = sorted((readers.index(row.reader), readers.index(row.other)), reverse=True)
            values[i, j] = row.value
            text[i, j] = f"{row.value:.2f}\n[{row.low:.2f},\n{row.high:.2f}]"
        labels = {"xticklabels": names[:-1], "yticklabels": names[1:]}
        sns.heatmap(values[1:, :-1], annot=text[1:, :-1], fmt="", ax=ax, cmap="viridis", vmin=0, vmax=1, square=True,
                    cbar=False, annot_kws={"size": 7.5}, linewidths=1, **labels)  # fmt: skip
        ax.set_title(title, fontsize=11, loc="left")
        ax.tick_params(axis="x", rotation=90)
        ax.tick_params(axis="y", rotation=0)
    figure.colorbar(axes[0].collections[0], ax=axes, shrink=0.8)
    low, high = pairs["n_images"].min(), pairs["n_images"].max()
    _note(figure, -0.02, f"{task_name(task, strength)}. Distances: of the {low} to {high} test pictures that both read "
          f"rightly. Planes: of {planes['n_images'].max()} test pictures. 95 % intervals over pictures.")  # fmt: skip
    return figure


def plot_path(preset: str, task: str, strength: float) -> Figure:
    """Top-1 of every R, PSNR and SSIM on the line from plain's pictures (0) through RA's (1), with 95 % bands."""
    table = rows_of(load_table(preset, "boundary_path"), (task, strength)).assign(t=lambda rows: rows["along"].astype(float))
    readers = list(table["reader"].dropna().unique())
    theme("whitegrid")
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), width_ratios=(1.5, 1, 1))
    for reader, colour in reader_colours(readers).items():
        is_source = reader == main_source(preset)
        _line(axes[0], table[table["reader"] == reader], colour, display_name(reader), band=is_source)
    for ax, metric in zip(axes[1:], ("psnr", "ssim"), strict=True):
        _line(ax, table[table["metric"] == metric], "black", "", band=True)
    for ax, ylabel in zip(axes, ("top-1 (%)", "PSNR (dB)", "SSIM"), strict=True):
        for t, name in ((0, "plain"), (1, "RA")):
            ax.axvline(t, color="#808080", lw=1, ls=":")
            ax.text(t, 1.01, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=9)
        ax.set(xlabel="t of plain + t (RA - plain)", ylabel=ylabel)
    figure.tight_layout()
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=8, frameon=False, fontsize=9)
    _note(figure, -0.09, f"{task_name(task, strength)}, n = {table['n_images'].max()} test pictures; bands: 95 % intervals "
          "of the R in the loss, of PSNR and of SSIM.")  # fmt: skip
    return figure


def _line(ax: Axes, rows: pd.DataFrame, colour: str | tuple, label: str, band: bool) -> None:
    ax.plot(rows["t"], rows["value"], color=colour, label=label, marker=".", lw=1.5)
    if band:
        ax.fill_between(rows["t"], rows["low"], rows["high"], color=colour, alpha=0.15, lw=0)


def plot_added(preset: str) -> Figure:
    """Where the energy lies that a step from plain's picture adds: frequency bands, edges, colour; and its size."""
    table = load_table(preset, "boundary_added")
    lines = [(key, along) for key in degradations(preset) for along in rows_of(table, key)["along"].unique()]
    names = [f"{task_name(*key)}: {direction_name(along, main_source(preset))}" for key, along in lines]
    rows = table.set_index(["task", "strength", "along", "metric"])
    of = lambda metric: rows.loc[[(*key, along, metric) for key, along in lines]]  # noqa: E731
    theme("whitegrid")
    figure, axes = plt.subplots(1, 3, figsize=(14, 1.4 + 0.36 * len(lines)), sharey=True, width_ratios=(1.6, 1, 1))
    y, left = range(len(lines)), np.zeros(len(lines))
    for k, (name, colour) in enumerate(zip(BAND_NAMES, sns.color_palette("viridis", len(BAND_NAMES)), strict=True)):
        width = of(f"band{k}")["value"].to_numpy()
        axes[0].barh(y, width, left=left, color=colour, label=name)
        left += width
    for k, metric, marker, colour in ((1, "edges", "o", "#d55e00"), (1, "colour", "s", "#0072b2"),
                                      (2, "rms", "o", "black"), (2, "largest", "s", "#808080")):  # fmt: skip
        value, low, high = of(metric)[["value", "low", "high"]].to_numpy().T
        axes[k].errorbar(value, y, xerr=[value - low, high - value], fmt=marker, color=colour, label=metric)
    axes[0].set(xlim=(0, 100), xlabel="% of its energy, by frequency")
    axes[0].set_yticks(y, names)
    axes[0].set_ylim(len(lines) - 0.4, -0.6)
    for ax, xlabel in zip(axes[1:], ("% of its energy", "levels of 255"), strict=True):
        ax.set_xlabel(xlabel)
        ax.set_xlim(left=0)
    for ax in axes:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2, frameon=False, fontsize=9)
        ax.grid(axis="y", visible=False)
    figure.tight_layout()
    _note(figure, -0.01, f"Means over n = {table['n_images'].max()} pictures with 95 % intervals. edges: the "
          f"{100 * boundaries.EDGES:.0f} % of pixels where plain's luminance is steepest; colour: not the same in all three "
          "channels.")  # fmt: skip
    return figure


def plot_difference(around: Around, t: float = 1.0) -> Figure:
    """Plain's picture, the one on the way to RA's at t, the clean one, and the difference to plain, amplified around grey."""
    step = t * around.steps[f"ra:{around.source}"]
    shown = {"plain": around.start, f"t = {t:g}" if t != 1 else "RA": around.at(t), "clean": around.gt,
             f"RA - plain, x{AMPLIFIED}": 0.5 + AMPLIFIED * step}  # fmt: skip
    theme("white")
    figure, axes = plt.subplots(1, len(shown), figsize=(2.4 * len(shown), 2.7))
    for ax, (name, picture) in zip(axes, shown.items(), strict=True):
        show_picture(ax, to_uint8(picture))
        ax.set_title(name, fontsize=11)
    _note(figure, 0.0, f"The step has an RMS of {255 * float(boundary.rms(step)):.1f} levels of 255.")
    figure.tight_layout()
    return figure


@torch.inference_mode()
def plot_strip(
    config: Config, around: Around, readers: Sequence[str], steps: Sequence[float] = (-1, 0, 0.5, 1, 1.5, 2)
) -> Figure:
    """The picture at several t on the way from plain's (0) through RA's (1), with the R's predictions, green where right."""
    nets = {name: load_classifier(name, config.dataset) for name in readers}
    theme("white")
    size = (2.1 * len(steps), 2.4 + 0.2 * len(nets))
    figure, axes = plt.subplots(1, len(steps), figsize=size, squeeze=False)
    for ax, t in zip(axes[0], steps, strict=True):
        picture = around.at(t)
        show_picture(ax, to_uint8(picture))
        ax.set_title("plain (t = 0)" if t == 0 else "RA (t = 1)" if t == 1 else f"t = {t:g}", fontsize=10)
        for line, (name, net) in enumerate(nets.items()):
            best = net(picture[None]).softmax(1).max(1)
            guess = int(best.indices)
            colour = verdict_colour(guess, around.label)
            text = f"{display_name(name)}: {around.classes[guess]} ({100 * float(best.values):.0f} %)"
            ax.text(0.5, -0.06 - 0.105 * line, text, fontsize=8, color=colour, ha="center", va="center", transform=ax.transAxes)
    figure.tight_layout()
    return figure


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
    keys = [key for key in degradations(preset) if len(rows_of(points, key).dropna(subset=["kappa", "gain"])) >= 4]
    if not keys:
        raise StudyError(f"{preset}: too few pairs of recognisers; run {boundaries.command_of(preset)} --full")
    colours = reader_colours(list(points["source"].unique()))
    theme("whitegrid")
    figure, axes = plt.subplots(len(keys), 3, figsize=(12.5, 0.8 + 3.1 * len(keys)), squeeze=False, sharey="row", sharex="col")
    for row, key in zip(axes, keys, strict=True):
        here, gains = rows_of(points, key), rows_of(tests, key).query("outcome == 'gain'")
        for ax, similarity in zip(row, tables.SIMILARITIES, strict=True):
            for source, colour in colours.items():
                of = here[here["source"] == source]
                error = [of["gain"] - of["gain_low"], of["gain_high"] - of["gain"]]
                style = {"fmt": "o", "color": colour, "ms": 5, "lw": 1, "label": display_name(source)}
                ax.errorbar(of[similarity], of["gain"], yerr=error, **style)
            found = gains[gains["similarity"] == similarity].itertuples()
            names = {"mantel": "all pairs", "targets": "targets of one source"}
            ax.set_title("\n".join(f"{names[t.test]}: rho {t.rho:+.2f}, p {t.p_holm:.2g}" for t in found), fontsize=9)
            ax.axhline(0, color="black", lw=1)
        row[0].set_ylabel(f"{task_name(*key)}\nRA's gain for the other R (points)", fontsize=10)
    for ax, name in zip(axes[-1], SIMILARITY_NAMES, strict=True):
        ax.set_xlabel(name)
    axes[0, -1].legend(title="R in the loss", loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=9)
    figure.tight_layout()
    _note(
        figure,
        -0.005,
        "A dot: an ordered pair of R's, gains with 95 % intervals over pictures. p: permuted networks, Holm-corrected.",
    )
    return figure


def boundaries_command(args: argparse.Namespace) -> None:
    """``rastudy boundaries``: measure what is missing, rebuild tables and figures."""
    for preset in args.preset:
        one_of("preset", preset, PRESETS)
        if args.tables:
            paths = tables.make_tables(preset)
        else:
            keys = degradations(preset, args.task)[: 1 if args.task else None]
            where = {"data_dir": args.data, "device": args.device}
            paths = tables.update(preset, keys, args.full, args.jobs, args.pictures, log=partial(print, flush=True), **where)
        print(*paths, *draw(preset), sep="\n")
