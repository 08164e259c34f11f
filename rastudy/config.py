"""One run's settings: a flat frozen dataclass, and the run id.

A preset fills every field; the user overrides some of them by name. Unknown names, wrong types and values that no
field takes raise StudyError before anything starts.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rastudy import digits, scenes
from rastudy.classifiers import DETECTORS, check_spec
from rastudy.data import HALVES, half_of
from rastudy.degrade import check_task
from rastudy.distributed import check_shares
from rastudy.errors import StudyError, one_of
from rastudy.presets import MODES, PRESETS, SMALL_FIVE, settings_of, tasks_of
from rastudy.processors import PROCESSORS

LABELS = ("correct", "shuffled", "constant")  # what R's loss is told; in controls permuted labels, or class 0 for all
CONTROL_MODES = ("perceptual",)  # ours: R's features in place of its verdict
BASELINES = ("none", "clean")  # no processing, and the original picture
ALIASES = {"ra_transform": "ra_transformer"}  # the name in the release's code
NOT_APPLICABLE = "-"
# fields that change where or how fast a run goes, not its numbers
OPERATIONAL = ("data_dir", "target_archs", "device", "threads", "skip_unreadable", "cache_dir", "workers", "processes",
               "micro_batch", "compile")  # fmt: skip
OF_PHOTOGRAPHS = ("resize", "crop", "pretrain_crop")  # nothing else reads them
AT_LEAST_1 = ("epochs", "batch_size", "channels", "blocks", "transformer_channels", "threads", "image_size", "processes")
AT_LEAST_0 = ("seed", "ra_weight", "train_images", "val_images", "test_images", "pretrain_epochs", "workers", "micro_batch")
DATASETS = ("digits", "cifar10", "folder", "imagenet", "scenes")
DATASETS += tuple(f"{name}_{half}" for name in ("digits", "cifar10", "imagenet") for half in HALVES)


@dataclass(frozen=True)
class Config:
    """Settings of one run. ``ra_weight`` comes from the preset by degradation and mode."""

    preset: str
    task: str  # sr, dn or jpeg
    mode: str  # plain, ra, ra_transformer, ra_unsupervised, perceptual; none and clean train nothing
    strength: float  # sr: factor 2 or 4; dn: sigma on [0, 1]; jpeg: quality
    source_arch: str  # R in the loss; several, separated by commas, share it equally
    ra_weight: float  # lambda of the paper
    seed: int = 0
    labels: str = "correct"  # shuffled, constant: controls whose recognition loss is told permuted labels, or class 0
    # data
    dataset: str = (
        "digits"  # digits, cifar10, folder (class folders), imagenet (by wnid), scenes; digits_first: half the classes
    )
    data_dir: str = ""
    image_size: int = 32  # the side of a picture that R reads
    resize: int = 256  # photographs: the shorter side after decoding
    crop: int = 0  # photographs: the side of training's random crops; 0: image_size
    pretrain_crop: int = 0  # the same in the pretraining
    cache_dir: str = ""  # where decoded photographs are kept; default runs/cache; none: decode every time
    workers: int = 0  # processes that crop and degrade photographs; 0: the run's own
    train_images: int = 0  # 0: all
    val_images: int = 1000  # taken out of the training pictures
    test_images: int = 0
    flip: bool = False  # horizontal flips in training
    skip_unreadable: bool = False
    # networks
    processor: str = "srresnet"
    channels: int = 16
    blocks: int = 2
    transformer_channels: int = 8
    transformer_blocks: int = 6
    # training
    epochs: int = 4
    batch_size: int = 32
    lr: float = 2e-3
    schedule: str = "onecycle"  # onecycle, or the paper's step
    pretrain_epochs: int = 0  # plain epochs that every mode starts from; T learns to copy meanwhile; the paper has none
    pretrain_lr: float = 2e-3
    precision: str = "fp32"  # fp32 or bf16 autocast
    # evaluation and machine
    target_archs: str = SMALL_FIVE  # R's in the test
    device: str = "auto"
    threads: int = 1
    processes: int = 1  # that share every batch, started by torchrun
    micro_batch: int = 0  # pictures that R reads at a time in training, for less memory; 0: the batch. P always sees the batch
    compile: bool = False  # torch.compile P, T and R

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _cast(field.name, getattr(self, field.name), field.type))
        one_of("preset", self.preset, PRESETS)
        object.__setattr__(self, "mode", ALIASES.get(self.mode, self.mode))
        one_of("mode", self.mode, MODES + CONTROL_MODES + BASELINES)
        check_task(self.task, self.strength)
        one_of("processor", self.processor, (*PROCESSORS, NOT_APPLICABLE))
        one_of("labels", self.labels, LABELS)
        one_of("schedule", self.schedule, ("onecycle", "step"))
        one_of("precision", self.precision, ("fp32", "bf16"))
        one_of("dataset", self.dataset, DATASETS)
        for name in AT_LEAST_1 + AT_LEAST_0:
            _at_least(name, getattr(self, name), int(name in AT_LEAST_1))
        if half_of(self.dataset)[0] == "digits" and self.image_size != digits.SIZE:
            raise StudyError(f"image_size={self.image_size} does not fit; the digits have {digits.SIZE} x {digits.SIZE} pixels")
        if self.dataset == "scenes" and self.image_size != scenes.SIZE:
            raise StudyError(f"image_size={self.image_size} does not fit; scenes have {scenes.SIZE} x {scenes.SIZE} pixels")
        if self.of_photographs:
            sides = {name: getattr(self, name) for name in ("image_size", "crop", "pretrain_crop")}
            for name, side in sides.items():
                if side % 4 or not 0 <= side <= self.resize or (name == "image_size" and not side):
                    raise StudyError(f"{name}={side} must divide by 4 and be at most resize={self.resize}")
        check_shares(self.batch_size, self.processes)
        for spec in (*self.sources, *self.targets):
            check_spec(spec)
        for name in ("lr", "pretrain_lr"):
            if getattr(self, name) <= 0:
                raise StudyError(f"{name}={getattr(self, name)!r} must be above 0")
        if self.mode in ("plain", *BASELINES):  # one run, whatever R the user had in mind
            object.__setattr__(self, "ra_weight", 0.0)
            object.__setattr__(self, "source_arch", NOT_APPLICABLE)
        elif not self.sources and self.mode != "ra_transformer":
            raise StudyError(f"mode={self.mode!r} needs a recogniser in its loss; name it in source_arch")
        detectors = [name in DETECTORS for name in self.sources]
        if self.sources and (any(detectors) or self.dataset == "scenes"):
            if not (all(detectors) and self.dataset == "scenes" and self.mode == "ra"):
                raise StudyError(
                    f"source_arch={self.source_arch!r} does not fit; mode='ra' on dataset='scenes' takes detectors "
                    f"({', '.join(DETECTORS)}), everything else classifiers"
                )
        if self.mode in BASELINES:
            object.__setattr__(self, "processor", NOT_APPLICABLE)
        if self.mode not in ("ra", "ra_transformer") or not self.sources:  # no loss reads them
            object.__setattr__(self, "labels", "correct")

    @property
    def factor(self) -> int:
        """Upscaling factor of P: 1 for dn and jpeg."""
        return int(self.strength) if self.task == "sr" else 1

    @property
    def of_photographs(self) -> bool:
        """Of photographs of any size (ImageNet's, or those of half of its classes), not of pictures of one size in memory."""
        return half_of(self.dataset)[0] == "imagenet"

    @property
    def sources(self) -> list[str]:
        return [] if self.source_arch == NOT_APPLICABLE else [name.strip() for name in self.source_arch.split(",")]

    @property
    def targets(self) -> list[str]:
        return [name.strip() for name in self.target_archs.split(",")]

    @property
    def pretraining(self) -> "Config | None":
        """The run that this one starts from: without R, ``pretrain_epochs`` at ``pretrain_lr``; None from scratch.

        Plain P's, shared by every mode; RA with T then has a second one, in which T learns to copy that P's pictures.
        """
        if not self.pretrain_epochs or self.mode in BASELINES:
            return None
        start = {"source_arch": NOT_APPLICABLE, "ra_weight": 0.0, "epochs": self.pretrain_epochs, "lr": self.pretrain_lr,
                 "crop": self.pretrain_crop, "pretrain_crop": 0}  # fmt: skip
        if self.mode == "ra_transformer" and self.sources:  # which starts from plain P's own
            return dataclasses.replace(self, **start | {"pretrain_crop": self.pretrain_crop})
        return dataclasses.replace(self, **start, mode="plain", pretrain_epochs=0)

    @property
    def chain(self) -> list["Config"]:
        """The run with what it starts from, in the order of training."""
        return [*(self.pretraining.chain if self.pretraining else []), self]

    @property
    def run_id(self) -> str:
        """Readable slug and a hash of every field that changes the science."""
        parts = [f"{self.task}{self.strength:g}", self.mode]
        if self.mode not in BASELINES:
            parts += [] if self.processor == "srresnet" else [self.processor]
            parts += [f"{len(self.sources)}sources" if len(self.sources) > 1 else self.source_arch] if self.sources else []
            parts += [f"w{self.ra_weight:g}"] if self.sources else []
            parts += [f"{self.labels}-labels"] if self.labels != "correct" else []
            parts += [f"s{self.seed}", f"e{self.pretrain_epochs}+{self.epochs}" if self.pretrain_epochs else f"e{self.epochs}"]
        slug = re.sub(r"[^\w.,+-]", "_", "-".join(parts))  # it names files; a recogniser may be named by its path
        science = json.dumps(self.science(), sort_keys=True)
        return f"{slug[-120:]}-{hashlib.sha256(science.encode()).hexdigest()[:8]}"

    def science(self) -> dict:
        """The fields that change a run's numbers."""
        skip = set(OPERATIONAL if self.of_photographs else OPERATIONAL + OF_PHOTOGRAPHS)
        if self.mode in BASELINES:  # only data and degradation matter
            keep = {"preset", "task", "mode", "strength", "dataset", "image_size", "val_images", "test_images",
                    "resize"}  # fmt: skip
            return {k: v for k, v in dataclasses.asdict(self).items() if k in keep - skip}
        if self.labels == "correct":
            skip |= {"labels"}
        if self.mode != "ra_transformer":
            skip |= {"transformer_channels", "transformer_blocks"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in skip}

    def torch_device(self) -> torch.device:
        """``auto`` takes a GPU where there is one."""
        name = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise StudyError(f"device={self.device!r} is not available here; use auto or cpu") from error


def make_config(preset: str, task: str, mode: str = "plain", **overrides: object) -> Config:
    """A preset's settings for one task and mode, with some fields replaced.

    An override that is negative or an empty string means "as the preset has it", so that notebook parameters stay flat
    literals.

    Raises:
        StudyError: an unknown name, a value of the wrong type or out of range.
    """
    one_of("preset", preset, PRESETS)
    one_of("task", task, tasks_of(preset))
    mode = ALIASES.get(_cast("mode", mode, str), mode)
    one_of("mode", mode, MODES + CONTROL_MODES + BASELINES)
    names = {field.name for field in dataclasses.fields(Config)}
    for name in overrides:
        one_of("parameter", name, sorted(names))
    given = {k: v for k, v in overrides.items() if not _is_default(v)}
    own = settings_of(preset, task, _cast("strength", given.get("strength", -1.0), float))
    settings = {k: v for k, v in (PRESETS[preset] | own).items() if k in names}
    settings["ra_weight"] = own["ra_weights"].get(mode, 0.0)
    return Config(**{"preset": preset, "task": task, "mode": mode, **settings, **given})


def reader_of(name: str) -> Callable[[str], object]:
    """What makes a field's value of its text on a command line; ValueError where the text is none."""
    kind: Any = next(field.type for field in dataclasses.fields(Config) if field.name == name)
    return (lambda text: text.lower() in ("1", "true", "yes")) if kind is bool else kind


def configure(namespace: Mapping[str, object], **extra: type) -> tuple[Config, dict]:
    """Check a notebook's parameters: every plain value of its namespace must be a known one.

    Args:
        namespace: the notebook's ``globals()``. papermill only warns about an unknown parameter; here it raises.
        extra: further parameters this notebook knows, name = type.

    Returns:
        the config, and the values of the extra parameters.
    """
    plain = (bool, int, float, str, list, tuple, dict, type(None))
    hidden = {"In", "Out"}
    given = {k: v for k, v in namespace.items() if not k.startswith("_") and k not in hidden and isinstance(v, plain)}
    own = {name: _cast(name, given.pop(name), kind) for name, kind in extra.items() if name in given}
    return make_config(**given), own


def _is_default(value: object) -> bool:
    return value == "" or (isinstance(value, int | float) and not isinstance(value, bool) and value < 0)


def _cast(name: str, value: object, kind: type) -> object:
    """The value as ``kind``; whole floats pass for int and ints for float, nothing else is converted."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise StudyError(f"{name}={value!r} is not a finite number")
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise StudyError(f"{name}={value!r} is a {type(value).__name__}; write a {kind.__name__}")
    return value


def _at_least(name: str, value: float, lowest: float) -> None:
    if value < lowest:
        raise StudyError(f"{name}={value!r} must be at least {lowest}")
