"""The tables of the study, computed from the predictions: ``rastudy tables --preset digits``.

``results/README.md`` says what each table holds, column by column.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from rastudy import registry
from rastudy.analysis import checks, comparisons
from rastudy.analysis import statistics as stats
from rastudy.analysis.comparisons import CELL, COUNTS, ESTIMATE, GAIN, OVER, UNSEEN, Cell, Pair, check_paired, main_key, named
from rastudy.analysis.matched import MATCHED, matched_rows
from rastudy.config import make_config
from rastudy.errors import StudyError, one_of
from rastudy.evaluation import metrics
from rastudy.evaluation.predictions import COLUMNS, load_results, load_run, read_table, results_file, tidy_rows
from rastudy.paths import nothing_here, results_folder, short, to_read, write_csv
from rastudy.presets import PRESETS, degradations
from rastudy.registry import display_name, is_variant, role_of, short_name
from rastudy.training.run_store import merge_records

MAX_PSNR_COST = 0.5  # dB: a weight that costs more is not chosen
POWER = (1.96 + 0.84) / 1.96  # of half an interval: the effect that a test at 5 % finds in four studies of five
SEEDS, GAP = ("seed_low", "seed_high"), ("gap_closed", "gap_low", "gap_high")
WITHIN = ("within", "within_low", "within_high", "within_seeds")
SOURCE, OVER_ONE = ("source_gain", "source_low", "source_high"), ("over_one", "over_low", "over_high")
GAINS = ("preset", *CELL, "baseline", "target_arch", "role", "main", *ESTIMATE, *OVER, "seed_sd", *SEEDS, "p", "p_holm",
         "primary", *GAP, *COUNTS)  # fmt: skip
TABLES = {
    "accuracy": ("preset", "split", *CELL, "target_arch", "metric", "main", *ESTIMATE, *SEEDS, *COUNTS),
    "gains": GAINS,
    "kept": ("preset", *CELL, "main", "source_gain", "unseen_gain", *ESTIMATE, *WITHIN, "reason", *COUNTS),
    "overall": ("preset", *CELL, "main", *ESTIMATE, "resolves", *COUNTS),
    "equal_cost": ("preset", "task", "strength", "mode", "reader", *ESTIMATE, *GAIN, *UNSEEN, "psnr", "ssim", *COUNTS),
    "several_sources": ("preset", "task", "strength", "target_arch", "sources", "n_sources", *ESTIMATE, *OVER_ONE, *COUNTS),
    "controls": checks.CONTROL_COLUMNS,
    "matched": MATCHED,
    "tradeoff": ("preset", "task", "strength", "mode", "ra_weight", "transformer_lr", "source_top1", *SOURCE, *UNSEEN, "psnr",
                 "psnr_change",
                 "ssim", "chosen", "stability", *COUNTS),
    "clean_check": checks.CHECK,
    "paper_vs_ours": checks.PAPER,
}  # fmt: skip
TIMINGS = ("part", "minutes", "machine")  # of timings.csv
BENCHMARK = ("part", "variant", "n", "unit", "value", "low", "high", "rounds", "machine")  # of benchmark.csv


# --- rows


def accuracy_rows(cells: dict[tuple, Cell]) -> Iterator[dict]:
    """Top-1 of every target R (rounded to 8 bits and not), PSNR and SSIM, with intervals and the spread over seeds."""
    for cell in cells.values():
        runs = list(cell.runs.values())
        values = {(arch, "top1"): cell.hits[:, r] for r, arch in enumerate(cell.targets)}  # S N
        floats = [run.hits_float() for run in runs]
        if not any(hits is None for hits in floats):
            values |= {(arch, "top1_float"): 100.0 * np.stack(floats)[:, r] for r, arch in enumerate(cell.targets)}
        for suffix in ("", "_transformed"):
            if f"mse{suffix}" in runs[0].arrays and cell.settings["mode"] != "clean":
                values["-", f"psnr{suffix}"] = np.stack([metrics.psnr(run.arrays[f"mse{suffix}"]) for run in runs])
                values["-", f"ssim{suffix}"] = np.stack([run.arrays[f"ssim{suffix}"] for run in runs])
        scales = [100.0 if metric.startswith("top1") else 1.0 for _, metric in values]
        columns = [value.mean(0) / scale for value, scale in zip(values.values(), scales, strict=True)]
        estimates = stats.mean_intervals(np.stack(columns, 1), cell.groups)
        for ((arch, metric), value), scale, estimate in zip(values.items(), scales, estimates, strict=True):
            row = cell.base() | {"split": cell.split, "target_arch": arch, "metric": metric, "main": cell.is_main}
            yield row | named(ESTIMATE, (scale * x for x in estimate)) | _spread(value)


def _spread(values: np.ndarray) -> dict[str, float]:
    """The lowest and the highest mean of a single seed; values (S, N)."""
    means = values.mean(1)
    return named(SEEDS, (means.min(), means.max()))


def gain_rows(cells: dict[tuple, Cell], pairs: list[Pair]) -> list[dict]:
    """Paired differences to the baselines on the same pictures and seeds, in points of top-1.

    Each has two intervals: over pictures, given these trainings, and over trainings, too. Primary contrasts (the main
    comparison's ``ra`` to ``plain``: source and mean unseen R, per task) are Holm-corrected together, and so are all others.
    """
    rows = []
    for baseline, cell, plain, gain in pairs:
        found = list(comparisons.contrasts(cell))
        per_seed = np.stack([gain[:, targets].mean(1) for *_, targets in found], -1)  # S N contrast
        columns = comparisons.gain_columns(per_seed, cell.groups)
        spread = per_seed.mean(1).std(0, ddof=1) if len(per_seed) > 1 else np.full(len(found), np.nan)
        preset, (task, strength) = cell.settings["preset"], cell.key[:2]
        clean = cells.get(main_key(preset, task, strength, "clean"))
        closed = _gap_closed(per_seed.mean(0), found, plain, clean) if clean is not None else {}
        main = cell.is_main and baseline == "plain"
        for k, (name, role, _) in enumerate(found):
            row = cell.base() | {"baseline": baseline, "target_arch": name, "role": role, "main": main}
            row["primary"] = main and cell.settings["mode"] == "ra" and role in ("source", "mean_unseen")
            rows.append(row | columns[k] | {"seed_sd": spread[k]} | _spread(per_seed[..., k]) | closed.get(k, {}))
    for kind in (True, False):
        comparisons.correct(row for row in rows if row["primary"] == kind)
    return rows


def _gap_closed(means: np.ndarray, found: list[tuple[str, str, list[int]]], plain: Cell, clean: Cell) -> dict[int, dict]:
    """Gain / (clean - plain) of those contrasts, by their place, where clean pictures are read better for sure.

    ``means``: (N, contrast) gains.
    """
    check_paired(plain, clean)
    gap = clean.hits.mean(0) - plain.hits.mean(0)  # R N
    gap = np.stack([gap[targets].mean(0) for *_, targets in found], -1)
    wide = [k for k, one in enumerate(stats.mean_intervals(gap, plain.groups, differences=True)) if one.low > 0]
    ratios = stats.ratio_intervals(means[:, wide], gap[:, wide], plain.groups)
    return {k: named(GAP, ratio) for k, ratio in zip(wide, ratios, strict=True)}


def kept_rows(pairs: list[Pair]) -> Iterator[dict]:
    """What share of the gain unseen R's keep, where the interval of the gain that it is a share of lies above 0.

    Mean unseen gain / source gain, as it follows from the paper's tables; it divides one R's gain by another's. Empty with a
    reason.
    ``within``: the unseen R's gains / the same R's gains when each is itself the source, over the seeds of both.
    """
    own = {cell.key: (cell, gain) for baseline, cell, _, gain in pairs if baseline == "plain"}
    for baseline, cell, _, gain in pairs:
        roles = comparisons.targets_by_role(cell)
        if baseline != "plain" or "mean_unseen" not in roles or "source" not in roles:
            continue
        source, unseen = (gain.mean(0)[roles[role]].mean(0) for role in ("source", "mean_unseen"))
        row = cell.base() | {"main": cell.is_main, "source_gain": source.mean(), "unseen_gain": unseen.mean(), "reason": ""}
        (_, low, high), *_ = stats.mean_intervals(source[:, None], cell.groups, differences=True)
        if low <= 0 <= high:
            row["reason"] = f"the source's gain has the interval {low:.2f} to {high:.2f}, which includes 0"
        elif high < 0:
            row["reason"] = f"the source loses {-source.mean():.2f} points: there is no gain to keep"
        else:
            (kept,) = stats.ratio_intervals(unseen[:, None], source[:, None], cell.groups)
            row |= named(ESTIMATE, kept)
        yield row | _within(cell, gain, own)


def _within(cell: Cell, gain: np.ndarray, own: dict[tuple, tuple[Cell, np.ndarray]]) -> dict[str, float]:
    """The unseen R's gain over what they gain as sources; empty unless each of them was one, and gained."""
    unseen = comparisons.targets_by_role(cell)["mean_unseen"]
    found = [own.get(comparisons.cell_key(cell.settings | {"source_arch": cell.targets[r]})) for r in unseen]
    if not all(found):
        return {}
    seeds = [seed for seed in cell.runs if all(seed in other.runs for other, _ in found)]
    if not seeds:
        return {}
    pick = lambda one, values, r: np.mean([values[list(one.runs).index(seed), r] for seed in seeds], 0)  # noqa: E731
    mine = np.mean([pick(cell, gain, r) for r in unseen], 0)
    best = np.mean([pick(*other, r) for other, r in zip(found, unseen, strict=True)], 0)
    (whole,) = stats.mean_intervals(best[:, None], cell.groups, differences=True)
    if whole.low <= 0:
        return {}
    (share,) = stats.ratio_intervals(mine[:, None], best[:, None], cell.groups)
    return named(WITHIN, (*share, len(seeds)))


def overall_rows(pairs: list[Pair]) -> Iterator[dict]:
    """The gain over plain per picture, averaged over all R's but retrained copies: few pictures resolve it best.

    ``resolves``: the gain that a study of as many pictures would find in four cases of five.
    """
    for baseline, cell, _, gain in pairs:
        if baseline == "plain":
            readers = [r for r, arch in enumerate(cell.targets) if not is_variant(arch)]
            (estimate,) = stats.mean_intervals(gain.mean(0)[readers].mean(0)[:, None], cell.groups, differences=True)
            resolves = POWER * (estimate.high - estimate.low) / 2
            yield cell.base() | {"main": cell.is_main} | named(ESTIMATE, estimate) | {"resolves": resolves}


def equal_cost_rows(preset: str, cells: dict[tuple, Cell]) -> Iterator[dict]:
    """What recognises best at equal cost: P that learns from R, or R that learns from P's pictures?

    After the shared pretraining RA's steps go through P and R, forward and backward; plain's go through P, and as many of an
    adapted R's through R. (On the degraded pictures R needs no P at all.)

    A row per mode and reader: the source R, or one that was trained on from it, on the degraded pictures or on plain's. Gains
    are over plain read by the source R, seed 0; ``unseen_gain`` is that of the other architectures, which no adapted R helps.
    Empty for a preset without adapted R's.
    """
    source = PRESETS[preset]["source_arch"]
    for task, strength in degradations(preset):
        same = {mode: cells.get(main_key(preset, task, strength, mode)) for mode in registry.MODES}
        first = {mode: cell.seeds([0]) for mode, cell in same.items() if cell is not None and 0 in cell.runs}
        plain = first.get("plain")
        adapted = [arch for arch in plain.targets if arch.startswith(f"{source}_on_")] if plain is not None else []
        for mode, cell in first.items() if adapted else ():
            check_paired(plain, cell)
            unseen = [r for r, arch in enumerate(plain.targets) if role_of(arch, [source]) == "unseen"]
            others = (cell.hits[0, unseen] - plain.hits[0, unseen]).mean(0)
            for reader in (source, *adapted):
                hits = cell.hits[0, cell.targets.index(reader)]
                gains = np.stack([hits - plain.hits[0, plain.targets.index(source)], others], 1)
                (value,) = stats.mean_intervals(hits[:, None] / 100, cell.groups)
                gain, unseen_gain = stats.mean_intervals(gains, cell.groups, differences=True)
                row = {"preset": preset, "task": task, "strength": strength, "mode": mode, "reader": reader} | cell.counts()
                row |= named(ESTIMATE, (100 * x for x in value)) | named(GAIN, gain) | named(UNSEEN, unseen_gain)
                yield row | ({} if mode == "clean" else cell.quality())


def several_sources_rows(preset: str, cells: dict[tuple, Cell]) -> Iterator[dict]:
    """What an R gains from RA with itself in the loss, with another R, with the four others at once, and with all five.

    Gains are over plain, seed 0; ``over_one`` is the paired difference to what another R gives, averaged over those others
    that were run. Empty for a degradation without a run from several R's.
    """
    five = registry.main_recognisers()
    four = {left_out: ",".join(arch for arch in five if arch != left_out) for left_out in five}
    for task, strength in degradations(preset):
        main = make_config(preset, task, "ra", strength=strength).science()
        keys = {name: comparisons.cell_key(main | {"source_arch": name}) for name in (*five, *four.values(), ",".join(five))}
        runs = {name: cells[key].seeds([0]) for name, key in keys.items() if key in cells and 0 in cells[key].runs}
        plain = cells.get(main_key(preset, task, strength, "plain"))
        if plain is None or 0 not in plain.runs or not any("," in name for name in runs):
            continue
        plain = plain.seeds([0])
        for cell in runs.values():
            check_paired(plain, cell)
        for reader in (arch for arch in five if arch in plain.targets):
            r = plain.targets.index(reader)
            gain = {name: cell.hits[0, r] - plain.hits[0, r] for name, cell in runs.items()}
            ones = [gain[name] for name in five if name in gain and name != reader]
            one = np.mean(ones, 0) if ones else None
            found = {"itself": (gain.get(reader), 1), "another": (one, len(ones)),
                     "four_others": (gain.get(four[reader]), 4), "all_five": (gain.get(",".join(five)), 5)}  # fmt: skip
            for name, (values, n_sources) in found.items():
                if values is None:
                    continue
                columns = [values] if one is None or name == "another" else [values, values - one]
                estimates = stats.mean_intervals(np.stack(columns, 1), plain.groups, differences=True)
                row = {"preset": preset, "task": task, "strength": strength, "target_arch": reader, "sources": name}
                for names, estimate in zip((ESTIMATE, OVER_ONE), estimates, strict=False):
                    row |= named(names, estimate)
                yield plain.counts() | row | {"n_sources": n_sources}


def tradeoff_rows(preset: str, pairs: list[Pair]) -> list[dict]:
    """The grid of weights (of T: of its learning rates, since its weight changes nothing) on validation, seed 0, main processor
    and source; ``chosen`` by the preset's rule.

    The best gain of the source R among the weights that cost at most ``MAX_PSNR_COST``; a tie goes to the smaller weight. By
    the one-standard-error rule (``one_se``) it is the smallest weight whose gain is within a standard error of the best.
    ``stability``: the share, in per cent, of bootstrap samples of the pictures in which the rule chooses this weight.
    """
    rows: list[dict] = []
    for cell, change, gain in comparisons.weight_grid(pairs):
        settings, roles = cell.settings, comparisons.targets_by_role(cell)
        gains = np.stack([gain[:, roles[role]].mean(1) for role in ("source", "mean_unseen")], 1)
        source, unseen = stats.mean_intervals(gains, cell.groups, differences=True)
        row = {name: settings[name] for name in ("preset", "task", "strength", "mode", "ra_weight")} | cell.counts()
        row["transformer_lr"] = settings.get("transformer_lr", 0.0)
        row |= {"source_top1": cell.hits[0, roles["source"]].mean(), "psnr_change": change, "chosen": False}
        row["drawn"] = cell.groups.bootstrap(gains[:, :1])[:, 0]
        rows.append(row | named(SOURCE, source) | named(UNSEEN, unseen) | cell.quality())
    for key in PRESETS[preset]["degradations"]:
        for mode in registry.MODES:
            tried = [r for r in rows if (r["task"], r["strength"], r["mode"]) == (*key, mode)]
            allowed = [r for r in tried if r["psnr_change"] >= -MAX_PSNR_COST]
            if allowed:
                allowed.sort(key=lambda r: (r["ra_weight"], r["transformer_lr"]))
                _choose(allowed, PRESETS[preset].get("one_se", False))
    return [{name: value for name, value in row.items() if name != "drawn"} for row in rows]


def _choose(allowed: list[dict], one_se: bool) -> None:
    """Mark the chosen one of the rows, which are sorted by weight, and how often resamples choose each."""
    resampled = np.stack([row["drawn"] for row in allowed], 1)  # B, weight
    gains = np.vstack([[row["source_gain"] for row in allowed], resampled]).round(9)
    slack = resampled.std(0)[gains[0].argmax()] if one_se else 0.0
    chosen = (gains >= gains.max(1, keepdims=True) - slack).argmax(1)
    allowed[chosen[0]]["chosen"] = True
    for k, row in enumerate(allowed):
        row["stability"] = 100 * (chosen[1:] == k).mean()


# --- files


def own_cells(preset: str, split: str) -> dict[tuple, Cell]:
    """The preset's cells on its own data set."""
    return comparisons.of_own_data(comparisons.load_cells(preset, split))


def make_tables(preset: str, log: Callable[[str], object] = print) -> list[Path]:
    """Rebuild ``runs.csv`` and every table of a preset from its predictions; returns the tables' paths.

    ``log`` is told where ``runs.csv`` was not what the predictions give.
    """
    one_of("preset", preset, PRESETS)
    folder = results_folder(preset)
    predictions = [load_run(path) for path in sorted((folder / "predictions").glob("*.npz"))]
    if not predictions:
        raise StudyError(f"results/{preset}/predictions is empty; run rastudy sweep --preset {preset}")
    table = results_file(preset)
    before = table.read_bytes() if table.is_file() else None
    write_csv(table, [row for run in predictions for row in tidy_rows(run)], COLUMNS)
    if before not in (None, table.read_bytes()):
        log(f"{short(table)} was not what the predictions give; rebuilt")
    load_results(preset)  # checks schema and keys
    merge_records(preset)
    of_split = {split: [run for run in predictions if run.about["split"] == split] for split in ("test", "val")}
    test, val = (comparisons.of_own_data(comparisons.cells_of(runs)) for runs in of_split.values())
    pairs, on_val = list(comparisons.paired(test)), list(comparisons.paired(val))
    gains = gain_rows(test, pairs)
    rows = {
        "accuracy": accuracy_rows(test), "gains": gains, "kept": kept_rows(pairs), "overall": overall_rows(pairs),
        "equal_cost": equal_cost_rows(preset, test), "several_sources": several_sources_rows(preset, test),
        "controls": checks.control_rows(preset, pd.DataFrame(gains, columns=list(GAINS)), test),
        "matched": matched_rows(preset, on_val), "tradeoff": tradeoff_rows(preset, on_val),
        "clean_check": checks.clean_rows(preset, test), "paper_vs_ours": checks.paper_rows(preset, test),
    }  # fmt: skip
    for name, columns in TABLES.items():
        write_csv(folder / f"{name}.csv", [rounded(row) for row in rows[name]], columns)
    return [folder / f"{name}.csv" for name in TABLES]


def rounded(row: dict) -> dict:
    """Six decimals, p-values three digits: enough for any reader, and stable against the last bits of a sum."""
    digits = lambda name, v: float(f"{v:.3g}") if name in ("p", "p_holm") else round(float(v), 6)  # noqa: E731
    return {name: ("" if v != v else digits(name, v)) if isinstance(v, float) else v for name, v in row.items()}


def tables_command(args: argparse.Namespace) -> None:
    committed = [name for name in PRESETS if name != "smoke" and any((results_folder(name) / "predictions").glob("*.npz"))]
    if not (args.preset or committed):
        raise nothing_here("predictions")
    for preset in args.preset or committed:
        for path in make_tables(preset):
            print(short(path))


# --- reading


def load_table(preset: str, name: str) -> pd.DataFrame:
    """One of ``TABLES``; StudyError where it is missing or has another schema."""
    one_of("table", name, TABLES)
    path = to_read(results_folder(preset) / f"{name}.csv")
    return read_table(path, TABLES[name], f"rastudy tables --preset {preset}", source_arch=str)


def main_cells(table: pd.DataFrame, preset: str, baseline: str = "plain") -> pd.DataFrame:
    """The rows of the main comparison: the preset's processor, source R, weights and schedule, and the baselines.

    Of gains, those over ``plain``, or the same cells' over another ``baseline``.
    """
    if baseline == "plain":
        return table[table["main"].astype(bool)]
    main = {main_key(preset, *key, mode) for key in degradations(preset) for mode in PRESETS[preset]["modes"]}
    keep = pd.Series([key in main for key in table[list(CELL)].itertuples(index=False, name=None)], table.index, bool)
    return table[keep & (table["baseline"] == baseline)]


def without_variants(table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose target R is no retrained, adapted or untrained copy: the main five, or the user's own."""
    return table[~table["target_arch"].map(is_variant).astype(bool)]


def main_table(preset: str) -> pd.DataFrame:
    """Top-1 (%) of every R, PSNR (dB) and SSIM, by degradation and mode, on the test pictures; means over that many seeds."""
    table = without_variants(main_cells(load_table(preset, "accuracy"), preset))
    table = table[table["metric"].isin(["top1", "psnr", "ssim"])]
    if table.empty:  # of a part of the grid, or of other settings than the preset's
        return pd.DataFrame(
            columns=["PSNR", "SSIM", "seeds"], index=pd.MultiIndex.from_arrays([[], []], names=("task", "mode"))
        )
    column = np.where(table["metric"] == "top1", table["target_arch"].map(display_name), table["metric"].str.upper())
    shown = [short_name(*key) for key in zip(table["task"], table["strength"], strict=True)]
    wide = table.assign(column=column, task=shown).pivot(index=["task", "mode"], columns="column", values="value")
    modes = ["none", *PRESETS[preset]["modes"], "clean"]
    tasks = [short_name(*key) for key in PRESETS[preset]["degradations"]]
    rows = [(task, mode) for task in tasks for mode in modes if (task, mode) in wide.index]
    order = [display_name(arch) for arch in table.loc[table["metric"] == "top1", "target_arch"].unique()]
    wide = wide.loc[rows].reindex(columns=[*order, "PSNR", "SSIM"])
    wide["seeds"] = table.assign(task=shown).groupby(["task", "mode"])["n_seeds"].max().loc[rows]
    return wide.round({**dict.fromkeys(order, 1), "PSNR": 2, "SSIM": 3})


def shown_table(preset: str) -> pd.DataFrame:
    """:func:`main_table` as text, with the decimals that people read."""
    digits = {"PSNR": 2, "SSIM": 3, "seeds": 0}
    shown = lambda column: column.map(f"{{:.{digits.get(column.name, 1)}f}}".format, na_action="ignore").fillna("")  # noqa: E731
    return main_table(preset).apply(shown).rename_axis(columns=None)
