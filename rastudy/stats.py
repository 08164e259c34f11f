"""Intervals and tests on paired, possibly grouped, per-picture values.

Pictures that share a group (digits: the source digit) are not independent, so resampling draws whole groups.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 5000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Groups:
    """The resampling units of a picture set: sums over groups, and bootstrap means that are shared by all figures.

    Args:
        group: (N,) group of each picture.
    """

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
        """Means of ``RESAMPLES`` resamples of the groups: (N, M) to (RESAMPLES, M). The draws never change."""
        counts = _resamples(len(self.sizes))
        return (counts @ self.sums(values)) / (counts @ self.sizes)[:, None]


@lru_cache(maxsize=2)
def _resamples(n_groups: int) -> np.ndarray:
    """How often each group is drawn in each resample, (RESAMPLES, G)."""
    rng = np.random.default_rng(0)
    return rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=RESAMPLES).astype(np.float32)


def percentile(resampled: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of resampled figures; infinite and undefined ones count as extreme."""
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile(resampled, ends)
    if np.isnan([low, high]).any():  # nothing can be interpolated between infinite figures
        low, high = (np.nanquantile(resampled, q, method=m) for q, m in zip(ends, ("lower", "higher"), strict=True))
    return float(low), float(high)


def mean_interval(values: np.ndarray, groups: Groups) -> Estimate:
    """Mean of (N,) values with its interval: Wilson's for independent hits, else a bootstrap over groups."""
    if groups.independent and set(np.unique(values)) <= {0.0, 1.0}:
        interval = stats.binomtest(int(values.sum()), len(values)).proportion_ci(LEVEL, method="wilson")
        return Estimate(float(values.mean()), interval.low, interval.high)
    return Estimate(float(values.mean()), *percentile(groups.bootstrap(values[:, None])[:, 0]))


def paired_p(differences: np.ndarray, groups: Groups) -> float:
    """Two-sided p-value of mean difference 0 for (N,) paired differences.

    Exact McNemar where pictures are independent and differences are -1, 0 or 1; else a test that flips the signs of
    whole groups at random (``RESAMPLES`` times, so never below 1 / (RESAMPLES + 1)).
    """
    if groups.independent and set(np.unique(differences)) <= {-1.0, 0.0, 1.0}:
        gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
        return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    sums = groups.sums(differences[:, None])[:, 0]
    signs = np.random.default_rng(1).integers(0, 2, size=(RESAMPLES, len(sums)), dtype=np.int8) * 2 - 1
    extreme = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9
    return float((1 + extreme.sum()) / (RESAMPLES + 1))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's correction of (M,) p-values."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, groups: Groups) -> Estimate:
    """Ratio of the means of two (N,) arrays with a joint bootstrap interval."""
    both = groups.bootstrap(np.stack([numerator, denominator], 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return Estimate(float(numerator.mean() / denominator.mean()), *percentile(both[:, 0] / both[:, 1]))
