"""What the recognisers say around plain P's pictures: along directions, on planes, on the way to RA's. ``measure`` keeps it.

``results/<preset>/boundaries/<degradation>.npz`` holds what :mod:`rastudy.boundaries.tables` makes tables of. Parts of it that an
interrupted run has finished lie under ``runs/<preset>/boundaries`` and are not measured again.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rastudy import registry
from rastudy.boundaries import distances as boundary
from rastudy.config import Config, make_config
from rastudy.data.datasets import PictureSet
from rastudy.data.degradations import round_to_8_bits
from rastudy.data.loaders import evaluation_batches, load_pictures
from rastudy.errors import StudyError
from rastudy.evaluation import metrics
from rastudy.evaluation.evaluate import first_pictures, weights_of
from rastudy.evaluation.predictions import load_predictions, save_predictions
from rastudy.models.classifiers import Classifier, load_classifier, weights_versions
from rastudy.paths import WEIGHTS, results_folder, root
from rastudy.presets import PRESETS, degradations
from rastudy.registry import is_variant, short_name
from rastudy.training.run_store import load_models

PICTURES, PICTURES_FULL = 200, 500  # of the test set: the first ones
FEWER = {"smoke": 20, "imagenet_lite": 60}  # photographs at equal distances
PER_PLANE, GRID = 20, 25  # of so many pictures the planes of one are drawn; places along either axis
PLANE_KINDS = ("random", "unsupervised", "gradient", "pictures")  # the second direction of a plane; the first is RA's
PATH = tuple(np.linspace(-1, 2, 13).tolist())  # t of P_plain + t (P_ra - P_plain)
BANDS = (0.125, 0.25, 0.375)  # cycles a pixel, between the frequency bands
EDGES = 0.2  # share of the pixels that count as edges: those of the steepest luminance
MODES = ("ra", "ra_unsupervised", "ra_transformer")  # of the preset's source; other sources have ra's direction


def boundaries_file(config: Config) -> Path:
    return results_folder(config.preset) / "boundaries" / f"{short_name(config.task, config.strength).replace(' ', '')}.npz"


def command_of(preset: str) -> str:
    return f"rastudy boundaries --preset {preset}"


# --- what is measured


def sweep_command(config: Config) -> str:
    return f"rastudy sweep --preset {config.preset} --task {config.task}"


def has_weights(config: Config, direction: str) -> bool:
    """Whether the P of a direction such as ``ra:resnet18_small`` lies here."""
    return bool(weights_of(taught_by(config, direction)))


def main_source(config: Config) -> str:
    return PRESETS[config.preset]["source_arch"]


def taught_by(config: Config, direction: str) -> Config:
    """The run of a direction such as ``ra:resnet18_small``."""
    mode, source = direction.split(":")
    return _beside(config, mode, source_arch=source)


def plain_of(config: Config) -> Config:
    return _beside(config, "plain")


def _beside(config: Config, mode: str, **changes: str) -> Config:
    where = {name: getattr(config, name) for name in ("strength", "data_dir", "cache_dir", "device")}
    return make_config(config.preset, config.task, mode, **where, **changes)


def trained(preset: str) -> list[tuple[str, float]]:
    """The preset's degradations whose plain and RA lie here."""
    configs = [make_config(preset, task, "plain", strength=strength) for task, strength in degradations(preset)]
    return [(c.task, c.strength) for c in configs if weights_of(c) and has_weights(c, f"ra:{main_source(c)}")]


def readers_of(config: Config, full: bool) -> list[str]:
    """The five, or the preset's own; ``full``: and second trainings and other families, where there are weights of them."""
    own = [name for name in config.targets if not is_variant(name)]
    if not full:
        return own
    again = [name for name in config.targets if is_variant(name) and "_on_" not in name]
    others = dict.fromkeys([*again, f"{main_source(config)}_seed1", *registry.unlike_recognisers("small")])
    return own + [name for name in others if (WEIGHTS / config.dataset / f"{name}.safetensors").is_file()]


def directions_of(config: Config, full: bool) -> list[str]:
    """Names of the directions; of other sources (``full``) those whose P is there."""
    source = main_source(config)
    taught = [f"{mode}:{source}" for mode in MODES if has_weights(config, f"{mode}:{source}")]
    if full and source in registry.main_recognisers():
        others = [f"ra:{name}" for name in registry.main_recognisers() if name != source]
        taught += [name for name in others if has_weights(config, name)]
    return [*taught, "clean", *(f"gradient:{name}" for name in readers_of(config, full=False)), "white", "spectrum"]


