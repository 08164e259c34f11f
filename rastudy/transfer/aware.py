"""How much of RA's gain survives an upload with uploads in its loss, and without: ``results/<preset>/upload_aware.csv``."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from rastudy.analysis import comparisons
from rastudy.analysis.comparisons import COUNTS, ESTIMATE, OVER, Cell
from rastudy.analysis.tables import rounded
from rastudy.evaluation.predictions import read_table
from rastudy.paths import results_folder, to_read, write_csv
from rastudy.registry import source_names
from rastudy.transfer.kept import load_kept
from rastudy.transfer.upload import UPLOADS

RUN = ("preset", "task", "strength", "mode", "source_arch", "ra_weight", "upload")
COLUMNS = (*RUN, "way", "readers", "gain", *ESTIMATE, *OVER, "p", *COUNTS)
GAINS = ("without", "with", "difference")


def table_file(preset: str) -> Path:
    return results_folder(preset) / "upload_aware.csv"


def rows(preset: str) -> Iterator[dict]:
    """A row per degradation, way, kind of readers and gain, in points of top-1, paired on pictures and trainings.

    ``readers``: the source R, the mean of the unseen ones, or of the unlike ones. ``gain``: over plain of the run ``without``
    an upload in its loss and of that ``with`` one, and the latter minus the former.
    """
    kept = load_kept(preset, "upload_aware")
    for way in UPLOADS:
        for variant in (way, f"{way}_unlike"):
            cells = comparisons.cells_of(kept.get(variant, {}).values())
            for cell in cells.values():
                beside = dict(comparisons.baselines_of(cell, cells))
                if {"plain", "without_upload"} <= beside.keys():
                    yield from _cell_rows(way, variant != way, cell, beside["plain"], beside["without_upload"])


def _cell_rows(way: str, unlike: bool, aware: Cell, plain: Cell, without: Cell) -> Iterator[dict]:
    seeds = [seed for seed in aware.runs if seed in plain.runs and seed in without.runs]
    if not seeds:
        return
    aware, plain, without = (cell.seeds(seeds) for cell in (aware, plain, without))
    for other in (plain, without):
        comparisons.check_paired(aware, other)
    settings = aware.settings
    sources = source_names(settings["source_arch"])
    source = [r for r, name in enumerate(aware.targets) if name in sources]
    others = [r for r in range(len(aware.targets)) if r not in source]
    for readers, places in {"unlike": others}.items() if unlike else {"source": source, "unseen": others}.items():
        base, one, two = (cell.hits[:, places].mean(1) for cell in (plain, without, aware))  # S N
        values = np.stack([one - base, two - base, two - one], -1)
        for gain, columns in zip(GAINS, comparisons.gain_columns(values, aware.groups), strict=True):
            row = {name: settings[name] for name in RUN} | {"way": way, "readers": readers, "gain": gain}
            yield row | columns | aware.counts()


def write_table(preset: str) -> None:
    """Write the table, where a run with an upload in its loss has been read."""
    found = [rounded(row) for row in rows(preset)]
    if found:
        write_csv(table_file(preset), found, COLUMNS)


def load_table(preset: str) -> pd.DataFrame:
    """The table, empty where nothing was trained with uploads in its loss; StudyError where it has other columns."""
    path = to_read(table_file(preset))
    remedy = f"rastudy sweep --preset {preset} --direction upload_aware"
    return read_table(path, COLUMNS, remedy) if path.is_file() else pd.DataFrame(columns=COLUMNS)
