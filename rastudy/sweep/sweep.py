"""A study from end to end: the grid through papermill, then tables, boundaries and the reading notebooks.

Runs every run of the grid that is not finished, several one-thread kernels side by side. Safe to interrupt and to repeat.
"""

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import torch

from rastudy.analysis.replication import replicate, shown, told, write_constraints
from rastudy.analysis.tables import TABLES, TIMINGS, load_table, main_table, make_tables
from rastudy.boundaries import measure as boundaries
from rastudy.boundaries import tables as similarity
from rastudy.config import Config
from rastudy.data.degradations import round_to_8_bits
from rastudy.data.imagenet import write_split
from rastudy.data.loaders import evaluation_batches, load_pictures
from rastudy.evaluation.evaluate import is_done
from rastudy.evaluation.metrics import mse_per_image, psnr
from rastudy.evaluation.predictions import load_predictions, predictions_file
from rastudy.grid import Run, in_order, is_first, merge, select
from rastudy.models.processors import apply_processor
from rastudy.paths import NOTEBOOKS, expand, is_record, results_folder, return_borrowed, root, short, write_csv
from rastudy.presets import PRESETS, degradations
from rastudy.registry import names_in
from rastudy.report.claims import STUDIES
from rastudy.report.document import refresh
from rastudy.report.notebooks import execute, kernel_pool, publish, reading_notebooks
from rastudy.sweep import cost
from rastudy.sweep.status import show_status
from rastudy.training.run_store import is_trained, merge_records, restore_records, run_folder
from rastudy.training.weights import load_models
from rastudy.transfer.black_box import open_black_box
from rastudy.transfer.directions import runs
from rastudy.transfer.read import read_direction
from rastudy.transfer.tables import make_table, table_file

PUBLISHED = ("digits", "datasets")  # preset and direction of the transfer notebook's committed, executed copy


def sweep_command(args: argparse.Namespace) -> int:
    of_directions = [run for name in args.direction for run in runs(args.preset, name, args.data, args.black_box)]
    asked = select(args, of_directions)
    for box in names_in(args.black_box) if "black_box" in args.direction else ():  # what it lacks is said before any training
        open_black_box(box)
    if args.keep_committed:
        restore_records(run.config for run in asked)
    if args.list:
        print("\n".join(run.config.run_id for run in in_order(asked)))
    elif args.status:
        show_status(asked)
    elif args.dry_run:
        dry_run(args, asked)
    else:
        if not args.keep_committed:
            return_borrowed(args.preset)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        failures = run_all(asked, args.jobs, _say) if args.run else sweep(args, asked)
        for name, problem in failures.items():
            print(f"failed: {name}\n    {problem}", file=sys.stderr)
        return int(bool(failures))
    return 0


# --- running them


def dry_run(args: argparse.Namespace, asked: list[Run]) -> None:
    """Say what would run, and what it costs: operations counted, seconds from a few timed steps on this machine."""
    todo, total = [], cost.Cost(0, 0)
    for run in asked:
        name, splits = run.config.run_id, "+".join(run.splits)
        if is_done(run):
            print(f"done   {name}  {splits}")
            continue
        todo.append(run.config)
        one = cost.cost_of_run(run.config, run.splits)
        total += one
        print(f"to do  {name}  {splits}  {one.operations:.1e} operations, {one.seconds / 60:.1f} min", flush=True)
    memory = max((cost.memory_of(config) for config in todo if not config.is_baseline), default=0)
    hours = total.seconds / 3600
    print(
        f"{len(todo)} runs of {len(asked)}, {total.operations:.1e} operations; about {hours:.1f} hours of one process here, "
        f"{hours / args.jobs:.1f} with {args.jobs} side by side; up to {memory / 1e9:.1f} GB of memory a process for a "
        f"training step, {cost.disk_of(todo) / 1e9:.2f} GB of disk",
        file=sys.stderr,
    )
    if "black_box" in args.direction:
        calls = read_direction(args.preset, "black_box", args.data, black_box=args.black_box, counting=True)
        print(f"{args.black_box}: {calls} calls, one per picture that it has not answered yet", file=sys.stderr)


