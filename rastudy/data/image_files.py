"""Picture files: listed, and decoded to 8-bit RGB arrays. Every reader of a user's folder lists and opens it here."""

import io
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from rastudy.errors import StudyError

EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}
READING = 2  # what :func:`read_whole` makes of a file, counted: a cache of another is stale
# folders that programs put beside pictures: archives of macOS, thumbnails of file managers and of network drives
BY_PROGRAMS = {"__macosx", "@eadir", "thumbs", "thumbnails", "$recycle.bin", "system volume information", "lost+found"}
HIDDEN, OTHERS, LISTED = "hidden or made by programs", "of other kinds", "links to folders that are listed already"


def list_pictures(folder: Path, kinds: Collection[str] = EXTENSIONS, without: Path | None = None) -> tuple[str, ...]:
    """The pictures below a folder, by file extension: paths relative to it, sorted.

    Links are followed. A warning says in one line what was left out: hidden files and folders, those of :data:`BY_PROGRAMS`,
    files of other kinds, and what is linked twice.

    Args:
        kinds: file extensions in lower case.
        without: a folder that is not listed.

    Raises:
        StudyError: no such folder, no pictures in it, or a folder that cannot be read.
    """
    if not is_folder(folder):
        raise StudyError(f"{folder}: no such folder; name the pictures' folder with --data or the parameter data_dir")
    left_out: Counter[str] = Counter()
    listed = {folder.resolve(), *([without.resolve()] if without else [])}
    files = tuple(sorted(_walk(folder, "", listed, kinds, left_out)))
    if left_out:
        said = ", ".join(f"{n} {why}" for why, n in sorted(left_out.items()))
        warnings.warn(f"{folder}: {len(files)} pictures; left out: {said}", stacklevel=2)
    if not files:
        raise StudyError(f"{folder}: this folder holds no pictures ({', '.join(sorted(kinds))})")
    return files


def list_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without those that :func:`list_pictures` leaves out."""
    return sorted(entry.name for entry in scan(folder) if not _is_debris(entry.name) and is_folder(Path(entry.path)))


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; StudyError where that cannot be told."""
    try:
        return path.is_dir()
    except OSError as error:  # a name that is too long, a folder above it that cannot be read
        raise StudyError(f"{os.fsdecode(path)}: cannot be read ({error.strerror})") from error


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """A folder's entries; StudyError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:  # links last: of a folder and a link to it the folder is listed
            return sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
    except OSError as error:
        raise StudyError(f"{folder}: cannot be read ({error.strerror}); change its permissions, or move it away") from error


def is_dead_link(path: str | Path) -> bool:
    """Whether it is a link to nothing: reading it names the picture that is missing."""
    return os.path.islink(path) and not os.path.exists(path)


def _is_debris(name: str) -> bool:
    return name.startswith(".") or name.lower() in BY_PROGRAMS


def _walk(folder: Path, prefix: str, listed: set[Path], kinds: Collection[str], left_out: Counter[str]) -> Iterator[str]:
    """``listed``: real places of the folders that are listed already, or are not to be."""
    for entry in scan(folder):
        if _is_debris(entry.name):
            left_out[HIDDEN] += 1
        elif is_folder(Path(entry.path)):
            place = Path(entry.path).resolve()
            if place not in listed:
                listed.add(place)
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", listed, kinds, left_out)
            elif entry.is_symlink():
                left_out[LISTED] += 1
        elif os.path.splitext(entry.name)[1].lower() in kinds and (os.path.isfile(entry.path) or is_dead_link(entry.path)):
            yield prefix + entry.name  # no pipe or device, which would keep its reader waiting
        else:
            left_out[OTHERS] += 1


# --- decoding


def png_chunks(path: Path) -> dict[bytes, bytes]:
    """A PNG file's chunks before its pixels, of which PIL tells but a part. Files of other formats have none."""
    found: dict[bytes, bytes] = {}
    with path.open("rb") as file:
        if file.read(8) == b"\x89PNG\r\n\x1a\n":
            while (head := file.read(8))[4:] not in (b"IDAT", b"IEND", b""):
                found[head[4:]] = file.read(int.from_bytes(head[:4]))
                file.seek(4, io.SEEK_CUR)  # the checksum, which PIL compares
    return found


