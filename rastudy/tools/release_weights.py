"""Convert the authors' weights: ``rastudy convert FILE --task sr --mode ra --out NAME``.

The release saves whole pickled modules (``nn.DataParallel`` around P or T). Loading such a file in the usual way executes
whatever it contains. Here ``torch.load`` is given an unpickler that knows tensors and containers, replaces network classes by
inert objects and refuses everything else, so nothing in the file is executed.
"""

import argparse
import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from rastudy.config import make_config
from rastudy.errors import StudyError, one_of
from rastudy.models.processors import ResnetGenerator, build_processor
from rastudy.models.weight_files import sha256
from rastudy.registry import TASKS
from rastudy.training.weights import save_weights

# packages whose classes become inert objects; model_sr and networks are the release's own
NETWORKS = ("torch.nn.modules.", "torch.nn.parallel.", "model_sr", "networks")


@dataclass(frozen=True)
class ReleaseNetwork:
    """One of the release's networks: a parameter that only it has, its published size, its layers' names and ours."""

    mark: str
    channels: int
    blocks: int
    layers: dict[str, str]


RESIDUAL = ("conv1", "bn1", "prelu", "conv2", "bn2")
RELEASE_NETWORKS = {  # model_sr.py, networks.py
    "srresnet": ReleaseNetwork("block1.0.weight", 64, 5, {
        "block1.0": "head.0", "block1.1": "head.1", "block7.0": "blocks.5", "block7.1": "blocks.6",
        **{f"block{k + 2}.{name}": f"blocks.{k}.body.{i}" for k in range(5) for i, name in enumerate(RESIDUAL)},
        **{f"block8.{k}.conv": f"tail.{3 * k}" for k in range(2)},
        **{f"block8.{k}.prelu": f"tail.{3 * k + 2}" for k in range(2)},
        **{f"block8.{k}": f"tail.{3 * k}" for k in range(3)},  # the last convolution
    }),
    "srdensenet": ReleaseNetwork("Bottleneck.weight", 16, 8, {
        "conv1": "head.0", "Bottleneck": "tail.0", "convt1": "tail.1", "convt2": "tail.2", "conv2": "tail.3",
        **{f"denseblock.{i}.block.{j}.conv": f"dense.{8 * i + j}.conv" for i in range(8) for j in range(8)},
    }),
    "resnet_generator": ReleaseNetwork("model.1.weight", 64, 6, {
        **{f"model.{k}": f"body.{k}" for k in range(25)},
        **{f"model.{k}.conv_block.{i}": f"body.{k}.body.{i}" for k in range(10, 16) for i in range(7)},
    }),
}  # fmt: skip


# --- reading a file


class _Inert:
    """Stands in for an object of a network class: it has attributes and does nothing."""


class _Unpickler(pickle.Unpickler):
    """Knows tensors, containers and network classes by name; refuses anything else."""

    def __init__(self, file: BinaryIO, **options: Any):  # options: as torch.load passes them to pickle's
        super().__init__(file, **options)
        inert = type("Inert", (_Inert,), {})  # a class of this file's own: a pickle can set attributes of classes, too
        self.inert = inert
        self.known: dict[tuple[str, str], Callable] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch.nn.backends.thnn", "_get_thnn_function_backend"): lambda: None,  # an attribute of modules up to torch 1.1
            ("torch.nn.parameter", "Parameter"): lambda tensor=None, *_: tensor,
            ("torch", "Size"): tuple,
            ("torch", "device"): lambda *place: place,
            ("builtins", "set"): set,
            ("__builtin__", "set"): set,
        }  # fmt: skip

    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) in self.known:
            return self.known[module, name]
        if any(module == n.rstrip(".") or module.startswith(n) for n in NETWORKS) and "." not in name:
            return self.inert
        raise StudyError(f"the file asks for {module}.{name}, which is no part of a saved network; nothing was executed")

    def __setattr__(self, name: str, value: Any) -> None:
        """Have the ``persistent_load`` that torch sets leave out classes' sources, of which it would write patch files."""
        if name == "persistent_load":
            load = value
            value = lambda saved: saved[1] if saved[0] == "module" else load(saved)  # noqa: E731
        super().__setattr__(name, value)


class _RestrictedPickle:
    """What ``torch.load`` uses in place of the module ``pickle``."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: BinaryIO, **options: Any) -> object:
        return _Unpickler(file, **options).load()


def _tensor(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_others: object) -> torch.Tensor:
    """torch's ``_rebuild_tensor_v2``, which would enlarge a storage that is too small."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise StudyError("a tensor without a storage")
    content = storage._untyped_storage
    whole = content.nbytes() // storage.dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if offset < 0 or any(x < 0 for x in (*size, *stride)) or last >= whole or math.prod(size) > whole:
        raise StudyError("a tensor reaches beyond its storage")
    return torch.empty(0, dtype=storage.dtype).set_(content, offset, size, stride)


