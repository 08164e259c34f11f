"""The authors' weights to ours: ``rastudy convert FILE --task sr --mode ra --out NAME``.

The release saves whole pickled modules (``nn.DataParallel`` around P or T), in torch.save's older or newer format. Loading such
a file as it is meant to be loaded executes what it says. Here its pickle is read by an unpickler that knows tensors, containers
and names, makes inert objects of the network classes, and refuses everything else; nothing of the file is executed.
"""

import argparse
import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from rastudy.config import make_config
from rastudy.errors import StudyError, one_of
from rastudy.models.classifiers import sha256
from rastudy.models.processors import ResnetGenerator, build_processor
from rastudy.registry import TASKS
from rastudy.training.weights import save_weights

DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16, "LongStorage": torch.int64,
    "IntStorage": torch.int32, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
NETWORKS = ("torch.nn.modules.", "torch.nn.parallel.", "model_sr", "networks")  # whose classes become inert objects
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
SIZES = {"srresnet": (64, 5), "srdensenet": (16, 8), "resnet_generator": (64, 6)}  # channels and blocks, as released
# the release's names to ours, by its network (model_sr.py, networks.py)
NAMES: dict[str, list[tuple[str, str]]] = {
    "srresnet": [
        (r"block1\.", "head."),
        (r"block([2-6])\.conv1\.", lambda m: f"blocks.{int(m[1]) - 2}.body.0."),
        (r"block([2-6])\.bn1\.", lambda m: f"blocks.{int(m[1]) - 2}.body.1."),
        (r"block([2-6])\.prelu\.", lambda m: f"blocks.{int(m[1]) - 2}.body.2."),
        (r"block([2-6])\.conv2\.", lambda m: f"blocks.{int(m[1]) - 2}.body.3."),
        (r"block([2-6])\.bn2\.", lambda m: f"blocks.{int(m[1]) - 2}.body.4."),
        (r"block7\.([01])\.", lambda m: f"blocks.{int(m[1]) + 5}."),
        (r"block8\.(\d+)\.conv\.", lambda m: f"tail.{3 * int(m[1])}."),
        (r"block8\.(\d+)\.prelu\.", lambda m: f"tail.{3 * int(m[1]) + 2}."),
        (r"block8\.(\d+)\.", lambda m: f"tail.{3 * int(m[1])}."),
    ],
    "srdensenet": [
        (r"conv1\.", "head.0."),
        (r"denseblock\.(\d+)\.block\.(\d+)\.conv\.", lambda m: f"dense.{8 * int(m[1]) + int(m[2])}.conv."),
        (r"Bottleneck\.", "tail.0."),
        (r"convt([12])\.", lambda m: f"tail.{m[1]}."),
        (r"conv2\.", "tail.3."),
    ],
    "resnet_generator": [(r"model\.(\d+)\.conv_block\.", r"body.\1.body."), (r"model\.", "body.")],
}  # fmt: skip


@dataclass
class _Storage:
    dtype: torch.dtype
    key: str
    numel: int
    content: torch.Tensor | None = None


@dataclass
class _Tensor:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self) -> torch.Tensor:
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        whole = len(self.storage.content)
        if self.offset < 0 or any(x < 0 for x in (*self.size, *self.stride)) or last >= whole or math.prod(self.size) > whole:
            raise StudyError("a tensor reaches beyond its storage")
        return self.storage.content.as_strided(self.size, self.stride, self.offset).clone()


class _Inert:
    """Stands for an object of a network class: it has attributes and does nothing."""


