"""Figures for sentences: ``findings.md.j2`` and ``results.md.j2`` name what they tell, and get value and interval here."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rastudy.analysis import statistics as stats
from rastudy.analysis import style
from rastudy.analysis.checks import paper_gains
from rastudy.analysis.comparisons import ESTIMATE, GAIN, UNSEEN
from rastudy.analysis.judged import kept as kept_judgement
from rastudy.analysis.judged import table
from rastudy.analysis.tables import WITHIN, load_table, main_cells, without_variants
from rastudy.config import NOT_APPLICABLE
from rastudy.errors import StudyError
from rastudy.paths import results_folder, to_read
from rastudy.presets import PRESETS
from rastudy.registry import mode_name
from rastudy.report import judgement, travel
from rastudy.report.claims import CONDITIONS, OF_PAPER, degradation_of, interval, main_rows, study_name, where
from rastudy.report.results_page import corrected_tests, measured_boundaries
from rastudy.transfer import aware
from rastudy.transfer.tables import load_table as load_transfer


def said(row: Mapping | pd.Series, names: Sequence[str] = ESTIMATE, digits: int = 1, sign: str = "+") -> str:
    """``+2.5 [1.9, 3.2]``: the interval over trainings where the row has one."""
    return interval(row, names, digits, sign, inside="")


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


def cost(preset: str, condition: str, mode: str = "ra") -> str:
    """The decibels that a mode's picture loses to plain's."""
    rows = main_rows("accuracy", preset, condition, metric="psnr").set_index("mode")["value"]
    return f"{rows['plain'] - rows[mode]:.2f}"


def kept(preset: str, condition: str, mode: str = "ra", of: str = "value") -> str:
    """The share that unseen models keep: of the source's gain, or (``within``) of their own as sources."""
    names = WITHIN[:3] if of == "within" else ESTIMATE
    return said(_row(main_rows("kept", preset, condition), preset, condition, mode=mode), names, 2, "")


def read_by(preset: str, condition: str, target: str, source: str = "", mode: str = "ra") -> str:
    """A mode's gain for one target model, from the preset's source or from another."""
    wanted = {"source_arch": source or PRESETS[preset]["source_arch"], "target_arch": target, "mode": mode}
    return said(_row(load_table(preset, "gains"), preset, condition, **wanted, baseline="plain", other=NOT_APPLICABLE))


def moved(
    preset: str, direction: str, variant: str, condition: str, mode: str = "ra", reader: str = "mean", source: str = ""
) -> str:
    """The gain of a direction's readers; a black box is a mean of one."""
    wanted = {"variant": variant, "mode": mode, "reader": reader} | ({"source_arch": source} if source else {})
    return said(_row(load_transfer(preset, direction), preset, condition, **wanted))


def trainings(preset: str, condition: str, mode: str = "ra", of: str = "gain") -> str:
    """On how many trainings a mode's main gain rests, or (``within``) its share of the unseen models' own gain as sources."""
    if of == "within":
        return str(int(_row(main_rows("kept", preset, condition), preset, condition, mode=mode)["within_seeds"]))
    return str(main_rows("gains", preset, condition, mode=mode, role="source")["n_seeds"].iloc[0])


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


def pictures(preset: str) -> str:
    """How many test pictures a study has."""
    return f"{main_cells(load_table(preset, 'gains'), preset)['n_images'].max():,}"


def control(name: str, who: str = "source", preset: str = "cifar10") -> str:
    """The gain of a control, for the source or the unseen models."""
    return said(_only(load_table(preset, "controls"), preset, control=name), GAIN if who == "source" else UNSEEN)


def matched(condition: str, role: str = "mean_unseen", preset: str = "cifar10") -> str:
    """The feature loss's gain minus RA's at the decibels of RA's chosen weight, on validation."""
    weight = PRESETS[preset]["degradations"][degradation_of(preset, condition)]["ra_weights"]["ra"]
    return said(_row(load_table(preset, "matched"), preset, condition, weight_of="ra", ra_weight=weight, role=role))


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
    """In how many cases RA's step ``enter``s true classes more often than random ones, or kappa tells no ``gain``."""
    rows = [row for preset in presets for row in measured_boundaries(preset)]
    tests = corrected_tests(rows).values()
    hits = [p >= stats.SURE for p in tests] if what == "gain" else [row[what][1] > 0 for row in rows if what in row]
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
    return (
        "Recognisers get P's output rounded to 8 bits, as a file would hold it; the paper's release passes floats on. The "
        f"largest change in any model's top-1 that floats would make in a main cell: {told}."
    )


HELPERS: dict[str, Any] = {
    function.__name__: function
    for function in (
        gain, read_by, boxed, pictures, cost, kept, moved, control, matched, trainings, times, judged, sent, beside,
    )
}  # fmt: skip
