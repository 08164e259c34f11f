"""Scenes of several digits over photographs, with boxes: what the study's detectors are trained and evaluated on.

Source: the embedded digits (:mod:`rastudy.data.digits`): the same source digits, parts of photographs and ink for each split.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from rastudy.data import digits

SIZE = 96  # pixels; three by three places for a digit
SPLITS = {"train": 4000, "val": 300, "test": 500}  # scenes
INK = 48  # of 255: where a digit's opacity counts for its box


class Boxes(NamedTuple):
    """The digits of one scene: ``boxes`` (M, 4) float32 as x1, y1, x2, y2 in pixels; ``labels`` (M,) int64 in 0..9."""

    boxes: np.ndarray
    labels: np.ndarray


@lru_cache(maxsize=4)
def render(split: str, n: int) -> tuple[np.ndarray, tuple[Boxes, ...]]:
    """The first ``n`` scenes of a split: pictures (n, 96, 96, 3) uint8 and the boxes of each, none to four."""
    columns = digits.SPLITS[split].columns
    known, sources = load_digits(), digits.source_digits(split)
    photographs = digits.backgrounds("photographs")
    pictures, truth = np.empty((n, SIZE, SIZE, 3), np.uint8), []
    stream = {"train": 10, "val": 11, "test": 12}[split]
    for k in range(n):
        rng = np.random.RandomState([2026, stream, k])
        photograph = photographs[rng.randint(len(photographs))]
        left = rng.randint(columns[0], columns[1] - SIZE + 1)
        top = rng.randint(0, photograph.height - SIZE + 1)
        scene = np.array(photograph.crop((left, top, left + SIZE, top + SIZE)))
        scene = scene[:, ::-1].copy() if rng.randint(2) else scene
        boxes, labels = [], []
        for place in rng.permutation(9)[: rng.randint(5)]:
            y, x = digits.SIZE * (place // 3), digits.SIZE * (place % 3)
            source = sources[rng.randint(len(sources))]
            tile = scene[y : y + digits.SIZE, x : x + digits.SIZE]
            stencil = digits.stencil(rng, known.images[source])
            tile[:] = digits.blend(tile, stencil, digits.ink_colour(rng, tile, stencil))
            rows, columns_ = (np.flatnonzero((stencil > INK).any(axis)) for axis in (1, 0))
            boxes.append([x + columns_[0], y + rows[0], x + columns_[-1] + 1, y + rows[-1] + 1])
            labels.append(known.target[source])
        pictures[k] = scene
        truth.append(Boxes(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)))
    return pictures, tuple(truth)
