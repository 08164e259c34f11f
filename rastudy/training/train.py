"""Train one run: ``rastudy train --preset digits --task sr --mode ra``."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from rastudy.config import Config
from rastudy.data import distributed
from rastudy.data.datasets import PictureSet
from rastudy.data.loaders import Batch, CropLoader, Loader, load_pictures, loader_of
from rastudy.errors import StudyError
from rastudy.models.classifiers import Classifier
from rastudy.models.detectors import load_source
from rastudy.registry import MODES
from rastudy.training import channels
from rastudy.training.launch import torchrun
from rastudy.training.run_store import (
    CURVE_COLUMNS,
    checkpoint_file,
    claim_folder,
    inputs_of,
    is_trained,
    load_checkpoint,
    load_optimiser,
    read_curve,
    run_folder,
    save_checkpoint,
    write_trained,
)  # fmt: skip
from rastudy.training.steps import Models, learning_rate, learning_rates, step_of
from rastudy.training.weights import build_models, load_weights, save_weights, weights_file

CURVE_POINTS = 40  # rows of a training curve, about; each epoch has equally many


def make_models(config: Config) -> Models:
    """Build P and T, from their pretraining where there is one, their optimisers, and load the source R's."""
    device = config.torch_device()
    # R's of the data set the run is on; a folder's classes are the user's own or ImageNet's
    sources = [load_source(name, config).to(device) for name in config.sources]
    processor, transformer = build_models(config)
    nets = [processor] if transformer is None else [processor, transformer]
    start = config.pretraining
    if start is not None:
        load_weights(weights_file(start), processor)
        if transformer is not None and start.mode == config.mode:
            load_weights(weights_file(start, "transformer"), transformer)
    optimisers = [torch.optim.Adam(net.parameters(), lr=config.lr, fused=True) for net in nets]
    if start is not None and start.cycle:  # in the middle of a cycle P's optimiser goes on, too
        optimisers[0].load_state_dict(load_optimiser(start))
    for source in sources:
        source.micro_batch = config.micro_batch
    for net in (*nets, *sources) if config.compile else ():
        net.compile()
    return Models(config, processor, transformer, sources, optimisers)


def train(config: Config, log: Callable[[str], object] = print) -> list[dict]:
    """Train a run, and what it starts from, to the end; resumes from the last epoch, returns at once if done.

    Writes P (and T) under ``results/<preset>/weights``, curve and checkpoints under ``runs/<preset>/<run_id>/``.

    Args:
        log: takes a line per epoch.

    Returns:
        the training curve, rows of ``CURVE_COLUMNS``; losses are means over the images since the row before.

    Raises:
        StudyError: unusable settings or data, or a loss that is not finite.
    """
    if config.is_baseline:
        log(f"{config.run_id}: nothing to train")
        return []
    torch.set_num_threads(config.threads)
    if is_trained(config):
        log(f"{config.run_id}: trained already")
        return read_curve(config)
    if config.processes > 1 and not distributed.is_launched():
        torchrun(config, log)
        return read_curve(config)
    with distributed.group(config.batch_size, config.torch_device().type):
        log = log if distributed.rank() == 0 else lambda _line: None
        pictures = load_pictures(config, "train")
        check_classes([load_source(name, config) for name in config.sources], pictures.classes, pictures.size, config)
        channels.check(config)
        build_models(config)[0].train()  # raises, before a file is written, where P does not fit the task or has no gradient
        for run in config.chain:
            _train(run, pictures, log)
    return read_curve(config)


def _train(config: Config, pictures: PictureSet, log: Callable[[str], object]) -> None:
    """Train one run while no other run of the same settings does."""
    first = distributed.rank() == 0
    folder = claim_folder(config, inputs_of(config)) if first else run_folder(config)
    with FileLock(folder / "lock") if first else nullcontext():
        if not distributed.from_first(is_trained(config) and (not config.cycle or checkpoint_file(config).is_file())):
            _train_or_resume(config, pictures, log)
    distributed.barrier()


def _train_or_resume(config: Config, pictures: PictureSet, log: Callable[[str], object]) -> None:
    """Train from the checkpoint, if there is one, to the end; write weights, curve and the marker of a finished run."""
    models = make_models(config)
    pictures = relabel(pictures, config.labels, config.seed)
    loader = loader_of(pictures, config)
    checkpoint = checkpoint_file(config)
    first = 0
    curve: list[dict] = []
    if checkpoint.is_file():
        try:
            first, curve = load_checkpoint(checkpoint, models)
        except StudyError as error:
            log(f"{config.run_id}: {error}; starts over")
            models = make_models(config)  # loading may have overwritten a part of them
    if first != distributed.from_first(first):
        raise StudyError(f"{checkpoint}: not the first process's checkpoint; all processes need one shared folder")
    started = time.perf_counter()
    for epoch in range(first, config.epochs):
        epoch_started = time.perf_counter()
        curve += train_one_epoch(models, loader, epoch)
        if distributed.rank() == 0:
            save_checkpoint(checkpoint, models, epoch + 1, curve)
        seconds = time.perf_counter() - started
        rate = len(pictures) / (time.perf_counter() - epoch_started)
        left = seconds / (epoch + 1 - first) * (config.epochs - epoch - 1)
        log(
            f"{config.run_id} epoch {epoch + 1}/{config.epochs} image loss {curve[-1]['image_loss']:.5f} "
            f"recognition loss {curve[-1]['recognition_loss']:.4f} {rate:.0f} images/s, {left:.0f} s left"
        )
    if distributed.rank():
        return
    save_weights(weights_file(config), models.processor, config)
    if models.transformer is not None:
        save_weights(weights_file(config, "transformer"), models.transformer, config)
    write_trained(config, curve)
    if not config.cycle:  # which others start from
        checkpoint.unlink(missing_ok=True)


