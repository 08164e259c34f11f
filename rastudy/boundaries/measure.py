"""What recognisers predict around plain P's pictures: along directions, on planes, on the way to RA's picture.

:func:`measure` writes ``results/<preset>/boundaries/<degradation>.npz``, from which :mod:`rastudy.boundaries.tables` makes its
tables. The parts that an interrupted run has finished are kept under ``runs/<preset>/boundaries`` and are not measured again.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rastudy import registry
from rastudy.boundaries import distances as boundary
from rastudy.config import Config, make_config
from rastudy.data.datasets import PictureSet
from rastudy.data.degradations import round_to_8_bits
from rastudy.data.loaders import evaluation_batches, load_pictures
from rastudy.errors import StudyError, all_differ
from rastudy.evaluation import metrics
from rastudy.evaluation.evaluate import first_pictures, weights_of
from rastudy.evaluation.predictions import load_predictions, save_predictions
from rastudy.models.classifiers import Classifier, load_classifier, weights_versions
from rastudy.paths import WEIGHTS, results_folder, root
from rastudy.presets import PRESETS, degradations
from rastudy.registry import is_variant, short_name
from rastudy.training.weights import load_models
from rastudy.transfer.black_box import Asked, open_black_box, processes

PICTURES, PICTURES_FULL = 200, 500  # test pictures, unless the preset sets boundary_pictures
PLANES = (20, 25)  # one picture in so many has its planes drawn, points along either axis; unless the preset says otherwise
PATH = tuple(np.linspace(-1, 2, 13).tolist())  # t of P_plain + t (P_ra - P_plain)
BANDS = (0.125, 0.25, 0.375)  # cycles per pixel, between the frequency bands
EDGES = 0.2  # share of pixels that count as edges: those where luminance is steepest
MODES = ("ra", "ra_unsupervised", "ra_transformer")  # trained with the preset's source; other sources give RA's direction alone


def boundaries_file(preset: str, task: str, strength: float) -> Path:
    return results_folder(preset) / "boundaries" / f"{short_name(task, strength).replace(' ', '')}.npz"


def command_of(preset: str) -> str:
    return f"rastudy boundaries --preset {preset}"


# --- what is measured


def sweep_command(config: Config) -> str:
    return f"rastudy sweep --preset {config.preset} --task {config.task}"


def main_source(preset: str) -> str:
    """The preset's R in the loss."""
    return PRESETS[preset]["source_arch"]


def run_of(config: Config, direction: str) -> Config:
    """The run of a direction such as ``ra:resnet18_small``, or of ``plain``, for the degradation of ``config``."""
    mode, _, source = direction.partition(":")
    same = {name: getattr(config, name) for name in ("strength", "data_dir", "cache_dir", "device")}
    return make_config(config.preset, config.task, mode, **same, **({"source_arch": source} if source else {}))


def has_weights(config: Config, direction: str) -> bool:
    """Whether the weights of a direction's P (see :func:`run_of`) are on disk."""
    return bool(weights_of(run_of(config, direction)))


def trained(preset: str) -> list[tuple[str, float]]:
    """The preset's degradations for which the weights of plain and of RA are on disk."""
    configs = [make_config(preset, task, "plain", strength=strength) for task, strength in degradations(preset)]
    ra = f"ra:{main_source(preset)}"
    return [(config.task, config.strength) for config in configs if has_weights(config, "plain") and has_weights(config, ra)]


def networks_of(config: Config, full: bool) -> list[str]:
    """The preset's recognisers; ``full``: also retrained copies and other families whose weights are on disk."""
    own = [name for name in config.targets if not is_variant(name)]
    if not full:
        return own
    again = [name for name in config.targets if is_variant(name) and "_on_" not in name]
    others = dict.fromkeys([*again, f"{main_source(config.preset)}_seed1", *registry.unlike_recognisers("small")])
    return own + [name for name in others if (WEIGHTS / config.dataset / f"{name}.safetensors").is_file()]


