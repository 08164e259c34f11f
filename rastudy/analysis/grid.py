"""The grid of runs: which ones a study is made of, and what each is evaluated on."""

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from rastudy import registry
from rastudy.config import NOT_APPLICABLE, Config, make_config
from rastudy.errors import one_of
from rastudy.evaluation.evaluate import is_evaluated
from rastudy.presets import PRESETS, degradations, settings_of
from rastudy.training.train import is_trained

SPLITS = ("val", "test")  # that a run is evaluated on, unless its preset says otherwise
PLAIN_RATE = {"sr": 700, "dn": 400, "jpeg": 400}  # pictures that a small P learns from in a second, on one core
READING_RATE, WHOLE_SET = 1200, 50_000  # pictures that an R reads in a second, both ways; pictures where a preset takes all
RELATIVE_COST = {"none": 0, "clean": 0, "plain": 1, "ra": 1.8, "ra_unsupervised": 1.9, "perceptual": 1.9,
                 "ra_transformer": 2.2}  # of a step; for the order of runs and the time left  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run of the grid and the splits it is evaluated on."""

    config: Config
    splits: tuple[str, ...]

    @property
    def parameters(self) -> dict:
        """Notebook 01's parameters, plain JSON values; a field that does not apply keeps the notebook's default."""
        names = ("preset", "task", "mode", "seed", "strength", "source_arch", "ra_weight", "labels", "processor", "channels",
                 "blocks", "epochs", "lr", "pretrain_epochs", "train_images", "data_dir", "device")  # fmt: skip
        values = {name: getattr(self.config, name) for name in names}
        values = {name: value for name, value in values.items() if value not in (NOT_APPLICABLE, "")}
        preset = make_config(self.config.preset, self.config.task, self.config.mode, strength=self.config.strength)
        others = {name: value for name, value in asdict(self.config).items() if value != getattr(preset, name)}
        others = {name: value for name, value in others.items() if value not in (NOT_APPLICABLE, "")}
        return others | values | {"evaluate_on": ",".join(self.splits)}

    @property
    def cost(self) -> float:
        """Expected seconds on one core like ours: a guess for the order of runs and the time left."""
        config, own = self.config, RELATIVE_COST[self.config.mode]
        start = own if config.mode in ("plain", "ra_transformer") else 0  # the others find their pretraining done
        own += 0.8 * max(0, len(config.sources) - 1)  # every further R in the loss
        pictures = (own * config.epochs + start * config.pretrain_epochs) * (config.train_images or WHOLE_SET)
        rate = PLAIN_RATE[config.task] * (1.7 if config.precision == "bf16" else 1)
        read = sum({"val": config.val_images, "test": config.test_images or WHOLE_SET}[split] for split in self.splits)
        return pictures / rate + read * len(config.targets) / READING_RATE

    def is_done(self) -> bool:
        trained = self.config.is_baseline or is_trained(self.config)
        return trained and all(is_evaluated(self.config, split) for split in self.splits)


def product(preset: str, tasks=(), modes=(), seeds=(-1,), sources=("",), weights=(-1.0,), processors=("",),
            labels=("",), budgets=(1,), datasets=("",), one_cycle=False, strengths=(), splits=None,
            **overrides) -> list[Cell]:  # fmt: skip
    """Cells of a product of axes; an empty or negative value means the preset's.

    ``tasks`` take every strength that the preset has of them, or ``strengths``. ``budgets`` multiply the epochs.
    ``datasets``: others than the preset's own, with their sizes as it lists them there.
    ``one_cycle`` trains for as many epochs without a pretraining: the control for the schedule.
    """
    document, cells = PRESETS[preset], []
    axes = (degradations(preset), modes or document["modes"], seeds, sources, weights, processors, labels, budgets,
            datasets)  # fmt: skip
    for (task, strength), mode, seed, source, weight, name, told, budget, dataset in itertools.product(*axes):
        if (tasks and task not in tasks) or (strengths and strength not in strengths):
            continue
        values = {"strength": strength, "seed": seed, "source_arch": source, "ra_weight": weight, "processor": name}
        values |= {"labels": told} | document.get("processors", {}).get(name, {})
        settings = settings_of(preset, task, strength)
        before, after = (budget * settings.get(key, 0) for key in ("pretrain_epochs", "epochs"))
        values |= {"pretrain_epochs": before, "epochs": after}
        if one_cycle:
            values |= {"pretrain_epochs": 0, "epochs": before + after, "lr": document["pretrain_lr"]}
        if dataset:
            values |= {"dataset": dataset} | document["datasets"][dataset]
        read_on = document.get("splits", SPLITS) if splits is None else splits
        cells.append(Cell(make_config(preset, task, mode, **(values | overrides)), read_on))
    return cells


def grid(preset: str, full: bool = False, **overrides) -> list[Cell]:
    """The preset's grid: the baselines and every degradation x mode; ``full`` adds what the preset lists there."""
    one_of("preset", preset, PRESETS)
    cells = product(preset, modes=(*registry.modes("baseline"), *PRESETS[preset]["modes"]), **overrides)
    for axes in PRESETS[preset].get("full", ()) if full else ():
        cells += product(preset, **axes, **overrides)
    return merge(cells)


def merge(cells: Iterable[Cell]) -> list[Cell]:
    """A run that is asked for twice is evaluated on all splits that were asked for; baselines and plain come first."""
    unique: dict[str, Cell] = {}
    for cell in cells:
        before = unique.get(cell.config.run_id)
        splits = tuple(sorted({*cell.splits, *(before.splits if before else ())}, reverse=True))
        unique[cell.config.run_id] = Cell(cell.config, splits)
    return list(unique.values())


def narrow(cells: list[Cell], named: dict[str, list]) -> list[Cell]:
    """The cells with the named values, and what RA is held against: the baselines and plain of the same seeds, in every mode.

    Raises:
        StudyError: no cell has a named value.
    """
    for name, values in named.items():
        for value in values:
            one_of(name, value, sorted({getattr(cell.config, name) for cell in cells}))
    beside = {"mode": ("plain",), "source_arch": (NOT_APPLICABLE,), "ra_weight": (0.0,)}  # plain's

    def wanted(config: Config) -> bool:
        fit = {name: getattr(config, name) in (*values, *beside.get(name, ())) for name, values in named.items()}
        return fit.get("task", True) if config.is_baseline else all(fit.values())

    return [cell for cell in cells if wanted(cell.config)]
