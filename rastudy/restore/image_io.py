"""Everyday picture files: decoded upright, and written with new pixels and the rest unchanged.

A picture's ``info`` carries the colour information (ICC profile, PNG's colour chunks), EXIF tags and resolution of its file,
but not XMP and texts. What has to change is returned as notes for the user.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from rastudy.data.image_files import as_meant, check_single, eight_bit, png_chunks, upright
from rastudy.errors import StudyError
from rastudy.paths import write_atomic

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MODES = ("L", "LA", "RGB", "RGBA", "I;16")  # pixel formats that P can be given and a file can hold
OPTIONS = {  # the lossless formats fast rather than small: with PIL's defaults coding takes as long as P
    "PNG": {"compress_level": 2},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True, "method": 0, "quality": 0},
}
LONGEST = {"JPEG": 65_500, "WEBP": 16_383, "PNG": 2**31 - 1}  # side in pixels
COLOUR_CHUNKS = (b"cHRM", b"gAMA", b"sRGB", b"cICP")  # of PNG, beside the ICC profile
_ALPHA, _PALETTE = "its transparent colour becomes an alpha channel", "its palette becomes RGB"
CONVERTED = {  # (mode, whether a colour is transparent): the mode it becomes, and the note
    ("1", False): ("L", "black and white becomes 8-bit grey"),
    ("1", True): ("LA", "black and white becomes 8-bit grey with an alpha channel"),
    ("L", True): ("LA", _ALPHA),
    ("RGB", True): ("RGBA", _ALPHA),
    ("P", False): ("RGB", _PALETTE),
    ("P", True): ("RGBA", f"{_PALETTE} with an alpha channel"),
    ("PA", True): ("RGBA", f"{_PALETTE} with an alpha channel"),
}
LOST_EXIF = "its EXIF data cannot be rewritten and are left out"
KEPT = ("icc_profile", "exif", "dpi", "colour_chunks")  # in a picture's info


def open_picture(path: Path) -> tuple[Image.Image, list[str]]:
    """Decode a file and :func:`prepare` it; also returns notes on what had to be changed.

    Raises:
        StudyError: not a readable PNG, JPEG or WebP file, or an animation.
    """
    try:
        chunks = png_chunks(path)
        with open_file(path) as file:
            n = check_single(file)
            file.load()
            file.info["colour_chunks"] = {name: data for name, data in chunks.items() if name in COLOUR_CHUNKS}
            picture, notes = prepare(as_meant(file, chunks))
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error
    except Exception as error:  # PIL's readers raise many types; all mean that this file cannot be read
        raise StudyError(f"{path}: not a readable PNG, JPEG or WebP picture ({error}); open and save it anew") from error
    if n > 1:  # cameras put a preview or a map of gains behind the photograph
        notes.append("of the several pictures in this file the first is restored")
    if chunks.get(b"IHDR", b"")[8:9] == b"\x10" and picture.mode != "I;16":
        notes.append("of its 16 bits per channel 8 are read and written")
    return picture, notes


def prepare(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture upright and in one of ``MODES``, and notes on what was changed; StudyError where no mode fits."""
    turned, notes = upright(picture), []
    if (why := turned.info.pop("lost_exif", "")) and "exif" in picture.info:
        notes.append(f"{LOST_EXIF} ({why})")
    if "Raw profile type exif" in turned.info:  # ImageMagick's way to put it into a PNG
        turned.info["exif"] = turned.getexif().tobytes()
    notes += fit_exif(turned, turned.size, anew=turned.size != picture.size)
    transparent = "transparency" in turned.info or turned.mode == "PA"
    if turned.info.pop("lost_transparency", None) is not None:
        notes.append("its transparent colour is lost: of 16 bits per channel none is told apart here")
    if turned.mode == "CMYK":
        turned, note = _cmyk_to_srgb(turned)
        return turned, [*notes, note]
    if turned.mode in ("I", "I;16B"):  # how some releases of PIL read 16-bit grey
        values = np.asarray(turned)
        if values.min() < 0 or values.max() > 65_535:
            raise StudyError("has 32-bit pixels of unknown range; save it with 8 or 16 bits")
        info, turned = turned.info, Image.fromarray(values.astype(np.uint16))
        turned.info = info
    if (turned.mode, transparent) in CONVERTED:
        mode, note = CONVERTED[turned.mode, transparent]
        return turned.convert(mode), [*notes, note]
    if turned.mode not in MODES:
        raise StudyError(f"has pixels of mode {turned.mode!r}, which P cannot take; save it as RGB")
    return turned, notes


