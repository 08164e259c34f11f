"""The registry: an entry is all that a mode or a recogniser needs to be trained, evaluated, tabulated and drawn."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from matplotlib.text import Text
from torch import nn

from rastudy import registry
from rastudy.__main__ import main
from rastudy.config import make_config
from rastudy.data.loaders import Batch
from rastudy.errors import StudyError
from rastudy.models import classifiers
from rastudy.paths import WEIGHTS
from rastudy.presets import PRESETS
from rastudy.registry import Mode, Recogniser
from rastudy.report import figures
from rastudy.report.results_page import results_table
from rastudy.training import fit_classifiers
from rastudy.training.losses import recognition_loss
from rastudy.training.steps import Models
from rastudy.training.weights import weights_file

SMOKE = ["--preset", "smoke", "--task", "sr"]
RECIPE = {"train_images": 384, "epochs": 1, "lr": 4e-3, "augment": False, "longer": {}}


class ToyNet(nn.Module):
    """Pictures (N, 3, H, W) to logits (N, K): one linear layer on 4 x 4 means."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.fc = nn.Linear(48, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))


def toy_step(models: Models, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """P learns the mean absolute error and R's cross-entropy."""
    restored = models.processor(batch.lq)
    loss, recognition = (restored - batch.gt).abs().mean(), recognition_loss(models.sources, restored, batch.label)
    (models.share * (loss + models.config.ra_weight * recognition)).backward()
    return loss, recognition


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two entries: a mode of the main comparison, and a small recogniser."""
    mode = Mode("toy", "Toy mode", "#56b4e9", "h", "paper", f"{__name__}:toy_step", reads_labels=True)
    monkeypatch.setitem(registry.MODES, "toy", mode)
    monkeypatch.setitem(PRESETS["smoke"], "modes", registry.modes("paper"))  # which the presets took when they were imported
    recogniser = Recogniser("toy_small", "Toy net", "small", f"{__name__}:ToyNet", unlike=True)
    monkeypatch.setitem(registry.RECOGNISERS, "toy_small", recogniser)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recognisers' weights in a folder of the test's own: the committed ResNet-18, and what ``rastudy recognisers`` adds."""
    folder = tmp_path / "weights" / "digits"
    folder.mkdir(parents=True)
    shutil.copy(WEIGHTS / "digits" / "resnet18_small.safetensors", folder)
    for module in (classifiers, fit_classifiers):
        monkeypatch.setattr(module, "WEIGHTS", folder.parent)
    monkeypatch.setitem(fit_classifiers.RECIPES, "digits", RECIPE)
    return folder


@pytest.mark.slow
def test_a_toy_mode_and_a_toy_recogniser_go_all_the_way(toys, weights, study_root, capsys):
    """Trained, in the loss and in the test, in the tables and figures of the main comparison under their shown names."""
    assert main(["recognisers", "--arch", "toy_small"]) == 0
    where = ["--target-archs", "resnet18_small,toy_small", "--evaluate-on", "val,test"]
    for mode in ("none", "clean", "plain", "ra", "toy"):
        assert main(["train", *SMOKE, "--mode", mode, *where]) == 0
    assert main(["train", *SMOKE, "--mode", "toy", "--source-arch", "toy_small", "--ra-weight", "0.1", *where]) == 0
    assert main(["tables", "--preset", "smoke"]) == 0
    for name in ("accuracy", "gains", "overall", "tradeoff"):
        assert ",toy," in (study_root / f"results/smoke/{name}.csv").read_text(), name
    gains = (study_root / "results/smoke/gains.csv").read_text()
    assert ",plain,toy_small,unseen," in gains and ",plain,toy_small,source," in gains
    header, *rows = results_table("smoke").splitlines()
    assert "| ResNet-18 | Toy net |" in header and any("| Toy mode |" in row for row in rows)
    words = {text.get_text() for text in figures.plot_accuracy("smoke").findobj(Text)}
    assert {"Toy mode", "Toy net"} <= words


def test_a_toys_weights_may_lie_anywhere(toys, weights, study_root, small_r, capsys):
    """``NAME@FILE``, as for every small recogniser."""
    assert main(["train", *SMOKE, "--mode", "toy", "--ra-weight", "0.1"]) == 0
    processor = weights_file(make_config("smoke", "sr", "toy", ra_weight=0.1))
    capsys.readouterr()
    assert main(["evaluate", "--processor", str(processor), "--task", "sr", "--target-archs", small_r("toy_small")]) == 0
    assert re.search(r"^toy_small +top1 +\d", capsys.readouterr().out, re.MULTILINE)


def test_settings_take_what_is_registered(toys):
    """And a wrong name is answered with those there are."""
    assert make_config("smoke", "sr", "toy").run_id.startswith("sr4-toy-resnet18_small-")
    with pytest.raises(StudyError, match="toi.* use one of none, clean, plain, ra, .*toy"):
        make_config("smoke", "sr", "toi")
    with pytest.raises(StudyError, match="did you mean toy_small"):
        make_config("smoke", "sr", "ra", source_arch="toy_smal")


@pytest.mark.parametrize("table", ["TASKS", "MODES", "DATASETS", "RECOGNISERS"])
def test_entries_are_what_they_are_called(table):
    """Keys are names, shown names and marks tell entries of a table apart, and the code that an entry names exists."""
    entries = getattr(registry, table)
    assert all(key == entry.name for key, entry in entries.items())
    shown = [entry.shown for entry in entries.values() if getattr(entry, "kind", "") not in ("torchvision",)]
    assert len(set(shown)) == len(shown)
    if table == "MODES":
        for look in ("colour", "marker"):
            assert len({getattr(mode, look) for mode in entries.values()}) == len(entries)
    for entry in entries.values():
        for place in (getattr(entry, name, "") for name in ("degrade", "step", "load", "build", "classes")):
            assert not place or registry.resolve(place) is not None
