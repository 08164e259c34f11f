"""Figures of decision boundaries: distances, planes, similarities, the path from plain's picture to RA's."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rastudy import registry
from rastudy.analysis.style import AMPLIFIED, save, show_picture
from rastudy.boundaries import distances as boundary
from rastudy.boundaries import measure as boundaries
from rastudy.boundaries.tables import FEWEST, STRATA, Measured, load_table, make_tables, update
from rastudy.config import Config, make_config
from rastudy.data.datasets import PictureSet
from rastudy.data.degradations import degrade, to_uint8
from rastudy.data.loaders import Loader
from rastudy.errors import StudyError, one_of
from rastudy.evaluation.predictions import load_predictions
from rastudy.models.classifiers import load_classifier
from rastudy.presets import PRESETS, degradations
from rastudy.registry import display_name, mode_name, task_name

DRAWN = 33  # places along either axis of a plane that is drawn
STRATUM_NAMES = {"leave": "read rightly: leaves its class", "enter": "misread: enters its true class"}
PLANE_NAMES = {
    "random": "a random one of\nRA's spectrum", "unsupervised": "unsupervised RA's", "gradient": "the source R's\ngradient",
    "pictures": "plain, RA and\nclean picture",
}  # fmt: skip
BAND_NAMES = ("below 1/8 cycle a pixel", "1/8 to 1/4", "1/4 to 3/8", "above 3/8")
MEASURES = {
    "kappa": "kappa on planes",
    "rank_ra": "rank correlation along RA's direction",
    "rank_spectrum": "along a random one",
}


def direction_name(direction: str, source: str) -> str:
    """The name to show for a direction of :mod:`rastudy.boundaries.measure`, R named where it is not the study's source."""
    kind, _, name = direction.partition(":")
    plain = {"clean": "to the clean picture", "white": "random, white", "spectrum": "random, RA's spectrum"}
    if kind in plain:
        return plain[kind]
    if kind == "gradient":
        return f"gradient of {display_name(name)}"
    return mode_name(kind) if name == source else f"{mode_name(kind)} from {display_name(name)}"


def reader_colours(readers: Sequence[str]) -> dict[str, tuple]:
    return dict(zip(readers, sns.color_palette("colorblind", len(readers)), strict=True))


def load_measured(preset: str, task: str, strength: float) -> Measured:
    """The measurements of a degradation; StudyError with the command where there are none."""
    config = make_config(preset, task, "plain", strength=strength)
    path = boundaries.boundaries_file(config)
    if not path.is_file():
        raise StudyError(f"{path}: not measured; run {boundaries.command_of(preset)} --task {task}")
    return Measured(load_predictions(path))


def draw(preset: str) -> list[Path]:
    """Draw and save every figure that shows no picture, of all degradations that have been measured."""
    paths = []
    for key in degradations(preset):
        if not boundaries.boundaries_file(make_config(preset, key[0], "plain", strength=key[1])).is_file():
            continue
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
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(2, len(directions), figsize=(2.5 * len(directions), 5.6), sharex=True, sharey="row")
    for row, (stratum, right) in zip(axes, STRATA.items(), strict=True):
        for ax, direction in zip(row, directions, strict=True):
            for r, reader in enumerate(m.readers):
                where = m.right[r] == right
                if where.sum() < FEWEST:
                    continue
                steps = np.sort(m.value[r, m.directions.index(direction), where] / m.step[where])
                share = 100 * np.arange(1, len(steps) + 1) / len(steps)
                share[np.isinf(steps)] = 100 * np.isfinite(steps).mean()
                at, share = np.r_[0, np.minimum(steps, boundary.REACH)], np.r_[0, share]
                ax.step(at, share, where="post", color=colours[reader], lw=1.5, label=display_name(reader))
            ax.set_xlim(0, boundary.REACH)
            ax.set_ylim(0, 100)
        counts = [int((m.right[r] == right).sum()) for r in range(len(m.readers))]
        row[0].set_ylabel(f"{STRATUM_NAMES[stratum]}\n(% of {min(counts)} to {max(counts)})", fontsize=10)
    for ax, direction in zip(axes[0], directions, strict=True):
        ax.set_title(direction_name(direction, m.source).replace(" of ", "\nof ").replace(", ", ",\n"), fontsize=10.5)
    figure.supxlabel("distance in RA steps", fontsize=11)
    figure.tight_layout()
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), frameon=False, fontsize=10)
    return figure


