"""Channels: what may happen to P's picture between P and R, differentiable, so that R's loss can reach P through it.

The setting ``upload`` names them; one is drawn for each step, and one value of it, by the run's seed and the step alone. What a
recogniser really gets after an upload, by PIL, is :mod:`rastudy.transfer.upload`.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from rastudy import registry
from rastudy.config import Config
from rastudy.errors import StudyError

Send = Callable[[torch.Tensor], torch.Tensor]  # pictures (N, 3, H, W) in [0, 1] to the same


def unchanged(pictures: torch.Tensor) -> torch.Tensor:
    return pictures


def check(config: Config) -> None:
    """Try each channel of a run; StudyError where one lacks its library."""
    for name, (low, _) in registry.channels_of(config.upload).items():
        registry.resolve(registry.CHANNELS[name].send)(torch.zeros(1, 3, 16, 16), low)


# ASSUMPTION: An upload is drawn for each step. One channel and one value for the whole batch, which every process then shares.
def draw(config: Config, step: int) -> Send:
    """The channel of a training step, with its value; without ``upload`` R reads P's picture as it is."""
    channels = registry.channels_of(config.upload)
    if not channels:
        return unchanged
    rng = np.random.default_rng((config.seed, step))
    name = list(channels)[rng.integers(len(channels))]
    value, send = rng.uniform(*channels[name]), registry.resolve(registry.CHANNELS[name].send)
    return lambda pictures: to_8_bits(send(to_8_bits(pictures.float()), value))


def to_8_bits(pictures: torch.Tensor, _value: float = 0.0) -> torch.Tensor:
    """Clamped to [0, 1] and rounded to steps of 1/255; the gradient passes the rounding as if it were not there."""
    inside = pictures.clamp(0, 1)
    return inside + (inside.detach().mul(255).round().div(255) - inside.detach())


def compress(pictures: torch.Tensor, quality: float) -> torch.Tensor:
    """JPEG of a quality from 1 to 100 with halved chroma, by kornia; its rounding is a polynomial with a gradient."""
    try:
        from kornia.enhance import jpeg_codec_differentiable
    except ImportError as error:
        raise StudyError("upload='jpeg' needs kornia; pip install -e '.[transfer]'") from error
    return jpeg_codec_differentiable(pictures, torch.tensor([quality], device=pictures.device))


def resize(pictures: torch.Tensor, share: float) -> torch.Tensor:
    """Bicubic to a share of the side and back, as PIL does it, with 8 bits in between."""
    height, width = pictures.shape[2:]
    there = (max(1, round(share * height)), max(1, round(share * width)))
    small = F.interpolate(pictures, there, mode="bicubic", antialias=True)
    return F.interpolate(to_8_bits(small), (height, width), mode="bicubic", antialias=True)
