"""Degradations: pure functions of one picture, its task, its strength and a seed.

Source: paper.md's protocol, i.e. the release's ``data_utils.py``. One function serves training, evaluation and figures.
"""

import io

import numpy as np
import torch
from PIL import Image

from rastudy.errors import StudyError, one_of
from rastudy.registry import TASKS, resolve


def degrade(gt: np.ndarray, task: str, strength: float, seed: int = 0) -> torch.Tensor:
    """Degrade one picture.

    Args:
        gt: (H, W, 3) uint8, H and W divisible by the factor for sr.
        task: ``sr`` (bicubic down, antialiased, 8 bit), ``dn`` (Gaussian noise, clamped), ``jpeg`` (PIL, 4:2:0) or ``blind``.
        strength: factor, sigma or quality; blind has none.
        seed: of dn's noise and blind's draws. Evaluation passes the picture's index, which gives the release's noise
            (``torch.manual_seed(index)``); training passes a fresh one per epoch and picture.

    Returns:
        lq: (3, h, w) in [0, 1]: uint8 / 255 as a file would hold it, clamped floats for dn.
    """
    one_of("task", task, TASKS)
    return resolve(TASKS[task].degrade)(gt, strength, seed)


def downsample(gt: np.ndarray, factor: float, _seed: int) -> torch.Tensor:
    image, factor = Image.fromarray(gt), int(factor)
    if image.width % factor or image.height % factor:
        raise StudyError(f"a {image.width} x {image.height} picture does not divide by the factor {factor}; crop it")
    small = (image.width // factor, image.height // factor)
    return to_tensor(np.asarray(image.resize(small, Image.Resampling.BICUBIC)))


def add_noise(gt: np.ndarray, sigma: float, seed: int) -> torch.Tensor:
    clean = to_tensor(gt)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return (clean + noise * sigma).clamp(0, 1)


def compress(gt: np.ndarray, quality: float, _seed: int) -> torch.Tensor:
    with io.BytesIO() as file:
        Image.fromarray(gt).save(file, "JPEG", quality=int(quality))
        return to_tensor(np.asarray(Image.open(file)))


def no_processing(lq: torch.Tensor, task: str, strength: float) -> torch.Tensor:
    """The baseline ``none``: for sr the bicubic upsampling of lq (8 bit, as the release has it), else lq itself.

    ``lq`` is (3, h, w) in [0, 1]; returns (3, H, W) in [0, 1].
    """
    if not TASKS[task].upscales:
        return lq
    image = Image.fromarray(to_uint8(lq))
    size = (image.width * int(strength), image.height * int(strength))
    return to_tensor(np.asarray(image.resize(size, Image.Resampling.BICUBIC)))


def round_to_8_bits(pictures: torch.Tensor) -> torch.Tensor:
    """The pictures as a file would hold them: clamped to [0, 1] and rounded to steps of 1/255; any shape."""
    return pictures.clamp(0, 1).mul(255).round().div(255)


def to_tensor(picture: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 to (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(picture.astype(np.float32) / 255).permute(2, 0, 1)


def to_uint8(picture: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] to (H, W, 3) uint8, rounded to nearest and clamped."""
    return picture.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
