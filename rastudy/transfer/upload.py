"""What happens to a picture on its way to a recogniser: files, compression, resizing."""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from rastudy.data.degradations import to_tensor, to_uint8

SMALLER = 0.95  # of the side, for the picture that is resized and brought back


def _file(image: Image.Image, kind: str, **options: int) -> Image.Image:
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def _resized(image: Image.Image) -> Image.Image:
    small = (max(1, round(SMALLER * image.width)), max(1, round(SMALLER * image.height)))
    return image.resize(small, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


UPLOADS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "png": lambda image: _file(image, "PNG"),  # lossless: the reference
    "jpeg95": lambda image: _file(image, "JPEG", quality=95),
    "jpeg90": lambda image: _file(image, "JPEG", quality=90),
    "jpeg75": lambda image: _file(image, "JPEG", quality=75),
    "jpeg50": lambda image: _file(image, "JPEG", quality=50),
    "resized": _resized,
}


def upload(pictures: torch.Tensor, way: str) -> torch.Tensor:
    """The pictures (N, 3, H, W) in [0, 1] as a recogniser gets them after one of ``UPLOADS``; rounded to 8 bits first."""
    sent = [to_tensor(np.asarray(UPLOADS[way](Image.fromarray(to_uint8(p))))) for p in pictures.cpu()]
    return torch.stack(sent).to(pictures.device).contiguous(memory_format=torch.channels_last)
