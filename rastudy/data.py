"""Picture sets in memory, and batches of ``(lq, gt, label, index)``."""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torchvision import datasets

from rastudy import digits, scenes
from rastudy.cache import CachedPhotos, FilePhotos
from rastudy.decode import EXTENSIONS, read_picture
from rastudy.degrade import degrade
from rastudy.errors import StudyError, one_of

SPLITS = ("train", "val", "test")
HALVES = ("first", "second")  # of a data set's classes


class Batch(NamedTuple):
    """``lq`` (N, 3, h, w) and ``gt`` (N, 3, H, W) float32 in [0, 1], ``label`` and ``index`` (N,) int64."""

    lq: torch.Tensor
    gt: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor


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


class Batches:
    """What loaders share: how many batches an epoch has, and the order that a seed and an epoch's number alone give it."""

    label: torch.Tensor
    batch_size: int

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.label) // self.batch_size)

    def shuffle(self, seed: int, epoch: int) -> tuple[torch.Generator, torch.Tensor]:
        """The epoch's generator, from which its other draws come in turn, and the pictures' order."""
        generator = torch.Generator().manual_seed(10_000 * seed + epoch)
        return generator, torch.randperm(len(self.label), generator=generator)


class Loader(Batches):
    """Batches of a picture set for one task, degraded once where the degradation is deterministic.

    Args:
        flip: add the horizontally flipped pictures to the training draw.
        shard: rank and world size: every ``world``-th picture of each batch, from the ``rank``-th on.
    """

    def __init__(
        self, pictures: PictureSet, task: str, strength: float, batch_size: int, flip: bool = False,
        shard: tuple[int, int] = (0, 1),
    ):  # fmt: skip
        self.task, self.strength, self.batch_size, self.shard = task, strength, batch_size, shard
        self.label = torch.from_numpy(pictures.labels)
        variants = [pictures.pictures, pictures.pictures[:, :, ::-1]][: 1 + flip]
        self.gt = torch.from_numpy(np.stack(variants))  # V N H W 3
        self.lq = None if task == "dn" else torch.stack([self._degrade_all(v) for v in variants])

    def _degrade_all(self, pictures: np.ndarray) -> torch.Tensor:
        lq = [(degrade(p, self.task, self.strength) * 255).round().to(torch.uint8) for p in pictures]
        return torch.stack(lq).permute(0, 2, 3, 1).contiguous()

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Shuffled batches that depend on ``seed`` and ``epoch`` alone, so every mode sees the same ones."""
        generator, order = self.shuffle(seed, epoch)
        n = len(order)
        variant = torch.randint(len(self.gt), (n,), generator=generator)
        noise_seed = torch.randint(2**31, (n,), generator=generator)
        for index in parts(order, self.batch_size, self.shard, training=True):
            yield self._batch(index, variant[index], noise_seed[index])

    def ordered(self) -> Iterator[Batch]:
        """Every picture once, in order, noise seeded by its index: for evaluation."""
        for index in parts(torch.arange(len(self.label)), self.batch_size, self.shard, training=False):
            yield self._batch(index, torch.zeros_like(index), index)

    def _batch(self, index: torch.Tensor, variant: torch.Tensor, noise_seed: torch.Tensor) -> Batch:
        gt = self.gt[variant, index]
        if self.lq is None:
            noisy = [degrade(p.numpy(), "dn", self.strength, int(s)) for p, s in zip(gt, noise_seed, strict=True)]
            lq = torch.stack(noisy).contiguous(memory_format=torch.channels_last)
        else:
            lq = to_float(self.lq[variant, index])
        return Batch(lq, to_float(gt), self.label[index], index)


def parts(order: Sequence, batch_size: int, shard: tuple[int, int], training: bool) -> Iterator[Sequence]:
    """A process's part of each batch: every ``world``-th picture from the ``rank``-th on.

    Of a last batch with fewer pictures than processes, every process trains on the whole; evaluation reads none twice.
    """
    rank, world = shard
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        part = batch if training and len(batch) < world else batch[rank::world]
        if len(part):
            yield part


def to_float(pictures: torch.Tensor) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [0, 1]; the memory layout is channels_last already."""
    return pictures.permute(0, 3, 1, 2).float().div_(255)


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