def _cmyk_to_srgb(picture: Image.Image) -> tuple[Image.Image, str]:
    profile = picture.info.pop("icc_profile", None)
    if profile:
        try:
            rgb = ImageCms.profileToProfile(picture, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB")
            rgb.info.pop("icc_profile", None)
            return rgb, "CMYK becomes RGB, converted from its profile to sRGB"
        except ImageCms.PyCMSError as error:
            return picture.convert("RGB"), f"CMYK becomes RGB without its profile, which cannot be used ({error})"
    return picture.convert("RGB"), "CMYK becomes RGB by the plain formula: it has no profile"


def exif_of_size(picture: Image.Image, size: tuple[int, int]) -> bytes:
    """The picture's EXIF with every tag that holds the size set to ``size``, without the old picture's thumbnail."""
    exif = picture.getexif()
    named = exif.get_ifd(ExifTags.IFD.Exif)
    for tags, names in ((named, ("ExifImageWidth", "ExifImageHeight")), (exif, ("ImageWidth", "ImageLength"))):
        tags.update({ExifTags.Base[name]: side for name, side in zip(names, size, strict=True) if ExifTags.Base[name] in tags})
    return exif.tobytes()


def fit_exif(picture: Image.Image, size: tuple[int, int], anew: bool = False) -> list[str]:
    """Make the picture's EXIF that of another size (``anew``: of this one); a note where it had to go."""
    if not picture.info.get("exif") or not (anew or picture.size != size):
        return []
    try:
        picture.info["exif"] = exif_of_size(picture, size)
        return []
    except Exception as error:  # PIL reads tags that it cannot write, with errors of many types
        del picture.info["exif"]
        return [f"{LOST_EXIF} ({type(error).__name__})"]


def open_file(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as large, PIL raises an error
        return Image.open(path, formats=("PNG", "JPEG", "WEBP"))


def pixels_of(path: Path) -> int:
    """The number of pixels, from the header alone; 1 for a file that cannot be opened."""
    try:
        with open_file(path) as file:
            return file.width * file.height
    except Exception:  # PIL's readers raise many types
        return 1


def check_target(picture: Image.Image, size: tuple[int, int], target: Path) -> list[str]:
    """Notes on what the target's format does not keep; StudyError where it cannot hold such a picture of that size."""
    kind = FORMATS[target.suffix.lower()]
    if max(size) > LONGEST[kind]:
        raise StudyError(f"{target}: {kind} holds sides of at most {LONGEST[kind]:,} pixels, not {max(size):,}; write a .png")
    if kind == "JPEG" and picture.mode in ("LA", "RGBA"):
        raise StudyError(f"{target}: JPEG holds no transparency; write a .png or .webp, or flatten the picture first")
    colours = picture.info.get("colour_chunks", {})
    lost = ", ".join(name.decode() for name in colours) if b"sRGB" not in colours and kind != "PNG" else ""
    notes = [f"{kind} cannot hold PNG's colour information ({lost})"] if lost else []
    return notes + ([f"{kind} holds 8 of its 16 bits"] if picture.mode == "I;16" and kind != "PNG" else [])


def save_picture(picture: Image.Image, target: Path) -> None:
    """Write a picture and its info in the format of the suffix; the file appears whole or not at all, else StudyError."""
    kind = FORMATS[target.suffix.lower()]
    info = {name: picture.info[name] for name in ("icc_profile", "exif", "dpi") if picture.info.get(name)}
    if kind == "PNG":
        info["pnginfo"] = PngImagePlugin.PngInfo()
        for name, data in picture.info.get("colour_chunks", {}).items():
            info["pnginfo"].add(name, data)
    try:
        pixels = picture if kind == "PNG" else eight_bit(picture)
        write_atomic(target, lambda path: pixels.save(path, kind, **OPTIONS[kind], **info))
    except ValueError as error:  # a full disk (write_atomic's StudyError, whose cause tells it), or more EXIF than JPEG holds
        raise StudyError(f"{target}: cannot be written ({error.__cause__ or error}); make room, or write a .png") from error
