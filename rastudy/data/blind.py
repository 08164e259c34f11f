"""The task ``blind``: what a picture of unknown origin may have gone through, drawn by its own seed.

Resampling, noise and JPEG in the order in which a picture meets them, each combination of them equally often. The result has
the picture's own size and is 8-bit, as a file is.
"""

import numpy as np
import torch
from PIL import Image

from rastudy.data.degradations import add_noise, compress, to_tensor, to_uint8

# ASSUMPTION: Unknown strengths span what the single tasks have. Factors from 1 to 4 and qualities from 5 to 95 uniformly on a
# logarithmic scale, sigmas from 0 to 0.15 uniformly; each of the seven combinations equally often.
FACTORS, SIGMAS, QUALITIES = (1.0, 4.0), (0.0, 0.15), (5.0, 95.0)
COMBINATIONS = [(bool(k & 1), bool(k & 2), bool(k & 4)) for k in range(1, 8)]  # resampled, noisy, compressed


def degrade_blindly(gt: np.ndarray, _strength: float, seed: int) -> torch.Tensor:
    """(H, W, 3) uint8 to (3, H, W) in steps of 1/255: resampled, noisy, compressed, or several of these."""
    rng = np.random.default_rng(seed)
    resampled, noisy, compressed = COMBINATIONS[rng.integers(len(COMBINATIONS))]
    factor, quality = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (FACTORS, QUALITIES))
    sigma, picture = float(rng.uniform(*SIGMAS)), gt
    if resampled:
        picture = resample(picture, factor)
    if noisy:
        picture = to_uint8(add_noise(picture, sigma, seed))
    return compress(picture, round(quality), seed) if compressed else to_tensor(picture)


def resample(picture: np.ndarray, factor: float) -> np.ndarray:
    """Bicubic to 1/factor of the side and back; (H, W, 3) uint8."""
    image = Image.fromarray(picture)
    small = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    return np.asarray(image.resize(small, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC))
