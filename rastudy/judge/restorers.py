"""Restorers by name: no processing, filters of image processing, the study's P's, and P's of the user's own.

Filters run with their libraries' own settings; those that ask for the noise are told dn's sigma, elsewhere an estimate.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from rastudy.config import Config, make_config
from rastudy.data.degradations import no_processing, round_to_8_bits, to_uint8
from rastudy.errors import StudyError
from rastudy.paths import expand
from rastudy.presets import of_photographs, tasks_of
from rastudy.registry import MODES, TASKS, is_own, name_of
from rastudy.restore.restore import file_of, load

Filter = Callable[[np.ndarray, float | None], np.ndarray]  # (H, W, 3) in [0, 1] and the noise's sigma, if known, to the same


@dataclass(frozen=True)
class Restorer:
    """``name``: in tables; ``sources``: R's in its loss; ``restore``: lq (N, 3, h, w) in [0, 1] to (N, H, W, 3) uint8."""

    name: str
    sources: tuple[str, ...]
    restore: Callable[[torch.Tensor], np.ndarray]


def _skimage(name: str) -> Any:
    """scikit-image; StudyError where it is not installed."""
    try:
        import skimage.filters
        import skimage.restoration
    except ImportError as error:
        raise StudyError(f"restorer {name!r} needs scikit-image; pip install -e '.[judge]'") from error
    return skimage


def unsharp(picture: np.ndarray, _sigma: float | None) -> np.ndarray:
    return _skimage("unsharp").filters.unsharp_mask(
        picture, channel_axis=2
    )  # with -1 scikit-image 0.26 fills one of the channels


def median(picture: np.ndarray, _sigma: float | None) -> np.ndarray:
    """Of 3 x 3 pixels, channel by channel."""
    from scipy.ndimage import median_filter

    return median_filter(picture, (3, 3, 1))


def nl_means(picture: np.ndarray, sigma: float | None) -> np.ndarray:
    """Non-local means, with the strength that scikit-image's guide gives for its fast mode."""
    module = _skimage("nl_means").restoration
    sigma = _estimate(picture) if sigma is None else sigma
    return module.denoise_nl_means(picture, h=0.8 * sigma, sigma=sigma, patch_size=5, patch_distance=6, channel_axis=-1)


def total_variation(picture: np.ndarray, _sigma: float | None) -> np.ndarray:
    return _skimage("tv").restoration.denoise_tv_chambolle(picture, channel_axis=-1)


def wavelet(picture: np.ndarray, sigma: float | None) -> np.ndarray:
    """BayesShrink in luma and chroma."""
    return _skimage("wavelet").restoration.denoise_wavelet(
        picture, sigma=sigma, channel_axis=-1, convert2ycbcr=True, rescale_sigma=True
    )


def bm3d(picture: np.ndarray, sigma: float | None) -> np.ndarray:
    try:
        from bm3d import bm3d_rgb
    except ImportError as error:
        raise StudyError("restorer 'bm3d' needs bm3d, which is free for non-commercial use; pip install bm3d") from error
    sigma = _estimate(picture) if sigma is None else sigma
    return bm3d_rgb(picture, sigma) if sigma > 0 else picture


def _estimate(picture: np.ndarray) -> float:
    """The sigma of a picture's noise, from its wavelets: of JPEG's blocks, of what upsampling leaves."""
    return float(_skimage("nl_means").restoration.estimate_sigma(picture, channel_axis=-1, average_sigmas=True))


FILTERS: dict[str, Filter] = {
    "unsharp": unsharp, "median": median, "nl_means": nl_means, "tv": total_variation, "wavelet": wavelet, "bm3d": bm3d,
}  # fmt: skip
RESAMPLING = ("lanczos",)


def known() -> str:
    """The names, in words."""
    modes = (name for name in MODES if name not in ("none", "clean"))
    return f"{', '.join(('none', *RESAMPLING, *FILTERS, *modes))}, TASK:MODE for a P that learned another task"


def label_of(name: str) -> str:
    """What a restorer is called in tables: of a folder or a file its name without the way to it."""
    if is_own(name):
        return name_of(name)
    if expand(name).is_dir():
        return re.sub(r"[^\w.+-]", "_", expand(name).resolve().name)
    if expand(name).is_file():
        return expand(name).name.removesuffix(".safetensors").removesuffix(".processor")
    return name


