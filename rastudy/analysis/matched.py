"""A feature loss beside RA at the same decibels: which buys more recognition for what the picture loses?"""

from collections.abc import Iterable, Iterator

import numpy as np

from rastudy.analysis import comparisons
from rastudy.analysis import statistics as stats
from rastudy.analysis.comparisons import COUNTS, ESTIMATE, Pair, named
from rastudy.presets import degradations

RA, FEATURES = "ra", "perceptual"
AT = ("ra_gain", "perceptual_gain")
MATCHED = ("preset", "task", "strength", "psnr_change", "weight_of", "ra_weight", "role", *AT, *ESTIMATE, *COUNTS)
ROLES = ("source", "mean_unseen")


def matched_rows(preset: str, pairs: Iterable[Pair]) -> Iterator[dict]:
    """The feature loss's gain minus RA's where both cost the same decibels, on the pictures of the weight grids, seed 0.

    A row per degradation, per weight of either (``weight_of``, ``ra_weight``) whose cost the other's grid spans, and per role.
    Between two weights gains are interpolated linearly in decibels, picture by picture, so that the difference is paired.
    """
    curves: dict[tuple, list[tuple[float, float, np.ndarray]]] = {}
    groups = {}
    for cell, change, gain in comparisons.weight_grid(pairs):
        key, roles = cell.key[:3], comparisons.targets_by_role(cell)
        by_role = np.stack([gain[:, roles[role]].mean(1) for role in ROLES], 1)  # N role
        curves.setdefault(key, []).append((change, cell.settings["ra_weight"], by_role))
        groups[key] = cell
    for task, strength in degradations(preset):
        both = {mode: sorted(curves.get((task, strength, mode), []), key=lambda one: one[0]) for mode in (RA, FEATURES)}
        if min(map(len, both.values())) < 2:
            continue
        counts = groups[task, strength, RA].counts()
        low, high = max(c[0][0] for c in both.values()), min(c[-1][0] for c in both.values())
        for mode, curve in both.items():
            for change, weight, _ in (point for point in curve if low <= point[0] <= high):
                gains = [at(change, both[one]) for one in (RA, FEATURES)]
                estimates = stats.mean_intervals(gains[1] - gains[0], groups[task, strength, RA].groups, differences=True)
                for k, (role, estimate) in enumerate(zip(ROLES, estimates, strict=True)):
                    row = {"preset": preset, "task": task, "strength": strength, "psnr_change": change, "weight_of": mode}
                    row |= {"ra_weight": weight, "role": role} | counts | named(ESTIMATE, estimate)
                    yield row | named(AT, (found[:, k].mean() for found in gains))


def at(change: float, curve: list[tuple[float, float, np.ndarray]]) -> np.ndarray:
    """(N, role) gains at a change of PSNR that lies within the curve, whose points are sorted by theirs."""
    places = np.array([point[0] for point in curve])
    right = min(max(int(np.searchsorted(places, change)), 1), len(places) - 1)
    share = (change - places[right - 1]) / (places[right] - places[right - 1])
    return (1 - share) * curve[right - 1][2] + share * curve[right][2]
