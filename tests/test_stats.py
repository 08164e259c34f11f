"""Intervals and tests against formulas, enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from rastudy.analysis import statistics as stats
from rastudy.analysis.statistics import Estimate, Groups, holm


def paired_p(differences: np.ndarray, groups: Groups) -> float:
    """The p-value of one contrast; beside another, which is never exact, it is the same."""
    alone = stats.paired_p(differences[:, None], groups)
    beside = stats.paired_p(np.stack([differences, 0.3 * differences + 0.01], 1), groups)
    assert alone.shape == (1,) and alone[0] == pytest.approx(beside[0], abs=1e-12)
    return float(alone[0])


def mean_interval(values: np.ndarray, groups: Groups) -> Estimate:
    """The estimate of one column; beside another it is the same."""
    alone, (beside, _) = (stats.mean_intervals(np.stack(columns, 1), groups) for columns in ([values], [values, 0.5 * values]))
    assert alone == [beside]
    return beside


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, groups: Groups) -> Estimate:
    """The ratio of one column."""
    (estimate,) = stats.ratio_intervals(numerator[:, None], denominator[:, None], groups)
    return estimate


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The formula, by hand."""
    z, p = 1.959963984540054, hits / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


@pytest.mark.parametrize(("right", "n"), [(0, 20), (1, 20), (62, 100), (100, 100)])
def test_wilsons_interval(right, n):
    hits = np.arange(n) < right
    estimate = mean_interval(hits.astype(float), Groups(np.arange(n)))
    assert estimate.value == right / n
    assert (estimate.low, estimate.high) == pytest.approx(wilson(right, n), abs=1e-12)


def test_differences_are_no_hits():
    """Of 0 and 1 alone, too: nothing gained anywhere has the interval 0 to 0, not Wilson's."""
    values, groups = np.stack([np.zeros(50), np.ones(50)], 1), Groups(np.arange(50))
    assert stats.mean_intervals(values, groups, differences=True) == [(0, 0, 0), (1, 1, 1)]
    assert stats.mean_intervals(values, groups)[0].high > 0.05


def test_duplicates_add_no_certainty():
    """Five copies of each picture give the interval of the pictures, wider than that of five times as many."""
    values = np.random.default_rng(0).normal(size=150)
    copies, group = values.repeat(5), np.arange(150).repeat(5)
    single, grouped = mean_interval(values, Groups(np.arange(150))), mean_interval(copies, Groups(group))
    pretended = mean_interval(copies, Groups(np.arange(750)))
    assert grouped == pytest.approx(single)
    assert 1.9 < (grouped.high - grouped.low) / (pretended.high - pretended.low) < 2.6  # sqrt(5) = 2.24


def test_grouped_hits_agree_with_wilson():
    """0/1 values in groups go through the bootstrap, which nearly agrees with Wilson on the groups."""
    hits = (np.random.default_rng(1).random(400) < 0.7).astype(float)
    grouped = mean_interval(hits.repeat(5), Groups(np.arange(400).repeat(5)))
    assert grouped[1:] == pytest.approx(wilson(int(hits.sum()), 400), abs=0.006)


def test_a_resampled_mean_of_nothing_is_exactly_zero():
    """0.1 + 0.2 - 0.3 leaves a last bit that depends on the order of the sum; a ratio to it would be huge or not."""
    values = np.array([0.1, 0.2, -0.3])
    means = Groups(np.arange(3)).bootstrap(np.stack([values, -values], 1))
    nothing = np.abs(means) < 1e-12
    assert nothing.any() and (means[nothing] == 0).all() and not np.signbit(means[nothing]).any()


def test_groups_of_unequal_size_in_any_order():
    """The value is the mean over pictures; order and names of groups don't matter."""
    rng = np.random.default_rng(2)
    group = rng.integers(0, 40, 300) * 7 - 100
    values = rng.normal(size=300)
    expected = mean_interval(values, Groups(group))
    order = rng.permutation(300)
    assert mean_interval(values[order], Groups(group[order])) == pytest.approx(expected)
    assert expected.value == pytest.approx(values.mean()) and expected.low < expected.value < expected.high
    sums = Groups(group).sums(np.stack([values, values * 0 + 1], 1))
    assert sums == pytest.approx(np.array([[values[group == g].sum(), (group == g).sum()] for g in np.unique(group)]))


