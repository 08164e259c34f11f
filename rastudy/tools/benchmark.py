"""How fast it is, and how it grows: ``rastudy benchmark`` writes results/benchmark.csv and figures/benchmark.png.

Every ratio comes from one run in which the variants take turns, so that a noisy machine disturbs all of them alike; medians,
with the quartiles beside them. Networks have the paper's sizes and random weights: time does not depend on them.
"""

import argparse
import copy
import math
import os
import platform
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rastudy.boundaries import distances as boundary
from rastudy.config import Config, make_config
from rastudy.data import digits
from rastudy.data.datasets import PictureSet
from rastudy.data.loaders import Batch
from rastudy.data.photo_cache import CachedPhotos, FilePhotos, open_cache
from rastudy.errors import one_of
from rastudy.evaluation import metrics
from rastudy.evaluation.evaluate import predict
from rastudy.models.classifiers import IMAGENET_MEAN, IMAGENET_STD, Classifier, folded, load_classifier, without_weights
from rastudy.models.processors import SRResNet
from rastudy.paths import root, write_csv
from rastudy.report.figures import plot_benchmark
from rastudy.training.steps import Models, ra_step

COLUMNS = ("part", "variant", "n", "unit", "value", "low", "high", "rounds", "machine")
FIVE = ("resnet18", "resnet50", "resnet101", "densenet121", "vgg16_bn")


