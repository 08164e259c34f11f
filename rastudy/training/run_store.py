"""Run folders, weights and provenance.

``runs/<preset>/<run_id>/`` (not committed) holds what a run needs to resume; ``results/<preset>/`` what it found.
"""

import ast
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from rastudy.config import Config
from rastudy.errors import StudyError
from rastudy.models.classifiers import load_state, sha256
from rastudy.models.processors import ResnetGenerator, build_processor
from rastudy.paths import PACKAGE, read_json, results_folder, root, write_atomic, write_json

MARKERS = ("config", "trained", "val", "test")  # a run folder's small JSON files
_BOTH = (
    "data.datasets", "data.degradations", "data.digits", "data.distributed", "data.image_files", "data.loaders", "data.scenes",
    "models.classifiers", "models.detectors", "models.processors", "models.small_nets",
)  # fmt: skip
# modules that numbers come from
TRAINED_BY = (*_BOTH, "training.losses", "training.steps", "training.train")
READ_BY = (*_BOTH, "evaluation.evaluate", "evaluation.metrics")


def run_folder(config: Config) -> Path:
    return root() / "runs" / config.preset / config.run_id


def weights_file(config: Config, part: str = "processor") -> Path:
    """Where a run's final P (or ``part='transformer'``: T) lies."""
    return results_folder(config.preset) / "weights" / f"{config.run_id}.{part}.safetensors"


def weights_files(config: Config) -> list[Path]:
    """All that a finished run leaves: P's weights, and under ra_transformer T's."""
    parts = ("processor", "transformer") if config.mode == "ra_transformer" else ("processor",)
    return [weights_file(config, part) for part in parts]


def claim_folder(config: Config, inputs: Mapping[str, object]) -> Path:
    """The run's folder, holding its config; refuses a folder that belongs to another configuration.

    ``inputs`` names the weights that the run starts from: with retrained R's or another pretraining it is another run.
    """
    folder = run_folder(config)
    if not (folder / "config.json").is_file():
        write_json(folder / "config.json", config.science() | dict(inputs))
    elif changes := other_settings(config, inputs):
        raise StudyError(f"{folder} belongs to another configuration ({changes}); delete that folder to start over")
    return folder


def other_settings(config: Config, inputs: Mapping[str, object]) -> str:
    """In what a run's folder differs from the run as it would be now, in words; empty where it does not."""
    mine, theirs = config.science() | dict(inputs), read_json(run_folder(config) / "config.json")
    differing = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
    return ", ".join(f"{k}: {theirs.get(k)!r} there, {mine.get(k)!r} now" for k in differing)


@lru_cache
def code_versions(modules: tuple[str, ...]) -> dict[str, str]:
    """Module to a short hash of its code; comments, docstrings and layout do not change it."""
    return {name: _code_hash((PACKAGE / f"{name.replace('.', '/')}.py").read_text()) for name in modules}


def _code_hash(source: str) -> str:
    sha, tree = hashlib.sha256(), ast.parse(source)
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    for node in ast.walk(tree):  # breadth first: with the lengths of its lists that tells a tree from every other
        own = {k: len(v) if isinstance(v, list) else v for k, v in ast.iter_fields(node) if v not in (None, [])}
        own = {k: v for k, v in own.items() if not isinstance(v, ast.AST)}
        sha.update(f"{type(node).__name__} {own}\n".encode())
    return sha.hexdigest()[:8]


def record_file(config: Config) -> Path:
    """Where a finished run's evidence chain is kept beside its results: hashes of what it started from and came to."""
    return results_folder(config.preset) / "records" / f"{config.run_id}.json"


def write_records(config: Config) -> None:
    """Keep the run folder's markers, and those of what the run started from, beside the results."""
    for run in config.chain:
        markers = {name: run_folder(run) / f"{name}.json" for name in MARKERS}
        write_json(record_file(run), {name: read_json(path) for name, path in markers.items() if path.is_file()})


def restore_records(config: Config) -> None:
    """Give a fresh checkout the markers of committed runs; what they say is then checked against the files as always."""
    for run in config.chain:
        if record_file(run).is_file():
            for name, content in read_json(record_file(run)).items():
                path = run_folder(run) / f"{name}.json"
                if name in MARKERS and not path.is_file():
                    write_json(path, content)


def build_models(config: Config) -> tuple[nn.Module, nn.Module | None]:
    """Freshly initialised P, and T for ra_transformer. P's initial weights depend on the seed alone."""
    # ASSUMPTION: PyTorch's own initialisation for every P and T. The release builds its networks the same way.
    torch.manual_seed(config.seed)
    processor = build_processor(config.processor, config.factor, config.channels, config.blocks)
    transformer = None
    if config.mode == "ra_transformer":
        torch.manual_seed(config.seed + 1)
        transformer = ResnetGenerator(config.transformer_channels, config.transformer_blocks)
    device, layout = config.torch_device(), torch.channels_last
    place = lambda net: net.to(device, memory_format=layout) if net is not None else None  # noqa: E731
    return place(processor), place(transformer)


def save_weights(path: Path, net: nn.Module, config: Config, **others: str) -> None:
    """Save a state dict as safetensors, the run's settings in its metadata, and what else is given."""
    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    write_atomic(path, lambda p: save_file(state, p, {"config": json.dumps(config.science(), sort_keys=True), **others}))


def load_weights(path: Path, net: nn.Module) -> nn.Module:
    """Load a state dict that :func:`save_weights` wrote; StudyError where that is missing, damaged, unfit or not finite."""
    if not path.is_file():
        raise StudyError(f"{path}: no such weights; train them with rastudy train, or restore the file from git")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StudyError(f"{path}: not a readable safetensors file ({error})") from error
    return load_state(net, state, path)


def read_metadata(path: Path) -> dict:
    """The settings in a weight file's metadata."""
    if not path.is_file():
        raise StudyError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads((file.metadata() or {})["config"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise StudyError(f"{path}: not a weight file of this study ({type(error).__name__}: {error})") from error
    if not isinstance(settings, dict):
        raise StudyError(f"{path}: not a weight file of this study (its settings are no JSON object)")
    return settings


def load_models(config: Config) -> tuple[nn.Module, nn.Module | None]:
    """A finished run's P and T in eval mode, from its committed or just trained weights."""
    processor, transformer = build_models(config)
    load_weights(weights_file(config), processor).eval()
    if transformer is not None:
        load_weights(weights_file(config, "transformer"), transformer).eval()
    return processor, transformer


def provenance(config: Config) -> dict[str, str]:
    """What a run ran on: versions, device, threads."""
    device = config.torch_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
        "device": f"{device.type} ({name})", "threads": str(config.threads),
    }  # fmt: skip


def describe(config: Config, inputs: Iterable[str] = ()) -> None:
    """Print run id, device, versions, and the digests of the tables that a notebook reads."""
    print(f"run      {config.run_id}")
    print("on       " + ", ".join(f"{name} {value}" for name, value in provenance(config).items()))
    for name in inputs:
        path = results_folder(config.preset) / f"{name}.csv"
        digest = sha256(path)[:16] if path.is_file() else "missing"
        print(f"input    results/{config.preset}/{path.name} sha256 {digest}")
