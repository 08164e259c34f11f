"""Does the gain transfer in the other directions that the paper names? Every cell beside plain's, and beside home.

``make_table`` compares what a direction's readers said (:mod:`rastudy.transfer.kept`) with what they said of plain on the same
pictures, and with the same run's gain at home: ``results/<preset>/transfer_<direction>.csv``, ``results/transfer_summary.csv``.
``rastudy transfer`` rebuilds them all from the committed predictions.
"""

import argparse
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rastudy.analysis import comparisons
from rastudy.analysis import statistics as stats
from rastudy.analysis.comparisons import CELL, COUNTS, ESTIMATE, OVER, Cell, named
from rastudy.analysis.tables import load_table as load_study_table
from rastudy.analysis.tables import main_cells, rounded, without_variants
from rastudy.data import scenes
from rastudy.errors import StudyError
from rastudy.evaluation import average_precision as detection
from rastudy.evaluation.predictions import read_table
from rastudy.paths import nothing_here, results_folder, root, short, to_read, write_csv
from rastudy.presets import PRESETS, degradations
from rastudy.registry import kind_of, source_names
from rastudy.transfer import aware
from rastudy.transfer.directions import BLACK_BOX, DIRECTIONS, SOURCES, Variant, direction_of, sweep_command, variants
from rastudy.transfer.kept import kept_file, load_kept

FLOOR = 50.0  # percent: a reader that is worse on clean pictures decides nothing
UNABLE = "undecided (floor)"  # the verdict on such a reader
REFERENCE = ("reference", "reference_low", "reference_high")
DIFFERENCE = ("difference", "difference_low", "difference_high")
SHARE = ("share", "share_low", "share_high")
COLUMNS = ("preset", "direction", "variant", *CELL, "reader", "metric", *ESTIMATE, *OVER, *REFERENCE, *DIFFERENCE, *SHARE, "p",
           "p_holm", "plain", "clean", "verdict", *COUNTS)  # fmt: skip


Cells = dict[tuple, Cell]


class AtHome(NamedTuple):
    """A cell at home with its gain over plain there, (R, N) in percentage points."""

    cell: Cell
    gain: np.ndarray

    def comparable(self, readers: list[str]) -> list[int]:
        """The rows of R's of these names, or, where one of them did not read at home, of the unseen R's, if any did."""
        targets = self.cell.targets
        if readers and set(readers) <= set(targets):
            return [targets.index(name) for name in readers]
        return comparisons.targets_by_role(self.cell).get("unseen", [])

    def of(self, readers: list[str]) -> np.ndarray:
        """(N,) the mean gain of those who are ``comparable``; of the source, where none is."""
        return self.gain[self.comparable(readers) or [0]].mean(0)


def _at_home(cell: Cell, home: Cells, **others: str) -> AtHome | None:
    """The cell of the same settings at home, but for ``others``, where it was read."""
    there = home.get(comparisons.cell_key(cell.settings | others))
    plain = dict(comparisons.baselines_of(there, home)).get("plain") if there is not None else None
    common = [seed for seed in cell.runs if seed in there.runs and seed in plain.runs] if plain is not None else []
    if not common:
        return None
    return AtHome(there, there.seeds(common).hits.mean(0) - plain.seeds(common).hits.mean(0))


