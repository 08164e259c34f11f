"""Shared small fixtures: nothing here is written into the checkout."""

import contextlib
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

os.environ.setdefault("RASTUDY_ROOT", str(Path(__file__).parents[1]))  # tests read the record, whatever was run beside it

from rastudy import PORTABLE
from rastudy.__main__ import main
from rastudy.data import digits
from rastudy.data.datasets import PictureSet
from rastudy.models.small_nets import build_small

TESTS, SUMS = Path(__file__).parent, {"RASTUDY_ARITHMETIC": "portable", **PORTABLE}

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts sum as this one does, whatever preset was configured before."""
    for name, value in SUMS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def study_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the checkout: results/, figures/ and runs/ go there."""
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path))
    return tmp_path


# fixtures that run a study or write the report; `make quick` leaves their tests out, with those marked slow
SLOW = {"finished", "in_finished", "undisturbed", "file", "page", "small_study"}


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # files that take long start first: none is left to one worker


@pytest.fixture(scope="session")
def warm_kernels() -> Callable[[], contextlib.AbstractContextManager[pytest.MonkeyPatch]]:
    """Within its context kernels are forks of one process, which has imported the package and draws with few pixels."""
    from rastudy.report import kernels

    @contextlib.contextmanager
    def context() -> Iterator[pytest.MonkeyPatch]:
        before = dict(os.environ)  # warm kernels change it
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "PRELOADED", (*kernels.PRELOADED, "few_pixels"))
            for name, value in {"PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent))), **SUMS}.items():
                patch.setenv(name, value)
            yield patch
        os.environ.clear()
        os.environ.update(before)

    return context


@pytest.fixture(scope="session")
def sweep(warm_kernels) -> Callable[..., SimpleNamespace]:
    """``rastudy sweep`` of the smoke study in a root, in this process, which has imported everything already.

    It returns what a finished process has: ``returncode``, ``stdout`` and ``stderr``.
    """

    def run(root: Path, *arguments: str) -> SimpleNamespace:
        out, err, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
        with warm_kernels() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setenv("RASTUDY_ROOT", str(root))
            status = main(["sweep", "--preset", "smoke", *arguments])
        signal.signal(signal.SIGTERM, handler)
        return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())

    return run


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