def _read_cifar10(data_dir: Path, train: bool, size: int, skip_unreadable: bool):
    """CIFAR-10 through torchvision's own loader, or from ``train/`` and ``test/`` class folders."""
    place = data_dir / datasets.CIFAR10.base_folder
    if place.is_dir():
        try:
            data = datasets.CIFAR10(str(data_dir), train=train)
        except RuntimeError as error:
            raise StudyError(f"{place}: not the published files; unpack {datasets.CIFAR10.url} again") from error
        if size != data.data.shape[1]:
            raise StudyError(f"image_size={size} does not fit; {place} holds pictures of {data.data.shape[1]} pixels")
        return data.data, np.array(data.targets, np.int64), tuple(data.classes)
    if (data_dir / "train").is_dir():
        return read_folder(data_dir / ("train" if train else "test"), size, skip_unreadable)
    raise StudyError(
        f"{data_dir}: no CIFAR-10 here; put {datasets.CIFAR10.base_folder}/ from {datasets.CIFAR10.url} there, "
        "or train/ and test/ with a folder per class, or name the folder with --data"
    )


def load_split(
    dataset: str, split: str, n: int, *, n_val: int = 1000, data_dir: str = "", size: int = 32,
    skip_unreadable: bool = False,
) -> PictureSet:  # fmt: skip
    """Load the first ``n`` pictures of a split (0: all of them).

    ``val`` is ``n_val`` pictures taken out of the training pictures by a stratified split that never changes; ``train``
    is drawn from the rest in a shuffled order that never changes. A folder's ``test`` split is ``test/``, else ``val/``.
    A scene's label is its place: what is in it :mod:`rastudy.scenes` says.
    ``digits_first``, ``cifar10_second``, ...: those of the ``n`` pictures whose label lies in that half of the classes, whose
    own labels start at 0.

    Raises:
        StudyError: unknown names, missing data, or fewer pictures than asked for.
    """
    one_of("split", split, SPLITS)
    whole, half = half_of(dataset)
    if half:
        pictures = load_split(whole, split, n, n_val=n_val, data_dir=data_dir, size=size, skip_unreadable=skip_unreadable)
        return _half(pictures, half)
    one_of("dataset", dataset, ("digits", "cifar10", "scenes", "folder"))
    if dataset == "scenes":
        pictures, _ = scenes.render(split, count_of(n, scenes.SPLITS[split], dataset, split))
        place = np.arange(len(pictures))
        return PictureSet(dataset, split, pictures, place, place, digits.CLASSES)
    if dataset == "digits":
        available = digits.SPLITS[split][2]
        pictures, labels, groups = digits.render(split, count_of(n, available, dataset, split))
        return PictureSet(dataset, split, pictures, labels, groups, digits.CLASSES)
    if not data_dir:
        raise StudyError(f"dataset={dataset!r} needs its folder; give it with --data or the parameter data_dir")
    folder, train = Path(data_dir).expanduser(), split != "test"
    if dataset == "cifar10":
        pictures, labels, classes = _read_cifar10(folder, train, size, skip_unreadable)
    else:
        part = "train" if train else "test" if (folder / "test").is_dir() else "val"
        pictures, labels, classes = read_folder(folder / part, size, skip_unreadable)
    index = _without_validation(folder, labels, classes, split, n_val) if train else np.arange(len(labels))
    index = index[: count_of(n, len(index), dataset, split)]
    name = folder.name if dataset == "folder" else dataset
    return PictureSet(name, split, pictures[index], labels[index], index, classes)


def half_of(dataset: str) -> tuple[str, str]:
    """``cifar10_first`` as ``("cifar10", "first")``; of a whole data set the second part is empty."""
    whole, _, half = dataset.rpartition("_")
    return (whole, half) if half in HALVES else (dataset, "")


def bounds_of(half: str, n_classes: int) -> tuple[int, int]:
    """The first class of a half, and the one after its last."""
    return {"first": (0, n_classes // 2), "second": (n_classes // 2, n_classes)}[half]


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
