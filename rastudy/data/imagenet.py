"""Photographs in ImageNet's folders: which files, which labels, which split."""

import csv
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from rastudy.config import Config
from rastudy.data.datasets import PictureSet, Source, count_of, in_half
from rastudy.data.image_files import list_pictures
from rastudy.data.photo_cache import FilePhotos, Photos, open_cache
from rastudy.errors import StudyError
from rastudy.paths import expand, results_folder, write_csv

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"  # the devkit's: numbers in its own order, which meta.mat explains
SYNSET_LABELS = "imagenet_2012_validation_synset_labels.txt"  # a wnid per line
KAGGLE = "LOC_val_solution.csv"  # ImageId, wnid and boxes
SPLIT_SEED = 0


@cache
def wnids() -> tuple[str, ...]:
    """ImageNet-1k's class ids in label order, from timm's wheel."""
    try:
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise StudyError("the order of ImageNet's labels comes with timm; pip install -e '.[imagenet]'") from error
    return tuple(ImageNetInfo().label_names())


@cache
def class_names() -> tuple[str, ...]:
    """A name for each of ImageNet-1k's classes in label order, from timm's wheel; the wnids' StudyError without it."""
    wnids()
    from timm.data import ImageNetInfo

    return tuple(text.split(",")[0] for text in ImageNetInfo().label_descriptions())


def photo_labels(folder: Path, files: Sequence[str]) -> np.ndarray:
    """The labels (N,) int64, in the order of :func:`wnids`, of a folder's photographs.

    Accepted: class folders named by wnid, all 1,000 or some of them; and ILSVRC's flat validation folder with one of its
    ground-truth files beside or in it (the devkit's with ``meta.mat``, Kaggle's CSV, or a list of wnids).

    Raises:
        StudyError: no labels, or a class that is not one of ImageNet's.
    """
    if not any("/" in name for name in files):
        return _from_ground_truth(folder, files)
    label = {wnid: k for k, wnid in enumerate(wnids())}
    if beside := next((name for name in files if "/" not in name), None):
        raise StudyError(f"{folder / beside}: lies beside class folders; put it into one of them")
    parts = [name.split("/") for name in files]
    if unknown := sorted({part[0] for part in parts} - label.keys()):
        deeper = next((part[0] for part in parts if part[0] == unknown[0] and len(part) > 2 and part[1] in label), None)
        step = f"the classes lie in {folder / deeper}; name that folder" if deeper else "rename them, or take them away"
        shown = f"{', '.join(unknown[:10])}{', ...' * (len(unknown) > 10)}"
        raise StudyError(f"{folder}: no class of ImageNet-1k, whose folders are named by wnid (n01440764): {shown}; {step}")
    return np.array([label[name.split("/")[0]] for name in files], np.int64)


def labels_digest(folder: Path, files: Sequence[str]) -> str:
    """A digest of the labels that a ground-truth file, which may be mended, gives flat photographs; else empty."""
    if not files or any("/" in name for name in files):
        return ""
    try:
        return f"-{hashlib.sha256(_from_ground_truth(folder, files).tobytes()).hexdigest()[:8]}"
    except StudyError:  # without labels: enough for a loss that needs none
        return ""


def _from_ground_truth(folder: Path, files: Sequence[str]) -> np.ndarray:
    """The labels of ILSVRC's validation pictures in one folder, from a ground-truth file."""
    places = (folder, folder.parent, folder.parent / "data", folder.parent / "ILSVRC2012_devkit_t12" / "data")
    paths = [place / name for name in (KAGGLE, SYNSET_LABELS, GROUND_TRUTH) for place in places]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise StudyError(
            f"{folder}: no class folders and no ground truth; modes with labels need folders named by wnid, or beside the "
            f"pictures {GROUND_TRUTH} with meta.mat, {KAGGLE} or {SYNSET_LABELS} (ra_unsupervised learns without labels)"
        )
    if path.name == KAGGLE:
        truth = _kaggle(path)
        found = [truth.get(Path(name).stem) for name in files]
    else:
        lines = read_text(path).split()
        names = _of_devkit(path, lines) if path.name == GROUND_TRUTH else lines
        numbers = [int(re.sub(r"\D", "", Path(name).stem[-8:]) or 0) for name in files]  # ILSVRC2012_val_00000293
        found = [names[k - 1] if 0 < k <= len(names) else None for k in numbers]
    label = {wnid: k for k, wnid in enumerate(wnids())}
    for name, wnid in zip(files, found, strict=True):
        if wnid not in label:
            raise StudyError(f"{folder / name}: {path.name} has no class of ImageNet-1k for it (got {wnid!r})")
    return np.array([label[str(wnid)] for wnid in found], np.int64)


def _kaggle(path: Path) -> dict[str, str]:
    """Picture to wnid, from Kaggle's table, with commas or semicolons."""
    lines = read_text(path).splitlines()
    rows = csv.DictReader(lines, delimiter=";" if lines and lines[0].count(";") else ",")
    if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
        raise StudyError(f"{path}: its first line must name ImageId and PredictionString, as Kaggle's file does")
    return {row["ImageId"]: (row["PredictionString"] or "").split(" ")[0] for row in rows}


