"""The embedded data set: real handwritten digits blended over real photographs, in the manner of MNIST-M.

Source: both come from scikit-learn's wheel (1,797 digits of 8 x 8 pixels; ``load_sample_images``, two photographs).
Picture ``k`` of a split is drawn from its own random stream, so the first pictures do not depend on how many are drawn.
Source digits and photograph regions of train, validation and test are disjoint.
"""

from functools import lru_cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split

SIZE = 32
# split: (source digits, columns of each 640-pixel-wide photograph, pictures)
SPLITS = {"train": (1047, (0, 384), 16000), "val": (250, (384, 480), 1000), "test": (500, (480, 640), 2500)}
CLASSES = tuple(str(k) for k in range(10))


def source_digits(split: str) -> np.ndarray:
    """Indices into scikit-learn's 1,797 digits that ``split`` owns, in drawing order (stratified by class)."""
    labels = load_digits().target
    n_train, n_val, n_test = (SPLITS[name][0] for name in ("train", "val", "test"))
    rest, test = train_test_split(np.arange(len(labels)), test_size=n_test, random_state=0, stratify=labels)
    train, val = train_test_split(rest, train_size=n_train, random_state=0, stratify=labels[rest])
    return {"train": train, "val": val, "test": test}[split]


def _background(rng: np.random.RandomState, photographs: list[Image.Image], columns: tuple[int, int]) -> np.ndarray:
    photograph = photographs[rng.randint(len(photographs))]
    side = rng.randint(SIZE, 81)
    left = rng.randint(columns[0], columns[1] - side + 1)
    top = rng.randint(0, photograph.height - side + 1)
    patch = photograph.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pixels = np.asarray(patch)
    return pixels[:, ::-1] if rng.randint(2) else pixels


def stencil(rng: np.random.RandomState, digit: np.ndarray) -> np.ndarray:
    """The digit's ink as a 32 x 32 uint8 opacity map: random size, rotation and place."""
    side = rng.randint(18, 29)
    ink = Image.fromarray((digit * (255.0 / 16.0)).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    ink = ink.rotate(rng.randint(-20, 21), Image.Resampling.BICUBIC, expand=False)
    stencil = np.zeros((SIZE, SIZE), np.uint8)
    top, left = rng.randint(0, SIZE - side + 1, size=2)
    stencil[top : top + side, left : left + side] = np.asarray(ink)
    return stencil


def ink_colour(rng: np.random.RandomState, background: np.ndarray, stencil: np.ndarray) -> np.ndarray:
    """A random colour whose luma differs from that of the background under the digit by 80 to 180 levels of 255."""
    luma = np.array([299, 587, 114])
    weight = stencil.astype(np.int64)
    local = int(((background @ luma) * weight).sum() // max(int(weight.sum()), 1))
    for _ in range(64):
        colour = rng.randint(0, 256, size=3)
        if 80_000 <= abs(int(colour @ luma) - local) <= 180_000:
            return colour
    return np.zeros(3, np.int64) if local > 127_500 else np.full(3, 255)


def blend(background: np.ndarray, stencil: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """A colour blended over a background (H, W, 3) uint8 by an opacity map (H, W) of 0..255."""
    opacity = stencil[..., None].astype(np.int64)
    return (background * (255 - opacity) + colour * opacity + 127) // 255


@lru_cache(maxsize=4)
def render(split: str, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first ``n`` pictures of a split.

    Returns:
        ``pictures`` (n, 32, 32, 3) uint8, ``labels`` (n,) int64 in 0..9, and ``groups`` (n,) int64, the index of the
        source digit: pictures of one digit are not independent, so statistics resample by it.
    """
    _, columns, _ = SPLITS[split]
    digits, sources = load_digits(), source_digits(split)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    groups = sources[np.arange(n) % len(sources)]
    pictures = np.empty((n, SIZE, SIZE, 3), np.uint8)
    stream = {"train": 0, "val": 1, "test": 2}[split]
    for k in range(n):
        rng = np.random.RandomState([2026, stream, k])  # RandomState: its streams are frozen by NumPy's policy
        background = _background(rng, photographs, columns)
        ink = stencil(rng, digits.images[groups[k]])
        pictures[k] = blend(background, ink, ink_colour(rng, background, ink))
    return pictures, digits.target[groups].astype(np.int64), groups.astype(np.int64)
