"""The directions in which the gain may transfer. Adding one is adding an entry to ``DIRECTIONS``."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from rastudy import registry
from rastudy.data.digits import OTHER_DATA
from rastudy.errors import StudyError, all_differ, one_of
from rastudy.grid import Run, grid, merge, product
from rastudy.paths import WEIGHTS
from rastudy.presets import PRESETS, degradations
from rastudy.transfer.upload import UPLOADS

SMALL = ("digits", "cifar10")  # data sets with small recognisers
SOURCES = ("resnet18_small", "resnet18_small,resnet50_small", "resnet18_small,resnet50_small,resnet101_small")
BLACK_BOX = "rapidocr"
TAUGHT_ELSEWHERE = ("resnet18_small", "densenet121_small", "vgg16_bn_small")  # of which there are some of other data
HELD_OUT = ("densenet121_small", "vgg16_bn_small")  # never among SOURCES


@dataclass(frozen=True)
class Variant:
    """One way in which a direction is tried.

    ``axes``: of the runs whose P's are read (:func:`rastudy.grid.product`); None: of the full grid. ``dataset``: whose test
    pictures they restore; empty: nothing is read, the predictions at home are enough. ``readers``: recognisers, by the names
    that :func:`rastudy.transfer.read.reader_of` takes. ``way``: one of ``UPLOADS`` on the way to them, or empty.
    ``pictures``: the preset whose test pictures they are, where they are another's. ``aware``: the runs are those of
    :func:`upload_aware` instead.
    """

    name: str
    axes: dict[str, Any] | None
    dataset: str
    readers: tuple[str, ...]
    way: str = ""
    pictures: str = ""
    aware: bool = False

    def runs(self, preset: str, data_dir: str = "") -> list[Run]:
        """The runs whose P's are read."""
        if self.aware:
            return upload_aware(preset, data_dir)
        if self.axes is None:  # but for tasks that stand aside, which other pictures' presets do not have
            whole, keys = grid(preset, full=True, data_dir=data_dir), degradations(preset)
            return [run for run in whole if "test" in run.splits and (run.config.task, run.config.strength) in keys]
        return product(preset, **({"splits": ("test",), "data_dir": data_dir} | self.axes))


def upload_aware(preset: str, data_dir: str = "") -> list[Run]:
    """The full grid's runs with uploads in their loss, each with plain and with the same run without, and the baselines."""
    taught = [run.config for run in grid(preset, full=True, data_dir=data_dir) if run.config.upload]
    modes = (*registry.modes("baseline"), "plain")
    beside = [replace(one, mode=mode) for mode in modes for one in taught] + [replace(one, upload="") for one in taught]
    return merge(Run(config, ("test",)) for config in beside + taught)


@dataclass(frozen=True)
class Study:
    """The study whose P's are read: a preset, its data set and recognisers, and the axes of its runs."""

    preset: str
    dataset: str
    axes: dict[str, Any]
    readers: tuple[str, ...]
    unlike: tuple[str, ...]  # recognisers of other families
    black_boxes: tuple[str, ...]
    elsewhere: str  # the preset whose test pictures its P's restore, too, where there is one

    @property
    def once(self) -> dict[str, Any]:
        """The axes with seed 0 alone."""
        return self.axes | {"seeds": (0,)}

    def narrowed(self, **axes: Any) -> dict[str, Any]:
        """The axes of runs that are trained for a direction: seed 0, no T, no loss without labels; and ``axes`` replaced."""
        return self.once | {"modes": (*registry.modes("baseline"), "plain", "ra")} | axes


@dataclass(frozen=True)
class Direction:
    """A direction: the question, its variants in a study, and the data sets whose studies have it (``only``; empty: all)."""

    name: str
    question: str
    variants: Callable[[Study], list[Variant]]
    only: tuple[str, ...] = ()
    hint: str = ""  # for the other studies
    needs: str = "other pictures (elsewhere)"  # that a preset names, where it has the direction


def _categories(study: Study) -> list[Variant]:
    home = study.dataset
    return [Variant(f"{mine}_to_{theirs}", study.narrowed(datasets=(f"{home}_{mine}",)), f"{home}_{theirs}", study.readers)
            for mine, theirs in (registry.HALVES, registry.HALVES[::-1])]  # fmt: skip


def _datasets(study: Study) -> list[Variant]:
    even, odd = (f"cifar10_{half}" for half in registry.PARITIES)
    names = [odd] if study.dataset == "cifar10" else OTHER_DATA
    where = {name: tuple(f"{arch}@{WEIGHTS / name / arch}.safetensors" for arch in TAUGHT_ELSEWHERE) for name in names}
    axes = study.narrowed(datasets=(even,)) if study.dataset == "cifar10" else study.axes  # P and source learn from one half
    return [Variant(name, axes, study.dataset, readers) for name, readers in where.items()]


def _other_pictures(study: Study) -> list[Variant]:
    if study.dataset not in SMALL:
        where = [study.elsewhere] if study.elsewhere else []
        return [Variant(name, None, study.dataset, study.readers, pictures=name) for name in where]
    (other,) = (name for name in SMALL if name != study.dataset)
    return [Variant(f"{study.dataset}_to_{other}", study.once, other, study.readers)]


