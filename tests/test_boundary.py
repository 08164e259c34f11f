"""Decision boundaries where algebra knows them: linear and piecewise linear readers, planes, and what cannot be."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score

from rastudy.boundaries import distances as boundary
from rastudy.boundaries.distances import REACH, TOLERANCE, distances, first_change, label_map, plane, rms, unit
from rastudy.errors import StudyError

SHAPE = (3, 4, 4)


def linear(weights: torch.Tensor, bias: torch.Tensor):
    return lambda pictures: pictures.flatten(1) @ weights.T + bias


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(7, *SHAPE, generator=generator)
    directions = torch.stack([unit(torch.randn(7, *SHAPE, generator=generator), "random") for _ in range(3)])
    return start, directions, np.full(7, 0.3)


def test_a_linear_reader(case):
    """Two classes: the distance is -(w x + b) / (w d), where that is positive and within reach; leaving and entering alike."""
    start, directions, step = case
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(48, generator=generator)
    b = -(start.flatten(1) @ w).mean()
    reader = linear(torch.stack([torch.zeros(48), w]), torch.tensor([0.0, float(b)]))
    score = (start.flatten(1) @ w + b).numpy()
    for label in (np.zeros(7, int), np.ones(7, int)):
        found = distances(reader, start, directions, step, label)
        for d, direction in enumerate(directions):
            exact = -score / (direction.flatten(1) @ w).numpy()
            reached = (exact > 0) & (exact < REACH * step)
            assert (np.isfinite(found.value[d]) == reached).all() and reached.any()
            error = found.value[d][reached] - exact[reached]
            assert (error >= -1e-5).all() and (error <= TOLERANCE * step[reached] + 1e-5).all()


def test_a_piecewise_linear_reader():
    """Along one direction the class is 0, 1, 0, 2: leaving 0 is at the first change; entering 2 passes the others."""
    direction, start = torch.ones(1, *SHAPE), torch.zeros(1, *SHAPE)

    def reader(pictures: torch.Tensor) -> torch.Tensor:
        t = pictures.mean((1, 2, 3))
        label = torch.where(t < 0.2, 0, torch.where(t < 0.35, 1, torch.where(t < 0.6, 0, 2)))
        return torch.nn.functional.one_hot(label, 3).float()

    step = np.array([0.25])
    left, entered = (distances(reader, start, direction[None], step, np.array([k])).value.item() for k in (0, 2))
    assert 0.2 <= left <= 0.2 + TOLERANCE * 0.25 + 1e-6 and 0.6 <= entered <= 0.6 + TOLERANCE * 0.25 + 1e-6
    assert distances(reader, start, direction[None], np.array([0.1]), np.array([2])).value.item() == np.inf


def test_no_figure_depends_on_the_budget(case):
    """Nor on what else is scanned beside it."""
    start, directions, step = case
    generator = torch.Generator().manual_seed(2)
    reader = linear(torch.randn(5, 48, generator=generator), torch.randn(5, generator=generator))
    label = np.arange(7) % 5
    whole = distances(reader, start, directions, step, label)
    small = distances(reader, start, directions, step, label, budget=3 * 192)
    alone = distances(reader, start, directions[1:2], step, label)
    assert np.allclose(whole.value, small.value, atol=1e-6) and np.allclose(whole.value[1], alone.value[0], atol=1e-6)
    assert np.isfinite(whole.value).any() and not np.isfinite(whole.value).all()


def test_pictures_may_leave_the_range():
    """Nothing is clipped: the boundary lies beyond white, and the share of pixels out there is told."""
    start = torch.full((1, *SHAPE), 0.9)
    reader = lambda p: torch.stack([1.2 - p.mean((1, 2, 3)), torch.zeros(len(p))], 1)  # noqa: E731
    found = distances(reader, start, torch.ones(1, 1, *SHAPE), np.array([0.2]), np.array([0]))
    assert 0.3 <= found.value.item() <= 0.3 + 0.2 * TOLERANCE + 1e-6 and found.outside.item() == 1


def test_bisection_reads_no_more_than_it_must():
    """A scan step for each place until it changes, then as many halvings as the tolerance needs."""
    calls = []

    def changed(place: np.ndarray, distance: np.ndarray) -> np.ndarray:
        calls.append(len(place))
        return distance >= np.array([0.1, 0.5, 9.0])[place]

    grid = np.linspace(0, 1, 11)[1:, None].repeat(3, 1)
    found = first_change(changed, grid, np.full(3, 0.101 / 8))
    assert found[2] == np.inf and np.allclose(found[:2], [0.1, 0.5], atol=0.1 / 8)
    assert calls == [3, 2, 2, 2, 2, 1, 1, 1, 1, 1, 2, 2, 2]


def test_directions():
    """RMS 1; the spectrum is that of the step, the phases are not."""
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(2, 3, 8, 8, generator=generator).cumsum(3)
    assert torch.allclose(rms(unit(step, "d")), torch.ones(2, dtype=torch.float64), atol=1e-6)
    noise = boundary.with_spectrum_of(step, generator)
    assert torch.allclose(torch.fft.rfft2(noise).abs(), torch.fft.rfft2(step).abs(), rtol=1e-2, atol=1e-2)
    assert not torch.allclose(noise, step, atol=0.5)
    with pytest.raises(StudyError, match=r"direction RA is zero for 1 of 2 pictures \(the first: 1\)"):
        unit(torch.stack([step[0], torch.zeros_like(step[0])]), "RA")


def test_planes():
    """Orthonormal; two parallel directions span none."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, *SHAPE, generator=generator)
    one, two = plane(first, second, "p")
    assert abs(float((one * two).mean())) < 1e-6 and float(rms(one)) == pytest.approx(1) == float(rms(two))
    for other in (-2 * first, torch.zeros(SHAPE)):
        with pytest.raises(StudyError, match="the plane of p is a line"):
            plane(first, other, "p")


