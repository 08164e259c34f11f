"""Per-image quality and recognition metrics, and the release's variants of them.

PSNR and SSIM are means of per-image values. The release takes PSNR from the mean error of a batch of 20 and pads SSIM's
window with zeros; both variants stand beside the standard figures under ``*_release``.
"""

from functools import lru_cache

import numpy as np
import torch

RELEASE_BATCH = 20
MOST_DB = 100.0  # of a picture's PSNR; 8 bits of a picture of 224 pixels allow 100 where one value is a level off


def mse_per_image(restored: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) twice to (N,) mean squared errors in float64."""
    return (restored.double() - gt.double()).square().mean((1, 2, 3))


def psnr(mse: np.ndarray) -> np.ndarray:
    """PSNR in dB for pictures on [0, 1], at most ``MOST_DB``."""
    # ASSUMPTION: A perfect picture has 100 dB. Its PSNR is infinite, and one flat picture would make every mean infinite.
    return -10 * np.log10(np.maximum(np.asarray(mse, np.float64), 10 ** (-MOST_DB / 10)))


def psnr_release(mse: np.ndarray) -> float:
    """The release's PSNR: of the mean error of every 20 pictures in index order, weighted by their number."""
    groups = [mse[k : k + RELEASE_BATCH] for k in range(0, len(mse), RELEASE_BATCH)]
    return float(sum(len(g) * psnr(g.mean()) for g in groups) / len(mse))


@lru_cache(maxsize=8)
def _window(size: int, zero_padded: bool) -> torch.Tensor:
    """SSIM's Gaussian window (11 taps, sigma 1.5) as a banded matrix that filters a row: (size, size or size - 10)."""
    taps = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    band = torch.zeros(size + 10, size, dtype=torch.float64)
    for k, tap in enumerate(taps / taps.sum()):
        band[k : k + size].diagonal().fill_(float(tap))
    return band[5:-5] if zero_padded else band[5:-5, 5:-5]


def ssim_per_image(restored: torch.Tensor, gt: torch.Tensor, zero_padded: bool = False) -> torch.Tensor:
    """SSIM of each picture, (N,) float64: Gaussian window of 11 pixels, mean over channels.

    Filtering is two products with banded matrices: in float64 several times as fast as a convolution.

    Args:
        zero_padded: the release's variant, which pads with zeros; the standard one keeps to full windows.
    """
    x, y = restored.double(), gt.double()
    rows, columns = (_window(size, zero_padded).to(x.device) for size in gt.shape[2:])
    mx, my, xx, yy, xy = rows.T @ torch.stack([x, y, x * x, y * y, x * y]) @ columns
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    structure = (2 * (xy - mx * my) + c2) / (xx - mx * mx + yy - my * my + c2)
    return (luminance * structure).mean((1, 2, 3))


def top5(logits: torch.Tensor) -> torch.Tensor:
    """(N, K) logits to the (N, min(5, K)) classes with the highest ones, best first."""
    return logits.topk(min(5, logits.shape[1]), dim=1).indices


def hits(top: np.ndarray, label: np.ndarray, k: int) -> np.ndarray:
    """Whether the label is among the first ``k`` of ``top`` (..., N, 5): bool (..., N)."""
    return (top[..., :k] == label[:, None]).any(-1)