def plot_reached(preset: str, task: str, strength: float) -> Figure:
    """Share of pictures whose boundary lies within the scan, points with intervals: directions x R's, a panel per stratum."""
    table = _of(load_table(preset, "boundary_distances"), task, strength)
    table = table[(table["metric"] == "reached") & (table["reader"] != "mean_unseen")]
    source = _source(preset)
    readers, directions = list(table["reader"].unique()), list(table["along"].unique())
    table = table.assign(text=[f"{v:.0f}\n[{low:.0f}, {high:.0f}]" for v, low, high in
                               table[["value", "low", "high"]].to_numpy()])  # fmt: skip
    sns.set_theme(style="white", context="notebook")
    size = (3.6 + 2 * 0.95 * len(readers), 1.4 + 0.52 * len(directions))
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True)
    for ax, stratum in zip(axes, STRATA, strict=True):
        rows = table[table["stratum"] == stratum]
        pivot = lambda what, rows=rows: rows.pivot(index="along", columns="reader", values=what).reindex(  # noqa: E731
            index=directions, columns=readers
        )
        sns.heatmap(pivot("value").astype(float), annot=pivot("text").fillna(""), fmt="", ax=ax, cmap="Blues", vmin=0, vmax=100,
                    cbar=ax is axes[-1], cbar_kws={"label": "% of pictures"}, annot_kws={"size": 8}, linewidths=1)  # fmt: skip
        ax.set_xticklabels([display_name(r).replace(" ", "\n").replace("-", "-\n", 1) for r in readers], rotation=0, fontsize=9)
        counts = rows["n_images"]
        title = f"{STRATUM_NAMES[stratum]} (n = {counts.min()} to {counts.max()})"
        ax.set_title(title.replace(": ", ":\n"), loc="left", fontsize=11)
        ax.set(xlabel="", ylabel="")
    axes[0].set_yticklabels([direction_name(d, source) for d in directions], rotation=0, fontsize=10)
    figure.suptitle(f"{task_name(task, strength)}: a boundary within {boundary.REACH:g} RA steps, %", x=0.02, ha="left")
    figure.tight_layout()
    return figure


def save_if_free(figure: Figure, preset: str, name: str) -> Path | None:
    """:func:`rastudy.report.figures.save` a figure of pictures, if they may be handed on: of those that packages bring with them."""
    return save(figure, preset, name) if preset not in ("cifar10", "imagenet", "imagenet_small") else None


class Around(NamedTuple):
    """One test picture and what lies around plain's picture of it."""

    start: torch.Tensor  # (3, H, W)
    steps: dict[str, torch.Tensor]
    gt: torch.Tensor
    label: int  # -1: nobody knows
    classes: tuple[str, ...]
    source: str


