"""Sets of pictures: the embedded digits and scenes, CIFAR-10, folders of class folders; photographs: :mod:`.imagenet`."""

import hashlib
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split
from torchvision import datasets

from rastudy.data import digits, scenes
from rastudy.data.image_files import EXTENSIONS, centre_crop, is_folder, list_folders, list_pictures, read_picture
from rastudy.data.photo_cache import Photos
from rastudy.errors import StudyError, one_of
from rastudy.paths import expand
from rastudy.registry import DATASETS, PARITIES, bounds_of, half_of, resolve

SPLITS = ("train", "val", "test")
CIFAR10_FILES = datasets.CIFAR10.base_folder
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures of one split.

    ``pictures`` (N, H, W, 3) uint8, or N photographs of any size that are read one by one; ``labels`` (N,) int64;
    ``groups`` (N,) int64: pictures that share a group are not independent (statistics resample groups); ``classes``: a name
    per label; ``crop``: the square, in pixels, that evaluation takes from the middle of a photograph (0: pictures as they are).
    """

    name: str
    split: str
    pictures: np.ndarray | Photos
    labels: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...]
    crop: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def array(self) -> np.ndarray:
        """Every picture in memory, (N, H, W, 3) uint8; of photographs the middle."""
        if isinstance(self.pictures, np.ndarray):
            return self.pictures
        return np.stack([centre_crop(self.pictures[k], self.crop) for k in range(len(self))])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture in evaluation."""
        if isinstance(self.pictures, np.ndarray):
            return self.pictures.shape[1:3]
        return self.crop, self.crop

    def subset(self, index: Sequence[int] | np.ndarray) -> "PictureSet":
        """The pictures at these places, in this order."""
        index = np.asarray(index, np.int64)
        pictures = self.pictures[index] if isinstance(self.pictures, np.ndarray) else self.pictures.subset(index)
        return replace(self, pictures=pictures, labels=self.labels[index], groups=self.groups[index])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pictures (of photographs: of their files) and labels, first 16 hex digits."""
        pictures = self.pictures
        sha = hashlib.sha256(pictures.tobytes() if isinstance(pictures, np.ndarray) else pictures.digest().encode())
        sha.update(self.labels.tobytes())
        return sha.hexdigest()[:16]


class Source(NamedTuple):
    """Where a split's pictures come from. A data set ignores the settings that it has no use for.

    ``dataset``: its name, without a half; ``size``: side in pixels;
    ``half``: ``first`` or ``second``, of the classes; ``n_val``, ``n_test``: validation pictures, and
    test pictures where there are no separate ones, that training leaves out; ``labelled``: training's loss reads labels;
    ``classes``: the class folders that are read, by default all; ``resize``, ``cache_dir``, ``workers``: fields of
    :class:`rastudy.config.Config`.
    """

    dataset: str = ""
    data_dir: str = ""
    size: int = 32
    half: str = ""
    n_val: int = 1000
    n_test: int = 0
    labelled: bool = True
    skip_unreadable: bool = False
    classes: tuple[str, ...] = ()
    resize: int = 256
    cache_dir: str = ""
    workers: int = 0

    def folder(self, dataset: str) -> Path:
        """The user's folder; StudyError where none is given."""
        if not self.data_dir:
            raise StudyError(f"dataset={dataset!r} needs its folder; give it with --data or the parameter data_dir")
        return expand(self.data_dir)


def load_split(dataset: str, split: str, n: int, **source: Any) -> PictureSet:
    """Load the first ``n`` pictures of a split (0: all of them) of any data set.

    ``val`` is ``n_val`` pictures taken out of the training pictures by a stratified split that never changes; ``train``
    is drawn from the rest in a shuffled order that never changes. A folder's ``test`` split is ``test/``, else ``val/``.
    ``digits_first``, ``cifar10_second``, ...: those of the ``n`` pictures whose label lies in that half of the classes; their
    labels start at 0.

    Args:
        source: fields of :class:`Source`.

    Raises:
        StudyError: unknown names, missing data, or fewer pictures than asked for.
    """
    one_of("split", split, SPLITS)
    whole, half = half_of(dataset)
    one_of("dataset", whole, DATASETS)
    return resolve(DATASETS[whole].load)(split, n, Source(whole, **source, half=half))


def load_digits(split: str, n: int, source: Source) -> PictureSet:
    """The digits, or those of ``digits.OTHER_DATA``, whose validation and test pictures are the digits' own."""
    name = source.dataset if split == "train" else "digits"
    count = count_of(n, digits.SPLITS[split].pictures, name, split)
    return _half(PictureSet(name, split, *digits.render(split, count, name), digits.CLASSES), source.half)


def load_scenes(split: str, n: int, _source: Source) -> PictureSet:
    """Scenes; the label of one is its index (its boxes: :mod:`rastudy.data.scenes`)."""
    pictures, _ = scenes.render(split, count_of(n, scenes.SPLITS[split], "scenes", split))
    index = np.arange(len(pictures))
    return PictureSet("scenes", split, pictures, index, index, digits.CLASSES)


