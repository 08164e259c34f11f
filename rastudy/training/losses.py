"""The losses of the four modes (source: paper.md, i.e. the release's ``train.py``) and of the control ``perceptual`` (ours).

All are means over the batch, and computed in float32 whatever the autocast precision.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from rastudy.models.classifiers import Classifier
from rastudy.models.detectors import Detector


def image_loss(restored: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """Mean squared error over (N, 3, H, W)."""
    return F.mse_loss(restored.float(), gt)


def recognition_loss(sources: Sequence[Classifier | Detector], restored: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """R's own loss on the restored pictures (a classifier's cross-entropy); the mean over the source R's."""
    # ASSUMPTION: Several sources share equally. The release trains with one R.
    losses = [source.loss(restored, label) for source in sources]
    return torch.stack(losses).mean()


def unsupervised_loss(sources: Sequence[Classifier], restored: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared distance of R's softmax on restored and on clean pictures; the mean over batch, classes and source R's.

    Args:
        targets: (S, N, K) softmax of each source R on the clean pictures, without gradient.

    The mean runs over K classes, so the paper's weight of 10 at K = 1,000 weighs a picture as 0.1 does at K = 10.
    """
    # ASSUMPTION: The unsupervised weight scales with 1/K. Presets with 10 classes search 0.01 to 0.1, not around 10.
    losses = [F.mse_loss(source(restored).float().softmax(1), target) for source, target in zip(sources, targets, strict=True)]
    return torch.stack(losses).mean()


def perceptual_loss(sources: Sequence[Classifier], restored: torch.Tensor, targets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Squared distance of R's features on restored and on clean pictures, relative to the latter's; the mean over source R's.

    The control for what R's verdict adds to R's features; ours, after the losses of Johnson et al. 2016.

    Args:
        targets: the features of each source R on the clean pictures (:meth:`Classifier.features`), without gradient.
    """
    losses = []
    for source, target in zip(sources, targets, strict=True):
        each = tuple(range(1, target.ndim))
        distance = (source.features(restored).float() - target).square().mean(each)
        losses.append((distance / target.square().mean(each)).mean())
    return torch.stack(losses).mean()


@torch.no_grad()
def clean_features(sources: Sequence[Classifier], gt: torch.Tensor) -> list[torch.Tensor]:
    """The features of each source R on clean pictures (N, 3, H, W)."""
    return [source.features(gt).float() for source in sources]


@torch.no_grad()
def soft_targets(sources: Sequence[Classifier], gt: torch.Tensor) -> torch.Tensor:
    """(S, N, K) softmax of each source R on clean pictures (N, 3, H, W)."""
    return torch.stack([source(gt).float().softmax(1) for source in sources])
