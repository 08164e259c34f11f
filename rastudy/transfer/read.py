"""Reading: a direction's readers say what they see in what trained P's give; what they say per picture is kept."""

from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rastudy.config import Config, make_config
from rastudy.data.datasets import PictureSet, load_split
from rastudy.data.degradations import round_to_8_bits
from rastudy.data.loaders import evaluation_batches, load_pictures
from rastudy.errors import StudyError
from rastudy.evaluation.average_precision import detect
from rastudy.evaluation.evaluate import weights_of
from rastudy.evaluation.predictions import save_predictions
from rastudy.models import classical
from rastudy.models.classifiers import load_classifier, weights_versions
from rastudy.models.detectors import load_detector
from rastudy.models.processors import apply_processor
from rastudy.paths import borrow
from rastudy.presets import PRESETS, degradations
from rastudy.training.train import check_classes
from rastudy.training.weights import load_models, weights_file
from rastudy.transfer.black_box import Asked, is_black_box, open_black_box, processes
from rastudy.transfer.directions import BLACK_BOX, Variant, runs, sweep_command, variants
from rastudy.transfer.kept import keep_parts, load_kept, load_part, part_file
from rastudy.transfer.upload import upload

Arrays = dict[str, np.ndarray]


@dataclass
class Report:
    """What reading a run gave.

    ``parts``: (variant, file) of what is not yet in the direction's file, ``read``: how many of them are new. ``to_ask``: calls
    that a black box would cost. ``unknown``: labels that a black box gave and no class has, with their number.
    """

    parts: list[tuple[str, Path]] = field(default_factory=list)
    read: int = 0
    to_ask: int = 0
    unknown: Counter[str] = field(default_factory=Counter)


def read_direction(
    preset: str, direction: str, data_dir: str = "", jobs: int = 1, black_box: str = BLACK_BOX, counting: bool = False,
    only: Collection[str] = (), log: Callable[[str], object] = print,
) -> int:  # fmt: skip
    """Have a direction's readers read every run that they have not read; ``jobs`` one-thread processes side by side.

    Args:
        only: the ids of the runs to read; by default all of the direction's.

    Returns:
        calls that a black box would cost (``counting``: nothing else happens), else 0.
    """
    if not counting:
        borrow(preset)
    found = [run.config for run in runs(preset, direction, data_dir, black_box)]
    todo, kept = [run for run in found if not only or run.run_id in only], load_kept(preset, direction)
    held = [{name: read[run.run_id].about for name, read in kept.items() if run.run_id in read} for run in todo]
    read_one = partial(read_run, direction=direction, black_box=black_box, counting=counting)
    if (jobs := processes(jobs, [black_box] if direction == "black_box" else [])) > 1:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            reports = list(pool.map(read_one, todo, held))
    else:
        reports = list(map(read_one, todo, held))
    if counting:
        return sum(report.to_ask for report in reports)
    keep_parts(preset, direction, [part for report in reports for part in report.parts])
    log(f"{direction}: {len(todo)} runs, {sum(report.read for report in reports)} predictions written")
    unknown = sum((report.unknown for report in reports), Counter[str]())
    if unknown:
        log(f"WARNING: answers that are no class count as wrong: {dict(unknown)}")
    return 0


def read_run(run: Config, held: dict[str, dict], direction: str, black_box: str = BLACK_BOX, counting: bool = False) -> Report:
    """Have a direction's readers read one run, unless they have; each variant's predictions become a part of their own.

    Args:
        held: what the direction's file says about the run, by variant.

    Raises:
        StudyError: the run's weights are missing.
    """
    report, groups = Report(), dict[tuple, list[Variant]]()
    for variant in variants(run.preset, direction, black_box):
        if variant.dataset and _reads(run, variant):
            groups.setdefault((variant.dataset, variant.pictures), []).append(variant)
    for together in groups.values():
        _read_together(run, held, direction, together, counting, report)
    return report


def _reads(run: Config, variant: Variant) -> bool:
    """Whether a variant reads a run: every run of its data set, but clean pictures for one degradation only."""
    axes = variant.axes or {}
    first = next(key for key in degradations(run.preset) if not axes.get("tasks") or key[0] in axes["tasks"])
    again = run.mode == "clean" and (run.task, run.strength) != first
    return run.dataset in axes.get("datasets", (PRESETS[run.preset]["dataset"],)) and not again


