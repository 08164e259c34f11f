"""Train the study's own small recognisers on clean pictures: ``rastudy recognisers --preset digits``.

Each is written to ``rastudy/weights/<recipe>/<arch>.safetensors`` and its hash to ``SHA256SUMS``. The last epoch is
kept; validation accuracy is reported, never used to choose. ``--adapt-to plain --task jpeg`` fine-tunes the recogniser of clean
pictures on plain P's output: the other way to make an R read degraded pictures; ``--adapt-to none`` takes the latter.
In every epoch they are the pictures that RA's run of this degradation trains on: the same noise, the same flips.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rastudy import registry
from rastudy.config import Config, make_config
from rastudy.data.datasets import PictureSet, load_split
from rastudy.data.degradations import to_uint8
from rastudy.data.digits import OTHER_DATA
from rastudy.data.loaders import EVALUATION_BATCH, Batch, Loader
from rastudy.errors import StudyError, one_of
from rastudy.models.precision import autocast
from rastudy.models.pretrained import IMAGENET_MEAN, IMAGENET_STD
from rastudy.models.processors import apply_processor
from rastudy.models.small_nets import build_small
from rastudy.models.weight_files import COMMAND, is_wanted, read_pinned, sha256, write_pinned
from rastudy.paths import WEIGHTS
from rastudy.registry import HALVES, PARITIES
from rastudy.training.fit_detectors import fit_detectors
from rastudy.training.train import train as train_run
from rastudy.training.weights import load_models

# Thin bottlenecks stay near chance for a third of the usual epochs, and so do tokens on the few digits: these architectures
# train for a multiple of the epochs. Nets of tokens learn at half the rate, in full precision (bf16 is slower on their small
# matrices).
LONGER = {"resnet50_small": 2, "resnet101_small": 2}
OF_TOKENS = ("vit_small", "mixer_small")
# by data: pictures (0: all), epochs, top learning rate, ordinary augmentation (flip, and crop after padding by 4)
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"train_images": 16000, "epochs": 10, "lr": 4e-3, "augment": False,
               "longer": LONGER | {"vit_small": 3, "mixer_small": 2}},
    "cifar10": {"train_images": 0, "epochs": 20, "lr": 4e-3, "augment": True, "longer": LONGER},
}  # fmt: skip
RECIPES |= {name: RECIPES["digits"] for name in OTHER_DATA} | {f"cifar10_{half}": RECIPES["cifar10"] for half in PARITIES}
# half of the classes: as many steps on the digits; half as many on CIFAR-10
RECIPES |= {f"digits_{half}": RECIPES["digits"] | {"epochs": 20} for half in HALVES}
RECIPES |= {f"cifar10_{half}": RECIPES["cifar10"] for half in HALVES}

# Fine-tuning: a fourth of the clean training's rate, not tuned; for as many epochs as RA's run has after its pretraining, so
# that plain P and an adapted R together pass as often through P and through R, forward and backward, as RA's P.
ADAPTED_LR = 1e-3
BATCH_SIZE, WEIGHT_DECAY = 128, 0.05


def _batch(pictures: torch.Tensor, augment: bool, generator: torch.Generator) -> torch.Tensor:
    """(N, H, W, 3) uint8 to normalised (N, 3, H, W), flipped and shifted at random where asked."""
    x = pictures.permute(0, 3, 1, 2).float().div_(255)
    x = (x - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    if augment:
        n, _, h, w = x.shape
        flip = torch.rand(n, generator=generator) < 0.5
        x = torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)
        x = F.pad(x, (4, 4, 4, 4), mode="reflect")
        top, left = torch.randint(9, (2, n), generator=generator)
        x = torch.stack([p[:, t : t + h, s : s + w] for p, t, s in zip(x, top, left, strict=True)])
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(net: torch.nn.Module, pictures: PictureSet) -> float:
    """Top-1 in percent."""
    net.eval()
    pixels, labels = torch.from_numpy(pictures.array), torch.from_numpy(pictures.labels)
    hits, generator = 0, torch.Generator()
    for index in torch.arange(len(pictures)).split(500):
        hits += int((net(_batch(pixels[index], False, generator)).argmax(1) == labels[index]).sum())
    return 100 * hits / len(pictures)


@torch.no_grad()
def untrained_recogniser(arch: str, train: PictureSet, seed: int) -> tuple[dict, dict]:
    """Initial weights with the batch norm statistics of clean pictures: the control for what a loss of any network gives.

    Returns the state dict and metadata (strings).
    """
    torch.manual_seed(seed)
    net = build_small(arch, len(train.classes)).to(memory_format=torch.channels_last).train()
    pictures, generator = torch.from_numpy(train.array), torch.Generator().manual_seed(seed)
    for index in torch.randperm(len(train), generator=generator)[: 50 * BATCH_SIZE].split(BATCH_SIZE):
        net(_batch(pictures[index], False, generator))
    return net.state_dict(), _metadata(arch, train, seed, epochs=0)


def _metadata(arch: str, train: PictureSet, seed: int, **others: object) -> dict[str, str]:
    metadata = {"arch": arch, "dataset": train.name, "seed": seed, "train_images": len(train), "data_digest": train.digest}
    return {key: str(value) for key, value in (metadata | others).items()}


def train_recogniser(
    arch: str, train: PictureSet, val: PictureSet, seed: int, recipe: dict, start: dict | None = None,
    redraw: Callable[[int], PictureSet] | None = None,
) -> tuple[dict, dict]:  # fmt: skip
    """Train one recogniser with AdamW and one cycle of learning rate, most in bf16 autocast.

    Args:
        start: the state dict to fine-tune; default: a fresh network.
        redraw: gives each epoch's version of ``train``, in the same order; default: always the same pictures.

    Returns the state dict and metadata (strings).
    """
    torch.manual_seed(seed)
    epochs, lr = recipe["epochs"] * recipe["longer"].get(arch, 1), recipe["lr"] * (0.5 if arch in OF_TOKENS else 1)
    net = build_small(arch, len(train.classes)).to(memory_format=torch.channels_last)
    if start is not None:
        net.load_state_dict(start)
    optimiser = torch.optim.AdamW(net.parameters(), lr, weight_decay=WEIGHT_DECAY, fused=True)
    steps = -(-len(train) // BATCH_SIZE) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, steps)
    pictures, labels = torch.from_numpy(train.array), torch.from_numpy(train.labels)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        if redraw is not None:
            pictures = torch.from_numpy(redraw(epoch).array)
        net.train()
        for index in torch.randperm(len(train), generator=generator).split(BATCH_SIZE):
            x = _batch(pictures[index], recipe["augment"], generator)
            with autocast("cpu", arch not in OF_TOKENS):
                logits = net(x)
            loss = F.cross_entropy(logits.float(), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        rate = len(train) / (time.perf_counter() - started)
        print(f"{arch} epoch {epoch + 1}/{epochs} loss {total / len(train):.3f} {rate:.0f} images/s", flush=True)
    top1 = accuracy(net, val)
    print(f"{arch} top-1 on validation {top1:.2f} %", flush=True)
    return net.state_dict(), _metadata(arch, train, seed, epochs=epochs, val_top1=f"{top1:.2f}")


@torch.inference_mode()
def processed(config: Config, pictures: PictureSet, batches: Iterable[Batch]) -> PictureSet:
    """The pictures as a trained run's P (or a baseline) gives them, in 8 bits, for an R to be trained on.

    Args:
        batches: the whole set, in any order: a :class:`Loader`'s ``ordered()``, or an epoch with its own noise and flips.
    """
    processor = None if config.is_baseline else load_models(config)[0]
    pixels = np.empty_like(pictures.array)
    for batch in batches:
        restored = apply_processor(processor, batch.lq, batch.gt, config)
        pixels[batch.index] = np.stack([to_uint8(picture) for picture in restored])
    return replace(pictures, pictures=pixels)


def recognisers_command(args: argparse.Namespace) -> None:
    one_of("preset", args.preset, ("scenes", *RECIPES))
    registry.check_folder(args.data, args.preset)
    if args.preset == "scenes":
        if args.seed or args.untrained or args.adapt_to:
            raise StudyError("detectors are trained by one seed on clean scenes; leave out --seed, --untrained and --adapt-to")
        return fit_detectors(args.arch or registry.recognisers("detector"), args.again)
    for arch in args.arch:
        one_of("arch", arch, registry.recognisers("small"))
    if args.adapt_to:
        one_of("adapt-to", args.adapt_to, ("none", "plain"))
    torch.set_num_threads(1)
    recipe, folder, archs = RECIPES[args.preset], WEIGHTS / args.preset, args.arch or registry.main_recognisers()
    train = load_split(args.preset, "train", recipe["train_images"], data_dir=args.data)
    val = load_split(args.preset, "val", 0, data_dir=args.data)
    if args.adapt_to:
        run = make_config(args.preset, args.task, args.adapt_to, strength=args.strength, data_dir=args.data)
        return fine_tune(archs, folder, run, train, val, args.again)
    for arch in archs:
        name = arch + f"_seed{args.seed}" * bool(args.seed) + "_untrained" * args.untrained
        if not is_wanted(path := folder / f"{name}.safetensors", args.again):
            continue
        if args.untrained:
            state, metadata = untrained_recogniser(arch, train, args.seed)
        else:
            state, metadata = train_recogniser(arch, train, val, args.seed, recipe)
        write_pinned(path, state, metadata)


def fine_tune(archs: Sequence[str], folder: Path, run: Config, train: PictureSet, val: PictureSet, again: bool) -> None:
    """Fine-tune the recognisers of clean pictures on what a run's P (or a baseline) gives; trains the run first."""
    files = {arch: folder / f"{arch}_on_{run.mode}_{run.task}{run.strength:g}.safetensors" for arch in archs}
    files = {arch: path for arch, path in files.items() if is_wanted(path, again)}
    clean = {arch: read_pinned(folder / f"{arch}.safetensors", COMMAND)[0] for arch in files}
    if not files:
        return
    train_run(run)
    recipe = {"epochs": run.epochs, "lr": ADAPTED_LR, "longer": {}, "augment": False}
    of_train, of_val = (Loader(pictures, run.task, run.strength, EVALUATION_BATCH, run.flip) for pictures in (train, val))
    val = processed(run, val, of_val.ordered())

    def redraw(epoch: int) -> PictureSet:
        return processed(run, train, of_train.epoch(run.seed, run.pretrain_epochs + epoch))

    for arch, path in files.items():
        state, metadata = train_recogniser(arch, train, val, 0, recipe, clean[arch], redraw)
        metadata |= {"adapted_to": run.run_id, "start": sha256(folder / f"{arch}.safetensors")}
        write_pinned(path, state, metadata)
