"""Files of weights: read without executing anything, and compared with the hashes that are pinned beside them."""

import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from rastudy.errors import StudyError
from rastudy.paths import short, updating, write_atomic

SUMS = "SHA256SUMS"  # of a folder's pinned weights
COMMAND = "`make recognisers`"  # trains the pinned weights of the study's own recognisers
WRAPPERS = ("state_dict", "model_state_dict", "params_ema", "params", "model")  # of checkpoints, the wanted one first


def sha256(path: Path) -> str:
    """The file's SHA-256 as hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source_version(module: str) -> str:
    """The first digits of the SHA-256 of a user's module, found without importing it; empty where it has no source.

    It may lie in the working directory. Other modules that it imports are not looked at.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return ""
    file = Path(found.origin) if found and found.origin else Path()
    return sha256(file)[:8] if file.is_file() else ""


def own_version(spec: str, path: Path) -> str:
    """The version of ``module:function`` with its weights: a mended preprocessing is another network, too."""
    return "-".join(filter(None, (sha256(path)[:8], source_version(spec.partition(":")[0]))))


def pinned_hashes(folder: Path) -> dict[str, str]:
    """File name to SHA-256, read from the folder's SHA256SUMS (empty where there is none)."""
    sums = folder / SUMS
    lines = sums.read_text().splitlines() if sums.is_file() else []
    return {name: digest for digest, name in (line.split() for line in lines)}


def is_wanted(path: Path, again: bool) -> bool:
    """Whether to train what a pinned file holds: where it is there, which every run that read it rests on, only ``again``."""
    if path.is_file() and not again:
        print(f"{short(path)}: there already; --again trains it anew, and then every run that it was part of is another")
        return False
    return True


def write_pinned(path: Path, state: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a state dict as safetensors, and pin its SHA-256 in the folder's SHA256SUMS; what is pinned of others stays."""
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    with updating(path.parent / SUMS):
        write_atomic(path, lambda p: save_file(state, p, metadata))
        pinned = pinned_hashes(path.parent) | {path.name: sha256(path)}
        lines = [f"{digest}  {name}" for name, digest in sorted(pinned.items())]
        write_atomic(path.parent / SUMS, lambda p: p.write_text("\n".join(lines) + "\n"))


def read_pinned(path: Path, command: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The state dict and the metadata of a safetensors file of the study's own; ``command`` trains what it holds.

    Raises:
        StudyError: the file is damaged, or its hash is not the one that its folder's SHA256SUMS lists.
    """
    if pinned_hashes(path.parent).get(path.name, sha256(path)) != sha256(path):
        raise StudyError(f"{path}: its SHA-256 is not the one in SHA256SUMS; restore it or rerun {command}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except (SafetensorError, OSError) as error:
        raise StudyError(f"{path}: not a readable safetensors file ({error})") from error


def load_state_file(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from safetensors or from torch.save's format; executes nothing from the file.

    What training programs put around it is taken off: a dict with one of ``WRAPPERS``, and ``module.`` before every name.
    """
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many types; all mean that this file is not a state dict
        raise StudyError(f"{path}: not a readable state dict ({type(error).__name__}: {error})") from error
    while isinstance(found, Mapping) and (inner := next((found[name] for name in WRAPPERS if name in found), None)) is not None:
        if not isinstance(inner, Mapping):
            break
        found = inner
    if not (isinstance(found, Mapping) and found and all(isinstance(value, torch.Tensor) for value in found.values())):
        holds = (
            f"a dict of {', '.join(map(str, list(found)[:5]))}" if isinstance(found, Mapping) else f"a {type(found).__name__}"
        )
        raise StudyError(f"{path}: holds {holds}, not a state dict; save the network's state_dict()")
    if all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): value for name, value in found.items()}
    return dict(found)


def load_state(net: nn.Module, state: dict[str, torch.Tensor], path: Path) -> nn.Module:
    """Load the state dict that ``path`` holds into a network; StudyError where it does not fit, or is not finite."""
    try:
        net.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise StudyError(f"{path}: weights of another architecture ({str(error).splitlines()[0]})") from error
    odd = [name for name, tensor in net.state_dict().items() if not tensor.isfinite().all()]
    if odd:
        raise StudyError(f"{path}: {odd[0]} holds numbers that are not finite; train it anew, or restore the file")
    return net
