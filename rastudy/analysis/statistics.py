"""Intervals and tests on paired, possibly grouped, per-picture values.

Pictures that share a group (digits: the source digit) are not independent, so resampling draws whole groups.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 5000
FLIPS = 50_000  # of signs; many more than resamples, since Holm multiplies small p-values by the number of contrasts
LEVEL = 0.95
MARGIN = 1.0  # points: a smaller difference counts as none, whatever is claimed
SURE = 0.05  # of a p-value, corrected by Holm
FEWEST_TRAININGS = 3  # for an interval over trainings
FEW = 256  # distinct values up to which independent pictures are drawn by value, where there are ten of each on average


def kind_of_difference(low: float, high: float, p: float = 0.0, margin: float = MARGIN) -> str:
    """The one rule of every verdict, for gains and for nulls.

    ``gain``: the whole interval is above ``margin``; ``loss``: below minus that; ``none``: within. Everything else is
    ``undecided``, and so is a gain or loss whose p-value, corrected for the others, is not below ``SURE``.
    """
    if -margin < low and high < margin:
        return "none"
    if p < SURE and (low >= margin or high <= -margin):
        return "gain" if low >= margin else "loss"
    return "undecided"


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Groups:
    """The resampling units of pictures with these groups (N,): sums over groups, and bootstrap means from shared draws."""

    def __init__(self, group: np.ndarray):
        _, self.code = np.unique(group, return_inverse=True)
        self.sizes = np.bincount(self.code).astype(np.float64)
        self.independent = bool((self.sizes == 1).all())

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(N, M) values to (G, M) sums over groups."""
        out = np.zeros((len(self.sizes), values.shape[1]))
        np.add.at(out, self.code, values)
        return out

    def bootstrap(self, values: np.ndarray) -> np.ndarray:
        """Means of ``RESAMPLES`` joint resamples of the groups: (N, M) to (RESAMPLES, M). The draws never change.

        Rounded to 9 decimals and without negative zeros: the last bits of a sum depend on the number of threads, and a ratio
        to a mean of 0 would show them.
        """
        means = self._drawn_by_value(values)
        return self._drawn_by_group(values) if means is None else means

    def bootstrap_each(self, values: np.ndarray) -> np.ndarray:
        """As :meth:`bootstrap`, for columns that are not compared with one another: (N, M) to (RESAMPLES, M)."""
        means = {k: self._drawn_by_value(values[:, [k]]) for k in range(values.shape[1])}
        others = [k for k, column in means.items() if column is None]
        if others:  # in one product: the draws are large
            means |= dict(zip(others, np.split(self._drawn_by_group(values[:, others]), len(others), 1), strict=True))
        return np.concatenate(list(means.values()), 1)

    def _drawn_by_value(self, values: np.ndarray) -> np.ndarray | None:
        """Resampled means where independent pictures' rows take few distinct values, as differences of hits do; else None.

        How often each distinct row comes is all that a mean needs.
        """
        if not self.independent:
            return None
        rounded, codes = np.round(values, 9), np.zeros(len(values), np.int64)
        for column in rounded.T:  # the distinct rows of np.unique(axis=0), which is much slower
            levels, level = np.unique(column, return_inverse=True)
            codes = codes * len(levels) + level
        _, first, count = np.unique(codes, return_index=True, return_counts=True)
        n = len(values)
        if len(first) > min(FEW, n // 10):
            return None
        drawn = np.random.default_rng(0).multinomial(n, count / n, size=RESAMPLES)
        return np.round(drawn @ rounded[first] / n, 9) + 0.0

    def _drawn_by_group(self, values: np.ndarray) -> np.ndarray:
        """Resampled means of groups that are drawn one by one; in parts that fit the processor's cache."""
        sums, parts = self.sums(np.column_stack([values, np.ones(len(values))])), _resamples(len(self.sizes))
        drawn = np.concatenate([counts.astype(np.float64) @ sums for counts in parts.reshape(100, RESAMPLES // 100, -1)])
        return np.round(drawn[:, :-1] / drawn[:, -1:], 9) + 0.0

    def draws(self, many: int) -> np.ndarray:
        """How often each picture is in the sample itself (first row) and in ``many`` resamples: (1 + many, N) float32."""
        return np.concatenate([np.ones((1, len(self.code))), _resamples(len(self.sizes))[:many, self.code]]).astype(np.float32)


@lru_cache(maxsize=2)
def _resamples(n_groups: int) -> np.ndarray:
    """How often each group is drawn in each resample, (RESAMPLES, G)."""
    rng = np.random.default_rng(0)
    return rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=RESAMPLES).astype(np.uint8)


def percentile(resampled: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of resampled values; infinite ones are extremes, undefined ones (0/0) are left out."""
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile(resampled, ends)
    if np.isnan([low, high]).any():  # nothing can be interpolated between infinite values
        low, high = np.nanquantile(resampled, ends[0], method="lower"), np.nanquantile(resampled, ends[1], method="higher")
    return float(low), float(high)


def mean_intervals(values: np.ndarray, groups: Groups, differences: bool = False) -> list[Estimate]:
    """Means of the columns of (N, M) with intervals: Wilson's for independent hits, else a bootstrap over groups.

    ``differences`` are never taken for hits, even where all of them are 0 or 1.
    """
    hits = [groups.independent and not differences and bool(np.isin(column, (0.0, 1.0)).all()) for column in values.T]
    others = values[:, [not hit for hit in hits]]
    drawn = iter(groups.bootstrap_each(others).T if others.size else ())
    ends = [_wilson(column) if hit else percentile(next(drawn)) for hit, column in zip(hits, values.T, strict=True)]
    return [Estimate(float(column.mean()), low, high) for column, (low, high) in zip(values.T, ends, strict=True)]


def over_trainings(values: np.ndarray, groups: Groups) -> list[tuple[float, float]]:
    """Intervals of the means of (S, N, M) values over trainings and pictures: nan below ``FEWEST_TRAININGS`` trainings.

    Two levels: groups of pictures are resampled, the same in every training, and the trainings' means vary by Student's t with
    S - 1 degrees of freedom, for so few cannot be resampled. Without noise of pictures it is the t interval.
    """
    n_trainings, n, m = values.shape
    if n_trainings < FEWEST_TRAININGS:
        return [(float("nan"), float("nan"))] * m
    error = values.mean(1).std(0, ddof=1) / np.sqrt(n_trainings)  # M
    levels = (np.random.default_rng(2).permutation(RESAMPLES) + 0.5) / RESAMPLES  # every quantile once, in random order
    drawn = stats.t.ppf(levels, n_trainings - 1)
    resampled = groups.bootstrap(values.mean(0)) + drawn[:, None] * error
    return [percentile(column) for column in resampled.T]


def _wilson(hits: np.ndarray) -> tuple[float, float]:
    interval = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(LEVEL, method="wilson")
    return interval.low, interval.high


def paired_p(differences: np.ndarray, groups: Groups) -> np.ndarray:
    """Two-sided p-values of mean difference 0 for each column of (N, M) paired differences; (M,).

    Exact McNemar where pictures are independent and differences are -1, 0 or 1; else a test that flips the signs of
    whole groups at random (``FLIPS`` times, so never below 1 / (FLIPS + 1)).
    """
    if groups.independent:
        exact = lambda column: np.isin(column, (-1.0, 0.0, 1.0)).all()  # noqa: E731
        return np.array([(_mcnemar if exact(column) else _flip_pictures)(column) for column in differences.T])
    sums = groups.sums(differences)  # G M
    total, slack = np.abs(sums.sum(0)), 1e-5 * np.abs(sums).sum(0)  # ties count in spite of rounding
    extreme = np.zeros(sums.shape[1])
    for bits in _flips(len(sums)).reshape(FLIPS // 1000, 1000, -1):  # in parts, for memory
        flipped = np.unpackbits(bits, axis=1, count=len(sums)).astype(np.float32) @ sums.astype(np.float32)
        extreme += (np.abs(sums.sum(0) - 2 * flipped) >= total - slack).sum(0)  # a flip takes twice its sum away
    return (1 + extreme) / (FLIPS + 1)


def normal_p(value: float, resampled: np.ndarray) -> float:
    """Two-sided p-value of 0 for a value that scatters normally about the truth, as much as its resamples (B,) do about it.

    To count the resamples beyond 0 would be too coarse: after Holm's correction of many tests none could be significant.
    Undefined resamples are left out.
    """
    spread = np.nanstd(resampled)
    return float(2 * stats.norm.sf(abs(value) / spread)) if spread else float(value == 0)


def _mcnemar(differences: np.ndarray) -> float:
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _flip_pictures(differences: np.ndarray) -> float:
    """The sign-flip test of independent pictures: how many of equal size are flipped is binomial."""
    sizes, counts = np.unique(np.abs(np.round(differences, 9)), return_counts=True)
    rng = np.random.default_rng(1)
    sums = sum(size * (2.0 * rng.binomial(count, 0.5, FLIPS) - count) for size, count in zip(sizes, counts, strict=True))
    slack = 1e-5 * np.abs(differences).sum()  # ties count in spite of rounding
    return float((1 + (np.abs(sums) >= abs(differences.sum()) - slack).sum()) / (FLIPS + 1))


@lru_cache(maxsize=2)
def _flips(n_groups: int) -> np.ndarray:
    """Which groups change their sign, bits packed into (FLIPS, ceil(G / 8)) uint8. The draws never change."""
    return np.random.default_rng(1).integers(0, 256, size=(FLIPS, -(-n_groups // 8)), dtype=np.uint8)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's correction of (M,) p-values."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def ratio_intervals(numerator: np.ndarray, denominator: np.ndarray, groups: Groups) -> list[Estimate]:
    """Ratios of the means of the columns of two (N, M) arrays with joint bootstrap intervals."""
    pairs = [groups.bootstrap(np.stack(pair, 1)).T for pair in zip(numerator.T, denominator.T, strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        values, resampled = numerator.mean(0) / denominator.mean(0), [above / below for above, below in pairs]
    return [Estimate(float(value), *percentile(column)) for value, column in zip(values, resampled, strict=True)]
