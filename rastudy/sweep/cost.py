"""What runs will cost, before they start: operations counted, memory and disk added up, seconds from a few timed steps."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rastudy.config import Config
from rastudy.data.imagenet import find_photos, part_of
from rastudy.data.loaders import EVALUATION_BATCH, Batch
from rastudy.data.photo_cache import FilePhotos, expected_bytes
from rastudy.models.classifiers import without_weights
from rastudy.models.detectors import load_source
from rastudy.registry import half_of
from rastudy.training.run_store import build_models
from rastudy.training.steps import Models, step_of

TIMED_PIXELS = 200_000  # of a timed step; seconds and memory are proportional to pictures
WHOLE = {
    "digits": 8000,
    "cifar10": 49_000,
    "folder": 50_000,
    "scenes": 4000,
    "imagenet": 1_281_167,
}  # training pictures where a preset takes all
WHOLE_TEST = {"digits": 2500, "cifar10": 10_000, "folder": 10_000, "scenes": 500, "imagenet": 50_000}


@dataclass(frozen=True)
class Cost:
    """``operations`` (two for a multiplication and an addition), ``seconds`` on this machine by one process."""

    operations: float
    seconds: float
    activations: float = 0.0  # bytes that a picture's training step keeps for the backward pass

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.operations + other.operations, self.seconds + other.seconds, max(self.activations, other.activations))

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.operations * times, self.seconds * times, self.activations)


def cost_of_run(config: Config, splits: Iterable[str]) -> Cost:
    """Training (with the pretraining, where it is the run's own) and evaluation of one run."""
    total = Cost(0, 0)
    if not config.is_baseline:
        own = config.chain if config.mode in ("plain", "ra_transformer") else [config]  # others find their start trained
        for run in own:
            if run.mode != "plain" or config.mode == "plain":
                total += step(_essence(run)) * (run.epochs * _training_pictures(run))
    whole, half = half_of(config.dataset)
    sizes = {"val": config.val_images, "test": config.test_images or WHOLE_TEST[whole]}
    if splits:
        total += reading(_essence(config), config.target_archs) * sum(sizes[split] for split in splits)
    return total * 0.5 if half else total


def _training_pictures(config: Config) -> int:
    if config.train_images:
        return config.train_images
    if config.of_photographs and config.data_dir and Path(config.data_dir).expanduser().is_dir():
        folder, to_split = part_of(config.data_dir, "train")
        return len(find_photos(folder, labelled=False).files) - config.val_images - to_split * config.test_images
    return WHOLE[half_of(config.dataset)[0]] - (config.val_images if config.of_photographs else 0)


def _essence(config: Config) -> Config:
    """The run without what its cost does not depend on, so that equal steps are measured once."""
    changes = {"seed": 0, "ra_weight": 1.0, "labels": "correct", "target_archs": config.targets[0], "epochs": 1, "lr": 1.0}
    return replace(config, **changes, pretrain_epochs=0, pretrain_crop=0, data_dir="")


@cache
def step(config: Config) -> Cost:
    """A training step, per picture."""
    torch.set_num_threads(config.threads)
    processor, transformer = build_models(config)
    device = config.torch_device()
    models = Models(config, processor, transformer, [_classifier(name, config) for name in config.sources])
    batch = _batch(config, config.crop or config.image_size, config.batch_size, device)

    def once() -> None:
        step_of(config.mode)(models, batch)
        if device.type == "cuda":
            torch.cuda.synchronize()

    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        once()
    weights = sum(p.nbytes for net in (processor, transformer, *models.sources) if net is not None for p in net.parameters())
    with FlopCounterMode(display=False) as counter:
        once()
    seconds = min(_seconds(once) for _ in range(2))
    n = len(batch.index)
    return Cost(counter.get_total_flops() / n, seconds / n, max(0, sum(kept.values()) - weights) / n)


@cache
def reading(config: Config, target_archs: str) -> Cost:
    """P (and T) once and every target R twice, on P's picture in 8 bits and on its floats; per picture."""
    device = config.torch_device()
    batch = _batch(config, config.image_size, EVALUATION_BATCH, device)
    nets = [net.eval() for net in build_models(config) if net is not None] if not config.is_baseline else []
    targets = [_classifier(name.strip(), config) for name in target_archs.split(",")]

    def once() -> None:
        picture = batch.lq if nets else batch.gt
        for net in nets:
            picture = net(picture)
        for target in targets * (2 if nets else 1):
            target(picture)
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        once()
        with FlopCounterMode(display=False) as counter:
            once()
        seconds = _seconds(once)
    n = len(batch.index)
    return Cost(counter.get_total_flops() / n, seconds / n)


def _seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _batch(config: Config, side: int, most: int, device: torch.device) -> Batch:
    n = most if device.type == "cuda" else max(2, min(most, TIMED_PIXELS // side**2))
    gt = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))
    index = torch.arange(n)
    lq = nn.functional.avg_pool2d(gt, config.factor)
    return Batch(
        *(x.to(device, memory_format=torch.channels_last) for x in (lq, gt)), *(x.to(device) for x in (index % 2, index))
    )


@cache
def _classifier(name: str, config: Config) -> nn.Module:
    """The R; of torchvision's the architecture without weights, which costs the same and downloads nothing."""
    if name not in torchvision.models.list_models(module=torchvision.models):
        return load_source(name, config).to(config.torch_device())
    return without_weights(name).to(config.torch_device())


def memory_of(config: Config) -> float:
    """Bytes of a training step: activations of the batch, and weights, gradients and Adam's two moments of P and T."""
    own = sum(p.nbytes for net in build_models(config) if net is not None for p in net.parameters())
    return step(_essence(config)).activations * config.batch_size / config.processes + 4 * own


def disk_of(configs: Iterable[Config]) -> float:
    """Bytes that the runs leave: P, T, a checkpoint each while they run, predictions; and the cache of photographs."""
    total, caches = 0.0, {}
    for config in configs:
        n = config.val_images + (config.test_images or WHOLE_TEST[half_of(config.dataset)[0]])
        total += n * (12 * len(config.targets) + 20)
        if not config.is_baseline:
            total += 4 * sum(p.nbytes for net in build_models(config) if net is not None for p in net.parameters())
        if config.of_photographs and config.cache_dir != "none" and Path(config.data_dir).expanduser().is_dir():
            for split in ("train", "test"):
                folder, _ = part_of(config.data_dir, split)
                if folder.is_dir() and folder not in caches:
                    photos = FilePhotos(folder, find_photos(folder, labelled=False).files, config.resize)
                    caches[folder] = expected_bytes(photos) * len(photos)
    return total + sum(caches.values())
