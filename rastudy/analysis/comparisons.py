"""Cells of the grid: a cell's runs over seeds, its baselines, and the target R's of each contrast.

Every comparison is paired here: same pictures, same R's, common seeds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from rastudy import registry
from rastudy.analysis import statistics as stats
from rastudy.config import NOT_APPLICABLE, make_config
from rastudy.errors import StudyError
from rastudy.evaluation import metrics
from rastudy.evaluation.predictions import Predictions, load_run
from rastudy.paths import results_folder
from rastudy.presets import PRESETS, degradations
from rastudy.registry import TASKS, role_of, source_names

CELL = ("task", "strength", "mode", "processor", "source_arch", "ra_weight", "labels", "pretrain_epochs", "epochs", "other")
ESTIMATE = ("value", "low", "high")
OVER = ("trainings_low", "trainings_high")  # the interval over trainings, of gains that rest on enough of them
GAIN, UNSEEN = ("gain", "gain_low", "gain_high"), ("unseen_gain", "unseen_low", "unseen_high")  # of the source, of unseen R's
COUNTS = ("n_seeds", "n_images", "n_groups")
Pair = tuple[str, "Cell", "Cell", np.ndarray]  # of a baseline's name, a cell, that baseline, and the gain (S, R, N) in points


class Cell:
    """One cell of the grid: its runs over seeds, on the same pictures.

    Values per picture are means over the seeds; intervals are over pictures (or groups), given these seeds.
    """

    def __init__(self, runs: dict[int, Predictions]):
        self.runs = dict(sorted(runs.items()))
        self.first = first = next(iter(self.runs.values()))
        self.settings, self.split, self.targets = first.about["config"], first.about["split"], first.targets
        versions = list(first.about["targets"].items())
        for run in self.runs.values():
            same = run.about["data"] == first.about["data"] and list(run.about["targets"].items()) == versions
            if not (same and all(np.array_equal(run.arrays[name], first.arrays[name]) for name in ("label", "group"))):
                both = f"runs {first.about['run_id']} and {run.about['run_id']}"
                raise StudyError(
                    f"{both} saw other pictures, labels or weights of R's; rastudy sweep --status says which is stale: delete "
                    "that one"
                )
        self.groups = stats.Groups(first.arrays["group"])

    @cached_property
    def key(self) -> tuple:
        return cell_key(self.settings)

    @cached_property
    def is_main(self) -> bool:
        """Whether it belongs to the preset's main comparison (:func:`main_key`), of its modes and the baselines."""
        preset, (task, strength, mode) = self.settings["preset"], self.key[:3]
        known = mode in (*registry.modes("baseline"), *PRESETS[preset]["modes"])
        return known and (task, strength) in degradations(preset, task) and self.key == main_key(preset, task, strength, mode)

    @cached_property
    def in_weight_grid(self) -> bool:
        """Whether it differs from the main comparison of its degradation and mode by its weight, or T's rate, at most."""
        preset, (task, strength, mode) = self.settings["preset"], self.key[:3]
        main = make_config(preset, task, mode, strength=strength).science()
        free = {name: main[name] for name in ("ra_weight", "transformer_lr") if name in main}
        return cell_key(self.settings | free) == cell_key(main)

    @cached_property
    def hits(self) -> np.ndarray:
        """(S, R, N) 100 where R is right, else 0: percentage points."""
        return np.stack([100.0 * run.hits() for run in self.runs.values()])

    def seeds(self, names: list[int]) -> "Cell":
        """The same cell with some of its seeds."""
        return self if list(self.runs) == names else Cell({s: self.runs[s] for s in names})

    def quality(self) -> dict[str, float]:
        """Mean PSNR and SSIM of seed 0."""
        arrays = self.runs[0].arrays
        return {"psnr": metrics.psnr(arrays["mse"]).mean(), "ssim": arrays["ssim"].mean()}

    def counts(self) -> dict[str, int]:
        return {"n_seeds": len(self.runs), "n_images": len(self.groups.code), "n_groups": len(self.groups.sizes)}

    def base(self) -> dict:
        """The columns that every table of cells starts from."""
        return {"preset": self.settings["preset"], **dict(zip(CELL, self.key, strict=True)), **self.counts()}


