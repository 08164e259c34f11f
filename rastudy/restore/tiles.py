"""Run P on a picture of any size, tile by tile: the output of one pass over the whole, in the memory of a tile.

A tile is read with as many pixels around it as P's output can depend on, so there are no seams and nothing is blended.
"""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from rastudy.errors import StudyError
from rastudy.models.own_processors import OwnProcessor

# Side, in pixels of P's output, of what goes through P at once, including the surroundings. Speed on one core relative to one
# pass over the whole: for jpeg 1.5 (256), 1.8 (512, 640), 1.5 (768), 1.1 (1,024); for sr x4 0.6 (256), 1.1 (512), 1.2 (640,
# 768), 1.1 (1,024). Smaller tiles are mostly surroundings, larger ones do not fit the caches.
TILE = 640
WHOLE = 1 << 24  # pixels: a radius that no picture reaches
LUMINANCE = torch.tensor([0.299, 0.587, 0.114])  # ITU-R 601, as PIL's


class Geometry(NamedTuple):
    """``factor``: side of the output over that of the input; ``radius``: distance in input pixels at which an input pixel can
    still change an output pixel; ``multiple``: what P needs the input's sides to be a multiple of."""

    factor: int
    radius: int
    multiple: int


def geometry(processor: nn.Module) -> Geometry:
    """A P's geometry, added up over its layers, which every P of this study registers in the order in which they run.

    A P of the user's may see as far as it likes: it takes the picture whole.
    """
    if isinstance(processor, OwnProcessor):
        return Geometry(processor.factor, WHOLE, 1)
    step, radius, coarsest = Fraction(1), Fraction(0), Fraction(1)  # step: input pixels from one feature to the next
    for layer in processor.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            radius += step * (layer.kernel_size[0] // 2)
            step *= Fraction(1, layer.stride[0]) if isinstance(layer, nn.ConvTranspose2d) else layer.stride[0]
        elif isinstance(layer, nn.PixelShuffle):
            step /= layer.upscale_factor
        coarsest = max(coarsest, step)
    return Geometry(int(1 / step), math.ceil(radius), int(coarsest))


@torch.inference_mode()
def restore_pixels(
    processor: nn.Module, pixels: np.ndarray, tile: int = TILE, done: Callable[[int], object] = lambda n: None
) -> np.ndarray:
    """P's output for a picture.

    Args:
        processor: in eval mode.
        pixels: (H, W, 3), or (H, W) of a grey picture, which P sees as three equal channels and of whose output the luminance
            is kept; uint8 or uint16.
        tile: side of a tile, in pixels of the output.
        done: called after each tile with the number of input pixels that it restored.

    Returns:
        (factor H, factor W, ...) of the same type, rounded to nearest.

    Raises:
        StudyError: P is in training mode.
    """
    if processor.training:
        raise StudyError("P is in training mode, where batch norm depends on the tile; call its eval() first")
    factor, radius, multiple = geometry(processor)
    even = max(2, multiple)  # P's last convolution is fast where both sides are even
    radius = -(-radius // even) * even
    height, width = pixels.shape[:2]
    lq = _padded(pixels, multiple)
    restored = np.empty((factor * height, factor * width, *pixels.shape[2:]), pixels.dtype)
    for rows in _windows(lq.shape[0], tile // factor, radius, even):
        for columns in _windows(lq.shape[1], tile // factor, radius, even):
            inner = _restore_tile(processor, lq[rows.read, columns.read])[rows.keep(factor), columns.keep(factor)]
            place = restored[rows.put(factor), columns.put(factor)]
            place[...] = inner[: place.shape[0], : place.shape[1]]
            done(place.shape[0] * place.shape[1] // factor**2)
    return restored


def _restore_tile(processor: nn.Module, pixels: np.ndarray) -> np.ndarray:
    device, white = next(chain(processor.parameters(), [torch.empty(0)])).device, np.iinfo(pixels.dtype).max
    lq = torch.from_numpy(pixels.astype(np.float32) / white).to(device)
    grey = lq.ndim == 2
    lq = lq[..., None].repeat(1, 1, 3) if grey else lq
    restored = processor(lq.permute(2, 0, 1)[None])[0].permute(1, 2, 0)  # channels_last as it lies
    restored = restored @ LUMINANCE.to(device) if grey else restored
    return restored.clamp(0, 1).mul(white).round().cpu().numpy().astype(pixels.dtype)


def _padded(pixels: np.ndarray, multiple: int) -> np.ndarray:
    """The picture with its last row and column repeated until P takes its sides: ResnetGenerator needs multiples of 4, and
    at least 8 for its reflection padding."""
    wanted = [-(-max(side, 2 * multiple) // multiple) * multiple if multiple > 1 else side for side in pixels.shape[:2]]
    more = [(0, new - old) for new, old in zip(wanted, pixels.shape[:2], strict=True)]
    return np.pad(pixels, more + [(0, 0)] * (pixels.ndim - 2), "edge") if any(n for _, n in more) else pixels


class _Window(NamedTuple):
    """Along one side: P reads ``low`` to ``high``, and its output for ``start`` to ``stop`` is kept."""

    low: int
    high: int
    start: int
    stop: int

    @property
    def read(self) -> slice:
        return slice(self.low, self.high)

    def keep(self, factor: int) -> slice:
        return slice(factor * (self.start - self.low), factor * (self.stop - self.low))

    def put(self, factor: int) -> slice:
        return slice(factor * self.start, factor * self.stop)


def _windows(size: int, tile: int, radius: int, even: int) -> Iterator[_Window]:
    """Tiles of nearly equal length; at the picture's border they end where it does, and P pads as in one pass."""
    core = max(tile - 2 * radius, 2 * radius, even)
    n = 1 if size <= core + 2 * radius else -(-size // core)
    step = -(-size // (n * even)) * even
    for start in range(0, size, step):
        stop = min(start + step, size)
        low, high = max(0, start - radius), min(size, stop + radius)
        low -= (high - low) % 2 if low else 0
        yield _Window(low, high, start, stop)
