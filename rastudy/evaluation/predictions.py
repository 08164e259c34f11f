"""Results as data: predictions per picture, tidy CSVs, and the tables that are computed from them.

``results/<preset>/predictions/<run_id>.<split>.npz`` is the evidence; everything else here is derived from it.
"""

import dataclasses
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rastudy.config import NOT_APPLICABLE, Config
from rastudy.errors import StudyError
from rastudy.evaluation import metrics
from rastudy.paths import results_folder, write_atomic

COLUMNS = (
    "run_id", "preset", "dataset", "split", "task", "strength", "mode", "processor", "source_arch", "ra_weight", "labels",
    "seed", "pretrain_epochs", "epochs", "target_arch", "target_weights", "metric", "value", "n_images", "n_groups",
)  # fmt: skip
# columns of numbers and of yes or no, in every table that has them
NUMBERS = re.compile(r"(.+_)?(value|low|high|p|p_holm|sd|psnr|ssim|minutes)|psnr_change|n_(images|groups|seeds)|within_seeds")
FLAGS = ("main", "primary", "chosen", "same_bits")
KEY = ("run_id", "split", "target_arch", "target_weights", "metric")


class Predictions(NamedTuple):
    """``about``: settings, split, target R's and provenance; ``arrays``: see :func:`rastudy.evaluation.evaluate.predict`."""

    about: dict
    arrays: dict[str, np.ndarray]

    @property
    def targets(self) -> list[str]:
        return list(self.about["targets"])

    def hits(self, k: int = 1) -> np.ndarray:
        """(R, N) bool: is the label among R's first ``k`` classes?"""
        return metrics.hits(self.arrays["top5"], self.arrays["label"], k)

    def hits_float(self) -> np.ndarray | None:
        """(R, N) bool: is the label R's first class where P's floats are not rounded to 8 bits? None where it was not asked."""
        floats = self.arrays.get("top1_float")
        return None if floats is None else floats == self.arrays["label"]


def predictions_file(config: Config, split: str) -> Path:
    return results_folder(config.preset) / "predictions" / f"{config.run_id}.{split}.npz"


def results_file(preset: str) -> Path:
    """The CSV of every run's :func:`tidy_rows`."""
    return results_folder(preset) / "runs.csv"


def save_predictions(path: Path, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Write an npz without pickles; the same content gives the same bytes."""
    buffer = io.BytesIO()
    content: dict[str, Any] = {"about": np.array(json.dumps(about, sort_keys=False))} | arrays
    np.savez_compressed(buffer, **content)
    write_atomic(path, lambda p: p.write_bytes(buffer.getvalue()))


def load_predictions(path: Path) -> Predictions:
    """Read what :func:`save_predictions` wrote; StudyError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        arrays = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in arrays.items()}
        return Predictions(json.loads(str(arrays.pop("about"))), arrays)
    except FileNotFoundError as error:
        raise StudyError(f"{path}: no such predictions; run rastudy sweep first") from error
    except Exception as error:  # zip, zlib, header and JSON errors alike mean damage
        raise StudyError(f"{path}: damaged predictions ({error}); the sweep makes them anew") from error


def load_run(path: Path) -> Predictions:
    """A run's predictions; StudyError for a file of another kind or version, or with arrays that do not fit together."""
    about, arrays = found = load_predictions(path)
    fields = {field.name for field in dataclasses.fields(Config)}
    if not ({"config", "run_id", "split", "data", "targets"} <= about.keys() and {"label", "group", "top5"} <= arrays.keys()):
        raise StudyError(f"{path}: no predictions of a run; move it out of this folder")
    if strange := sorted(about["config"].keys() - fields):
        raise StudyError(f"{path}: has the settings {', '.join(strange)} of another version; its own version reads it")
    n = len(arrays["label"])
    if len(arrays["group"]) != n or arrays["top5"].shape[:2] != (len(found.targets), n):
        raise StudyError(
            f"{path}: damaged predictions (labels, groups and answers differ in number); the sweep makes them anew"
        )
    return found


