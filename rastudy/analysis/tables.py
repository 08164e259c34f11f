"""The tables of the study, computed from the predictions: ``rastudy tables --preset digits``.

``accuracy.csv`` every figure with its interval; ``gains.csv`` paired differences to plain and to its controls; ``kept.csv``
the share of the source's gain that unseen R's keep; ``overall.csv`` the gain averaged over all R's; ``equal_cost.csv`` the
same recognition by other means; ``controls.csv`` what RA's gain is not; ``several_sources.csv`` what RA from several R's at
once buys for another one; ``tradeoff.csv`` the weight grid on validation, and the weights it chooses; ``clean_check.csv`` and
``paper_vs_ours.csv`` ours beside what is published, on ImageNet.
Columns are described in ``results/README.md``.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from rastudy import registry
from rastudy.analysis import statistics as stats
from rastudy.analysis.comparisons import (
    CELL,
    COUNTS,
    ESTIMATE,
    GAIN,
    UNSEEN,
    Cell,
    cell_key,
    check_paired,
    contrasts,
    load_cells,
    main_key,
    paired,
)
from rastudy.analysis.controls import COLUMNS as CONTROL_COLUMNS
from rastudy.analysis.controls import control_rows
from rastudy.analysis.published import CHECK, PAPER, clean_rows, paper_reported, paper_rows
from rastudy.config import make_config
from rastudy.errors import StudyError, one_of
from rastudy.evaluation import metrics
from rastudy.evaluation.predictions import COLUMNS, load_predictions, load_results, read_table, tidy_rows
from rastudy.paths import results_folder, root, write_csv
from rastudy.presets import PRESETS, degradations
from rastudy.registry import display_name, is_variant, short_name

MAX_PSNR_COST = 0.5  # dB: a weight that costs more is not chosen
ACCURACY = ("preset", "split", *CELL, "target_arch", "metric", *ESTIMATE, "seed_low", "seed_high", *COUNTS)
GAINS = ("preset", *CELL, "baseline", "target_arch", "role", *ESTIMATE, "seed_low", "seed_high", "p", "p_holm", "primary",
         "gap_closed", "gap_low", "gap_high", *COUNTS)  # fmt: skip
KEPT = ("preset", *CELL, "source_gain", "unseen_gain", *ESTIMATE, "reason", *COUNTS)
TRADEOFF = ("preset", "task", "strength", "mode", "ra_weight", "source_top1", "source_gain", "source_low", "source_high",
            "unseen_gain", "unseen_low", "unseen_high", "psnr", "psnr_change", "ssim", "chosen", *COUNTS)  # fmt: skip
EQUAL_COST = ("preset", "task", "strength", "mode", "reader", *ESTIMATE, *GAIN, *UNSEEN, "psnr", "ssim", *COUNTS)
OVER_ONE = ("over_one", "over_low", "over_high")
OVERALL = ("preset", *CELL, *ESTIMATE, "resolves", *COUNTS)
POWER = (1.96 + 0.84) / 1.96  # of half an interval: the effect that a test at 5 % finds in four studies of five
SEVERAL = ("preset", "task", "strength", "target_arch", "sources", "n_sources", *ESTIMATE, *OVER_ONE, *COUNTS)
TABLES = {
    "accuracy": ACCURACY, "gains": GAINS, "kept": KEPT, "overall": OVERALL, "equal_cost": EQUAL_COST,
    "several_sources": SEVERAL, "controls": CONTROL_COLUMNS, "tradeoff": TRADEOFF, "clean_check": CHECK, "paper_vs_ours": PAPER,
}  # fmt: skip


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


def overall_rows(cells: dict[tuple, Cell]) -> Iterator[dict]:
    """The gain over plain per picture, averaged over all R's (no second trainings): the figure that few pictures resolve best.

    ``resolves``: the gain that a study of as many pictures would find in four cases of five.
    """
    for baseline, cell, _, gain in paired(cells):
        if baseline == "plain":
            readers = [r for r, arch in enumerate(cell.targets) if not is_variant(arch)]
            (estimate,) = stats.mean_intervals(gain.mean(0)[readers].mean(0)[:, None], cell.groups, differences=True)
            resolves = POWER * (estimate[2] - estimate[1]) / 2
            yield cell.base() | cell.counts() | dict(zip(ESTIMATE, estimate, strict=True)) | {"resolves": resolves}


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
        same = {mode: cells.get(main_key(preset, task, strength, mode)) for mode in (*registry.modes("baseline"), *registry.modes("paper"), *registry.modes("control"))}
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
                    **dict(zip(GAIN, gain, strict=True)), **dict(zip(UNSEEN, unseen_gain, strict=True)),
                }  # fmt: skip


def several_sources_rows(preset: str, cells: dict[tuple, Cell]) -> Iterator[dict]:
    """What an R gains from RA with itself in the loss, with another R, with the four others at once, and with all five.

    Gains are over plain, seed 0; ``over_one`` is the paired difference to what another R gives, averaged over those others
    that were run. Empty for a degradation without a run from several R's.
    """
    for task, strength in degradations(preset):
        main = make_config(preset, task, "ra", strength=strength).science()
        keys = {name: cell_key(main | {"source_arch": name}) for name in (*registry.main_recognisers(), *map(_others, registry.main_recognisers()), _others())}
        runs = {name: cells[key].seeds([0]) for name, key in keys.items() if key in cells and 0 in cells[key].runs}
        plain = cells.get(main_key(preset, task, strength, "plain"))
        if plain is None or 0 not in plain.runs or not any("," in name for name in runs):
            continue
        plain = plain.seeds([0])
        for cell in runs.values():
            check_paired(plain, cell)
        for reader in (arch for arch in registry.main_recognisers() if arch in plain.targets):
            r = plain.targets.index(reader)
            gain = {name: cell.hits[0, r] - plain.hits[0, r] for name, cell in runs.items()}
            ones = [gain[name] for name in registry.main_recognisers() if name in gain and name != reader]
            one = np.mean(ones, 0) if ones else None
            found = {"itself": (gain.get(reader), 1), "another": (one, len(ones)),
                     "four_others": (gain.get(_others(reader)), 4), "all_five": (gain.get(_others()), 5)}  # fmt: skip
            for name, (values, n_sources) in found.items():
                if values is None:
                    continue
                columns = [values] if one is None or name == "another" else [values, values - one]
                estimates = stats.mean_intervals(np.stack(columns, 1), plain.groups, differences=True)
                row = {"preset": preset, "task": task, "strength": strength, "target_arch": reader, "sources": name}
                for names, estimate in zip((ESTIMATE, OVER_ONE), estimates, strict=False):
                    row |= dict(zip(names, estimate, strict=True))
                yield plain.counts() | row | {"n_sources": n_sources}


def _others(left_out: str = "") -> str:
    """``source_arch`` of all families but one."""
    return ",".join(arch for arch in registry.main_recognisers() if arch != left_out)


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
        for mode in (*registry.modes("paper"), *registry.modes("control")):
            tried = [r for r in rows if (r["task"], r["strength"], r["mode"]) == (*key, mode)]
            allowed = [r for r in tried if r["psnr_change"] >= -MAX_PSNR_COST]
            if allowed:
                max(allowed, key=lambda r: (round(r["source_top1"], 9), -r["ra_weight"]))["chosen"] = True
    return rows


def own_cells(preset: str, split: str) -> dict[tuple, Cell]:
    """The preset's cells on its own data set; what was learned from another one is transfer's."""
    cells = load_cells(preset, split)
    return {key: cell for key, cell in cells.items() if cell.settings["dataset"] == PRESETS[preset]["dataset"]}


def make_tables(preset: str, log: Callable[[str], object] = print) -> list[Path]:
    """Rebuild every per-run CSV and every table of a preset from its predictions; returns what was written.

    ``log`` is told of per-run CSVs that somebody, or a disk, has changed.
    """
    one_of("preset", preset, PRESETS)
    folder = results_folder(preset)
    predictions = sorted((folder / "predictions").glob("*.npz"))
    if not predictions:
        raise StudyError(f"results/{preset}/predictions is empty; run rastudy sweep --preset {preset}")
    for path in predictions:
        table = folder / "runs" / f"{path.stem}.csv"
        before = table.read_bytes() if table.is_file() else None
        write_csv(table, tidy_rows(load_predictions(path)), COLUMNS)
        if before not in (None, table.read_bytes()):
            log(f"{table.relative_to(root())} was not what its predictions give; made anew")
    load_results(preset)  # checks schema and keys
    test, val = (own_cells(preset, split) for split in ("test", "val"))
    gains = gain_rows(test)
    rows = {
        "accuracy": list(accuracy_rows(test)), "gains": gains, "kept": list(kept_rows(test)),
        "overall": list(overall_rows(test)),
        "equal_cost": list(equal_cost_rows(preset, test)), "several_sources": list(several_sources_rows(preset, test)),
        "controls": list(control_rows(preset, pd.DataFrame(gains, columns=list(GAINS)), test)),
        "tradeoff": tradeoff_rows(preset, val), "clean_check": list(clean_rows(preset, test)),
        "paper_vs_ours": list(paper_rows(preset, test)),
    }  # fmt: skip
    for name, columns in TABLES.items():
        write_csv(folder / f"{name}.csv", [rounded(row) for row in rows[name]], columns)
    return [folder / f"{name}.csv" for name in TABLES]


def rounded(row: dict) -> dict:
    """Six decimals, p-values three digits: enough for any reader, and stable against the last bits of a sum."""
    small = lambda v: float(f"{v:.3g}")  # noqa: E731
    return {
        k: (small(v) if k in ("p", "p_holm") else round(float(v), 6)) if isinstance(v, float) else v for k, v in row.items()
    }


def load_table(preset: str, name: str) -> pd.DataFrame:
    """One of ``TABLES``; StudyError where it is missing or has another schema."""
    one_of("table", name, TABLES)
    path = results_folder(preset) / f"{name}.csv"
    return read_table(path, TABLES[name], f"rastudy tables --preset {preset}", source_arch=str)


def paper_gains() -> pd.DataFrame:
    """The paper's gains over plain by task, mode and R, in points, with the role of R."""
    table = paper_reported().pivot_table(index=["task", "target_arch"], columns="mode", values="value")
    gains = table.drop(columns="plain").sub(table["plain"], axis=0).stack().rename("value").reset_index()
    gains["role"] = np.where(gains["target_arch"] == "resnet18", "source", "unseen")
    return gains


