"""What of a study is done, and what the rest waits for: ``rastudy sweep --status``."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nbformat
from filelock import FileLock, Timeout

from rastudy.config import Config
from rastudy.evaluation.evaluate import is_done, is_evaluated
from rastudy.evaluation.predictions import predictions_file
from rastudy.grid import Run
from rastudy.paths import read_json, short
from rastudy.training import run_store
from rastudy.training.weights import weights_files

STATES = {  # in the order in which they are shown
    "done": "trained and evaluated with the recognisers and the code as they are",
    "committed": "finished elsewhere; --keep-committed takes it as done where its hashes agree",
    "kept": "its predictions are here and in the tables, its weights are not; the sweep would train it anew",
    "stale": "made from other settings, recognisers or code than there are now",
    "failed": "its notebook ended with an error",
    "running": "another process trains it",
    "begun": "interrupted; the sweep goes on from there",
    "to do": "nothing is there yet",
}


class State(NamedTuple):
    """One of ``STATES``, and why."""

    name: str
    why: str = ""


def state_of(run: Run) -> State:
    """How far a run of the grid is; reads, and changes nothing."""
    config, folder = run.config, run_store.run_folder(run.config)
    if is_done(run):
        changed = changed_code(config, run.splits)
        return _stale(f"{', '.join(changed)} changed since", config) if changed else State("done")
    if _is_locked(folder):
        return State("running")
    failed = folder / "01_train.failed.ipynb"
    if failed.is_file():
        return State("failed", f"{_error_of(failed)}; see {short(failed)}")
    parts = [part for one in config.chain for part in weights_files(one)] if not config.is_baseline else []
    if not all(part.is_file() for part in parts) and all(predictions_file(config, split).is_file() for split in run.splits):
        return State("kept")
    recorded = run_store.in_record(run_store.records_file(config.preset))
    if not folder.is_dir() and config.run_id in run_store.read_records(recorded):
        return State("committed")
    for one in config.chain if parts else ():
        if not run_store.is_trained(one) and (run_store.run_folder(one) / "trained.json").is_file():
            other = run_store.other_settings(one, run_store.inputs_of(one))
            return _stale(other or "its weights are not what its training produced", one)
    if any(run_store.checkpoint_file(one).is_file() and not run_store.is_trained(one) for one in config.chain):
        return State("begun")
    unread = [split for split in run.splits if not is_evaluated(config, split)]
    if any((folder / f"{split}.json").is_file() for split in unread):
        why = "read other pictures, or was read by other recognisers, or its files changed"
        return State("stale", f"{why}; the sweep reads it anew")
    return State("begun", f"not evaluated on {', '.join(unread)}") if parts and run_store.is_trained(config) else State("to do")


def _stale(why: str, run: Config) -> State:
    return State("stale", f"{why}; delete {short(run_store.run_folder(run))} to make it anew")


def changed_code(config: Config, splits: tuple[str, ...]) -> list[str]:
    """The modules whose code is not what a finished run was made with, as far as its markers tell."""
    files: dict[Path, tuple[str, ...]] = {run_store.run_folder(config) / f"{split}.json": run_store.READ_BY for split in splits}
    if not config.is_baseline:
        files |= {run_store.run_folder(run) / "trained.json": run_store.TRAINED_BY for run in config.chain}
    pairs = ((read_json(path).get("code", {}), run_store.code_versions(modules)) for path, modules in files.items())
    changed = {name for then, now in pairs for name in then if then[name] != now.get(name)}
    return sorted(f"{name.replace('.', '/')}.py" for name in changed)


def show_status(runs: list[Run], log: Callable[[str], object] = print) -> None:
    """Every state with its number of runs, and below it those that want a look."""
    states = {run.config.run_id: state_of(run) for run in runs}
    for name, meaning in STATES.items():
        mine = {run: state.why for run, state in states.items() if state.name == name}
        if mine:
            log(f"{name:10s}{len(mine):5d}  {meaning}")
        for run, why in mine.items() if name not in ("done", "committed", "kept", "to do") else ():
            log(f"{'':17s}{run}{': ' * bool(why)}{why}")
    log(f"{'together':10s}{len(states):5d}")


def _is_locked(folder: Path) -> bool:
    if not (folder / "lock").is_file():
        return False
    try:
        with FileLock(folder / "lock", timeout=0):
            return False
    except Timeout:
        return True


def _error_of(notebook: Path) -> str:
    """The error that ended a notebook."""
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ()) if output.output_type == "error"]
    return f"{outputs[-1].ename}: {outputs[-1].evalue}" if outputs else "it ended early"