def check_paired(one: Cell, other: Cell) -> None:
    """Raise StudyError where two cells saw other pictures or R's."""
    Cell(dict(enumerate(cell.first for cell in (one, other))))


def cell_key(settings: dict) -> tuple:
    """The ``CELL`` of a run's settings; ``other`` names what else is not the preset's, as ``lr=0.01 channels=32``."""
    defaults = {"processor": NOT_APPLICABLE, "source_arch": NOT_APPLICABLE, "ra_weight": 0.0, "labels": "correct"}
    defaults |= {"pretrain_epochs": 0, "epochs": 0, "other": _other_settings(settings)}
    return tuple((defaults | settings)[name] for name in CELL)


def _other_settings(settings: dict) -> str:
    document, (task, mode) = PRESETS[settings["preset"]], (settings["task"], settings["mode"])
    sizes = document.get("processors", {}).get(settings.get("processor"), {})
    preset = make_config(settings["preset"], task, mode, strength=settings["strength"], **sizes).science() | {"upload": ""}
    named = {name: ({"upload": ""} | settings).get(name) for name in preset if name not in (*CELL, "seed")}
    return " ".join(f"{name}={value}" for name, value in named.items() if value != preset[name]) or NOT_APPLICABLE


def main_key(preset: str, task: str, strength: float, mode: str) -> tuple:
    """The ``CELL`` of the main comparison: the preset's processor, source R, weight and schedule."""
    return cell_key(make_config(preset, task, mode, strength=strength).science())


def load_cells(preset: str, split: str) -> dict[tuple, Cell]:
    """Every cell of a preset that was evaluated on ``split``, in canonical order."""
    files = sorted((results_folder(preset) / "predictions").glob(f"*.{split}.npz"))
    return cells_of(map(load_run, files))


def cells_of(found: Iterable[Predictions]) -> dict[tuple, Cell]:
    """The cells that predictions belong to, in canonical order; StudyError where two are of the same cell and seed."""
    runs: dict[tuple, dict[int, Predictions]] = {}
    for predictions in found:
        settings = predictions.about["config"]
        same = runs.setdefault(cell_key(settings), {})
        seed = settings.get("seed", 0)
        if seed in same:
            both = " and ".join(one.about["run_id"] for one in (predictions, same[seed]))
            raise StudyError(f"the runs {both} are the same cell and seed; delete the stale one")
        same[seed] = predictions
    order = {name: k for k, name in enumerate((*TASKS, *registry.MODES))}
    keys = sorted(runs, key=lambda key: (order[key[0]], key[1], order[key[2]], *key[3:]))
    return {key: Cell(runs[key]) for key in keys}


def clean_of(cells: dict[tuple, Cell]) -> Cell | None:
    """The clean pictures' cell, where they were read."""
    return next((cell for cell in cells.values() if cell.settings["mode"] == "clean"), None)


def of_own_data(cells: dict[tuple, Cell]) -> dict[tuple, Cell]:
    """Those on their preset's own data set; what was learned from another one belongs to transfer."""
    return {key: cell for key, cell in cells.items()
            if cell.settings["dataset"] == PRESETS[cell.settings["preset"]]["dataset"]}  # fmt: skip


def baselines_of(cell: Cell, cells: dict[tuple, Cell]) -> Iterator[tuple[str, Cell]]:
    """A cell's baselines by name: ``plain`` trained by the same schedule, and controls.

    ``plain_one_cycle``: as many epochs in one cycle without a pretraining. ``plain_twice``: twice as many epochs.
    ``without_upload``: of a run with ``upload``, the same without.
    """
    settings = cell.settings
    if registry.is_baseline(settings["mode"]):
        return
    before, after = settings["pretrain_epochs"], settings["epochs"]
    schedules: dict[str, dict] = {"plain": {}, "plain_twice": {"pretrain_epochs": 2 * before, "epochs": 2 * after}}
    if before:
        schedules["plain_one_cycle"] = {"pretrain_epochs": 0, "epochs": before + after, "lr": settings["pretrain_lr"]}
    plain = settings | {"mode": "plain", "source_arch": NOT_APPLICABLE, "ra_weight": 0.0, "labels": "correct", "upload": ""}
    others = {name: plain | schedule for name, schedule in schedules.items()}
    others |= {"without_upload": settings | {"upload": ""}} if settings.get("upload") else {}
    for name, other in others.items():
        key = cell_key(other)
        if key in cells and key != cell.key:
            yield name, cells[key]


