"""Ours beside what others have published: every R's clean accuracy, and the paper's tables.

``clean_check.csv`` comes before any other table of ImageNet's: an R with other weights, another normalisation or another
order of labels reads clean pictures worse than its weights' publisher says, and no gain computed from it means anything.
"""

from collections.abc import Iterator

import pandas as pd
import torchvision

from rastudy import registry
from rastudy.analysis import statistics as stats
from rastudy.analysis.comparisons import ESTIMATE, Cell, main_key
from rastudy.models.classifiers import TORCHVISION_WEIGHTS
from rastudy.paths import CHECKOUT
from rastudy.presets import PRESETS, degradations

TOLERANCE = 0.1  # points, on the whole validation set
WHOLE = 50_000  # its pictures
CHECK = ("preset", "target_arch", "target_weights", "published", *ESTIMATE, "difference", "n_images", "flag")
PAPER = ("preset", "task", "mode", "target_arch", "paper", *ESTIMATE, "difference", "difference_low", "difference_high",
         "n_seeds", "n_images")  # fmt: skip


def published_top1(arch: str) -> float | None:
    """The top-1 in percent that torchvision publishes for an architecture's IMAGENET1K_V1 weights; None of others."""
    if arch not in torchvision.models.list_models(module=torchvision.models):
        return None
    weights = torchvision.models.get_model_weights(arch)[TORCHVISION_WEIGHTS]
    return weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]


def _top1(cell: Cell, r: int) -> tuple[float, ...]:
    """Top-1 of a cell's ``r``-th R in percent, with its interval."""
    (estimate,) = stats.mean_intervals(cell.hits.mean(0)[r][:, None] / 100, cell.groups)
    return tuple(100 * x for x in estimate)


def clean_rows(preset: str, cells: dict[tuple, Cell]) -> Iterator[dict]:
    """Every R's clean top-1 beside the published one, of presets on ImageNet.

    ``flag``: ``differs`` on the whole validation set by more than ``TOLERANCE``, and on fewer pictures where the interval lies
    below the published value (``part`` where it does not: a sample, perhaps of easy classes alone); ``unpublished``.
    """
    clean = next((cell for cell in cells.values() if cell.settings["mode"] == "clean"), None)
    if PRESETS[preset]["dataset"] != "imagenet" or clean is None:
        return
    for r, (arch, weights) in enumerate(next(iter(clean.runs.values())).about["targets"].items()):
        top1, low, high = _top1(clean, r)
        known, n = published_top1(arch), clean.hits.shape[2]
        row = {"preset": preset, "target_arch": arch, "target_weights": weights, "n_images": n, "flag": "unpublished"}
        if known is not None:
            off = abs(top1 - known) > TOLERANCE if n == WHOLE else high < known
            flag = "differs" if off else "" if n == WHOLE else "part"
            row |= {"published": known, "difference": top1 - known, "flag": flag}
        yield row | dict(zip(ESTIMATE, (top1, low, high), strict=True))


def warning(preset: str, table: pd.DataFrame) -> str:
    """What a reader must know before any other table, from a preset's ``clean_check.csv``; empty where nothing is wrong."""
    if PRESETS[preset]["dataset"] == "imagenet" and not len(table):
        return f"WARNING: nobody has read clean pictures; run rastudy sweep --preset {preset} --mode clean first."
    off = table[table["flag"] == "differs"]
    if not len(off):
        return ""
    found = ", ".join(
        f"{r.target_arch} reads {r.value:.2f} % where {r.published:.2f} % are published" for r in off.itertuples()
    )
    return (
        f"WARNING: clean pictures are not read as published: {found} (n = {int(off['n_images'].max())}). Check the weights, "
        "the folder's labels and the validation pictures before you believe any table below."
    )


def paper_reported() -> pd.DataFrame:
    """The published tables (``results/paper_reported.csv``): the only figures that may be called the paper's."""
    return pd.read_csv(CHECKOUT / "results" / "paper_reported.csv")


def paper_rows(preset: str, cells: dict[tuple, Cell]) -> Iterator[dict]:
    """Our top-1 beside the paper's, cell by cell, where a preset has the paper's R's; the interval is ours, over pictures.

    The paper gives a figure without an interval, on the same 50,000 pictures; its own rounding is 0.05 points.
    """
    reported = paper_reported().set_index(["task", "mode", "target_arch"])["value"]
    for task, strength in degradations(preset):
        for mode in ("none", *registry.modes("paper"), "clean"):
            cell = cells.get(main_key(preset, task, strength, mode))
            for r, arch in enumerate(cell.targets if cell else ()):
                paper = reported.get((task, mode, arch))
                if paper is None:
                    continue
                value, low, high = _top1(cell, r)
                difference = {"difference": value - paper, "difference_low": low - paper, "difference_high": high - paper}
                counts = {name: cell.counts()[name] for name in ("n_seeds", "n_images")}
                row = {"preset": preset, "task": task, "mode": mode, "target_arch": arch, "paper": paper}
                yield row | dict(zip(ESTIMATE, (value, low, high), strict=True)) | difference | counts
