"""Distances from a picture to a recogniser's decision boundaries along given directions, and label maps on planes.

Source: paper.md's definitions. MD_d(f, x) = min{e > 0 : argmax f(x + e d) != argmax f(x)} (Tramer et al. 2017). For pictures
that are misclassified we take the distance to *entering* the true class instead: that is where RA gains. Distances are pixel
RMS on the scale from 0 to 1. Pixels are not clipped to [0, 1]; the share of pixels outside is reported.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from rastudy.errors import StudyError

REACH = 4.0  # RA steps: how far the scan goes
STEPS = 16  # of the scan
TOLERANCE = 1 / 128  # RA steps: bisection stops at this width
BUDGET = 16 * 2**20  # bytes of pictures per forward pass; a network's activations take many times as much
PLACE = 32  # bytes per point of a plane's grid: coordinates, label, margin
BATCH = 128  # pictures per forward pass at most: more do not fit a core's cache and take longer

Logits = Callable[[torch.Tensor], torch.Tensor]  # a recogniser: pictures (N, 3, H, W) to logits (N, C)


class Distances(NamedTuple):
    """Distances of D directions and N pictures.

    ``value`` (D, N): RMS of the step to the first change; ``inf`` where the scan found none (censored). ``outside`` (D, N):
    share of pixels outside [0, 1] there, or at the end of the scan. ``right`` (N,): is the start classified correctly?
    """

    value: np.ndarray
    outside: np.ndarray
    right: np.ndarray


def rms(step: torch.Tensor) -> torch.Tensor:
    """(..., 3, H, W) to (...,): root mean square over a picture."""
    return step.double().square().mean((-3, -2, -1)).sqrt()


def unit(step: torch.Tensor, name: str) -> torch.Tensor:
    """The steps (N, 3, H, W) scaled to an RMS of 1; StudyError where one is zero and has no direction."""
    size = rms(step)
    if not (size > 0).all():
        places = torch.nonzero(size <= 0).flatten().tolist()
        raise StudyError(
            f"direction {name} is zero for {len(places)} of {len(size)} pictures (the first: {places[0]}): both pictures are "
            "equal, as those of plain and of RA at weight 0 are; take another run"
        )
    return (step.double() / size[:, None, None, None]).to(step.dtype)


def random_like(step: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """White noise of the same shape."""
    return torch.randn(step.shape, generator=generator, dtype=step.dtype)


def with_spectrum_of(step: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Noise with the amplitudes of the steps (N, 3, H, W) at each frequency and in each channel, and random phases."""
    phases = torch.fft.rfft2(random_like(step, generator))
    amplitude = torch.fft.rfft2(step).abs()
    return torch.fft.irfft2(amplitude * phases / phases.abs().clamp_min(1e-12), s=step.shape[-2:])


def first_change(
    changed: Callable[[np.ndarray, np.ndarray], np.ndarray], grid: np.ndarray, tolerance: np.ndarray
) -> np.ndarray:
    """The first distance at which something has changed, found on a grid and bisected.

    Args:
        changed: takes indices (M,) and distances (M,), gives bool (M,).
        grid: (K, n) increasing distances for each of the n.
        tolerance: (n,) width at which bisection stops.

    Returns:
        (n,) the upper end of the last interval; ``inf`` where nothing had changed up to the end of the grid. A change that is
        reversed before the next point of the grid is missed.
    """
    n = grid.shape[1]
    low, high, waiting = np.zeros(n), np.full(n, np.inf), np.arange(n)
    for distances in grid:
        if not len(waiting):
            break
        hit = changed(waiting, distances[waiting])
        high[waiting[hit]], low[waiting[~hit]] = distances[waiting[hit]], distances[waiting[~hit]]
        waiting = waiting[~hit]
    while len(wide := np.flatnonzero(np.isfinite(high) & (high - low > tolerance))):
        middle = (low[wide] + high[wide]) / 2
        hit = changed(wide, middle)
        high[wide[hit]], low[wide[~hit]] = middle[hit], middle[~hit]
    return high


