"""The grid through papermill: ``python -m rastudy.sweep --preset digits``.

Runs every cell of the grid that is not finished, several one-thread kernels side by side; then rebuilds the tables
and executes the reading notebooks. Safe to interrupt and to repeat.
"""

import argparse
import hashlib
import json
import logging
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import nbformat
import papermill

from rastudy import boundaries, estimate, similarity
from rastudy.claims import STUDIES
from rastudy.config import ALIASES, BASELINES, Config, make_config, reader_of
from rastudy.directions import DIRECTIONS, read, runs
from rastudy.errors import CANNOT_WRITE, StudyError, command, one_of
from rastudy.files import results_folder, root, write_atomic, write_csv, write_json
from rastudy.grid import Cell, grid, merge, narrow, product
from rastudy.kernels import stop_kernels, use_warm_kernels
from rastudy.photos import write_split
from rastudy.presets import PRESETS, degradations, tasks_of
from rastudy.readme import refresh_readme
from rastudy.results import load_results
from rastudy.runs import restore_records, run_folder, write_records
from rastudy.status import show_status
from rastudy.tables import TABLES, load_table, main_table, make_tables
from rastudy.transfer import table_file

logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of settings that notebook 01 passes on and the config checks
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PUBLISHED = ("digits", "upload")  # of the notebook of transfer, what is committed executed: its defaults
WIDGET = "application/vnd.jupyter.widget-view+json"
BOUNDARIES = "03_decision_boundaries"
READING = ("00_degradations", "02_cross_architecture", BOUNDARIES, "04_tradeoff")


def execute(notebook: Path, output: Path, parameters: dict) -> str:
    """Execute a notebook with papermill; returns an empty string, or what failed and where its notebook is.

    A run in progress is ``*.running.ipynb``, a failed one stays as ``*.failed.ipynb``.
    """
    running, failed = output.with_suffix(".running.ipynb"), output.with_suffix(".failed.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        # not papermill's own cwd, which would be that of all threads; paths are relative to where the command was given
        place = {"metadata": {"path": str(Path.cwd())}}
        papermill.execute_notebook(notebook, running, parameters, progress_bar=False, resources=place)
    except Exception as error:  # whatever a cell raised
        if running.is_file():
            os.replace(running, failed)
        if isinstance(error, OSError):  # papermill's own, of a notebook that it cannot write
            return CANNOT_WRITE.format(error)
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}\n    see {failed}"
    os.replace(running, output)
    failed.unlink(missing_ok=True)
    return ""


def run_cells(cells: list[Cell], jobs: int, log: Callable[[str], object] = print) -> dict[str, str]:
    """Execute notebook 01 for every cell that is not done, ``jobs`` at a time; returns what failed by run id."""
    failures: dict[str, str] = {}
    todo = [cell for cell in cells if not cell.is_done()]
    log(f"{len(cells)} runs, {len(cells) - len(todo)} finished, {len(todo)} to do, {jobs} at a time")
    started, total, spent = time.perf_counter(), sum(cell.cost for cell in todo), 0.0
    first = [cell for cell in todo if cell.config.mode in (*BASELINES, "plain")]
    rest = sorted((cell for cell in todo if cell not in first), key=lambda cell: -cell.cost)
    done = 0
    for stage in (sorted(first, key=lambda cell: -cell.cost), rest):
        if stage is rest and not failures:
            check_gate(cells)
        with _pool(jobs) as pool:
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


