"""What a judgement (:mod:`rastudy.judge`) found: per picture in a file, which others may join, and as a table."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rastudy.analysis.statistics import Groups, kind_of_difference, mean_intervals
from rastudy.config import Config, make_config
from rastudy.errors import StudyError
from rastudy.evaluation import metrics
from rastudy.evaluation.predictions import load_predictions, save_predictions
from rastudy.registry import role_of

UNSEEN = "mean_unseen"  # the mean of the recognisers that no restorer had in its loss
COLUMNS = (
    "preset", "task", "strength", "restorer", "reader", "role", "top1", "top1_low", "top1_high", "reference", "gain",
    "gain_low", "gain_high", "verdict", "psnr", "psnr_change", "ssim", "db_per_point", "n_images", "n_groups",
)  # fmt: skip


class Judged(NamedTuple):
    """What was measured: recognisers by name and version, restorers by name with those in their losses, arrays.

    ``originals`` (N,) uint32: the originals' checksums. Arrays by restorer: ``hits`` (R, N) bool, ``mse`` and ``ssim`` (N,) of
    its pictures. ``reference``: of a kept judgement, the restorer that the others were compared with.
    """

    config: Config
    readers: dict[str, str]
    sources: dict[str, tuple[str, ...]]
    groups: np.ndarray
    originals: np.ndarray
    arrays: dict[str, dict[str, np.ndarray]]
    reference: str = ""

    @property
    def roles(self) -> dict[str, str]:
        """What each recogniser is to those in any restorer's loss: see :func:`rastudy.registry.role_of`."""
        sources = list(itertools.chain(*self.sources.values()))
        return {name: role_of(name, sources) for name in self.readers}

    @property
    def unseen(self) -> list[str]:
        """The recognisers that no restorer had in its loss, nor another training of them."""
        return [name for name, role in self.roles.items() if role == "unseen"]


# --- the file


def keep(judged: Judged, path: Path, reference: str) -> None:
    """Write what was measured per picture, from which the table is computed."""
    kinds = {"hits": bool, "mse": np.float32, "ssim": np.float32}
    arrays = {f"{name}.{key}": a.astype(kinds[key]) for name, found in judged.arrays.items() for key, a in found.items()}
    about = {"config": judged.config.science(), "readers": judged.readers, "sources": judged.sources, "reference": reference}
    save_predictions(path, arrays | {"group": judged.groups, "original": judged.originals}, about)


def kept(path: Path) -> Judged:
    """What :func:`keep` wrote; StudyError for any other file."""
    about, arrays = load_predictions(path) if path.suffix == ".npz" and path.is_file() else ({}, {})
    if not ({"readers", "sources", "reference"} <= about.keys() and {"group", "original"} <= arrays.keys()):
        raise StudyError(f"{path}: no kept judgement of this version; rastudy judge writes one as OUT.npz")
    by_name: dict[str, dict[str, np.ndarray]] = {name: {} for name in about["sources"]}
    groups, originals = arrays.pop("group"), arrays.pop("original")
    for key, values in arrays.items():
        name, _, what = key.rpartition(".")
        by_name.setdefault(name, {})[what] = values
    shapes = {"hits": (len(about["readers"]), len(groups)), "mse": (len(groups),), "ssim": (len(groups),)}
    if any({what: values.shape for what, values in found.items()} != shapes for found in by_name.values()):
        raise StudyError(f"{path}: damaged (its arrays do not fit its restorers and recognisers); judge again")
    sources = {name: tuple(found) for name, found in about["sources"].items()}
    said = about["config"]
    config = make_config(said["preset"], said["task"], "none", strength=said["strength"])
    return Judged(config, about["readers"], sources, groups, originals, by_name, about["reference"])


# --- the table


def table(judged: Judged, reference: str) -> pd.DataFrame:
    """Rows of ``COLUMNS``: a restorer by a recogniser, and in the mean of the unseen; top-1 and gains in percent and points.

    ``db_per_point``: the decibels, relative to the reference, that a point of gain costs; nothing unless the gain lies above 0.

    Raises:
        StudyError: no restorer of the reference's name.
    """
    if reference not in judged.arrays:
        raise StudyError(
            f"reference {reference!r} is none of the restorers: {', '.join(judged.arrays)}; name one with --reference"
        )
    groups, config, rows = Groups(judged.groups), judged.config, []
    read = {name: _by_reader(judged, name) for name in judged.arrays}
    psnr = {name: float(metrics.psnr(found["mse"]).mean()) for name, found in judged.arrays.items()}
    roles = judged.roles | {UNSEEN: UNSEEN}
    for name, hits in read.items():
        levels = mean_intervals(100 * hits, groups, differences=True)
        gains = mean_intervals(100 * (hits - read[reference]), groups, differences=True)
        change = psnr[name] - psnr[reference]
        for reader, level, gain in zip([*judged.readers, *[UNSEEN] * bool(judged.unseen)], levels, gains, strict=True):
            rows.append({
                "preset": config.preset, "task": config.task, "strength": config.strength,
                "restorer": name, "reader": reader, "role": roles[reader],
                "top1": level.value, "top1_low": level.low, "top1_high": level.high, "reference": reference,
                "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high,
                "verdict": "reference" if name == reference else kind_of_difference(gain.low, gain.high),
                "psnr": psnr[name], "psnr_change": change, "ssim": float(np.nanmean(judged.arrays[name]["ssim"])),
                "db_per_point": -change / gain.value if gain.low > 0 else float("nan"),
                "n_images": len(judged.groups), "n_groups": len(groups.sizes),
            })  # fmt: skip
    found = pd.DataFrame(rows, columns=COLUMNS)
    numbers = found.select_dtypes("float").columns
    found[numbers] = found[numbers].round(4) + 0.0
    return found


def _by_reader(judged: Judged, name: str) -> np.ndarray:
    """(N, R) hits, and in a last column those of the mean unseen recogniser, where there is one."""
    hits = judged.arrays[name]["hits"].T.astype(float)
    unseen = [list(judged.readers).index(reader) for reader in judged.unseen]
    return np.column_stack([hits, hits[:, unseen].mean(1)]) if unseen else hits


def falls_short(found: pd.DataFrame, least: float, asked: Iterable[str]) -> list[str]:
    """Those of ``asked`` whose gain for the mean unseen recogniser is not, by its whole interval, at least ``least`` points."""
    rows = found[(found["reader"] == UNSEEN) & (found["restorer"] != found["reference"]) & found["restorer"].isin(set(asked))]
    if rows.empty:
        raise StudyError("--at-least needs a restorer beside the reference, and a recogniser that no restorer had in its loss")
    return [f"{row['restorer']}: {row['gain']:+.1f} [{row['gain_low']:+.1f}, {row['gain_high']:+.1f}]"
            for _, row in rows.iterrows() if row["gain_low"] < least]  # fmt: skip