def own_networks(preset: str, task: str, strength: float) -> list[str]:
    """The recognisers that the study's tables of a degradation are of: no copies, families, black boxes beside them."""
    return networks_of(make_config(preset, task, "plain", strength=strength), full=False)


def directions_of(config: Config, full: bool) -> list[str]:
    """Names of the directions; ``full``: also RA's of the other sources whose weights are on disk."""
    source = main_source(config.preset)
    taught = [f"{mode}:{source}" for mode in MODES]
    if full:
        taught += [f"ra:{name}" for name in networks_of(config, full=False) if name != source]
    taught = [name for name in taught if has_weights(config, name)]
    return [*taught, "clean", *(f"gradient:{name}" for name in networks_of(config, full=False)), "white", "spectrum"]


def second_directions(source: str) -> dict[str, str]:
    """The second direction of a plane by the plane's kind; the first one is always RA's."""
    return {"random": "spectrum", "unsupervised": f"ra_unsupervised:{source}", "gradient": f"gradient:{source}",
            "pictures": "clean"}  # fmt: skip


def description(
    config: Config, directions: Sequence[str], readers: dict[str, str], n: int, pictures: PictureSet, boxes: Sequence[str] = ()
) -> dict:
    """Everything that a measurement depends on; StudyError where a run's weights are missing.

    ``readers``: the recognisers' versions by name; those among them that are known by their answers alone are ``boxes``.
    """
    source = main_source(config.preset)
    needed = dict.fromkeys(["plain", *(name for name in directions if name.startswith("ra")), f"ra:{source}"])
    weights = {name: weights_of(run_of(config, name)) for name in needed}
    if missing := [name for name, found in weights.items() if not found]:
        what = f"{config.preset}, {short_name(config.task, config.strength)}"
        raise StudyError(f"{what}: no weights of {missing[0]}; run {sweep_command(config)}")
    per_plane, grid = PRESETS[config.preset].get("boundary_planes", PLANES)
    about = {
        "preset": config.preset, "task": config.task, "strength": config.strength, "source": source, "n": n,
        "data": pictures.digest, "directions": list(directions), "weights": weights,
        "readers": readers,
        "reach": boundary.REACH, "steps": boundary.STEPS, "tolerance": boundary.TOLERANCE, "path": PATH, "grid": grid,
        "planes": max(1, n // per_plane), "kinds": [k for k, name in second_directions(source).items() if name in directions],
        "bands": BANDS, "edges": EDGES,
    }  # fmt: skip
    return about | ({"black_boxes": list(boxes)} if boxes else {})


def is_current(config: Config, wanted: dict, pictures: Callable[[int], PictureSet]) -> bool:
    """Whether the file holds at least what is wanted, measured with the weights that are on disk now."""
    path = boundaries_file(config.preset, config.task, config.strength)
    if not path.is_file():
        return False
    about = load_predictions(path).about
    readers, boxes = about["readers"], about.get("black_boxes", [])
    enough = set(wanted["directions"]) <= set(about["directions"]) and about["n"] >= wanted["n"]
    enough &= wanted["readers"].items() <= readers.items()
    try:
        networks = weights_versions([name for name in readers if name not in boxes], config.dataset)
        now = description(config, about["directions"], readers | networks, about["n"], pictures(about["n"]), boxes)
    except StudyError:  # the weights of one of its P's or R's are gone
        return False
    return enough and json.dumps(now) == json.dumps(about)


# --- measuring


def steps_of(
    config: Config, directions: Sequence[str], lq: torch.Tensor, gt: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Plain P's pictures (N, 3, H, W), not rounded, and the steps from there to other runs' pictures and to the clean ones."""
    device = config.torch_device()
    lq = lq.to(device)
    with torch.no_grad():
        start = load_models(run_of(config, "plain"))[0].to(device)(lq).cpu()
        steps = {}
        for name in (name for name in directions if name.startswith("ra")):
            processor, transformer = load_models(run_of(config, name))
            seen = processor.to(device)(lq)
            seen = seen if transformer is None else transformer.to(device)(round_to_8_bits(seen))
            steps[name] = seen.cpu() - start
    return start, steps | {"clean": gt - start}


def descent(classifier: Classifier, pictures: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W): the direction of steepest descent of a recogniser's cross-entropy."""
    device = classifier.mean.device
    x = pictures.detach().to(device).requires_grad_()
    F.cross_entropy(classifier(x).double(), label.to(device), reduction="sum").backward()  # double: R may be very sure
    return -x.grad.cpu()


def measure_part(
    config: Config, about: dict, part: int, planes: Sequence[int], black_boxes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Measure one evaluation batch; pictures are the last axis of every array.

    ``about``: from :func:`description`; ``planes``: places in the whole set of the pictures whose planes are drawn.
    """
    torch.set_num_threads(config.threads)
    pictures = first_pictures(load_pictures(config, "test"), about["n"])
    batch = next(itertools.islice(evaluation_batches(pictures, config), part, None))
    names, source, label = about["directions"], about["source"], batch.label.numpy()
    networks = [name for name in about["readers"] if name not in about.get("black_boxes", [])]
    nets = {name: load_classifier(name, config.dataset).to(config.torch_device()) for name in networks}
    boxes = [Asked(open_black_box(spec), pictures.classes) for spec in black_boxes]
    reads = [logits_of(net) for net in (*nets.values(), *boxes)]
    start, steps = steps_of(config, names, batch.lq, batch.gt)
    ra = steps[f"ra:{source}"]
    gradients = [name for name in names if name.startswith("gradient:")]
    steps |= {name: descent(nets[name.partition(":")[2]], start, batch.label) for name in gradients}
    generators = [torch.Generator().manual_seed(int(place)) for place in batch.index]
    for name, draw in (("white", boundary.random_like), ("spectrum", boundary.with_spectrum_of)):
        steps[name] = torch.cat([draw(one[None], generator) for one, generator in zip(ra, generators, strict=True)])
    lines = torch.stack([boundary.unit(steps[name], name) for name in names])
    step, uphill = boundary.rms(ra).numpy(), [names.index(name) for name in gradients]
    found = [boundary.distances(read, start, lines, step, label, uphill) for read in reads]
    arrays = {
        "label": label.astype(np.uint16), "group": pictures.groups[batch.index.numpy()].astype(np.int64), "step": step,
        "size": np.stack([boundary.rms(steps[name]).numpy() for name in names]),
        "value": np.stack([one.value for one in found]), "outside": np.stack([one.outside for one in found]),
        "right": np.stack([one.right for one in found]),
    }  # fmt: skip
    arrays |= along_path(reads, start, ra, batch.gt, batch.label)
    for name in ("clean", *(name for name in names if name.startswith("ra") and name.endswith(f":{source}"))):
        arrays |= {f"added.{name}.{what}": values for what, values in added(start, steps[name]).items()}
    drawn = [k for k, place in enumerate(batch.index.tolist()) if place in planes]
    maps = [[[boundary.label_map(read, start[k], plane.axes, plane.extent, about["grid"])[0] for read in reads]
             for plane in planes_of({name: step[k] for name, step in steps.items()}, source).values()]
            for k in drawn]  # fmt: skip
    shape = (len(drawn), len(about["kinds"]), len(reads), about["grid"], about["grid"])
    kind = np.uint8 if len(pictures.classes) < 256 else np.uint16
    return arrays | {"planes": np.moveaxis(np.array(maps).reshape(shape), 0, -1).astype(kind)}


def logits_of(net: nn.Module) -> boundary.Logits:
    """Logits on the CPU, whichever device R is on."""
    device = next(net.buffers()).device
    return lambda pictures: net(pictures.to(device)).float().cpu()


class Plane(NamedTuple):
    """A plane through plain's picture; coordinates are in RMS.

    ``extent``: lowest and highest coordinate along each axis; ``anchors``: the coordinates of runs' pictures, by mode.
    """

    axes: tuple[torch.Tensor, torch.Tensor]
    extent: tuple[float, float, float, float]
    anchors: dict[str, tuple[float, float]]


def planes_of(steps: dict[str, torch.Tensor], source: str) -> dict[str, Plane]:
    """The planes through one plain picture, by kind, of the steps (3, H, W) that are given.

    The first axis is RA's direction. The extent is 1.5 RA steps back, 3 forward and 2.25 to either side; the plane of kind
    ``pictures`` shows plain's, RA's and the clean picture with a margin of a quarter.
    """
    ra, planes = steps[f"ra:{source}"], {}
    size = float(boundary.rms(ra))
    for kind, name in second_directions(source).items():
        if name not in steps:
            continue
        axes = boundary.plane(ra, steps[name], f"RA's direction and {name}")
        anchors = {"plain": (0.0, 0.0), "ra": (size, 0.0)}
        extent = (-1.5 * size, 3 * size, -2.25 * size, 2.25 * size)
        if kind in ("unsupervised", "pictures"):
            x, y = (float((steps[name].double() * axis.double()).mean()) for axis in axes)
            anchors[name.partition(":")[0]] = (x, y)
        if kind == "pictures":
            left, right, low, high = min(0.0, x), max(size, x), min(0.0, y), max(0.0, y)
            margin = max(right - left, high - low) / 4
            extent = (left - margin, right + margin, low - margin, high + margin)
        planes[kind] = Plane(axes, extent, anchors)
    return planes


@torch.inference_mode()
def along_path(
    reads: Sequence[boundary.Logits], start: torch.Tensor, step: torch.Tensor, gt: torch.Tensor, label: torch.Tensor
) -> dict[str, np.ndarray]:
    """``path_hits`` (T, R, N) bool, ``path_mse`` and ``path_ssim`` (T, N) of start + t step for the t of ``PATH``."""
    found = []
    for t in PATH:
        seen = start + t * step
        hits = np.stack([(read(seen).argmax(1) == label).numpy() for read in reads])
        found.append((hits, metrics.mse_per_image(seen, gt).numpy(), metrics.ssim_per_image(seen, gt).numpy()))
    names = ("path_hits", "path_mse", "path_ssim")
    return {name: np.stack(values) for name, values in zip(names, zip(*found, strict=True), strict=True)}


def added(start: torch.Tensor, step: torch.Tensor) -> dict[str, np.ndarray]:
    """What a step adds to pictures (N, 3, H, W): shares of its energy, and its size in the 255 levels of a file.

    ``bands`` (4, N): by frequency (``BANDS``); ``edges`` (N,): on the ``EDGES`` of pixels where plain's luminance is steepest;
    ``colour`` (N,): what differs between the channels; ``rms``, ``largest`` (N,).
    """
    energy = step.double().square().sum((1, 2, 3))
    spectrum = torch.fft.fft2(step.double()).abs().square().sum(1) / (step.shape[2] * step.shape[3])
    fy, fx = (torch.fft.fftfreq(n) for n in step.shape[2:])
    band = torch.bucketize((fy[:, None] ** 2 + fx[None, :] ** 2).sqrt(), torch.tensor(BANDS))
    bands = torch.stack([(spectrum * (band == k)).sum((1, 2)) / energy for k in range(len(BANDS) + 1)])
    grey = F.pad(start.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).view(1, 1, 3, 3)
    slope = (F.conv2d(grey, sobel).square() + F.conv2d(grey, sobel.mT).square()).flatten(1)
    steep = slope >= slope.quantile(1 - EDGES, 1, keepdim=True)
    edges = (step.double().square().sum(1).flatten(1) * steep).sum(1) / energy
    colour = 1 - 3 * step.double().mean(1).square().sum((1, 2)) / energy
    size = {"rms": 255 * boundary.rms(step), "largest": 255 * step.abs().amax((1, 2, 3))}
    values = {"bands": bands, "edges": edges, "colour": colour, **size}
    return {name: value.double().numpy() for name, value in values.items()}


# --- the whole set, in parts


def measure(
    preset: str, keys: Sequence[tuple[str, float]] = (), full: bool = False, jobs: int = 1, n: int = 0,
    log: Callable[[str], object] = print, black_boxes: Sequence[str] = (), **where: str,
) -> list[Path]:  # fmt: skip
    """Measure degradations of a preset, unless their files hold them already; returns the files.

    Args:
        keys: (task, strength); none: all of the preset's.
        full: also other sources' RA, retrained copies and other families of recognisers whose weights are on disk.
        jobs: one-thread processes that work side by side.
        n: test pictures, at most the whole set; 0: the preset's number.
        black_boxes: recognisers known by their answers alone, that read what is measured rounded to 8 bits: see
            :func:`rastudy.transfer.black_box.open_black_box`.
        where: ``data_dir``, ``cache_dir`` and ``device`` of the runs.
    """
    if n < 0:
        raise StudyError(f"pictures={n} is not valid; use 0 or more; 0: the preset's number")
    files, boxes, jobs = [], [open_black_box(spec) for spec in black_boxes], processes(jobs, black_boxes)
    for task, strength in keys or degradations(preset):
        config = make_config(preset, task, "plain", strength=strength, **where)
        pictures = partial(first_pictures, load_pictures(config, "test"))
        count = n or PRESETS[preset].get("boundary_pictures", PICTURES_FULL if full else PICTURES)
        count = len(pictures(count))  # the set may be smaller
        networks, names = weights_versions(networks_of(config, full), config.dataset), [box.name for box in boxes]
        all_differ("recognisers", [*networks, *names], "leave one out, or give its file or function another name")
        readers = networks | {box.name: box.version for box in boxes}
        about = description(config, directions_of(config, full), readers, count, pictures(count), names)
        files.append(boundaries_file(preset, task, strength))
        if is_current(config, about, pictures):
            log(f"{short_name(task, strength)}: measured already")
        else:
            save_predictions(files[-1], _in_parts(config, about, pictures(count), jobs, log, black_boxes), about)
    return files


def _in_parts(
    config: Config, about: dict, pictures: PictureSet, jobs: int, log: Callable, black_boxes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Measure the batches whose files are missing, and join all of them along their last axis."""
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    folder = root() / "runs" / config.preset / "boundaries"
    per_batch = len(next(evaluation_batches(pictures, config)).label)
    paths = [folder / f"{name}-{k}.npz" for k in range(-(-about["n"] // per_batch))]
    places = np.linspace(0, about["n"] - 1, about["planes"]).astype(int).tolist()
    todo = [k for k, path in enumerate(paths) if not path.is_file()]
    started, what = time.perf_counter(), f"{short_name(config.task, config.strength)}: {about['n']} pictures"
    log(f"{what}, {len(about['directions'])} directions, {len(about['readers'])} recognisers")
    work = partial(measure_part, config, about, planes=places, black_boxes=black_boxes)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        results = pool.map(work, todo) if jobs > 1 and len(todo) > 1 else map(work, todo)
        for done, (k, arrays) in enumerate(zip(todo, results, strict=True), start=1):
            save_predictions(paths[k], arrays, about)
            seconds = time.perf_counter() - started
            left = seconds / done * (len(todo) - done)
            log(f"{what}, part {done} of {len(todo)}, {seconds:.0f} s, {left:.0f} s left")
    parts = [load_predictions(path).arrays for path in paths]
    arrays = {key: np.concatenate([part[key] for part in parts], -1) for key in parts[0]}
    return {key: a.astype(np.float32) if a.dtype == np.float64 else a for key, a in arrays.items()}
