"""What notebooks print and show: settings, input digests, restored pictures."""

from collections.abc import Iterable

from matplotlib.figure import Figure

from rastudy import plots
from rastudy.classifiers import sha256
from rastudy.config import Config
from rastudy.evaluate import load_pictures
from rastudy.runs import provenance, results_folder


def describe(config: Config, inputs: Iterable[str] = ()) -> None:
    """Print run id, device, versions, and the digests of the tables that a notebook reads."""
    print(f"run      {config.run_id}")
    print("on       " + ", ".join(f"{name} {value}" for name, value in provenance(config).items()))
    for name in inputs:
        path = results_folder(config.preset) / f"{name}.csv"
        print(
            f"input    results/{config.preset}/{path.name} sha256 {sha256(path)[:16] if path.is_file() else 'missing'}"
        )


def show_restored(config: Config) -> Figure:
    """The first test pictures of every task under every mode, saved per task; returns the figure of ``config.task``."""
    pictures = load_pictures(config, "test")
    figure = plots.plot_restored(config.preset, config.task, pictures, data_dir=config.data_dir)
    plots.save(figure, config.preset, f"restored_{config.task}")
    return figure