def read_release_file(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a whole pickled module by name, as its ``state_dict`` would give them, without ``module.``.

    Raises:
        StudyError: no such file, another format, a class that belongs to no network, or tensors beyond their storages.
    """
    path = Path(path)
    if not path.is_file():
        raise StudyError(f"{path}: no such file; the release's README links the authors' weights")
    content = path.read_bytes()
    try:
        if b"constants.pkl" in content:  # a TorchScript archive, which torch.load would hand to torch.jit.load
            raise StudyError("holds TorchScript where a whole module belongs; nothing was executed")
        # from memory: of a path, torch.load would also extract an old tar archive
        module = torch.load(io.BytesIO(content), "cpu", _RestrictedPickle, weights_only=False, mmap=False)
        found = {re.sub(r"^(module\.)+", "", name): tensor.clone() for name, tensor in _walk(module)}
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle raises many types
        raise StudyError(f"{path}: not a module saved by torch.save ({type(error).__name__}: {error})") from error
    if not found:
        raise StudyError(f"{path}: holds no tensors")
    return found


def _walk(module: object, prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers of an inert module and of its children, as ``state_dict`` names them."""
    if not isinstance(module, _Inert):
        kind = "a dict" if isinstance(module, dict) else type(module).__name__
        raise StudyError(f"holds {kind} where a whole module belongs")
    attributes = vars(module)
    own = [*attributes.get("_parameters", {}).items(), *attributes.get("_buffers", {}).items()]
    found = [(prefix + name, tensor) for name, tensor in own if isinstance(tensor, torch.Tensor)]
    for name, child in attributes.get("_modules", {}).items():
        found += _walk(child, f"{prefix}{name}.") if child is not None else []
    return found


# --- the release's networks as ours


def to_ours(state: dict[str, torch.Tensor]) -> tuple[str, int, nn.Module]:
    """The network that a state dict of the release belongs to, its upscaling factor, and our network with its weights.

    Raises:
        StudyError: the names fit none of the release's networks, or names or shapes differ from it.
    """
    network = next((name for name, one in RELEASE_NETWORKS.items() if one.mark in state), None)
    if network is None:
        raise StudyError(f"none of the release's networks has these names: {', '.join(list(state)[:4])}, ...")
    doublings = sum(bool(re.fullmatch(r"block8\.\d+\.conv\.weight", name)) for name in state)
    factor = {"srresnet": 2**doublings, "srdensenet": 4, "resnet_generator": 1}[network]
    if factor not in (1, 2, 4):
        raise StudyError(f"{network} enlarges by {factor}")
    release, renamed = RELEASE_NETWORKS[network], {}
    for name, tensor in state.items():
        layer, _, parameter = name.rpartition(".")
        if layer not in release.layers:
            raise StudyError(f"{network} has no {name}")
        renamed[f"{release.layers[layer]}.{parameter}"] = tensor
    net = build_processor(network, factor, release.channels, release.blocks)
    try:
        net.load_state_dict(renamed)
    except RuntimeError as error:  # names every missing or unknown parameter, and every other shape
        raise StudyError(f"{network}: {' '.join(str(error).split())}") from error
    return network, factor, net


def convert(path: Path, out: Path, task: str, mode: str, part: str = "processor", **overrides: object) -> Path:
    """Convert a file of the release to ``OUT.processor.safetensors`` (``part='transformer'``: T), which ``evaluate`` takes.

    Returns the file written. ``overrides``: other settings of the run, such as ``ra_weight`` or ``source_arch``.

    Raises:
        StudyError: an unusable file (:func:`read_release_file`, :func:`to_ours`), or a network that does not fit task or part.
    """
    one_of("task", task, TASKS)
    one_of("part", part, ("processor", "transformer"))
    network, factor, net = to_ours(read_release_file(path))
    config = make_config("imagenet", task, mode, **overrides)
    if part == "transformer" and not isinstance(net, ResnetGenerator):
        raise StudyError(f"{path}: holds {network}; T is the release's pix2pix generator")
    if part == "processor":
        if factor != config.factor:
            raise StudyError(f"{path}: enlarges by {factor}, task {task!r} needs {config.factor}")
        release = RELEASE_NETWORKS[network]
        config = replace(config, processor=network, channels=release.channels, blocks=release.blocks)
    target = out.with_name(f"{out.name}.{part}.safetensors")
    save_weights(target, net, config, source=f"{path.name} sha256 {sha256(path)}")  # the settings do not make it a run of ours
    return target


def convert_command(args: argparse.Namespace) -> None:
    path = convert(args.file, args.out, args.task, args.mode, args.part)
    print(f"{path}\nnow: rastudy evaluate --processor {path} --task {args.task} --data IMAGENET")