def run_all(asked: list[Run], jobs: int, log: Callable[[str], object] = print) -> dict[str, str]:
    """Execute notebook 01 for every run that is not done, ``jobs`` at a time; returns what failed by run id."""
    failures: dict[str, str] = {}
    todo = in_order([run for run in asked if not is_done(run)])
    log(f"{len(asked)} runs, {len(asked) - len(todo)} finished, {len(todo)} to do, {jobs} at a time")
    started, total, spent, done = time.perf_counter(), sum(run.cost for run in todo), 0.0, 0
    for first in (True, False):
        now = [run for run in todo if is_first(run) == first]
        closed = {run.config.run_id: problem for run in now if (problem := gate_problem(run.config))}
        failures |= closed
        with kernel_pool(jobs) as pool:
            futures = {pool.submit(_run_one, run): run for run in now if run.config.run_id not in closed}
            for future in as_completed(futures):
                run, (problem, seconds) = futures[future], future.result()
                if problem:
                    failures[run.config.run_id] = problem
                done, spent = done + 1, spent + run.cost
                left = (time.perf_counter() - started) / spent * (total - spent) / 60
                state = "FAILED" if problem else "done"
                log(f"[{done}/{len(todo)}] {run.config.run_id} {state} in {seconds:.0f} s, {left:.1f} min left")
    return failures


def _run_one(run: Run) -> tuple[str, float]:
    """What failed (an empty string where nothing did), and seconds."""
    started = time.perf_counter()
    problem = execute(NOTEBOOKS / "01_train.ipynb", run_folder(run.config) / "01_train.ipynb", run.parameters)
    if not problem and not is_done(run):
        problem = "the notebook ended, but the run is not finished"
    return problem, time.perf_counter() - started


def gate_runs(config: Config) -> list[Config]:
    """No processing and plain, which a run's gate compares on validation; none for a run without a gate.

    A gate keeps RA from being trained beside a plain P that does not restore.
    """
    if PRESETS[config.preset]["gate_db"] is None or config.is_baseline or config.mode == "plain":
        return []
    return [replace(config, mode=mode) for mode in ("none", "plain")]


def _read_at_home(config: Config) -> bool:
    """Whether recognisers read the run's own validation pictures; else (transfer's data sets) its gate measures P alone."""
    return config.dataset == PRESETS[config.preset]["dataset"]


def with_gates(asked: list[Run]) -> list[Run]:
    """The runs, and what their gates need and has not been read."""
    needed = [config for run in asked if _read_at_home(run.config) for config in gate_runs(run.config)]
    return merge([*asked, *(Run(one, ("val",)) for one in needed if not predictions_file(one, "val").is_file())])


def gate_problem(config: Config) -> str:
    """Why a run's gate stays closed; empty where it opens."""
    compared, home = gate_runs(config), _read_at_home(config)
    there = [predictions_file(one, "val").is_file() if home else one.is_baseline or is_trained(one) for one in compared]
    if missing := [one.run_id for one, found in zip(compared, there, strict=True) if not found]:
        return f"its gate compares {' and '.join(missing)} on validation, which has not been read; run that first"
    if compared:
        gate = PRESETS[config.preset]["gate_db"]
        before, after = map(_psnr_of_predictions if home else psnr_on_validation, compared)
        if not after >= before + gate:
            return (
                f"{compared[1].run_id}: {after:.2f} dB on validation does not beat no processing ({before:.2f} dB) by {gate} "
                "dB; train longer before any RA run"
            )
    return ""


def _psnr_of_predictions(config: Config) -> float:
    return psnr(load_predictions(predictions_file(config, "val")).arrays["mse"]).mean()


@cache
@torch.inference_mode()
def psnr_on_validation(config: Config) -> float:
    """The mean PSNR in dB of a run's validation pictures as its P gives them, rounded to 8 bits; nobody reads them."""
    torch.set_num_threads(config.threads)
    processor = None if config.is_baseline else load_models(config)[0]
    errors = []
    for batch in evaluation_batches(load_pictures(config, "val"), config):
        lq, gt = (pictures.to(config.torch_device()) for pictures in (batch.lq, batch.gt))
        errors.append(mse_per_image(round_to_8_bits(apply_processor(processor, lq, gt, config)), gt).cpu())
    return float(psnr(torch.cat(errors).numpy()).mean())


# --- the whole study


