"""One run's settings: a flat frozen dataclass, and the run id.

A preset fills every field; the user overrides some of them by name. Unknown names, wrong types and values out of range
raise StudyError before anything starts.
"""

import ast
import dataclasses
import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rastudy import registry, use_native
from rastudy.errors import StudyError, one_of
from rastudy.presets import PRESETS, settings_of, tasks_of
from rastudy.registry import ALIASES, CHANNELS, MODES, TASKS

if TYPE_CHECKING:
    import torch

LABELS = ("correct", "shuffled", "constant")  # labels in R's loss; the controls permute them, or use class 0 for all
SCHEDULES, PRECISIONS = ("onecycle", "through", "step"), ("fp32", "bf16")
PROCESSORS, TRANSFORMERS = ("srresnet", "srdensenet", "resnet_generator"), ("resnet_generator", "residual")
NOT_APPLICABLE = "-"
_CHANNELS = ", ".join(f"{one.name}:{one.drawn[0]:g}-{one.drawn[1]:g}" if one.value else one.name for one in CHANNELS.values())
# fields that came later: with these values they are not in a run's id
NEW = {"labels": "correct", "classes": "", "cycle": 0, "transformer": "resnet_generator", "transformer_lr": 0.0, "upload": ""}


def setting(default: Any, says: str, low: float | None = None, operational: bool = False, photographs: bool = False) -> Any:
    """A field of :class:`Config`.

    Args:
        says: its help text.
        low: the lowest value it takes.
        operational: it changes where or how fast a run is executed, not its results.
        photographs: used only by data sets of photographs.
    """
    about = {"says": says, "low": low, "operational": operational, "photographs": photographs}
    return dataclasses.field(default=default, metadata=about)


