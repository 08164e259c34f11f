"""Shared small fixtures: nothing here is written into the checkout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from rastudy.data import digits
from rastudy.data.datasets import PictureSet
from rastudy.models.small_nets import build_small

torch.set_num_threads(1)


@pytest.fixture
def study_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the checkout: results/, figures/ and runs/ go there."""
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """(64, 64, 3) uint8: a detailed piece of a real photograph."""
    return np.ascontiguousarray(load_sample_images().images[0][100:164, 100:164])


@pytest.fixture(scope="session")
def small_set() -> PictureSet:
    """The first 23 training pictures of the embedded set: no multiple of the batch sizes in use."""
    return PictureSet("digits", "train", *digits.render("train", 23), digits.CLASSES)


@pytest.fixture
def small_r(tmp_path: Path) -> Callable[[str], str]:
    """Make a small R with random weights; returns its spec ``NAME@FILE``."""

    def make(name: str = "resnet18_small", seed: int = 0) -> str:
        path = tmp_path / "random" / f"{name}-{seed}.safetensors"
        path.parent.mkdir(exist_ok=True)
        torch.manual_seed(seed)
        save_file(build_small(name, 10).state_dict(), path, {"arch": name})
        return f"{name}@{path}"

    return make
