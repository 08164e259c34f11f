"""Restorers P that others have built, by name, wherever a P is named: the user's own code, TorchScript, spandrel's networks.

``module:function@FILE``: your function builds the network, FILE holds its state dict; ``torchscript:FILE``: a TorchScript file;
``spandrel:FILE``: a weight file of one of the architectures that spandrel knows (``pip install -e '.[judge]'``).

Such a P maps pictures (N, 3, h, w) in [0, 1] to (N, 3, factor h, factor w) in [0, 1], of any h and w and any N, each picture on
its own in eval mode. It is trained further from the weights it comes with, if its output has a gradient.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from rastudy.errors import StudyError
from rastudy.models.pretrained import build_network, read_torchscript
from rastudy.models.weight_files import load_state, load_state_file
from rastudy.paths import expand
from rastudy.registry import OWN_PROCESSORS

PROBE = 64  # pixels: the side of the picture that shows what a P does
BEYOND = 0.5  # how far values outside [0, 1] may lie: restorers overshoot at edges, other ranges go farther


def own_file(spec: str) -> Path:
    """The file of an own P's weights; StudyError where the name has another form or there is no such file."""
    kind, _, rest = spec.partition(":")
    file = rest if kind in ("torchscript", "spandrel") else spec.partition("@")[2]
    if not file:
        raise StudyError(f"processor {spec!r} names no file of weights; write {OWN_PROCESSORS}")
    if not expand(file).is_file():
        raise StudyError(f"processor {spec!r}: no such file of weights ({expand(file)}); write {OWN_PROCESSORS}")
    return expand(file)


class OwnProcessor(nn.Module):
    """A P by name, held to what a P gives.

    Args:
        spec: its name, for messages.
        net: (N, 3, h, w) in [0, 1] to (N, 3, factor h, factor w).
        factor: side of the output over that of the input.
        multiple: what the input's sides must be a multiple of; others are padded by reflection.

    Raises:
        StudyError: it gives another size, numbers that are not finite, or values far outside [0, 1].
    """

    def __init__(self, spec: str, net: nn.Module, factor: int, multiple: int = 1):
        super().__init__()
        self.spec, self.net, self.factor, self.multiple = spec, net, factor, multiple
        self.eval()
        probe = torch.rand(1, 3, PROBE, PROBE, generator=torch.Generator().manual_seed(0))
        with torch.enable_grad():
            try:
                restored = self(probe)
            except StudyError:
                raise
            except Exception as error:  # the user's own network may raise anything
                raise StudyError(f"processor {spec!r} fails on a picture of {PROBE} pixels: {_line(error)}") from error
        self.has_gradient = restored.requires_grad

    def train(self, mode: bool = True) -> Self:
        if mode and not self.has_gradient:
            raise StudyError(f"processor {self.spec!r}: its output has no gradient, so it cannot be trained; only judged")
        return super().train(mode)

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        height, width = lq.shape[2:]
        right, below = -width % self.multiple, -height % self.multiple
        restored = self.net(F.pad(lq, (0, right, 0, below), "reflect") if right or below else lq)
        if not isinstance(restored, torch.Tensor) or restored.ndim != 4:
            raise StudyError(f"processor {self.spec!r} gives a {type(restored).__name__}; it must give pictures (N, 3, H, W)")
        wanted = (len(lq), 3, self.factor * (height + below), self.factor * (width + right))
        if restored.shape != wanted:
            raise StudyError(
                f"processor {self.spec!r} gives {tuple(restored.shape)} for {tuple(lq.shape)}; a task of factor {self.factor} "
                f"takes {wanted}: name another task, strength or P"
            )
        if not self.training:  # training says itself where a loss is not finite
            low, high = (float(end) for end in restored.detach().aminmax())
            if not -BEYOND <= low <= high <= 1 + BEYOND:  # not finite, too
                raise StudyError(f"processor {self.spec!r} gives values from {low:g} to {high:g}; pictures are in [0, 1]")
        return restored[:, :, : self.factor * height, : self.factor * width]


def load_own_processor(spec: str, factor: int) -> OwnProcessor:
    """The P that a name of one of ``OWN_PROCESSORS`` means, in eval mode.

    Raises:
        StudyError: another form, no such file, weights that do not fit, or a network that is no P of this factor.
    """
    path, kind = own_file(spec), spec.partition(":")[0]
    if kind == "torchscript":
        return OwnProcessor(spec, read_torchscript(path), factor)
    if kind == "spandrel":
        return _of_spandrel(spec, path, factor)
    net = build_network(f"processor {spec!r}", spec.partition("@")[0])
    return OwnProcessor(spec, load_state(net, load_state_file(path), path), factor)


def _of_spandrel(spec: str, path: Path, factor: int) -> OwnProcessor:
    try:
        from spandrel import ImageModelDescriptor, ModelLoader
    except ImportError as error:
        raise StudyError(f"processor {spec!r} needs spandrel; pip install -e '.[judge]'") from error
    try:
        found = ModelLoader().load_from_state_dict(load_state_file(path))
    except StudyError:
        raise
    except Exception as error:  # its own UnsupportedModelError, and what its architectures raise
        raise StudyError(f"{path}: weights of no network that spandrel knows ({_line(error)})") from error
    channels = found.input_channels, found.output_channels
    if not isinstance(found, ImageModelDescriptor) or channels != (3, 3):
        raise StudyError(f"{path}: {found.architecture.name} takes {channels[0]} and gives {channels[1]} channels; P takes and "
                         "gives 3, and nothing but a picture")  # fmt: skip
    if found.scale != factor:
        raise StudyError(f"{path}: {found.architecture.name} enlarges by {found.scale}, and this task asks for {factor}")
    sizes = found.size_requirements
    return OwnProcessor(spec, _Called(found.model, found._call_fn), factor, max(sizes.multiple_of, 1))


class _Called(nn.Module):
    """A network and how it is called, with a gradient (spandrel's own call has none)."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        return self.call(self.model, lq)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
