"""The paper's claims beside what the studies measured, with a verdict for each."""

from collections.abc import Iterator, Sequence

import pandas as pd

from rastudy import registry
from rastudy.analysis.tables import load_table, main_cells, paper_gains
from rastudy.paths import results_folder
from rastudy.presets import degradations
from rastudy.registry import mode_name

STUDIES = {"digits": "digits", "cifar10": "CIFAR-10", "imagenet_lite": "700 photographs"}  # the presets with committed results
CONDITIONS = {"sr x4": ("sr", 4.0), "sr x2": ("sr", 2.0), "dn": ("dn", None), "jpeg": ("jpeg", None)}  # None: the preset's
PAPER_TASKS = {"sr x4": "sr", "dn": "dn", "jpeg": "jpeg"}
NOTHING = 1.0  # points: a gain below it is one of nothing, the paper's (unsupervised RA's in denoising) and ours
MOST = 0.5  # unseen R's keep most of the source's gain where they keep more than this share


def markdown(rows: list[list[str]], header: list[str]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def interval(row: pd.Series, digits: int = 1, sign: str = "+") -> str:
    """``value [low, high]``."""
    value, low, high = (f"{row[name]:{sign}.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def study_name(preset: str) -> str:
    """The name to show for a study's data."""
    return STUDIES.get(preset, preset)


def has_results(preset: str) -> bool:
    return (results_folder(preset) / "gains.csv").is_file() and len(load_table(preset, "gains")) > 0


def present_studies() -> list[str]:
    """The studies that have committed results."""
    return [preset for preset in STUDIES if has_results(preset)]


def degradation_of(preset: str, condition: str) -> tuple[str, float] | None:
    """A preset's degradation under a condition of the claims table, or None where it has none."""
    task, strength = CONDITIONS[condition]
    return next((key for key in degradations(preset, task) if strength in (None, key[1])), None)


def main_rows(name: str, preset: str, condition: str, baseline: str = "plain", **wanted: str) -> pd.DataFrame:
    """The main comparison's rows of a table under a condition, of one mode, say."""
    rows = main_cells(load_table(preset, name), preset, baseline)
    task, strength = degradation_of(preset, condition) or ("", 0)
    keep = (rows["task"] == task) & (rows["strength"] == strength)
    for column, value in wanted.items():
        keep &= rows[column] == value
    return rows[keep]


def verdict(claim: float | None, low: float, high: float) -> str:
    """Whether an interval agrees with a claim of a difference of its sign, or with 0 of less than a point (None: no claim)."""
    if claim is None:
        return ""
    if claim == 0:
        inside, outside = -NOTHING < low and high < NOTHING, low >= NOTHING or high <= -NOTHING
        return "agrees" if inside else "disagrees" if outside else "undecided"
    if low <= 0 <= high:
        return "undecided"
    return "agrees" if (low > 0) == (claim > 0) else "disagrees"


def gain_of(preset: str, condition: str, mode: str, role: str, claim: float | None) -> str:
    """The gain over plain of the source or the mean unseen R, with its interval and verdict; empty where it was not run."""
    rows = main_rows("gains", preset, condition, mode=mode, role=role)
    return f"{interval(rows.iloc[0])} {verdict(claim, *rows.iloc[0][['low', 'high']])}".strip() if len(rows) else ""


def kept_of(preset: str, condition: str, mode: str, claimed: bool) -> str:
    """``gain_kept`` with its interval and verdict (``claimed``: that it is most of it), or why there is none."""
    rows = main_rows("kept", preset, condition, mode=mode)
    if not len(rows):
        return ""
    row = rows.iloc[0]
    if pd.isna(row["value"]):
        return "the source's gain is not resolved" if "includes 0" in row["reason"] else "the source loses"
    return f"{interval(row, 2, '')} {verdict(1 if claimed else None, *(row[['low', 'high']] - MOST))}".strip()


def _paper_gains(condition: str, mode: str) -> dict[str, float]:
    """The paper's mean gain of the source and of unseen R's; empty where its figure is not at hand."""
    table = paper_gains()
    same = table[(table["task"] == PAPER_TASKS.get(condition)) & (table["mode"] == mode)]
    return same.groupby("role")["value"].mean().to_dict()


def claims_table(presets: Sequence[str] = ()) -> str:
    """Claim by claim and degradation: the paper's figure, and ours with intervals and verdicts, on every set (or on these)."""
    presets = presets or present_studies()
    conditions = [name for name in CONDITIONS if any(degradation_of(preset, name) for preset in presets)]
    header = ["claim", "task", "paper (ImageNet)", *(f"ours, {_shown(preset)}" for preset in presets)]
    return markdown([row for mode in registry.modes("paper")[1:] for row in _claims(mode, presets, conditions)], header)


def _claims(mode: str, presets: Sequence[str], conditions: list[str]) -> Iterator[list[str]]:
    """A mode's rows. That T gains is claimed, too, though its figures are not at hand; of x2 the paper says nothing."""
    for role, who in (("source", "the R in the loss"), ("unseen", "unseen R's")):
        for condition in conditions:
            paper = _paper_gains(condition, mode).get(role)
            claim = paper if paper is None or abs(paper) >= NOTHING else 0.0
            if paper is None and condition in PAPER_TASKS:
                claim = 1.0
            ours = [gain_of(preset, condition, mode, {"unseen": "mean_unseen"}.get(role, role), claim) for preset in presets]
            shown = f"{paper:+.1f}" if paper is not None else _no_figure(condition)
            yield [f"{mode_name(mode)}: gain of {who} (points)", condition, shown, *ours]
    for condition in conditions:
        paper = _paper_gains(condition, mode)
        claimed = bool(paper) and paper["source"] >= NOTHING
        shown = "source's gain near 0" if paper else _no_figure(condition)
        if claimed:
            shown = f"{paper['unseen'] / paper['source']:.2f}"
        ours = [kept_of(preset, condition, mode, claimed) for preset in presets]
        yield [f"{mode_name(mode)}: share that unseen R's keep", condition, shown, *ours]


def _no_figure(condition: str) -> str:
    return "not at hand" if condition in PAPER_TASKS else "no such task"


def _shown(preset: str) -> str:
    """The set's name with what its intervals rest on."""
    rows = main_cells(load_table(preset, "gains"), preset)
    seeds, n, groups = (int(rows[name].max()) for name in ("n_seeds", "n_images", "n_groups"))
    of = f" of {groups:,} digits" if groups != n else ""
    low = int(rows["n_seeds"].min())
    seeds = f"{seeds} seed{'s' * (seeds > 1)}" if low == seeds else f"{low} to {seeds} seeds"
    return f"{study_name(preset)} ({seeds}, {n:,} pictures{of})"
