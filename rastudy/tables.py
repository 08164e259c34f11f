"""The tables of the study, computed from the predictions: ``python -m rastudy.tables --preset digits``.

``accuracy.csv`` every figure with its interval; ``gains.csv`` paired differences to plain and to its controls; ``kept.csv``
the share of the source's gain that unseen R's keep; ``equal_cost.csv`` the same recognition by other means;
``tradeoff.csv`` the weight grid on validation, and the weights it chooses.
Columns are described in ``results/README.md``.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from rastudy import metrics, stats
from rastudy.classifiers import FAMILIES, is_variant, small_arch
from rastudy.config import BASELINES, CONTROL_MODES, NOT_APPLICABLE, make_config
from rastudy.degrade import TASKS
from rastudy.errors import StudyError, command, one_of
from rastudy.presets import MODES, PRESETS, degradations
from rastudy.results import COLUMNS, Predictions, load_predictions, load_results, tidy_rows
from rastudy.runs import results_folder, root, write_csv

CELL = ("task", "strength", "mode", "processor", "source_arch", "ra_weight", "labels", "pretrain_epochs", "epochs", "other")
MAX_PSNR_COST = 0.5  # dB: a weight that costs more is not chosen
ESTIMATE = ("value", "low", "high")
COUNTS = ("n_seeds", "n_images", "n_groups")
ACCURACY = ("preset", "split", *CELL, "target_arch", "metric", *ESTIMATE, "seed_low", "seed_high", *COUNTS)
GAINS = ("preset", *CELL, "baseline", "target_arch", "role", *ESTIMATE, "seed_low", "seed_high", "p", "p_holm", "primary",
         "gap_closed", "gap_low", "gap_high", *COUNTS)  # fmt: skip
KEPT = ("preset", *CELL, "source_gain", "unseen_gain", *ESTIMATE, "reason", *COUNTS)
TRADEOFF = ("preset", "task", "strength", "mode", "ra_weight", "source_top1", "source_gain", "source_low", "source_high",
            "unseen_gain", "unseen_low", "unseen_high", "psnr", "psnr_change", "ssim", "chosen", *COUNTS)  # fmt: skip
EQUAL_COST = ("preset", "task", "strength", "mode", "reader", *ESTIMATE, "gain", "gain_low", "gain_high", "unseen_gain",
              "unseen_low", "unseen_high", "psnr", "ssim", *COUNTS)  # fmt: skip
TABLES = {"accuracy": ACCURACY, "gains": GAINS, "kept": KEPT, "equal_cost": EQUAL_COST, "tradeoff": TRADEOFF}


class Cell:
    """One cell of the grid: its runs over seeds, on the same pictures.

    Figures per picture are means over the seeds; intervals are over pictures (or groups), given these seeds.
    """

    def __init__(self, runs: dict[int, Predictions]):
        self.runs = dict(sorted(runs.items()))
        first = next(iter(self.runs.values()))
        self.settings, self.split, self.targets = first.about["config"], first.about["split"], first.targets
        for run in self.runs.values():
            if run.about["data"] != first.about["data"] or run.targets != self.targets:
                raise StudyError(f"runs {first.about['run_id']} and {run.about['run_id']} saw other pictures or R's")
        self.groups = stats.Groups(first.arrays["group"])

    @cached_property
    def key(self) -> tuple:
        return cell_key(self.settings)

    @cached_property
    def hits(self) -> np.ndarray:
        """(S, R, N) 100 where R is right, else 0: percent points."""
        return np.stack([100.0 * run.hits() for run in self.runs.values()])

    def seeds(self, names: list[int]) -> "Cell":
        """The same cell with some of its seeds."""
        return self if list(self.runs) == names else Cell({s: self.runs[s] for s in names})

    def counts(self) -> dict:
        return {"n_seeds": len(self.runs), "n_images": self.hits.shape[2], "n_groups": len(self.groups.sizes)}

    def base(self) -> dict:
        return {"preset": self.settings["preset"], **dict(zip(CELL, self.key, strict=True))}


def check_paired(one: Cell, other: Cell) -> None:
    """Raise StudyError where two cells saw other pictures or R's."""
    Cell(dict(enumerate(next(iter(cell.runs.values())) for cell in (one, other))))