def sweep(args: argparse.Namespace, asked: list[Run]) -> dict[str, str]:
    """Run the asked, rebuild the tables, execute the reading notebooks, and say what was found; returns what failed."""
    asked = with_gates(asked)
    if asked:
        write_split(asked[0].config)
    seconds: dict[str, float] = {}
    fresh = not any(is_done(run) for run in asked)
    with timed(seconds, "training and evaluation"):
        failures = run_all(asked, args.jobs, _say)
    if failures:
        merge_records(args.preset)
        return failures
    with timed(seconds, "tables"):
        make_tables(args.preset)
    if "test" not in args.split:
        names = ["task", "strength", "mode", "ra_weight", "transformer_lr", "psnr_change", "stability"]
        chosen = load_table(args.preset, "tradeoff").query("chosen")[names]
        _say(f"\nchosen on validation:\n{chosen.to_string(index=False)}")
        return {}
    if args.direction:
        return transfers(args, {run.config.run_id for run in asked})
    if not args.no_notebooks:
        if failures := _read_notebooks(args, asked[-1].config, seconds):
            return failures
    if fresh and not args.full:
        write_timings(args.preset, seconds, args.jobs)
    if args.preset in STUDIES and is_record():
        refresh()
        write_constraints()
    summary(args.preset, seconds, _say)
    if len(found := replicate(args.preset)):
        _say(f"\nbeside the record:\n{shown(found)}\n\n{told(found)}")
    return {}


def _read_notebooks(args: argparse.Namespace, config: Config, seconds: dict[str, float]) -> dict[str, str]:
    """Measure the boundaries (of the last task alone, or with ``--full`` of all) and execute the reading notebooks."""
    if keys := boundaries.trained(args.preset):
        with timed(seconds, "decision boundaries"):
            where = {"data_dir": args.data, "cache_dir": config.cache_dir}
            similarity.update(args.preset, keys if args.full else keys[-1:], args.full, args.jobs, log=_say, **where)
    with timed(seconds, "notebooks and figures"):
        shown = {"task": config.task, "cache_dir": config.cache_dir} if config.of_photographs else {}
        if config.task != degradations(args.preset)[-1][0]:  # a part of the grid without the task that notebooks show
            shown = {"task": config.task} | shown
        return reading_notebooks(args.preset, args.jobs, args.data, log=_say, **shown)


def transfers(args: argparse.Namespace, asked: set[str]) -> dict[str, str]:
    """Have every direction's readers read the runs that were asked for, and execute its notebook; returns what failed."""
    failures = {}
    for direction in args.direction:
        read_direction(args.preset, direction, args.data, args.jobs, args.black_box, only=asked, log=_say)
        if {run.config.run_id for run in runs(args.preset, direction, args.data, args.black_box)} - asked:
            _say(f"{direction}: {short(make_table(args.preset, direction, args.black_box))}; its notebook waits for the rest")
            continue
        output = root() / "runs" / args.preset / "notebooks" / f"05_transfer_{direction}.ipynb"
        given = {"preset": args.preset, "direction": direction, "black_box": args.black_box}
        given |= {"data_dir": str(expand(args.data).absolute())} if args.data else {}
        with kernel_pool(1) as pool:
            problem = pool.submit(execute, NOTEBOOKS / "05_transfer.ipynb", output, given).result()
        if problem:
            failures[direction] = problem
            continue
        _say(f"{direction}: {short(table_file(args.preset, direction))}, {short(output)}")
        if (args.preset, direction) == PUBLISHED:
            publish(output, root() / "notebooks" / "05_transfer.ipynb")
    return failures


def summary(preset: str, seconds: dict[str, float], log: Callable[[str], object] = print) -> None:
    """The main table, the time of each part, and the paths of what was written."""
    found = main_table(preset)
    none = f"no run has {preset}'s own settings; accuracy.csv and gains.csv have what was run"
    log(f"\n{found.to_string() if len(found) else none}\n")
    for part, value in seconds.items():
        log(f"{part:28s} {value / 60:6.1f} min")
    folder = short(results_folder(preset))
    log(f"tables:     {', '.join(f'{folder}/{name}.csv' for name in ('runs', *TABLES))}")
    log(f"evidence:   {folder}/predictions, {folder}/weights, {folder}/curves.csv, {folder}/records.json")
    log(f"figures:    {short(root() / 'figures' / preset)}")
    read = root() / ("notebooks" if preset == "digits" else f"runs/{preset}/notebooks")
    log(f"notebooks:  {short(read)}; runs' own: {short(root() / 'runs' / preset)}")


def write_timings(preset: str, seconds: dict[str, float], jobs: int) -> None:
    """Wall-clock times have a file of their own, since no two runs agree on them."""
    machine = f"{jobs} processes on {os.cpu_count()} cores ({platform.machine()})"
    rows = [{"part": part, "minutes": round(value / 60, 1), "machine": machine} for part, value in seconds.items()]
    write_csv(results_folder(preset) / "timings.csv", rows, TIMINGS)


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - started


def _say(line: str) -> None:
    print(line, flush=True)
