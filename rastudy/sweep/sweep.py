"""The grid through papermill: ``rastudy sweep --preset digits``.

Runs every cell of the grid that is not finished, several one-thread kernels side by side; then rebuilds the tables
and executes the reading notebooks. Safe to interrupt and to repeat.
"""

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from rastudy import registry
from rastudy.analysis.grid import Cell, grid, merge, narrow, product
from rastudy.analysis.tables import TABLES, load_table, main_table, make_tables
from rastudy.boundaries import measure as boundaries
from rastudy.boundaries import tables as similarity
from rastudy.config import Config, make_config, reader_of
from rastudy.data.loaders import write_split
from rastudy.errors import StudyError, one_of
from rastudy.evaluation.predictions import load_results
from rastudy.paths import NOTEBOOKS, results_folder, root, write_csv
from rastudy.presets import PRESETS, tasks_of
from rastudy.registry import ALIASES
from rastudy.report.claims import STUDIES
from rastudy.report.notebooks import execute, kernel_pool, publish, reading_notebooks
from rastudy.report.results_page import refresh_readme
from rastudy.sweep import cost as estimate
from rastudy.sweep.status import show_status
from rastudy.training.run_store import restore_records, run_folder, write_records
from rastudy.transfer.directions import read, runs
from rastudy.transfer.tables import table_file

PUBLISHED = ("digits", "upload")  # of the notebook of transfer, what is committed executed: its defaults


def run_cells(cells: list[Cell], jobs: int, log: Callable[[str], object] = print) -> dict[str, str]:
    """Execute notebook 01 for every cell that is not done, ``jobs`` at a time; returns what failed by run id."""
    failures: dict[str, str] = {}
    todo = [cell for cell in cells if not cell.is_done()]
    log(f"{len(cells)} runs, {len(cells) - len(todo)} finished, {len(todo)} to do, {jobs} at a time")
    started, total, spent = time.perf_counter(), sum(cell.cost for cell in todo), 0.0
    first = [cell for cell in todo if cell.config.mode in (*registry.modes("baseline"), "plain")]
    rest = sorted((cell for cell in todo if cell not in first), key=lambda cell: -cell.cost)
    done = 0
    for stage in (sorted(first, key=lambda cell: -cell.cost), rest):
        if stage is rest and not failures:
            check_gate(cells)
        with kernel_pool(jobs) as pool:
            futures: dict[Future, tuple[Cell, float]] = {}
            queue = list(stage)
            while queue or futures:
                while queue and len(futures) < jobs:
                    cell = queue.pop(0)
                    output = run_folder(cell.config) / "01_train.ipynb"
                    future = pool.submit(execute, NOTEBOOKS / "01_train.ipynb", output, cell.parameters)
                    futures[future] = cell, time.perf_counter()
                finished, _ = wait(futures, return_when=FIRST_COMPLETED)
                for future in finished:
                    cell, begun = futures.pop(future)
                    problem = future.result()
                    if not problem and not cell.is_done():
                        problem = "the notebook ended, but the run is not finished"
                    if problem:
                        failures[cell.config.run_id] = problem
                    else:
                        write_records(cell.config)
                    done, spent = done + 1, spent + cell.cost
                    now = time.perf_counter()
                    left = (now - started) / spent * (total - spent) / 60
                    state = "FAILED" if problem else "done"
                    log(f"[{done}/{len(todo)}] {cell.config.run_id} {state} in {now - begun:.0f} s, {left:.1f} min left")
    return failures


def check_gate(cells: list[Cell]) -> None:
    """Raise StudyError unless every plain P beats ``none`` by the preset's gate on validation."""
    gate = PRESETS[cells[0].config.preset]["gate_db"]
    plain = [cell.config for cell in cells if cell.config.mode == "plain"]
    if gate is None or not plain:
        return
    table = load_results(plain[0].preset)
    psnr = table[(table["metric"] == "psnr") & (table["split"] == "val")].set_index("run_id")["value"]
    for config in plain:
        none = make_config(config.preset, config.task, "none", strength=config.strength).run_id
        if none in psnr and config.run_id in psnr and psnr[config.run_id] < psnr[none] + gate:
            raise StudyError(
                f"{config.run_id}: {psnr[config.run_id]:.2f} dB on validation does not beat no processing "
                f"({psnr[none]:.2f} dB) by {gate} dB; train longer before any RA run"
            )


