"""The directions in which the gain may transfer, and the reading of what trained P's give in each of them.

``read`` has a direction's recognisers read what the P's of its runs give; what they answer per picture is kept in
``results/<preset>/transfer/<direction>/<variant>/``, and :mod:`rastudy.transfer.tables` computes from there.
"""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from rastudy import registry
from rastudy.analysis.grid import Cell, merge, product
from rastudy.config import Config, make_config
from rastudy.data.datasets import PictureSet, load_split
from rastudy.data.degradations import round_to_8_bits
from rastudy.data.loaders import evaluation_batches, load_pictures
from rastudy.errors import StudyError, one_of
from rastudy.evaluation.average_precision import detect
from rastudy.evaluation.evaluate import weights_of
from rastudy.evaluation.predictions import load_predictions, save_predictions
from rastudy.models import classical as shallow
from rastudy.models.classifiers import load_classifier, weights_versions
from rastudy.models.detectors import load_detector
from rastudy.models.processors import apply_processor
from rastudy.paths import results_folder
from rastudy.presets import PRESETS, degradations
from rastudy.registry import HALVES
from rastudy.training.run_store import load_models, weights_file
from rastudy.training.train import check_classes
from rastudy.transfer import black_box as blackbox
from rastudy.transfer.upload import UPLOADS, upload

DIRECTIONS = {  # name: the question
    "categories": "Does P, taught by a recogniser of half of the categories, help recognisers of the other half?",
    "datasets": "Does P, taught on one data set, help recognisers of another, degraded as strongly?",
    "detection": "Does P, taught for classification, help detectors, and P taught by a detector, classifiers?",
    "families": "Does P, taught by a convolutional network, help readers of quite another kind?",
    "black_box": "Does P help a recogniser that is known by its answers alone?",
    "upload": "Does the gain survive the picture's way as a file?",
    "multi_source": "Do several recognisers in the loss teach P more than one does?",
}
SOURCES = ("resnet18_small", "resnet18_small,resnet50_small", "resnet18_small,resnet50_small,resnet101_small")
HELD_OUT = ("densenet121_small", "vgg16_bn_small")  # never among SOURCES


class Variant(NamedTuple):
    """One way in which a direction is tried.

    ``axes``: of the runs whose P's are read (grid.py's ``product``); ``dataset``: whose test pictures they are; ``readers``:
    recognisers, by the names that :func:`load_reader` knows; ``way``: one of ``UPLOADS``, or nothing.
    """

    name: str
    axes: dict
    dataset: str
    readers: tuple[str, ...]
    way: str = ""


def variants(preset: str, direction: str, black_box: str = "tesseract") -> list[Variant]:
    """The variants of a direction; StudyError where a preset has none."""
    one_of("direction", direction, DIRECTIONS)
    home, five = PRESETS[preset]["dataset"], registry.main_recognisers()
    axes = {"seeds": PRESETS[preset].get("transfer_seeds", (0,)), "modes": (*registry.modes("baseline"), *registry.modes("paper"))}
    small = home in ("digits", "cifar10")
    readers = five if small else tuple(PRESETS[preset]["target_archs"].split(","))
    if direction == "upload":
        return [Variant(way, axes, home, readers, way) for way in UPLOADS]
    if direction == "families":
        unlike = ("vit_small", "mixer_small", *registry.recognisers("shallow")) if small else ("convnext_tiny", "vit_b_16", "swin_t")
        return [Variant("families", axes, home, unlike)]
    if direction == "black_box":
        return [Variant(black_box.partition(":")[0], axes, home, (black_box,))]
    if direction == "categories":
        two = {"modes": (*registry.modes("baseline"), "plain", "ra")}
        pairs = (HALVES, HALVES[::-1])
        return [
            Variant(f"{mine}_to_{theirs}", axes | two | {"datasets": (f"{home}_{mine}",)}, f"{home}_{theirs}", readers)
            for mine, theirs in pairs
        ]
    if not small:
        raise StudyError(f"direction={direction!r} is one of digits and cifar10, not of {preset}")
    if direction == "datasets":
        other = {"digits": "cifar10", "cifar10": "digits"}[home]
        return [Variant(f"{home}_to_{other}", axes, other, five)]
    if direction == "detection":
        if home != "digits":
            raise StudyError(f"direction='detection' is one of digits: {preset} has no scenes with boxes; for VOC: rastudy.transfer.voc")
        detectors = registry.recognisers("detector")
        once = {"seeds": (0,), "modes": (*registry.modes("baseline"), "plain", "ra")}
        taught = once | {"datasets": ("scenes",), "sources": detectors, "budgets": (2,), "splits": ()}
        return [
            Variant("classification_to_detectors", axes | {"seeds": (0,)}, "scenes", detectors),
            Variant("detection_at_home", taught, "scenes", detectors),
            Variant("detection_to_classifiers", taught, home, five),
        ]
    strengths = {"strengths": (2.0,)} if home == "cifar10" else {}  # the factor of its matrix
    return [Variant("held_out", axes | strengths | {"modes": ("plain", "ra"), "sources": SOURCES}, "", HELD_OUT)]