def interleaved(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each piece of work, ``rounds`` times, taking turns; a first turn warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for k in range(rounds + 1):
        for name, function in work.items():
            started = time.perf_counter()
            function()
            if k:
                seconds[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in seconds.items()}


def row(part: str, variant: str, n: float, unit: str, values: np.ndarray) -> dict:
    """A median with its quartiles."""
    low, value, high = np.percentile(values, (25, 50, 75))
    machine = f"{torch.get_num_threads()} of {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    names = {"part": part, "variant": variant, "n": n, "unit": unit, "rounds": len(values), "machine": machine}
    return names | {name: float(f"{x:.4g}") for name, x in zip(("value", "low", "high"), (value, low, high), strict=True)}


class _OurStep:
    """The RA step as a run takes it."""

    def __init__(self, models: Models):
        self.models, self.processor = models, models.processor

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        (optimiser,) = self.models.optimisers
        optimiser.zero_grad(set_to_none=True)
        losses = ra_step(self.models, batch)
        optimiser.step()
        return losses


class _ReleaseStep:
    """The RA step as the release's ``train.py`` writes it: default layout, R's parameters with gradients, plain Adam."""

    def __init__(self, processor: nn.Module, r: nn.Module, weight: float):
        self.processor, self.r, self.weight = processor, r.eval(), weight
        self.optimiser = torch.optim.Adam(processor.parameters(), lr=1e-4)
        self.mean, self.std = (torch.tensor(x).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        self.optimiser.zero_grad()
        restored = self.processor(batch.lq)
        loss = nn.functional.mse_loss(restored, batch.gt)
        recognition = nn.functional.cross_entropy(self.r((restored - self.mean) / self.std), batch.label)
        (loss + self.weight * recognition).backward()
        self.optimiser.step()
        return loss, recognition


def release_processor(ours: SRResNet) -> nn.Module:
    """The same weights in the release's layers: an ordinary last convolution, default layout."""
    net = copy.deepcopy(ours)
    last = net.tail[-1]
    plain = nn.Conv2d(last.in_channels, 3, 9, padding=4)
    plain.load_state_dict(last.state_dict())
    net.tail[-1] = plain
    return net.to(memory_format=torch.contiguous_format)


def steps_to_compare(batch_size: int, side: int) -> tuple["_OurStep", "_ReleaseStep", Batch, Batch]:
    """Our RA step and the release's on the same weights, and the batch in either layout."""
    config = make_config("imagenet", "sr", "ra")
    torch.manual_seed(0)
    ours = SRResNet(4)
    theirs = release_processor(ours)
    ours.to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    r = torchvision.models.resnet18(weights=None)
    source = Classifier("resnet18", folded(copy.deepcopy(r).to(memory_format=torch.channels_last)), "random")
    our_step = _OurStep(Models(config, ours, None, [source], [torch.optim.Adam(ours.parameters(), lr=1e-4, fused=True)]))

    lq, gt = (torch.rand(batch_size, 3, s, s, generator=torch.Generator().manual_seed(s)) for s in (side // 4, side))
    label = torch.arange(batch_size) % 1000
    batch = Batch(lq, gt, label, label)
    fast = Batch(*(x.contiguous(memory_format=torch.channels_last) for x in (lq, gt)), label, label)
    their_step = _ReleaseStep(theirs, r, config.ra_weight)
    return our_step, their_step, fast, batch


def training_step(rounds: int, batch_size: int = 20, side: int = 224) -> Iterator[dict]:
    """The RA step at the paper's setting against the release's way to write it, and the machine's peak beside them."""
    ours, theirs, fast, batch = steps_to_compare(batch_size, side)
    a = torch.rand(2048, 2048)
    work = {"ours": lambda: ours(fast), "release": lambda: theirs(batch), "peak": lambda: a @ a}
    operations = {"peak": 2 * 2048**3}
    for name, of_r in (("ours", False), ("release", True)):  # ours leaves out the gradients of R's parameters
        theirs.r.requires_grad_(of_r)
        with FlopCounterMode(display=False) as counter:
            theirs(batch)
        operations[name] = counter.get_total_flops()
    seconds = interleaved(work, rounds)
    for name, values in seconds.items():
        yield row("training step", name, batch_size, "s", values)
        yield row("training step", name, batch_size, "GFLOP/s", operations[name] / values / 1e9)
    yield row("training step", "release / ours", batch_size, "ratio", seconds["release"] / seconds["ours"])
    yield from _layers(ours, fast)


def _layers(step: Callable, batch: Batch) -> Iterator[dict]:
    """Where our step's time goes, by kind of operation and shape: the largest, in ms."""
    with torch.profiler.profile(record_shapes=True) as profile:
        step(batch)
    events = profile.key_averages(group_by_input_shape=True)
    total = sum(event.self_cpu_time_total for event in events)
    for event in sorted(events, key=lambda e: -e.self_cpu_time_total)[:14]:
        shapes = " ".join("x".join(map(str, shape)) for shape in event.input_shapes[:3] if shape)
        milliseconds = np.array([event.self_cpu_time_total / 1e3])
        yield row("layers", f"{event.key.removeprefix('aten::')} {shapes}", event.count, "ms", milliseconds)
    yield row("layers", "whole step", 1, "ms", np.array([total / 1e3]))


def cross_evaluation(rounds: int, pictures: int = 10, side: int = 224) -> Iterator[dict]:
    """One P read by five R's in one pass, against five passes; the bound from the parts' own times in the same run."""
    config, gt = _evaluation(side), _random_set(pictures, side)
    processor = SRResNet(4).eval().to(memory_format=torch.channels_last)
    targets = [without_weights(arch) for arch in FIVE]
    batch = torch.rand(pictures, 3, side, side).contiguous(memory_format=torch.channels_last)

    def alone() -> None:
        """Everything that is not R's reading: degrading, P, the pictures' metrics."""
        predict(config, gt, [_Nothing()], processor)

    def reads(target: Classifier) -> Callable[[], None]:
        def work() -> None:
            with torch.inference_mode():
                for _ in range(2):  # the rounded picture and the floats
                    metrics.top5(target(batch))

        return work

    work: dict[str, Callable[[], object]] = {"one pass": lambda: predict(config, gt, targets, processor)}
    work["five passes"] = lambda: [predict(config, gt, [target], processor) for target in targets]
    work |= {"P alone": alone} | {f"{target.name} alone": reads(target) for target in targets}
    seconds = interleaved(work, rounds)
    for name, values in seconds.items():
        yield row("cross-evaluation", name, pictures, "s", values)
    reading = sum(seconds[f"{target.name} alone"] for target in targets)
    bound = (5 * seconds["P alone"] + reading) / (seconds["P alone"] + reading)
    speedup = seconds["five passes"] / seconds["one pass"]
    yield row("cross-evaluation", "five passes / one pass", pictures, "ratio", speedup)
    yield row("cross-evaluation", "bound", pictures, "ratio", bound)
    yield row("cross-evaluation", "share of the bound", pictures, "ratio", speedup / bound)


class _Nothing(nn.Module):
    """An R that takes no time."""

    name, weights = "nothing", "none"

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(pictures), 1000)


def _evaluation(side: int) -> Config:
    """Without processes beside it that crop and degrade: starting them would be what is measured."""
    return make_config("imagenet", "sr", "plain", image_size=side, threads=torch.get_num_threads(), workers=0)


def _random_set(n: int, side: int) -> PictureSet:
    pictures = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)
    return PictureSet("random", "test", pictures, np.zeros(n, np.int64), np.arange(n), ("random",))


def photographs(folder: Path, n: int) -> FilePhotos:
    """``n`` JPEG files of 500 x 375 pixels: scikit-learn's two photographs, cut at random places."""
    rng, originals = np.random.default_rng(0), [Image.fromarray(a) for a in load_sample_images().images]
    names = [f"{k:04d}.jpg" for k in range(n)]
    for k, name in enumerate(names):
        left, top = (int(rng.integers(0, side)) for side in (140, 52))
        original = originals[k % 2].crop((left, top, left + 500, top + 375))
        original.save(folder / name, quality=95)
    return FilePhotos(folder, tuple(names), 256)


def input_pictures(rounds: int, n: int = 64) -> Iterator[dict]:
    """The cache of decoded photographs against decoding, one process, bit for bit the same pictures."""
    with tempfile.TemporaryDirectory() as place:
        files = photographs(Path(place), n)
        cached, _ = open_cache(files, Path(place) / "cache", log=lambda _: None)
        if not all((cached[k] == files[k]).all() for k in range(n)):
            raise AssertionError("the cache differs from decoding")

        def read(photos: FilePhotos | CachedPhotos) -> Callable[[], int]:
            return lambda: sum(int(photos[k][0, 0, 0]) for k in range(n))  # the checksum touches every pixel

        seconds = interleaved({"cache": read(cached), "decoding": read(files)}, rounds)
        for name, values in seconds.items():
            yield row("input", name, n, "pictures/s", n / values)
        yield row("input", "cache / decoding", n, "ratio", seconds["decoding"] / seconds["cache"])


def growth(rounds: int, side: int = 96) -> Iterator[dict]:
    """Seconds of an evaluation against the number of pictures and of R's, and the exponent of a fitted power law."""
    processor, config = SRResNet(4, 16, 2).eval().to(memory_format=torch.channels_last), _evaluation(side)
    resnet18 = without_weights("resnet18")
    with tempfile.TemporaryDirectory() as place:
        files = photographs(Path(place), 160)
        photos, _ = open_cache(files, Path(place) / "cache", log=lambda _: None)
        sizes, sets = (20, 40, 80, 160), {}
        for n in sizes:
            labels = np.zeros(n, np.int64)
            sets[n] = PictureSet("photographs", "test", photos.subset(range(n)), labels, np.arange(n), ("photograph",), side)
        several = {k: [resnet18] * k for k in (1, 2, 4, 8)}
        work: dict[str, Callable[[], object]] = {}
        work |= {f"pictures {n}": lambda n=n: predict(config, sets[n], [resnet18], processor) for n in sizes}
        work |= {f"R's {k}": lambda k=k: predict(config, sets[20], several[k], processor) for k in several}
        seconds = interleaved(work, rounds)
        for axis, values in (("pictures", sizes), ("R's", several)):
            for n in values:
                yield row("growth", axis, n, "s", seconds[f"{axis} {n}"])
            medians = [np.median(seconds[f"{axis} {n}"]) for n in values]
            slope = np.polyfit(np.log(list(values)), np.log(medians), 1)[0]
            yield row("growth", f"{axis}: exponent", math.nan, "exponent", np.array([slope]))
    for processes in (1, 2, 4):
        if processes <= max(2, os.cpu_count() or 1):
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
                list(pool.map(_rate, [side] * processes))  # imports are not counted
                rates = sum(pool.map(_rate, [side] * processes))
            yield row("growth", "processes", processes, "pictures/s", np.array([rates]))


def boundary_distances(rounds: int, sizes: tuple[int, ...] = (25, 50, 100, 200), alone: int = 50) -> Iterator[dict]:
    """Seconds of distances along eight random directions, all pictures at once against one picture after the other."""
    net = load_classifier("resnet18_small", "digits")
    pictures, labels, _ = digits.render("test", max(sizes))
    start = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255)
    noise = torch.randn(8, *start.shape, generator=torch.Generator().manual_seed(0))
    lines = torch.stack([boundary.unit(one, "random") for one in noise])

    def measure(chosen: slice) -> boundary.Distances:
        n = len(labels[chosen])
        return boundary.distances(net, start[chosen], lines[:, chosen], np.full(n, 0.05), labels[chosen])

    def one_by_one() -> None:
        for k in range(alone):
            measure(slice(k, k + 1))

    work: dict[str, Callable[[], object]] = {f"pictures {n}": lambda n=n: measure(slice(n)) for n in sizes}
    seconds = interleaved(work | {"alone": one_by_one}, rounds)
    for n in sizes:
        yield row("boundaries", "pictures", n, "s", seconds[f"pictures {n}"])
    yield row("boundaries", "one picture after the other", alone, "s", seconds["alone"])
    yield row("boundaries", "one after the other / at once", math.nan, "ratio", seconds["alone"] / seconds[f"pictures {alone}"])
    slope = np.polyfit(np.log(sizes), np.log([np.median(seconds[f"pictures {n}"]) for n in sizes]), 1)[0]
    yield row("boundaries", "pictures: exponent", math.nan, "exponent", np.array([slope]))


def memory(_rounds: int, side: int = 96, sizes: tuple[int, ...] = (100, 200, 400, 800)) -> Iterator[dict]:
    """Peak memory of an evaluation against the number of pictures, from one batch on, each in a fresh process."""
    peaks = {n: _in_a_process(_peak, n, side) for n in sizes}
    for n, peak in peaks.items():
        yield row("memory", "pictures", n, "MB", np.array([peak]))
    slope = np.polyfit(np.log(sizes), np.log(list(peaks.values())), 1)[0]
    yield row("memory", "pictures: exponent", math.nan, "exponent", np.array([slope]))


def _in_a_process(function: Callable, *args: object) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def _small_evaluation(n: int, side: int) -> float:
    """Seconds of reading ``n`` cached photographs with one R, by one thread."""
    torch.set_num_threads(1)
    processor, config = SRResNet(4, 16, 2).eval().to(memory_format=torch.channels_last), _evaluation(side)
    with tempfile.TemporaryDirectory() as place:
        photos, _ = open_cache(photographs(Path(place), n), Path(place) / "cache", log=lambda _: None)
        pictures = PictureSet("photographs", "test", photos, np.zeros(n, np.int64), np.arange(n), ("photograph",), side)
        started = time.perf_counter()
        predict(config, pictures, [without_weights("resnet18")], processor)
        return time.perf_counter() - started


def _peak(n: int, side: int) -> float:
    """Megabytes that a fresh process needs at most."""
    _small_evaluation(n, side)
    status = Path("/proc/self/status")
    if status.is_file():  # of this program alone; ru_maxrss is not below that of the process which started it
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _rate(side: int) -> float:
    return 40 / _small_evaluation(40, side)


# of the rows, by their ``part``
ORDER = ("training step", "layers", "cross-evaluation", "input", "growth", "memory", "boundaries")
PARTS = {
    "step": training_step, "evaluation": cross_evaluation, "input": input_pictures, "growth": growth, "memory": memory,
    "boundaries": boundary_distances,
}  # fmt: skip


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
        measured = {entry["part"] for entry in rows}
        kept = pd.read_csv(path).to_dict("records")
        rows = sorted([*(row for row in kept if row["part"] not in measured), *rows], key=lambda row: ORDER.index(row["part"]))
    write_csv(path, rows, COLUMNS)
    if {row["part"] for row in rows} == set(ORDER):
        (root() / "figures").mkdir(exist_ok=True)
        plot_benchmark(pd.DataFrame(rows)).savefig(root() / "figures" / "benchmark.png", dpi=110)
