"""How similar the recognisers' decision boundaries are, and whether that explains transfer: tables of what
:mod:`rastudy.boundaries.measure` measures. ``rastudy boundaries --preset digits`` measures what is missing and writes
the tables and their figures.

``boundary_distances.csv`` distances along each direction; ``boundary_pairs.csv`` every two recognisers compared along each;
``boundary_planes.csv`` their verdicts on planes; ``boundary_path.csv`` the way from plain's picture to RA's and beyond;
``boundary_added.csv`` what RA adds to a picture; ``boundary_points.csv`` and ``boundary_explains.csv`` the similarity of two
recognisers against what RA from one gains for the other. Columns are described in ``results/README.md``.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from rastudy import registry
from rastudy.analysis import statistics as stats
from rastudy.analysis.comparisons import ESTIMATE, cell_key, main_key, paired
from rastudy.analysis.tables import own_cells, rounded
from rastudy.boundaries import distances as boundary
from rastudy.boundaries import measure as boundaries
from rastudy.config import make_config
from rastudy.errors import StudyError, one_of
from rastudy.evaluation import metrics
from rastudy.evaluation.predictions import Predictions, load_predictions, read_table
from rastudy.paths import results_folder, write_csv
from rastudy.presets import PRESETS, degradations
from rastudy.registry import is_variant, small_arch
from rastudy.transfer import tables as transfer

DRAWS = 1000  # of the bootstrap
FEWEST = 10  # pictures of a stratum below which nothing is said of it
PERMUTATIONS = 5040  # 7!: up to seven networks in every order, more at random
COLUMNS = ("preset", "task", "strength", "along", "stratum", "reader", "other", "metric", "value", "low", "high", "n_images",
           "n_groups")  # fmt: skip
POINTS = ("preset", "task", "strength", "source", "target", "kappa", "rank_ra", "rank_spectrum", "gain", "gain_low",
          "gain_high", "share", "share_low", "share_high", "n_images", "n_groups")  # fmt: skip
EXPLAINS = ("preset", "task", "strength", "test", "similarity", "outcome", "rho", "p", "n_networks", "n_pairs", "permutations")
SIMILARITIES = ("kappa", "rank_ra", "rank_spectrum")
TABLES = {
    "boundary_distances": COLUMNS, "boundary_pairs": COLUMNS, "boundary_planes": COLUMNS, "boundary_path": COLUMNS,
    "boundary_added": COLUMNS, "boundary_points": POINTS, "boundary_explains": EXPLAINS,
}  # fmt: skip
STRATA = {"leave": True, "enter": False}  # of the pictures that R reads rightly, and of those that it misreads


# --- figures of resampled pictures: each takes draws (B, N), how often each picture is drawn; the first row is the sample


def shares(yes: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Percentages (B,) of the drawn pictures for which ``yes`` (N,)."""
    with np.errstate(invalid="ignore"):
        return 100 * (draws @ yes.astype(np.float32)) / draws.sum(1)