@torch.inference_mode()
def distances(
    reader: Logits, start: torch.Tensor, directions: torch.Tensor, step: np.ndarray, label: np.ndarray,
    uphill: Sequence[int] = (), budget: int = BUDGET,
) -> Distances:  # fmt: skip
    """Distances from ``start`` (N, 3, H, W) to the first change of a recogniser's prediction, along unit directions.

    Where ``label`` (N,) is predicted at the start: to the first other prediction (leaving the class). Elsewhere: to the first
    point where it is predicted (entering the class).

    Args:
        directions: (D, N, 3, H, W) of RMS 1.
        step: (N,) RMS of the RA step; the scan goes to ``REACH`` times it.
        uphill: indices of directions that correctly classified pictures follow backwards: a loss falls towards the true class,
            and these pictures leave it uphill.
        budget: bytes of pictures per forward pass; no result depends on it.
    """
    many, n = directions.shape[:2]
    part = _pictures_per_pass(start[0], budget)
    line, picture = np.repeat(np.arange(many), n), np.tile(np.arange(n), many)

    def moved(line: np.ndarray, picture: np.ndarray, distance: np.ndarray) -> Iterator[torch.Tensor]:
        for k in range(0, len(picture), part):
            d, p, e = (array[k : k + part] for array in (line, picture, distance))
            yield directions[d, p] * torch.from_numpy(e).float().view(-1, 1, 1, 1) + start[p]

    def predictions(*where: np.ndarray) -> np.ndarray:
        return np.concatenate([_read(reader, pictures).argmax(1).numpy() for pictures in moved(*where)])

    right = predictions(np.zeros(n, int), np.arange(n), np.zeros(n)) == label
    sign = np.where(np.isin(line, uphill) & right[picture], -1.0, 1.0)

    def changed(index: np.ndarray, distance: np.ndarray) -> np.ndarray:
        of = picture[index]
        return (predictions(line[index], of, sign[index] * distance) == label[of]) != right[of]

    step = np.asarray(step, np.float64)[picture]
    reach = REACH * step
    value = first_change(changed, np.linspace(0, 1, STEPS + 1)[1:, None] * reach, TOLERANCE * step)
    ends = moved(line, picture, sign * np.where(np.isfinite(value), value, reach))
    outside = np.concatenate([((end - 0.5).abs() > 0.5).float().mean((1, 2, 3)).numpy() for end in ends])
    return Distances(value.reshape(many, n), outside.reshape(many, n), right)


def _read(reader: Logits, pictures: torch.Tensor) -> torch.Tensor:
    """Logits (N, C); StudyError where C is 1: such a recogniser has no boundary."""
    logits = reader(pictures.contiguous(memory_format=torch.channels_last))
    if logits.shape[1] < 2:
        raise StudyError("a recogniser of one class has no decision boundary; take one of two classes or more")
    return logits


def _pictures_per_pass(picture: torch.Tensor, budget: int) -> int:
    """How many pictures fit the budget; StudyError where not even one does."""
    size = picture.numel() * 4
    if size > budget:
        raise StudyError(f"a picture of {size} bytes exceeds the budget of {budget} bytes; give at least {size}")
    return min(BATCH, budget // size)


def plane(first: torch.Tensor, second: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two orthonormal directions (RMS 1) that span the plane of two steps (3, H, W); StudyError where these are parallel."""
    one = unit(first[None], name)[0].double()
    rest = second.double() - (second.double() * one).mean() * one
    if rms(rest) <= 1e-6 * rms(second) or not rms(second) > 0:
        raise StudyError(f"the plane of {name} is a line: both directions are parallel; take another second one")
    return one.to(first.dtype), (rest / rms(rest)).to(first.dtype)


@torch.inference_mode()
def label_map(
    reader: Logits, origin: torch.Tensor, axes: tuple[torch.Tensor, torch.Tensor], extent: tuple[float, float, float, float],
    size: int, budget: int = BUDGET,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """A recogniser's predictions and their margins on a grid of a plane.

    Args:
        origin: (3, H, W).
        axes: two directions from :func:`plane`.
        extent: lowest and highest coordinate along each axis.
        size: points along either axis.

    Returns:
        labels (size, size) int64, rows along the second axis from the lowest up; margin (size, size): the softmax of the first
        class minus that of the second.
    """
    if PLACE * size**2 > budget:
        fits = math.isqrt(budget // PLACE)
        raise StudyError(f"a grid of {size} x {size} exceeds the budget of {budget} bytes; {fits} x {fits} fits")
    x, y = (torch.linspace(low, high, size) for low, high in (extent[:2], extent[2:]))
    labels, margins = [], []
    for part in torch.cartesian_prod(y, x).split(_pictures_per_pass(origin, budget)):
        pictures = origin + part[:, 1, None, None, None] * axes[0] + part[:, 0, None, None, None] * axes[1]
        best = _read(reader, pictures).softmax(1).topk(2)
        labels.append(best.indices[:, 0])
        margins.append(best.values[:, 0] - best.values[:, 1])
    return torch.cat(labels).view(size, size).numpy(), torch.cat(margins).view(size, size).numpy()


def confusion(one: np.ndarray, other: np.ndarray, classes: int) -> np.ndarray:
    """How often one predicts i where the other predicts j, (classes, classes) int64."""
    pairs = one.astype(np.int64).ravel() * classes + other.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def agreement_and_kappa(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of confusions (..., C, C): the share of equal labels, Cohen's kappa, and the share expected by chance.

    Kappa is undefined (nan) where both predict a single class.
    """
    counts = counts / counts.sum((-2, -1), keepdims=True)
    same = np.trace(counts, axis1=-2, axis2=-1)
    chance = (counts.sum(-1) * counts.sum(-2)).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return same, np.where(chance < 1 - 1e-12, (same - chance) / (1 - chance), np.nan), chance