def _detection(study: Study) -> list[Variant]:
    detectors = registry.recognisers("detector")
    # in x4 no plain P of scenes passes its gate: bicubic upsampling gives 28.7 dB on validation, P 25.7 to 27.2 at two rates
    taught = study.narrowed(datasets=("scenes",), sources=detectors, budgets=(2,), splits=(), tasks=("dn", "jpeg"))
    return [
        Variant("classification_to_detectors", study.once, "scenes", detectors),
        Variant("detection_at_home", taught, "scenes", detectors),
        Variant("detection_to_classifiers", taught, study.dataset, study.readers),
    ]


def _black_boxes(study: Study) -> list[Variant]:
    """Each black box on the study's own test pictures, and on those of the other preset that it reads."""
    all_differ("black boxes", map(box_name, study.black_boxes), "leave one out, or give its file another name")
    where = {"": ""} | ({f"_on_{study.elsewhere}": study.elsewhere} if study.elsewhere else {})
    axes = None if study.elsewhere else study.axes
    return [Variant(box_name(box) + suffix, axes, study.dataset, (box,), pictures=pictures)
            for box in study.black_boxes for suffix, pictures in where.items()]  # fmt: skip


def box_name(box: str) -> str:
    """The name that the opened black box has, too: a file's own without its suffix, a function's own."""
    kind, _, rest = box.partition(":")
    return rest.rpartition(":")[2] if kind == "function" else PurePath(rest).stem or kind


def _upload_aware(study: Study) -> list[Variant]:
    """Every way to the study's readers, and to networks of other families."""
    if not upload_aware(study.preset):
        return []
    who = {"": study.readers, "_unlike": registry.unlike_recognisers("small")}
    return [Variant(way + suffix, None, study.dataset, readers, way, aware=True)
            for suffix, readers in who.items() for way in UPLOADS]  # fmt: skip


def _multi_source(study: Study) -> list[Variant]:
    strengths = {"strengths": (2.0,)} if study.dataset == "cifar10" else {}  # the factor of its matrix of sources
    taught = study.narrowed(modes=("plain", "ra"), sources=SOURCES)
    return [Variant("held_out", taught | strengths, "", HELD_OUT)]


DIRECTIONS: dict[str, Direction] = {direction.name: direction for direction in (
    Direction("categories", "Does P, taught by a recogniser of half of the categories, help recognisers of the other half?",
              _categories),
    Direction("datasets", "Does P help recognisers that were trained on other data, on the same pictures?",
              _datasets, SMALL),
    Direction("other_pictures", "Does P, taught on one data set's pictures, help with another's, degraded as strongly?",
              _other_pictures),
    Direction("detection", "Does P, taught for classification, help detectors, and P taught by a detector, classifiers?",
              _detection, ("digits",), "; for PASCAL VOC: rastudy voc"),
    Direction("families", "Does P, taught by a convolutional network, help recognisers of other families?",
              lambda study: [Variant("families", study.once, study.dataset, study.unlike)]),
    Direction("black_box", "Does P help a recogniser that is known by its answers alone?",
              _black_boxes),
    Direction("upload", "Does the gain survive uploading: file formats, compression, resizing?",
              lambda study: [Variant(way, study.once, study.dataset, study.readers, way) for way in UPLOADS]),
    Direction("upload_aware", "Does the gain survive uploading where R's loss has seen uploads?",
              _upload_aware, SMALL, needs="run with uploads in its loss (uploads)"),
    Direction("multi_source", "Do several recognisers in the loss teach P more than one does?", _multi_source, SMALL),
)}  # fmt: skip


def direction_of(name: str) -> Direction:
    """A direction by its name; StudyError for an unknown one."""
    one_of("direction", name, DIRECTIONS)
    return DIRECTIONS[name]


def variants(preset: str, direction: str, black_box: str = BLACK_BOX) -> list[Variant]:
    """The variants of a direction in a preset's study; StudyError where it has none."""
    found, home = direction_of(direction), PRESETS[preset]["dataset"]
    if found.only and home not in found.only:
        raise StudyError(f"direction={direction!r} needs a study of {' or '.join(found.only)}, not {preset}{found.hint}")
    axes = {"seeds": PRESETS[preset].get("transfer_seeds", (0,)), "modes": registry.modes("baseline", "paper")}
    readers = tuple(registry.names_in(PRESETS[preset]["target_archs"])) if home not in SMALL else registry.main_recognisers()
    unlike = registry.unlike_recognisers(*(("small", "shallow") if home in SMALL else ("torchvision",)))
    boxes, elsewhere = tuple(registry.names_in(black_box)), PRESETS[preset].get("elsewhere", "")
    tried = found.variants(Study(preset, home, axes, readers, unlike, boxes, elsewhere))
    if not tried:
        raise StudyError(f"preset {preset} has no {direction}: it names no {found.needs}")
    return tried


def runs(preset: str, direction: str, data_dir: str = "", black_box: str = BLACK_BOX) -> list[Run]:
    """The trained runs that a direction reads, evaluated on the test pictures at home."""
    tried = variants(preset, direction, black_box)
    return merge(run for variant in tried for run in variant.runs(preset, data_dir))


def sweep_command(preset: str, direction: str) -> str:
    """The command that trains and reads what a direction lacks."""
    return f"rastudy sweep --preset {preset} --direction {direction}"
