"""The losses against formulas written out by hand; what gets a gradient and what does not."""

import pytest
import torch
from torch import nn

from rastudy.models.classifiers import Classifier, load_classifier
from rastudy.training.losses import (
    clean_features,
    image_loss,
    perceptual_loss,
    recognition_loss,
    soft_targets,
    unsupervised_loss,
)

N, K = 5, 10


def linear_r(classes: int = K, seed: int = 0) -> Classifier:
    """A linear R: logits are a matrix times the mean colour."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))
    return Classifier(f"linear{seed}", net, "random", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def logits(source: Classifier, pictures: torch.Tensor) -> torch.Tensor:
    """What ``linear_r`` computes, written out."""
    colour = (pictures.mean((2, 3)) - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.2, 0.3, 0.4])
    return colour @ source.net[2].weight.T + source.net[2].bias


def softmax(x: torch.Tensor) -> torch.Tensor:
    return x.exp() / x.exp().sum(1, keepdim=True)


@pytest.fixture
def pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``restored`` with a gradient, ``gt`` and ``label``."""
    generator = torch.Generator().manual_seed(0)
    restored, gt = torch.rand((2, N, 3, 8, 8), generator=generator)
    return restored.requires_grad_(), gt, torch.tensor([3, 1, 4, 1, 5])


def test_perceptual_loss_by_hand(pictures):
    """Relative squared distance of the features, a mean over pictures, then over R's; no gradient from the clean side."""
    restored, gt, _ = pictures
    nets = [
        nn.Sequential(nn.Conv2d(3, k, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(k, 4)) for k in (4, 6)
    ]
    sources = [Classifier(f"conv{k}", net, "random", (0.0,) * 3, (1.0,) * 3) for k, net in enumerate(nets)]
    targets = clean_features(sources, gt)
    assert not any(target.requires_grad for target in targets)
    expected = []
    for net in nets:
        for x, y in zip(restored, gt, strict=True):
            a, b = (net[:2](z[None]).detach() for z in (x, y))
            expected.append(((a - b) ** 2).sum() / (b**2).sum())
    loss = perceptual_loss(sources, restored, targets)
    assert loss.item() == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)
    loss.backward()
    assert restored.grad.abs().sum() > 0
    assert perceptual_loss(sources, gt, targets) == 0


def test_image_loss_by_hand(pictures):
    """The mean of squared differences over pictures, channels and pixels."""
    restored, gt, _ = pictures
    expected = ((restored - gt) ** 2).sum() / (N * 3 * 8 * 8)
    torch.testing.assert_close(image_loss(restored, gt), expected)


def test_recognition_loss_by_hand(pictures):
    """Minus the log of the softmax at the label, mean over pictures."""
    restored, _, label = pictures
    source = linear_r()
    expected = -softmax(logits(source, restored))[torch.arange(N), label].log().mean()
    torch.testing.assert_close(recognition_loss([source], restored, label), expected)


def test_unsupervised_loss_by_hand(pictures):
    """Squared distance of the softmax on restored and clean pictures, over pictures and classes."""
    restored, gt, _ = pictures
    source = linear_r()
    expected = ((softmax(logits(source, restored)) - softmax(logits(source, gt))) ** 2).sum() / (N * K)
    torch.testing.assert_close(unsupervised_loss([source], restored, soft_targets([source], gt)), expected)


def test_unsupervised_loss_is_a_mean_over_classes():
    """A weight of 10 at K = 1,000 weighs the same summed distance as 0.1 does at K = 10."""

    def fixed(classes: int) -> tuple[Classifier, torch.Tensor]:
        """An R whose first two classes share everything, and a target that lies elsewhere."""
        source = linear_r(classes)
        nn.init.zeros_(source.net[2].weight)
        source.net[2].bias.copy_(torch.full((classes,), -1e4).index_fill(0, torch.tensor([0, 1]), 0.0))
        return source, torch.zeros(1, N, classes).index_fill(2, torch.tensor([2]), 1.0)

    restored, weighted = torch.rand(N, 3, 8, 8), []
    for classes, weight in ((1000, 10.0), (10, 0.1)):
        source, target = fixed(classes)
        weighted.append(weight * unsupervised_loss([source], restored, target))
    torch.testing.assert_close(weighted[0], weighted[1])
    torch.testing.assert_close(weighted[1], torch.tensor(0.1 * (0.5**2 + 0.5**2 + 1) / 10))


def test_several_sources_share_the_loss(pictures):
    """Each mean counts the same, and so do their gradients."""
    restored, gt, label = pictures
    sources = [linear_r(seed=seed) for seed in range(3)]
    losses = {
        "supervised": lambda rs: recognition_loss(rs, restored, label),
        "unsupervised": lambda rs: unsupervised_loss(rs, restored, soft_targets(rs, gt)),
    }
    for name, loss in losses.items():
        alone = [loss([source]) for source in sources]
        assert len({value.item() for value in alone}) == 3, name
        torch.testing.assert_close(loss(sources), sum(alone) / 3)
        (together,) = torch.autograd.grad(loss(sources), restored)
        apart = [torch.autograd.grad(value, restored)[0] for value in alone]
        torch.testing.assert_close(together, sum(apart) / 3)


def test_targets_must_match_the_sources(pictures):
    """A target for every source R, or an error."""
    restored, gt, _ = pictures
    sources = [linear_r(seed=seed) for seed in range(2)]
    with pytest.raises(ValueError):
        unsupervised_loss(sources, restored, soft_targets(sources[:1], gt))


def test_gradients_reach_the_picture_alone(pictures):
    """The restored picture gets one; R's parameters, the clean picture and the soft targets none."""
    restored, gt, label = pictures
    gt.requires_grad_()
    source = load_classifier("resnet18_small", "digits")
    targets = soft_targets([source], gt)
    assert not targets.requires_grad
    torch.testing.assert_close(targets.sum(2), torch.ones(1, N))
    total = recognition_loss([source], restored, label) + unsupervised_loss([source], restored, targets)
    total.backward()
    assert restored.grad.abs().sum() > 0 and gt.grad is None
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in source.parameters())


def test_losses_are_float32_under_autocast(pictures):
    """A half-precision picture gives a loss in full precision."""
    restored, gt, label = pictures
    source = linear_r()
    with torch.autocast("cpu", torch.bfloat16):
        half = restored.bfloat16()
        values = (
            image_loss(half, gt), recognition_loss([source], half, label),
            unsupervised_loss([source], half, soft_targets([source], gt)),
        )  # fmt: skip
    assert all(value.dtype == torch.float32 and value.isfinite() for value in values)