def look_around(config: Config, pictures: PictureSet, place: int, source: str) -> Around:
    """Plain's picture of a test picture, the steps to RA's from a source and to the clean one, and the directions there.

    Raises:
        StudyError: there is no such picture, or no weights of a run (with the command that makes them).
    """
    if not 0 <= place < len(pictures):
        raise StudyError(f"picture {place}: there are {len(pictures)}, from 0 to {len(pictures) - 1}")
    one = PictureSet(pictures.name, pictures.split, *(a[place : place + 1] for a in
                     (pictures.pictures, pictures.labels, pictures.groups)), pictures.classes)  # fmt: skip
    if config.of_photographs:
        gt = torch.from_numpy(one.pictures[0]).permute(2, 0, 1).float().div(255)
        lq = degrade(one.pictures[0], config.task, config.strength, seed=place)
    else:  # as the evaluation degrades it
        batch = next(Loader(pictures, config.task, config.strength, place + 1).ordered())
        gt, lq = batch.gt[place], batch.lq[place]
    names = [f"ra:{source}", f"ra_unsupervised:{source}"]
    if not boundaries.has_weights(config, names[0]):
        raise StudyError(f"no weights of RA from {source}; run {boundaries.sweep_command(config)}")
    names = [name for name in names if boundaries.has_weights(config, name)]
    start, steps = boundaries.steps_of(config, names, lq[None], gt[None])
    net, label = load_classifier(source, config.dataset), int(one.labels[0])
    guess = torch.tensor([label]) if label >= 0 else net(start).argmax(1)
    steps |= {f"gradient:{source}": boundaries.descent(net, start, guess)}
    steps |= {"spectrum": boundary.with_spectrum_of(steps[names[0]], torch.Generator().manual_seed(place))}
    return Around(start[0], {name: step[0] for name, step in steps.items()}, gt, label, pictures.classes, source)


def plot_planes(config: Config, around: Around, readers: Sequence[str]) -> Figure:
    """Label maps of one picture's planes: rows kinds of plane, columns R's; colour the verdict, saturation its margin.

    RA's direction runs to the right; every R sees the same planes, places and colours.
    """
    planes = boundaries.planes_of(around.steps, around.source)
    nets = {name: load_classifier(name, config.dataset) for name in readers}
    maps = {(kind, name): boundary.label_map(boundaries.reader_of(net), around.start, axes, extent, DRAWN)
            for kind, (axes, extent, _) in planes.items() for name, net in nets.items()}  # fmt: skip
    labels, counts = np.unique(np.concatenate([found.ravel() for found, _ in maps.values()]), return_counts=True)
    order = [int(label) for label in labels[np.argsort(-counts)]]
    palette = sns.color_palette("tab10", 10)
    colours = {label: palette[k % 10] if k < 10 else to_rgb("#bbbbbb") for k, label in enumerate(order)}
    sns.set_theme(style="white", context="notebook")
    figure, axes = plt.subplots(len(planes), len(nets), figsize=(2.15 * len(nets), 2.2 * len(planes)), squeeze=False)
    for row, (kind, (_, extent, anchors)) in zip(axes, planes.items(), strict=True):
        for ax, name in zip(row, nets, strict=True):
            found, margin = maps[kind, name]
            picture = np.array([colours[int(label)] for label in found.ravel()]).reshape(*found.shape, 3)
            shade = (0.25 + 0.75 * margin)[..., None]
            ax.imshow(1 - shade * (1 - picture), origin="lower", extent=extent, interpolation="nearest", aspect="equal")
            for anchor, (x, y) in anchors.items():
                ax.plot(x, y, registry.MODES[anchor].marker, color="white", mec="black", ms=7)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(PLANE_NAMES[kind], fontsize=10)
    for ax, name in zip(axes[0], nets, strict=True):
        ax.set_title(display_name(name), fontsize=11)
    shown = order[:10]
    names = [f"{around.classes[label]}{' (true)' * (label == around.label)}" for label in shown]
    handles = [Patch(color=colours[label], label=name) for label, name in zip(shown, names, strict=True)]
    handles += [Patch(color="#bbbbbb", label="others")] if len(order) > 10 else []
    anchors = dict.fromkeys(a for _, _, found in planes.values() for a in found)
    for anchor in anchors:
        handles.append(plt.Line2D([], [], marker=registry.MODES[anchor].marker, ls="", color="white", mec="black", ms=7,
                                  label=mode_name(anchor)))  # fmt: skip
    figure.tight_layout()
    figure.legend(handles=handles, loc="upper center", ncol=min(7, len(handles)), bbox_to_anchor=(0.5, 0.0), frameon=False)
    return figure


