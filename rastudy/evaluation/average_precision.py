"""Detectors read what P gives: their detections, and average precision, also on resamples of the pictures."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from rastudy.config import Config
from rastudy.data.degradations import round_to_8_bits
from rastudy.data.loaders import Batch
from rastudy.data.scenes import Boxes
from rastudy.errors import StudyError
from rastudy.models.processors import apply_processor

IOU = 0.5  # VOC's threshold: intersection over union of a detection and a box
RECALLS = {"ap_voc07": np.linspace(0, 1, 11), "ap50": np.linspace(0, 1, 101)}  # recalls at which precision is averaged
RESAMPLES = 1000  # of the pictures


class NamedDetector(Protocol):
    """A detector: pictures (N, 3, H, W) in [0, 1] to ``boxes``, ``labels`` and ``scores`` of each."""

    name: str

    def __call__(self, pictures: torch.Tensor) -> list[dict[str, torch.Tensor]]: ...


class Found(NamedTuple):
    """A detector's detections: ``picture`` (M,) places, ``boxes`` (M, 4) x1, y1, x2, y2, ``labels`` and ``scores`` (M,)."""

    picture: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class Matched(NamedTuple):
    """A class's detections by descending score: ``picture`` (M,), ``right`` (M,) bool; ``there`` (N,) its boxes per picture."""

    picture: np.ndarray
    right: np.ndarray
    there: np.ndarray


def gather(parts: Sequence[dict[str, torch.Tensor]], places: Iterable[int]) -> Found:
    """Detections of some pictures, as detectors give them, with the pictures' places."""
    picture = np.concatenate([np.full(len(p["scores"]), k) for p, k in zip(parts, places, strict=True)] or [np.zeros(0)])
    columns = [torch.cat([p[name] for p in parts]).cpu().numpy() if parts else np.zeros((0, 4)[: 2 - (name != "boxes")])
               for name in ("boxes", "labels", "scores")]  # fmt: skip
    return Found(picture.astype(np.int64), *columns)


def match(found: Found, truth: Sequence[Boxes], difficult: Sequence[np.ndarray] | None = None) -> dict[int, Matched]:
    """Which detections are right, by class, by pycocotools at an overlap of ``IOU``; absent classes are omitted.

    Args:
        difficult: (M,) bool for each picture: such a box counts neither as missed nor as found, as in VOC.

    Raises:
        StudyError: no picture holds a box, or pycocotools is missing.
    """
    # ASSUMPTION: Detections are matched as COCO does it. The one of highest score takes the free box that it overlaps most;
    # VOC's own tool looks at the box that it overlaps most, free or not.
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise StudyError("average precision needs pycocotools; pip install -e '.[transfer]'") from error
    n_classes = max([int(one.labels.max()) for one in truth if len(one.labels)] or [-1]) + 1
    if not n_classes:
        raise StudyError("no picture holds a box: there is no average precision")
    difficult = [np.zeros(len(one.labels), bool) for one in truth] if difficult is None else difficult
    there = _boxes_there(truth, difficult, n_classes)
    known = found.labels < n_classes
    if not known.any():
        return {k: Matched(np.zeros(0, int), np.zeros(0, bool), there[k]) for k in range(n_classes) if there[k].any()}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": [{"id": k} for k in range(len(truth))], "annotations": _annotations(truth, difficult),
                        "categories": [{"id": k} for k in range(n_classes)]}  # fmt: skip
        coco.createIndex()
        x1, y1, x2, y2 = found.boxes[known].astype(float).T
        rows = np.stack([found.picture[known], x1, y1, x2 - x1, y2 - y1, found.scores[known], found.labels[known]], 1)
        task = COCOeval(coco, coco.loadRes(rows), "bbox")
        task.params.iouThrs, task.params.maxDets = np.array([IOU]), [1000]
        task.params.areaRng, task.params.areaRngLbl = [[0, 1e10]], ["all"]
        task.evaluate()
    per_picture = np.array(task.evalImgs, dtype=object).reshape(n_classes, len(truth))
    return {k: _matched(per_picture[k], there[k]) for k in range(n_classes) if there[k].any()}


