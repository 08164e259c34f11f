"""The grid: which runs a study is made of, what each is evaluated on, and which of them a command line asks for."""

import argparse
import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from rastudy import registry
from rastudy.config import NOT_APPLICABLE, SCIENCE, Config, check_effects, make_config, reader_of
from rastudy.errors import StudyError, one_of
from rastudy.presets import PRESETS, degradations, settings_of, tasks_of
from rastudy.registry import MODES, TASKS

SPLITS = ("val", "test")  # that a run is evaluated on, unless its preset says otherwise
READING_RATE, WHOLE_SET = 1200, 50_000  # pictures that an R reads in a second, both ways; pictures where a preset takes all


@dataclass(frozen=True)
class Run:
    """One run of the grid and the splits it is evaluated on."""

    config: Config
    splits: tuple[str, ...]

    @property
    def parameters(self) -> dict:
        """Notebook 01's parameters, plain JSON values; a field that does not apply keeps the notebook's default."""
        names = ("preset", "task", "mode", "seed", "strength", "source_arch", "ra_weight", "labels", "processor", "channels",
                 "blocks", "epochs", "lr", "pretrain_epochs", "train_images", "data_dir", "device")  # fmt: skip
        preset = make_config(self.config.preset, self.config.task, self.config.mode, strength=self.config.strength)
        unused = SCIENCE - self.config.science().keys() if self.config.is_baseline else set()
        others = {name for name, value in asdict(self.config).items() if value != getattr(preset, name)}
        values = {name: getattr(self.config, name) for name in (*names, *sorted(others - {*names})) if name not in unused}
        values = {name: value for name, value in values.items() if value not in (NOT_APPLICABLE, "")}
        return values | {"evaluate_on": ",".join(self.splits)}

    @property
    def cost(self) -> float:
        """Expected seconds on one core like ours: a guess for the order of runs and the time left."""
        config, mode = self.config, MODES[self.config.mode]
        own = mode.cost
        copies = mode.has_transformer and self.config.schedule != "through"  # T learns to copy P's pictures first
        start = own if mode.name == "plain" or copies else 0  # the others find their pretraining done
        own += 0.8 * max(0, len(config.sources) - 1)  # every further R in the loss
        pictures = (own * config.epochs + start * config.pretrain_epochs) * (config.train_images or WHOLE_SET)
        rate = TASKS[config.task].rate * (1.7 if config.precision == "bf16" else 1)
        read = sum({"val": config.val_images, "test": config.test_images or WHOLE_SET}[split] for split in self.splits)
        return pictures / rate + read * len(config.targets) / READING_RATE


def product(preset: str, tasks=(), modes=(), seeds=(-1,), sources=("",), weights=(-1.0,), processors=("",),
            labels=("",), uploads=("",), budgets=(1,), datasets=("",), one_cycle=False, strengths=(), splits=None,
            **overrides) -> list[Run]:  # fmt: skip
    """Runs of a product of axes; an empty value or -1 means the preset's.

    ``tasks`` take every strength that the preset has of them, or ``strengths``. ``budgets`` multiply the epochs.
    ``uploads``: what R's loss reads P's picture through, of modes with R.
    ``datasets``: others than the preset's own, with their sizes as it lists them there.
    ``one_cycle`` trains for as many epochs without a pretraining: the control for the schedule.
    """
    document, runs = PRESETS[preset], []
    keys = [key for task in tasks for key in degradations(preset, task)] if tasks else degradations(preset)
    keys = [key for key in keys if not strengths or key[1] in strengths]
    trained = [(key, mode) for key in keys for mode in modes or settings_of(preset, *key).get("modes", document["modes"])]
    axes = (trained, seeds, sources, weights, processors, labels, uploads, budgets, datasets)
    for ((task, strength), mode), seed, source, weight, name, told, upload, budget, dataset in itertools.product(*axes):
        values = {"strength": strength, "seed": seed, "source_arch": source, "ra_weight": weight, "processor": name}
        values |= {"labels": told, "upload": upload} | document.get("processors", {}).get(name, {})
        settings = settings_of(preset, task, strength)
        before, after = (budget * settings.get(key, 0) for key in ("pretrain_epochs", "epochs"))
        values |= {"pretrain_epochs": before, "epochs": after}
        if one_cycle:
            values |= {"pretrain_epochs": 0, "epochs": before + after, "lr": document["pretrain_lr"]}
        if dataset:
            values |= {"dataset": dataset} | document["datasets"][dataset]
        without = {"upload": ""} if mode in MODES and not MODES[mode].has_source else {}
        read_on = document.get("splits", SPLITS) if splits is None else splits
        runs.append(Run(make_config(preset, task, mode, **(values | overrides | without)), read_on))
    return runs


def grid(preset: str, full: bool = False, **overrides) -> list[Run]:
    """The preset's grid: the baselines and every degradation x mode; ``full`` adds what the preset lists there."""
    one_of("preset", preset, PRESETS)
    runs = product(preset, modes=(*registry.modes("baseline"), *PRESETS[preset]["modes"]), **overrides)
    for axes in PRESETS[preset].get("full", ()) if full else ():
        runs += product(preset, **axes, **overrides)
    return merge(runs)


def merge(runs: Iterable[Run]) -> list[Run]:
    """A run that is asked for twice is evaluated on all splits that were asked for; baselines and plain come first."""
    unique: dict[str, Run] = {}
    for run in runs:
        before = unique.get(run.config.run_id)
        splits = tuple(sorted({*run.splits, *(before.splits if before else ())}, reverse=True))
        unique[run.config.run_id] = Run(run.config, splits)
    return list(unique.values())