@dataclass(frozen=True)
class Config:
    """Settings of one run. ``ra_weight`` comes from the preset by degradation and mode."""

    preset: str
    task: str
    mode: str
    strength: float = setting(
        dataclasses.MISSING, "factor of sr (2 or 4), sigma of dn (0 to 1), quality of jpeg (1 to 95); blind has none"
    )
    source_arch: str = setting(dataclasses.MISSING, "R in the loss; several, separated by commas, are weighted equally")
    ra_weight: float = setting(dataclasses.MISSING, "weight of R's loss, the paper's lambda", low=0)
    seed: int = setting(0, "seed of initial weights, shuffling and noise", low=0)
    labels: str = setting("correct", f"labels in R's loss: {', '.join(LABELS)} (the latter two are controls)")
    upload: str = setting("", f"what may happen to P's picture before R reads it, one drawn for each step: {_CHANNELS}")
    # data
    dataset: str = setting("digits", f"{', '.join(registry.DATASETS)}; digits_first and the like: half of the classes")
    data_dir: str = setting("", "folder of the pictures", operational=True)
    classes: str = setting("", "class folders to read, separated by commas; default: all that R and training know")
    image_size: int = setting(32, "side, in pixels, of a picture that R reads", low=1)
    resize: int = setting(256, "photographs: the shorter side after decoding, pixels", low=1, photographs=True)
    crop: int = setting(
        0, "photographs: side of random training crops, a multiple of 4; 0: image_size", low=0, photographs=True
    )
    pretrain_crop: int = setting(0, "photographs: the same in pretraining; 0: image_size", low=0, photographs=True)
    cache_dir: str = setting("", "where decoded photographs are kept (runs/cache); none: decode every time", operational=True)
    workers: int = setting(0, "processes that crop and degrade photographs; 0: none", low=0, operational=True)
    train_images: int = setting(0, "training pictures; 0: all", low=0)
    val_images: int = setting(1000, "validation pictures, taken out of the training pictures", low=0)
    test_images: int = setting(0, "test pictures; 0: all", low=0)
    flip: bool = setting(False, "horizontal flips in training: true or false")
    skip_unreadable: bool = setting(False, "skip unreadable pictures: true or false", operational=True)
    # networks
    processor: str = setting("srresnet", f"P: {', '.join(PROCESSORS)}; or your own: {registry.OWN_PROCESSORS}")
    channels: int = setting(16, "P's width", low=1)
    blocks: int = setting(2, "P's residual or dense blocks", low=1)
    transformer: str = setting(
        "resnet_generator", "T: resnet_generator (the paper's), or residual, which starts as the identity"
    )
    transformer_channels: int = setting(8, "T's width", low=1)
    transformer_blocks: int = setting(6, "T's residual blocks")
    transformer_lr: float = setting(0.0, "T's own highest learning rate, in a cycle of its own; 0: P's rate", low=0)
    # training
    epochs: int = setting(4, "epochs with R in the loss", low=1)
    batch_size: int = setting(32, "pictures per step", low=1)
    lr: float = setting(2e-3, "highest learning rate, above 0")
    schedule: str = setting(
        "onecycle", "of the learning rate: onecycle (a cycle in each phase), through (one through both), or step (the paper's)"
    )
    # plain epochs that every mode starts from; T learns to copy meanwhile; the paper has none
    pretrain_epochs: int = setting(0, "epochs of plain pretraining, shared by every mode", low=0)
    pretrain_lr: float = setting(2e-3, "highest learning rate in pretraining, above 0")
    cycle: int = setting(0, "epochs of the learning rate's cycle where training ends inside it; 0: it does not", low=0)
    precision: str = setting("fp32", "of training: fp32 or bf16 (autocast)")
    # evaluation and machine
    target_archs: str = setting(",".join(registry.main_recognisers()), "R's in the test, separated by commas", operational=True)
    floats: bool = setting(True, "every R reads P's floats beside its rounded picture: true or false", operational=True)
    device: str = setting("auto", "auto, cpu or cuda", operational=True)
    threads: int = setting(1, "threads per process", low=1, operational=True)
    processes: int = setting(1, "processes that share every batch; a divisor of batch_size", low=1, operational=True)
    micro_batch: int = setting(0, "pictures that R reads at a time, to save memory; 0: all", low=0, operational=True)
    compile: bool = setting(False, "torch.compile P, T and R: true or false", operational=True)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _cast(field.name, getattr(self, field.name), field.type))
        object.__setattr__(self, "mode", ALIASES.get(self.mode, self.mode))
        self._check_values()
        mode = MODES[self.mode]
        if self.sources:
            object.__setattr__(self, "source_arch", ",".join(registry.in_order(self.sources)))
        for name, named in (("target_archs", self.targets), ("classes", self.stated_classes)):
            object.__setattr__(self, name, ",".join(named))
        if not mode.has_source:  # the same run whatever R was named
            object.__setattr__(self, "ra_weight", 0.0)
            object.__setattr__(self, "source_arch", NOT_APPLICABLE)
        elif not self.sources and not mode.has_transformer:
            raise StudyError(f"mode={self.mode!r} needs a recogniser in its loss; name it in source_arch")
        self._check_detectors()
        if self.is_baseline:
            object.__setattr__(self, "processor", NOT_APPLICABLE)
        if not mode.reads_labels or not self.sources:
            object.__setattr__(self, "labels", "correct")
        object.__setattr__(self, "upload", _canonical(registry.channels_of(self.upload)) if self.sources else "")

    def _check_values(self) -> None:
        """Raise StudyError for a value out of range."""
        one_of("preset", self.preset, PRESETS)
        one_of("mode", self.mode, MODES)
        one_of("task", self.task, TASKS)
        TASKS[self.task].check(self.strength)
        if not registry.is_own(self.processor):  # else a network of the user's
            one_of("processor", self.processor, (*PROCESSORS, NOT_APPLICABLE))
        one_of("transformer", self.transformer, TRANSFORMERS)
        for name, allowed in (("labels", LABELS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            one_of(name, getattr(self, name), allowed)
        for field in dataclasses.fields(self):
            low, value = field.metadata.get("low"), getattr(self, field.name)
            if low is not None and value < low:
                raise StudyError(f"{field.name}={value!r} must be at least {low}")
        for name in ("lr", "pretrain_lr"):
            if getattr(self, name) <= 0:
                raise StudyError(f"{name}={getattr(self, name)!r} must be above 0")
        data = registry.dataset_of(self.dataset)
        if self.classes and (data.photographs or not data.needs_folder):
            raise StudyError(
                f"classes={self.classes!r} does not fit: {data.shown} are read with all their classes; leave it out"
            )
        if data.size and self.image_size != data.size:
            raise StudyError(f"image_size={self.image_size} does not fit; {data.shown} have {data.size} x {data.size} pixels")
        for name in ("image_size", "crop", "pretrain_crop") if data.photographs else ():
            side = getattr(self, name)
            if side % 4 or not 0 <= side <= self.resize or (name == "image_size" and not side):
                raise StudyError(f"{name}={side} must divide by 4 and be at most resize={self.resize}")
        check_shares(self.batch_size, self.processes)
        for specs in (self.sources, self.targets):
            registry.check_specs(specs)

    def _check_detectors(self) -> None:
        """Raise StudyError unless detectors go with scenes and mode ``ra``."""
        detectors = [registry.kind_of(name) == "detector" for name in self.sources]
        if self.sources and (any(detectors) or self.dataset == "scenes"):
            if not (all(detectors) and self.dataset == "scenes" and self.mode == "ra"):
                raise StudyError(
                    f"source_arch={self.source_arch!r} does not fit; mode='ra' on dataset='scenes' takes detectors "
                    f"({', '.join(registry.recognisers('detector'))}), everything else classifiers"
                )

    @property
    def factor(self) -> int:
        """Upscaling factor of P: 1 where P keeps the size."""
        return int(self.strength) if TASKS[self.task].upscales else 1

    @property
    def of_photographs(self) -> bool:
        """Whether the pictures are photographs of any size, cropped when they are read."""
        return registry.dataset_of(self.dataset).photographs

    @property
    def decoded(self) -> int:
        """The shorter side, in pixels, of a user's picture before its middle is read: of photographs ``resize``."""
        return self.resize if self.of_photographs else self.image_size

    @property
    def is_baseline(self) -> bool:
        return registry.is_baseline(self.mode)

    @property
    def sources(self) -> list[str]:
        return [] if self.source_arch == NOT_APPLICABLE else registry.names_in(self.source_arch)

    @property
    def stated_classes(self) -> tuple[str, ...]:
        return tuple(registry.names_in(self.classes))

    @property
    def targets(self) -> list[str]:
        return registry.names_in(self.target_archs)

    @property
    def pretraining(self) -> "Config | None":
        """The run that this one starts from: without R, ``pretrain_epochs`` at ``pretrain_lr``; None if it starts from scratch.

        Plain P's, shared by every mode; RA with T then has a second one, in which T learns to copy that P's pictures.
        """
        if not self.pretrain_epochs or self.is_baseline:
            return None
        start: dict[str, Any] = {
            "source_arch": NOT_APPLICABLE, "ra_weight": 0.0, "epochs": self.pretrain_epochs, "lr": self.pretrain_lr,
            "crop": self.pretrain_crop, "pretrain_crop": 0,
        }  # fmt: skip
        if self.schedule == "through":
            plain = {"mode": "plain", "pretrain_epochs": 0, "lr": self.lr, "cycle": self.pretrain_epochs + self.epochs}
            return dataclasses.replace(self, **start | plain)
        if MODES[self.mode].has_transformer and self.sources:  # which starts from plain P's own
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
        if not self.is_baseline:
            parts += [] if self.processor == "srresnet" else [self.processor]
            parts += [f"{len(self.sources)}sources" if len(self.sources) > 1 else self.source_arch] if self.sources else []
            parts += [f"w{self.ra_weight:g}"] if self.sources else []
            parts += [f"{self.labels}-labels"] if self.labels != "correct" else []
            parts += ["upload"] if self.upload else []
            parts += [f"s{self.seed}", f"e{self.pretrain_epochs}+{self.epochs}" if self.pretrain_epochs else f"e{self.epochs}"]
        slug = re.sub(r"[^\w.,+-]", "_", "-".join(parts))  # it names files; a recogniser may be named by its path
        science = json.dumps(self.science(), sort_keys=True)
        return f"{slug[-120:]}-{hashlib.sha256(science.encode()).hexdigest()[:8]}"

    def science(self) -> dict:
        """The fields that change a run's numbers."""
        skip = {f.name for f in dataclasses.fields(self)
                if f.metadata.get("operational") or (f.metadata.get("photographs") and not self.of_photographs)}  # fmt: skip
        if self.is_baseline:  # only data and degradation matter
            keep = {"preset", "task", "mode", "strength", "dataset", "image_size", "val_images", "test_images", "resize",
                    *(["classes"] if self.classes else [])}  # fmt: skip
            return {k: v for k, v in dataclasses.asdict(self).items() if k in keep - skip}
        skip |= {name for name, default in NEW.items() if getattr(self, name) == default}
        if not MODES[self.mode].has_transformer:
            skip |= {"transformer", "transformer_channels", "transformer_blocks", "transformer_lr"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in skip}

    def torch_device(self) -> "torch.device":
        """``auto`` takes a GPU where there is one."""
        import torch

        name = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise StudyError(f"device={self.device!r} is not available here; use auto or cpu") from error


SCIENCE = {field.name for field in dataclasses.fields(Config) if not field.metadata.get("operational")}


def make_config(preset: str, task: str, mode: str = "plain", **overrides: Any) -> Config:
    """A preset's settings for one task and mode, with some fields replaced.

    An override of -1 or an empty string means "as the preset has it", so that notebook parameters stay flat
    literals.

    Raises:
        StudyError: an unknown name, a value of the wrong type or out of range.
    """
    one_of("preset", preset, PRESETS)
    one_of("task", task, tasks_of(preset))
    mode = ALIASES.get(_cast("mode", mode, str), mode)
    one_of("mode", mode, MODES)
    names = {field.name for field in dataclasses.fields(Config)}
    for name in overrides:
        one_of("parameter", name, sorted(names))
    given = {k: v for k, v in overrides.items() if not _is_default(v)}
    own = settings_of(preset, task, _cast("strength", given.get("strength", -1.0), float))
    settings = {k: v for k, v in (PRESETS[preset] | own).items() if k in names}
    settings["ra_weight"] = own["ra_weights"].get(mode, 0.0)
    config = Config(**{"preset": preset, "task": task, "mode": mode, **settings, **given})
    if given.get("upload") and not config.sources:
        raise StudyError(f"upload={given['upload']!r} needs a recogniser in the loss, and mode={mode!r} has none; leave it out")
    return config


def check_typed(given: Mapping[str, Any]) -> Config:
    """The config of what a person typed; StudyError where a part of that has no effect beside the rest.

    Such as R's weight for plain, photographs' crop for digits, a folder for embedded pictures.
    """
    config = make_config(**given)
    registry.check_folder(given.get("data_dir", ""), config.dataset)
    check_effects(given, lambda settings: [make_config(**settings)],
                  f"task={config.task!r}, mode={config.mode!r} of preset {config.preset}")  # fmt: skip
    return config


def check_effects(given: Mapping[str, Any], compose: Callable[[dict[str, Any]], Iterable[Config]], which: str) -> None:
    """Raise StudyError for a setting that a person typed and that changes none of the runs which the settings compose.

    One that states what the runs have anyway is no error, nor one without which the others do not fit.
    """
    ids = {run.run_id for run in compose(dict(given))}
    for name, value in given.items():
        if name not in SCIENCE - {"preset", "task", "mode"} or _is_default(value):
            continue
        try:
            rest = list(compose({one: other for one, other in given.items() if one != name}))
        except StudyError:
            continue
        if {run.run_id for run in rest} == ids and not all(_same(getattr(run, name), value) for run in rest):
            raise StudyError(f"{name}={value!r} has no effect on {which}; leave it out")


def _same(one: object, other: object) -> bool:
    """Whether two values of a setting are one: names between commas in any order."""
    both = [sorted(registry.names_in(value)) if isinstance(value, str) else value for value in (one, other)]
    return both[0] == both[1]


def _canonical(channels: Mapping[str, tuple[float, float]]) -> str:
    """The setting ``upload`` of these channels, ranges left out where they are the channel's own."""
    own = {name: one.drawn for name, one in CHANNELS.items()}
    return ",".join(name if ends == own[name] else f"{name}:{ends[0]:g}-{ends[1]:g}" for name, ends in channels.items())


def reader_of(name: str) -> Callable[[str], object]:
    """The function that reads a field's value from the command line; it raises ValueError for an unusable text."""
    kind: Any = next(field.type for field in dataclasses.fields(Config) if field.name == name)
    return _yes_or_no if kind is bool else kind


def _yes_or_no(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.strip().lower() not in words:
        raise ValueError(f"{text!r} is neither true nor false")
    return words[text.strip().lower()]


def configure(namespace: Mapping[str, object], **extra: type) -> tuple[Config, dict]:
    """Check a notebook's parameters: every one must be known.

    Args:
        namespace: the notebook's ``globals()``. papermill only warns about an unknown parameter; here it raises. Other
            variables of the kernel (a startup file's, a cell's that was tried out) are none of its parameters.
        extra: further parameters this notebook knows, name = type.

    Returns:
        the config, and the values of the extra parameters.

    Raises:
        StudyError: an unknown name, with the notebook's own; a value of the wrong type or out of range.
    """
    plain = (bool, int, float, str, list, tuple, dict, type(None))
    own, injected = _parameters(namespace.get("In"))
    given: dict[str, Any] = {
        k: v for k, v in namespace.items()
        if not k.startswith("_") and k not in {"In", "Out"} and isinstance(v, plain) and (not own or k in own | injected)
    }  # fmt: skip
    fields = {field.name for field in dataclasses.fields(Config)}
    for name in given.keys() - fields - extra.keys():
        known = sorted(own - {name} or fields | extra.keys())
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise StudyError(f"parameter={name!r} is unknown; {hint}use one of this notebook's: {', '.join(known)}")
    found = {name: _cast(name, given.pop(name), kind) for name, kind in extra.items() if name in given}
    config = check_typed(given)
    if not PRESETS[config.preset].get("portable"):
        use_native()
    return config, found


def _parameters(cells: object) -> tuple[set[str], set[str]]:
    """The names in a notebook's parameters cell, and those that papermill's own cell after it sets; none without a kernel.

    Of the cells that a kernel has run, the parameters cell is the last of annotated literals alone, ``preset`` among them.
    """
    own: set[str] = set()
    injected: set[str] = set()
    for cell in cells if isinstance(cells, list) else []:
        try:
            body = ast.parse(cell).body
        except SyntaxError:  # a magic command
            continue
        names = {ast.unparse(node.target) for node in body if isinstance(node, ast.AnnAssign)}
        if "preset" in names and len(names) == len(body):
            own, injected = names, set()
        elif cell.lstrip().startswith("# Parameters"):
            injected |= {ast.unparse(target) for node in body if isinstance(node, ast.Assign) for target in node.targets}
    return own, injected


def _is_default(value: object) -> bool:
    """Whether a parameter is left to the preset: an empty text, or -1 and no other number."""
    return value == "" or (isinstance(value, int | float) and not isinstance(value, bool) and value == -1)


def _cast(name: str, value: Any, kind: Any) -> Any:
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


def check_shares(batch_size: int, processes: int) -> None:
    """Raise StudyError where a batch does not divide into equal parts."""
    if batch_size % processes:
        fit = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
        raise StudyError(f"batch_size={batch_size} does not divide by {processes} processes; take {', '.join(map(str, fit))}")