def test_the_grouped_interval_covers():
    """95 % intervals of grouped data hold the truth about 95 times in 100; ungrouped ones miss it often."""
    rng, right, wrong = np.random.default_rng(3), 0, 0
    for _ in range(100):
        values = rng.normal(size=60).repeat(5) + 0.3 * rng.normal(size=300)
        grouped = mean_interval(values, Groups(np.arange(60).repeat(5)))
        single = mean_interval(values, Groups(np.arange(300)))
        right += grouped.low <= 0 <= grouped.high
        wrong += single.low <= 0 <= single.high
    assert 88 <= right <= 99 and wrong <= 75


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (12, 3), (30, 28), (0, 9)])
def test_mcnemar_is_exact(gained, lost):
    """Independent pictures: a binomial test on the discordant ones."""
    differences = np.array([1.0] * gained + [-1.0] * lost + [0.0] * 40)
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert paired_p(differences, Groups(np.arange(len(differences)))) == pytest.approx(expected)


def test_sign_flips_are_those_of_enumeration():
    """Nine groups have 512 sign patterns: the drawn share of extreme ones is near the exact one."""
    rng = np.random.default_rng(4)
    group, differences = np.arange(9).repeat(4), rng.normal(0.25, 1, 36)
    sums = np.array([differences[group == g].sum() for g in range(9)])
    patterns = np.array(list(itertools.product((-1, 1), repeat=9)))
    exact = (np.abs(patterns @ sums) >= abs(sums.sum()) - 1e-9).mean()
    assert 0.01 < exact < 0.9
    assert paired_p(differences, Groups(group)) == pytest.approx(exact, abs=4 * math.sqrt(exact / stats.FLIPS))


def test_sign_flips_under_the_null_and_under_an_effect():
    """p is uniform without an effect, though pictures of a group are alike; with a strong one it is tiny."""
    rng, group = np.random.default_rng(5), np.arange(40).repeat(5)
    null = [paired_p(rng.normal(size=40).repeat(5) + 0.5 * rng.normal(size=200), Groups(group)) for _ in range(150)]
    assert kstest(null, "uniform").pvalue > 0.01
    assert np.mean(np.array(null) < 0.05) < 0.11
    strong = paired_p(1 + 0.3 * rng.normal(size=200), Groups(group))
    assert strong == pytest.approx(1 / (stats.FLIPS + 1))


def test_results_never_change():
    """Draws are seeded: the same data, the same figures."""
    rng = np.random.default_rng(6)
    values, groups = rng.normal(size=90), Groups(np.arange(30).repeat(3))
    assert mean_interval(values, groups) == mean_interval(values, groups)
    assert paired_p(values, groups) == paired_p(values, groups)


def test_a_normal_p_is_the_paired_tests():
    """Of a mean, whose resamples are normal; nan ones are left out, a value without spread is sure."""
    values = np.random.default_rng(5).normal(0.2, 1, (200, 1))
    groups = stats.Groups(np.arange(200))
    resampled = groups.bootstrap(values)[:, 0]
    expected = float(stats.paired_p(values, groups)[0])
    assert stats.normal_p(values.mean(), resampled) == pytest.approx(expected, rel=0.3)
    assert stats.normal_p(values.mean(), np.append(resampled, np.nan)) == stats.normal_p(values.mean(), resampled)
    assert stats.normal_p(1.0, np.ones(9)) == 0 and stats.normal_p(0.0, np.zeros(9)) == 1


def test_holm_by_hand():
    """Sorted 0.01 0.02 0.03 0.04 times 4 3 2 1, never below the one before; capped at 1."""
    assert holm(np.array([0.04, 0.01, 0.03, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.005, 0.9, 0.6])) == pytest.approx([0.015, 1.0, 1.0])
    assert holm(np.array([0.2])) == pytest.approx([0.2])
    assert holm(np.array([0.03, 0.03])) == pytest.approx([0.06, 0.06])


def test_ratio_of_exact_multiples():
    values = np.random.default_rng(7).uniform(0.5, 1.5, 60)
    assert ratio_interval(0.8 * values, values, Groups(np.arange(20).repeat(3))) == pytest.approx((0.8, 0.8, 0.8))


