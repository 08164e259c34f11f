"""The paper's claims beside what the studies measured, with a verdict for each."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from rastudy import registry
from rastudy.analysis import style
from rastudy.analysis.checks import paper_gains
from rastudy.analysis.comparisons import ESTIMATE, ends
from rastudy.analysis.statistics import MARGIN, kind_of_difference
from rastudy.analysis.tables import WITHIN, load_table, main_cells
from rastudy.paths import results_folder, to_read
from rastudy.presets import PRESETS, degradations
from rastudy.registry import TASKS, mode_name, short_name

STUDIES = {name: document["shown"] for name, document in PRESETS.items() if document.get("shown")}  # with committed results
# the rows of the claims table: a task, and its strength where the task has only a few; None: the preset's own
CONDITIONS: dict[str, tuple[str, float | None]] = {
    short_name(name, strength) if task.choices else name: (name, strength)
    for name, task in TASKS.items() if not task.drawn for strength in reversed(task.choices or (None,))
}  # fmt: skip
OF_PAPER = {task: name for name, (task, strength) in CONDITIONS.items()
            if strength is None or (task, strength) in degradations("imagenet")}  # fmt: skip
MOST = 0.5  # unseen R's keep most of the source's gain where they keep more than this share


def markdown(rows: list[list[str]], header: Sequence[str]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def interval(
    row: Mapping | pd.Series, names: Sequence[str] = ESTIMATE, digits: int = 1, sign: str = "+", inside: str | None = None
) -> str:
    """``value [low, high]`` of these columns, over trainings where the row has that; empty where there is no value.

    Args:
        sign: of the value, and of the ends unless ``inside`` says theirs.
    """
    value, *both = (row[name] for name in (names[0], *ends(row, names)))
    low, high = (f"{end:{sign if inside is None else inside}.{digits}f}" for end in both)
    return "" if pd.isna(value) else f"{value:{sign}.{digits}f} [{low}, {high}]"


def within(row: Mapping | pd.Series) -> str:
    """What unseen models keep of their own gain as sources, with the trainings it rests on where the gain rests on others."""
    share, seeds = interval(row, WITHIN[:3], 2, ""), row["within_seeds"]
    return share if not share or seeds == row["n_seeds"] else f"{share}, {seeds:.0f} training{'s' * bool(seeds != 1)}"


def trainings(row: Mapping | pd.Series) -> str:
    """How many trainings a figure rests on."""
    n = int(row["n_seeds"])
    return f"{n} training{'s' * (n != 1)}"


def published(gain: float) -> str:
    """A mean of published gains; the last bits of its sum do not decide how 2.75 is rounded."""
    return f"{round(gain, 6):+.1f}"


def study_name(preset: str) -> str:
    """The name to show for a study's data."""
    return STUDIES.get(preset, preset)


def has_results(preset: str) -> bool:
    return to_read(results_folder(preset) / "gains.csv").is_file() and len(load_table(preset, "gains")) > 0


def present_studies() -> list[str]:
    """The studies that have committed results."""
    return [preset for preset in STUDIES if has_results(preset)]


def degradation_of(preset: str, condition: str) -> tuple[str, float] | None:
    """A preset's degradation under a condition of the claims table, or None where it has none."""
    task, strength = CONDITIONS[condition]
    return next((key for key in degradations(preset, task) if strength in (None, key[1])), None)


def main_rows(name: str, preset: str, condition: str, baseline: str = "plain", **wanted: str) -> pd.DataFrame:
    """A table's rows of the main comparison under a condition, where columns have the ``wanted`` values."""
    rows = main_cells(load_table(preset, name), preset, baseline)
    task, strength = degradation_of(preset, condition) or ("", 0)
    return where(rows, task=task, strength=strength, **wanted)