def load_cifar10(split: str, n: int, source: Source) -> PictureSet:
    """CIFAR-10, or every second of its training pictures; validation and test pictures are the same."""
    parity = source.dataset.rpartition("_")[2]
    if split != "train" or parity not in PARITIES:
        return _load_cifar10(split, n, source)
    whole = _load_cifar10(split, 0, source)
    half = replace(whole.subset(np.arange(PARITIES.index(parity), len(whole), 2)), name=source.dataset)
    return half.subset(np.arange(count_of(n, len(half), source.dataset, split)))


def _load_cifar10(split: str, n: int, source: Source) -> PictureSet:
    """Through torchvision's own loader, or from ``train/`` and ``test/`` class folders."""
    folder = source.folder("cifar10")
    place = folder / CIFAR10_FILES
    if not place.is_dir():
        if (folder / "train").is_dir():
            return _from_folder("cifar10", folder / part_of_folder(folder, split), split, n, source, CIFAR10)
        raise StudyError(
            f"{folder}: no CIFAR-10 here; put {CIFAR10_FILES}/ from {datasets.CIFAR10.url} there, "
            "or train/ and test/ with a folder per class, or name the folder with --data"
        )
    if source.classes:
        named = ",".join(source.classes)
        raise StudyError(f"classes={named!r} does not fit: {place} is read whole; for a part give train/ and test/ folders")
    try:
        data = datasets.CIFAR10(str(folder), train=split != "test")
    except RuntimeError as error:
        raise StudyError(f"{place}: not the published files; unpack {datasets.CIFAR10.url} again") from error
    if source.size != data.data.shape[1]:
        raise StudyError(f"image_size={source.size} does not fit; {place} holds pictures of {data.data.shape[1]} pixels")
    return _part("cifar10", split, n, source, data.data, np.array(data.targets, np.int64), tuple(data.classes))


def load_folder(split: str, n: int, source: Source) -> PictureSet:
    folder = source.folder("folder")
    known = class_folders(folder / "train")[1] if is_folder(folder / "train") else ()  # training's classes are the test's
    known = source.classes if set(source.classes) == set(known) else known  # all of them: in the order of R's labels
    return _from_folder(folder.name, folder / part_of_folder(folder, split), split, n, source, known)


def part_of_folder(folder: Path, split: str) -> str:
    """The sub-folder that a split is taken from."""
    return "train" if split != "test" else "test" if (folder / "test").is_dir() else "val"


def _from_folder(name: str, folder: Path, split: str, n: int, source: Source, known: Sequence[str]) -> PictureSet:
    return _part(name, split, n, source, *read_folder(folder, source.size, source.skip_unreadable, known, source.classes))


def read_folder(
    folder: Path, size: int, skip_unreadable: bool = False, known: Sequence[str] = (), stated: Sequence[str] = (),
    failed: list[str] | None = None,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:  # fmt: skip
    """Read a folder of class folders.

    Args:
        known: the names of the classes by label, where they are known: folders are matched by name.
        stated: the class folders to read; default: all that are known.
        failed: takes a sentence for each picture that cannot be used, which is then left out.

    Returns:
        pictures (N, size, size, 3) uint8, prepared by :func:`.image_files.square_of`; labels (N,) int64; class names; sorted by
        class, then by file name.

    Raises:
        StudyError: the folder is missing or empty, its class folders are not those that are known or stated, a class has no
            pictures, or a picture cannot be used (``skip_unreadable`` leaves such pictures out and warns with their number).
    """
    names, classes = class_folders(folder, known, stated)
    wanted = set(names)
    label = {name: k for k, name in enumerate(classes)}
    files = sorted(list_pictures(folder), key=lambda file: file.split("/"))
    if beside := next((file for file in files if "/" not in file), None):
        raise StudyError(f"{folder / beside}: lies beside class folders; put it into one of them")
    if empty := wanted - {file.split("/")[0] for file in files}:
        raise StudyError(
            f"{folder / min(empty)}: this folder holds no pictures ({', '.join(sorted(EXTENSIONS))}); every class needs some"
        )
    pictures, labels = [], []
    skipped: list[str] = []
    for file in files:
        name = file.split("/")[0]
        if name not in wanted:
            continue
        try:
            pictures.append(read_picture(folder / file, size))
            labels.append(label[name])
        except StudyError as error:
            if not skip_unreadable and failed is None:
                raise StudyError(f"{error}, or set skip_unreadable") from error
            (skipped if failed is None else failed).append(str(error))
    if skipped:
        warnings.warn(f"{folder}: skipped {len(skipped)} pictures, the first because of {skipped[0]}", stacklevel=2)
    if not pictures:
        raise StudyError(f"{folder}: no usable picture is left")
    return np.stack(pictures), np.array(labels, np.int64), classes


def class_folders(folder: Path, known: Sequence[str] = (), stated: Sequence[str] = ()) -> tuple[list[str], tuple[str, ...]]:
    """The class folders to read, and the classes by label: ``known``, else ``stated``, else the folders' own names, sorted.

    Raises:
        StudyError: no class folders, or others than those known or stated; it shows both lists.
    """
    if not is_folder(folder):
        raise StudyError(f"{folder}: no such folder; give the data's folder with --data or the parameter data_dir")
    there = list_folders(folder)
    if not there:
        raise StudyError(f"{folder}: holds no class folders; pictures belong into one folder per class")
    for name in stated if known else ():
        one_of("classes", name, known)
    classes = tuple(known or stated or there)
    names = sorted(stated or classes, key=classes.index)
    missing, unknown = set(names) - set(there), set() if stated else set(there) - set(classes)
    if missing or unknown:
        deeper = next((one for one in there if set(classes) & set(list_folders(folder / one))), None)
        step = "rename or add folders, or state the classes to read with --classes"
        step = f"the classes lie in {folder / deeper}; name that folder" if deeper else step
        raise StudyError(
            f"{folder}: its class folders are not the classes: missing {_listed(missing)}; unknown {_listed(unknown)}; {step}"
        )
    return names, classes


def _listed(names: Collection[str]) -> str:
    """Some names in words: ten of them and the number of the others."""
    shown = sorted(names)[:10]
    return ", ".join(shown) + f" and {len(names) - 10} more" * (len(names) > 10) if names else "none"


def _part(
    name: str, split: str, n: int, source: Source, pictures: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]
) -> PictureSet:
    """The training, validation or test pictures among those of a folder; a picture's group is its place there."""
    index = np.arange(len(labels)) if split == "test" else _without_validation(split, source, labels)
    index = index[places_of(labels[index], count_of(n, len(index), name, split))]
    return _half(PictureSet(name, split, pictures[index], labels[index], index, classes), source.half)


