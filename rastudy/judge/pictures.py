"""Pictures to judge restorers on: a preset's own test pictures, or a folder of the user's; ``rastudy degrade`` prepares one.

A prepared place holds ``original/``, ``degraded/`` and ``manifest.json``: the protocol's degraded pictures for any program to
restore, and what they are, which is checked when the result is judged.
"""

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from rastudy.config import Config, make_config
from rastudy.data.datasets import names_of_classes
from rastudy.data.degradations import degrade, to_tensor, to_uint8
from rastudy.data.image_files import centre_crop, is_folder, list_pictures, read_large, read_picture, read_whole
from rastudy.data.imagenet import photo_labels, wnids
from rastudy.data.loaders import load_pictures
from rastudy.errors import StudyError, agree
from rastudy.evaluation.evaluate import first_places
from rastudy.models.weight_files import sha256
from rastudy.paths import write_atomic, write_json
from rastudy.presets import of_photographs, tasks_of

MANIFEST, ORIGINAL, DEGRADED = "manifest.json", "original", "degraded"
VERSION = 1  # of the manifest
SHOWN = 5  # names in a message
DIGITS = 16  # hexadecimal, of a file's SHA-256 in the manifest


@dataclass(frozen=True)
class Pictures:
    """Originals with labels, and degraded versions where restorers are to be run.

    ``names``: one each, ``class/name`` without a suffix; ``labels``, ``groups`` (N,): see :class:`.datasets.PictureSet`;
    ``original``: place to (H, W, 3) uint8; ``degraded``: place to lq (3, h, w) in [0, 1], or None; ``config``: task, strength
    (of a folder without a manifest the preset's first) and what its recognisers read.
    """

    names: Sequence[str]
    labels: np.ndarray
    groups: np.ndarray
    classes: Sequence[str]
    original: Callable[[int], np.ndarray]
    degraded: Callable[[int], torch.Tensor] | None
    config: Config

    def __len__(self) -> int:
        return len(self.names)


def of_preset(config: Config, count: int = 0) -> Pictures:
    """A preset's test pictures, degraded as in the study; ``count`` of them (0: all), of every class (:func:`first_places`)."""
    found = load_pictures(config, "test")
    places = first_places(found, count or len(found))
    whole = isinstance(found.pictures, np.ndarray)

    def original(k: int) -> np.ndarray:
        picture = found.pictures[places[k]] if whole else centre_crop(found.pictures[places[k]], found.crop)
        return np.ascontiguousarray(picture)

    def degraded(k: int) -> torch.Tensor:
        return degrade(original(k), config.task, config.strength, int(places[k]))

    labels = found.labels[places]
    names = [f"{found.classes[label]}/{place:05d}" for place, label in zip(places, labels, strict=True)]
    return Pictures(names, labels, found.groups[places], found.classes, original, degraded, config)


def of_folder(place: Path, preset: str, task: str = "", strength: float = -1.0, device: str = "auto") -> Pictures:
    """What ``rastudy degrade`` prepared; or originals in class folders, of which nothing degraded is known.

    Raises:
        StudyError: no such place, no class folders, other classes than the preset's, or a manifest that does not fit.
    """
    if not (place / MANIFEST).is_file():
        if (place / ORIGINAL).is_dir() and (place / DEGRADED).is_dir():
            raise StudyError(f"{place / MANIFEST}: missing; rastudy degrade writes it, with the pictures that it lists")
        preset = preset or of_photographs(task)
        config = make_config(preset, task or tasks_of(preset)[0], "none", strength=strength, device=device)
        files = class_files(place)
        names, labels, classes = list(files), labels_of(place, files, config.dataset), classes_of(config.dataset)
        return Pictures(names, labels, np.arange(len(names)), classes, _reading(place, files, config.image_size), None, config)
    told = read_manifest(place)
    config = make_config(told["preset"], told["task"], "none", strength=told["strength"], device=device)
    agree(f"{place / MANIFEST}: these pictures were degraded", config, preset=preset, task=task, strength=strength)
    digests: dict[str, list[str]] = told["files"]
    files = {name: f"{name}.png" for name in digests}
    labels = labels_of(place / ORIGINAL, files, config.dataset)
    original = _reading(place / ORIGINAL, files, 0, [found[0] for found in digests.values()])
    seen = _reading(place / DEGRADED, files, 0, [found[1] for found in digests.values()])
    return Pictures(list(files), labels, np.arange(len(files)), classes_of(config.dataset), original,
                    lambda k: to_tensor(seen(k)), config)  # fmt: skip