def _read_together(
    run: Config, held: dict[str, dict], direction: str, together: list[Variant], counting: bool, report: Report
) -> None:
    """Read one run for variants that share pictures: P runs once per picture. Adds to the report."""
    config, weights, todo = _settings_of_pictures(run, together[0]), weights_of(run), []
    sizes = config.train_images, config.val_images, config.image_size
    train = partial(_training_pictures, config.dataset, config.data_dir, *sizes)
    known = {spec: reader_of(spec, config.dataset, train) for variant in together for spec in variant.readers}
    versions = {variant.name: dict(known[spec][:2] for spec in variant.readers) for variant in together}
    for variant in together:
        part = part_file(run, direction, variant.name)
        if _is_current(held.get(variant.name), weights, versions[variant.name]):
            continue
        if (read := load_part(part)) and _is_current(read.about, weights, versions[variant.name]):  # was interrupted
            report.parts.append((variant.name, part))
        else:
            todo.append(variant)
    if not todo:
        return
    if not run.is_baseline and not weights:
        raise StudyError(f"{weights_file(run)}: no such weights; {sweep_command(run.preset, direction)} trains what is missing")
    pictures = load_pictures(config, "test")
    wanted = {spec: known[spec] for variant in todo for spec in variant.readers}
    unknown = {spec: Counter[str]() for spec in wanted}
    if config.dataset == "scenes":
        found = {"": _detections(run, pictures, [name for name, *_ in wanted.values()])}
    else:
        recognisers = [load(pictures.classes, counting).to(run.torch_device()) for *_, load in wanted.values()]
        if counting and all(isinstance(reader, Asked) and not reader.box.keeps for reader in recognisers):
            report.to_ask += len(pictures) * len(todo)
            return
        found = first_classes(run, pictures, recognisers, {variant.way for variant in todo})
        for spec, asked in zip(wanted, recognisers, strict=True):
            if isinstance(asked, Asked):
                report.to_ask += asked.to_ask
                unknown[spec] = asked.unknown
    if counting:
        return
    about = {"config": run.science(), "run_id": run.run_id, "split": "test", "data": pictures.digest, "name": pictures.name,
             "weights": weights}  # fmt: skip
    of_pictures: Arrays = {"label": pictures.labels.astype(np.uint16), "group": pictures.groups.astype(np.int32)}
    for variant in todo:
        part, rows = part_file(run, direction, variant.name), [list(wanted).index(spec) for spec in variant.readers]
        seen = {name: values[rows] if name == "top5" else values for name, values in found[variant.way].items()}
        not_known = sum((unknown[spec] for spec in variant.readers), Counter[str]())
        of_readers = {"targets": versions[variant.name], "unknown": dict(not_known)}
        save_predictions(part, seen | of_pictures, about | of_readers)
        report.unknown.update(not_known)
        report.parts.append((variant.name, part))
    report.read += len(todo)


def _is_current(about: dict | None, weights: dict[str, str], readers: dict[str, str]) -> bool:
    """Whether these readers have read this P; where its weights are not here (a later seed's), any P of the run counts."""
    return about is not None and about["targets"] == readers and (not weights or about["weights"] == weights)


def _settings_of_pictures(run: Config, variant: Variant) -> Config:
    """The run's settings with the pictures that it is read on: its own, or another set's test pictures."""
    if variant.pictures:
        other = make_config(variant.pictures, run.task, "none", strength=run.strength)
        places = ("dataset", "data_dir", "resize", "image_size", "val_images", "test_images")
        return replace(run, mode="none", **{name: getattr(other, name) for name in places})
    if variant.dataset == run.dataset:
        return run
    home = make_config(run.preset, run.task, strength=run.strength)
    n = home.test_images if variant.dataset.startswith(home.dataset) else 0  # of another data set all
    sizes: dict[str, Any] = {"image_size": home.image_size, "test_images": n}
    sizes |= PRESETS[run.preset].get("datasets", {}).get(variant.dataset, {})
    return replace(run, dataset=variant.dataset, mode="none", **sizes)


@lru_cache(maxsize=1)
def _training_pictures(dataset: str, data_dir: str, n: int, n_val: int, size: int) -> PictureSet:
    """What the shallow readers are fitted to; read once for all runs, since a folder takes a minute."""
    return load_split(dataset, "train", n, n_val=n_val, data_dir=data_dir, size=size)


def reader_of(spec: str, dataset: str, train: Callable[[], PictureSet]) -> tuple[str, str, Callable[..., nn.Module]]:
    """A reader's name, its version, and what loads it, given its pictures' classes and whether calls are only counted.

    ``spec``: a network by its name, one of ``classical.SHALLOW`` (fitted to the pictures that ``train`` gives), or a black box.
    """
    if spec in classical.SHALLOW:
        return spec, classical.version(spec, train()), lambda *_: classical.load_shallow(spec, train())
    if is_black_box(spec):
        box = open_black_box(spec)
        return box.name, box.version, partial(Asked, box)
    ((name, version),) = weights_versions([spec], dataset).items()
    return name, version, lambda *_: load_classifier(spec, dataset)


def _networks(run: Config) -> tuple[nn.Module | None, nn.Module | None]:
    """P and T of a run; a baseline has neither."""
    torch.set_num_threads(run.threads)
    return (None, None) if run.is_baseline else load_models(run)


@torch.inference_mode()
def first_classes(run: Config, pictures: PictureSet, readers: list[nn.Module], ways: set[str]) -> dict[str, Arrays]:
    """Every reader's first class for what a run's P gives, by the way that the picture takes: ``top5``, (R, N, 1) uint16.

    P runs once per picture. Its picture is rounded to 8 bits and goes its way; T, where the run has one, stands before R.
    """
    check_classes(readers, pictures.classes, pictures.size)
    processor, transformer = _networks(run)
    found: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    device = run.torch_device()
    for batch in evaluation_batches(pictures, run):
        picture = round_to_8_bits(apply_processor(processor, batch.lq.to(device), batch.gt.to(device), run))
        for way in ways:
            sent = upload(picture, way) if way else picture
            sent = sent if transformer is None else transformer(sent)
            found[way].append(np.stack([reader(sent).argmax(1).cpu().numpy() for reader in readers]))
    return {way: {"top5": np.concatenate(parts, 1).astype(np.uint16)[:, :, None]} for way, parts in found.items()}


def _detections(run: Config, pictures: PictureSet, names: list[str]) -> Arrays:
    """What the detectors find in a run's pictures of scenes: ``<detector>.boxes`` and so on, in half precision."""
    detectors = [load_detector(name).to(run.torch_device()) for name in names]
    found = detect(run, evaluation_batches(pictures, run), detectors, *_networks(run))
    kinds = {"picture": np.uint16, "boxes": np.float16, "labels": np.uint8, "scores": np.float16}
    return {f"{name}.{part}": getattr(one, part).astype(kind) for name, one in found.items() for part, kind in kinds.items()}
