"""Evaluate processors with every target R:

``rastudy evaluate --processor F [--transformer F] --task sr --data DIR``

P (and T) run once per picture and feed all target R's. What comes out per picture is kept in
``results/<preset>/predictions/<run_id>.<split>.npz``; every statistic is computed from there.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from rastudy import registry
from rastudy.config import Config, check_typed, make_config
from rastudy.data import distributed
from rastudy.data.datasets import PictureSet, names_of_classes, places_of, read_folder
from rastudy.data.degradations import round_to_8_bits
from rastudy.data.image_files import list_pictures
from rastudy.data.imagenet import part_of
from rastudy.data.loaders import data_version, digest_of, evaluation_batches, load_pictures
from rastudy.errors import StudyError, agree, one_of
from rastudy.evaluation import metrics
from rastudy.evaluation.predictions import (
    COLUMNS,
    Predictions,
    load_predictions,
    predictions_file,
    save_predictions,
    tidy_rows,
)
from rastudy.grid import SPLITS, Run
from rastudy.models.classifiers import Classifier, load_classifier, weights_versions
from rastudy.models.processors import apply_processor, build_processor, build_transformer
from rastudy.models.weight_files import sha256
from rastudy.paths import expand, read_json, write_csv, write_json
from rastudy.presets import PRESETS, of_photographs, tasks_of
from rastudy.registry import is_own, is_variant
from rastudy.training.launch import torchrun
from rastudy.training.run_store import READ_BY, code_versions, is_trained, provenance, run_folder
from rastudy.training.train import check_classes, train
from rastudy.training.weights import check_run, load_models, load_weights, read_metadata, weights_file


@torch.inference_mode()
def predict(
    config: Config, pictures: PictureSet, targets: Sequence[Classifier], processor: nn.Module | None = None,
    transformer: nn.Module | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Run P (and T) over a picture set once and let every target R read the result.

    Returns:
        arrays by name: ``label``, ``group`` (N,); ``mse``, ``ssim``, ``ssim_release`` (N,) float32 of P's picture (and
        ``*_transformed`` of T's); ``top5`` (R, N, 5) uint16, the classes R gives most weight, best first; where the config
        asks for it (``floats``) ``top1_float`` (R, N) uint16, the first of them where P's floats are handed on as they are.
    """
    torch.set_num_threads(config.threads)
    check_classes(list(targets), pictures.classes, pictures.size, config)
    device = config.torch_device()
    by_target = ("top5", "top1_float") if config.floats else ("top5",)
    # made whole at the first batch: small parts kept between a batch's large arrays leave the memory in pieces, and 3,000
    # photographs took 10 GB
    mine: dict[str, torch.Tensor] = {}
    done = 0
    for batch in evaluation_batches(pictures, config):
        lq, gt = batch.lq.to(device), batch.gt.to(device)
        restored = apply_processor(processor, lq, gt, config)
        # ASSUMPTION: P's picture is a file. It is rounded to 8 bits before people, R and T see it (T's is not: it stands
        # before R). The release hands on floats, neither rounded nor clamped: ``top1_float``, beside the main figure. PSNR and
        # SSIM, in the release's variants, too, are the rounded picture's.
        picture = round_to_8_bits(restored)
        shown = {"": picture}
        if transformer is not None:
            shown["_transformed"] = transformer(picture)
        seen = {"index": batch.index}
        for suffix, image in shown.items():
            seen |= {
                "mse" + suffix: metrics.mse_per_image(image, gt).float(),
                "ssim" + suffix: metrics.ssim_per_image(image, gt).float(),
                "ssim_release" + suffix: metrics.ssim_per_image(image, gt, zero_padded=True).float(),
            }
        read = shown.get("_transformed", picture)
        seen["top5"] = torch.stack([metrics.top5(target(read)) for target in targets])
        if config.floats:
            seen["top1_float"] = seen["top5"][:, :, 0]
            if not torch.equal(picture, restored):
                read = restored if transformer is None else transformer(restored)
                seen["top1_float"] = torch.stack([target(read).argmax(1) for target in targets])
        for name, found in seen.items():
            axis = int(name in by_target)
            if not done:
                mine[name] = torch.empty(*found.shape[:axis], len(pictures), *found.shape[axis + 1 :], dtype=found.dtype)
            mine[name].narrow(axis, done, len(batch.index)).copy_(found)
        done += len(batch.index)
    mine = {name: found.narrow(int(name in by_target), 0, done) for name, found in mine.items()}
    whole = {name: torch.cat(values, dim=int(name in by_target)) for name, values in distributed.gather(mine).items()}
    index = whole.pop("index")
    if not torch.equal(index.sort().values, torch.arange(len(pictures))):
        raise AssertionError(f"{len(index)} pictures were read where {len(pictures)} should be, each once")
    order = index.argsort()
    arrays = {name: (a[:, order] if name in by_target else a[order]).numpy() for name, a in whole.items()}
    arrays |= {name: arrays[name].astype(np.uint16) for name in by_target}
    return arrays | {"label": pictures.labels.astype(np.uint16), "group": pictures.groups.astype(np.int32)}


