"""Notebooks executed by papermill: one run's, and the reading notebooks of a study."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import papermill

from rastudy.analysis.tables import TABLES
from rastudy.boundaries import measure as boundaries
from rastudy.errors import told
from rastudy.paths import NOTEBOOKS, PACKAGE, expand, is_record, need_checkout, results_folder, root, write_atomic, write_json
from rastudy.presets import degradations
from rastudy.report.kernels import stop_kernels, use_warm_kernels

logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of settings that notebook 01 passes on and the config checks
WIDGET = "application/vnd.jupyter.widget-view+json"
BOUNDARIES = "03_decision_boundaries"
READING = ("00_degradations", "02_cross_architecture", BOUNDARIES, "04_tradeoff")
ALONE = ("06_user_study", "07_own_pictures", "09_judge")  # of the record these are executed, too
COPIES = {"cifar10": ("02_cross_architecture",)}  # other presets' executed copies beside the digits', NAME_PRESET.ipynb
NOT_STARTED = "Kernel died before replying"  # Jupyter's words


def execute(notebook: Path, output: Path, parameters: dict) -> str:
    """Execute a notebook with papermill; returns an empty string, or what failed and where its notebook is.

    A run in progress is ``*.running.ipynb``, a failed one stays as ``*.failed.ipynb``. Another process may execute the same
    one meanwhile: what is kept comes from memory, whoever has taken the file of the run in progress away.
    """
    need_checkout("executing a notebook")
    running, failed = output.with_suffix(".running.ipynb"), output.with_suffix(".failed.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        # not papermill's own cwd, which would be that of all threads; paths are relative to where the command was given
        place = {"metadata": {"path": str(Path.cwd())}}
        arguments, settings = (notebook, running, parameters), {"progress_bar": False, "resources": place}
        try:
            executed = papermill.execute_notebook(*arguments, **settings)
        except RuntimeError as error:  # Jupyter chose free ports, and another process took one of them first
            if NOT_STARTED not in str(error):
                raise
            executed = papermill.execute_notebook(*arguments, **settings)
    except Exception as error:  # whatever a cell raised
        with suppress(FileNotFoundError):
            os.replace(running, failed)
        if isinstance(error, OSError):  # papermill's own, of a notebook that it cannot write
            return told(error)
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}" + f"\n    see {failed}" * failed.is_file()
    write_atomic(output, lambda p: nbformat.write(executed, p))
    running.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    return ""


@contextmanager
def kernel_pool(jobs: int) -> Iterator[ThreadPoolExecutor]:
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


def reading_notebooks(
    preset: str, jobs: int, data_dir: str = "", log: Callable[[str], object] = print, **parameters: object
) -> dict[str, str]:
    """Execute the reading notebooks for a preset, unless nothing they depend on has changed; returns what failed.

    ``parameters``: further ones, such as the task whose pictures are shown (of other presets than digits by default the last).

    The digits study's go to ``notebooks/`` of the root (of the record: in place), others to ``runs/<preset>/notebooks``; some
    of these (``COPIES``) beside the digits', too.
    """
    folder = root() / "runs" / preset / "notebooks"
    stamp, digest = folder / "stamp.json", _inputs_digest(preset)
    measured = boundaries.trained(preset)
    names = [name for name in READING if measured or name != BOUNDARIES]
    names += ALONE if preset == "digits" and is_record() else ()
    outputs = [folder / f"{name}.ipynb" for name in names]
    if stamp.is_file() and json.loads(stamp.read_text()) == digest and all(path.is_file() for path in outputs):
        log("notebooks: up to date")
        return {}
    with kernel_pool(jobs) as pool:
        if preset != "digits":
            parameters = {"preset": preset, "task": degradations(preset)[-1][0]} | parameters
        parameters |= {"data_dir": str(expand(data_dir).absolute())} if data_dir else {}
        own = {BOUNDARIES: {"task": measured[-1][0], "strength": measured[-1][1]}} if measured else {}
        given = {path: parameters | own.get(path.stem, {}) for path in outputs}
        futures = {path.stem: pool.submit(execute, NOTEBOOKS / path.name, path, given[path]) for path in outputs}
        problems = {name: future.result() for name, future in futures.items()}
    failures = {name: problem for name, problem in problems.items() if problem}
    if not failures:
        for path in outputs:
            if preset == "digits":
                publish(path, root() / "notebooks" / path.name)
            elif path.stem in COPIES.get(preset, ()):
                publish(path, root() / "notebooks" / f"{path.stem}_{preset}.ipynb")
        write_json(stamp, _inputs_digest(preset))
    return failures


def publish(executed: Path, target: Path) -> None:
    """Put an executed notebook in the place of its source, without what changes from run to run.

    Of the record papermill's cell goes, too: it would override what a reader writes into the parameters cell.
    """
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.pop("papermill", None)
    if is_record() and (NOTEBOOKS / target.name).is_file() and not target.stem.endswith(tuple(COPIES)):
        notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
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
    for name in (*READING, *ALONE):
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        sha.update("".join(cell.source for cell in notebook.cells).encode())
    folder = results_folder(preset)
    files = [*PACKAGE.rglob("*.py"), *(folder / f"{name}.csv" for name in TABLES), *folder.glob("boundary_*.csv"),
             folder / "curves.csv"]  # fmt: skip
    for path in sorted(files):
        sha.update(path.read_bytes())
    return {"inputs": sha.hexdigest()}