def description(config: Config, directions: Sequence[str], readers: Sequence[str], n: int, pictures: PictureSet) -> dict:
    """All that a measurement depends on."""
    plain, source = plain_of(config), main_source(config)
    weights = {"plain": weights_of(plain)} | {d: weights_of(taught_by(config, d)) for d in directions if d.startswith("ra")}
    weights.setdefault(f"ra:{source}", {})
    for name, found in weights.items():
        if not found:
            what = f"{config.preset}, {short_name(config.task, config.strength)}"
            raise StudyError(f"{what}: no weights of {name}; run {sweep_command(config)}")
    constants = {"reach": boundary.REACH, "steps": boundary.STEPS, "tolerance": boundary.TOLERANCE, "path": PATH, "grid": GRID,
                 "planes": max(1, n // PER_PLANE),
                 "kinds": [kind for kind in PLANE_KINDS if kind != "unsupervised" or f"ra_unsupervised:{source}" in directions],
                 "bands": BANDS, "edges": EDGES}  # fmt: skip
    return {
        "preset": config.preset, "task": config.task, "strength": config.strength, "source": source, "n": n,
        "data": pictures.digest, "directions": list(directions), "weights": weights,
        "readers": weights_versions(list(dict.fromkeys((*readers, *readers_of(config, False)))), config.dataset), **constants,
    }  # fmt: skip


def is_current(config: Config, wanted: dict, pictures: Callable[[int], PictureSet]) -> bool:
    """Whether a file holds at least what is wanted, measured with the P's and R's that lie here now."""
    path = boundaries_file(config)
    if not path.is_file():
        return False
    about = load_predictions(path).about
    enough = all(set(wanted[part]) <= set(about[part]) for part in ("directions", "readers")) and about["n"] >= wanted["n"]
    try:
        now = description(config, about["directions"], list(about["readers"]), about["n"], pictures(about["n"]))
    except StudyError:  # of a P or an R that is not here any more
        return False
    return enough and json.dumps(now) == json.dumps(about)


# --- measuring


def steps_of(config: Config, directions: Sequence[str], lq: torch.Tensor, gt: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Plain P's pictures (N, 3, H, W), as P gives them, and the steps from there to what R sees of other runs and to clean."""
    device = config.torch_device()
    with torch.no_grad():
        start = load_models(plain_of(config))[0].to(device)(lq.to(device)).cpu()
        steps = {}
        for name in directions:
            if name.startswith("ra"):
                processor, transformer = (net and net.to(device) for net in load_models(taught_by(config, name)))
                seen = processor(lq.to(device))
                steps[name] = (seen if transformer is None else transformer(round_to_8_bits(seen))).cpu() - start
    return start, steps | {"clean": gt - start}


def descent(classifier: Classifier, pictures: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W): where the cross-entropy of a recogniser falls fastest."""
    x = pictures.detach().to(classifier.mean.device).requires_grad_()
    F.cross_entropy(classifier(x).double(), label.to(x.device), reduction="sum").backward()  # double: R may be very sure
    return -x.grad.cpu()


def measure_part(config: Config, about: dict, part: int, planes: Sequence[int]) -> dict[str, np.ndarray]:
    """Measure one evaluation batch; pictures are the last axis of every array.

    Args:
        planes: places in the whole set whose planes are drawn.
    """
    torch.set_num_threads(config.threads)
    pictures = first_pictures(load_pictures(config, "test"), about["n"])
    batch = next(itertools.islice(evaluation_batches(pictures, config), part, None))
    label, device = batch.label.numpy(), config.torch_device()
    names = about["directions"]
    start, steps = steps_of(config, names, batch.lq, batch.gt)
    ra = steps[f"ra:{about['source']}"]
    nets = {name: load_classifier(name, config.dataset).to(device) for name in about["readers"]}
    generators = [torch.Generator().manual_seed(int(place)) for place in batch.index]
    for name in names:
        if name.startswith("gradient:"):
            steps[name] = descent(nets[name.partition(":")[2]], start, batch.label)
    for name, draw in (("white", boundary.random_like), ("spectrum", boundary.with_spectrum_of)):
        steps[name] = torch.cat([draw(one[None], generator) for one, generator in zip(ra, generators, strict=True)])
    lines = torch.stack([boundary.unit(steps[name], name) for name in names])
    step = boundary.rms(ra).numpy()
    uphill = [k for k, name in enumerate(names) if name.startswith("gradient:")]
    reads = {name: reader_of(net) for name, net in nets.items()}
    found = [boundary.distances(read, start, lines, step, label, uphill) for read in reads.values()]
    arrays = {
        "label": label.astype(np.uint16), "group": pictures.groups[batch.index.numpy()].astype(np.int64), "step": step,
        "size": np.stack([boundary.rms(steps[name]).numpy() for name in names]),
        "value": np.stack([one.value for one in found]), "outside": np.stack([one.outside for one in found]),
        "right": np.stack([one.right for one in found]),
    }  # fmt: skip
    arrays |= along_path(list(reads.values()), start, ra, batch.gt, batch.label)
    for name in ("clean", *(name for name in names if name.partition(":")[2] == about["source"] and name[:2] == "ra")):
        arrays |= {f"added.{name}.{what}": values for what, values in added(start, steps[name]).items()}
    drawn = [k for k, place in enumerate(batch.index.tolist()) if place in planes]
    kind = np.uint8 if len(pictures.classes) < 256 else np.uint16
    maps = [[[boundary.label_map(read, start[k], axes, extent, GRID)[0] for read in reads.values()]
             for axes, extent, _ in planes_of({name: step[k] for name, step in steps.items()}, about["source"]).values()]
            for k in drawn]  # fmt: skip
    empty = np.zeros((0, len(about["kinds"]), len(reads), GRID, GRID))
    return arrays | {"planes": np.moveaxis(np.array(maps) if maps else empty, 0, -1).astype(kind)}


def reader_of(net: Classifier) -> Callable[[torch.Tensor], torch.Tensor]:
    """Pictures (N, 3, H, W) to logits on the CPU, wherever R lies."""
    return lambda pictures: net(pictures.to(net.mean.device)).float().cpu()


def planes_of(steps: dict[str, torch.Tensor], source: str) -> dict[str, tuple]:
    """The planes through one plain picture, by kind: two axes, the extent (in RMS), and the places of runs' pictures on it.

    The first axis is RA's direction. The extent is 1.5 RA steps back, 3 on and 2.25 to either side; the plane through plain's,
    RA's and the clean picture shows all three with a quarter to spare.
    """
    ra, planes = steps[f"ra:{source}"], {}
    seconds = {
        "random": "spectrum",
        "unsupervised": f"ra_unsupervised:{source}",
        "gradient": f"gradient:{source}",
        "pictures": "clean",
    }
    size = float(boundary.rms(ra))
    for kind, name in seconds.items():
        if name not in steps:  # of a run that is not here
            continue
        axes = boundary.plane(ra, steps[name], f"RA's direction and {name}")
        at = lambda step, axes=axes: tuple(float((step.double() * axis.double()).mean()) for axis in axes)  # noqa: E731
        anchors = {"plain": (0.0, 0.0), "ra": (size, 0.0)}
        extent = (-1.5 * size, 3 * size, -2.25 * size, 2.25 * size)
        if kind in ("unsupervised", "pictures"):
            anchors[name.partition(":")[0]] = at(steps[name])  # named as its mode
        if kind == "pictures":
            x, y = zip(*anchors.values(), strict=True)
            margin = max(max(x) - min(x), max(y) - min(y)) / 4
            extent = (min(x) - margin, max(x) + margin, min(y) - margin, max(y) + margin)
        planes[kind] = (axes, extent, anchors)
    return planes


@torch.inference_mode()
def along_path(
    reads: Sequence[Callable], start: torch.Tensor, step: torch.Tensor, gt: torch.Tensor, label: torch.Tensor
) -> dict[str, np.ndarray]:
    """``path_hits`` (T, R, N) bool, ``path_mse`` and ``path_ssim`` (T, N) of start + t step for the t of ``PATH``."""
    hits, mse, ssim = [], [], []
    for t in PATH:
        seen = start + t * step
        hits.append(np.stack([(read(seen).argmax(1) == label).numpy() for read in reads]))
        mse.append(metrics.mse_per_image(seen, gt).numpy())
        ssim.append(metrics.ssim_per_image(seen, gt).numpy())
    return {"path_hits": np.stack(hits), "path_mse": np.stack(mse), "path_ssim": np.stack(ssim)}


def added(start: torch.Tensor, step: torch.Tensor) -> dict[str, np.ndarray]:
    """What a step adds to pictures (N, 3, H, W): shares of its energy, and its size in the 255 levels of a file.

    ``bands`` (4, N): by frequency (``BANDS``); ``edges`` (N,): on the ``EDGES`` of pixels where plain's luminance is steepest;
    ``colour`` (N,): what is not the same in all three channels; ``rms``, ``largest`` (N,).
    """
    energy = step.double().square().sum((1, 2, 3))
    spectrum = torch.fft.fft2(step.double()).abs().square().sum(1) / (step.shape[2] * step.shape[3])
    fy, fx = (torch.fft.fftfreq(n) for n in step.shape[2:])
    band = torch.bucketize((fy[:, None] ** 2 + fx[None, :] ** 2).sqrt(), torch.tensor(BANDS))
    bands = torch.stack([(spectrum * (band == k)).sum((1, 2)) / energy for k in range(len(BANDS) + 1)])
    grey = F.pad(start.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).view(1, 1, 3, 3)
    slope = (F.conv2d(grey, sobel).square() + F.conv2d(grey, sobel.mT).square()).flatten(1)
    steep = slope >= slope.quantile(1 - EDGES, 1, keepdim=True) if slope.shape[1] < 2**24 else slope > slope.mean(1, True)
    there = (step.double().square().sum(1).flatten(1) * steep).sum(1) / energy
    colour = 1 - 3 * step.double().mean(1).square().sum((1, 2)) / energy
    values = {
        "bands": bands,
        "edges": there,
        "colour": colour,
        "rms": 255 * boundary.rms(step),
        "largest": 255 * step.abs().amax((1, 2, 3)),
    }
    return {name: value.double().numpy() for name, value in values.items()}


# --- the whole set, in parts


def measure(
    preset: str, keys: Sequence[tuple[str, float]] = (), full: bool = False, jobs: int = 1, n: int = 0,
    log: Callable[[str], object] = print, **where: str,
) -> list[Path]:  # fmt: skip
    """Measure degradations of a preset, unless their files hold them already; ``jobs`` one-thread processes side by side.

    Args:
        keys: (task, strength); none: all of the preset's.
        full: also other sources' RA, second trainings and other families of readers, where there are weights of them.
        n: test pictures, at most those that there are; 0: ``PICTURES``, ``PICTURES_FULL`` or ``FEWER``.
        where: ``data_dir``, ``cache_dir`` and ``device``, as of a run.

    Returns:
        the files.
    """
    files = []
    for task, strength in keys or degradations(preset):
        config = make_config(preset, task, "plain", strength=strength, **where)
        whole = load_pictures(config, "test")
        pictures = lambda count, whole=whole: first_pictures(whole, count)  # noqa: E731
        count = min(n or FEWER.get(preset, PICTURES_FULL if full else PICTURES), len(whole))
        about = description(config, directions_of(config, full), readers_of(config, full), count, pictures(count))
        files.append(boundaries_file(config))
        if is_current(config, about, pictures):
            log(f"{short_name(task, strength)}: measured already")
            continue
        arrays = _in_parts(config, about, pictures(count), jobs, log)
        save_predictions(files[-1], arrays, about)
    return files


def _in_parts(config: Config, about: dict, pictures: PictureSet, jobs: int, log: Callable) -> dict[str, np.ndarray]:
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    folder = root() / "runs" / config.preset / "boundaries"
    per_batch = len(next(evaluation_batches(pictures, config)).label)
    paths = [folder / f"{name}-{k}.npz" for k in range(-(-about["n"] // per_batch))]
    places = np.linspace(0, about["n"] - 1, about["planes"]).astype(int).tolist()
    todo = [k for k, path in enumerate(paths) if not path.is_file()]
    started, what = time.perf_counter(), f"{short_name(config.task, config.strength)}: {about['n']} pictures"
    log(f"{what}, {len(about['directions'])} directions, {len(about['readers'])} recognisers")
    arguments = [(config, about, k, places) for k in todo]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        results = pool.map(measure_part, *zip(*arguments, strict=True)) if jobs > 1 and len(todo) > 1 else (
            measure_part(*one) for one in arguments)  # fmt: skip
        for done, (k, arrays) in enumerate(zip(todo, results, strict=False), start=1):
            save_predictions(paths[k], arrays, about)
            seconds = time.perf_counter() - started
            left = seconds / done * (len(todo) - done)
            log(f"{what}, part {done} of {len(todo)}, {seconds:.0f} s, {left:.0f} s left")
    parts = [load_predictions(path).arrays for path in paths]
    arrays = {key: np.concatenate([part[key] for part in parts], -1) for key in parts[0]}
    return {key: a.astype(np.float32) if a.dtype == np.float64 else a for key, a in arrays.items()}