def evaluate(config: Config, split: str, log: Callable[[str], object] = print) -> Path:
    """Evaluate a finished run on a split and write its predictions.

    Does nothing where this checkout has done so before, with the same R's. Where other predictions of the run lie there
    (the committed ones, say), ``log`` is told how many of R's verdicts changed.

    Returns the predictions' file.
    """
    one_of("split", split, SPLITS)
    path, marker = predictions_file(config, split), run_folder(config) / f"{split}.json"
    if is_evaluated(config, split):
        log(f"{config.run_id}: evaluated on {split} already")
        return path
    if config.processes > 1 and not distributed.is_launched():
        torchrun(config, log, "--evaluate-on", split)
        return path
    with distributed.group(config.batch_size, config.torch_device().type):
        targets = [load_classifier(name, config.dataset).to(config.torch_device()) for name in config.targets]
        versions = {target.name: target.weights for target in targets}
        pictures = load_pictures(config, split)
        processor, transformer = (None, None) if config.is_baseline else load_models(config)
        arrays = predict(config, pictures, targets, processor, transformer)
        if distributed.rank():
            return path
    if path.is_file():
        log(f"{config.run_id} {split}: {_changes(path, arrays)}")
    about = {"config": config.science(), "run_id": config.run_id, "split": split, "data": pictures.digest,
             "name": pictures.name, "targets": versions, "provenance": provenance(config)}  # fmt: skip
    save_predictions(path, arrays, about)
    write_json(marker, _marker(config, split, path, versions) | {"code": code_versions(READ_BY)})
    return path


def is_evaluated(config: Config, split: str) -> bool:
    """Whether this checkout has evaluated the run on ``split`` with the current R's, and its predictions are unchanged."""
    path, marker = predictions_file(config, split), run_folder(config) / f"{split}.json"
    if not (marker.is_file() and path.is_file()):
        return False
    found = {name: value for name, value in read_json(marker).items() if name != "code"}
    wanted = _marker(config, split, path, weights_versions(config.targets, config.dataset))
    if "pictures" in wanted and "pictures" not in found:  # an old record: the predictions tell what was read
        if wanted.pop("pictures") != "missing" and load_predictions(path).about["data"] != digest_of(config, split):
            return False
    return found == wanted


def _marker(config: Config, split: str, path: Path, versions: dict[str, str]) -> dict:
    """What an evaluation rests on."""
    return {"predictions": sha256(path), "weights": weights_of(config), "targets": versions, **data_version(config, split)}


def is_done(run: Run) -> bool:
    """Whether this checkout has trained the run and evaluated it on its splits."""
    trained = run.config.is_baseline or is_trained(run.config)
    return trained and all(is_evaluated(run.config, split) for split in run.splits)


def weights_of(config: Config) -> dict[str, str]:
    """SHA-256 of the P and T that a run is evaluated with."""
    files = {part: weights_file(config, part) for part in ("processor", "transformer")}
    return {part: sha256(path) for part, path in files.items() if not config.is_baseline and path.is_file()}