def as_meant(image: Image.Image, chunks: dict[bytes, bytes]) -> Image.Image:
    """A decoded PNG picture where PIL reads another one than the file means.

    Grey with alpha in 16 bits is no colour picture; the transparent grey of 2 or 4 bits is scaled as its pixels are; the
    transparent colour of 16 bits cannot be compared with the 8 bits that are read: in ``info`` it is ``lost_transparency``.
    """
    depth, kind = (*chunks.get(b"IHDR", b"")[8:10], 0, 0)[:2]
    info = image.info
    if (kind, depth) == (4, 16):
        image = image.convert("LA")
        image.info = info
    elif "transparency" in info and depth == 16:
        info["lost_transparency"] = info.pop("transparency")
    elif "transparency" in info and kind == 0 and depth in (2, 4):
        info["transparency"] = info["transparency"] * 255 // (2**depth - 1)
    return image


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; where PIL cannot rewrite that, without it, and ``info`` says why: ``lost_exif``."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # PIL reads tags that it cannot write, with errors of many types
        ways = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
                8: "ROTATE_90"}  # fmt: skip
        way = ways.get(_orientation(image))
        turned = image.transpose(Image.Transpose[way]) if way else image.copy()
        turned.info = {name: value for name, value in image.info.items() if name not in ("exif", "Raw profile type exif")}
        turned.info["lost_exif"] = type(error).__name__
        return turned


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF: as the file lies
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB, or raise StudyError where that would be silently wrong.

    Greyscale, palette and CMYK are converted; 16-bit greyscale is scaled to 8 bits; transparency and 32-bit or float
    pixels are refused.
    """
    if "lost_transparency" in image.info:
        raise StudyError("has a transparent colour; flatten it over a background first")
    if image.mode.startswith("I;16"):
        return eight_bit(image).convert("RGB")
    if image.mode in ("I", "F"):
        raise StudyError(f"pixels of mode {image.mode!r} have no known range; save it as 8-bit RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise StudyError("has transparent pixels; flatten it over a background first")
    return image.convert("RGB")


def eight_bit(picture: Image.Image) -> Image.Image:
    """The picture itself; 16-bit grey is reduced to 8 bits."""
    if not picture.mode.startswith("I;16"):
        return picture
    return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))


def is_picture(path: Path) -> bool:
    """Whether a file's header is a picture's; its pixels are not decoded."""
    try:
        with Image.open(path):
            return True
    except Exception:  # PIL's readers raise many types
        return False


def check_single(file: Image.Image) -> int:
    """How many pictures a file holds; StudyError for an animation or pages, of which none is the one that is meant.

    Cameras put a preview or a map of gains behind the photograph (MPO): that is the first.
    """
    n = getattr(file, "n_frames", 1)
    if n > 1 and file.format != "MPO":
        raise StudyError(f"is an animation of {n} pictures, or has as many pages; save the one you mean as a file")
    return n


def read_whole(path: Path, resize: int = 0) -> np.ndarray:
    """Decode one picture, its shorter side resized to ``resize`` pixels (0: kept): (H, W, 3) uint8.

    Raises StudyError if it is unreadable, or one of several in its file.
    """
    try:
        with Image.open(path) as file:
            check_single(file)
            file.load()
            # ASSUMPTION: Pictures are upright. EXIF orientation is applied, as every viewer and browser does; the release and
            # torchvision ignore it, and read turned photographs.
            image = to_rgb(upright(as_meant(file, png_chunks(path) if file.format == "PNG" else {})))
    except Exception as error:  # PIL's readers raise many types; all mean that this file cannot be read
        if isinstance(error, StudyError):
            raise StudyError(f"{path}: {error}") from error
        why = f"a link to {os.readlink(path)}, which is not there" if is_dead_link(path) else error
        raise StudyError(f"{path}: not a readable picture ({why}); mend it, or take it away") from error
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


def square_of(picture: np.ndarray, size: int, resize: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 as a study prepares it: the shorter side at ``resize``, then the middle (size, size, 3)."""
    return np.ascontiguousarray(centre_crop(np.asarray(shorter_side(Image.fromarray(picture), resize)), size))


def as_read(picture: np.ndarray, size: int, resize: int) -> np.ndarray:
    """What recognisers of ``size`` pixels read of any picture: it is prepared (:func:`square_of`), unless it has that size."""
    return picture if picture.shape[:2] == (size, size) else square_of(picture, size, resize)


def read_picture(path: Path, size: int, resize: int = 0) -> np.ndarray:
    """Decode one picture and prepare it (:func:`square_of`; ``resize`` 0: ``size``): (size, size, 3) uint8.

    Raises StudyError if it is unreadable or smaller than that (:func:`read_large`).
    """
    return square_of(read_large(path, size), size, resize or size)


def read_large(path: Path, size: int) -> np.ndarray:
    """Decode one picture of at least ``size`` pixels; StudyError for a smaller one: recognisers read no enlarged thumbnail.

    Of ImageNet's photographs the paper's protocol says otherwise: whatever their size, the shorter side becomes ``resize``.
    """
    picture = read_whole(path)
    if min(picture.shape[:2]) < size:
        height, width, _ = picture.shape
        raise StudyError(f"{path}: {width} x {height} is smaller than the {size} pixels that recognisers read; leave it out")
    return picture