def gain_rows(preset: str, direction: str, black_box: str = "") -> Iterator[dict]:
    """A row per variant, cell and reader, and one for their mean (of those above the floor).

    ``value``: gain over plain on the same pictures, in points of ``metric``: top-1, or a detector's average precision.
    ``reference``: the same run's gain at home, of the R of the same name, else of the unseen ones, else (where none of them
    read there) of the source (several sources: the gain of RA from the first of them; other categories: that of the readers'
    own half; taught by a detector: that detector's). ``difference``: of the two, where they share a metric and the reference
    is not the source's; paired where the pictures are the same. ``share``: of such a reference that is kept, where it lies
    above 0; of an average precision the share of the way from plain to clean pictures.
    """
    home, kept = comparisons.load_cells(preset, "test"), load_kept(preset, direction)
    black_box = black_box or ",".join(name for name in kept if kind_of(name) == "black_box") or BLACK_BOX
    of_source: dict[tuple, dict] = {}  # a detector's own gain, by cell
    for variant in variants(preset, direction, black_box):
        cells = comparisons.cells_of(kept.get(variant.name, {}).values()) if variant.dataset else home
        if not cells and variant.dataset:
            where = f"{kept_file(preset, direction)}, variant {variant.name}"
            raise StudyError(f"{where}: nothing has been read; run {sweep_command(preset, direction)}")
        wanted = {run.config.run_id for run in variant.runs(preset)}
        cells = {key: cell for key, cell in cells.items() if {run.about["run_id"] for run in cell.runs.values()} & wanted}
        clean = comparisons.clean_of(cells)
        for name, cell, plain in comparisons.paired_cells(cells):
            beside = variant.aware and not cell.settings.get("upload")  # RA without uploads in its loss: aware.py compares them
            if name != "plain" or beside:
                continue
            if variant.dataset == "scenes":
                rows = list(_detection_rows(cell, plain, clean, _at_home(cell, home)))
                of_source.update((cell.key, row) for row in rows if (row["reader"], row["metric"]) == (cell.key[4], "ap50"))
            else:
                # what is other at home: the first of several sources; the readers' own half of the categories
                other = {"multi_source": {"source_arch": SOURCES[0]}, "categories": {"dataset": variant.dataset}}
                at_home = _at_home(cell, home, **other.get(direction, {}))
                rows = list(_cell_rows(variant, cell, plain, clean, at_home))
            for row in rows:
                if cell.key in of_source:
                    row |= named(REFERENCE, (of_source[cell.key][name] for name in ESTIMATE))
                yield row | cell.base() | {"direction": direction, "variant": variant.name}


def _cell_rows(variant: Variant, cell: Cell, plain: Cell, clean: Cell | None, at_home: AtHome | None) -> Iterator[dict]:
    """The rows of one cell that classifiers read; the source R itself, where it reads, is no part of their mean."""
    gain = cell.hits - plain.hits  # S R N
    at_source = source_names(cell.settings["source_arch"]) if variant.dataset == cell.settings["dataset"] else []
    sources = [name for name in at_source if name in variant.readers]
    names = {r: target for r, target in enumerate(cell.targets) if variant.dataset or target in variant.readers}
    bounds = {r: clean.hits[:, clean.targets.index(name)].mean() for r, name in names.items()} if clean else {}
    others = [r for r, name in names.items() if name not in sources]
    able = [r for r in others if bounds.get(r, 100.0) >= FLOOR]
    groups = {name: [r] for r, name in names.items()} | {"mean": able or others}
    by_seed = np.stack([gain[:, rows].mean(1) for rows in groups.values()], 2)  # S N reader
    values, columns = by_seed.mean(0), comparisons.gain_columns(by_seed, cell.groups)
    for k, (reader, rows) in enumerate(groups.items()):
        bound = np.mean([bounds[r] for r in rows]) if bounds else np.nan
        row: dict = columns[k] | {"reader": reader, "metric": "top1", "clean": bound, "plain": plain.hits[:, rows].mean()}
        if at_home is not None:
            names_here = [cell.targets[r] for r in rows]
            reference, same = at_home.of(names_here), at_home.cell.first.about["data"] == cell.first.about["data"]
            beside = _beside(values[:, k], cell.groups, reference, at_home.cell.groups, same)
            row |= beside if at_home.comparable(names_here) else {name: beside[name] for name in REFERENCE}
        yield row


def _detection_rows(cell: Cell, plain: Cell, clean: Cell, at_home: AtHome | None) -> Iterator[dict]:
    """The rows of one cell that detectors read: each of them and their mean, by every metric; pictures are resampled.

    The reference is the gain in top-1 of unseen R's at home, missing where the run was not read there.
    """
    reference: dict[str, float] = {}
    if at_home is not None:
        (estimate,) = stats.mean_intervals(at_home.of([])[:, None], at_home.cell.groups, differences=True)
        reference = named(REFERENCE, estimate)
    for metric in detection.RECALLS:
        mine, theirs, bound = (
            np.stack([_precisions(one, name)[metric] for name in cell.targets]) for one in (cell, plain, clean)
        )  # detector, whole set and resamples
        groups = {name: [k] for k, name in enumerate(cell.targets)} | {"mean": list(range(len(cell.targets)))}
        for reader, rows in groups.items():
            gain, way = (mine - theirs)[rows].mean(0), (bound - theirs)[rows].mean(0)
            yield reference | named(ESTIMATE, (gain[0], *stats.percentile(gain[1:]))) | {
                "reader": reader, "metric": metric, "clean": bound[rows, 0].mean(), "plain": theirs[rows, 0].mean(),
                **_share(gain[0], gain[1:], way[0], way[1:]), "p": stats.normal_p(gain[0], gain[1:]),
            }  # fmt: skip


