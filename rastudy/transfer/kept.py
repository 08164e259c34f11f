"""What a direction's readers said, per picture: one file per direction, ``results/<preset>/transfer/<direction>.npz``.

Its arrays are named ``<variant>/<run_id>/<array>``; those of the pictures alone, which all runs of a variant share,
``<variant>/<array>``. ``about`` is a JSON object: variant, run id, then as in any predictions.
While reading, each run has a file of its own under ``runs/<preset>/transfer/<direction>/<variant>/`` (not committed), so that
no two processes write the same file.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rastudy.config import Config
from rastudy.errors import StudyError
from rastudy.evaluation.predictions import Predictions, load_predictions, save_predictions
from rastudy.paths import results_folder, root, to_read, updating

Kept = dict[str, dict[str, Predictions]]  # by variant and run id
OF_PICTURES = ("label", "group")


def kept_file(preset: str, direction: str) -> Path:
    return results_folder(preset) / "transfer" / f"{direction}.npz"


def part_file(run: Config, direction: str, variant: str) -> Path:
    return root() / "runs" / run.preset / "transfer" / direction / variant / f"{run.run_id}.npz"


def load_part(path: Path) -> Predictions | None:
    """A run's own file; None where it is not there, which another process may have merged a moment ago."""
    try:
        return load_predictions(path)
    except StudyError:
        if path.is_file():
            raise
        return None


def load_kept(preset: str, direction: str) -> Kept:
    """What has been read; empty where nothing has, StudyError where the file is damaged."""
    path = to_read(kept_file(preset, direction))
    if not path.is_file():
        return {}
    abouts, arrays = load_predictions(path)
    found = {name: {run_id: Predictions(about, {}) for run_id, about in runs.items()} for name, runs in abouts.items()}
    for key, array in arrays.items():
        variant, *run_id, name = key.split("/")
        for one in run_id or found[variant]:
            found[variant][one].arrays[name] = array
    return found


def save_kept(preset: str, direction: str, kept: Kept) -> Path:
    """Write a direction's file; the same content gives the same bytes, in whatever order it was read."""
    abouts: dict[str, dict] = {}
    arrays: dict[str, np.ndarray] = {}
    for variant, runs in sorted(kept.items()):
        abouts[variant] = {run_id: runs[run_id].about for run_id in sorted(runs)}
        first = next(iter(runs.values())).arrays
        same = [name for name in OF_PICTURES if all(np.array_equal(run.arrays[name], first[name]) for run in runs.values())]
        arrays |= {f"{variant}/{name}": first[name] for name in same}
        for run_id in abouts[variant]:
            own = sorted(runs[run_id].arrays.items())
            arrays |= {f"{variant}/{run_id}/{name}": array for name, array in own if name not in same}
    path = kept_file(preset, direction)
    save_predictions(path, arrays, abouts)
    return path


def keep_parts(preset: str, direction: str, parts: Iterable[tuple[str, Path]]) -> None:
    """Merge new parts, by variant, into a direction's file and delete them; what was not read now stays."""
    if not (parts := list(parts)):
        return
    with updating(kept_file(preset, direction)):
        new = [(variant, path, part) for variant, path in parts if (part := load_part(path))]
        kept = load_kept(preset, direction)
        for variant, _, predictions in new:
            kept.setdefault(variant, {})[predictions.about["run_id"]] = predictions
        save_kept(preset, direction, kept)
        for _, path, _ in new:
            path.unlink(missing_ok=True)
