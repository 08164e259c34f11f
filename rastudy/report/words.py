"""Figures for sentences: ``findings.md.j2`` and ``results.md.j2`` name what they tell, and get value and interval here."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd

from rastudy.analysis import statistics as stats
from rastudy.analysis import style
from rastudy.analysis.checks import paper_gains
from rastudy.analysis.comparisons import (
    ESTIMATE,
    GAIN,
    UNSEEN,
    Cell,
    cell_key,
    cells_of,
    check_paired,
    gain_columns,
    load_cells,
)
from rastudy.analysis.judged import kept as kept_judgement
from rastudy.analysis.judged import table
from rastudy.analysis.tables import WITHIN, load_table, main_cells, without_variants
from rastudy.config import NOT_APPLICABLE, make_config
from rastudy.errors import StudyError
from rastudy.paths import results_folder, to_read
from rastudy.presets import PRESETS
from rastudy.registry import mode_name, role_of, source_names
from rastudy.report import judgement, travel
from rastudy.report.claims import CONDITIONS, OF_PAPER, degradation_of, interval, main_rows, study_name, where
from rastudy.report.results_page import best_of_tests, corrected_tests, measured_boundaries
from rastudy.transfer import aware
from rastudy.transfer.kept import load_kept
from rastudy.transfer.tables import load_table as load_transfer

ONE = "¹"  # behind a figure that rests on one training: its interval is over pictures


def said(row: Mapping | pd.Series, names: Sequence[str] = ESTIMATE, digits: int = 1, sign: str = "+") -> str:
    """``+2.5 [1.9, 3.2]``: the interval over trainings where the row has one; of one training with ``ONE`` behind it."""
    seeds = row.get("within_seeds" if names == WITHIN[:3] else "n_seeds", 1)  # a table without the column is of one
    told = interval(row, names, digits, sign, inside="")
    return told + ONE * bool(told and seeds == 1)


def _only(table: pd.DataFrame, *where_: str, **wanted: Any) -> pd.Series:
    """The row with the wanted values; StudyError where there is none, or several. ``where_``: what the table is of."""
    rows = where(table, **wanted)
    if len(rows) != 1:
        what = ", ".join(map(str, [*where_, *wanted.values()]))
        raise StudyError(f"{what}: {len(rows)} rows where a sentence needs one; rebuild the tables (make tables)")
    return rows.iloc[0]


def _row(table: pd.DataFrame, preset: str, condition: str, **wanted: Any) -> pd.Series:
    """The row of a degradation with the wanted values."""
    return _only(style.rows_of(table, degradation_of(preset, condition)), preset, condition, **wanted)


def gain(preset: str, condition: str, mode: str = "ra", role: str = "source") -> str:
    """The gain over plain of a mode's main cell, for the source or the mean of the unseen models."""
    return said(_row(main_rows("gains", preset, condition), preset, condition, mode=mode, role=role))


def cost(preset: str, condition: str) -> str:
    """The decibels that RA's picture loses to plain's."""
    rows = main_rows("accuracy", preset, condition, metric="psnr").set_index("mode")["value"]
    return f"{rows['plain'] - rows['ra']:.2f}"


def kept(preset: str, condition: str, of: str = "value") -> str:
    """The share that unseen models keep of RA's gain: of the source's, or (``within``) of their own as sources."""
    names = WITHIN[:3] if of == "within" else ESTIMATE
    return said(_row(main_rows("kept", preset, condition), preset, condition, mode="ra"), names, 2, "")


def read_by(preset: str, condition: str, target: str, source: str = "", mode: str = "ra") -> str:
    """A mode's gain for one target model, from the preset's source or from another."""
    wanted = {"source_arch": source or PRESETS[preset]["source_arch"], "target_arch": target, "mode": mode}
    return said(_row(load_table(preset, "gains"), preset, condition, **wanted, baseline="plain", other=NOT_APPLICABLE))


