"""Sets of pictures: the embedded digits and scenes, CIFAR-10, folders of class folders."""

import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split
from torchvision import datasets

from rastudy.data import digits, scenes
from rastudy.data.image_files import EXTENSIONS, read_picture
from rastudy.data.photo_cache import CachedPhotos, FilePhotos
from rastudy.errors import StudyError, one_of
from rastudy.registry import DATASETS, bounds_of, half_of, resolve

SPLITS = ("train", "val", "test")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures of one split, decoded.

    ``pictures`` (N, H, W, 3) uint8, or N photographs of any size that are read one by one (cache.py); ``labels`` (N,) int64;
    ``groups`` (N,) int64: pictures that share a group are not independent (statistics resample groups); ``classes``: a name
    per label; ``crop``: the square, in pixels, that evaluation takes from the middle of a photograph (0: pictures as they are).
    """

    name: str
    split: str
    pictures: np.ndarray | CachedPhotos | FilePhotos
    labels: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...]
    crop: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture in evaluation."""
        return (self.crop, self.crop) if self.crop else self.pictures.shape[1:3]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pictures and labels, first 16 hex digits."""
        of_pixels = self.pictures.digest().encode() if self.crop else np.ascontiguousarray(self.pictures).tobytes()
        sha = hashlib.sha256(of_pixels)
        sha.update(np.ascontiguousarray(self.labels).tobytes())
        return sha.hexdigest()[:16]


class Source(NamedTuple):
    """Where a set of pictures in memory comes from: validation pictures, folder, side in pixels, what unreadable files do."""

    n_val: int = 1000
    data_dir: str = ""
    size: int = 32
    skip_unreadable: bool = False


def read_folder(folder: Path, size: int, skip_unreadable: bool = False):
    """Read a folder of class folders.

    Returns:
        pictures (N, size, size, 3) uint8, labels (N,) int64, class names; sorted by class, then by file name.

    Raises:
        StudyError: the folder is missing or empty, a class has no pictures, or a picture cannot be used
            (``skip_unreadable`` leaves such pictures out and warns with their number).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; give the data's folder with --data or the parameter data_dir")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise StudyError(f"{folder}: holds no class folders; pictures belong into one folder per class")
    pictures, labels, skipped = [], [], []
    for label, name in enumerate(classes):
        paths = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in EXTENSIONS)
        if not paths:
            raise StudyError(f"{folder / name}: this class folder holds no pictures ({', '.join(sorted(EXTENSIONS))})")
        for path in paths:
            try:
                pictures.append(read_picture(path, size))
                labels.append(label)
            except StudyError as error:
                if not skip_unreadable:
                    raise
                skipped.append(str(error))
    if skipped:
        warnings.warn(f"{folder}: skipped {len(skipped)} pictures, the first because of {skipped[0]}", stacklevel=2)
    if not pictures:
        raise StudyError(f"{folder}: no usable picture is left")
    return np.stack(pictures), np.array(labels, np.int64), tuple(classes)


def _read_cifar10(data_dir: Path, train: bool, source: Source):
    """CIFAR-10 through torchvision's own loader, or from ``train/`` and ``test/`` class folders."""
    place = data_dir / datasets.CIFAR10.base_folder
    if place.is_dir():
        try:
            data = datasets.CIFAR10(str(data_dir), train=train)
        except RuntimeError as error:
            raise StudyError(f"{place}: not the published files; unpack {datasets.CIFAR10.url} again") from error
        if source.size != data.data.shape[1]:
            raise StudyError(f"image_size={source.size} does not fit; {place} holds pictures of {data.data.shape[1]} pixels")
        return data.data, np.array(data.targets, np.int64), tuple(data.classes)
    if (data_dir / "train").is_dir():
        return read_folder(data_dir / ("train" if train else "test"), source.size, source.skip_unreadable)
    raise StudyError(
        f"{data_dir}: no CIFAR-10 here; put {datasets.CIFAR10.base_folder}/ from {datasets.CIFAR10.url} there, "
        "or train/ and test/ with a folder per class, or name the folder with --data"
    )