def _annotations(truth: Sequence[Boxes], difficult: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """The boxes as pycocotools has them. Difficult ones lie outside its range of areas: they are matched, but not counted."""
    found: list[dict[str, Any]] = []
    for k, (one, hard) in enumerate(zip(truth, difficult, strict=True)):
        for (x1, y1, x2, y2), label, ignored in zip(one.boxes.astype(float), one.labels, hard, strict=True):
            found.append({"id": len(found) + 1, "image_id": k, "category_id": int(label), "iscrowd": 0,
                          "bbox": [x1, y1, x2 - x1, y2 - y1], "area": 2e10 if ignored else 1.0})  # fmt: skip
    return found


def _matched(per_picture: Iterable[dict | None], there: np.ndarray) -> Matched:
    """One class's detections in all pictures, as pycocotools matched them."""
    parts = [one for one in per_picture if one is not None and len(one["dtScores"])]
    if not parts:
        return Matched(np.zeros(0, int), np.zeros(0, bool), there)
    scores = np.concatenate([one["dtScores"] for one in parts])
    counted = ~np.concatenate([one["dtIgnore"][0] for one in parts]).astype(bool)
    right = np.concatenate([one["dtMatches"][0] > 0 for one in parts])
    picture = np.concatenate([np.full(len(one["dtScores"]), one["image_id"]) for one in parts])
    order = np.argsort(-scores, kind="mergesort")
    order = order[counted[order]]
    return Matched(picture[order], right[order], there)


def _boxes_there(truth: Sequence[Boxes], difficult: Sequence[np.ndarray], n_classes: int) -> np.ndarray:
    """(K, N) boxes of each class in each picture, without difficult ones."""
    counts = [np.bincount(one.labels[~hard], minlength=n_classes) for one, hard in zip(truth, difficult, strict=True)]
    return np.stack(counts, 1)


def average_precision(matched: dict[int, Matched], metric: str, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over classes of the average precision, in percent, for each of the (B, N) weights of the pictures; (B,).

    A weight says how often a picture was drawn; default: once. A draw's mean omits classes without a box in it.
    """
    n = len(next(iter(matched.values())).there)
    weights = np.ones((1, n)) if weights is None else weights
    values = np.full((len(matched), len(weights)), np.nan)
    for row, one in zip(values, matched.values(), strict=True):
        drawn = weights[:, one.picture].astype(np.float64)  # B M
        right = np.cumsum(drawn * one.right, 1)
        boxes = weights @ one.there  # B
        precision = right / np.maximum(np.cumsum(drawn, 1), 1e-12)
        precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]  # the best at this recall or a higher one
        for b in np.flatnonzero(boxes > 0):
            place = np.searchsorted(right[b] / boxes[b], RECALLS[metric], side="left")
            reached = place < precision.shape[1]
            row[b] = 100 * precision[b, place[reached]].sum() / len(reached)
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)


@torch.inference_mode()
def detect(
    config: Config, batches: Iterable[Batch], detectors: Sequence[NamedDetector], processor: nn.Module | None = None,
    transformer: nn.Module | None = None,
) -> dict[str, Found]:  # fmt: skip
    """Every detector's detections in what P gives for the batches, by its name; P's picture is rounded to 8 bits."""
    parts: dict[str, list[dict]] = {detector.name: [] for detector in detectors}
    places: list[int] = []
    device = config.torch_device()
    for batch in batches:
        picture = round_to_8_bits(apply_processor(processor, batch.lq.to(device), batch.gt.to(device), config))
        seen = picture if transformer is None else transformer(picture)
        places += batch.index.tolist()
        for detector in detectors:
            parts[detector.name] += detector(seen)
    return {name: gather(found, places) for name, found in parts.items()}