def main_cells(table: pd.DataFrame, preset: str, baseline: str = "plain") -> pd.DataFrame:
    """The rows of the main comparison: the preset's processor, source R, weights and schedule, and the baselines.

    Of a table of contrasts, those to ``baseline``.
    """
    main = {main_key(preset, *key, mode) for key in degradations(preset) for mode in (*registry.modes("baseline"), *PRESETS[preset]["modes"])}
    keep = pd.Series([key in main for key in table[list(CELL)].itertuples(index=False, name=None)], table.index, bool)
    return table[keep & (table["baseline"] == baseline)] if "baseline" in table else table[keep]


def without_variants(table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose target R is no second training, adapted or untrained one: the five, or somebody's own."""
    return table[~table["target_arch"].map(is_variant).astype(bool)]


def main_table(preset: str) -> pd.DataFrame:
    """Top-1 (%) of every R, PSNR (dB) and SSIM, by degradation and mode, on the test pictures; means over that many seeds."""
    table = without_variants(main_cells(load_table(preset, "accuracy"), preset))
    table = table[table["metric"].isin(["top1", "psnr", "ssim"])]
    column = np.where(table["metric"] == "top1", table["target_arch"].map(display_name), table["metric"].str.upper())
    shown = [short_name(*key) for key in zip(table["task"], table["strength"], strict=True)]
    wide = table.assign(column=column, task=shown).pivot(index=["task", "mode"], columns="column", values="value")
    modes = ["none", *registry.modes("paper"), "clean"]
    tasks = [short_name(*key) for key in degradations(preset)]
    rows = [(task, mode) for task in tasks for mode in modes if (task, mode) in wide.index]
    order = [display_name(arch) for arch in table.loc[table["metric"] == "top1", "target_arch"].unique()]
    wide = wide.loc[rows, [*order, "PSNR", "SSIM"]]
    wide["seeds"] = table.assign(task=shown).groupby(["task", "mode"])["n_seeds"].max().loc[rows]
    return wide.round({**dict.fromkeys(order, 1), "PSNR": 2, "SSIM": 3})


def tables_command(args: argparse.Namespace) -> None:
    committed = [name for name in PRESETS if name != "smoke" and any((results_folder(name) / "predictions").glob("*.npz"))]
    for preset in args.preset or committed:
        for path in make_tables(preset):
            print(path.relative_to(root()))