def _without_validation(split: str, source: Source, labels: np.ndarray) -> np.ndarray:
    """Places of the training or the validation pictures among a folder's training pictures."""
    n_val, count = source.n_val, len(labels)
    if n_val >= count:
        raise StudyError(f"{source.data_dir}: {count} training pictures leave nothing after val_images={n_val}; set fewer")
    if split == "val" and not n_val:
        raise StudyError(f"{source.data_dir}: no pictures for validation; set val_images above 0")
    # stratified where every class has enough pictures for it
    sizes = np.unique(labels, return_counts=True)[1]
    enough = min(sizes.min(), n_val / len(sizes)) >= 2
    stratify = labels if enough and count - n_val >= len(sizes) else None
    # n_val 0: one picture is split off and put back, since sklearn refuses an empty part
    rest, val = train_test_split(np.arange(count), test_size=n_val or 1, random_state=0, stratify=stratify)
    return np.append(rest, val[n_val:]) if split == "train" else np.sort(val[:n_val])


def names_of_classes(dataset: str) -> tuple[str, ...]:
    """The names of a data set's classes by label; empty where only its folders would tell."""
    whole, half = half_of(dataset)
    place = DATASETS[whole].classes
    names = resolve(place) if place else ()
    names = names() if callable(names) else names
    return names[slice(*bounds_of(half, len(names)))] if half else names


def in_half(half: str, labels: np.ndarray, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Which labels (N,) lie in that half of the classes, (N,) bool; the labels counted from its first class on; its classes."""
    low, high = bounds_of(half, len(classes))
    return (low <= labels) & (labels < high), labels - low, classes[low:high]


def _half(pictures: PictureSet, half: str) -> PictureSet:
    """The pictures of that half of the classes, labelled from 0 on; without a half the pictures as they are."""
    if not half:
        return pictures
    inside, labels, classes = in_half(half, pictures.labels, pictures.classes)
    if not inside.any():
        raise StudyError(f"{pictures.name}: {len(pictures.classes)} classes leave no pictures for the {half} half of them")
    whole = replace(pictures, name=f"{pictures.name}_{half}", labels=labels, classes=classes)
    return whole.subset(np.flatnonzero(inside))


def places_of(labels: np.ndarray, count: int) -> np.ndarray:
    """Where the first pictures lie; of a set sorted by class, as folders are, ``count`` evenly spaced ones."""
    by_class = (np.diff(labels.astype(int)) >= 0).all()
    return np.linspace(0, len(labels) - 1, count).astype(int) if by_class else np.arange(count)


def count_of(n: int, available: int, dataset: str, split: str) -> int:
    """``n``, or all where it is 0; StudyError where there are fewer."""
    if n > available:
        raise StudyError(
            f"{split} of {dataset} holds {available} pictures, {n} were asked for; set fewer {split}_images, or 0 for all"
        )
    return n or available
