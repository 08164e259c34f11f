"""Run folders: what a run needs to resume, markers of what it has done, and the records that are committed of them.

``runs/<preset>/<run_id>/`` (not committed) holds checkpoint, lock and markers; ``results/<preset>/records.json`` and
``curves.csv`` are merged from the markers (:func:`merge_records`), so that no two processes write the same file.
"""

import ast
import csv
import hashlib
import platform
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from rastudy.config import Config
from rastudy.data.loaders import data_version
from rastudy.errors import StudyError
from rastudy.models.classifiers import weights_versions
from rastudy.models.own_processors import own_file
from rastudy.models.weight_files import own_version, sha256
from rastudy.paths import (
    PACKAGE,
    beside_record,
    read_json,
    record_of,
    results_folder,
    root,
    short,
    to_read,
    updating,
    write_atomic,
    write_csv,
    write_json,
)  # fmt: skip
from rastudy.registry import is_own
from rastudy.training.steps import Models
from rastudy.training.weights import weights_files

MARKERS = ("config", "trained", "val", "test")  # JSON files of a run folder
CURVE_COLUMNS = ("step", "images", "lr", "image_loss", "recognition_loss")
_BOTH = (
    "data.blind", "data.datasets", "data.degradations", "data.digits", "data.distributed", "data.image_files", "data.imagenet",
    "data.loaders", "data.photo_cache", "data.scenes", "models.classifiers", "models.detectors", "models.own_processors",
    "models.pretrained", "models.processors", "models.small_nets", "models.squeezenet",
)  # fmt: skip
# modules that numbers come from
TRAINED_BY = (*_BOTH, "models.precision", "training.channels", "training.losses", "training.steps", "training.train")
READ_BY = (*_BOTH, "evaluation.evaluate", "evaluation.metrics")


# --- run folders


def run_folder(config: Config) -> Path:
    return root() / "runs" / config.preset / config.run_id


def claim_folder(config: Config, inputs: Mapping[str, object]) -> Path:
    """The run's folder, with its config written; StudyError where the folder belongs to another configuration.

    ``inputs`` names the weights that the run starts from: with retrained R's or another pretraining it is another run.
    """
    folder = run_folder(config)
    if not (folder / "config.json").is_file():
        write_json(folder / "config.json", config.science() | dict(inputs))
    elif changes := other_settings(config, inputs):
        raise StudyError(f"{folder / 'config.json'} is of another configuration ({changes}); delete {folder} to start over")
    return folder


def other_settings(config: Config, inputs: Mapping[str, object]) -> str:
    """How a run folder's settings differ from the current ones, the first five in words; empty where they do not."""
    mine, theirs = config.science() | dict(inputs), read_json(run_folder(config) / "config.json")
    unsaid = {"pictures"} - theirs.keys()  # in an old record; its evaluation tells what was read
    differing = sorted(k for k in (mine.keys() | theirs.keys()) - unsaid if mine.get(k) != theirs.get(k))
    told = [f"{k}: {theirs.get(k)!r} there, {mine.get(k)!r} now" for k in differing[:5]]
    return ", ".join(told + [f"and {len(differing) - 5} more"] * (len(differing) > 5))


def inputs_of(config: Config) -> dict:
    """What a run starts from besides its settings: pictures, and the weights of its source R's and of its pretraining."""
    inputs: dict = {"source_weights": weights_versions(config.sources, config.dataset)}
    if is_own(config.processor):
        inputs["processor_weights"] = own_version(config.processor, own_file(config.processor))
    inputs |= data_version(config, "train")
    if config.pretraining is not None:
        for name, path in zip(("pretrained", "pretrained_transformer"), weights_files(config.pretraining), strict=False):
            inputs[name] = sha256(path)
    return inputs


def is_trained(config: Config) -> bool:
    """Whether this checkout has trained the run with the current source R's, and its weights are what training produced."""
    marker = run_folder(config) / "trained.json"
    if not all(path.is_file() for path in (marker, *weights_files(config))):
        return False
    if config.pretraining is not None and not is_trained(config.pretraining):
        return False
    if other_settings(config, inputs_of(config)):
        return False
    kept = read_json(marker)  # T's digest is missing in markers of old
    return all(kept.get(name, digest if name != "sha256" else "") == digest for name, digest in _digests(config).items())


def _digests(config: Config) -> dict[str, str]:
    """The digests of a run's weight files under their names in the marker: P's, and T's."""
    return dict(zip(("sha256", "transformer_sha256"), map(sha256, weights_files(config)), strict=False))


def write_trained(config: Config, curve: list[dict]) -> None:
    """The marker of a finished training: digests of P and T, versions of the code, training curve, what it ran on."""
    marker = {**_digests(config), "code": code_versions(TRAINED_BY), "curve": curve,
              "provenance": provenance(config)}  # fmt: skip
    write_json(run_folder(config) / "trained.json", marker)


def read_curve(config: Config) -> list[dict]:
    """A finished run's training curve, rows of ``CURVE_COLUMNS``."""
    return read_json(run_folder(config) / "trained.json")["curve"]


# --- records: the markers of all runs of a preset, committed


def records_file(preset: str) -> Path:
    return results_folder(preset) / "records.json"


def curves_file(preset: str) -> Path:
    return results_folder(preset) / "curves.csv"


