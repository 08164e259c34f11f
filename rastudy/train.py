"""Train one run: ``python -m rastudy.train --preset digits --task sr --mode ra``."""

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from rastudy.classifiers import Classifier, load_classifier, sha256, weights_versions
from rastudy.config import BASELINES, Config, make_config
from rastudy.data import Batch, Loader, PictureSet
from rastudy.errors import StudyError, command
from rastudy.files import read_json, results_folder, write_atomic, write_csv, write_json
from rastudy.losses import clean_features, image_loss, perceptual_loss, recognition_loss, soft_targets, unsupervised_loss
from rastudy.photos import CropLoader, load_pictures, loader_of
from rastudy.runs import build_models, claim_folder, load_weights, run_folder, save_weights, weights_file

CURVE_COLUMNS = ("step", "images", "lr", "image_loss", "recognition_loss")
CURVE_POINTS = 40  # rows of a training curve, as far as they divide its epochs


@dataclass
class Models:
    """What a step works on."""

    config: Config
    processor: nn.Module
    transformer: nn.Module | None
    sources: list[Classifier]
    optimisers: list[torch.optim.Optimizer] = field(default_factory=list)

    def autocast(self) -> torch.autocast:
        device = next(self.processor.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bf16")


def plain_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss."""
    with models.autocast():
        loss = image_loss(models.processor(batch.lq), batch.gt)
    loss.backward()
    return loss, torch.zeros(())


def ra_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss and R's cross-entropy; bitwise plain at weight 0."""
    with models.autocast():
        restored = models.processor(batch.lq)
        loss, recognition = image_loss(restored, batch.gt), recognition_loss(models.sources, restored, batch.label)
    (loss + models.config.ra_weight * recognition).backward()
    return loss, recognition


def ra_unsupervised_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss and to give R's softmax of the clean picture; needs no label."""
    return _imitation_step(models, batch, soft_targets, unsupervised_loss)


def perceptual_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss and to give R's features of the clean picture; needs no label."""
    return _imitation_step(models, batch, clean_features, perceptual_loss)


def _imitation_step(models: Models, batch: Batch, of_clean: Callable, distance: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss and that R answers to its picture as to the clean one."""
    targets = of_clean(models.sources, batch.gt)
    with models.autocast():
        restored = models.processor(batch.lq)
        loss, recognition = image_loss(restored, batch.gt), distance(models.sources, restored, targets)
    (loss + models.config.ra_weight * recognition).backward()
    return loss, recognition


def ra_transformer_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the image loss alone (bitwise plain's P); T, on P's detached output, learns R's cross-entropy alone.

    Without an R, in T's pretraining, P rests and T learns to copy its pictures.
    """
    if not models.sources:
        with torch.no_grad(), models.autocast():
            restored = models.processor(batch.lq)
        with models.autocast():
            loss = image_loss(models.transformer(restored), restored)
        loss.backward()
        return loss, torch.zeros(())
    with models.autocast():
        restored = models.processor(batch.lq)
        loss = image_loss(restored, batch.gt)
    loss.backward()
    with models.autocast():
        recognition = recognition_loss(models.sources, models.transformer(restored.detach()), batch.label)
    (models.config.ra_weight * recognition).backward()
    return loss, recognition


STEPS: dict[str, Callable[[Models, Batch], tuple[torch.Tensor, torch.Tensor]]] = {
    "plain": plain_step, "ra": ra_step, "ra_transformer": ra_transformer_step, "ra_unsupervised": ra_unsupervised_step,
    "perceptual": perceptual_step,
}  # fmt: skip


def learning_rate(config: Config, step: int, steps: int) -> float:
    """The learning rate of a step.

    ``step`` is the paper's schedule scaled to any number of epochs: 1 for the first 4/6, 0.1 for 1/6, 0.01 for 1/6
    (6 epochs: 4/1/1; 30: 20/5/5). ``onecycle`` rises over the first 15 % and falls to 0 along a cosine.
    """
    if config.schedule == "step":
        sixth = step * config.epochs // steps * 6 // config.epochs
        return config.lr * {4: 0.1, 5: 0.01}.get(sixth, 1.0)
    rise = 0.15 * steps
    cosine = (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2
    return config.lr * ((step + 1) / (rise + 1) if step < rise else cosine)


def make_models(config: Config) -> Models:
    """Build P and T, from their pretraining where there is one, their optimisers, and load the source R's."""
    device = config.torch_device()
    # R's of the data set the run is on; a folder's classes are the user's own or ImageNet's
    sources = [load_classifier(name, config.dataset).to(device) for name in config.sources]
    processor, transformer = build_models(config)
    nets = [processor] if transformer is None else [processor, transformer]
    start = config.pretraining
    if start is not None:
        load_weights(weights_file(start), processor)
        if start.mode == "ra_transformer":
            load_weights(weights_file(start, "transformer"), transformer)
    optimisers = [torch.optim.Adam(net.parameters(), lr=config.lr, fused=True) for net in nets]
    return Models(config, processor, transformer, sources, optimisers)


def train(config: Config, log: Callable[[str], object] = print) -> list[dict]:
    """Train a run, and what it starts from, to the end; resumes from the last epoch, returns at once if done.

    Writes P (and T) and the training curve under ``results/<preset>/``; checkpoints under ``runs/<preset>/<run_id>/``.

    Args:
        log: takes a line per epoch.

    Returns:
        the training curve, rows of ``CURVE_COLUMNS``; losses are means over the images since the row before.

    Raises:
        StudyError: unusable settings or data, or a loss that is not finite.
    """
    if config.mode in BASELINES:
        log(f"{config.run_id}: nothing to train")
        return []
    torch.set_num_threads(config.threads)
    if is_trained(config):
        log(f"{config.run_id}: trained already")
        return read_curve(config)
    pictures = load_pictures(config, "train")
    check_classes([load_classifier(name, config.dataset) for name in config.sources], pictures)
    build_models(config)  # raises, before a file is written, where P does not fit the task
    return [_train(run, pictures, log) for run in config.chain][-1]


def _train(config: Config, pictures: PictureSet, log: Callable[[str], object]) -> list[dict]:
    """Train one run while no other process does."""
    folder = claim_folder(config, _inputs(config))
    with FileLock(folder / "lock"):
        if not is_trained(config):
            _train_or_resume(config, pictures, folder, log)
    return read_curve(config)


def _train_or_resume(config: Config, pictures: PictureSet, folder: Path, log: Callable[[str], object]) -> None:
    """Train from the checkpoint, if there is one, to the end; write weights, curve and the marker of a finished run."""
    models = make_models(config)
    pictures = relabel(pictures, config.labels, config.seed)
    loader = loader_of(pictures, config)
    checkpoint = folder / "checkpoint.pt"
    first, curve = _load_checkpoint(checkpoint, models) if checkpoint.is_file() else (0, [])
    started = time.perf_counter()
    for epoch in range(first, config.epochs):
        epoch_started = time.perf_counter()
        curve += train_one_epoch(models, loader, epoch)
        _save_checkpoint(checkpoint, models, epoch + 1, curve)
        seconds = time.perf_counter() - started
        rate = len(pictures) / (time.perf_counter() - epoch_started)
        left = seconds / (epoch + 1 - first) * (config.epochs - epoch - 1)
        log(
            f"{config.run_id} epoch {epoch + 1}/{config.epochs} image loss {curve[-1]['image_loss']:.5f} "
            f"recognition loss {curve[-1]['recognition_loss']:.4f} {rate:.0f} images/s, {left:.0f} s left"
        )
    save_weights(weights_file(config), models.processor, config)
    if models.transformer is not None:
        save_weights(weights_file(config, "transformer"), models.transformer, config)
    write_csv(curve_file(config), curve, CURVE_COLUMNS)
    write_json(folder / "trained.json", {"sha256": sha256(weights_file(config))})
    checkpoint.unlink(missing_ok=True)


def curve_file(config: Config) -> Path:
    return results_folder(config.preset) / "curves" / f"{config.run_id}.csv"


def read_curve(config: Config) -> list[dict]:
    """A finished run's training curve, rows of ``CURVE_COLUMNS``."""
    with curve_file(config).open(newline="") as file:
        return [{k: (int if k in ("step", "images") else float)(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _inputs(config: Config) -> dict:
    """What a run starts from besides its settings: the weights of its source R's and of its pretraining."""
    inputs: dict = {"source_weights": weights_versions(config.sources, config.dataset)}
    start = config.pretraining
    if start is not None:
        inputs["pretrained"] = sha256(weights_file(start))
        if start.mode == "ra_transformer":
            inputs["pretrained_transformer"] = sha256(weights_file(start, "transformer"))
    return inputs


def is_trained(config: Config) -> bool:
    """Whether this checkout has trained the run, with the source R's as they are, and its weights are what came out."""
    marker, path = run_folder(config) / "trained.json", weights_file(config)
    parts = [path, weights_file(config, "transformer")] if config.mode == "ra_transformer" else [path]
    if not all(part.is_file() for part in (marker, curve_file(config), *parts)):
        return False
    if config.pretraining is not None and not is_trained(config.pretraining):
        return False
    same = read_json(run_folder(config) / "config.json") == config.science() | _inputs(config)
    return same and read_json(marker).get("sha256") == sha256(path)


def train_one_epoch(models: Models, loader: Loader | CropLoader, epoch: int) -> list[dict]:
    """One epoch; returns its part of the training curve."""
    config, device = models.config, next(models.processor.parameters()).device
    steps = len(loader) * config.epochs
    points = max(1, CURVE_POINTS // config.epochs)  # of an epoch, at equal distances
    models.processor.train(config.mode == "plain" or bool(config.sources))  # P rests while T learns to copy
    if models.transformer is not None:
        models.transformer.train()
    curve, images, sums = [], 0, torch.zeros(2, dtype=torch.float64)
    for k, batch in enumerate(loader.epoch(config.seed, config.pretrain_epochs + epoch)):
        step = epoch * len(loader) + k
        batch = Batch(*(t.to(device, non_blocking=True) for t in batch))
        for optimiser in models.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, step, steps)
        losses = torch.stack([loss.detach().double().cpu() for loss in STEPS[config.mode](models, batch)])
        if not losses.isfinite().all():
            raise StudyError(
                f"run {config.run_id}: loss {losses.tolist()} is not finite at epoch {epoch + 1}, step {step}; "
                f"try a lower lr than {config.lr:g} or ra_weight than {config.ra_weight:g}"
            )
        for optimiser in models.optimisers:
            optimiser.step()
        sums, images = sums + losses * len(batch.index), images + len(batch.index)
        if (k + 1) * points // len(loader) > k * points // len(loader):
            means = (sums / images).tolist()
            seen = epoch * len(loader.label) + min((k + 1) * config.batch_size, len(loader.label))
            curve.append(dict(zip(CURVE_COLUMNS, (step + 1, seen, learning_rate(config, step, steps), *means), strict=True)))
            images, sums = 0, torch.zeros(2, dtype=torch.float64)
    return curve


def relabel(pictures: PictureSet, labels: str, seed: int) -> PictureSet:
    """The same pictures with the labels that R's loss is told (``LABELS``), the same ones in every epoch."""
    wrong = {
        "shuffled": lambda: np.random.default_rng(seed).permutation(pictures.labels),
        "constant": lambda: np.zeros_like(pictures.labels),
    }
    return pictures if labels == "correct" else replace(pictures, labels=wrong[labels]())


def check_classes(classifiers: list[Classifier], pictures: PictureSet) -> None:
    """Raise StudyError where an R has fewer classes than the pictures."""
    for classifier in classifiers:
        with torch.inference_mode():
            picture = torch.zeros(1, 3, *pictures.size, device=classifier.mean.device)
            known = classifier(picture).shape[1]
        if known < len(pictures.classes):
            raise StudyError(f"recogniser {classifier.name} knows {known} classes, {pictures.name} has {len(pictures.classes)}")


def _save_checkpoint(path: Path, models: Models, epoch: int, curve: list[dict]) -> None:
    state = {
        "epoch": epoch, "curve": curve, "processor": models.processor.state_dict(),
        "transformer": models.transformer.state_dict() if models.transformer is not None else {},
        "optimisers": [optimiser.state_dict() for optimiser in models.optimisers], "rng": torch.get_rng_state(),
    }  # fmt: skip
    write_atomic(path, lambda p: torch.save(state, p))


def _load_checkpoint(path: Path, models: Models) -> tuple[int, list[dict]]:
    """Restore models and RNG; returns the next epoch and the curve so far."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        models.processor.load_state_dict(state["processor"])
        if models.transformer is not None:
            models.transformer.load_state_dict(state["transformer"])
        for optimiser, saved in zip(models.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        torch.set_rng_state(state["rng"])
    except Exception as error:  # torch.load raises many types; all mean that this file cannot be resumed from
        raise StudyError(f"{path}: cannot resume from this checkpoint ({error}); delete it to start over") from error
    return state["epoch"], state["curve"]


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--task", required=True, help="sr, dn or jpeg")
    parser.add_argument("--mode", default="plain", help="plain, ra, ra_transformer or ra_unsupervised")
    for entry in fields(Config):
        if entry.name not in ("preset", "task", "mode"):
            kind = {bool: lambda text: text.lower() in ("1", "true", "yes")}.get(entry.type, entry.type)
            parser.add_argument(f"--{entry.name.replace('_', '-')}", type=kind, help="default: the preset's")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    train(make_config(**given))


if __name__ == "__main__":
    sys.exit(main())