def evaluate_splits(config: Config, splits: str) -> pd.DataFrame:
    """Evaluate a run on splits separated by commas; returns its figures, a row per split and target R."""
    rows = []
    for split in registry.names_in(splits):
        rows += tidy_rows(load_predictions(evaluate(config, split)))
    table = pd.DataFrame(rows)
    return (
        table
        if table.empty
        else table.pivot_table(index=["split", "target_arch"], columns="metric", values="value", sort=False).round(3)
    )


def _changes(path: Path, arrays: dict[str, np.ndarray]) -> str:
    try:
        before = load_predictions(path)
    except StudyError as error:
        return f"earlier predictions are replaced, {error}"
    if before.arrays["top5"].shape != arrays["top5"].shape:
        return "earlier predictions of other R's or pictures are replaced"
    changed = (before.arrays["top5"][:, :, 0] != arrays["top5"][:, :, 0]).sum()
    return f"{changed} of {arrays['top5'][:, :, 0].size} verdicts differ from the earlier predictions"


def degradation_table(preset: str, count: int = 400, **overrides) -> pd.DataFrame:
    """Top-1 of every R on validation pictures without processing, by task and strength; rows of a tidy table."""
    rows = []
    runs = [make_config(preset, task, "none", strength=strength, **overrides)
            for task in tasks_of(preset) for strength in registry.TASKS[task].curve]  # fmt: skip
    names = [name for name in runs[0].targets if not is_variant(name)]
    readers = [load_classifier(name, runs[0].dataset).to(runs[0].torch_device()) for name in names]
    for config in runs:
        pictures = first_pictures(load_pictures(config, "val" if config.val_images else "test"), count)
        arrays = predict(config, pictures, readers)
        top1 = 100 * metrics.hits(arrays["top5"], arrays["label"], 1).mean(1)
        about = {"task": config.task, "strength": config.strength}
        rows += [about | {"target_arch": name, "top1": value, "n_images": len(pictures)}
                 for name, value in zip(names, top1, strict=True)]  # fmt: skip
    return pd.DataFrame(rows)


def first_pictures(pictures: PictureSet, count: int) -> PictureSet:
    """The pictures at :func:`first_places`."""
    index, of = first_places(pictures, count), pictures.pictures
    kept = of[index] if isinstance(of, np.ndarray) else of.subset(index)
    return replace(pictures, pictures=kept, labels=pictures.labels[index], groups=pictures.groups[index])


def first_places(pictures: PictureSet, count: int) -> np.ndarray:
    """The places of the first pictures of a set (:func:`.datasets.places_of`); of photographs evenly spaced ones."""
    n = min(count, len(pictures))
    return np.linspace(0, len(pictures) - 1, n).astype(int) if pictures.crop else places_of(pictures.labels, n)


