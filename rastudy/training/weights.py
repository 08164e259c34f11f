"""The networks that a run trains: built, saved as safetensors, loaded again."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from rastudy.config import Config
from rastudy.errors import StudyError
from rastudy.models.processors import build_processor, build_transformer
from rastudy.models.weight_files import load_state
from rastudy.paths import results_folder, write_atomic
from rastudy.registry import MODES


def weights_file(config: Config, part: str = "processor") -> Path:
    """The file of a run's trained P, or with ``part="transformer"`` of its T."""
    return results_folder(config.preset) / "weights" / f"{config.run_id}.{part}.safetensors"


def weights_files(config: Config) -> list[Path]:
    """The weight files of a trained run: P's, and T's where the mode trains one."""
    parts = ("processor", "transformer") if MODES[config.mode].has_transformer else ("processor",)
    return [weights_file(config, part) for part in parts]


def build_models(config: Config) -> tuple[nn.Module, nn.Module | None]:
    """Freshly initialised P, and T where the mode trains one. P's initial weights depend on the seed alone."""
    # ASSUMPTION: PyTorch's own initialisation for every P and T. The release builds its networks the same way.
    device, layout = config.torch_device(), torch.channels_last
    torch.manual_seed(config.seed)
    processor = build_processor(config.processor, config.factor, config.channels, config.blocks)
    processor.to(device).to(memory_format=layout)
    if not MODES[config.mode].has_transformer:
        return processor, None
    torch.manual_seed(config.seed + 1)
    transformer = build_transformer(config)
    return processor, transformer.to(device).to(memory_format=layout)


def save_weights(path: Path, net: nn.Module, config: Config, **others: str) -> None:
    """Save a state dict as safetensors, the run's settings in its metadata, and what else is given."""
    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    write_atomic(path, lambda p: save_file(state, p, {"config": json.dumps(config.science(), sort_keys=True), **others}))


def load_weights(path: Path, net: nn.Module) -> nn.Module:
    """Load a state dict that :func:`save_weights` wrote; StudyError where that is missing, damaged, unfit or not finite."""
    if not path.is_file():
        raise StudyError(f"{path}: no such weights; rastudy train makes them")
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


def check_run(path: Path, config: Config) -> None:
    """Raise StudyError where a weight file is of another run than its name says: a setting in it differs."""
    settings, wanted = read_metadata(path), config.science()
    for name in sorted(settings.keys() & wanted.keys()):
        if settings[name] != wanted[name]:
            other = f"{name}={settings[name]!r}, not {wanted[name]!r}"
            raise StudyError(f"{path}: holds the weights of another run ({other}); put the right file there, or delete it")


def load_models(config: Config, place: Callable[[Path], Path] = Path) -> tuple[nn.Module, nn.Module | None]:
    """A finished run's P and T in eval mode; ``place`` finds their files (:func:`rastudy.paths.to_read`: or the record's)."""
    processor, transformer = build_models(config)
    for file in weights_files(config):
        if place(file).is_file():
            check_run(place(file), config)
    load_weights(place(weights_file(config)), processor).eval()
    if transformer is not None:
        load_weights(place(weights_file(config, "transformer")), transformer).eval()
    return processor, transformer
