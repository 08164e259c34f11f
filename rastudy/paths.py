"""Where files lie, and files that are never seen half-written."""

import csv
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from filelock import FileLock

from rastudy.errors import CANNOT_WRITE, StudyError

PACKAGE = Path(str(files("rastudy")))
CHECKOUT = PACKAGE.parent
WEIGHTS = PACKAGE / "weights"  # of the study's own recognisers
NOTEBOOKS = CHECKOUT / "notebooks"
BORROWED = "borrowed.txt"
ENTERED = "user_study"  # of results/<preset>: the answers of raters, which no computer makes anew
BATCH = "RASTUDY_BATCH"  # this environment variable is set where notebooks are executed with nobody before them
TABLES = {  # results/<preset>/<name>.csv, by who makes them; in the order of results/README.md
    "study": ("accuracy", "gains", "kept", "overall", "equal_cost", "several_sources", "controls", "matched", "tradeoff",
              "clean_check", "paper_vs_ours"),
    "boundaries": tuple(f"boundary_{name}" for name in ("distances", "pairs", "planes", "path", "added", "points", "explains")),
}  # fmt: skip


def is_checkout() -> bool:
    """Whether the package runs from a clone; else it was installed, and has neither notebooks nor committed results."""
    return (CHECKOUT / "pyproject.toml").is_file() and NOTEBOOKS.is_dir()


def need_checkout(what: str) -> None:
    """Raise StudyError unless the package runs from a clone."""
    if not is_checkout():
        raise StudyError(f"{what} needs a clone of the repository, not an installed package; run it there (README.md)")


def root() -> Path:
    """Where what you run puts its results/, figures/, notebooks/ and runs/: the committed ones, the record, are not touched.

    RASTUDY_ROOT names another place (the clone itself: to make the record); an installed package takes the working directory.
    """
    if given := os.environ.get("RASTUDY_ROOT", ""):
        return expand(given)
    return CHECKOUT / "runs" / "study" if is_checkout() else Path.cwd()


def beside_record() -> bool:
    """Whether the root is the default one of a clone, with the record beside it."""
    return is_checkout() and not os.environ.get("RASTUDY_ROOT")


def record_of(path: Path) -> Path:
    """The record's file for one of the root's."""
    return CHECKOUT / path.relative_to(root())


def shared() -> Path:
    """Where lies what is no result and serves every study: caches, answers that were paid for, the report."""
    return (CHECKOUT if beside_record() else root()) / "runs"


def is_record() -> bool:
    """Whether what runs now makes the record, the results that are committed."""
    return is_checkout() and root().resolve() == CHECKOUT.resolve()


def to_read(path: Path) -> Path:
    """The file to read for one of the root's: the record's, unless a study of the preset has been run here.

    Never of single files: a table does not stand beside another training's.
    """
    if not beside_record():
        return path
    _, preset, *rest = path.relative_to(root()).parts
    mine = results_folder(preset) / "gains.csv" if rest else path
    return path if mine.exists() and not _outlived(preset) else record_of(path)


def _borrowed_from(preset: str) -> str:
    """What a note in borrowed results says: a digest of the record's runs."""
    runs = record_of(results_folder(preset)) / "runs.csv"
    digest = hashlib.sha256(runs.read_bytes()).hexdigest()[:16] if runs.is_file() else "none"
    return f"The record's results, copied to compute from them; rastudy sweep replaces them.\nruns.csv: {digest}\n"


def _outlived(preset: str) -> bool:
    """Whether results here were borrowed from a record that is another one by now."""
    note = results_folder(preset) / BORROWED
    return note.is_file() and note.read_text() != _borrowed_from(preset)


def borrow(preset: str) -> None:
    """Copy the record's results of a preset to the root, to compute from them, unless a study of it was run here.

    Raises:
        StudyError: there are runs here that are no study yet, and both would mix.
    """
    mine = results_folder(preset)
    if beside_record() and _outlived(preset):
        return_borrowed(preset)
    if not beside_record() or (mine / "gains.csv").is_file() or not record_of(mine).is_dir():
        return
    if any((mine / "predictions").glob("*.npz")):
        step = f"rastudy sweep --preset {preset} makes them one, and RASTUDY_ROOT=DIR works elsewhere"
        raise StudyError(f"{mine}: these runs are no study yet, and the record's are not mixed with them; {step}")
    with updating(mine / BORROWED):
        if (mine / "gains.csv").is_file():  # another process has borrowed them meanwhile
            return
        (mine / BORROWED).write_text(_borrowed_from(preset))
        for name in ("figures", "results"):
            shutil.copytree(record_of(root() / name / preset), root() / name / preset, dirs_exist_ok=True)


def nothing_here(what: str) -> StudyError:
    """The error of a command that rebuilds what is not in the root."""
    return StudyError(f"{short(root() / 'results')} holds no {what}; RASTUDY_ROOT=. in a clone means the record's")


def return_borrowed(preset: str) -> None:
    """Remove what :func:`borrow` copied and what was computed from it, but not what people entered."""
    if (results_folder(preset) / BORROWED).is_file():
        for path in [*(root() / "figures" / preset).glob("*"), *results_folder(preset).glob("*")]:
            if path.is_dir() and path.name != ENTERED:
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()


def short(path: Path) -> Path:
    """A path as it is told: relative to the clone, or to the root."""
    path = path.absolute()
    return next((path.relative_to(one) for one in (CHECKOUT, root().absolute()) if path.is_relative_to(one)), path)


def expand(place: str | Path) -> Path:
    """The path with ``~`` replaced; StudyError where no home folder is known."""
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise StudyError(f"{place}: no home folder is known for it; write the whole path") from error


def results_folder(preset: str) -> Path:
    return root() / "results" / preset


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a temporary file beside ``path``, then rename it: no half-written file is ever seen.

    A new file's mode follows the umask, a replaced one keeps its own; of a link the target is replaced.

    Raises:
        StudyError: the disk is full, or the place cannot be written.
    """
    temporary = None
    try:
        target = path.resolve() if path.is_symlink() else path
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.with_name(f".{secrets.token_hex(8)}.tmp")
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temporary = made
        write(temporary)
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except Exception as error:  # safetensors and torch have errors of their own for a failed write
        if not (isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"):
            raise
        raise StudyError(f"{path}: {CANNOT_WRITE.format(error)}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def updating(path: Path) -> FileLock:
    """A context in which nobody else changes a file that several processes read, add to and write: no addition is lost.

    The lock lies beside the file, whatever the root; other users may take it, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"), mode=0o666)


def write_json(path: Path, value: object) -> None:
    write_atomic(path, lambda p: p.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n"))


def read_json(path: Path) -> dict:
    """A run folder's JSON; StudyError where it is missing or damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{path}: damaged ({error}); delete {path.parent} to start over") from error
    if not isinstance(value, dict):
        raise StudyError(f"{path}: damaged (no JSON object); delete {path.parent} to start over")
    return value


def write_csv(path: Path, rows: Iterable[Mapping], columns: Iterable[str]) -> None:
    """Write rows as CSV; numbers as repr gives them, so that reading gives the same floats. A file with that content stays."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode(errors="surrogateescape")  # names of files may be no UTF-8
    if not (path.is_file() and path.read_bytes() == content):
        write_atomic(path, lambda p: p.write_bytes(content))
