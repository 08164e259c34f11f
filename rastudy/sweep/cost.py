"""What runs will cost, before they start: operations counted, memory and disk added up, seconds from a few timed steps."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rastudy import registry
from rastudy.config import Config
from rastudy.data.image_files import list_pictures
from rastudy.data.imagenet import part_of
from rastudy.data.loaders import EVALUATION_BATCH, Batch
from rastudy.data.photo_cache import FilePhotos, expected_bytes
from rastudy.models.classifiers import Classifier, without_weights
from rastudy.models.detectors import Detector, load_source
from rastudy.paths import expand
from rastudy.training import channels
from rastudy.training.steps import Models, step_of
from rastudy.training.weights import build_models

TIMED_PIXELS = 100_000  # of a timed step; seconds and memory are proportional to pictures


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
        own = config.chain if config.mode == "plain" or registry.MODES[config.mode].has_transformer else [config]
        for run in own:
            if run.mode != "plain" or config.mode == "plain":  # the others find plain's pretraining done
                total += step(_essence(run)) * (run.epochs * _training_pictures(run))
    sizes = {"val": config.val_images, "test": _test_pictures(config)}
    if read := sum(sizes[split] for split in splits):
        total += reading(_essence(config), config.target_archs) * read
    return total * 0.5 if registry.half_of(config.dataset)[1] else total


def _training_pictures(config: Config) -> int:
    if config.train_images:
        return config.train_images
    data = registry.dataset_of(config.dataset)
    if data.photographs and config.data_dir and expand(config.data_dir).is_dir():
        folder, to_split = part_of(config.data_dir, "train")
        return len(list_pictures(folder)) - config.val_images - to_split * config.test_images
    return data.train - (config.val_images if data.photographs else 0)


def _test_pictures(config: Config) -> int:
    return config.test_images or registry.dataset_of(config.dataset).test


def _essence(config: Config) -> Config:
    """The run with every field reset that does not change its cost, so that equal steps are measured once."""
    target = config.targets[0]
    return replace(config, seed=0, ra_weight=1.0, labels="correct", target_archs=target, epochs=1, lr=1.0, pretrain_epochs=0,
                   pretrain_crop=0, data_dir="")  # fmt: skip


@cache
def step(config: Config) -> Cost:
    """A training step, per picture."""
    torch.set_num_threads(config.threads)
    processor, transformer = build_models(config)
    models = Models(config, processor, transformer, [_classifier(name, config) for name in config.sources])
    models.send = channels.draw(config, 0)
    batch = _batch(config, config.crop or config.image_size, config.batch_size)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        cost = _measured(lambda: step_of(config.mode)(models, batch), len(batch.index))
    weights = sum(p.nbytes for net in (processor, transformer, *models.sources) if net is not None for p in net.parameters())
    return replace(cost, activations=max(0, sum(kept.values()) - weights) / len(batch.index))


def reading(config: Config, target_archs: str) -> Cost:
    """P (and T) once and every target R twice (P's picture in 8 bits and its floats), per picture; R once of baselines."""
    targets = [_forward(_reader(config), name) for name in registry.names_in(target_archs)]
    if config.is_baseline:
        return sum(targets, Cost(0, 0))
    nets = [_forward(config, part) for part in ("", "T")[: 1 + registry.MODES[config.mode].has_transformer]]
    return sum(nets + 2 * targets, Cost(0, 0))


def _reader(config: Config) -> Config:
    """The same for all runs whose pictures have one size: an R's cost does not depend on who made the picture."""
    return replace(config, mode="clean", task="dn", strength=0.1, precision="fp32")


@cache
def _forward(config: Config, name: str) -> Cost:
    """One pass of a target R by its name, of P (an empty name) or of T ("T"), per picture."""
    torch.set_num_threads(config.threads)
    batch = _batch(config, config.image_size, EVALUATION_BATCH)
    net: nn.Module
    if config.is_baseline:
        net, picture = _classifier(name, config), batch.gt
    else:
        processor, transformer = build_models(config)
        net, picture = (transformer, batch.gt) if name else (processor, batch.lq)
        net.eval()
    with torch.inference_mode():
        return _measured(lambda: net(picture), len(batch.index))


def _measured(work: Callable[[], object], n: int) -> Cost:
    """Cost per picture of some work on ``n`` of them: operations of a first run, seconds of a second one."""

    def once() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    with FlopCounterMode(display=False) as counter:
        once()
    started = time.perf_counter()
    once()
    return Cost(counter.get_total_flops() / n, (time.perf_counter() - started) / n)


def _batch(config: Config, side: int, most: int) -> Batch:
    device = config.torch_device()
    n = most if device.type == "cuda" else max(2, min(most, TIMED_PIXELS // side**2))
    gt = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))
    lq = nn.functional.avg_pool2d(gt, config.factor)
    lq, gt = (x.to(device, memory_format=torch.channels_last) for x in (lq, gt))
    index = torch.arange(n, device=device)
    return Batch(lq, gt, index % 2, index)


@cache
def _classifier(name: str, config: Config) -> Classifier | Detector:
    """The R; of torchvision's the architecture without weights, which costs the same and downloads nothing."""
    net = without_weights(name) if registry.is_torchvision(name) else load_source(name, config)
    return net.to(config.torch_device())


def memory_of(config: Config) -> float:
    """Bytes of a training step: activations of the batch, and weights, gradients and Adam's two moments of P and T."""
    return step(_essence(config)).activations * config.batch_size / config.processes + 4 * _trained_bytes(config)


def _trained_bytes(config: Config) -> int:
    return sum(p.nbytes for net in build_models(config) if net is not None for p in net.parameters())


def disk_of(configs: Iterable[Config]) -> float:
    """Bytes that the runs leave: P, T, a checkpoint each while they run, predictions; and the cache of photographs."""
    total = 0.0
    caches: dict[Path, float] = {}
    for config in configs:
        total += (config.val_images + _test_pictures(config)) * (12 * len(config.targets) + 20)
        if not config.is_baseline:
            total += 4 * _trained_bytes(config)
        if config.of_photographs and config.cache_dir != "none" and expand(config.data_dir).is_dir():
            for folder in {part_of(config.data_dir, split)[0] for split in ("train", "test")} - caches.keys():
                if folder.is_dir():
                    photos = FilePhotos(folder, list_pictures(folder), config.resize)
                    caches[folder] = expected_bytes(photos) * len(photos)
    return total + sum(caches.values())