def moved(preset: str, direction: str, variant: str, condition: str, mode: str = "ra", source: str = "") -> str:
    """The mean gain of a direction's readers; a black box is a mean of one."""
    wanted = {"variant": variant, "mode": mode, "reader": "mean"} | ({"source_arch": source} if source else {})
    return said(_row(load_transfer(preset, direction), preset, condition, **wanted))


def trainings(preset: str, condition: str) -> str:
    """On how many trainings RA's main gain rests."""
    return str(main_rows("gains", preset, condition, mode="ra", role="source")["n_seeds"].iloc[0])


def times(preset: str) -> str:
    """How many times larger the paper's gains by RA are, over tasks, for source and unseen models."""
    paper = paper_gains().query("mode == 'ra'").groupby(["task", "role"])["value"].mean()
    roles = {"source": "source", "unseen": "mean_unseen"}
    ratios = [paper[task, theirs] / main_rows("gains", preset, name, mode="ra", role=ours)["value"].iloc[0]
              for task, name in OF_PAPER.items() for theirs, ours in roles.items()]  # fmt: skip
    return f"{min(ratios):.1f} to {max(ratios):.1f}"


def boxed(box: str, source: str = "", condition: str = "sr x4", mode: str = "ra") -> str:
    """A black box's gain on imagenette's photographs, from its source or from another."""
    return moved("imagenette", "black_box", box, condition, mode, source=source or PRESETS["imagenette"]["source_arch"])


def paired(reader: str, condition: str, one: str, other: str, preset: str = "imagenette") -> str:
    """How much more a reader gains from one run than from another, such as ``ra:squeezenet``; on the same pictures and seeds.

    ``reader``: a target, ``unseen`` for the mean of those that are it for both runs, or a black box.
    """
    cells, boxes = _cells(preset)
    boxed = reader in boxes
    found = [(boxes[reader] if boxed else cells).get(_key(preset, condition, *name.split(":"))) for name in (one, other)]
    seeds = [seed for seed in found[0].runs if seed in found[1].runs] if found[0] and found[1] else []
    if not seeds:
        raise StudyError(f"{preset}, {condition}, {reader}: no {one} and {other} of one seed; rastudy sweep trains them")
    mine, theirs = found
    mine, theirs = mine.seeds(seeds), theirs.seeds(seeds)
    check_paired(mine, theirs)
    sources = [name for cell in (mine, theirs) for name in source_names(cell.settings["source_arch"])]
    asked = [boxed or reader in (name, role_of(name, sources)) for name in mine.targets]
    gains = (mine.hits - theirs.hits)[:, asked].mean(1)[:, :, None]
    return said(gain_columns(gains, mine.groups)[0] | {"n_seeds": len(seeds)})


@cache
def _cells(preset: str) -> tuple[dict[tuple, Cell], dict[str, dict[tuple, Cell]]]:
    """The study's cells, and those that each black box read."""
    boxes = {name: cells_of(read.values()) for name, read in load_kept(preset, "black_box").items()}
    return load_cells(preset, "test"), boxes


def _key(preset: str, condition: str, mode: str, source: str = "") -> tuple:
    """The ``CELL`` of the preset's run of a mode, from its source or from another."""
    task, strength = degradation_of(preset, condition) or ("", 0.0)
    sources = {"source_arch": source} if source else {}
    return cell_key(make_config(preset, task, mode, strength=strength, **sources).science())


def pictures(preset: str) -> str:
    """How many test pictures a study has."""
    return f"{main_cells(load_table(preset, 'gains'), preset)['n_images'].max():,}"


def control(name: str, who: str = "source") -> str:
    """The gain of a control on CIFAR-10, for the source or the unseen models."""
    return said(_only(load_table("cifar10", "controls"), "cifar10", control=name), GAIN if who == "source" else UNSEEN)


