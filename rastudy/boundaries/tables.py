"""How similar the recognisers' decision boundaries are, and whether that explains transfer.

Tables of what :mod:`rastudy.boundaries.measure` measures; ``results/README.md`` describes them and their columns.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from rastudy.analysis import statistics as stats
from rastudy.analysis.comparisons import ESTIMATE, GAIN, Cell, cell_key, correct, main_key, named, paired
from rastudy.analysis.tables import own_cells, rounded
from rastudy.boundaries import distances as boundary
from rastudy.boundaries import measure as boundaries
from rastudy.errors import StudyError, one_of
from rastudy.evaluation import metrics
from rastudy.evaluation.predictions import Predictions, load_predictions, read_table
from rastudy.paths import borrow, results_folder, to_read, write_csv
from rastudy.presets import PRESETS, degradations
from rastudy.registry import role_of, small_arch
from rastudy.transfer import tables as transfer

DRAWS = 1000  # of the bootstrap
FEWEST = 10  # pictures of a stratum; nothing is reported of fewer
PERMUTATIONS = 5040  # 7!: up to seven networks in every order, more at random
SIMILARITIES = ("kappa", "rank_ra", "rank_spectrum")
KEY = ("preset", "task", "strength")
COLUMNS = (*KEY, "along", "stratum", "reader", "other", "metric", *ESTIMATE, "n_images", "n_groups")
POINTS = (*KEY, "source", "target", *SIMILARITIES, *GAIN, *transfer.SHARE, "n_images", "n_groups")
EXPLAINS = (*KEY, "test", "similarity", "outcome", "rho", "p", "p_holm", "n_networks", "n_pairs", "permutations")
TABLES = {
    "boundary_distances": COLUMNS, "boundary_pairs": COLUMNS, "boundary_planes": COLUMNS, "boundary_path": COLUMNS,
    "boundary_added": COLUMNS, "boundary_points": POINTS, "boundary_explains": EXPLAINS,
}  # fmt: skip
STRATA = {"leave": True, "enter": False}  # pictures that R classifies correctly leave their class, the others enter it


# --- statistics of resampled pictures: each takes draws (B, N), how often each picture is drawn; the first row is the sample


def shares(yes: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Percentages (B,) of the drawn pictures for which ``yes`` (N,) holds, or their mean shares; nan where none is drawn."""
    # counts are exact in single precision; of shares it would leave last bits that depend on the CPU
    kind = np.float32 if yes.dtype == bool else np.float64
    with np.errstate(invalid="ignore"):
        return 100 * (draws.astype(kind, copy=False) @ yes.astype(kind)) / draws.sum(1)