@lru_cache(maxsize=64)  # every cell asks again for those of plain and of the clean pictures
def _precisions(cell: Cell, detector: str) -> dict[str, np.ndarray]:
    """A detector's average precision by metric, the mean over seeds: of all pictures, then of each resample."""
    values: dict[str, list[np.ndarray]] = {metric: [] for metric in detection.RECALLS}
    for run in cell.runs.values():
        _, truth = scenes.render(cell.split, len(run.arrays["label"]))
        parts = (run.arrays[f"{detector}.{part}"] for part in detection.Found._fields)
        matched = detection.match(detection.Found(*(part.astype(np.float64) for part in parts)), truth)
        drawn = stats.Groups(np.arange(len(truth))).draws(detection.RESAMPLES)
        for metric, found in values.items():
            found.append(detection.average_precision(matched, metric, drawn))
    return {metric: np.mean(found, 0) for metric, found in values.items()}


def _beside(values: np.ndarray, groups: stats.Groups, reference: np.ndarray, at_home: stats.Groups, same: bool) -> dict:
    """The reference and the difference to it with intervals: paired on the same pictures, else of independent samples."""
    (estimate,) = stats.mean_intervals(reference[:, None], at_home, differences=True)
    if same:
        (difference,) = stats.mean_intervals((values - reference)[:, None], groups, differences=True)
        mine, theirs = groups.bootstrap(np.stack([values, reference], 1)).T
    else:
        mine, theirs = groups.bootstrap(values[:, None])[:, 0], at_home.bootstrap(reference[:, None])[::-1, 0]
        difference = stats.Estimate(values.mean() - reference.mean(), *stats.percentile(mine - theirs))
    found = named(REFERENCE, estimate) | named(DIFFERENCE, difference)
    return found | (_share(values.mean(), mine, reference.mean(), theirs) if estimate.low > 0 else {})


def _share(value: float, resampled: np.ndarray, whole: float, resampled_whole: np.ndarray) -> dict:
    with np.errstate(divide="ignore", invalid="ignore"):
        return named(SHARE, (value / whole, *stats.percentile(resampled / resampled_whole)))


def verdict(row: dict) -> str:
    """What a row says of the paper's claim that the gain transfers, by the rule of every verdict.

    ``transfers``: a gain; ``does not``: none, or a loss. ``undecided (floor)``: the reader fails on clean pictures, too;
    ``nothing to transfer``: the run is not known to gain at home.
    """
    low, high = (row[name] for name in comparisons.ends(row))
    found = stats.kind_of_difference(low, high, row.get("p_holm", row["p"]))
    if row["clean"] < FLOOR:
        return UNABLE
    if found == "gain":
        return "transfers"
    if not row.get("reference_low", np.nan) > 0:
        return "nothing to transfer"
    return "undecided" if found == "undecided" else "does not"


def architecture_rows(preset: str) -> Iterator[dict]:
    """The main study's own direction, unseen architectures beside the source R, as rows of the summary."""
    gains, kept, accuracy = (main_cells(load_study_table(preset, name), preset) for name in ("gains", "kept", "accuracy"))
    gains, read = gains.query("mode == 'ra'"), without_variants(accuracy).query("metric == 'top1' and split == 'test'")
    of_source, shares = (rows.set_index(["task", "strength"])[list(ESTIMATE)]
                         for rows in (gains.query("role == 'source'"), kept.query("mode == 'ra'")))  # fmt: skip
    for unseen in gains.query("role == 'mean_unseen'").to_dict("records"):
        key = unseen["task"], unseen["strength"]
        if key not in degradations(preset):  # a task that stands aside
            continue
        same = (read["task"] == key[0]) & (read["strength"] == key[1]) & (read["target_arch"] != unseen["source_arch"])
        level = read[same].groupby("mode")["value"].mean()
        row = {name: unseen[name] for name in ("preset", *CELL, *ESTIMATE, *OVER, "p", "p_holm", *COUNTS)}
        row |= named(REFERENCE, of_source.loc[key]) | named(SHARE, shares.loc[key])
        row |= {"direction": "architectures", "variant": "unseen", "reader": "mean", "metric": "top1"}
        row |= {"plain": level["plain"], "clean": level.get("clean", np.nan)}
        yield row | {"verdict": verdict(row)}