def matched(condition: str) -> str:
    """The feature loss's gain on CIFAR-10 minus RA's at the decibels of RA's chosen weight, for unseen models on validation."""
    weight = PRESETS["cifar10"]["degradations"][degradation_of("cifar10", condition)]["ra_weights"]["ra"]
    wanted = {"weight_of": "ra", "ra_weight": weight, "role": "mean_unseen"}
    return said(_row(load_table("cifar10", "matched"), "cifar10", condition, **wanted))


def judged(preset: str, task: str, restorer: str, over: str = "", reader: str = judgement.UNSEEN) -> str:
    """A model's gain over no processing, or over another restorer, by one that ``rastudy judge`` judged."""
    if over:
        found = table(kept_judgement(to_read(results_folder(preset) / f"judged_{task}.npz")), over)
    else:
        (found,) = (one for one in judgement.judgements([preset]) if one["task"].iloc[0] == task)
    return said(_only(found, preset, task, restorer=restorer, reader=reader), GAIN)


def read_best(presets: Sequence[str]) -> str:
    """In how many judgements a P with a recogniser in its loss is read best by models that it never met."""
    found = [judgement.best(one) for one in judgement.judgements(presets)]
    return f"{sum(judgement.has_recogniser(name) for name in found)} of {len(found)}"


def sent(preset: str, condition: str, way: str, readers: str, what: str) -> str:
    """RA's gain after an upload, ``without`` uploads in its loss or ``with`` them, or the ``difference``."""
    return said(_row(aware.load_table(preset), preset, condition, way=way, readers=readers, gain=what))


def beside(preset: str, task: str, restorer: str) -> str:
    """What the mean unseen model reads better after a restorer than after RA's specialist."""
    (found,) = (one for one in travel.blind_judgements(preset) if one["task"].iloc[0] == task)
    return said(_only(found, preset, task, restorer=restorer), GAIN)


def boundaries(what: str, presets: Sequence[str]) -> str:
    """In how many cases RA's step ``enter``s true classes (``leave``s) more often than random ones; for ``gain`` in how many
    tests kappa goes with it; for ``hopeless`` in how many no relation could have come out significant after the correction.
    """
    rows = [row for preset in presets for row in measured_boundaries(preset)]
    if what == "hopeless":
        return str(sum(best >= stats.SURE for best in best_of_tests(rows).values()))
    tests = corrected_tests(rows).values()
    hits = [p < stats.SURE for p in tests] if what == "gain" else [row[what][1] > 0 for row in rows if what in row]
    return f"{sum(hits)} of {len(hits)}"


def rounding(presets: Sequence[str]) -> str:
    """What handing on P's floats, as the release does, would change at most: a model's top-1 in the main cells."""
    most: dict[str, tuple[float, str]] = {}
    for preset in presets:
        for condition in (name for name in CONDITIONS if degradation_of(preset, name)):
            rows = without_variants(main_rows("accuracy", preset, condition))
            both = rows[rows["metric"].isin(["top1", "top1_float"])].pivot_table("value", ["mode", "target_arch"], "metric")
            for (mode, _), row in both.iterrows() if "top1_float" in both else ():
                change = abs(row["top1"] - row["top1_float"])
                most[preset] = max(most.get(preset, (0.0, "")), (change, f"{condition}, {mode_name(mode)}"))
    told = "; ".join(f"{study_name(name)} {change:.2f} pp ({where_})" for name, (change, where_) in most.items())
    told += "; ".join(["", *(f"{study_name(name)} not measured" for name in presets if name not in most)])
    return (
        "Recognisers get P's output rounded to 8 bits, as a file would hold it; the paper's release passes floats on. The "
        f"largest change in any model's top-1 that floats would make in a main cell: {told}."
    )


HELPERS: dict[str, Any] = {
    function.__name__: function
    for function in (
        gain, read_by, boxed, paired, pictures, cost, kept, moved, control, matched, trainings, times, judged, sent, beside,
    )
}  # fmt: skip