def medians(values: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Medians (B,) of the drawn values (N,), of which some may be infinite."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(draws[:, order], 1)
    middle = (2 * reached > reached[:, -1:]).argmax(1)
    return np.where(reached[:, -1] > 0, values[order][middle], np.nan)


def rank_correlations(one: np.ndarray, other: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Spearman's correlations (B,) of the drawn pairs (N,), (N,); ties share their mean rank."""
    total = draws.sum(1)
    deviations = []
    for values in (one, other):
        _, code = np.unique(values, return_inverse=True)
        order = np.argsort(code, kind="stable")
        weight = np.add.reduceat(draws[:, order], np.flatnonzero(np.diff(code[order], prepend=-1)), axis=1)
        ranks = (np.cumsum(weight, 1) - weight / 2)[:, code]
        deviations.append(ranks - (draws * ranks).sum(1, keepdims=True) / total[:, None])
    a, b = deviations
    with np.errstate(divide="ignore", invalid="ignore"):
        return (draws * a * b).sum(1) / np.sqrt((draws * a * a).sum(1) * (draws * b * b).sum(1))


def between(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inter-boundary distances |d1 - d2| and their ratios to the smaller one (Tramer et al. 2017); nan: neither was reached."""
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.abs(one - other)
        return apart, apart / np.minimum(one, other)


def estimate(resampled: np.ndarray) -> dict:
    """The sample's figure with the interval of the others; empty where the sample gives none."""
    if not len(resampled) or np.isnan(resampled[0]):
        return {"value": "", "low": "", "high": ""}
    low, high = stats.percentile(resampled[1:])
    return {"value": float(resampled[0]), "low": low, "high": high}


# --- tables


class Measured:
    """A file of measurements with its resamples."""

    def __init__(self, found: Predictions):
        about, self.arrays = found
        self.directions, self.readers, self.source = about["directions"], list(about["readers"]), about["source"]
        self.kinds = about["kinds"]
        self.base = {name: about[name] for name in ("preset", "task", "strength")}
        self.groups, self.group = stats.Groups(self.arrays["group"]), self.arrays["group"]
        self.draws = self.groups.draws(DRAWS)
        self.value = self.arrays["value"]  # R D N
        self.right = self.arrays["right"].astype(bool)  # R N
        self.step = self.arrays["step"]

    def is_unseen(self, reader: str, direction: str) -> bool:
        """Whether the reader is one of the main ones, and of another architecture than the R that gave the direction."""
        arch = lambda name: small_arch(name) or name  # noqa: E731
        return not (is_variant(reader) or reader in registry.unlike_recognisers() or arch(reader) == arch(self.source_of(direction)))

    def source_of(self, direction: str) -> str:
        return direction.partition(":")[2] or self.source

    def row(self, where: np.ndarray, **given) -> dict:
        counts = {"n_images": int(where.sum()), "n_groups": len(np.unique(self.group[where]))}
        return {"stratum": "", "reader": "", "other": ""} | self.base | given | counts


def distance_rows(m: Measured) -> Iterator[dict]:
    """Of every direction, recogniser and stratum: the shares reached within one RA step and at all, and medians.

    ``over_spectrum``: points reached more than along random directions of RA's spectrum. ``mean_unseen``: shares averaged over
    the recognisers that the direction's source is not, second trainings and other families aside.
    """
    random = m.directions.index("spectrum")
    for (d, direction), (stratum, right) in itertools.product(enumerate(m.directions), STRATA.items()):
        unseen = {metric: [] for metric in ("reached", "within_step", "over_spectrum")}
        for r, reader in enumerate(m.readers):
            where = m.right[r] == right
            if where.sum() < FEWEST:
                continue
            value, draws = m.value[r, d, where], m.draws[:, where]
            in_steps, reached = value / m.step[where], shares(np.isfinite(value), draws)
            found = {
                "reached": reached, "within_step": shares(in_steps <= 1, draws),
                "over_spectrum": reached - shares(np.isfinite(m.value[r, random, where]), draws),
                "median_steps": medians(in_steps, draws), "median_rms": medians(value, draws),
                "outside": shares(m.arrays["outside"][r, d, where], draws),
            }  # fmt: skip
            for metric, resampled in found.items():
                yield m.row(where, along=direction, stratum=stratum, reader=reader, metric=metric) | estimate(resampled)
            if m.is_unseen(reader, direction):
                for metric, all_of_them in unseen.items():
                    all_of_them.append(found[metric])
        for metric, all_of_them in unseen.items():
            if all_of_them:
                given = {"along": direction, "stratum": stratum, "reader": "mean_unseen", "metric": metric}
                yield m.row(np.ones(len(m.step), bool), **given) | estimate(np.mean(all_of_them, 0))


def pair_rows(m: Measured) -> Iterator[dict]:
    """Every two recognisers along every direction, on pictures that both read rightly or both misread.

    ``rank_over_spectrum``: the rank correlation of their distances minus that along random directions of RA's spectrum, for
    some pictures are near every boundary.
    """
    random = m.directions.index("spectrum")
    for (r, reader), (o, other), (stratum, right) in itertools.product(
        enumerate(m.readers), enumerate(m.readers), STRATA.items()
    ):
        where = (m.right[r] == right) & (m.right[o] == right)
        if o <= r or where.sum() < FEWEST:
            continue
        draws = m.draws[:, where]
        reference = rank_correlations(m.value[r, random, where], m.value[o, random, where], draws)
        for d, direction in enumerate(m.directions):
            one, two = m.value[r, d, where], m.value[o, d, where]
            apart, ratio = between(one, two)
            known = ~np.isnan(apart)
            rank = rank_correlations(one, two, draws) if d != random else reference
            found = {
                "one_reached": shares(known, draws),
                "apart_rms": medians(apart[known], draws[:, known]) if known.any() else np.full(1 + DRAWS, np.nan),
                "apart_ratio": medians(ratio[known], draws[:, known]) if known.any() else np.full(1 + DRAWS, np.nan),
                "rank": rank, "rank_over_spectrum": rank - reference,
            }  # fmt: skip
            for metric, resampled in found.items():
                if metric == "rank_over_spectrum" and d == random:
                    continue
                given = {"along": direction, "stratum": stratum, "reader": reader, "other": other, "metric": metric}
                yield m.row(where, **given) | estimate(resampled)


def plane_rows(m: Measured) -> Iterator[dict]:
    """Agreement, Cohen's kappa and chance of every two recognisers on planes, by kind and on all of them."""
    planes = m.arrays["planes"]  # kind R size size P
    many = planes.shape[-1]
    drawn = np.zeros(len(m.step), bool)
    drawn[np.linspace(0, len(m.step) - 1, many).astype(int)] = True
    draws = stats.Groups(m.group[drawn]).draws(DRAWS)
    for r, o in itertools.combinations(range(len(m.readers)), 2):
        named, code = np.unique(planes[:, [r, o]], return_inverse=True)
        code, classes = code.reshape(planes[:, [r, o]].shape), len(named)
        counts = np.array(
            [[boundary.confusion(kind[0, ..., p], kind[1, ..., p], classes) for p in range(many)] for kind in code]
        )
        for kind, own in (*zip(m.kinds, counts, strict=True), ("all", counts.sum(0))):
            flat = own.reshape(many, -1).astype(np.float32)
            parts = [boundary.agreement_and_kappa((part @ flat).reshape(-1, classes, classes)) for part in
                     np.array_split(draws, math.ceil(len(draws) * classes**2 / 2**24))]  # fmt: skip
            same, kappa, chance = (np.concatenate(figures) for figures in zip(*parts, strict=True))
            for metric, resampled in (("agreement", 100 * same), ("kappa", kappa), ("chance", 100 * chance)):
                given = {"along": kind, "reader": m.readers[r], "other": m.readers[o], "metric": metric}
                yield m.row(drawn, **given) | estimate(resampled)


def path_rows(m: Measured) -> Iterator[dict]:
    """Top-1 of every recogniser, PSNR and SSIM on P_plain + t (P_ra - P_plain); ``along`` is t."""
    everywhere = np.ones(len(m.step), bool)
    hits, psnr, ssim = m.arrays["path_hits"], metrics.psnr(m.arrays["path_mse"]), m.arrays["path_ssim"]
    for k, t in enumerate(boundaries.PATH):
        values = np.concatenate([100.0 * hits[k], psnr[k : k + 1], ssim[k : k + 1]])
        found = stats.mean_intervals(values.T, m.groups, differences=True)
        for reader, metric, one in zip([*m.readers, "", ""], ["top1"] * len(m.readers) + ["psnr", "ssim"], found, strict=True):
            yield m.row(everywhere, along=f"{t:g}", reader=reader, metric=metric) | one._asdict()


def added_rows(m: Measured) -> Iterator[dict]:
    """What a step from plain's picture adds, means over pictures: shares of its energy (%), its size in levels of 255."""
    everywhere = np.ones(len(m.step), bool)
    for name in (key.removeprefix("added.").removesuffix(".bands") for key in m.arrays if key.endswith(".bands")):
        part = {metric: m.arrays[f"added.{name}.{metric}"] for metric in ("edges", "colour", "rms", "largest")}
        part |= {f"band{k}": band for k, band in enumerate(m.arrays[f"added.{name}.bands"])}
        scale = np.array([1 if metric in ("rms", "largest") else 100 for metric in part])
        found = stats.mean_intervals(np.stack(list(part.values()), 1) * scale, m.groups, differences=True)
        for metric, one in zip(part, found, strict=True):
            yield m.row(everywhere, along=name, metric=metric) | one._asdict()


# --- does it explain transfer?


def point_rows(m: Measured, pairs: pd.DataFrame, planes: pd.DataFrame, cells: dict) -> Iterator[dict]:
    """Of every source and target: their similarity, and what RA from the source gains for the target.

    ``share``: of the gain that the source itself has, where that gain's interval lies above 0.
    """
    main = PRESETS[m.base["preset"]]["source_arch"]
    key = main_key(*m.base.values(), "ra")
    for baseline, cell, _, gain in paired(cells):
        source = cell.settings["source_arch"]
        if baseline != "plain" or cell_key(cell.settings | {"source_arch": main}) != key or source not in m.readers:
            continue
        gain = gain.mean(0).T  # N R, points
        own = gain[:, cell.targets.index(source)]
        (at_home,) = stats.mean_intervals(own[:, None], cell.groups, differences=True)
        for target in (name for name in cell.targets if name in m.readers and name != source):
            mine = gain[:, cell.targets.index(target), None]
            (one,) = stats.mean_intervals(mine, cell.groups, differences=True)
            row = {"source": source, "target": target, "gain": one.value, "gain_low": one.low, "gain_high": one.high}
            row |= {"share": "", "share_low": "", "share_high": ""}
            if at_home.low > 0:
                (kept,) = stats.ratio_intervals(mine, own[:, None], cell.groups)
                row |= {"share": kept.value, "share_low": kept.low, "share_high": kept.high}
            row |= _similarities(source, target, pairs, planes)
            yield m.base | row | {"n_images": len(mine), "n_groups": len(cell.groups.sizes)}
    yield from (row | _similarities(main, row["target"], pairs, planes) for row in _families(m, main))


def _similarities(source: str, target: str, pairs: pd.DataFrame, planes: pd.DataFrame) -> dict:
    return {
        "kappa": _of(planes, source, target, "kappa", along="all"),
        "rank_ra": _of(pairs, source, target, "rank", along=f"ra:{source}", stratum="leave"),
        "rank_spectrum": _of(pairs, source, target, "rank", along="spectrum", stratum="leave"),
    }


def _families(m: Measured, main: str) -> Iterator[dict]:
    """What readers of other families gain from RA of the main source, from the table of transfer, where there is one."""
    if not transfer.table_file(m.base["preset"], "families").is_file():
        return
    table = transfer.load_table(m.base["preset"], "families")
    here = (table["task"] == m.base["task"]) & (table["strength"] == m.base["strength"]) & (table["mode"] == "ra")
    for found in table[here & table["reader"].isin(m.readers)].to_dict("records"):
        row = {"source": main, "target": found["reader"], "n_images": found["n_images"], "n_groups": found["n_groups"]}
        row |= dict(zip(("gain", "gain_low", "gain_high"), (found[name] for name in ESTIMATE), strict=True))
        yield (
            m.base | row | {name: "" if pd.isna(found[name]) else found[name] for name in ("share", "share_low", "share_high")}
        )


def _of(table: pd.DataFrame, source: str, target: str, metric: str, **where: str) -> float | str:
    rows = table[(table["metric"] == metric) & table["reader"].isin([source, target]) & table["other"].isin([source, target])]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows["value"].iloc[0] if len(rows) else ""


def explain_rows(points: pd.DataFrame) -> Iterator[dict]:
    """Rank correlations of similarity and outcome over pairs, with permutation tests over networks.

    ``mantel``: over all ordered pairs of the networks that are sources and targets; the networks of the similarities are
    permuted, rows and columns together, in every order. ``targets``: over the targets of the main source; they are permuted.
    One-sided: the p-value is the share of orders, the identity among them, that give a correlation as large.
    """
    for key, of in points.groupby(["preset", "task", "strength"], sort=False):
        base = dict(zip(("preset", "task", "strength"), key, strict=True))
        main = PRESETS[key[0]]["source_arch"]
        square = [name for name in dict.fromkeys(of["source"]) if name in set(of["target"])]
        for similarity, outcome in itertools.product(SIMILARITIES, ("gain", "share")):
            here = of[["source", "target", similarity, outcome]].set_index(["source", "target"])
            here = here.apply(pd.to_numeric, errors="coerce").dropna()
            names = {
                "mantel": [(s, t) for s, t in itertools.permutations(square, 2)],
                "targets": [pair for pair in here.index if pair[0] == main],
            }
            for test, pairs in names.items():
                if len(pairs) < 4 or not set(pairs) <= set(here.index):
                    continue
                x, y = here.loc[pairs].to_numpy().T
                rho, p, many = (mantel if test == "mantel" else permuted)(x, y)
                yield base | {"test": test, "similarity": similarity, "outcome": outcome, "rho": rho, "p": p,
                              "n_networks": len({name for pair in pairs for name in pair}), "n_pairs": len(pairs),
                              "permutations": many}  # fmt: skip


def mantel(similarity: np.ndarray, outcome: np.ndarray) -> tuple[float, float, int]:
    """Mantel's test on the ordered pairs (n (n - 1),) of n networks, source by source: rho, one-sided p, permutations."""
    n = round((1 + math.sqrt(1 + 4 * len(similarity))) / 2)
    matrix, off = np.zeros((n, n)), ~np.eye(n, dtype=bool)
    matrix[off] = similarity
    return _permutation_test(n, lambda order: matrix[np.ix_(order, order)][off], outcome)


def permuted(similarity: np.ndarray, outcome: np.ndarray) -> tuple[float, float, int]:
    """The same of one source's targets (n,)."""
    return _permutation_test(len(similarity), lambda order: similarity[order], outcome)


def _permutation_test(n: int, arranged: Callable, outcome: np.ndarray) -> tuple[float, float, int]:
    if math.factorial(n) <= PERMUTATIONS:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        rng = np.random.default_rng(0)
        orders = np.array([np.arange(n), *(rng.permutation(n) for _ in range(PERMUTATIONS - 1))])
    ranks = rankdata(outcome) - (len(outcome) + 1) / 2
    others = np.array([rankdata(arranged(order)) for order in orders]) - (len(outcome) + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = others @ ranks / np.sqrt((others**2).sum(1) * (ranks**2).sum())
    return float(rho[0]), float((rho >= rho[0] - 1e-9).mean()), len(orders)


# --- all of it


def update(preset: str, *args: object, **kwargs: object) -> list[Path]:
    """:func:`rastudy.boundaries.measure` what is missing, and make the tables; takes its arguments."""
    boundaries.measure(preset, *args, **kwargs)
    return make_tables(preset)


def make_tables(preset: str) -> list[Path]:
    """Rebuild the boundary tables of a preset from ``results/<preset>/boundaries``; returns what was written."""
    one_of("preset", preset, PRESETS)
    folder = results_folder(preset)
    files = [
        boundaries.boundaries_file(make_config(preset, task, "plain", strength=strength))
        for task, strength in degradations(preset)
    ]
    files = [path for path in files if path.is_file()]
    if not files:
        raise StudyError(f"{folder / 'boundaries'} is empty; run {boundaries.command_of(preset)}")
    rows = {name: [] for name in TABLES}
    cells = own_cells(preset, "test")
    for m in (Measured(load_predictions(path)) for path in files):
        for name, made in (("distances", distance_rows), ("pairs", pair_rows), ("planes", plane_rows), ("path", path_rows),
                           ("added", added_rows)):  # fmt: skip
            rows[f"boundary_{name}"] += made(m)
        pairs, planes = (pd.DataFrame(rows[f"boundary_{name}"]) for name in ("pairs", "planes"))
        here = lambda table, m=m: table[(table["task"] == m.base["task"]) & (table["strength"] == m.base["strength"])]  # noqa: E731
        rows["boundary_points"] += point_rows(m, here(pairs), here(planes), cells)
    if rows["boundary_points"]:
        rows["boundary_explains"] += explain_rows(pd.DataFrame(rows["boundary_points"]))
    for name, columns in TABLES.items():
        write_csv(folder / f"{name}.csv", [rounded(row) for row in rows[name]], columns)
    return [folder / f"{name}.csv" for name in TABLES]


def load_table(preset: str, name: str) -> pd.DataFrame:
    """One of ``TABLES``; StudyError where it is missing or has another schema."""
    one_of("table", name, TABLES)
    return read_table(results_folder(preset) / f"{name}.csv", TABLES[name], boundaries.command_of(preset), along=str)