def is_named(name: str) -> bool:
    """Whether a restorer has this name whatever lies in the working directory."""
    return name in ("none", *RESAMPLING, *FILTERS) or name.partition(":")[0] in (*MODES, *TASKS)


def open_restorer(name: str, config: Config) -> Restorer:
    """A restorer by its name.

    Args:
        name: ``none``, one of ``RESAMPLING`` or ``FILTERS``; a mode of training, of the preset's P of seed 0 (``ra:SOURCE``:
            with that R, or several, in its loss; ``blind:ra``: that learned another task); P's weight file; or one of
            :mod:`rastudy.models.own_processors`' names.
        config: preset, task and strength.

    Raises:
        StudyError: an unknown name, weights that are missing, or a restorer that does not fit the task.
    """
    task, strength = config.task, config.strength
    if name == "none":
        return Restorer(name, (), lambda lq: _pictures(no_processing(one, task, strength) for one in lq))
    if name in RESAMPLING:
        if not TASKS[task].upscales:
            raise StudyError(f"restorer {name!r} enlarges pictures, and {task} does not; name it with task sr")
        return Restorer(name, (), lambda lq: np.stack([_lanczos(to_uint8(one), config.factor) for one in lq]))
    if name in FILTERS:
        sigma = strength if TASKS[task].axis == "sigma" else None
        return Restorer(name, (), functools.partial(_filtered, FILTERS[name], task, strength, sigma))
    first, _, rest = name.partition(":")
    learned, called = (first, rest) if first in TASKS else (task, name)
    mode, _, source = called.partition(":")
    if mode in MODES and mode not in ("none", "clean"):
        if source and not MODES[mode].has_source:
            raise StudyError(
                f"restorer {name!r}: {mode} has no recogniser in its loss; name it {name.removesuffix(f':{source}')}"
            )
        of_task = strength if learned == task else -1.0
        own = learned in tasks_of(config.preset) or not config.of_photographs
        preset = config.preset if own else of_photographs(learned)
        run = make_config(preset, learned, mode, strength=of_task, source_arch=source)
        models = load(preset, learned, named=str(file_of(run)), device=config.device)
        if models.config.factor not in (1, config.factor):
            raise StudyError(f"restorer {name!r} enlarges pictures, and {task} does not; name it with task {learned}")
    elif first not in TASKS and (is_own(name) or expand(name).is_file()):
        models = load(config.preset, task, strength=strength, named=name, device=config.device)
        if models.config.factor not in (1, config.factor):
            raise StudyError(f"restorer {name!r} enlarges {models.config.factor} times, not {config.factor}; see --strength")
    else:
        raise StudyError(f"restorer {name!r} is unknown: no folder and no file of this name; use {known()}, or P's own name")
    sources = tuple(map(name_of, models.config.sources))
    enlarged = config.factor != 1 and models.config.factor == 1
    restore = functools.partial(_restored, models.processor, models.transformer, config, enlarged)
    return Restorer(name if is_named(name) else label_of(name), sources, restore)


def _lanczos(picture: np.ndarray, factor: int) -> np.ndarray:
    size = (factor * picture.shape[1], factor * picture.shape[0])
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _filtered(one: Filter, task: str, strength: float, sigma: float | None, lq: torch.Tensor) -> np.ndarray:
    """A filter on each picture; of sr on the bicubically enlarged one."""
    sources = (no_processing(picture, task, strength).permute(1, 2, 0).double().numpy() for picture in lq)
    return _pictures(torch.from_numpy(np.nan_to_num(one(picture, sigma))).permute(2, 0, 1) for picture in sources)


def _pictures(tensors: Any) -> np.ndarray:
    return np.stack([to_uint8(one) for one in tensors])


@torch.inference_mode()
def _restored(processor: Any, transformer: Any, config: Config, enlarged: bool, lq: torch.Tensor) -> np.ndarray:
    """P's pictures in 8 bits; T's, where the run has one, rounded, too: what is judged is a file.

    ``enlarged``: P keeps the size and gets the bicubically enlarged picture.
    """
    device = config.torch_device()
    lq = torch.stack([no_processing(one, config.task, config.strength) for one in lq]) if enlarged else lq
    picture = round_to_8_bits(processor(lq.to(device).contiguous(memory_format=torch.channels_last)))
    picture = picture if transformer is None else transformer(picture)
    return _pictures(picture.cpu())
