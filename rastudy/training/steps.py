"""What one training step does in each mode, and at which learning rate."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import nn

from rastudy import registry
from rastudy.config import Config
from rastudy.data.loaders import Batch
from rastudy.models.classifiers import Classifier
from rastudy.models.detectors import Detector
from rastudy.models.precision import autocast
from rastudy.training.channels import Send, unchanged
from rastudy.training.losses import (
    clean_features,
    image_loss,
    perceptual_loss,
    recognition_loss,
    soft_targets,
    unsupervised_loss,
)


@dataclass
class Models:
    """What a step works on."""

    config: Config
    processor: nn.Module
    transformer: nn.Module | None
    sources: Sequence[Classifier | Detector]
    optimisers: Sequence[torch.optim.Optimizer] = field(default_factory=list)
    send: Send = unchanged  # what P's picture goes through before R reads it
    share: float = 1.0  # of the batch that this process has: losses are means over its part, and their gradients are summed

    def autocast(self) -> AbstractContextManager[None]:
        return autocast(next(self.processor.parameters()).device.type, self.config.precision == "bf16")


def plain_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss."""
    with models.autocast():
        loss = image_loss(models.processor(batch.lq), batch.gt)
    (models.share * loss).backward()
    return loss, torch.zeros(())


def ra_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss and R's cross-entropy; bitwise plain at weight 0."""
    with models.autocast():
        restored = models.processor(batch.lq)
        loss, sent = image_loss(restored, batch.gt), models.send(restored)
        recognition = recognition_loss(models.sources, sent, batch.label)
    (models.share * (loss + models.config.ra_weight * recognition)).backward()
    return loss, recognition


def ra_unsupervised_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss and to give R's softmax of the clean picture; needs no label."""
    return _imitation_step(models, batch, soft_targets, unsupervised_loss)


def perceptual_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss and to give R's features of the clean picture; needs no label."""
    return _imitation_step(models, batch, clean_features, perceptual_loss)


def _imitation_step(models: Models, batch: Batch, of_clean: Callable, distance: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss and to make R respond as it does to the clean picture."""
    targets = of_clean(models.sources, batch.gt)
    with models.autocast():
        restored = models.processor(batch.lq)
        loss, recognition = image_loss(restored, batch.gt), distance(models.sources, models.send(restored), targets)
    (models.share * (loss + models.config.ra_weight * recognition)).backward()
    return loss, recognition


def ra_transformer_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss alone (bitwise plain's P); T, on P's detached output, learns R's cross-entropy alone.

    Without an R, in T's pretraining, P is frozen and T learns to reproduce its pictures.
    """
    if not models.sources:
        with torch.no_grad(), models.autocast():
            restored = models.processor(batch.lq)
        with models.autocast():
            loss = image_loss(models.transformer(restored), restored)
        (models.share * loss).backward()
        return loss, torch.zeros(())
    with models.autocast():
        restored = models.processor(batch.lq)
        loss = image_loss(restored, batch.gt)
    (models.share * loss).backward()
    with models.autocast():
        sent = models.send(restored.detach())
        recognition = recognition_loss(models.sources, models.transformer(sent), batch.label)
    (models.share * models.config.ra_weight * recognition).backward()
    return loss, recognition


def step_of(mode: str) -> Callable[[Models, Batch], tuple[torch.Tensor, torch.Tensor]]:
    """A mode's training step: the image loss and the recognition loss of a batch, after the backward pass."""
    return registry.resolve(registry.MODES[mode].step)


def learning_rate(config: Config, step: int, steps: int) -> float:
    """The learning rate of a step.

    ``step`` is the paper's schedule scaled to any number of epochs: 1 for the first 4/6, 0.1 for 1/6, 0.01 for 1/6
    (6 epochs: 4/1/1; 30: 20/5/5). ``onecycle`` rises over the first 15 % and falls to 0 along a cosine; ``through`` is the
    part of such a cycle that a phase has, from the pretraining's first step to the last.
    """
    if config.schedule == "step":
        sixth = step * config.epochs // steps * 6 // config.epochs
        return config.lr * {4: 0.1, 5: 0.01}.get(sixth, 1.0)
    if config.schedule == "through":
        epoch = steps // config.epochs
        step, steps = step + epoch * config.pretrain_epochs, epoch * (config.cycle or config.pretrain_epochs + config.epochs)
    return config.lr * _cycle(step, steps)


def learning_rates(config: Config, step: int, steps: int) -> tuple[float, float]:
    """P's learning rate of a step, and T's: the same, or that of a cycle of its own."""
    own = learning_rate(config, step, steps)
    return own, config.transformer_lr * _cycle(step, steps) if config.transformer_lr else own


def _cycle(step: int, steps: int) -> float:
    """A share of the highest rate: it rises over the first 15 % and falls to 0 along a cosine."""
    rise = 0.15 * steps
    return (step + 1) / (rise + 1) if step < rise else (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2