def medians(values: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Medians (B,) of the drawn values (N,), of which some may be infinite (censored); nan where none is drawn."""
    if not len(values):
        return np.full(len(draws), np.nan)
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
    """Inter-boundary distances |d1 - d2| and their ratios to the smaller one (Tramer et al. 2017); nan: both are censored."""
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.abs(one - other)
        return apart, apart / np.minimum(one, other)


def estimate(resampled: np.ndarray) -> dict[str, float]:
    """The sample's statistic with the interval of the resamples; empty where the sample's is undefined."""
    if np.isnan(resampled[0]):
        return {}
    return named(ESTIMATE, (float(resampled[0]), *stats.percentile(resampled[1:])))


# --- tables


class Measured:
    """A file of measurements and its bootstrap draws. ``value``: R D N distances; ``right``: R N; ``step``: N.

    ``own``: the study's own recognisers (:func:`rastudy.boundaries.measure.own_networks`).
    """

    def __init__(self, found: Predictions):
        about, self.arrays = found
        self.directions, self.readers, self.source = about["directions"], list(about["readers"]), about["source"]
        self.kinds = about["kinds"]
        self.base = {name: about[name] for name in KEY}
        self.own = boundaries.own_networks(*self.base.values())
        self.groups, self.group = stats.Groups(self.arrays["group"]), self.arrays["group"]
        self.draws = self.groups.draws(DRAWS)
        self.value, self.right, self.step = self.arrays["value"], self.arrays["right"].astype(bool), self.arrays["step"]

    def is_unseen(self, reader: str, direction: str) -> bool:
        """Whether a recogniser is one of the study's, and not the one that gave the direction."""
        return reader in self.own and role_of(reader, [direction.partition(":")[2] or self.source]) == "unseen"

    def pair_of(self, reader: str, other: str) -> str:
        """Whether two recognisers are two ``trainings`` of one architecture, two ``architectures`` of the study, or neither."""
        if (small_arch(reader) or reader) == (small_arch(other) or other):
            return "trainings"
        return "architectures" if {reader, other} <= set(self.own) else ""

    def row(self, where: np.ndarray | None = None, **given: str) -> dict:
        """The columns of a row about the pictures ``where`` (N,) bool, or all."""
        group = self.group if where is None else self.group[where]
        return self.base | given | {"n_images": len(group), "n_groups": len(np.unique(group))}

    def rows(self, found: dict[str, np.ndarray], where: np.ndarray | None = None, **given: str) -> Iterator[dict]:
        """A row per metric of resampled statistics (B,)."""
        for metric, resampled in found.items():
            yield self.row(where, **given, metric=metric) | estimate(resampled)


def measured_files(preset: str) -> dict[tuple[str, float], Path]:
    """The preset's degradations that have been measured, and their files."""
    files = {key: boundaries.boundaries_file(preset, *key) for key in degradations(preset)}
    return {key: path for key, path in files.items() if path.is_file()}


def load_measured(preset: str, task: str, strength: float) -> Measured:
    """The measurements of a degradation; StudyError with the command where there are none."""
    path = to_read(boundaries.boundaries_file(preset, task, strength))
    if not path.is_file():
        raise StudyError(f"{path}: not measured; run {boundaries.command_of(preset)} --task {task}")
    return Measured(load_predictions(path))


def distance_rows(m: Measured) -> Iterator[dict]:
    """Of every direction, recogniser and stratum: the shares reached within one RA step and at all, and medians.

    ``over_spectrum``: percentage points reached beyond those along random directions of RA's spectrum. ``mean_unseen``: means
    over the study's recognisers but the direction's source; its pictures are those that count for one of them at least.
    """
    random = m.directions.index("spectrum")
    for (d, direction), (stratum, right) in itertools.product(enumerate(m.directions), STRATA.items()):
        given = {"along": direction, "stratum": stratum}
        unseen: dict[str, list[np.ndarray]] = {"reached": [], "within_step": [], "over_spectrum": []}
        counted = np.zeros(len(m.step), bool)
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
            yield from m.rows(found, where, **given, reader=reader)
            if m.is_unseen(reader, direction):
                counted |= where
                for metric in unseen:
                    unseen[metric].append(found[metric])
        means = {metric: np.mean(values, 0) for metric, values in unseen.items() if values}
        yield from m.rows(means, counted, **given, reader="mean_unseen")


def pair_rows(m: Measured) -> Iterator[dict]:
    """Every two recognisers along every direction, on pictures that both classify correctly or both misclassify.

    ``rank_over_spectrum``: the rank correlation of their distances minus that along random directions of RA's spectrum, since
    some pictures are near every boundary.
    """
    random = m.directions.index("spectrum")
    pairs = itertools.combinations(enumerate(m.readers), 2)
    for ((r, reader), (o, other)), (stratum, right) in itertools.product(pairs, STRATA.items()):
        where = (m.right[r] == right) & (m.right[o] == right)
        if where.sum() < FEWEST:
            continue
        draws = m.draws[:, where]
        reference = rank_correlations(m.value[r, random, where], m.value[o, random, where], draws)
        for d, direction in enumerate(m.directions):
            one, two = m.value[r, d, where], m.value[o, d, where]
            apart, ratio = between(one, two)
            known = ~np.isnan(apart)
            found = {"one_reached": shares(known, draws), "apart_rms": medians(apart[known], draws[:, known]),
                     "apart_ratio": medians(ratio[known], draws[:, known])}  # fmt: skip
            if d == random:
                found["rank"] = reference
            else:
                found["rank"] = rank_correlations(one, two, draws)
                found["rank_over_spectrum"] = found["rank"] - reference
            yield from m.rows(found, where, along=direction, stratum=stratum, reader=reader, other=other)


def plane_rows(m: Measured) -> Iterator[dict]:
    """Agreement (%), Cohen's kappa and chance agreement (%) of every two recognisers on planes, by kind and on all of them.

    ``kappa_architectures``, ``kappa_trainings``: on all planes, means over the pairs of two of the paper's architectures and of
    two trainings of one; ``kappa_difference``: the latter minus the former.
    """
    planes = m.arrays["planes"]  # kind R size size P
    many = planes.shape[-1]
    drawn = np.zeros(len(m.step), bool)
    drawn[np.linspace(0, len(m.step) - 1, many).astype(int)] = True
    draws = stats.Groups(m.group[drawn]).draws(DRAWS)
    kappas: dict[str, list[np.ndarray]] = {"architectures": [], "trainings": []}
    for (r, reader), (o, other) in itertools.combinations(enumerate(m.readers), 2):
        both = planes[:, [r, o]]
        seen, code = np.unique(both, return_inverse=True)
        code, classes = code.reshape(both.shape), len(seen)
        counts = np.array(
            [[boundary.confusion(kind[0, ..., p], kind[1, ..., p], classes) for p in range(many)] for kind in code]
        )
        for kind, own in (*zip(m.kinds, counts, strict=True), ("all", counts.sum(0))):
            flat = own.reshape(many, -1).astype(np.float32)
            parts = [boundary.agreement_and_kappa((part @ flat).reshape(-1, classes, classes)) for part in
                     np.array_split(draws, math.ceil(len(draws) * classes**2 / 2**24))]  # fmt: skip
            same, kappa, chance = (np.concatenate(values) for values in zip(*parts, strict=True))
            resampled = {"agreement": 100 * same, "kappa": kappa, "chance": 100 * chance}
            yield from m.rows(resampled, drawn, along=kind, reader=reader, other=other)
            if kind == "all" and (of := m.pair_of(reader, other)):
                kappas[of].append(kappa)
    means = {f"kappa_{of}": np.mean(values, 0) for of, values in kappas.items() if values}
    if len(means) == len(kappas):
        means["kappa_difference"] = means["kappa_trainings"] - means["kappa_architectures"]
    yield from m.rows(means, drawn, along="all", reader="mean")


def path_rows(m: Measured) -> Iterator[dict]:
    """Top-1 (%) of every recogniser, PSNR (dB) and SSIM on P_plain + t (P_ra - P_plain); ``along`` is t."""
    hits, psnr, ssim = m.arrays["path_hits"], metrics.psnr(m.arrays["path_mse"]), m.arrays["path_ssim"]
    columns = [*((reader, "top1") for reader in m.readers), ("", "psnr"), ("", "ssim")]
    for k, t in enumerate(boundaries.PATH):
        values = np.concatenate([100.0 * hits[k], psnr[k : k + 1], ssim[k : k + 1]])
        found = stats.mean_intervals(values.T, m.groups, differences=True)
        for (reader, metric), one in zip(columns, found, strict=True):
            yield m.row(along=f"{t:g}", reader=reader, metric=metric) | one._asdict()


def added_rows(m: Measured) -> Iterator[dict]:
    """What a step from plain's picture adds, means over pictures: shares of its energy (%), its size in levels of 255."""
    for name in (key.removeprefix("added.").removesuffix(".bands") for key in m.arrays if key.endswith(".bands")):
        part = {metric: m.arrays[f"added.{name}.{metric}"] for metric in ("edges", "colour", "rms", "largest")}
        part |= {f"band{k}": band for k, band in enumerate(m.arrays[f"added.{name}.bands"])}
        scale = np.array([1 if metric in ("rms", "largest") else 100 for metric in part])
        found = stats.mean_intervals(np.stack(list(part.values()), 1) * scale, m.groups, differences=True)
        for metric, one in zip(part, found, strict=True):
            yield m.row(along=name, metric=metric) | one._asdict()


# --- does it explain transfer?


def point_rows(m: Measured, similar: Sequence[dict], cells: dict[tuple, Cell]) -> Iterator[dict]:
    """Of every source and target: their similarity, and what RA from the source gains for the target.

    ``share``: of the gain that the source itself has, where that gain's interval lies above 0. ``similar``: the rows of
    :func:`pair_rows` and :func:`plane_rows`.
    """
    values = {(row["metric"], row["along"], frozenset((row["reader"], row["other"]))): row.get("value", "")
              for row in similar if row.get("stratum") != "enter" and "other" in row}  # fmt: skip
    for row in (*_gains(m, cells), *_gains_of_others(m)):
        source, both = row["source"], frozenset((row["source"], row["target"]))
        yield m.base | row | {
            "kappa": values.get(("kappa", "all", both), ""), "rank_ra": values.get(("rank", f"ra:{source}", both), ""),
            "rank_spectrum": values.get(("rank", "spectrum", both), ""),
        }  # fmt: skip


def _gains(m: Measured, cells: dict[tuple, Cell]) -> Iterator[dict]:
    """What RA from each measured source gains for each measured target, paired with plain."""
    key = main_key(m.base["preset"], m.base["task"], m.base["strength"], "ra")
    for baseline, cell, _, gain in paired(cells):
        source = cell.settings["source_arch"]
        if baseline != "plain" or cell_key(cell.settings | {"source_arch": m.source}) != key or source not in m.readers:
            continue
        gain = gain.mean(0).T  # N R, percentage points
        own = gain[:, [cell.targets.index(source)]]
        (at_home,) = stats.mean_intervals(own, cell.groups, differences=True)
        for target in (name for name in cell.targets if name in m.readers and name != source):
            mine = gain[:, [cell.targets.index(target)]]
            (one,) = stats.mean_intervals(mine, cell.groups, differences=True)
            row = {"source": source, "target": target} | named(GAIN, one)
            if at_home.low > 0:
                (kept,) = stats.ratio_intervals(mine, own, cell.groups)
                row |= named(transfer.SHARE, kept)
            yield row | {"n_images": len(mine), "n_groups": len(cell.groups.sizes)}


def _gains_of_others(m: Measured) -> Iterator[dict]:
    """What other families and black boxes gain from RA of the measured sources, by the tables of transfer.

    Without shares: those tables' are of the mean unseen model's gain at home.
    """
    for direction in ("families", "black_box"):
        if not transfer.table_file(m.base["preset"], direction).is_file():
            continue
        table = transfer.load_table(m.base["preset"], direction)
        here = (table["task"] == m.base["task"]) & (table["strength"] == m.base["strength"]) & (table["mode"] == "ra")
        here &= table["source_arch"].isin(m.readers) & table["reader"].isin(m.readers) & (table["metric"] == "top1")
        for found in table[here & table["variant"].isin([direction, *m.readers])].to_dict("records"):
            row = {"source": found["source_arch"], "target": found["reader"]} | named(GAIN, (found[name] for name in ESTIMATE))
            yield row | {name: found[name] for name in ("n_images", "n_groups")}


def explain_rows(points: pd.DataFrame) -> Iterator[dict]:
    """Rank correlations of similarity and outcome over pairs, with permutation tests over networks.

    ``mantel``: over all ordered pairs of the networks that are sources and targets; the networks of the similarities are
    permuted, rows and columns together, in every order. ``targets``: over the targets of the main source; they are permuted,
    and gains alone are asked: their shares of the one source's gain have the same ranks.
    One-sided: the p-value is the share of orders, the identity among them, that give a correlation as large; ``p_holm`` is
    corrected for all tests of an outcome, which the figure and the notebook show together.
    """
    rows = list(_tests(points))
    for outcome in ("gain", "share"):
        correct(row for row in rows if row["outcome"] == outcome)
    yield from sorted(rows, key=lambda row: row["outcome"])  # gain, then share


def _tests(points: pd.DataFrame) -> Iterator[dict]:
    for key, of in points.groupby(list(KEY), sort=False):
        main = boundaries.main_source(key[0])
        square = [name for name in dict.fromkeys(of["source"]) if name in set(of["target"])]
        for similarity, outcome in itertools.product(SIMILARITIES, ("gain", "share")):
            here = of[["source", "target", similarity, outcome]].set_index(["source", "target"])
            here = here.apply(pd.to_numeric, errors="coerce").dropna()
            tests = {
                "mantel": (mantel, list(itertools.permutations(square, 2))),
                "targets": (permuted, [pair for pair in here.index if pair[0] == main]),
            }
            for name, (test, pairs) in tests.items():
                if (name, outcome) == ("targets", "share") or len(pairs) < 4 or not set(pairs) <= set(here.index):
                    continue
                rho, p, many = test(*here.loc[pairs].to_numpy().T)
                row = {"test": name, "similarity": similarity, "outcome": outcome, "rho": rho, "p": p}
                row |= {"n_networks": len(set(itertools.chain(*pairs))), "n_pairs": len(pairs), "permutations": many}
                yield dict(zip(KEY, key, strict=True)) | row


def mantel(similarity: np.ndarray, outcome: np.ndarray) -> tuple[float, float, int]:
    """Mantel's test on the ordered pairs (n (n - 1),) of n networks, source by source: rho, one-sided p, permutations."""
    n = round((1 + math.sqrt(1 + 4 * len(similarity))) / 2)
    matrix, off = np.zeros((n, n)), ~np.eye(n, dtype=bool)
    matrix[off] = similarity
    return _permutation_test(n, lambda order: matrix[np.ix_(order, order)][off], outcome)


def permuted(similarity: np.ndarray, outcome: np.ndarray) -> tuple[float, float, int]:
    """The same test for the targets (n,) of a single source."""
    return _permutation_test(len(similarity), lambda order: similarity[order], outcome)


def _permutation_test(n: int, arranged: Callable, outcome: np.ndarray) -> tuple[float, float, int]:
    """``arranged``: takes an order (n,), gives the similarities in that order."""
    if math.factorial(n) <= PERMUTATIONS:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        rng = np.random.default_rng(0)
        orders = np.array([np.arange(n), *(rng.permutation(n) for _ in range(PERMUTATIONS - 1))])
    ranks = rankdata(outcome) - (len(outcome) + 1) / 2
    others = np.array([rankdata(arranged(order)) for order in orders]) - (len(outcome) + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = others @ ranks / np.sqrt((others**2).sum(1) * (ranks**2).sum())
    p = 1.0 if np.isnan(rho[0]) else (rho >= rho[0] - 1e-9).mean()  # what is the same everywhere explains nothing
    return float(rho[0]), float(p), len(orders)


# --- all of it


def update(
    preset: str, keys: Sequence[tuple[str, float]] = (), full: bool = False, jobs: int = 1, n: int = 0,
    log: Callable[[str], object] = print, black_boxes: Sequence[str] = (), **where: str,
) -> list[Path]:  # fmt: skip
    """:func:`rastudy.boundaries.measure.measure` what is missing, then make the tables; takes the same arguments."""
    borrow(preset)
    boundaries.measure(preset, keys, full, jobs, n, log, black_boxes, **where)
    return make_tables(preset)


def make_tables(preset: str) -> list[Path]:
    """Rebuild the boundary tables of a preset from ``results/<preset>/boundaries``; returns what was written."""
    one_of("preset", preset, PRESETS)
    folder, files = results_folder(preset), measured_files(preset)
    if not files:
        raise StudyError(f"{folder / 'boundaries'} is empty; run {boundaries.command_of(preset)}")
    rows: dict[str, list[dict]] = {name: [] for name in TABLES}
    cells = own_cells(preset, "test")
    for m in (Measured(load_predictions(path)) for path in files.values()):
        pairs, planes = list(pair_rows(m)), list(plane_rows(m))
        found = (distance_rows(m), pairs, planes, path_rows(m), added_rows(m), point_rows(m, pairs + planes, cells))
        for name, of_one in zip(TABLES, found, strict=False):
            rows[name] += of_one
    rows["boundary_explains"] += explain_rows(pd.DataFrame(rows["boundary_points"], columns=list(POINTS)))
    for name, columns in TABLES.items():
        write_csv(folder / f"{name}.csv", [rounded(row) for row in rows[name]], columns)
    return [folder / f"{name}.csv" for name in TABLES]


def load_table(preset: str, name: str) -> pd.DataFrame:
    """One of ``TABLES``; StudyError where it is missing or has other columns."""
    one_of("table", name, TABLES)
    return read_table(to_read(results_folder(preset) / f"{name}.csv"), TABLES[name], boundaries.command_of(preset), along=str)