def test_label_maps_of_a_linear_reader():
    """Half planes; the same for any budget; a reader agrees with itself."""
    axes = plane(torch.ones(SHAPE), torch.arange(48.0).view(SHAPE), "p")
    origin = torch.zeros(SHAPE)
    reader = lambda p: torch.stack([(p * axes[0]).mean((1, 2, 3)), (p * axes[1]).mean((1, 2, 3))], 1)  # noqa: E731
    labels, margin = label_map(reader, origin, axes, (-1, 1, -1, 1), 20)
    x = np.linspace(-1, 1, 20)
    exact = (x[:, None] > x[None, :]).astype(int)  # rows: the second axis
    off = ~np.eye(20, dtype=bool)
    assert (labels == exact)[off].all() and (margin[off] > 0).all() and margin.diagonal().max() < 1e-5
    again, _ = label_map(reader, origin, axes, (-1, 1, -1, 1), 20, budget=13_000)
    assert (labels == again).all()


def test_uphill(case):
    """A direction of descent is followed backwards by the pictures that are read rightly, and by those alone."""
    start, directions, step = case
    w = torch.randn(48, generator=torch.Generator().manual_seed(1))
    reader = linear(torch.stack([torch.zeros(48), w]), torch.tensor([0.0, -float((start.flatten(1) @ w).mean())]))
    label = np.zeros(7, int)
    plain, signed = (distances(reader, start, directions, step, label, uphill) for uphill in ((), (1,)))
    turned = distances(reader, start, -directions, step, label)
    assert plain.right.any() and not plain.right.all()
    expected = np.where(plain.right, turned.value[1], plain.value[1])
    assert np.allclose(signed.value[1], expected) and not np.allclose(signed.value[1], plain.value[1])
    assert np.allclose(signed.value[[0, 2]], plain.value[[0, 2]])


def test_kappa_is_the_librarys():
    """Cohen's kappa and the share of equal labels as scikit-learn has them; a reader agrees with itself, not with chance."""
    rng = np.random.default_rng(0)
    one = rng.integers(0, 4, 500)
    other = np.where(rng.random(500) < 0.5, one, rng.integers(0, 4, 500))
    same, kappa, chance = boundary.agreement_and_kappa(boundary.confusion(one, other, 4))
    assert same == pytest.approx(accuracy_score(one, other)) and kappa == pytest.approx(cohen_kappa_score(one, other))
    assert same == pytest.approx(chance + kappa * (1 - chance))
    (same, mixed), (itself, shuffled), _ = boundary.agreement_and_kappa(
        np.stack([boundary.confusion(one, one, 4), boundary.confusion(one, rng.permutation(one), 4)])
    )
    assert same == itself == 1 and abs(shuffled) < 0.1 and mixed < 0.4
    assert np.isnan(boundary.agreement_and_kappa(boundary.confusion(one * 0, one * 0, 4))[1])


def test_too_little_memory():
    """Refused with what is needed."""
    start = torch.zeros(1, *SHAPE)
    with pytest.raises(StudyError, match="give at least 192"):
        distances(lambda p: p, start, torch.ones(1, 1, *SHAPE), np.ones(1), np.zeros(1), budget=100)
    with pytest.raises(StudyError, match="give at least 192"):
        label_map(lambda p: p, start[0], plane(torch.ones(SHAPE), torch.rand(SHAPE), "p"), (0, 1, 0, 1), 1, budget=100)
    axes = plane(torch.ones(SHAPE), torch.rand(SHAPE), "p")
    with pytest.raises(StudyError, match="a grid of 2000 x 2000 exceeds the budget of 1000000 bytes; 176 x 176 fits"):
        label_map(lambda p: p, start[0], axes, (0, 1, 0, 1), 2000, budget=1_000_000)
    labels, _ = label_map(lambda p: p.mean((2, 3)), start[0], axes, (0, 1, 0, 1), 176, budget=1_000_000)
    assert labels.shape == (176, 176)


def test_what_has_no_boundary(case):
    """A recogniser of one class, and a step of length zero."""
    start, directions, step = case
    one_class = lambda p: p.mean((2, 3))[:, :1]  # noqa: E731
    with pytest.raises(StudyError, match="of one class has no decision boundary"):
        distances(one_class, start, directions, step, np.zeros(7, int))
    with pytest.raises(StudyError, match="of one class"):
        label_map(one_class, start[0], plane(torch.ones(SHAPE), torch.rand(SHAPE), "p"), (0, 1, 0, 1), 5)
    steps = torch.rand(3, *SHAPE)
    steps[1] = 0
    with pytest.raises(StudyError, match=r"direction ra:x is zero for 1 of 3 pictures \(the first: 1\).*take another run"):
        unit(steps, "ra:x")