def summary(preset: str, seconds: dict[str, float], log: Callable[[str], object] = print) -> None:
    """The main table, the time of each part, and the paths of what was written."""
    log("\n" + main_table(preset).to_string() + "\n")
    for part, value in seconds.items():
        log(f"{part:28s} {value / 60:6.1f} min")
    folder = results_folder(preset).relative_to(root())
    log(f"tables:     {', '.join(f'{folder}/{name}.csv' for name in TABLES)}")
    log(f"evidence:   {folder}/runs, {folder}/predictions, {folder}/weights, {folder}/curves")
    log(f"figures:    figures/{preset}")
    log(f"notebooks:  {'notebooks' if preset == 'digits' else f'runs/{preset}/notebooks'}; runs' own: runs/{preset}")


def write_timings(preset: str, seconds: dict[str, float], jobs: int) -> None:
    """Wall-clock figures have a file of their own, since no two runs agree on them."""
    machine = f"{jobs} processes on {os.cpu_count()} cores ({platform.machine()})"
    rows = [{"part": part, "minutes": round(value / 60, 1), "machine": machine} for part, value in seconds.items()]
    write_csv(results_folder(preset) / "timings.csv", rows, ("part", "minutes", "machine"))


def select(args: argparse.Namespace) -> list[Cell]:
    """The cells that the command line asks for: a product of what it names, or with ``--full`` that part of the full grid."""
    one_of("preset", args.preset, PRESETS)
    for split in args.split:
        one_of("split", split, ("val", "test"))
    for task in args.task or ():
        one_of("task", task, tasks_of(args.preset))
    overrides = {"data_dir": args.data, "device": args.device} | settings_from(args.set)
    axes = {"seeds": args.seed, "sources": args.source_arch, "weights": args.ra_weight, "processors": args.processor}
    if args.direction:
        found = [cell for name in args.direction for cell in runs(args.preset, name, args.data, args.black_box)]
        return [cell for cell in merge(found) if not args.task or cell.config.task in args.task]
    document = PRESETS[args.preset]
    named = {"task": args.task, "mode": [ALIASES.get(mode, mode) for mode in args.mode or ()], "seed": args.seed,
             "source_arch": args.source_arch, "ra_weight": args.ra_weight, "processor": args.processor}  # fmt: skip
    named = {name: values for name, values in named.items() if values and values[0] not in (-1, "")}
    if named and not args.full:
        modes = args.mode or [*registry.modes("baseline"), *document["modes"]]
        cells = merge(product(args.preset, args.task or (), modes, **axes, **overrides))
    else:
        cells = narrow(grid(args.preset, args.full, **overrides), named)
    cells = [Cell(cell.config, tuple(split for split in cell.splits if split in args.split)) for cell in cells]
    return [cell for cell in cells if cell.splits]