def table_file(preset: str, direction: str) -> Path:
    return results_folder(preset) / f"transfer_{direction}.csv"


def make_table(preset: str, direction: str, black_box: str = "") -> Path:
    """Write a direction's table, and the summary of all directions of all presets; StudyError where there is no RA run."""
    path = _write_table(preset, direction, black_box)
    make_summary()
    return path


def _write_table(preset: str, direction: str, black_box: str = "") -> Path:
    rows = list(gain_rows(preset, direction, black_box))
    if not rows:
        remedy = f"run {sweep_command(preset, direction)}"
        raise StudyError(f"{preset} has no RA run that {direction} could compare with plain; {remedy}")
    for means in (False, True):  # the readers are corrected together, and so are the cells' means
        comparisons.correct(row for row in rows if (row["reader"] == "mean") == means)
    rows = [row | {"verdict": verdict(row)} for row in rows]
    write_csv(table_file(preset, direction), map(rounded, rows), COLUMNS)
    if direction == "upload_aware":
        aware.write_table(preset)
    return table_file(preset, direction)


def make_summary() -> None:
    """Write RA's mean gain in every direction that was tried, of every study; architectures (the main study's) among them.

    Each question once: without lossless uploads, which are the gain at home, and by the study's own source; of ``multi_source``
    by several, of ``detection`` by whatever taught it.
    """
    rows: list[dict[Any, Any]] = []
    for preset in (name for name in PRESETS if name != "smoke"):
        if to_read(results_folder(preset) / "gains.csv").is_file():
            rows += map(rounded, architecture_rows(preset))
        for name in DIRECTIONS:
            if to_read(table_file(preset, name)).is_file():
                found = load_table(preset, name).query(
                    "reader == 'mean' and mode == 'ra' and not variant.str.startswith('png')"
                )
                told = {"multi_source": found["source_arch"].str.contains(","), "detection": found["source_arch"] != ""}
                found = found[told[name]] if name in told else of_own_source(found)
                rows += found.to_dict("records")
    if rows:
        blank = pd.DataFrame(rows, columns=list(COLUMNS)).astype(object)
        write_csv(root() / "results" / "transfer_summary.csv", blank.where(blank.notna(), "").to_dict("records"), COLUMNS)


def of_own_source(table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose P had the study's own source model in its loss."""
    return table[table["source_arch"] == table["preset"].map({name: preset["source_arch"] for name, preset in PRESETS.items()})]


def load_table(preset: str, direction: str) -> pd.DataFrame:
    """A direction's table; StudyError where it is missing or has other columns."""
    direction_of(direction)
    return read_table(to_read(table_file(preset, direction)), COLUMNS, sweep_command(preset, direction), source_arch=str)


def load_summary() -> pd.DataFrame:
    """RA's mean gain in every direction that was tried, of every study; StudyError where it is missing."""
    remedy = "rastudy sweep --direction upload"
    return read_table(to_read(root() / "results" / "transfer_summary.csv"), COLUMNS, remedy, source_arch=str)


def _has_evidence(preset: str, direction: str) -> bool:
    """Whether a direction has been read, or has a table that rests on the predictions at home alone."""
    table = table_file(preset, direction).is_file()
    return kept_file(preset, direction).is_file() or (table and not any(v.dataset for v in variants(preset, direction)))


def transfer_command(args: argparse.Namespace) -> None:
    """Rebuild the tables of what has been read; of the black boxes those of the registry, since others are the user's own."""
    chosen = [direction_of(name).name for name in args.direction] or list(DIRECTIONS)
    presets = args.preset or [name for name in PRESETS if name != "smoke"]
    found = [(preset, name) for preset in presets for name in chosen if _has_evidence(preset, name)]
    if not found:
        raise nothing_here("readings of a direction")
    for preset, direction in found:
        print(short(_write_table(preset, direction)))
    make_summary()
