"""Does a study that was run here replicate the record? Gains beside the record's, with what retraining alone changes."""

from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from rastudy.analysis.comparisons import Cell, targets_by_role
from rastudy.analysis.statistics import FEWEST_TRAININGS, LEVEL
from rastudy.analysis.tables import GAINS, load_table, main_cells, rounded
from rastudy.config import make_config
from rastudy.evaluation.predictions import load_predictions, predictions_file, read_table
from rastudy.paths import CHECKOUT, is_record, record_of, results_folder, root, write_atomic, write_csv
from rastudy.registry import display_name, mode_name, short_name

KEY = ("task", "strength", "mode", "role")
COLUMNS = ("preset", *KEY, "target_arch", "record", "record_trainings", "ours", "our_trainings", "difference", "spread",
           "verdict", "record_seed_0", "same_bits")  # fmt: skip
CONSTRAINTS = CHECKOUT / "results" / "constraints.txt"


def replication_rows(preset: str) -> Iterator[dict]:
    """A row per main cell and role (the source, the mean unseen R): the record's gain over plain, ours, and a verdict.

    ``spread``: how far, at 95 %, the means of as many trainings lie apart that differ by their seeds alone, from the record's
    trainings of the mode in all its cells (five of one cell tell their spread badly); empty below three. ``replicates``: the
    difference is within. ``record_seed_0``: the record's gain of the training that ours repeats, with other last bits of its
    sums at most; ``same_bits``: with none.
    """
    path = record_of(results_folder(preset) / "gains.csv")
    tables = read_table(path, GAINS, "git checkout results", source_arch=str), load_table(preset, "gains")
    theirs, ours = (
        main_cells(table, preset).query("role in ['source', 'mean_unseen']").set_index(list(KEY)) for table in tables
    )
    for key, mine in ours.iterrows():
        if key not in theirs.index:
            continue
        known, row = theirs.loc[key], dict(zip(KEY, key, strict=True))
        difference, n, m = mine["value"] - known["value"], int(known["n_seeds"]), int(mine["n_seeds"])
        spread = np.nan
        if n >= FEWEST_TRAININGS:
            of_mode = theirs.xs(key[2], level="mode")
            sd, freedom = np.sqrt((of_mode["seed_sd"] ** 2).mean()), (of_mode.xs("source", level="role")["n_seeds"] - 1).sum()
            spread = stats.t.ppf((1 + LEVEL) / 2, freedom) * sd * np.sqrt(1 / n + 1 / m)
        verdict = "not judged" if np.isnan(spread) else "replicates" if abs(difference) <= spread else "differs"
        theirs_0, same = _seed_0(preset, *key)
        yield row | {
            "preset": preset, "target_arch": mine["target_arch"], "record": known["value"], "record_trainings": n,
            "ours": mine["value"], "our_trainings": m, "difference": difference, "spread": spread, "verdict": verdict,
            "record_seed_0": theirs_0, "same_bits": same,
        }  # fmt: skip


def _seed_0(preset: str, task: str, strength: float, mode: str, role: str) -> tuple[float, bool]:
    """The record's gain of seed 0, nan where its predictions are not here, and whether ours are the same, bit by bit."""
    files = [predictions_file(make_config(preset, task, name, strength=strength), "test") for name in ("plain", mode)]
    if not all(path.is_file() and record_of(path).is_file() for path in files):
        return float("nan"), False
    theirs, ours = ([load_predictions(place(path)) for path in files] for place in (record_of, Path))
    plain, cell = (Cell({0: one}) for one in theirs)
    gain = (cell.hits - plain.hits)[0, targets_by_role(cell)[role]].mean()
    same = [one.arrays.keys() == other.arrays.keys() and all(np.array_equal(one.arrays[k], other.arrays[k]) for k in one.arrays)
            for one, other in zip(theirs, ours, strict=True)]  # fmt: skip
    return float(gain), all(same)


def replicate(preset: str) -> pd.DataFrame:
    """Write ``replication.csv`` of a study beside the record; empty where this is the record, or has none of the preset."""
    path = results_folder(preset) / "replication.csv"
    if is_record() or not path.is_relative_to(root()) or not record_of(results_folder(preset) / "gains.csv").is_file():
        return pd.DataFrame(columns=list(COLUMNS))
    write_csv(path, map(rounded, replication_rows(preset)), COLUMNS)
    return load_replication(path)


def load_replication(path: Path) -> pd.DataFrame:
    return read_table(path, COLUMNS, "make study")


def shown(found: pd.DataFrame) -> str:
    """The table as a terminal shows it."""
    return found[[*KEY, "record", "ours", "difference", "spread", "verdict", "record_seed_0"]].round(2).to_string(index=False)


def told(found: pd.DataFrame) -> str:
    """The table in words: how many gains replicate, which do not, and whether the bits are the record's."""
    judged = found[found["verdict"] != "not judged"]
    good, other = (judged["verdict"] == "replicates").sum(), judged[judged["verdict"] == "differs"]
    said = f"{good} of {len(judged)} gains replicate"
    if len(found) > len(judged):
        said += f" ({len(found) - len(judged)} more rest on too few trainings to judge)"
    named = [
        f"{short_name(row.task, row.strength)} {mode_name(row.mode)}, {display_name(row.target_arch)}"
        for row in other.itertuples()
    ]
    said += f"; by more than retraining alone explains differ: {'; '.join(named)}" * bool(named)
    same = int(found["same_bits"].sum())
    return f"{said}. Seed 0 has the record's bits in {same} of {len(found)}."


def versions() -> dict[str, str]:
    """Version of every package that is installed, by its name as pip writes it; without what names a build (``+cpu``)."""
    found = {one.metadata["Name"].lower().replace("_", "-"): one.version.partition("+")[0] for one in distributions()}
    return {name: version for name, version in sorted(found.items()) if name not in ("rastudy", "pip", "setuptools")}


def write_constraints() -> None:
    """The exact versions that made the record, for ``pip install -c``."""
    lines = [f"{name}=={version}" for name, version in versions().items()]
    write_atomic(CONSTRAINTS, lambda p: p.write_text("\n".join(lines) + "\n"))
