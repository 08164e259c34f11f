"""Where a recogniser changes its mind: distances to its decision boundaries along directions, and label maps on planes.

Source: paper.md's definitions. MD_d(f, x) = min{e > 0 : argmax f(x + e d) != argmax f(x)} (Tramer et al. 2017); of pictures
that R misreads we take the distance to *entering* the true class instead: that is where RA gains. Distances are pixel RMS on
the scale from 0 to 1. Nothing is clipped: a boundary lies where it lies, and how much of a picture left [0, 1] is reported.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from rastudy.errors import StudyError

REACH = 4.0  # times the RA step: how far the scan goes
STEPS = 16  # of the scan
TOLERANCE = 1 / 128  # of the RA step: bisection stops there
BUDGET = 256 * 2**20  # bytes of pictures that are read at a time


class Distances(NamedTuple):
    """``value`` (D, N): RMS of the step to the first change along each direction, ``inf`` where the scan found none (censored);
    ``reach`` (N,): how far the scan went; ``outside`` (D, N): share of pixels out of [0, 1] there."""

    value: np.ndarray
    reach: np.ndarray
    outside: np.ndarray


def rms(step: torch.Tensor) -> torch.Tensor:
    """(..., 3, H, W) to (...,) root mean squares over a picture."""
    return step.double().square().mean((-3, -2, -1)).sqrt()


def unit(step: torch.Tensor, name: str) -> torch.Tensor:
    """The steps (N, 3, H, W) scaled to an RMS of 1; StudyError where one is zero, for it points nowhere."""
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
    """Noise whose amplitude at each frequency and in each channel is that of the steps (N, 3, H, W); its phases are random."""
    phases = torch.fft.rfft2(random_like(step, generator))
    amplitude = torch.fft.rfft2(step).abs()
    return torch.fft.irfft2(amplitude * phases / phases.abs().clamp_min(1e-12), s=step.shape[-2:])


def first_change(
    changed: Callable[[np.ndarray, np.ndarray], np.ndarray], grid: np.ndarray, tolerance: np.ndarray
) -> np.ndarray:
    """The first distance at which something has changed, found on a grid and bisected.

    Args:
        changed: takes places (M,) and distances (M,), gives bool (M,).
        grid: (K, n) increasing distances for each of the n.
        tolerance: (n,) width at which bisection stops.

    Returns:
        (n,) the upper end of the last interval; ``inf`` where nothing had changed up to the grid's end. A change and its
        reversal between two places of the grid are not seen.
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
    reader: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, directions: Sequence[torch.Tensor], step: np.ndarray,
    label: np.ndarray, budget: int = BUDGET,
) -> Distances:  # fmt: skip
    """Distances from ``start`` (N, 3, H, W) to the first change of ``reader``'s verdict, along unit directions.

    Where the reader names ``label`` (N,) at the start: to the first other verdict (leaving the class). Else: to the first place
    where it names the label (entering it).

    Args:
        directions: D tensors (N, 3, H, W) of RMS 1.
        step: (N,) RMS of the RA step; the scan goes to ``REACH`` times it.
        budget: bytes of pictures that are read at a time; no figure depends on it.
    """
    n, many = len(start), len(directions)
    size = start[0].numel() * 4
    if size > budget:
        raise StudyError(f"a picture of {size} bytes exceeds the budget of {budget} bytes; give at least {size}")
    part = max(1, budget // size)

    def verdicts(place: np.ndarray, distance: np.ndarray) -> np.ndarray:
        found = []
        for k in range(0, len(place), part):
            rows = place[k : k + part]
            at = torch.from_numpy(distance[k : k + part]).float().view(-1, 1, 1, 1)
            moved = torch.stack([directions[p // n][p % n] for p in rows]) * at + start[rows % n]
            found.append(reader(moved.contiguous(memory_format=torch.channels_last)).argmax(1).numpy())
        return np.concatenate(found)

    picture = np.tile(np.arange(n), many)
    right = verdicts(np.arange(n), np.zeros(n)) == label

    def changed(place: np.ndarray, distance: np.ndarray) -> np.ndarray:
        of = picture[place]
        return (verdicts(place, distance) == label[of]) != right[of]

    reach = REACH * np.asarray(step, np.float64)
    grid = np.linspace(0, 1, STEPS + 1)[1:, None] * reach[None, picture]
    value = first_change(changed, grid, TOLERANCE * np.asarray(step, np.float64)[picture]).reshape(many, n)
    end = np.where(np.isfinite(value), value, reach)
    outside = [
        [float(((start[k] + float(end[d, k]) * directions[d][k] - 0.5).abs() > 0.5).float().mean()) for k in range(n)]
        for d in range(many)
    ]
    return Distances(value, reach, np.array(outside))


def median(value: np.ndarray) -> float:
    """The median of distances of which some are censored (``inf``): itself ``inf`` where half of them or more are."""
    return float(np.quantile(value, 0.5, method="higher")) if len(value) else float("nan")


def plane(first: torch.Tensor, second: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two orthonormal directions (RMS 1) that span the plane of two steps (3, H, W); StudyError where they span none."""
    one = unit(first[None], name)[0].double()
    rest = second.double() - (second.double() * one).mean() * one
    if rms(rest) <= 1e-6 * rms(second) or not rms(second) > 0:
        raise StudyError(f"the plane of {name} is a line: both directions are parallel; take another second one")
    return one.to(first.dtype), (rest / rms(rest)).to(first.dtype)


@torch.inference_mode()
def label_map(
    reader: Callable[[torch.Tensor], torch.Tensor], origin: torch.Tensor, axes: tuple[torch.Tensor, torch.Tensor],
    extent: tuple[float, float, float, float], size: int, budget: int = BUDGET,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The reader's verdict and its margin on a grid of a plane.

    Args:
        origin: (3, H, W); ``axes``: two directions from :func:`plane`; ``extent``: lowest and highest coordinate along each.
        size: places along either axis.

    Returns:
        labels (size, size) int64, rows along the second axis from the lowest up; margin (size, size): the softmax of the first
        class minus that of the second.
    """
    memory = origin.numel() * 4
    if memory > budget:
        raise StudyError(f"a picture of {memory} bytes exceeds the budget of {budget} bytes; give at least {memory}")
    x, y = (torch.linspace(low, high, size) for low, high in (extent[:2], extent[2:]))
    places = torch.cartesian_prod(y, x)
    labels, margins = [], []
    for part in places.split(max(1, budget // memory)):
        pictures = origin + part[:, 1, None, None, None] * axes[0] + part[:, 0, None, None, None] * axes[1]
        best = reader(pictures.contiguous(memory_format=torch.channels_last)).softmax(1).topk(2)
        labels.append(best.indices[:, 0])
        margins.append(best.values[:, 0] - best.values[:, 1])
    return torch.cat(labels).view(size, size).numpy(), torch.cat(margins).view(size, size).numpy()


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Share of equal labels, 0..1."""
    return float((one == other).mean())