def tidy_rows(predictions: Predictions) -> list[dict]:
    """A run's rows of ``COLUMNS``: one per target R and metric, image metrics under target ``-``."""
    about, arrays = predictions
    settings, n = about["config"], len(arrays["label"])
    base = {
        "run_id": about["run_id"], "preset": settings["preset"], "dataset": about["name"], "split": about["split"],
        "task": settings["task"], "strength": settings["strength"], "mode": settings["mode"],
        "processor": settings.get("processor", NOT_APPLICABLE), "source_arch": settings.get("source_arch", NOT_APPLICABLE),
        "ra_weight": settings.get("ra_weight", 0.0), "labels": settings.get("labels", "correct"),
        "seed": settings.get("seed", 0),
        "pretrain_epochs": settings.get("pretrain_epochs", 0), "epochs": settings.get("epochs", 0),
        "n_images": n, "n_groups": len(np.unique(arrays["group"])),
    }  # fmt: skip
    values = []
    for suffix in ("", "_transformed"):
        if f"mse{suffix}" in arrays and settings["mode"] != "clean":  # the clean picture has no error
            mse = arrays[f"mse{suffix}"]
            values += [
                (f"psnr{suffix}", metrics.psnr(mse).mean()),
                (f"psnr{suffix}_release", metrics.psnr_release(mse)),
            ]
            values += [(f"{name}{suffix}", arrays[f"{name}{suffix}"].mean()) for name in ("ssim", "ssim_release")]
    rows = [base | {"target_arch": "-", "target_weights": "-", "metric": m, "value": _ten_digits(v)} for m, v in values]
    hits = {"top1": predictions.hits(), "top5": predictions.hits(5), "top1_float": predictions.hits_float()}
    for metric, found in ((metric, found) for metric, found in hits.items() if found is not None):
        for (arch, weights), hit in zip(about["targets"].items(), found, strict=True):
            row = {"target_arch": arch, "target_weights": weights, "metric": metric, "value": _ten_digits(100 * hit.mean())}
            rows.append(base | row)
    return rows


def _ten_digits(value: float) -> float:
    """Ten significant digits: the last bits of a sum depend on the CPU's vector length."""
    return float(f"{value:.10g}")


def load_csv(path: Path, columns: Iterable[str] = COLUMNS, key: Iterable[str] = KEY) -> pd.DataFrame:
    """Read a results CSV; StudyError for another schema, duplicate keys or missing values."""
    table = _read(Path(path), columns, "make tables", keep_default_na=False, na_values={"value": [""]})
    if "value" in table and pd.to_numeric(table["value"], errors="coerce").isna().any():
        raise StudyError(f"{path}: its column 'value' holds something that is not a number")
    duplicates = table[table.duplicated(list(key), keep=False)]
    if len(duplicates):
        raise StudyError(f"{path}: {len(duplicates)} rows share a key, first {dict(duplicates.iloc[0][list(key)])}")
    return table


def read_table(path: Path, columns: Iterable[str], remedy: str, **kinds: type) -> pd.DataFrame:
    """A table that the study wrote; StudyError where it is missing or damaged (run ``remedy``) or has other columns."""
    table = _read(path, columns, remedy, keep_default_na=True, na_values=[""], dtype=kinds)
    for name in table.columns if len(table) else ():
        if name in FLAGS and not pd.api.types.is_bool_dtype(table[name]):
            raise StudyError(f"{path}: its column {name!r} holds something that is neither True nor False; run {remedy}")
        if NUMBERS.fullmatch(name) and not pd.api.types.is_numeric_dtype(table[name]):
            raise StudyError(f"{path}: its column {name!r} holds something that is not a number; run {remedy}")
    if twice := int(table.duplicated().sum()):
        raise StudyError(f"{path}: {twice} rows stand there twice; run {remedy}")
    return table


def _read(path: Path, columns: Iterable[str], remedy: str, **options: Any) -> pd.DataFrame:
    if not path.is_file():
        raise StudyError(f"{path}: no such table; run {remedy}")
    try:
        table = pd.read_csv(path, **options)
    except (ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        raise StudyError(f"{path}: not a readable CSV ({error})") from error
    if list(table.columns) != list(columns) or not isinstance(table.index, pd.RangeIndex):  # else a row has too many fields
        raise StudyError(f"{path}: has columns {list(table.columns)}, expected {list(columns)}")
    return table


def load_results(preset: str) -> pd.DataFrame:
    """Every tidy row of a preset; StudyError if there are none or two rows share a key."""
    if not results_file(preset).is_file():
        raise StudyError(f"{results_file(preset)}: no such table; run rastudy sweep --preset {preset}")
    return load_csv(results_file(preset))