def question_of(direction: str) -> str:
    one_of("direction", direction, DIRECTIONS)
    return DIRECTIONS[direction]


def runs(preset: str, direction: str, data_dir: str = "", black_box: str = "tesseract") -> list[Cell]:
    """The trained runs that a direction reads, evaluated on the test pictures at home."""
    axes = [{"splits": ("test",), "data_dir": data_dir} | v.axes for v in variants(preset, direction, black_box)]
    return merge(run for one in axes for run in product(preset, **one))


def load_reader(
    spec: str, config: Config, pictures: PictureSet, train: Callable[[], PictureSet], counting: bool = False
) -> nn.Module:
    """A recogniser of a set of pictures: a network by its name, one of ``shallow.SHALLOW``, or a black box."""
    if spec in shallow.SHALLOW:
        return shallow.load_shallow(spec, train())
    if blackbox.is_black_box(spec):
        return blackbox.Asked(blackbox.open_black_box(spec), pictures.classes, counting)
    return load_classifier(spec, config.dataset).to(config.torch_device())


@torch.inference_mode()
def answers(config: Config, pictures: PictureSet, readers: list[nn.Module], ways: list[str]) -> dict[str, np.ndarray]:
    """Every reader's first class for what a run's P gives, by the way that the picture takes; each (R, N) uint16.

    P runs once a picture. It is rounded to 8 bits, goes its way, and T, where the run has one, stands before R.
    """
    torch.set_num_threads(config.threads)
    check_classes([reader for reader in readers if not isinstance(reader, blackbox.Asked)], pictures)
    processor, transformer = (None, None) if config.is_baseline else load_models(config)
    found: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    device = config.torch_device()
    for batch in evaluation_batches(pictures, config):
        picture = round_to_8_bits(apply_processor(processor, batch.lq.to(device), batch.gt.to(device), config))
        for way in ways:
            sent = upload(picture, way) if way else picture
            sent = sent if transformer is None else transformer(sent)
            found[way].append(np.stack([reader(sent).argmax(1).cpu().numpy() for reader in readers]))
    return {way: np.concatenate(parts, 1).astype(np.uint16) for way, parts in found.items()}


def predictions_of(config: Config, direction: str, variant: str) -> Path:
    return results_folder(config.preset) / "transfer" / direction / variant / f"{config.run_id}.test.npz"


def _pictures_of(run: Config, variant: Variant) -> Config:
    """The run's settings with the pictures that it is read on: its own, or another set's test pictures."""
    if variant.dataset == run.dataset:
        return run
    home = make_config(run.preset, run.task, strength=run.strength)
    sizes = PRESETS[run.preset].get("datasets", {}).get(variant.dataset, {})
    n = home.test_images if variant.dataset.startswith(home.dataset) else 0  # of a set that is no part of ours all
    sizes = {"image_size": home.image_size, "test_images": n} | sizes
    return replace(run, dataset=variant.dataset, mode="none", **sizes)


def _versions(readers: tuple[str, ...], dataset: str, train: Callable[[], PictureSet]) -> dict[str, str]:
    """Reader's name to version, without loading networks."""
    named: dict[str, str] = {}
    for spec in readers:
        if spec in shallow.SHALLOW:
            named[spec] = shallow.version(spec, train())
        elif blackbox.is_black_box(spec):
            box = blackbox.open_black_box(spec)
            named[box.name] = box.version
        else:
            named |= weights_versions([spec], dataset)
    return named


def _is_read(path: Path, weights: dict[str, str], readers: dict[str, str]) -> bool:
    """Whether a file holds what these readers said of this P. What was said of a P that is not here (a later seed's) counts."""
    if not path.is_file():
        return False
    about = load_predictions(path).about
    return about["targets"] == readers and (not weights or about["weights"] == weights)


def read_run(run: Config, direction: str, black_box: str = "tesseract", counting: bool = False) -> dict:
    """Have a direction's readers read one run, unless they have; returns what there is to report.

    Returns:
        ``read``: files written; ``to_ask``: calls that a black box would cost (``counting``: nothing else happens);
        ``unknown``: labels that a black box gave and no class has, with their number.
    """
    report: dict = {"read": 0, "to_ask": 0, "unknown": {}}
    mine = [v for v in variants(run.preset, direction, black_box) if v.dataset and _reads(run, v)]
    for same in dict.fromkeys((v.dataset, v.readers) for v in mine):  # one reading serves every way that a picture takes
        together = [v for v in mine if (v.dataset, v.readers) == same]
        _read_together(run, direction, together, counting, report)
    return report