def _reading(place: Path, files: dict[str, str], size: int, digests: Sequence[str] = ()) -> Callable[[int], np.ndarray]:
    """Place to picture of ``size`` pixels or more; StudyError where the file is not the one whose digest is given."""
    paths = [place / file for file in files.values()]

    def read(k: int) -> np.ndarray:
        if digests and paths[k].is_file() and sha256(paths[k])[:DIGITS] != digests[k]:
            raise StudyError(
                f"{paths[k]}: not the file that rastudy degrade wrote; run it again, and restore into other folders"
            )
        return read_large(paths[k], size)

    return read


def class_files(folder: Path) -> dict[str, str]:
    """Pictures in class folders: name without suffix to file, both relative to the folder.

    Raises:
        StudyError: no pictures, one beside the class folders, or two that differ by their suffix alone.
    """
    files = list_pictures(folder)
    if flat := next((file for file in files if "/" not in file), None):
        step = "recognisers need labels: put each picture into a folder named by its class"
        raise StudyError(f"{folder / flat}: lies in no class folder; {step}")
    return by_name(folder, files)


def by_name(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """Name without suffix to file; StudyError where two files have one name."""
    names = [str(Path(file).with_suffix("")) for file in files]
    if twice := next((name for name, n in Counter(names).items() if n > 1), ""):
        raise StudyError(f"{folder / twice}: two pictures have this name but for their suffix; pictures are paired by name")
    return dict(zip(names, files, strict=True))


def classes_of(dataset: str) -> Sequence[str]:
    """The names of the class folders by label."""
    return wnids() if dataset == "imagenet" else names_of_classes(dataset)


def labels_of(folder: Path, files: dict[str, str], dataset: str) -> np.ndarray:
    """The labels (N,) of pictures in class folders; some of the classes are enough."""
    if dataset == "imagenet":
        return photo_labels(folder, list(files.values()))
    classes = names_of_classes(dataset)
    for name in sorted({file.split("/")[0] for file in files.values()}):
        if name not in classes:
            raise StudyError(f"{folder / name}: no class of {dataset}; its class folders are {', '.join(classes)}")
    return np.array([classes.index(file.split("/")[0]) for file in files.values()], np.int64)


# --- a folder of restored pictures


class Restored:
    """A folder of pictures that some program restored, paired with the originals by name: ``class/name``, or ``name`` alone.

    Raises:
        StudyError: originals without a counterpart.
    """

    sources: tuple[str, ...] = ()

    def __init__(self, folder: Path, name: str, names: Sequence[str]):
        files = by_name(folder, list_pictures(folder))
        flat = not any("/" in file for file in files.values())
        wanted = [name.rpartition("/")[2] if flat else name for name in names]
        if flat and len(set(wanted)) < len(wanted):
            raise StudyError(f"{folder}: is flat, and the originals' names repeat among class folders; use class folders, too")
        missing = [name for name in wanted if name not in files]
        if len(missing) == len(wanted):
            step = f"it has {min(files)}, they have {wanted[0]}"
            raise StudyError(f"{folder}: has none of the originals' names ({step}); restored pictures keep their names")
        if missing:
            raise StudyError(
                f"{folder}: {len(missing)} of {len(wanted)} pictures are missing: {_some(missing)}; restore them, too"
            )
        if extra := sorted(set(files) - set(wanted)):
            warnings.warn(f"{folder}: {len(extra)} pictures have no original and are left out: {_some(extra)}", stacklevel=2)
        self.name = name
        self.paths = [folder / files[name] for name in wanted]

    def read(self, k: int, original: np.ndarray) -> np.ndarray:
        """The picture beside an original, (H, W, 3) uint8; StudyError for another size, or grey where that has colours."""
        picture = read_whole(self.paths[k])
        if picture.shape != original.shape:
            sizes = " x ".join(map(str, picture.shape[1::-1])), " x ".join(map(str, original.shape[1::-1]))
            raise StudyError(f"{self.paths[k]}: has {sizes[0]} pixels, its original {sizes[1]}; sizes are never changed here")
        grey = [bool((p == p[..., :1]).all()) for p in (picture, original)]
        if grey[0] and not grey[1] and self._is_grey(k):
            raise StudyError(
                f"{self.paths[k]}: is a grey picture, its original has colours; restore colours, or judge grey ones"
            )
        return picture

    def _is_grey(self, k: int) -> bool:
        with Image.open(self.paths[k]) as file:
            return file.mode in ("1", "L", "LA") or file.mode.startswith("I")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)


