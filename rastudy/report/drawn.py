"""Every figure that tables alone give, by its name: redrawn with the record's texts, and held to the tables by a test.

Those that show pictures need data or weights; notebooks and ``rastudy report --data`` draw them.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from rastudy.analysis import style
from rastudy.boundaries import figures as boundaries
from rastudy.paths import root, to_read
from rastudy.report import figures, gallery, hero, judgement, travel
from rastudy.report.claims import present_studies
from rastudy.transfer.directions import DIRECTIONS
from rastudy.transfer.tables import load_summary, table_file

Plot = Callable[[], Figure]
OF_A_STUDY: dict[str, Callable[[str], Figure]] = {
    "accuracy": figures.plot_accuracy, "gains": figures.plot_gains, "matrix": figures.plot_matrix,
    "paper": figures.plot_paper, "curves": figures.plot_curves, "tradeoff": figures.plot_tradeoff,
    "equal_cost": figures.plot_equal_cost, "controls": figures.plot_controls, "turned": gallery.plot_turned_counts,
}  # fmt: skip


def plots() -> dict[str, Plot]:
    """Every such figure that ``figures/`` has, ``preset/name`` or ``name``."""
    studies = present_studies()
    found = {f"{preset}/{name}": plot for preset in studies for name, plot in _of_study(preset)}
    found |= {"hero": hero.plot_hero, "judgement": partial(judgement.plot_judgements, studies)}
    found |= {"blind": partial(travel.plot_blind, studies)}
    found["transfer_summary"] = lambda: figures.plot_transfer_summary(load_summary())
    return {name: plot for name, plot in found.items() if figure_file(name).is_file()}


def figure_file(name: str) -> Path:
    return to_read(root() / "figures" / f"{name}.png")


def _of_study(preset: str) -> Iterator[tuple[str, Plot]]:
    yield from ((name, partial(plot, preset)) for name, plot in OF_A_STUDY.items())
    yield from boundaries.plots(preset)
    for direction in DIRECTIONS:
        if to_read(table_file(preset, direction)).is_file():
            yield f"transfer_{direction}", partial(travel.plot_direction, preset, direction)


def redraw() -> None:
    """Draw all of :func:`plots` again; a file that shows the same stays as it is."""
    style.save_each("", plots().items())