def test_ratio_interval_is_fiellers():
    """For a well determined denominator the interval is near Fieller's, the classic one."""
    rng = np.random.default_rng(8)
    b = 2 + rng.normal(size=400)
    a = 1.5 + 0.5 * (b - 2) + rng.normal(size=400)
    value, low, high = ratio_interval(a, b, Groups(np.arange(400)))
    assert value == pytest.approx(a.mean() / b.mean())
    z, (va, cab), (_, vb) = 1.96, *(np.cov(a, b) / 400)
    p, q, r = b.mean() ** 2 - z * z * vb, a.mean() * b.mean() - z * z * cab, a.mean() ** 2 - z * z * va
    half = math.sqrt(q * q - p * r)
    assert (low, high) == pytest.approx(((q - half) / p, (q + half) / p), abs=0.01)


def test_an_undetermined_ratio_has_no_narrow_interval():
    """A denominator that is 0 in many resamples leaves the ratio open at the upper end, not undefined."""
    numerator, denominator = np.ones(30), np.zeros(30)
    denominator[0] = 1.0
    _, low, high = ratio_interval(numerator, denominator, Groups(np.arange(30)))
    assert 0 < low < 30 and high == math.inf


def test_pictures_drawn_by_value_or_one_by_one(monkeypatch):
    """Intervals, ratios and p-values of independent pictures do not hang on which of the two ways they are drawn."""
    rng = np.random.default_rng(0)
    values = rng.choice([-1, -0.25, 0, 0.25, 1], size=(2000, 2), p=[0.05, 0.05, 0.7, 0.1, 0.1])
    above, below, groups = values[:, :1], values[:, 1:] + 1, Groups(np.arange(2000))
    found = []
    for few in (stats.FEW, 0):
        monkeypatch.setattr(stats, "FEW", few)
        found.append([*stats.mean_intervals(values, groups, differences=True), *stats.ratio_intervals(above, below, groups)])
    width = np.array([estimate.high - estimate.low for estimate in found[0]])
    assert np.abs(np.array(found[0]) - np.array(found[1])).max(1) == pytest.approx(0 * width, abs=0.05 * width.min())


def test_flipping_pictures_by_size_is_flipping_them():
    """Against the test that flips each picture's sign by itself."""
    rng = np.random.default_rng(0)
    differences = rng.choice([-1, -0.5, 0, 0.5, 1], size=(400, 3), p=[0.1, 0.1, 0.58, 0.11, 0.11])
    twins = np.concatenate([differences / 2, differences / 2])  # a group of two halves is one picture
    assert stats.paired_p(differences, Groups(np.arange(400))) == pytest.approx(
        stats.paired_p(twins, Groups(np.tile(np.arange(400), 2))), abs=0.01
    )


def test_over_trainings_without_noise_of_pictures_is_the_t_interval():
    per_seed = np.repeat(np.array([1.0, 2.0, 4.0])[:, None], 30, 1)[..., None]  # S N 1
    ((low, high),) = stats.over_trainings(per_seed, Groups(np.arange(30)))
    half = 4.3027 * np.std([1, 2, 4], ddof=1) / math.sqrt(3)
    assert low == pytest.approx(7 / 3 - half, rel=0.1) and high == pytest.approx(7 / 3 + half, rel=0.1)
    assert np.isnan(stats.over_trainings(per_seed[:2], Groups(np.arange(30)))).all()


@pytest.mark.parametrize("between, within", [(1.0, 2.0), (0.1, 3.0)])
def test_over_trainings_covers_the_mean(between, within):
    """Trainings and groups of pictures are drawn anew; 95 % of the intervals hold the true mean, or more."""
    rng, groups, held = np.random.default_rng(0), Groups(np.repeat(np.arange(40), 2)), 0
    for _ in range(200):
        of_pictures = np.repeat(rng.normal(0, within, 40), 2)
        values = 1 + rng.normal(0, between, (5, 1)) + of_pictures + rng.normal(0, 0.5, (5, 80))
        ((low, high),) = stats.over_trainings(values[..., None], groups)
        held += low <= 1 <= high
    assert held >= 0.92 * 200


@pytest.mark.parametrize(
    "low, high, p, expected",
    [
        (1, 3, 0.01, "gain"),
        (-3, -1, 0.01, "loss"),
        (-0.9, 0.9, 1, "none"),
        (0.9, 3, 0.01, "undecided"),
        (1, 3, 0.05, "undecided"),
    ],
)
def test_the_rule_of_verdicts_knows_no_side(low, high, p, expected):
    assert stats.kind_of_difference(low, high, p) == expected
    mirrored = {"gain": "loss", "loss": "gain"}.get(expected, expected)
    assert stats.kind_of_difference(-high, -low, p) == mirrored
