"""bf16 on every machine: native where the hardware computes it, otherwise its rounding around float32 sums."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

PRODUCTS = frozenset({F.conv2d, F.conv_transpose2d, F.linear})


@contextmanager
def autocast(device: str, enabled: bool) -> Iterator[None]:
    """bfloat16 autocast, if ``enabled``.

    On a CPU whose oneDNN has no bf16 (AVX2 alone) PyTorch's convolutions take ten times float32's time. There the convolutions
    and linear layers that modules call are computed in float32 from rounded factors, and they and their gradients rounded: the
    same numbers up to the order of sums, in float32's time.
    """
    with torch.autocast(device, torch.bfloat16, enabled=enabled), rounding():
        yield


def rounding() -> AbstractContextManager:
    """:class:`Rounded` under the CPU's autocast where there is no bf16."""
    return Rounded() if torch.is_autocast_enabled("cpu") and not has_bf16() else nullcontext()


def checkpoint_contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
    """For ``checkpoint(context_fn=)``: what is computed again is rounded as it was the first time."""
    return nullcontext(), rounding()


def has_bf16() -> bool:
    """Whether this CPU's library has convolutions in bf16."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Rounded(TorchFunctionMode):
    """Products of bf16 numbers, forward and backward, summed in float32, wherever autocast is on."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_rounded, args), **{name: _rounded(value) for name, value in kwargs.items()}).bfloat16()


def _rounded(value: Any) -> Any:
    """A tensor rounded to bf16, in float32; in the backward pass its gradient is rounded."""
    return value.bfloat16().float() if isinstance(value, torch.Tensor) else value