def settings_from(pairs: list[str]) -> dict[str, object]:
    """``NAME=VALUE`` as the config's types; StudyError for anything else."""
    kinds, values = {field.name: field.type for field in fields(Config)}, {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        one_of("--set", name, sorted(kinds))
        try:
            values[name] = reader_of(name)(text)
        except ValueError as error:
            raise StudyError(f"--set {pair}: {text!r} is no {kinds[name].__name__}") from error
    return values


def sweep_command(args: argparse.Namespace) -> int:
    cells = select(args)
    if args.keep_committed:
        for cell in cells:
            restore_records(cell.config)
    if args.status:
        show_status(cells)
        return 0
    if args.dry_run:
        dry_run(cells, args.jobs)
        if "black_box" in args.direction:
            calls = read(args.preset, "black_box", args.data, black_box=args.black_box, counting=True)
            print(f"{args.black_box}: {calls} calls, one a picture that it has not answered yet", file=sys.stderr)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failures = sweep(args, cells)
    for name, problem in failures.items():
        print(f"failed: {name}\n    {problem}", file=sys.stderr)
    return 1 if failures else 0


def dry_run(cells: list[Cell], jobs: int) -> None:
    """Say what would run, and what it costs: operations counted, seconds from a few timed steps on this machine."""
    todo = [cell for cell in cells if not cell.is_done()]
    total = estimate.Cost(0, 0)
    for cell in cells:
        if cell not in todo:
            print(f"done   {cell.config.run_id}  {'+'.join(cell.splits)}")
            continue
        cost = estimate.cost_of_run(cell.config, cell.splits)
        total += cost
        what = f"{cost.operations:.1e} operations, {cost.seconds / 60:.1f} min"
        print(f"to do  {cell.config.run_id}  {'+'.join(cell.splits)}  {what}")
    memory = max((estimate.memory_of(cell.config) for cell in todo if not cell.config.is_baseline), default=0)
    hours = total.seconds / 3600
    print(
        f"{len(todo)} runs of {len(cells)}, {total.operations:.1e} operations; about {hours:.1f} hours of one process here, "
        f"{hours / jobs:.1f} with {jobs} side by side; up to {memory / 1e9:.1f} GB of memory a process for a training step, "
        f"{estimate.disk_of(cell.config for cell in todo) / 1e9:.2f} GB of disk",
        file=sys.stderr,
    )


def sweep(args: argparse.Namespace, cells: list[Cell]) -> dict[str, str]:
    """Run the cells, rebuild the tables, execute the reading notebooks, and say what was found; returns what failed."""
    if cells and cells[0].config.of_photographs:
        write_split(cells[0].config)
    seconds, fresh = {}, not any(cell.is_done() for cell in cells)
    with timed(seconds, "training and evaluation"):
        failures = run_cells(cells, args.jobs, log=_say)
    if failures:
        return failures
    with timed(seconds, "tables"):
        make_tables(args.preset)
    if "test" not in args.split:
        chosen = load_table(args.preset, "tradeoff").query("chosen")[["task", "strength", "mode", "ra_weight", "psnr_change"]]
        _say(f"\nchosen on validation:\n{chosen.to_string(index=False)}")
        return {}
    if args.direction:
        return transfers(args)
    if not args.no_notebooks:
        config = cells[-1].config
        if keys := boundaries.trained(args.preset):  # of the last task alone, or of all
            with timed(seconds, "decision boundaries"):
                where = {"data_dir": args.data, "cache_dir": config.cache_dir}
                similarity.update(args.preset, keys if args.full else keys[-1:], args.full, args.jobs, log=_say, **where)
        with timed(seconds, "notebooks and figures"):
            shown = {"task": config.task, "cache_dir": config.cache_dir} if config.of_photographs else {}
            failures = reading_notebooks(args.preset, args.jobs, args.data, log=_say, **shown)
        if failures:
            return failures
    if fresh and not args.full:
        write_timings(args.preset, seconds, args.jobs)
    if args.preset in STUDIES and root() == NOTEBOOKS.parent:
        refresh_readme()
    summary(args.preset, seconds, log=_say)
    return {}


def transfers(args: argparse.Namespace) -> dict[str, str]:
    """Read every direction, several processes side by side, and execute its notebook; returns what failed."""
    failures = {}
    for direction in args.direction:
        read(args.preset, direction, args.data, args.jobs, args.black_box, log=_say)
        output = root() / "runs" / args.preset / "notebooks" / f"05_transfer_{direction}.ipynb"
        given = {"preset": args.preset, "direction": direction, "black_box": args.black_box}
        given |= {"data_dir": str(Path(args.data).absolute())} if args.data else {}
        with kernel_pool(1) as pool:
            problem = pool.submit(execute, NOTEBOOKS / "05_transfer.ipynb", output, given).result()
        if problem:
            failures[direction] = problem
        else:
            _say(f"{direction}: {table_file(args.preset, direction).relative_to(root())}, {output.relative_to(root())}")
            if (args.preset, direction) == PUBLISHED and root() == NOTEBOOKS.parent:
                publish(output, NOTEBOOKS / "05_transfer.ipynb")
    return failures


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - started


def _say(line: str) -> None:
    print(line, flush=True)