def _read_together(run: Config, direction: str, together: list[Variant], counting: bool, report: dict) -> None:
    """Read one run for variants that share pictures and readers; adds to the report."""
    first = together[0]
    config = _pictures_of(run, first)
    sizes = config.train_images, config.val_images, config.image_size
    train = lambda: _training_pictures(config.dataset, config.data_dir, *sizes)  # noqa: E731
    versions, weights = _versions(first.readers, config.dataset, train), weights_of(run)
    todo = [v for v in together if not _is_read(predictions_of(run, direction, v.name), weights, versions)]
    if not todo:
        return
    if not run.is_baseline and not weights:
        raise StudyError(f"{weights_file(run)}: no such weights; {sweep_command(run.preset, direction)} trains what is missing")
    pictures = load_pictures(config, "test")
    if config.dataset == "scenes":
        found = {first.way: _detections(run, pictures, first.readers)}
    else:
        readers = [load_reader(spec, config, pictures, train, counting) for spec in first.readers]
        asked = [reader for reader in readers if isinstance(reader, blackbox.Asked)]
        hits = answers(run, pictures, readers, [v.way for v in todo])
        found = {way: {"top5": top1[:, :, None]} for way, top1 in hits.items()}
        report["to_ask"] += sum(reader.to_ask for reader in asked)
        for label, count in [item for reader in asked for item in reader.unknown.items()]:
            report["unknown"][label] = report["unknown"].get(label, 0) + count
    if counting:
        return
    for variant in todo:
        arrays = {"label": pictures.labels.astype(np.uint16), "group": pictures.groups.astype(np.int32)}
        about = {"config": run.science(), "run_id": run.run_id, "split": "test", "data": pictures.digest,
                 "name": pictures.name, "targets": versions, "weights": weights, "unknown": report["unknown"]}  # fmt: skip
        save_predictions(predictions_of(run, direction, variant.name), found[variant.way] | arrays, about)
    report["read"] += len(todo)


@lru_cache(maxsize=1)
def _training_pictures(dataset: str, data_dir: str, n: int, n_val: int, size: int) -> PictureSet:
    """What readers that are no networks learn from; read once for all runs, of folders that takes a minute."""
    return load_split(dataset, "train", n, n_val=n_val, data_dir=data_dir, size=size)


def _detections(run: Config, pictures: PictureSet, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What the detectors find in a run's pictures of scenes, ``<detector>.boxes`` and so on; halves of floats are enough."""
    torch.set_num_threads(run.threads)
    detectors = [load_detector(name).to(run.torch_device()) for name in names]
    processor, transformer = (None, None) if run.is_baseline else load_models(run)
    found = detect(run, evaluation_batches(pictures, run), detectors, processor, transformer)
    kinds = {"picture": np.uint16, "boxes": np.float16, "labels": np.uint8, "scores": np.float16}
    return {f"{name}.{part}": getattr(one, part).astype(kind) for name, one in found.items() for part, kind in kinds.items()}


def _reads(run: Config, variant: Variant) -> bool:
    """Whether a variant reads a run: of those of its data set all, but clean pictures once, whatever the degradation."""
    again = run.mode == "clean" and (run.task, run.strength) != degradations(run.preset)[0]
    return run.dataset in variant.axes.get("datasets", (PRESETS[run.preset]["dataset"],)) and not again


def read(
    preset: str, direction: str, data_dir: str = "", jobs: int = 1, black_box: str = "tesseract", counting: bool = False,
    log: Callable[[str], object] = print,
) -> int:  # fmt: skip
    """Have a direction's readers read every run that they have not read; ``jobs`` one-thread processes side by side.

    Returns:
        calls that a black box would cost (``counting``), else 0.
    """
    todo = [run.config for run in runs(preset, direction, data_dir, black_box)]
    arguments = [(config, direction, black_box, counting) for config in todo]
    if jobs > 1 and direction != "black_box":  # of which one counts its calls
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            reports = list(pool.map(read_run, *zip(*arguments, strict=True)))
    else:
        reports = [read_run(*one) for one in arguments]
    log(f"{direction}: {len(todo)} runs, {sum(report['read'] for report in reports)} files of predictions written")
    unknown = dict(sum((Counter(report["unknown"]) for report in reports), Counter()))
    if unknown:
        log(f"WARNING: answers that are no class count as wrong: {unknown}")
    return sum(report["to_ask"] for report in reports)


def sweep_command(preset: str, direction: str) -> str:
    return f"rastudy sweep --preset {preset} --direction {direction}"
