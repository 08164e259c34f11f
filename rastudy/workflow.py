"""A study as files and the commands that make them, for the ``Snakefile``: which CSV comes from what.

The commands are the README's, so a job that a cluster kills goes on where it was, and one that is run twice does nothing.
"""

import json
import shlex
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cached_property

from rastudy import estimate, similarity
from rastudy.config import BASELINES, Config
from rastudy.directions import DIRECTIONS, runs
from rastudy.errors import StudyError, one_of
from rastudy.grid import Cell, grid, merge
from rastudy.presets import PRESETS, degradations
from rastudy.runs import TRAINED_BY, code_versions
from rastudy.tables import TABLES
from rastudy.train import flags_of

KNOWN = ("preset", "full", "data", "device", "directions")


class Study:
    """A preset's study.

    Args:
        preset: one of ``PRESETS``.
        full: the full grid, and more boundaries.
        data: folder of the pictures, where the preset needs one.
        device: auto, cpu or cuda.
        directions: of transfer, separated by spaces.

    Raises:
        StudyError: an unknown name or value.
    """

    def __init__(self, preset: str = "digits", full: bool = False, data: str = "", device: str = "auto", directions: str = "",
                 **others: object) -> None:  # fmt: skip
        for name in others:
            one_of("--config", name, KNOWN)
        one_of("preset", preset, PRESETS)
        self.preset, self.full, self.data, self.device = preset, _truth("full", full), str(data), device
        self.directions = str(directions).split()
        for name in self.directions:
            one_of("direction", name, DIRECTIONS)

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """Run id to run, of the grid and of the directions."""
        found = grid(self.preset, self.full, data_dir=self.data, device=self.device)
        for name in self.directions:
            found += runs(self.preset, name, self.data)
        return {cell.config.run_id: cell for cell in merge(found)}

    @cached_property
    def trained(self) -> dict[str, Config]:
        """Run id to run, of all that are trained, pretrainings included."""
        chains = [cell.config.chain for cell in self.cells.values() if cell.config.mode not in BASELINES]
        return {config.run_id: config for chain in chains for config in chain}

    # --- what is made

    def curve(self, run: str) -> str:
        return f"results/{self.preset}/curves/{run}.csv"

    def of_runs(self, runs: Iterable[str], splits: Iterable[str] = ("val", "test")) -> list[str]:
        """The CSVs of runs, as far as they are read on these splits."""
        return [f"results/{self.preset}/runs/{run}.{split}.csv" for run in runs for split in splits
                if split in self.cells[run].splits]  # fmt: skip

    @property
    def tables(self) -> list[str]:
        return [f"results/{self.preset}/{name}.csv" for name in TABLES]

    @property
    def boundaries(self) -> list[str]:
        return [f"results/{self.preset}/{name}.csv" for name in similarity.TABLES]

    @property
    def transfers(self) -> list[str]:
        return [f"results/{self.preset}/transfer_{name}.csv" for name in self.directions]

    @property
    def notebooks(self) -> str:
        return f"runs/{self.preset}/notebooks/stamp.json"

    @property
    def csvs(self) -> list[str]:
        curves = [self.curve(run) for run in self.trained]
        return [*curves, *self.of_runs(self.cells), *self.tables, *self.boundaries, *self.transfers]

    # --- what it is made from

    def starts_from(self, run: str) -> list[str]:
        """The curve of a run's pretraining: trained before it."""
        start = self._config(run).pretraining
        return [self.curve(start.run_id)] if start else []

    def read_by(self, direction: str) -> list[str]:
        return self.of_runs([cell.config.run_id for cell in runs(self.preset, direction, self.data)], ("test",))

    # --- how

    def train(self, run: str) -> str:
        return self._command("train", *flags_of(asdict(replace(self._config(run), data_dir="", device=""))))

    def evaluate(self, run: str, split: str) -> str:
        return f"{self.train(run)} --evaluate-on {split}"

    def make_tables(self) -> str:
        return self._command("tables", "--preset", self.preset)

    def measure(self) -> str:
        which = ["--full"] if self.full else ["--task", degradations(self.preset)[-1][0]]
        return self._command("similarity", "--preset", self.preset, *which, "--jobs", "1")

    def transfer(self, direction: str) -> str:
        return self._command("sweep", "--preset", self.preset, "--direction", direction, "--jobs", "1")

    def execute(self) -> str:
        return self._command("sweep", "--preset", self.preset, *["--full"] * self.full, "--keep-committed")

    @property
    def code(self) -> str:
        """A hash per module that training rests on: where it changes, every run is trained anew."""
        return json.dumps(code_versions(TRAINED_BY))

    def megabytes(self, run: str) -> int:
        """Of memory that a run's training takes, roughly."""
        config = self._config(run)
        return 1500 if config.mode in BASELINES else 1500 + int(estimate.memory_of(config) / 1e6)

    @property
    def place(self) -> str:
        """Flags of what changes no number, for all commands but tables': where the pictures lie, and the device."""
        return shlex.join([*(["--data", self.data] if self.data else []), "--device", self.device])

    def _config(self, run: str) -> Config:
        if run not in self.trained and run not in self.cells:
            raise StudyError(f"{run} is no run of {self.preset}{' --full' * self.full}; see python -m rastudy.sweep --dry-run")
        return self.trained.get(run) or self.cells[run].config

    @staticmethod
    def _command(module: str, *arguments: str) -> str:
        """What Python is called with."""
        return shlex.join(["-m", f"rastudy.{module}", *arguments])


def _truth(name: str, value: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}
    one_of(name, str(value).lower(), words)
    return words[str(value).lower()]