# --- the protocol's degraded pictures, for other programs


def read_manifest(place: Path) -> dict[str, Any]:
    """What :func:`prepare` wrote; StudyError where it is damaged or of another protocol."""
    path = place / MANIFEST
    try:
        told = json.loads(path.read_text())
        known = told["version"] == VERSION and told["files"] and all(len(found) == 2 for found in told["files"].values())
        asked = [told[name] for name in ("preset", "task", "strength", "image_size", "resize")]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StudyError(
            f"{path}: not a manifest of rastudy degrade ({type(error).__name__}: {error}); run it again"
        ) from error
    config = make_config(*asked[:2], strength=asked[2])
    if not known or asked[3:] != [config.image_size, config.resize]:
        raise StudyError(f"{path}: was written for another protocol than this version's; run rastudy degrade again")
    return told


def prepare(folder: Path, out: Path, preset: str, task: str, strength: float = -1.0) -> Path:
    """Write originals as R reads them, their degraded versions, and the manifest; returns ``out``.

    Photographs are resized and cropped as the preset's are. Both are PNG files: dn's noise is rounded to 8 bits.

    Raises:
        StudyError: what :func:`class_files` and :func:`labels_of` raise; a picture that is too small; other files in ``out``.
    """
    config = make_config(preset or of_photographs(task), task, "none", strength=strength)
    files = class_files(folder)
    labels_of(folder, files, config.dataset)
    if is_folder(out) and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise StudyError(f"{out}: holds other files; name a new folder")
    digests = {}
    for k, (name, file) in enumerate(tqdm(files.items(), unit="pictures", disable=None)):
        original = read_picture(folder / file, config.image_size, config.decoded)
        pair = original, to_uint8(degrade(original, task, config.strength, k))
        places = [out / part / f"{name}.png" for part in (ORIGINAL, DEGRADED)]
        for picture, path in zip(pair, places, strict=True):
            write_atomic(path, partial(Image.fromarray(picture).save, format="PNG"))
        digests[name] = [sha256(path)[:DIGITS] for path in places]
    about = {"version": VERSION, "preset": config.preset, "task": task, "strength": config.strength, "files": digests}
    write_json(out / MANIFEST, about | {"image_size": config.image_size, "resize": config.resize})
    return out


def degrade_command(args: argparse.Namespace) -> None:
    place = prepare(args.folder, args.out, args.preset, args.task, args.strength)
    n = len(read_manifest(place)["files"])
    print(f"{place / DEGRADED}: {n} pictures to restore, into folders of your own; then: rastudy judge FOLDER... "
          f"--pictures {place}", file=sys.stderr)  # fmt: skip