def read_records(file: Path) -> dict[str, dict]:
    """Run id to markers of every run that a file records: digests of what it started from and of what it produced."""
    return read_json(file) if file.is_file() else {}


def read_curves(file: Path) -> dict[str, list[dict]]:
    """Run id to training curve of every run that a file records (:func:`curves_file`)."""
    curves: dict[str, list[dict]] = {}
    if file.is_file():
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                point = {name: (int if name in ("step", "images") else float)(row[name]) for name in CURVE_COLUMNS}
                curves.setdefault(row["run_id"], []).append(point)
    return curves


def merge_records(preset: str) -> None:
    """Merge the markers of this checkout's finished runs into ``records.json`` and ``curves.csv``."""
    with updating(records_file(preset)):
        records, curves = read_records(records_file(preset)), read_curves(curves_file(preset))
        for folder in sorted((root() / "runs" / preset).glob("*/")):
            found = {name: folder / f"{name}.json" for name in MARKERS}
            markers = {name: read_json(path) for name, path in found.items() if path.is_file()}
            if len(markers) > ("config" in markers):  # something is finished
                if "trained" in markers:
                    curves[folder.name] = markers["trained"].pop("curve")
                records[folder.name] = markers
        if records:
            write_json(records_file(preset), records)
            rows = [{"run_id": run} | point for run in sorted(curves) for point in curves[run]]
            write_csv(curves_file(preset), rows, ("run_id", *CURVE_COLUMNS))


def restore_records(configs: Iterable[Config]) -> None:
    """Give a root without them the markers and files of the record's runs, which are then checked as usual."""
    runs = {run.run_id: run for config in configs for run in config.chain}
    recorded = {preset: _recorded(preset) for preset in {run.preset for run in runs.values()}}
    for run in runs.values():
        for name, content in recorded[run.preset].get(run.run_id, {}).items():
            path = run_folder(run) / f"{name}.json"
            if name in MARKERS and not path.is_file():
                write_json(path, content)
        read = [results_folder(run.preset) / "predictions" / f"{run.run_id}.{split}.npz" for split in ("val", "test")]
        for mine in (*weights_files(run), *read):
            if not mine.is_file() and in_record(mine).is_file():
                write_atomic(mine, partial(shutil.copyfile, in_record(mine)))


def in_record(path: Path) -> Path:
    """The record's file for one of the default root's; a root that was named has its own alone."""
    return record_of(path) if beside_record() else path


def _recorded(preset: str) -> dict[str, dict]:
    curves, records = read_curves(in_record(curves_file(preset))), read_records(in_record(records_file(preset)))
    for run, markers in records.items():
        if "trained" in markers:
            markers["trained"]["curve"] = curves.get(run, [])
    return records


# --- checkpoints


def checkpoint_file(config: Config) -> Path:
    """A run's state after its last epoch; goes when the run is finished, unless others go on from inside its cycle."""
    return run_folder(config) / "checkpoint.pt"


def load_optimiser(config: Config) -> dict:
    """The state of P's optimiser at the end of a run that others go on from."""
    return _read_checkpoint(checkpoint_file(config))["optimisers"][0]


def save_checkpoint(path: Path, models: Models, epoch: int, curve: list[dict]) -> None:
    state = {
        "epoch": epoch, "curve": curve, "processor": models.processor.state_dict(),
        "transformer": models.transformer.state_dict() if models.transformer is not None else {},
        "optimisers": [optimiser.state_dict() for optimiser in models.optimisers], "rng": torch.get_rng_state(),
    }  # fmt: skip
    write_atomic(path, lambda p: torch.save(state, p))


def load_checkpoint(path: Path, models: Models) -> tuple[int, list[dict]]:
    """Restore models and RNG; returns the next epoch and the curve so far. StudyError where the file is damaged."""
    state = _read_checkpoint(path)
    try:
        models.processor.load_state_dict(state["processor"])
        if models.transformer is not None:
            models.transformer.load_state_dict(state["transformer"])
        for optimiser, saved in zip(models.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        torch.set_rng_state(state["rng"])
    except Exception as error:  # of another run's networks
        raise _damaged(path, error) from error
    return state["epoch"], state["curve"]


def _read_checkpoint(path: Path) -> dict:
    try:
        with zipfile.ZipFile(path) as parts:  # torch.load does not compare the checksums that torch.save wrote
            if damaged := parts.testzip():
                raise StudyError(f"checksum of {damaged}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types; all mean that this file cannot be resumed from
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StudyError:
    return StudyError(f"{path}: damaged checkpoint ({(str(error).splitlines() or [type(error).__name__])[0]})")


# --- provenance


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


def provenance(config: Config) -> dict[str, str]:
    """What a run ran on: versions, device, the CPU and the instructions that torch uses of it, threads."""
    device = config.torch_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
        "device": f"{device.type} ({name})", "cpu": f"{_cpu()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(config.threads),
    }  # fmt: skip


@lru_cache
def _cpu() -> str:
    """The CPU's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe(config: Config, inputs: Iterable[str] = ()) -> None:
    """Print run id, device, versions, and the digests of the tables that a notebook reads."""
    print(f"run      {config.run_id}")
    print("on       " + ", ".join(f"{name} {value}" for name, value in provenance(config).items()))
    for name in inputs:
        path = to_read(results_folder(config.preset) / f"{name}.csv")
        digest = sha256(path)[:16] if path.is_file() else "missing"
        print(f"input    {short(path)} sha256 {digest}")
