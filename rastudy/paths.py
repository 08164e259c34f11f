"""Where files lie, and files that are never seen half-written."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rastudy.errors import CANNOT_WRITE, StudyError

PACKAGE = Path(__file__).parent
CHECKOUT = PACKAGE.parent
WEIGHTS = PACKAGE / "weights"  # of the study's own recognisers
NOTEBOOKS = CHECKOUT / "notebooks"
TABLES = {  # results/<preset>/<name>.csv, by who makes them; in the order of results/README.md
    "study": ("accuracy", "gains", "kept", "overall", "equal_cost", "several_sources", "controls", "tradeoff", "clean_check",
              "paper_vs_ours"),
    "boundaries": tuple(f"boundary_{name}" for name in ("distances", "pairs", "planes", "path", "added", "points", "explains")),
}  # fmt: skip


def root() -> Path:
    """Where results/, figures/ and runs/ lie: the checkout, or the folder that RASTUDY_ROOT names."""
    return Path(os.environ.get("RASTUDY_ROOT", CHECKOUT))


def results_folder(preset: str) -> Path:
    return root() / "results" / preset


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a temporary file beside ``path``, then rename it: no half-written file is ever seen.

    Raises:
        StudyError: the disk is full, or the place cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except Exception as error:  # safetensors and torch have errors of their own for a failed write
        if not (isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"):
            raise
        raise StudyError(f"{path}: {CANNOT_WRITE.format(error)}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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