def cell_key(settings: dict) -> tuple:
    """The ``CELL`` of a run's settings; ``other`` names what else is not the preset's, as ``lr=0.01 channels=32``."""
    defaults = {"processor": NOT_APPLICABLE, "source_arch": NOT_APPLICABLE, "ra_weight": 0.0, "labels": "correct"}
    defaults |= {"pretrain_epochs": 0, "epochs": 0, "other": _other_settings(settings)}
    return tuple((defaults | settings)[name] for name in CELL)


def _other_settings(settings: dict) -> str:
    document, (task, mode) = PRESETS[settings["preset"]], (settings["task"], settings["mode"])
    sizes = document.get("processors", {}).get(settings.get("processor"), {})
    preset = make_config(settings["preset"], task, mode, strength=settings["strength"], **sizes).science()
    named = {name: settings.get(name) for name in preset if name not in (*CELL, "seed")}
    return " ".join(f"{name}={value}" for name, value in named.items() if value != preset[name]) or NOT_APPLICABLE


def load_cells(preset: str, split: str) -> dict[tuple, Cell]:
    """Every cell of a preset that was evaluated on ``split``, in canonical order."""
    runs: dict[tuple, dict[int, Predictions]] = {}
    for path in sorted((results_folder(preset) / "predictions").glob(f"*.{split}.npz")):
        predictions = load_predictions(path)
        settings = predictions.about["config"]
        same = runs.setdefault(cell_key(settings), {})
        seed = settings.get("seed", 0)
        if seed in same:
            other = same[seed].about["run_id"]
            raise StudyError(f"{path.name} and the run {other} are the same cell and seed; delete the stale one")
        same[seed] = predictions
    order = {name: k for k, name in enumerate((*TASKS, *BASELINES, *MODES, *CONTROL_MODES))}
    keys = sorted(runs, key=lambda key: (order[key[0]], key[1], order[key[2]], *key[3:]))
    return {key: Cell(runs[key]) for key in keys}


def baselines_of(cell: Cell, cells: dict[tuple, Cell]) -> Iterator[tuple[str, Cell]]:
    """What a cell is compared with, by name: ``plain`` trained by the same schedule, and two controls.

    ``plain_one_cycle``: as many epochs in one cycle without a pretraining. ``plain_twice``: twice as many epochs.
    """
    settings = cell.settings
    if settings["mode"] in BASELINES:
        return
    before, after = settings["pretrain_epochs"], settings["epochs"]
    schedules = {"plain": {}, "plain_twice": {"pretrain_epochs": 2 * before, "epochs": 2 * after}}
    if before:
        one_cycle = {"pretrain_epochs": 0, "epochs": before + after, "lr": settings["pretrain_lr"]}
        schedules["plain_one_cycle"] = one_cycle
    plain = settings | {"mode": "plain", "source_arch": NOT_APPLICABLE, "ra_weight": 0.0, "labels": "correct"}
    for name, schedule in schedules.items():
        key = cell_key(plain | schedule)
        if key in cells and key != cell.key:
            yield name, cells[key]


def accuracy_rows(cells: dict[tuple, Cell]) -> Iterator[dict]:
    """Top-1 of every target R (rounded to 8 bits and not), PSNR and SSIM, with intervals and the spread over seeds."""
    for cell in cells.values():
        values = {(arch, "top1"): cell.hits[:, r] for r, arch in enumerate(cell.targets)}
        runs = list(cell.runs.values())
        floats = 100.0 * np.stack([run.hits_float() for run in runs])
        values |= {(arch, "top1_float"): floats[:, r] for r, arch in enumerate(cell.targets)}
        for suffix in ("", "_transformed"):
            if f"mse{suffix}" in runs[0].arrays and cell.settings["mode"] != "clean":
                values["-", f"psnr{suffix}"] = np.stack([metrics.psnr(run.arrays[f"mse{suffix}"]) for run in runs])
                values["-", f"ssim{suffix}"] = np.stack([run.arrays[f"ssim{suffix}"] for run in runs])
        scales = [100.0 if metric.startswith("top1") else 1.0 for _, metric in values]
        columns = [value.mean(0) / scale for value, scale in zip(values.values(), scales, strict=True)]
        estimates = stats.mean_intervals(np.stack(columns, 1), cell.groups)
        for ((arch, metric), value), scale, estimate in zip(values.items(), scales, estimates, strict=True):  # (S, N)
            seeds = value.mean(1)
            yield cell.base() | cell.counts() | {
                "split": cell.split, "target_arch": arch, "metric": metric,
                **dict(zip(ESTIMATE, (scale * x for x in estimate), strict=True)),
                "seed_low": seeds.min(), "seed_high": seeds.max(),
            }  # fmt: skip