def narrow(runs: list[Run], named: dict[str, list]) -> list[Run]:
    """The runs with the named values, with their baselines: none, clean, and plain of the same seeds.

    Raises:
        StudyError: no run has a named value.
    """
    for name, values in named.items():
        for value in values:
            one_of(name, value, sorted({getattr(run.config, name) for run in runs}))
    beside = {"mode": ("plain",), "source_arch": (NOT_APPLICABLE,), "ra_weight": (0.0,)}  # plain's

    def wanted(config: Config) -> bool:
        fit = {name: getattr(config, name) in (*values, *beside.get(name, ())) for name, values in named.items()}
        return fit.get("task", True) if config.is_baseline else all(fit.values())

    return [run for run in runs if wanted(run.config)]


def select(args: argparse.Namespace, of_directions: Iterable[Run] = ()) -> list[Run]:
    """The runs that the options of ``rastudy sweep`` ask for.

    A product of what they name, or with ``--full`` that part of the full grid; with ``--direction`` some of
    ``of_directions``.
    """
    one_of("preset", args.preset, PRESETS)
    for split in args.split:
        one_of("split", split, SPLITS)
    for task in args.task or ():
        one_of("task", task, tasks_of(args.preset))
    if not args.split:
        raise StudyError(f"--split names no split; use {' or '.join(SPLITS)}, or leave it out for both")
    if args.direction:
        found = narrow(merge(of_directions), _named(args))
    else:
        asked = _asked(args)
        registry.check_folder(args.data, *(run.config.dataset for run in asked))
        found = [Run(run.config, tuple(split for split in run.splits if split in args.split)) for run in asked]
        found = [run for run in found if run.splits]
    by_id = {run.config.run_id: run for run in found}
    for name in args.run:
        if name not in by_id:
            raise StudyError(f"run={name!r} is none of the {len(by_id)} runs of these options; --run takes an id of --list, "
                             "with the options that --list had (--full, --direction, --set ...)")  # fmt: skip
    return [by_id[name] for name in dict.fromkeys(args.run)] or found


def _named(args: argparse.Namespace) -> dict[str, list]:
    """The values of a run's settings that the options name."""
    modes = [registry.ALIASES.get(mode, mode) for mode in args.mode or ()]
    sources = [",".join(registry.in_order(registry.names_in(source))) for source in args.source_arch]
    named = {"task": args.task, "mode": modes, "seed": args.seed, "source_arch": sources,
             "ra_weight": args.ra_weight, "processor": args.processor}  # fmt: skip
    return {name: values for name, values in named.items() if values}


def _asked(args: argparse.Namespace) -> list[Run]:
    """The runs that the options name, without ``--direction``; StudyError where a setting changes none of them."""
    settings = settings_from(args.set)
    check_effects(settings, lambda part: [run.config for run in _with(args, part)], "these runs")
    return _with(args, settings)


def _with(args: argparse.Namespace, settings: dict[str, Any]) -> list[Run]:
    """The runs that the options name, with these settings."""
    overrides, named = {"data_dir": args.data, "device": args.device} | settings, _named(args)
    if "labels" in overrides:  # an axis
        overrides["labels"] = (overrides["labels"],)
    if args.full or not named:
        return narrow(grid(args.preset, args.full, **overrides), named)
    axes: dict[str, Any] = {"seeds": args.seed or (-1,), "sources": args.source_arch or ("",)}
    axes |= {"weights": args.ra_weight or (-1.0,), "processors": args.processor or ("",)}
    tasks, modes = args.task or (), named.get("mode") or ()
    baselines = [] if modes else product(args.preset, tasks, registry.modes("baseline"), **axes, **overrides)
    return merge(baselines + product(args.preset, tasks, modes, **axes, **overrides))


# settings that options of their own name
OPTIONS = {"preset": "preset", "task": "task", "mode": "mode", "seed": "seed", "source_arch": "source-arch",
           "ra_weight": "ra-weight", "processor": "processor", "data_dir": "data", "device": "device"}  # fmt: skip


def settings_from(pairs: list[str]) -> dict[str, object]:
    """``NAME=VALUE`` as the config's types; StudyError for anything else."""
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Config) if field.name not in OPTIONS}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name in OPTIONS:
            raise StudyError(f"--set {pair}: use --{OPTIONS[name]} for it")
        one_of("--set", name, sorted(kinds))
        if name in values:
            raise StudyError(f"--set {pair}: {name} is set twice; leave one out")
        try:
            values[name] = reader_of(name)(text)
        except ValueError as error:
            raise StudyError(f"--set {pair}: {text!r} is no {kinds[name].__name__}") from error
        if kinds[name] in (int, float) and values[name] < 0:  # in a notebook that means the preset's value
            raise StudyError(f"--set {pair}: must be 0 or more; leave it out for the preset's value")
    return values


def in_order(runs: list[Run]) -> list[Run]:
    """The order of training: baselines and plain before the modes that start from plain, long runs first."""
    return sorted(runs, key=lambda run: (not is_first(run), -run.cost))


def is_first(run: Run) -> bool:
    """Whether a run starts from no other: a baseline, or plain."""
    return run.config.is_baseline or run.config.mode == "plain"


def read_first(run: Run, runs: list[Run]) -> list[Run]:
    """Those of the runs that a run needs before it: plain, whose pretraining it shares, and no processing, for its gate."""
    if is_first(run):
        return []
    plain, none = (replace(run.config, mode=mode) for mode in ("plain", "none"))
    same = [one for one in runs if one.config.mode == "plain" and one.config.chain[0] == plain.chain[0]]
    return same[:1] + [one for one in runs if one.config.run_id == none.run_id]