def plot_pairs(preset: str, task: str, strength: float) -> Figure:
    """Matrices of R's: kappa over all planes, and rank correlations of distances along RA's and along random directions."""
    planes = _of(load_table(preset, "boundary_planes"), task, strength).query("along == 'all' and metric == 'kappa'")
    pairs = _of(load_table(preset, "boundary_pairs"), task, strength).query("metric == 'rank' and stratum == 'leave'")
    readers = list(dict.fromkeys([*planes["reader"], *planes["other"]]))
    panels = {
        "Cohen's kappa on planes": planes,
        "rank correlation of distances\nalong RA's direction": pairs[pairs["along"] == f"ra:{_source(preset)}"],
        "... along random directions\nof RA's spectrum": pairs[pairs["along"] == "spectrum"],
    }
    sns.set_theme(style="white", context="notebook")
    size = 0.9 + 0.68 * len(readers)
    figure, axes = plt.subplots(1, 3, figsize=(3 * size + 2.5, size + 1.2), sharey=True, layout="constrained")
    names = [display_name(r) for r in readers]
    for ax, (title, table) in zip(axes, panels.items(), strict=True):
        values, text = np.full((len(readers),) * 2, np.nan), np.full((len(readers),) * 2, "", dtype=object)
        for row in table.itertuples():
            i, j = sorted((readers.index(row.reader), readers.index(row.other)), reverse=True)
            values[i, j] = row.value
            text[i, j] = f"{row.value:.2f}\n[{row.low:.2f},\n{row.high:.2f}]"
        sns.heatmap(values[1:, :-1], annot=text[1:, :-1], fmt="", ax=ax, cmap="viridis", vmin=0, vmax=1, square=True,
                    cbar=False, annot_kws={"size": 7.5}, linewidths=1,
                    xticklabels=names[:-1], yticklabels=names[1:])  # fmt: skip
        ax.set_title(title, fontsize=11, loc="left")
        ax.tick_params(axis="x", rotation=90)
        ax.tick_params(axis="y", rotation=0)
    figure.colorbar(axes[0].collections[0], ax=axes, shrink=0.8)
    low, high = pairs["n_images"].min(), pairs["n_images"].max()
    note = f"{task_name(task, strength)}. Distances: of the {low} to {high} test pictures that both read rightly. "
    note += f"Planes: of {planes['n_images'].max()} test pictures. 95 % intervals over pictures."
    figure.text(0.5, -0.02, note, ha="center", va="top", fontsize=9)
    return figure


def plot_path(preset: str, task: str, strength: float) -> Figure:
    """Top-1 of every R, PSNR and SSIM on the line from plain's pictures (0) through RA's (1), with 95 % bands."""
    table = _of(load_table(preset, "boundary_path"), task, strength).assign(t=lambda rows: rows["along"].astype(float))
    readers = list(table["reader"].dropna().unique())
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), width_ratios=(1.5, 1, 1))
    for reader, colour in reader_colours(readers).items():
        _line(axes[0], table[table["reader"] == reader], colour, display_name(reader), band=reader == _source(preset))
    for ax, metric, unit in ((axes[1], "psnr", "PSNR (dB)"), (axes[2], "ssim", "SSIM")):
        _line(ax, table[table["metric"] == metric], "black", "", band=True)
        ax.set_ylabel(unit)
    axes[0].set_ylabel("top-1 (%)")
    for ax in axes:
        for t, name in ((0, "plain"), (1, "RA")):
            ax.axvline(t, color="#808080", lw=1, ls=":")
            ax.text(t, 1.01, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=9)
        ax.set_xlabel("t of plain + t (RA - plain)")
    figure.tight_layout()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=8, frameon=False,
                  fontsize=9)  # fmt: skip
    figure.text(0.5, -0.09, f"{task_name(task, strength)}, n = {table['n_images'].max()} test pictures; bands: 95 % intervals "
                "of the R in the loss, of PSNR and of SSIM.", ha="center", va="top", fontsize=9)  # fmt: skip
    return figure


def _line(ax, rows: pd.DataFrame, colour, label: str, band: bool) -> None:
    ax.plot(rows["t"], rows["value"], color=colour, label=label, marker=".", lw=1.5)
    if band:
        ax.fill_between(rows["t"], rows["low"], rows["high"], color=colour, alpha=0.15, lw=0)