def paired_cells(cells: dict[tuple, Cell]) -> Iterator[tuple[str, Cell, Cell]]:
    """Each cell with each of its baselines, by name, over their common seeds."""
    for cell in cells.values():
        for name, plain in baselines_of(cell, cells):
            common = [seed for seed in cell.runs if seed in plain.runs]
            if common:
                mine, theirs = cell.seeds(common), plain.seeds(common)
                check_paired(theirs, mine)
                yield name, mine, theirs


def paired(cells: dict[tuple, Cell]) -> Iterator[Pair]:
    """As :func:`paired_cells`, with the gain per seed, R and picture (S, R, N)."""
    for name, cell, plain in paired_cells(cells):
        yield name, cell, plain, cell.hits - plain.hits


def weight_grid(pairs: Iterable[Pair]) -> Iterator[tuple[Cell, float, np.ndarray]]:
    """Seed 0 of the cells that differ from the main ones by their weight at most.

    With the change of plain's PSNR in dB, and the gain over plain (N, R).
    """
    for baseline, cell, plain, gain in pairs:
        if baseline == "plain" and cell.in_weight_grid and 0 in cell.runs:
            change = cell.quality()["psnr"] - plain.quality()["psnr"]
            yield cell.seeds([0]), change, gain[list(cell.runs).index(0)].T


def contrasts(cell: Cell) -> Iterator[tuple[str, str, list[int]]]:
    """(name, role, target rows) of a cell's contrasts; those of plain take their roles from the preset's source R."""
    sources = source_names(cell.settings["source_arch"]) or source_names(PRESETS[cell.settings["preset"]]["source_arch"])
    roles = [role_of(arch, sources) for arch in cell.targets]
    for r, (arch, role) in enumerate(zip(cell.targets, roles, strict=True)):
        yield arch, role, [r]
    if unseen := [r for r, role in enumerate(roles) if role == "unseen"]:
        yield "mean_unseen", "mean_unseen", unseen


def targets_by_role(cell: Cell) -> dict[str, list[int]]:
    """The target rows of each role."""
    roles: dict[str, list[int]] = {}
    for _, role, targets in contrasts(cell):
        roles.setdefault(role, []).extend(targets)
    return roles


def gain_columns(gains: np.ndarray, groups: stats.Groups) -> list[dict[str, float]]:
    """Of each of M paired gains in points (S, N, M): the mean with its intervals over pictures and over trainings, and p."""
    means = gains.mean(0)
    estimates, p = stats.mean_intervals(means, groups, differences=True), stats.paired_p(means / 100, groups)
    found = zip(estimates, stats.over_trainings(gains, groups), p, strict=True)
    return [named(ESTIMATE, estimate) | named(OVER, over) | {"p": one} for estimate, over, one in found]


def correct(rows: Iterable[dict]) -> None:
    """Set ``p_holm`` of the rows of one family of tests from their ``p``."""
    family = list(rows)
    for row, p in zip(family, stats.holm(np.array([row["p"] for row in family])), strict=True):
        row["p_holm"] = p


def ends(row: Mapping | pd.Series, names: Sequence[str] = ESTIMATE) -> Sequence[str]:
    """The columns of a row's headline interval: over trainings where there are enough of them, else over pictures."""
    return OVER if tuple(names) == ESTIMATE and not pd.isna(row.get(OVER[0])) else names[1:]


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of gains whose ``low`` and ``high`` are those of their :func:`ends`."""
    return table.assign(**{end: table[over].fillna(table[end]) for end, over in zip(ESTIMATE[1:], OVER, strict=True)})


def named(names: tuple[str, ...], estimate: Iterable[float]) -> dict[str, float]:
    """A value and its interval under the names of their columns."""
    return dict(zip(names, estimate, strict=True))