def load_split(dataset: str, split: str, n: int, **source: Any) -> PictureSet:
    """Load the first ``n`` pictures of a split (0: all of them) of a set that fits into memory.

    ``val`` is ``n_val`` pictures taken out of the training pictures by a stratified split that never changes; ``train``
    is drawn from the rest in a shuffled order that never changes. A folder's ``test`` split is ``test/``, else ``val/``.
    ``digits_first``, ``cifar10_second``, ...: those of the ``n`` pictures whose label lies in that half of the classes, whose
    own labels start at 0.

    Args:
        source: fields of :class:`Source`.

    Raises:
        StudyError: unknown names, missing data, or fewer pictures than asked for.
    """
    one_of("split", split, SPLITS)
    whole, half = half_of(dataset)
    one_of("dataset", whole, [name for name, one in DATASETS.items() if not one.photographs])
    pictures = resolve(DATASETS[whole].load)(split, n, Source(**source))
    return _half(pictures, half) if half else pictures


def load_digits(split: str, n: int, _source: Source) -> PictureSet:
    available = digits.SPLITS[split][2]
    return PictureSet("digits", split, *digits.render(split, count_of(n, available, "digits", split)), digits.CLASSES)


def load_scenes(split: str, n: int, _source: Source) -> PictureSet:
    """Scenes; the label of one is its index (its boxes: :mod:`rastudy.data.scenes`)."""
    pictures, _ = scenes.render(split, count_of(n, scenes.SPLITS[split], "scenes", split))
    index = np.arange(len(pictures))
    return PictureSet("scenes", split, pictures, index, index, digits.CLASSES)


def load_cifar10(split: str, n: int, source: Source) -> PictureSet:
    folder = _folder_of("cifar10", source)
    return _part_of_folder("cifar10", split, n, source, _read_cifar10(folder, split != "test", source))


def load_folder(split: str, n: int, source: Source) -> PictureSet:
    folder = _folder_of("folder", source)
    part = "train" if split != "test" else "test" if (folder / "test").is_dir() else "val"
    return _part_of_folder(folder.name, split, n, source, read_folder(folder / part, source.size, source.skip_unreadable))


def _folder_of(dataset: str, source: Source) -> Path:
    if not source.data_dir:
        raise StudyError(f"dataset={dataset!r} needs its folder; give it with --data or the parameter data_dir")
    return Path(source.data_dir).expanduser()


def _part_of_folder(name: str, split: str, n: int, source: Source, read: tuple) -> PictureSet:
    """The training, validation or test pictures among those of a folder."""
    pictures, labels, classes = read
    folder, index = Path(source.data_dir).expanduser(), np.arange(len(labels))
    index = _without_validation(folder, labels, classes, split, source.n_val) if split != "test" else index
    index = index[: count_of(n, len(index), name, split)]
    return PictureSet(name, split, pictures[index], labels[index], index, classes)


def _half(pictures: PictureSet, half: str) -> PictureSet:
    """The pictures of the first or the second half of the classes, labelled from 0 on."""
    low, high = bounds_of(half, len(pictures.classes))
    keep = np.flatnonzero((low <= pictures.labels) & (pictures.labels < high))
    if low == high or not len(keep):
        raise StudyError(f"{pictures.name}: {len(pictures.classes)} classes leave no pictures for the {half} half of them")
    return PictureSet(f"{pictures.name}_{half}", pictures.split, pictures.pictures[keep], pictures.labels[keep] - low,
                      pictures.groups[keep], pictures.classes[low:high])  # fmt: skip


def _without_validation(folder: Path, labels: np.ndarray, classes: tuple[str, ...], split: str, n_val: int) -> np.ndarray:
    """Places of the training or the validation pictures among a folder's training pictures."""
    index = np.arange(len(labels))
    if n_val >= len(labels):
        raise StudyError(f"{folder}: {len(labels)} training pictures leave nothing after {n_val} for validation")
    if split == "val" and not n_val:
        raise StudyError(f"{folder}: no pictures for validation; set val_images above 0")
    # by class where every class has enough pictures for it
    enough = min(np.bincount(labels, minlength=len(classes)).min(), n_val / len(classes)) >= 2
    stratify = labels if enough and len(labels) - n_val >= len(classes) else None
    # n_val 0: one picture is split off and put back, for sklearn refuses an empty part
    rest, val = train_test_split(index, test_size=n_val or 1, random_state=0, stratify=stratify)
    return np.append(rest, val[n_val:]) if split == "train" else np.sort(val[:n_val])


def count_of(n: int, available: int, dataset: str, split: str) -> int:
    if n > available:
        raise StudyError(f"{split} of {dataset} holds {available} pictures, {n} were asked for")
    return n or available