def plot_added(preset: str) -> Figure:
    """Where the energy lies that a step from plain's picture adds: frequency bands, edges, colour; and its size."""
    table = load_table(preset, "boundary_added")
    sns.set_theme(style="whitegrid", context="notebook")
    keys = [key for key in degradations(preset) if len(_of(table, *key))]
    lines = [(key, along) for key in keys for along in _of(table, *key)["along"].unique()]
    names = [f"{task_name(*key)}: {direction_name(along, _source(preset))}" for key, along in lines]
    figure, axes = plt.subplots(1, 3, figsize=(14, 1.4 + 0.36 * len(lines)), sharey=True, width_ratios=(1.6, 1, 1))
    value = lambda line, metric: _of(table, *line[0]).query("along == @line[1] and metric == @metric").iloc[0]  # noqa: E731
    left = np.zeros(len(lines))
    for k, colour in enumerate(sns.color_palette("viridis", len(BAND_NAMES))):
        width = np.array([value(line, f"band{k}")["value"] for line in lines])
        axes[0].barh(range(len(lines)), width, left=left, color=colour, label=BAND_NAMES[k])
        left += width
    for ax, metrics_, xlabel in (
        (axes[1], {"edges": ("o", "#d55e00"), "colour": ("s", "#0072b2")}, "% of its energy"),
        (axes[2], {"rms": ("o", "black"), "largest": ("s", "#808080")}, "levels of 255"),
    ):
        for metric, (marker, colour) in metrics_.items():
            rows = [value(line, metric) for line in lines]
            error = [[r["value"] - r["low"] for r in rows], [r["high"] - r["value"] for r in rows]]
            ax.errorbar([r["value"] for r in rows], range(len(lines)), xerr=error, fmt=marker, color=colour, label=metric)
        ax.set_xlabel(xlabel)
        ax.set_xlim(left=0)
    axes[0].set(xlim=(0, 100), xlabel="% of its energy, by frequency")
    axes[0].set_yticks(range(len(lines)), names)
    axes[0].set_ylim(len(lines) - 0.4, -0.6)
    for ax, columns in zip(axes, (2, 2, 2), strict=True):
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=columns, frameon=False, fontsize=9)
        ax.grid(axis="y", visible=False)
    figure.tight_layout()
    share = 100 * boundaries.EDGES
    figure.text(0.5, -0.01, f"Means over n = {table['n_images'].max()} pictures with 95 % intervals. edges: the {share:.0f} % "
                "of pixels where plain's luminance is steepest; colour: not the same in all three channels.",
                ha="center", va="top", fontsize=9)  # fmt: skip
    return figure


def plot_difference(around: Around, t: float = 1.0) -> Figure:
    """Plain's picture, the one on the way to RA's at t, the clean one, and the difference to plain, amplified around grey."""
    step = t * around.steps[f"ra:{around.source}"]
    shown = {
        "plain": around.start, f"t = {t:g}" if t != 1 else "RA": around.start + step, "clean": around.gt,
        f"RA - plain, x{AMPLIFIED}": 0.5 + AMPLIFIED * step,
    }  # fmt: skip
    sns.set_theme(style="white", context="notebook")
    figure, axes = plt.subplots(1, len(shown), figsize=(2.4 * len(shown), 2.7))
    for ax, (name, picture) in zip(axes, shown.items(), strict=True):
        show_picture(ax, to_uint8(picture))
        ax.set_title(name, fontsize=11)
    level = 255 * float(boundary.rms(step))
    figure.text(0.5, 0.0, f"The step has an RMS of {level:.1f} levels of 255.", ha="center", va="top", fontsize=9)
    figure.tight_layout()
    return figure