def where(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    return table[(table[list(values)] == pd.Series(values)).all(axis=1)]


def verdict(claim: float | None, low: float, high: float, p: float = 0.0, margin: float = MARGIN) -> str:
    """Whether an interval agrees with a claim: a gain, a loss, or 0, no difference (None: no claim)."""
    if claim is None:
        return ""
    found, claimed = kind_of_difference(low, high, p, margin), "gain" if claim > 0 else "loss" if claim < 0 else "none"
    return found if found == "undecided" else "agrees" if found == claimed else "disagrees"


def gain_of(preset: str, condition: str, mode: str, role: str, claim: float | None) -> str:
    """The gain over plain of the source or the mean unseen R: interval, trainings, verdict; empty where it was not run."""
    rows = main_rows("gains", preset, condition, mode=mode, role=role)
    if not len(rows):
        return ""
    row = rows.iloc[0]
    low, high = row[list(ends(row))]
    said = verdict(claim, low, high, row["p_holm"])
    if said == "undecided" and (low > 0 or high < 0):
        said += " (above 0)" if low > 0 else " (below 0)"
    return f"{interval(row)}, {trainings(row)}" + f": {said}" * bool(said)


def kept_of(preset: str, condition: str, mode: str, names: Sequence[str], claimed: bool) -> str:
    """A share that is kept with its interval and verdict (``claimed``: that it is most of it), or why there is none."""
    rows = main_rows("kept", preset, condition, mode=mode)
    if not len(rows):
        return ""
    row = rows.iloc[0]
    if pd.isna(row[names[0]]) and names == ESTIMATE:
        return "the source's gain is not resolved" if "includes 0" in row["reason"] else "the source loses"
    low, high = row[list(names[1:])] - MOST
    said = verdict(1 if claimed else None, low, high, margin=0.0)
    share = within(row) if names == WITHIN[:3] else interval(row, names, 2, "")
    return share + f": {said}" * bool(said and share)


def claims_table(presets: Sequence[str] = ()) -> str:
    """Claim by claim and degradation: the paper's figure, and ours with intervals and verdicts, on every set (or on these)."""
    presets = presets or present_studies()
    conditions = [name for name in CONDITIONS if any(degradation_of(preset, name) for preset in presets)]
    header = ["claim", "task", "paper (ImageNet)", *map(_header, presets)]
    return markdown([row for mode in registry.modes("paper")[1:] for row in _claims(mode, presets, conditions)], header)


def _header(preset: str) -> str:
    """A study's column: its data, with the pictures that its intervals rest on."""
    rows = main_cells(load_table(preset, "gains"), preset)  # none where nothing was run with the preset's own settings
    pictures = f" ({style.sample(rows, '')[0]})" if len(rows) else ""
    return f"ours, {study_name(preset)}{pictures}"


def _claims(mode: str, presets: Sequence[str], conditions: list[str]) -> Iterator[list[str]]:
    """A mode's rows. That T gains is claimed, too, though its figures are not available; of x2 the paper says nothing."""
    table = paper_gains()
    paper = {name: where(table, task=task, mode=mode).groupby("role")["value"].mean() for task, name in OF_PAPER.items()}
    missing = {name: "not available" if name in paper else "no such task" for name in conditions}
    for role, row_role, who in (("source", "source", "the source"), ("unseen", "mean_unseen", "unseen models")):
        for condition in conditions:
            found = paper.get(condition, {}).get(role)
            claim = None if condition not in paper else 1.0 if found is None else found if abs(found) >= MARGIN else 0.0
            ours = [gain_of(preset, condition, mode, row_role, claim) for preset in presets]
            shown = missing[condition] if found is None else published(found)
            yield [f"{mode_name(mode)}: gain of {who} (pp)", condition, shown, *ours]
    for of, names in (("of the source's gain", ESTIMATE), ("of their own gain as sources", WITHIN[:3])):
        for condition in conditions:
            found = paper.get(condition, {})
            claimed = found.get("source", 0.0) >= MARGIN
            shown = missing[condition] if not len(found) else "source's gain near 0"
            if claimed:
                shown = f"{found['unseen'] / found['source']:.2f}" if names == ESTIMATE else "not available"
            ours = [kept_of(preset, condition, mode, names, claimed) for preset in presets]
            if names == ESTIMATE or any(ours):
                yield [f"{mode_name(mode)}: share that unseen models keep {of}", condition, shown, *ours]