def contrasts(cell: Cell) -> Iterator[tuple[str, str, list[int]]]:
    """(name, role, target rows) of a cell's contrasts; plain's roles are those that the preset's source R gives.

    A second training of an architecture has a role of its own: the mean over unseen R's counts each architecture once.
    """
    sources = cell.settings["source_arch"].replace(NOT_APPLICABLE, PRESETS[cell.settings["preset"]]["source_arch"]).split(",")
    seen = {small_arch(name) for name in sources} - {None}
    others = [r for r, arch in enumerate(cell.targets) if arch not in sources]
    again = [r for r in others if small_arch(cell.targets[r]) in seen or is_variant(cell.targets[r])]
    unseen = [r for r in others if r not in again]
    for r, arch in enumerate(cell.targets):
        yield arch, "unseen" if r in unseen else "other_training" if r in again else "source", [r]
    if unseen:
        yield "mean_unseen", "mean_unseen", unseen


def gain_rows(cells: dict[tuple, Cell]) -> list[dict]:
    """Paired differences to the baselines on the same pictures and seeds, in points of top-1.

    Primary contrasts (the main processor's ``ra`` at the preset's weight to ``plain``: source and mean unseen R, per
    task) stand alone; p-values of all others are Holm-corrected together.
    """
    # ASSUMPTION: Intervals are over pictures. Seeds are averaged and their range is shown; three are too few to resample.
    rows = []
    for baseline, cell, plain, gain in paired(cells):
        clean = cells.get(main_key(cell.settings["preset"], *cell.key[:2], "clean"))
        found = list(contrasts(cell))
        per_seed = np.stack([gain[:, targets].mean(1) for *_, targets in found], -1)  # (S, N, contrast)
        means = per_seed.mean(0)
        estimates, p = stats.mean_intervals(means, cell.groups, differences=True), stats.paired_p(means / 100, cell.groups)
        if clean is not None:
            check_paired(plain, clean)
            gap = clean.hits.mean(0) - plain.hits.mean(0)  # R N
            gap = np.stack([gap[targets].mean(0) for *_, targets in found], -1)
            gaps = stats.mean_intervals(gap, cell.groups, differences=True)
            wide = [k for k, gap_ in enumerate(gaps) if gap_.low > 0]  # else there is no gap to close
            closed = dict(zip(wide, stats.ratio_intervals(means[:, wide], gap[:, wide], cell.groups), strict=True))
        for k, (name, role, _) in enumerate(found):
            values = per_seed[..., k]
            row = cell.base() | cell.counts() | {
                "baseline": baseline, "target_arch": name, "role": role, **dict(zip(ESTIMATE, estimates[k], strict=True)),
                "seed_low": values.mean(1).min(), "seed_high": values.mean(1).max(),
                "p": p[k], "primary": baseline == "plain" and is_primary(cell, role),
            }  # fmt: skip
            if clean is not None and k in closed:
                row |= dict(zip(("gap_closed", "gap_low", "gap_high"), closed[k], strict=True))
            rows.append(row)
    others = [row for row in rows if not row["primary"]]
    if others:
        for row, p in zip(others, stats.holm(np.array([row["p"] for row in others])), strict=True):
            row["p_holm"] = p
    return rows


def paired(cells: dict[tuple, Cell]) -> Iterator[tuple[str, Cell, Cell, np.ndarray]]:
    """Each cell with each of its baselines over their common seeds, and the gain per seed, R and picture (S, R, N)."""
    for cell in cells.values():
        for name, plain in baselines_of(cell, cells):
            common = [seed for seed in cell.runs if seed in plain.runs]
            if common:
                mine, theirs = cell.seeds(common), plain.seeds(common)
                check_paired(theirs, mine)
                yield name, mine, theirs, mine.hits - theirs.hits


