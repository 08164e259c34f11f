"""Picture files: listed, and decoded to 8-bit RGB arrays."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from rastudy.errors import StudyError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


def list_pictures(folder: Path) -> tuple[str, ...]:
    """The pictures below a folder, by file extension: paths relative to it, sorted; hidden files and folders are left out.

    Raises:
        StudyError: no such folder, or no pictures in it.
    """
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; name the pictures' folder with --data or the parameter data_dir")
    files = tuple(sorted(_walk(folder)))
    if not files:
        raise StudyError(f"{folder}: this folder holds no pictures ({', '.join(sorted(EXTENSIONS))})")
    return files


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield prefix + entry.name


def to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Convert to 8-bit RGB, or refuse what would be silently wrong.

    Greyscale, palette and CMYK are converted; 16-bit greyscale is scaled to 8 bits; transparency and 32-bit or float
    pixels raise StudyError.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise StudyError(f"{path}: pixels of mode {image.mode!r} have no known range; save it as 8-bit RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise StudyError(f"{path}: has transparent pixels; flatten it over a background first")
    return image.convert("RGB")


def read_whole(path: Path, resize: int = 0) -> np.ndarray:
    """Decode one picture, its shorter side resized to ``resize`` pixels (0: kept): (H, W, 3) uint8.

    Raises StudyError if it is unreadable.
    """
    try:
        with Image.open(path) as file:
            file.load()
            image = to_rgb(file, path)
    except StudyError:
        raise
    except Exception as error:  # PIL's readers raise many types; all mean that this file cannot be read
        raise StudyError(f"{path}: not a readable picture ({error}); mend it or set skip_unreadable") from error
    return np.asarray(shorter_side(image, resize) if resize else image)


def shorter_side(image: Image.Image, resize: int) -> Image.Image:
    """The picture with its shorter side at ``resize``, bilinear and antialiased, rounded as torchvision's Resize does."""
    short = min(image.size)
    if short == resize:
        return image
    return image.resize((image.width * resize // short, image.height * resize // short), Image.Resampling.BILINEAR)


def centre_crop(picture: np.ndarray, size: int) -> np.ndarray:
    """The middle of a picture (H, W, 3), as torchvision's CenterCrop rounds: (size, size, 3)."""
    top, left = (round((side - size) / 2) for side in picture.shape[:2])
    return picture[top : top + size, left : left + size]


def read_picture(path: Path, size: int) -> np.ndarray:
    """Decode one picture and take its middle: (size, size, 3) uint8; StudyError if it is unreadable or smaller than that."""
    picture = read_whole(path)
    if min(picture.shape[:2]) < size:
        height, width, _ = picture.shape
        raise StudyError(f"{path}: {width} x {height} is smaller than the crop of {size} pixels")
    return centre_crop(picture, size)
