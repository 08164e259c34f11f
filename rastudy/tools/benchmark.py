"""Measure speed: ``rastudy benchmark`` writes results/benchmark.csv.

Every ratio comes from one run in which the variants take turns, so that a noisy machine disturbs all of them alike; values are
medians with quartiles. Networks have the paper's sizes and random weights, on which time does not depend.
"""

import argparse
import copy
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rastudy.analysis.tables import BENCHMARK
from rastudy.boundaries import distances as boundary
from rastudy.config import make_config
from rastudy.data import digits
from rastudy.data.datasets import PictureSet
from rastudy.data.loaders import Batch
from rastudy.data.photo_cache import CachedPhotos, FilePhotos, open_cache
from rastudy.errors import one_of
from rastudy.evaluation import metrics
from rastudy.evaluation.evaluate import predict
from rastudy.evaluation.predictions import read_table
from rastudy.models.classifiers import Classifier, load_classifier, without_weights
from rastudy.models.pretrained import folded
from rastudy.models.processors import SRResNet
from rastudy.paths import root, short, write_csv
from rastudy.presets import PRESETS
from rastudy.registry import names_in
from rastudy.training.steps import Models, ra_step


def interleaved(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each piece of work, ``rounds`` times, taking turns; a first turn warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for k in range(rounds + 1):
        for name, function in work.items():
            started = time.perf_counter()
            function()
            if k:
                seconds[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in seconds.items()}


def row(part: str, variant: str, n: float, unit: str, values: np.ndarray | float) -> dict:
    """One line of the CSV: the median of the values with its quartiles."""
    low, value, high = np.percentile(values, (25, 50, 75))
    machine = f"{torch.get_num_threads()} of {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    names = {"part": part, "variant": variant, "n": n, "unit": unit, "rounds": np.size(values), "machine": machine}
    return names | {name: float(f"{x:.4g}") for name, x in zip(("value", "low", "high"), (value, low, high), strict=True)}


# --- the training step


def take_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """One RA step with its optimiser; the image loss and the recognition loss."""
    models.optimisers[0].zero_grad(set_to_none=True)
    losses = ra_step(models, batch)
    models.optimisers[0].step()
    return losses


def release_processor(ours: SRResNet) -> nn.Module:
    """The same weights in the release's layers: an ordinary last convolution, default layout."""
    net = copy.deepcopy(ours)
    plain = nn.Conv2d(64, 3, 9, padding=4)
    plain.load_state_dict(net.tail[-1].state_dict())
    net.tail[-1] = plain
    return net.to(memory_format=torch.contiguous_format)


def models_to_compare(batch_size: int, side: int) -> tuple[Models, Models, Batch, Batch]:
    """Our models and the release's with the same weights, and a batch in the layout of either.

    The release differs as its ``train.py`` does: default layout, an ordinary last convolution, plain Adam, and an R with batch
    norms whose parameters take gradients.
    """
    config = make_config("imagenet", "sr", "ra")
    torch.manual_seed(0)
    ours = SRResNet(4)
    theirs = release_processor(ours)
    ours.to(memory_format=torch.channels_last)
    r = torchvision.models.resnet18(weights=None)
    source = Classifier("resnet18", folded(copy.deepcopy(r).to(memory_format=torch.channels_last)), "random")
    release_source = Classifier("resnet18", r, "random").requires_grad_(True)
    label = torch.arange(batch_size) % 1000
    lq, gt = (torch.rand(batch_size, 3, s, s, generator=torch.Generator().manual_seed(s)) for s in (side // 4, side))
    fast = [pictures.contiguous(memory_format=torch.channels_last) for pictures in (lq, gt)]
    return (
        Models(config, ours, None, [source], [torch.optim.Adam(ours.parameters(), lr=1e-4, fused=True)]),
        Models(config, theirs, None, [release_source], [torch.optim.Adam(theirs.parameters(), lr=1e-4)]),
        Batch(fast[0], fast[1], label, label),
        Batch(lq, gt, label, label),
    )


def training_step(rounds: int, batch_size: int = 20, side: int = 224) -> Iterator[dict]:
    """The RA step at the paper's setting, ours against the release's, beside the machine's peak."""
    ours, theirs, fast, batch = models_to_compare(batch_size, side)
    a = torch.rand(2048, 2048)
    operations = {"peak": 2 * 2048**3}
    for name, of_r in (("ours", False), ("release", True)):  # ours leaves out the gradients of R's parameters
        theirs.sources[0].requires_grad_(of_r)
        with FlopCounterMode(display=False) as counter:
            take_step(theirs, batch)
        operations[name] = counter.get_total_flops()
    steps = {"ours": partial(take_step, ours, fast), "release": partial(take_step, theirs, batch)}
    seconds = interleaved({**steps, "peak": partial(torch.matmul, a, a)}, rounds)
    for name, values in seconds.items():
        yield row("training step", name, batch_size, "s", values)
        yield row("training step", name, batch_size, "GFLOP/s", operations[name] / values / 1e9)
    yield row("training step", "release / ours", batch_size, "ratio", seconds["release"] / seconds["ours"])


# --- evaluation


@contextmanager
def photographs(n: int) -> Iterator[tuple[FilePhotos, CachedPhotos]]:
    """``n`` JPEG files of 500 x 375 pixels, scikit-learn's two photographs cut at random places, and their cache."""
    rng, originals = np.random.default_rng(0), [Image.fromarray(a) for a in load_sample_images().images]
    with tempfile.TemporaryDirectory() as place:
        folder, names = Path(place), tuple(f"{k:04d}.jpg" for k in range(n))
        for k, name in enumerate(names):
            left, top = (int(rng.integers(0, side)) for side in (140, 52))
            originals[k % 2].crop((left, top, left + 500, top + 375)).save(folder / name, quality=95)
        files = FilePhotos(folder, names, 256)
        yield files, open_cache(files, folder / "cache", log=lambda _: None)[0]


@torch.inference_mode()
def read_twice(target: Classifier, batch: torch.Tensor) -> None:
    """What an evaluation has R read: the rounded picture and the floats."""
    for _ in range(2):
        metrics.top5(target(batch))


def cross_evaluation(rounds: int, n: int = 10, side: int = 224) -> Iterator[dict]:
    """One P read by five R's in one pass, against five passes; the bound comes from the parts' own times in the same run."""
    # no worker processes, whose start would be what is measured
    config = make_config("imagenet", "sr", "plain", image_size=side, threads=torch.get_num_threads(), workers=0)
    noise = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)
    pictures = PictureSet("pictures", "test", noise, np.zeros(n, np.int64), np.arange(n), ("any",))
    evaluate = partial(predict, config, pictures, processor=SRResNet(4).eval().to(memory_format=torch.channels_last))
    targets = [without_weights(arch) for arch in names_in(PRESETS["imagenet"]["target_archs"])]
    batch = torch.rand(n, 3, side, side).contiguous(memory_format=torch.channels_last)
    nothing = Classifier("nothing", _Nothing(), "none")
    work: dict[str, Callable[[], object]] = {
        "one pass": lambda: evaluate(targets),
        "five passes": lambda: [evaluate([target]) for target in targets],
        "P alone": lambda: evaluate([nothing]),  # all but R's reading: degrading, P, the pictures' metrics
        **{f"{target.name} alone": partial(read_twice, target, batch) for target in targets},
    }
    seconds = interleaved(work, rounds)
    for name, values in seconds.items():
        yield row("cross-evaluation", name, n, "s", values)
    alone, reading = seconds["P alone"], sum(seconds[f"{target.name} alone"] for target in targets)
    bound, speedup = (5 * alone + reading) / (alone + reading), seconds["five passes"] / seconds["one pass"]
    yield row("cross-evaluation", "five passes / one pass", n, "ratio", speedup)
    yield row("cross-evaluation", "bound", n, "ratio", bound)
    yield row("cross-evaluation", "share of the bound", n, "ratio", speedup / bound)


class _Nothing(nn.Module):
    """The network of an R that takes no time."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(pictures), 1000)


def input_pictures(rounds: int, n: int = 64) -> Iterator[dict]:
    """The cache of decoded photographs against decoding, in one process; bit for bit the same pictures."""

    def read(photos: FilePhotos | CachedPhotos) -> int:
        return sum(int(photos[k][0, 0, 0]) for k in range(n))  # the cache's checksum touches every pixel

    with photographs(n) as (files, cached):
        if not all((cached[k] == files[k]).all() for k in range(n)):
            raise AssertionError("the cache differs from decoding")
        seconds = interleaved({"cache": partial(read, cached), "decoding": partial(read, files)}, rounds)
    for name, values in seconds.items():
        yield row("input", name, n, "pictures/s", n / values)
    yield row("input", "cache / decoding", n, "ratio", seconds["decoding"] / seconds["cache"])


def boundary_distances(rounds: int, n: int = 50) -> Iterator[dict]:
    """Distances along eight random directions: all pictures at once against one picture after the other."""
    net = load_classifier("resnet18_small", "digits")
    pictures, labels, _ = digits.render("test", n)
    start = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255)
    noise = torch.randn(8, *start.shape, generator=torch.Generator().manual_seed(0))
    lines = torch.stack([boundary.unit(one, "random") for one in noise])

    def measure(chosen: slice) -> boundary.Distances:
        steps = np.full(len(labels[chosen]), 0.05)
        return boundary.distances(net, start[chosen], lines[:, chosen], steps, labels[chosen])

    together, apart = "all pictures at once", "one picture after the other"
    work: dict[str, Callable[[], object]] = {
        together: partial(measure, slice(n)),
        apart: lambda: [measure(slice(k, k + 1)) for k in range(n)],
    }
    seconds = interleaved(work, rounds)
    for name, values in seconds.items():
        yield row("boundaries", name, n, "s", values)
    yield row("boundaries", "one after the other / at once", n, "ratio", seconds[apart] / seconds[together])


PARTS: dict[str, Callable[..., Iterator[dict]]] = {
    "step": training_step, "evaluation": cross_evaluation, "input": input_pictures, "boundaries": boundary_distances,
}  # fmt: skip
ORDER = ("training step", "cross-evaluation", "input", "boundaries")  # of the CSV's parts


def benchmark_command(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    rows = []
    for part in args.part or PARTS:
        one_of("part", part, PARTS)
        for entry in PARTS[part](args.rounds):
            rows.append(entry)
            what = f"{entry['part']:17s} {entry['variant'][:60]:60s} {entry['n']:6g}"
            print(f"{what} {entry['value']:10.4g} {entry['unit']}", flush=True)
    path = root() / "results" / "benchmark.csv"
    if path.is_file():  # parts that were not measured now stay
        others = {*ORDER} - {entry["part"] for entry in rows}
        before = read_table(path, BENCHMARK, f"rm {short(path)}; rastudy benchmark").to_dict("records")
        kept = [entry for entry in before if entry["part"] in others]
        rows = sorted(kept + rows, key=lambda entry: ORDER.index(entry["part"]))
    write_csv(path, rows, BENCHMARK)