def train_command(args: argparse.Namespace) -> None:
    """``rastudy train``: also what torchrun starts."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    splits = registry.names_in(given.pop("evaluate_on"))
    for split in splits:
        one_of("split", split, SPLITS)
    config = make_config(**given) if distributed.is_launched() else check_typed(given)  # torchrun is given every setting
    with distributed.group(config.batch_size, config.torch_device().type):
        train(config)
        for split in splits:
            evaluate(config, split)


def evaluate_command(args: argparse.Namespace) -> int:
    failed: list[str] = []
    rows = evaluate_files(args.processor, args.transformer, args.task, args.data, args.target_archs, args.device, args.classes,
                          failed, args.preset, args.strength)  # fmt: skip
    for row in rows:
        print(f"{row['target_arch']:20s} {row['metric']:22s} {row['value']:8.3f}   n = {row['n_images']}")
    if args.out:
        write_csv(args.out, rows, COLUMNS)
    for problem in failed:
        print(f"left out: {problem}", file=sys.stderr)
    return int(bool(failed) and not args.skip_unreadable)


def evaluate_files(
    named: Path | str, transformer_file: Path | None, task: str, data: str = "", target_archs: str = "",
    device: str = "auto", classes: str = "", failed: list[str] | None = None, preset: str = "",
    strength: float = -1.0,
) -> list[dict]:  # fmt: skip
    """Evaluate P (:func:`named_processor`) and T from weight files on a folder of class folders; returns tidy rows.

    The folders are matched by name with the classes of P's data set (ImageNet's: wnids). Of a P of the user's own pictures
    they stand for R's labels in sorted order, or in that of ``classes``; elsewhere ``classes`` states which of them to read.
    ``failed`` takes a sentence for each picture that cannot be used, which is then left out; else it is a StudyError.
    """
    config, processor = named_processor(named, task, preset, strength, device, skip_unreadable=failed is not None)
    if data:
        # the user's folder: read whole, labels from its class folders; R's stay those of P's data set
        whole: dict[str, Any] = {"val_images": 0, "test_images": 0} if config.of_photographs else {}
        of_config: dict[str, Any] = {"classes": classes} if registry.dataset_of(config.dataset).needs_folder else {}
        config = replace(config, data_dir=data, **of_config, **whole)
    config = replace(config, target_archs=target_archs) if target_archs else config
    transformer = None
    if transformer_file is not None:
        check_run(transformer_file, config)
        transformer = build_transformer(config)
        load_weights(transformer_file, transformer).eval()
    elif config.mode == "ra_transformer":
        raise StudyError(f"{named} belongs to a run with a transformer; give its T with --transformer")
    place = config.torch_device()
    targets = [load_classifier(name, config.dataset).to(place) for name in config.targets]
    if data and not config.of_photographs:
        known, stated = names_of_classes(config.dataset), registry.names_in(classes)
        pixels, labels, names = read_folder(expand(data), config.image_size, False, known, stated, failed)
        pictures = PictureSet(Path(data).name, "test", pixels, labels, np.arange(len(labels)), names)
    else:
        pictures = load_pictures(config, "test")
        if data and failed is not None and (lost := len(list_pictures(part_of(data, "test")[0])) - len(pictures)):
            failed.append(f"{lost} photographs, which the warning above names")
    arrays = predict(config, pictures, targets, processor.to(place), transformer and transformer.to(place))
    about = {"config": config.science(), "run_id": config.run_id, "split": "test", "name": pictures.name,
             "targets": {target.name: target.weights for target in targets}}  # fmt: skip
    return tidy_rows(Predictions(about, arrays))


def named_processor(
    name: Path | str, task: str, preset: str, strength: float = -1.0, device: str = "auto", **others: object
) -> tuple[Config, nn.Module]:
    """A P in eval mode, and its run's settings.

    Args:
        name: its safetensors file, as training wrote it, whose task, preset and strength are none but those that are given;
            or one of :mod:`rastudy.models.own_processors`' names, whose settings are those of the preset's plain P.

    Raises:
        StudyError: no such P, or one of another task.
    """
    if is_own(str(name)):
        given: dict[str, Any] = {"processor": str(name), "device": device, **others}
        config = make_config(preset or of_photographs(task), task, "plain", strength=strength, **given)
        return config, build_processor(config.processor, config.factor, 0, 0).to(config.torch_device())
    file = expand(name)
    config = config_of(file, device, **others)
    agree(f"{file} was trained", config, task=task, preset=preset, strength=strength)
    processor = build_processor(config.processor, config.factor, config.channels, config.blocks)
    return config, load_weights(file, processor).eval().to(config.torch_device()).to(memory_format=torch.channels_last)


def config_of(file: Path, device: str = "auto", **others: object) -> Config:
    """The run that a weight file belongs to, with its preset's R's.

    Raises:
        StudyError: settings that are not there, or another version's.
    """
    settings = read_metadata(file)
    try:
        preset = PRESETS.get(settings["preset"], {})
        own = {name: preset[name] for name in ("target_archs", "workers") if name in preset}
        return Config(**settings | own | {"device": device} | others)
    except (KeyError, TypeError) as error:  # fields that are missing here or there
        raise StudyError(f"{file}: written by another version of this study ({error}); train it again") from error