@torch.inference_mode()
def plot_strip(
    config: Config, around: Around, readers: Sequence[str], steps: Sequence[float] = (-1, 0, 0.5, 1, 1.5, 2)
) -> Figure:
    """The picture at several t on the way from plain's (0) through RA's (1), the R's verdicts under it, green where right."""
    nets = {name: load_classifier(name, config.dataset) for name in readers}
    sns.set_theme(style="white", context="notebook")
    size = (2.1 * len(steps), 2.4 + 0.2 * len(nets))
    figure, axes = plt.subplots(1, len(steps), figsize=size, squeeze=False)
    for ax, t in zip(axes[0], steps, strict=True):
        picture = around.start + t * around.steps[f"ra:{around.source}"]
        show_picture(ax, to_uint8(picture))
        ax.set_title({0: "plain (t = 0)", 1: "RA (t = 1)"}.get(t, f"t = {t:g}"), fontsize=10)
        for line, (name, net) in enumerate(nets.items()):
            best = net(picture[None]).softmax(1).max(1)
            guess = int(best.indices)
            colour = "#555555" if around.label < 0 else "#007a33" if guess == around.label else "#c00000"
            text = f"{display_name(name)}: {around.classes[guess]} ({100 * float(best.values):.0f} %)"
            ax.text(0.5, -0.06 - 0.105 * line, text, fontsize=8, color=colour, ha="center", va="center", transform=ax.transAxes)
    figure.tight_layout()
    return figure


def slider(config: Config, around: Around, readers: Sequence[str]) -> object:
    """A slider over t under which the picture and the verdicts change; where ipywidgets is missing, :func:`plot_strip`."""
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
    keys = [key for key in degradations(preset) if _of(points, *key)[["kappa", "gain"]].notna().all(axis=1).sum() >= 4]
    if not keys:
        raise StudyError(f"{preset}: too few pairs of recognisers; run {boundaries.command_of(preset)} --full")
    sources = list(dict.fromkeys(points["source"]))
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(len(keys), 3, figsize=(12.5, 0.8 + 3.1 * len(keys)), squeeze=False, sharey="row", sharex="col")
    for ax, name in zip(axes[-1], MEASURES.values(), strict=True):
        ax.set_xlabel(name)
    for row, key in zip(axes, keys, strict=True):
        for ax, measure in zip(row, MEASURES, strict=True):
            here = _of(points, *key)
            for source, colour in reader_colours(sources).items():
                of = here[here["source"] == source]
                ax.errorbar(of[measure], of["gain"], yerr=[of["gain"] - of["gain_low"], of["gain_high"] - of["gain"]], fmt="o",
                            color=colour, ms=5, lw=1, label=display_name(source))  # fmt: skip
            found = _of(tests, *key).query("similarity == @measure and outcome == 'gain'")
            said = [f"{'all pairs' if t.test == 'mantel' else 'targets of one source'}: rho {t.rho:+.2f}, p {t.p:.2g}"
                    for t in found.itertuples()]  # fmt: skip
            ax.set_title("\n".join(said), fontsize=9)
            ax.axhline(0, color="black", lw=1)
        row[0].set_ylabel(f"{task_name(*key)}\nRA's gain for the other R (points)", fontsize=10)
    axes[0, -1].legend(title="R in the loss", loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=9)
    figure.tight_layout()
    figure.text(0.5, -0.005, "A dot: an ordered pair of R's, gains with 95 % intervals over pictures. p: permuted networks.",
                ha="center", va="top", fontsize=9)  # fmt: skip
    return figure


def _of(table: pd.DataFrame, task: str, strength: float) -> pd.DataFrame:
    return table[(table["task"] == task) & (table["strength"] == strength)]


def _source(preset: str) -> str:
    return boundaries.main_source(make_config(preset, degradations(preset)[0][0], "plain"))


def boundaries_command(args: argparse.Namespace) -> None:
    """``rastudy boundaries``: measure what is missing, rebuild tables and figures."""
    for preset in args.preset:
        one_of("preset", preset, PRESETS)
        keys = degradations(preset, args.task)[: 1 if args.task else None]
        if args.tables:
            paths = make_tables(preset)
        else:
            where = {"data_dir": args.data, "device": args.device}
            say = lambda line: print(line, flush=True)  # noqa: E731
            paths = update(preset, keys, args.full, args.jobs, args.pictures, log=say, **where)
        for path in paths + draw(preset):
            print(path)