def is_primary(cell: Cell, role: str) -> bool:
    preset, degradation = cell.settings["preset"], cell.key[:2]
    main = degradation in degradations(preset) and cell.key == main_key(preset, *degradation, "ra")
    return main and role in ("source", "mean_unseen")


def kept_rows(cells: dict[tuple, Cell]) -> Iterator[dict]:
    """``gain_kept``: mean unseen gain / source gain; empty with a reason unless the source's interval lies above 0."""
    for baseline, cell, _, gain in paired(cells):
        if baseline != "plain":
            continue
        roles = {}
        for _, role, targets in contrasts(cell):
            roles.setdefault(role, []).extend(targets)
        if "mean_unseen" not in roles or "source" not in roles:
            continue
        source, unseen = (gain.mean(0)[roles[role]].mean(0) for role in ("source", "mean_unseen"))
        row = cell.base() | cell.counts() | {"source_gain": source.mean(), "unseen_gain": unseen.mean(), "reason": ""}
        (_, low, high), *_ = stats.mean_intervals(source[:, None], cell.groups, differences=True)
        if low <= 0 <= high:
            row["reason"] = f"the source's gain has the interval {low:.2f} to {high:.2f}, which includes 0"
        elif high < 0:
            row["reason"] = f"the source loses {-source.mean():.2f} points: there is no gain to keep"
        else:
            (kept,) = stats.ratio_intervals(unseen[:, None], source[:, None], cell.groups)
            row |= dict(zip(ESTIMATE, kept, strict=True))
        yield row


def equal_cost_rows(preset: str, cells: dict[tuple, Cell]) -> Iterator[dict]:
    """What recognises best at equal cost: P that learns from R, or R that learns from P's pictures?

    After the shared pretraining RA's steps go through P and R, forward and backward; plain's go through P, and as many of an
    adapted R's through R. (On the degraded pictures R needs no P at all.)

    A row per mode and reader: the source R, or one that was trained on from it, on the degraded pictures or on plain's. Gains
    are over plain read by the source R, seed 0; ``unseen_gain`` is that of the other architectures, whom no adapted R helps.
    Empty for a preset without adapted R's.
    """
    source = PRESETS[preset]["source_arch"]
    for task, strength in degradations(preset):
        same = {mode: cells.get(main_key(preset, task, strength, mode)) for mode in (*BASELINES, *MODES, *CONTROL_MODES)}
        same = {mode: cell.seeds([0]) for mode, cell in same.items() if cell is not None and 0 in cell.runs}
        plain = same.get("plain")
        if plain is None:
            continue
        readers = [arch for arch in plain.targets if arch.startswith(f"{source}_on_")]
        unseen = [r for r, arch in enumerate(plain.targets) if not is_variant(arch) and arch != source]
        for mode, cell in same.items() if readers else ():
            check_paired(plain, cell)
            run = cell.runs[0]
            quality = (
                {} if mode == "clean" else {"psnr": metrics.psnr(run.arrays["mse"]).mean(), "ssim": run.arrays["ssim"].mean()}
            )
            others = (cell.hits[0, unseen] - plain.hits[0, unseen]).mean(0)
            for reader in (source, *readers):
                hits = cell.hits[0, cell.targets.index(reader)]
                gains = np.stack([hits - plain.hits[0, plain.targets.index(source)], others], 1)
                (value,) = stats.mean_intervals(hits[:, None] / 100, cell.groups)
                gain, unseen_gain = stats.mean_intervals(gains, cell.groups, differences=True)
                yield cell.counts() | quality | {
                    "preset": preset, "task": task, "strength": strength, "mode": mode, "reader": reader,
                    **dict(zip(ESTIMATE, (100 * x for x in value), strict=True)),
                    **dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True)),
                    **dict(zip(("unseen_gain", "unseen_low", "unseen_high"), unseen_gain, strict=True)),
                }  # fmt: skip


