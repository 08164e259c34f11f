"""Quality and recognition metrics against scikit-image, scikit-learn and direct computation."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import top_k_accuracy_score

from rastudy.data.degradations import to_tensor
from rastudy.evaluation import metrics


@pytest.fixture(scope="module")
def pair(photo) -> tuple[torch.Tensor, torch.Tensor]:
    """Five real pictures and noisy ones: (N, 3, H, W), H and W differ."""
    gt = torch.stack([to_tensor(photo[k : k + 40, k : k + 33]) for k in range(5)])
    noise = torch.randn(gt.shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.01, 0.05, 0.1, 0.2, 0.5]).view(5, 1, 1, 1)
    return (gt + sigma * noise).clamp(0, 1), gt


def channels_last(picture: torch.Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).double().numpy()


def test_psnr_is_scikit_images(pair):
    restored, gt = pair
    mse = metrics.mse_per_image(restored, gt)
    assert mse.shape == (5,) and mse.dtype == torch.float64
    expected = [
        peak_signal_noise_ratio(channels_last(y), channels_last(x), data_range=1) for x, y in zip(restored, gt, strict=True)
    ]
    assert metrics.psnr(mse.numpy()) == pytest.approx(expected, abs=1e-9)
    assert metrics.psnr(np.array([0.0, 0.01])).tolist() == [100.0, 20.0]


def test_ssim_is_scikit_images(pair):
    """Gaussian window of sigma 1.5, whole windows only, mean over channels."""
    restored, gt = pair
    expected = [
        structural_similarity(
            channels_last(y), channels_last(x), gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=1, channel_axis=2,
        )
        for x, y in zip(restored, gt, strict=True)
    ]  # fmt: skip
    assert metrics.ssim_per_image(restored, gt).numpy() == pytest.approx(expected, abs=1e-9)
    assert metrics.ssim_per_image(gt, gt).numpy() == pytest.approx(np.ones(5))


def test_the_releases_ssim_pads_with_zeros(pair):
    """A direct computation with a 2-D window over the zero-padded picture; it is not the standard figure."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2

    def blurred(image: np.ndarray) -> np.ndarray:
        return correlate(image, window, mode="constant", cval=0.0)

    expected = []
    for restored, gt in zip(*(batch.double().numpy() for batch in pair), strict=True):
        channels = []
        for x, y in zip(restored, gt, strict=True):
            mx, my = blurred(x), blurred(y)
            vx, vy, cov = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
            a, b = (2 * mx * my + 1e-4) * (2 * cov + 9e-4), (mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)
            channels.append((a / b).mean())
        expected.append(np.mean(channels))
    padded = metrics.ssim_per_image(*pair, zero_padded=True).numpy()
    assert padded == pytest.approx(expected, abs=1e-9)
    assert np.abs(padded - metrics.ssim_per_image(*pair).numpy()).max() > 1e-3


def test_metrics_do_not_depend_on_the_batch(pair):
    for metric in (metrics.mse_per_image, metrics.ssim_per_image):
        one_by_one = torch.cat([metric(x[None], y[None]) for x, y in zip(*pair, strict=True)])
        assert torch.allclose(metric(*pair), one_by_one, rtol=1e-12)


def test_the_releases_psnr_pools_groups_of_20():
    """47 pictures: groups of 20, 20 and 7, each weighted by its number; below the mean of per-image values."""
    mse = np.random.default_rng(0).uniform(1e-4, 1e-2, 47)
    groups = [mse[:20], mse[20:40], mse[40:]]
    expected = sum(len(group) * 10 * np.log10(1 / group.mean()) for group in groups) / 47
    assert metrics.psnr_release(mse) == pytest.approx(expected)
    assert metrics.psnr_release(mse) < metrics.psnr(mse).mean() - 0.5
    assert metrics.psnr_release(np.full(3, 0.1)) == pytest.approx(10)


def test_top_k_is_scikit_learns():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(200, 12)).astype(np.float32), rng.integers(0, 12, 200)
    top = metrics.top5(torch.from_numpy(logits)).numpy()
    assert top.shape == (200, 5) and (top[:, 0] == logits.argmax(1)).all()
    for k in range(1, 6):
        expected = top_k_accuracy_score(label, logits, k=k, labels=np.arange(12))
        assert metrics.hits(top, label, k).mean() == pytest.approx(expected)
    several = metrics.hits(np.stack([top, top[:, ::-1]]), label, 1)  # R N
    assert several.shape == (2, 200) and (several[1] == (top[:, 4] == label)).all()


def test_fewer_than_five_classes():
    logits = torch.tensor([[0.1, 0.9, 0.5], [2.0, 1.0, 3.0]])
    assert metrics.top5(logits).tolist() == [[1, 2, 0], [2, 0, 1]]
    assert metrics.hits(metrics.top5(logits).numpy(), np.array([0, 1]), 5).all()
