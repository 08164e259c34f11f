"""Picture files to 8-bit RGB arrays."""

from pathlib import Path

import numpy as np
from PIL import Image

from rastudy.errors import StudyError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


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
        if image.getextrema()[3][0] < 255:
            raise StudyError(f"{path}: has transparent pixels; flatten it over a background first")
    return image.convert("RGB")


def read_whole(path: Path, resize: int = 0) -> np.ndarray:
    """Decode one picture: shorter side to ``resize`` (bilinear, antialiased; 0 keeps it); (H, W, 3) uint8.

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
    if min(image.size) == resize:
        return image
    return image.resize(tuple(side * resize // min(image.size) for side in image.size), Image.Resampling.BILINEAR)


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
