"""PASCAL VOC: torchvision's COCO detectors read what a P trained for classification gives.

``rastudy voc --processor F --data FOLDER``, where FOLDER holds ``VOCdevkit/VOC2007``.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
import torchvision
from torch import nn

from rastudy import registry
from rastudy.analysis import statistics as stats
from rastudy.config import Config
from rastudy.data.degradations import degrade
from rastudy.data.loaders import Batch, to_float
from rastudy.data.scenes import Boxes
from rastudy.errors import StudyError, all_differ
from rastudy.evaluation.average_precision import RECALLS, RESAMPLES, average_precision, detect, match
from rastudy.evaluation.evaluate import named_processor
from rastudy.models.pretrained import torchvision_state
from rastudy.paths import write_csv

# from COCO's names to VOC's, where they differ
VOC_NAMES = {"airplane": "aeroplane", "motorcycle": "motorbike", "couch": "sofa", "dining table": "diningtable",
             "potted plant": "pottedplant", "tv": "tvmonitor"}  # fmt: skip
VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
               "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")  # fmt: skip


class CocoDetector(nn.Module):
    """A torchvision detector with its COCO weights: pictures (N, 3, H, W) to boxes, scores and labels of VOC's twenty classes.

    Detections of other classes are dropped.

    Raises:
        StudyError: torchvision has no COCO_V1 weights of that name, or they are not here and cannot be downloaded.
    """

    to_voc: torch.Tensor  # VOC's class of each of COCO's labels, -1 for none

    def __init__(self, name: str):
        super().__init__()
        choices = torchvision.models.get_model_weights(name)
        weights = getattr(choices, "COCO_V1", None)
        if weights is None:
            raise StudyError(f"torchvision has no COCO_V1 weights for {name}; it has {list(choices.__members__)}")
        self.name = name
        self.net = torchvision.models.get_model(name, weights=None, weights_backbone=None)
        self.net.load_state_dict(torchvision_state(weights, name))
        named = [VOC_NAMES.get(one, one) for one in weights.meta["categories"]]
        self.register_buffer("to_voc", torch.tensor([VOC_CLASSES.index(one) if one in VOC_CLASSES else -1 for one in named]))
        self.requires_grad_(False).eval()

    def forward(self, pictures: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        mapped = [one | {"labels": self.to_voc[one["labels"]]} for one in self.net(list(pictures))]
        return [{name: values[one["labels"] >= 0] for name, values in one.items()} for one in mapped]


def voc_pictures(folder: Path, split: str) -> tuple[torchvision.datasets.VOCDetection, list[Boxes], list[np.ndarray]]:
    """VOC's pictures of a split, their boxes, and which boxes are difficult; ``folder`` holds ``VOCdevkit/VOC2007``.

    Boxes are pixel corners, counted from 0.
    """
    try:
        data = torchvision.datasets.VOCDetection(str(folder), year="2007", image_set=split)
    except (RuntimeError, OSError) as error:
        raise StudyError(f"{folder}: no VOCdevkit/VOC2007 with ImageSets/Main/{split}.txt here ({error})") from error
    listed = [k for k, path in enumerate(data.images) if not Path(path).name.startswith(".")]  # a list may have blank lines
    data.images, data.targets = [data.images[k] for k in listed], [data.targets[k] for k in listed]
    found = [_objects_of(data, place) for place in range(len(data))]
    return data, [boxes for boxes, _ in found], [hard for _, hard in found]


def _objects_of(data: torchvision.datasets.VOCDetection, place: int) -> tuple[Boxes, np.ndarray]:
    """A picture's boxes, and which are difficult; StudyError where its annotation or the picture cannot be used."""
    path = Path(data.annotations[place])
    for file in (path, Path(data.images[place])):
        if not file.is_file():
            raise StudyError(f"{file}: missing, and listed in ImageSets; unpack VOC again, or take it off the list")
    boxes, labels, hard = [], [], []
    for k, one in enumerate(_root_of(path).findall("object"), 1):
        found = one.findall("bndbox")
        corners = [found[0].findtext(name) if len(found) == 1 else None for name in ("xmin", "ymin", "xmax", "ymax")]
        try:
            boxes.append([float(corner or "none") for corner in corners])
        except ValueError as error:
            raise StudyError(f"{path}: object {k} needs one bndbox with xmin, ymin, xmax and ymax, in numbers") from error
        name = (one.findtext("name") or "").strip()
        if name not in VOC_CLASSES:
            raise StudyError(f"{path}: {name!r} is none of VOC's classes")
        labels.append(VOC_CLASSES.index(name))
        hard.append((one.findtext("difficult") or "0").strip() == "1")
    corners_of = np.array(boxes, np.float32).reshape(-1, 4) - np.array([1, 1, 0, 0], np.float32)  # VOC counts pixels from 1
    return Boxes(corners_of, np.array(labels, np.int64)), np.array(hard, bool)


def _root_of(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # or an encoding that nobody knows
        raise StudyError(f"{path}: not a readable annotation ({error})") from error


def voc_batches(data: Sequence, config: Config) -> Iterator[Batch]:
    """One picture per batch, cropped at the right and the bottom to sides that divide by 4; its place seeds the noise."""
    for place in range(len(data)):
        gt = np.array(data[place][0].convert("RGB"))
        gt = np.array(gt[: gt.shape[0] // 4 * 4, : gt.shape[1] // 4 * 4])
        lq = degrade(gt, config.task, config.strength, place)[None]
        yield Batch(lq, to_float(torch.from_numpy(gt[None])), torch.tensor([0]), torch.tensor([place]))


def read_voc(config: Config, folder: Path, names: Sequence[str], split: str, processor: nn.Module | None) -> Iterator[dict]:
    """Average precision of COCO's detectors on VOC's pictures as P gives them, in percent; a row per detector and metric."""
    data, truth, difficult = voc_pictures(folder, split)
    detectors = [CocoDetector(name).to(config.torch_device()) for name in names]
    found = detect(config, voc_batches(data, config), detectors, processor)
    drawn = stats.Groups(np.arange(len(truth))).draws(RESAMPLES)
    for name, one in found.items():
        matched = match(one, truth, difficult)
        for metric in RECALLS:
            value, *resampled = average_precision(matched, metric, drawn)
            low, high = stats.percentile(np.array(resampled))
            yield {"mode": config.mode, "detector": name, "metric": metric, "value": value, "low": low, "high": high,
                   "n_images": len(truth)}  # fmt: skip


def voc_command(args: argparse.Namespace) -> None:
    """Print the average precision of both baselines and of P, and write it to ``--out``."""
    all_differ("detectors", args.detector, "leave one out")
    config, processor = named_processor(args.processor, "", "")
    if registry.MODES[config.mode].has_transformer:
        raise StudyError(f"{args.processor}: P of {config.mode}, whose T stands before a classifier; detectors read P alone")
    rows: list[dict] = []
    for run in (*(replace(config, mode=mode) for mode in registry.modes("baseline")), config):
        rows += read_voc(run, args.data, args.detector, args.split, processor)
    for row in rows:
        value, low, high = (row[name] for name in ("value", "low", "high"))
        print(f"{row['mode']:18s} {row['detector']:28s} {row['metric']:9s} {value:6.2f} [{low:.2f}, {high:.2f}]")
    if args.out:
        write_csv(args.out, rows, tuple(rows[0]))