@contextmanager
def _pool(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that execute notebooks, each in a kernel of its own."""
    (root() / "runs").mkdir(parents=True, exist_ok=True)
    use_warm_kernels()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield pool
        except BaseException:  # an interruption ends at once
            stop_kernels()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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


def reading_notebooks(
    preset: str, jobs: int, data_dir: str = "", log: Callable[[str], object] = print, **parameters: object
) -> dict[str, str]:
    """Execute the reading notebooks for a preset, unless nothing they depend on has changed; returns what failed.

    ``parameters``: further ones, such as the task whose pictures are shown (of other presets than digits by default the last).

    The digits study's are refreshed in place, those of other presets go to ``runs/<preset>/notebooks``.
    """
    folder = root() / "runs" / preset / "notebooks"
    stamp, digest = folder / "stamp.json", _inputs_digest(preset)
    measured = boundaries.trained(preset)
    outputs = [folder / f"{name}.ipynb" for name in READING if measured or name != BOUNDARIES]
    if stamp.is_file() and json.loads(stamp.read_text()) == digest and all(path.is_file() for path in outputs):
        log("notebooks: up to date")
        return {}
    with _pool(jobs) as pool:
        if preset != "digits":
            parameters = {"preset": preset, "task": degradations(preset)[-1][0]} | parameters
        parameters |= {"data_dir": str(Path(data_dir).absolute())} if data_dir else {}
        own = {BOUNDARIES: {"task": measured[-1][0], "strength": measured[-1][1]}} if measured else {}
        given = {path: parameters | own.get(path.stem, {}) for path in outputs}
        futures = {path.stem: pool.submit(execute, NOTEBOOKS / path.name, path, given[path]) for path in outputs}
        problems = {name: future.result() for name, future in futures.items()}
    failures = {name: problem for name, problem in problems.items() if problem}
    if not failures:
        if preset == "digits" and root() == NOTEBOOKS.parent:
            for path in outputs:
                publish(path, NOTEBOOKS / path.name)
        write_json(stamp, _inputs_digest(preset))
    return failures


def publish(executed: Path, target: Path) -> None:
    """Put an executed notebook in the place of its source, without what changes from run to run."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.pop("papermill", None)
    for k, cell in enumerate(notebook.cells):
        cell.id = f"cell-{k}"
        if cell.cell_type == "code":  # a widget without its kernel is a line of text
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags" and value}
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    write_atomic(target, lambda p: nbformat.write(notebook, p))


def _inputs_digest(preset: str) -> dict[str, str]:
    """Digest of what the reading notebooks depend on: their sources, the package, tables and predictions."""
    sha = hashlib.sha256()
    for name in READING:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        sha.update("".join(cell.source for cell in notebook.cells).encode())
    folder = results_folder(preset)
    files = [*Path(__file__).parent.glob("*.py"), *(folder / f"{name}.csv" for name in TABLES), *folder.glob("boundary_*.csv"),
             *folder.glob("curves/*.csv")]  # fmt: skip
    for path in sorted(files):
        sha.update(path.read_bytes())
    return {"inputs": sha.hexdigest()}


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


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="digits", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument(
        "--full", action="store_true", help="the full grid: seeds, weights, source R's, controls; what else is named narrows it"
    )
    parser.add_argument("--task", nargs="*", help="only these tasks")
    parser.add_argument("--mode", nargs="*", help="only these modes and baselines")
    parser.add_argument("--seed", nargs="*", type=int, default=[-1])
    parser.add_argument("--source-arch", nargs="*", default=[""], help="R in the loss; a,b trains with both")
    parser.add_argument("--ra-weight", nargs="*", type=float, default=[-1.0])
    parser.add_argument("--processor", nargs="*", default=[""])
    parser.add_argument("--split", nargs="*", default=["val", "test"], help="val alone leaves the test pictures unread")
    parser.add_argument("--data", default="", help="folder of the pictures, where the preset needs one")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings of every run, test_images=100"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes side by side (default: the cores)")
    parser.add_argument("--direction", nargs="*", default=[], help=f"the study of transfer instead: {', '.join(DIRECTIONS)}")
    parser.add_argument("--black-box", default="tesseract", help="tesseract, service:FILE.json or function:MODULE:NAME")
    parser.add_argument("--keep-committed", action="store_true", help="take committed runs for finished, where hashes agree")
    parser.add_argument("--status", action="store_true", help="say what is done, stale, failed or to do, and stop")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    parser.add_argument("--no-notebooks", action="store_true", help="leave the reading notebooks alone")
    return parser.parse_args(arguments)


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
        modes = args.mode or [*BASELINES, *document["modes"]]
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


@command
def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
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
    try:
        failures = sweep(args, cells)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
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
    memory = max((estimate.memory_of(cell.config) for cell in todo if cell.config.mode not in BASELINES), default=0)
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
        with _pool(1) as pool:
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


if __name__ == "__main__":
    try:
        status = main()
    except SystemExit as stop:  # a signal's, or argparse's
        status = stop.code
    if status in (130, 143):  # at once: threads may still wait for kernels that have just been ended
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