def train_one_epoch(models: Models, loader: Loader | CropLoader, epoch: int) -> list[dict]:
    """One epoch; returns its part of the training curve."""
    config, device = models.config, next(models.processor.parameters()).device
    steps = len(loader) * config.epochs
    points = max(1, CURVE_POINTS // config.epochs)  # of an epoch, at equal distances
    models.processor.train(config.mode == "plain" or bool(config.sources))  # P rests while T learns to copy
    if models.transformer is not None:
        models.transformer.train()
    parameters = [p for optimiser in models.optimisers for group in optimiser.param_groups for p in group["params"]]
    curve: list[dict] = []
    images, sums = 0, torch.zeros(2, dtype=torch.float64)
    for k, batch in enumerate(loader.epoch(config.seed, config.pretrain_epochs + epoch)):
        step = epoch * len(loader) + k
        batch = Batch(*(t.to(device, non_blocking=True) for t in batch))
        for optimiser, rate in zip(models.optimisers, learning_rates(config, step, steps), strict=False):
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = rate
        whole = min(config.batch_size, len(loader.label) - k * config.batch_size)  # of which this process may have a part
        models.share, models.send = len(batch.index) / whole, channels.draw(config, step)
        try:
            with distributed.apart(whole < distributed.world()):
                losses = torch.stack([loss.detach().double().cpu() for loss in step_of(config.mode)(models, batch)])
                losses = distributed.sum_gradients(parameters, models.share * losses)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise StudyError(_out_of_memory(config, batch)) from error
            raise
        if not losses.isfinite().all():
            raise StudyError(
                f"run {config.run_id}: loss {losses.tolist()} is not finite at epoch {epoch + 1}, step {step}; "
                f"try a lower lr than {config.lr:g} or ra_weight than {config.ra_weight:g}"
            )
        for optimiser in models.optimisers:
            optimiser.step()
        sums, images = sums + losses * whole, images + whole
        if (k + 1) * points // len(loader) > k * points // len(loader):
            means = (sums / images).tolist()
            seen = epoch * len(loader.label) + min((k + 1) * config.batch_size, len(loader.label))
            curve.append(dict(zip(CURVE_COLUMNS, (step + 1, seen, learning_rate(config, step, steps), *means), strict=True)))
            images, sums = 0, torch.zeros(2, dtype=torch.float64)
    return curve


def _out_of_memory(config: Config, batch: Batch) -> str:
    n, (height, width) = len(batch.index), batch.gt.shape[2:]
    smaller = f"micro_batch={max(1, n // 4)} has R read fewer at a time with the same result, and " if config.sources else ""
    return (
        f"run {config.run_id}: out of memory with {n} pictures of {width} x {height} pixels a step on {batch.gt.device}; "
        f"{smaller}more processes (a divisor of batch_size={config.batch_size}) share the batch, P's part of it included"
    )


def relabel(pictures: PictureSet, labels: str, seed: int) -> PictureSet:
    """The same pictures with the labels that R's loss is told (``LABELS``), the same ones in every epoch."""
    wrong = {
        "shuffled": lambda: np.random.default_rng(seed).permutation(pictures.labels),
        "constant": lambda: np.zeros_like(pictures.labels),
    }
    return pictures if labels == "correct" else replace(pictures, labels=wrong[labels]())


def check_classes(
    classifiers: Sequence[nn.Module], classes: Sequence[str], size: Sequence[int], config: Config | None = None
) -> None:
    """Raise StudyError if an R has fewer classes than the pictures, or more where its first ones are not known to be theirs.

    They are of a folder all of whose classes the user has stated, in their order; photographs without labels have no class.
    """
    stated = config is not None and config.dataset == "folder" and set(config.stated_classes) == set(classes)
    for classifier in (one for one in classifiers if isinstance(one, Classifier)):
        with torch.inference_mode():
            picture = torch.zeros(1, 3, *size, device=classifier.mean.device)
            known, there = classifier(picture).shape[1], len(classes)
        both = f"recogniser {classifier.name} knows {known} classes, the pictures have {there}"
        if known < there:
            raise StudyError(both)
        unlabelled = there == 1 and config is not None and not MODES[config.mode].reads_labels
        if known != there and not (stated or unlabelled):
            step = "take one of the same classes; of a folder, name them in the order of R's labels with --classes a,b,..."
            raise StudyError(f"{both}, and which of R's they are cannot be told; {step}")