def _of_devkit(path: Path, lines: Sequence[str]) -> list[str]:
    """The wnids of the devkit's numbers, a line each."""
    wnid = _devkit(path.parent / "meta.mat")
    for k, line in enumerate(lines, 1):
        if not (line.isdecimal() and int(line) in wnid):
            raise StudyError(f"{path}, entry {k}: {line!r} is none of the devkit's numbers, 1 to {max(wnid)}; unpack it again")
    return [wnid[int(line)] for line in lines]


def read_text(path: Path) -> str:
    """A text file as people have them: UTF-8 with or without its mark, or UTF-16; StudyError for anything else."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise StudyError(
            f"{path}: not a text in UTF-8 or UTF-16 ({error.reason} at byte {error.start}); save it anew"
        ) from error


@cache
def _devkit(path: Path) -> dict[int, str]:
    """The devkit's numbers to wnids."""
    from scipy.io import loadmat

    if not path.is_file():
        raise StudyError(f"{path}: missing; the numbers of {GROUND_TRUTH} follow the devkit's own order, which this file tells")
    try:
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception as error:  # scipy raises many types
        raise StudyError(f"{path}: not the devkit's file ({type(error).__name__}: {error}); unpack the devkit again") from error


# --- splits


def load_photographs(split: str, n: int, source: Source) -> PictureSet:
    """The ``n`` first photographs of a split (0: all), from the cache or decoded at every access (``cache_dir="none"``).

    Raises:
        StudyError: what :func:`photo_labels` and :func:`open_cache` raise, or fewer photographs than asked for.
    """
    folder, to_split = part_of(source.folder("imagenet"), split)
    files = FilePhotos(folder, list_pictures(folder), source.resize)
    count = len(files)
    if source.half or split != "train" or source.labelled:
        labels, classes = photo_labels(folder, files.files), wnids()
    else:
        labels, classes = np.zeros(count, np.int64), ("photograph",)
    if split == "test" and not to_split:  # in class order, as ImageFolder has it; ``n`` of them are drawn at random
        index = np.argsort(labels, kind="stable")
        index = index[np.sort(split_of(count, 0, n)["test"])] if n else index
    else:
        index = split_of(count, source.n_val, (source.n_test or count - source.n_val) if to_split else 0)[split]
    if source.half:
        inside, labels, classes = in_half(source.half, labels, classes)
        index = index[inside[index]]
    photos, usable = _readable(files, source)
    index = index[np.isin(index, usable)]
    if split == "train":
        index = index[: count_of(n, len(index), folder.name, split)]
    if not len(index):
        raise StudyError(f"{source.data_dir}: leaves no pictures for {split}; set {split}_images, or give it a train/ folder")
    name = f"imagenet_{source.half}" if source.half else "imagenet"
    photos = photos.subset(np.searchsorted(usable, index))
    return PictureSet(name, split, photos, labels[index], index, classes, source.size)


def _readable(files: FilePhotos, source: Source) -> tuple[Photos, np.ndarray]:
    """The photographs that can be read, and their places among the files."""
    if source.cache_dir != "none":
        return open_cache(files, source.cache_dir, source.workers, source.skip_unreadable)
    if source.skip_unreadable:
        raise StudyError("skip_unreadable needs the cache, which knows what can be read; leave cache_dir='none' out")
    return files, np.arange(len(files))


def part_of(data_dir: str | Path, split: str) -> tuple[Path, bool]:
    """The folder that a split is taken from, and whether that folder is to be split (there is no ``train/``)."""
    data = expand(data_dir)
    if (data / "train").is_dir():
        return data / ("val" if split == "test" else "train"), False
    return (data / "val" if (data / "val").is_dir() else data), True


def split_of(count: int, n_val: int, n_test: int) -> dict[str, np.ndarray]:
    """Places of each split among ``count`` files in sorted order, drawn once and for all by a fixed seed.

    Labels play no part: so every mode, with or without labels, trains on the same photographs in the same order.
    """
    if n_test + n_val > count:
        raise StudyError(f"{count} photographs are fewer than test_images={n_test} and val_images={n_val}; set smaller ones")
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    return {"test": np.sort(order[:n_test]), "val": np.sort(order[n_test : n_test + n_val]), "train": order[n_test + n_val :]}


def write_split(config: Config) -> Path | None:
    """List which photograph belongs to which split, where a folder without ``train/`` was split by seed."""
    folder, to_split = part_of(config.data_dir, "test")
    if not (config.of_photographs and to_split):
        return None
    files = list_pictures(folder)
    parts = split_of(len(files), config.val_images, config.test_images or len(files) - config.val_images)
    where = {files[k]: split for split, index in parts.items() for k in index}
    path = results_folder(config.preset) / "split.csv"
    write_csv(path, [{"file": name, "split": where[name]} for name in files], ("file", "split"))
    return path