def tradeoff_rows(preset: str, cells: dict[tuple, Cell]) -> list[dict]:
    """The weight grid on validation, seed 0, main processor and source; ``chosen`` by the rule.

    The rule: the best top-1 of the source R among the weights that cost at most ``MAX_PSNR_COST``; a tie goes to the
    smaller weight.
    """
    rows = []
    for baseline, cell, plain, gain in paired(cells):
        settings = cell.settings
        main = make_config(preset, settings["task"], settings["mode"], strength=settings["strength"])
        same = cell_key(settings | {"ra_weight": main.ra_weight}) == cell_key(main.science())
        if baseline != "plain" or not same or 0 not in cell.runs:
            continue
        one, base = cell.seeds([0]), plain.seeds([0])
        roles = {role: targets for _, role, targets in contrasts(one)}
        seed = list(cell.runs).index(0)
        row = one.base() | one.counts() | {"source_top1": one.hits[0, roles["source"]].mean(), "chosen": False}
        gains = np.stack([gain[seed, roles[role]].mean(0) for role in ("source", "mean_unseen")], 1)
        for name, (value, low, high) in zip(
            ("source", "unseen"), stats.mean_intervals(gains, one.groups, differences=True), strict=True
        ):
            row |= {f"{name}_gain": value, f"{name}_low": low, f"{name}_high": high}
        quality = {k: [metrics.psnr(c.runs[0].arrays["mse"]).mean(), c.runs[0].arrays["ssim"].mean()] for k, c in
                   (("ra", one), ("plain", base))}  # fmt: skip
        row |= {
            "psnr": quality["ra"][0],
            "ssim": quality["ra"][1],
            "psnr_change": quality["ra"][0] - quality["plain"][0],
        }
        rows.append({name: row[name] for name in TRADEOFF})
    for key in degradations(preset):
        for mode in (*MODES, *CONTROL_MODES):
            same = [r for r in rows if (r["task"], r["strength"], r["mode"]) == (*key, mode)]
            allowed = [r for r in same if r["psnr_change"] >= -MAX_PSNR_COST]
            if allowed:
                max(allowed, key=lambda r: (round(r["source_top1"], 9), -r["ra_weight"]))["chosen"] = True
    return rows


def make_tables(preset: str) -> list[Path]:
    """Rebuild every per-run CSV and every table of a preset from its predictions; returns what was written."""
    one_of("preset", preset, PRESETS)
    folder = results_folder(preset)
    predictions = sorted((folder / "predictions").glob("*.npz"))
    if not predictions:
        raise StudyError(f"results/{preset}/predictions is empty; run python -m rastudy.sweep --preset {preset}")
    for path in predictions:
        write_csv(folder / "runs" / f"{path.stem}.csv", tidy_rows(load_predictions(path)), COLUMNS)
    load_results(preset)  # checks schema and keys
    test, val = load_cells(preset, "test"), load_cells(preset, "val")
    rows = {
        "accuracy": list(accuracy_rows(test)), "gains": gain_rows(test), "kept": list(kept_rows(test)),
        "equal_cost": list(equal_cost_rows(preset, test)), "tradeoff": tradeoff_rows(preset, val),
    }  # fmt: skip
    for name, columns in TABLES.items():
        write_csv(folder / f"{name}.csv", [_rounded(row) for row in rows[name]], columns)
    return [folder / f"{name}.csv" for name in TABLES]


def _rounded(row: dict) -> dict:
    """Six decimals, p-values three digits: enough for any reader, and stable against the last bits of a sum."""
    small = lambda v: float(f"{v:.3g}")  # noqa: E731
    return {
        k: (small(v) if k in ("p", "p_holm") else round(float(v), 6)) if isinstance(v, float) else v for k, v in row.items()
    }


def load_table(preset: str, name: str) -> pd.DataFrame:
    """One of ``TABLES``; StudyError where it is missing or has another schema."""
    one_of("table", name, TABLES)
    path = results_folder(preset) / f"{name}.csv"
    if not path.is_file():
        raise StudyError(f"{path}: no such table; run python -m rastudy.tables --preset {preset}")
    table = pd.read_csv(path, keep_default_na=True, na_values=[""], dtype={"source_arch": str})
    if tuple(table.columns) != TABLES[name]:
        raise StudyError(f"{path}: has columns {list(table.columns)}, expected {list(TABLES[name])}")
    return table