class _Reader(pickle.Unpickler):
    """Knows tensors, containers and network classes by name; refuses anything else."""

    def __init__(self, file: io.BufferedIOBase, storages: dict[str, _Storage]):
        super().__init__(file, encoding="utf-8")
        self.storages = storages
        self.inert = type("Inert", (_Inert,), {})  # this file's own: a pickle may set attributes of a class, too

    def find_class(self, module: str, name: str) -> Callable:
        known: dict[tuple[str, str], Callable] = {
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
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in DTYPES:
            return lambda dtype=DTYPES[name]: dtype
        if any(module == n.rstrip(".") or module.startswith(n) for n in NETWORKS) and "." not in name:
            return self.inert
        raise StudyError(f"the file asks for {module}.{name}, which is no part of a saved network; nothing was executed")

    def persistent_load(self, saved: tuple) -> object:
        kind, *rest = saved
        if kind == "module":  # the older format keeps a class with its source: the class alone
            return rest[0]
        if kind != "storage":
            raise StudyError(f"the file holds {kind!r}, which is no part of a saved network")
        dtype, key, _place, numel = rest[0](), str(rest[1]), rest[2], int(rest[3])
        if len(rest) > 4 and rest[4] is not None:
            raise StudyError("a storage is a view of another; torch has not written that since 2017")
        return self.storages.setdefault(key, _Storage(dtype, key, numel))


def _tensor(storage: object, offset: object, size: object, stride: object, *_others: object) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise StudyError("a tensor without a storage")
    return _Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def read_release_file(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a whole pickled module by name, as its ``state_dict`` would give them, ``module.`` taken off.

    Raises:
        StudyError: no such file, another format, a class that is no network's, or tensors beyond their storages.
    """
    path = Path(path)
    if not path.is_file():
        raise StudyError(f"{path}: no such file; the release's README links the authors' weights")
    try:
        module = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        found = {re.sub(r"^(module\.)+", "", name): tensor.read() for name, tensor in _walk(module)}
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle raises many types
        raise StudyError(f"{path}: not a module saved by torch.save ({type(error).__name__}: {error})") from error
    if not found:
        raise StudyError(f"{path}: holds no tensors")
    return found


def _read_zip(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        (listing,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        storages: dict[str, _Storage] = {}
        module = _Reader(io.BytesIO(archive.read(listing)), storages).load()
        for storage in storages.values():
            _fill(storage, archive.read(f"{listing.removesuffix('data.pkl')}data/{storage.key}"))
    return module


def _read_legacy(path: Path) -> object:
    storages: dict[str, _Storage] = {}
    with path.open("rb") as file:
        magic, _protocol, about = (_Reader(file, {}).load() for _ in range(3))
        if magic != LEGACY_MAGIC or not about.get("little_endian", True):
            raise StudyError("not a file of torch.save, or one of a big-endian machine")
        module = _Reader(file, storages).load()
        for key in _Reader(file, {}).load():
            storage = storages[str(key)]
            numel = int.from_bytes(file.read(8), "little")
            if numel != storage.numel:
                raise StudyError(f"storage {key} has {numel} values where {storage.numel} were announced")
            _fill(storage, file.read(numel * storage.dtype.itemsize))
    return module


def _fill(storage: _Storage, content: bytes) -> None:
    if len(content) != storage.numel * storage.dtype.itemsize:
        raise StudyError(f"storage {storage.key} is truncated")
    storage.content = torch.frombuffer(bytearray(content), dtype=storage.dtype)


def _walk(module: object, prefix: str = "") -> list[tuple[str, _Tensor]]:
    """Parameters and buffers of an inert module and of its children, as ``state_dict`` names them."""
    if not isinstance(module, _Inert):
        raise StudyError(
            f"holds {'a dict' if isinstance(module, dict) else type(module).__name__} where a whole module belongs"
        )
    attributes = vars(module)
    own = [*attributes.get("_parameters", {}).items(), *attributes.get("_buffers", {}).items()]
    found = [(prefix + name, tensor) for name, tensor in own if isinstance(tensor, _Tensor)]
    for name, child in attributes.get("_modules", {}).items():
        found += _walk(child, f"{prefix}{name}.") if child is not None else []
    return found


def to_ours(state: dict[str, torch.Tensor]) -> tuple[str, int, nn.Module]:
    """Which of the release's networks it is, its upscaling factor, and that network with the weights.

    Raises:
        StudyError: the names are none of its networks', or names or shapes differ from it.
    """
    marks = {"srresnet": "block1.0.weight", "srdensenet": "Bottleneck.weight", "resnet_generator": "model.1.weight"}
    network = next((name for name, mark in marks.items() if mark in state), None)
    if network is None:
        raise StudyError(f"none of the release's networks has these names: {', '.join(list(state)[:4])}, ...")
    doublings = sum(bool(re.fullmatch(r"block8\.\d+\.conv\.weight", name)) for name in state)
    factor = {"srresnet": 2**doublings, "srdensenet": 4, "resnet_generator": 1}[network]
    if factor not in (1, 2, 4):
        raise StudyError(f"{network} enlarges by {factor}")
    net = build_processor(network, factor, *SIZES[network])
    ours, renamed = net.state_dict(), {}
    for name, tensor in state.items():
        for pattern, replacement in NAMES[network]:
            if re.match(pattern, name):
                renamed[re.sub(f"^{pattern}", replacement, name, count=1)] = tensor
                break
        else:
            raise StudyError(f"{network} has no {name}")
    for name in ours:  # files older than torch 0.4.1 do not count batches, and nothing reads the count
        if name.endswith("num_batches_tracked"):
            renamed.setdefault(name, torch.tensor(0))
    if ours.keys() != renamed.keys():
        raise StudyError(f"{network}: {', '.join(sorted(ours.keys() ^ renamed.keys())[:4])} are missing or unknown")
    for name, tensor in ours.items():
        if tensor.shape != renamed[name].shape:
            raise StudyError(f"{network}: {name} has shape {tuple(renamed[name].shape)}, not {tuple(tensor.shape)}")
    net.load_state_dict(renamed)
    return network, factor, net


def convert(path: Path, out: Path, task: str, mode: str, part: str = "processor", **overrides: object) -> Path:
    """Write a release's file as ``OUT.processor.safetensors`` (``part='transformer'``: T) that ``evaluate`` takes.

    Returns the file written. ``overrides``: other settings of the run, ``ra_weight`` or ``source_arch``, say.
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
        channels, blocks = SIZES[network]
        config = replace(config, processor=network, channels=channels, blocks=blocks)
    target = out.with_name(f"{out.name}.{part}.safetensors")
    save_weights(target, net, config, source=f"{path.name} sha256 {sha256(path)}")  # not a run of ours
    return target


def convert_command(args: argparse.Namespace) -> None:
    path = convert(args.file, args.out, args.task, args.mode, args.part)
    print(f"{path}\nnow: rastudy evaluate --processor {path} --task {args.task} --data IMAGENET")
