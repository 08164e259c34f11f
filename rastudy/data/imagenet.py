"""ImageNet's folders: which files, which labels, which split."""

import csv
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rastudy.data.image_files import EXTENSIONS
from rastudy.errors import StudyError

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"  # the devkit's: numbers in its own order, which meta.mat explains
SYNSET_LABELS = "imagenet_2012_validation_synset_labels.txt"  # a wnid per line
KAGGLE = "LOC_val_solution.csv"  # ImageId, wnid and boxes
SPLIT_SEED = 0


class Found(NamedTuple):
    """Photographs of a folder: ``files`` relative to it, in sorted order, ``labels`` (N,) int64, ``classes``: wnids."""

    folder: Path
    files: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]


@lru_cache
def wnids() -> tuple[str, ...]:
    """ImageNet-1k's class ids in label order, from timm's wheel."""
    try:
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise StudyError("the order of ImageNet's labels comes with timm; pip install -e '.[imagenet]'") from error
    return tuple(ImageNetInfo().label_names())


@lru_cache
def class_names() -> tuple[str, ...]:
    """A name for each of ImageNet-1k's classes in label order, from timm's wheel; the wnids' StudyError without it."""
    wnids()
    from timm.data import ImageNetInfo

    return tuple(text.split(",")[0] for text in ImageNetInfo().label_descriptions())


def find_photos(folder: Path, labelled: bool = True) -> Found:
    """The photographs below a folder.

    Accepted: class folders named by wnid, all 1,000 or some of them; ILSVRC's flat validation folder with one of its
    ground-truth files beside or in it (the devkit's with ``meta.mat``, Kaggle's CSV, or a list of wnids); and, where
    ``labelled`` is false, any pictures at all (their labels are 0).

    Raises:
        StudyError: no folder, no pictures, no labels, or a class folder that is none of ImageNet's.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; name the photographs' folder with --data or the parameter data_dir")
    files = tuple(sorted(_pictures(folder)))
    if not files:
        raise StudyError(f"{folder}: holds no pictures ({', '.join(sorted(EXTENSIONS))})")
    if not labelled:
        return Found(folder, files, np.zeros(len(files), np.int64), ("photograph",))
    tops = sorted({name.split("/")[0] for name in files if "/" in name})
    if len(tops) == 0:
        return _flat(folder, files)
    loose = next((name for name in files if "/" not in name), None)
    if loose:
        raise StudyError(f"{folder / loose}: lies beside class folders; put it into one of them")
    classes = wnids()
    label = {wnid: k for k, wnid in enumerate(classes)}
    for name in tops:
        if name not in label:
            raise StudyError(
                f"{folder / name}: {name!r} is no class of ImageNet-1k; its class folders are named by wnid, n01440764"
            )
    labels = np.array([label[name.split("/")[0]] for name in files], np.int64)
    return Found(folder, files, labels, classes)


def _pictures(folder: Path, prefix: str = "") -> Iterable[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _pictures(Path(entry.path), f"{prefix}{entry.name}/")
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield prefix + entry.name


def _flat(folder: Path, files: tuple[str, ...]) -> Found:
    """ILSVRC's validation pictures in one folder; labels from a ground-truth file."""
    places = (folder, folder.parent, folder.parent / "data", folder.parent / "ILSVRC2012_devkit_t12" / "data")
    paths = [place / name for name in (KAGGLE, SYNSET_LABELS, GROUND_TRUTH) for place in places]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise StudyError(
            f"{folder}: no class folders and no ground truth; modes with labels need folders named by wnid, or beside the "
            f"pictures {GROUND_TRUTH} with meta.mat, {KAGGLE} or {SYNSET_LABELS} (ra_unsupervised learns without labels)"
        )
    classes = wnids()
    label = {wnid: k for k, wnid in enumerate(classes)}
    if path.name == KAGGLE:
        with path.open(newline="") as file:
            truth = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
        found = [truth.get(Path(name).stem) for name in files]
    else:
        lines = path.read_text().split()
        names = [_devkit(path.parent / "meta.mat")[int(line)] for line in lines] if path.name == GROUND_TRUTH else lines
        numbers = [int(re.sub(r"\D", "", Path(name).stem[-8:]) or 0) for name in files]  # ILSVRC2012_val_00000293
        found = [names[k - 1] if 0 < k <= len(names) else None for k in numbers]
    for name, wnid in zip(files, found, strict=True):
        if wnid not in label:
            raise StudyError(f"{folder / name}: {path.name} has no class of ImageNet-1k for it (got {wnid!r})")
    return Found(folder, files, np.array([label[wnid] for wnid in found], np.int64), classes)


@lru_cache
def _devkit(path: Path) -> dict[int, str]:
    """The devkit's numbers to wnids."""
    from scipy.io import loadmat

    if not path.is_file():
        raise StudyError(f"{path}: missing; the numbers of {GROUND_TRUTH} follow the devkit's own order, which this file tells")
    synsets = loadmat(path, squeeze_me=True)["synsets"]
    return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}


def part_of(data_dir: str | Path, split: str) -> tuple[Path, bool]:
    """The folder that a split is taken from, and whether that folder is to be split (there is no ``train/``)."""
    data = Path(data_dir).expanduser()
    if (data / "train").is_dir():
        return data / ("val" if split == "test" else "train"), False
    return (data / "val" if (data / "val").is_dir() else data), True


def split_of(count: int, n_val: int, n_test: int) -> dict[str, np.ndarray]:
    """Places of each split among ``count`` files in sorted order, drawn once for all by a fixed seed.

    Without looking at labels: so every mode, those that need none too, trains on the same photographs in the same order.
    """
    if n_test + n_val > count:
        raise StudyError(f"{count} photographs are fewer than test_images={n_test} and val_images={n_val}; set smaller ones")
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    return {"test": np.sort(order[:n_test]), "val": np.sort(order[n_test : n_test + n_val]), "train": order[n_test + n_val :]}