def paper_reported() -> pd.DataFrame:
    """The published tables (``results/paper_reported.csv``): the only figures that may be called the paper's."""
    return pd.read_csv(Path(__file__).parents[1] / "results" / "paper_reported.csv")


def paper_gains() -> pd.DataFrame:
    """The paper's gains over plain by task, mode and R, in points, with the role of R."""
    table = paper_reported().pivot_table(index=["task", "target_arch"], columns="mode", values="value")
    gains = table.drop(columns="plain").sub(table["plain"], axis=0).stack().rename("value").reset_index()
    gains["role"] = np.where(gains["target_arch"] == "resnet18", "source", "unseen")
    return gains


def display_name(arch: str) -> str:
    """The name to show for an R."""
    names = {small: shown for small, (_, shown) in FAMILIES.items()} | {full: shown for full, shown in FAMILIES.values()}
    names["mean_unseen"] = "mean unseen"
    own = small_arch(arch)
    return names.get(arch, f"{names[own]} {arch[len(own) + 1 :].replace('_', ' ')}" if own else arch)


def short_name(task: str, strength: float) -> str:
    """A degradation's name in tables: ``sr x4``, ``dn 0.1``, ``jpeg 10``."""
    return f"{task} {'x' * (task == 'sr')}{strength:g}"


def main_cells(table: pd.DataFrame, preset: str, baseline: str = "plain") -> pd.DataFrame:
    """The rows of the main comparison: the preset's processor, source R, weights and schedule, and the baselines.

    Of a table of contrasts, those to ``baseline``.
    """
    main = {main_key(preset, *key, mode) for key in degradations(preset) for mode in (*BASELINES, *PRESETS[preset]["modes"])}
    keep = pd.Series([key in main for key in table[list(CELL)].itertuples(index=False, name=None)], table.index, bool)
    return table[keep & (table["baseline"] == baseline)] if "baseline" in table else table[keep]


def without_variants(table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose target R is no second training, adapted or untrained one: the five, or somebody's own."""
    return table[~table["target_arch"].map(is_variant).astype(bool)]


def main_key(preset: str, task: str, strength: float, mode: str) -> tuple:
    """The ``CELL`` of the main comparison: the preset's processor, source R, weight and schedule."""
    return cell_key(make_config(preset, task, mode, strength=strength).science())


def main_table(preset: str) -> pd.DataFrame:
    """Top-1 (%) of every R, PSNR (dB) and SSIM, by degradation and mode, on the test pictures; means over that many seeds."""
    table = without_variants(main_cells(load_table(preset, "accuracy"), preset))
    table = table[table["metric"].isin(["top1", "psnr", "ssim"])]
    column = np.where(table["metric"] == "top1", table["target_arch"].map(display_name), table["metric"].str.upper())
    shown = [short_name(*key) for key in zip(table["task"], table["strength"], strict=True)]
    wide = table.assign(column=column, task=shown).pivot(index=["task", "mode"], columns="column", values="value")
    modes = ["none", *MODES, "clean"]
    tasks = [short_name(*key) for key in degradations(preset)]
    rows = [(task, mode) for task in tasks for mode in modes if (task, mode) in wide.index]
    order = [display_name(arch) for arch in table.loc[table["metric"] == "top1", "target_arch"].unique()]
    wide = wide.loc[rows, [*order, "PSNR", "SSIM"]]
    wide["seeds"] = table.assign(task=shown).groupby(["task", "mode"])["n_seeds"].max().loc[rows]
    return wide.round({**dict.fromkeys(order, 1), "PSNR": 2, "SSIM": 3})


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    committed = [name for name in PRESETS if name != "smoke" and any((results_folder(name) / "predictions").glob("*.npz"))]
    parser.add_argument("--preset", nargs="*", default=committed, help="default: all that have predictions, but smoke")
    for preset in parser.parse_args().preset:
        for path in make_tables(preset):
            print(path.relative_to(root()))


if __name__ == "__main__":
    sys.exit(main())
