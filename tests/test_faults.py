"""Whatever ends a sweep, the same command goes on, and its figures are those of an undisturbed one, byte for byte."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
import papermill
import psutil
import pytest
import torch

from rastudy.evaluation.predictions import save_predictions
from rastudy.judge import answers
from rastudy.models.weight_files import pinned_hashes, write_pinned
from rastudy.paths import NOTEBOOKS, write_json
from rastudy.report.notebooks import NOT_STARTED, execute
from rastudy.training.run_store import merge_records, read_records, records_file
from rastudy.transfer.kept import keep_parts, load_kept
from rastudy.transfer.user_study import Pair, RatingStudy

PART = ("--task", "jpeg", "--mode", "plain", "ra", "--no-notebooks", "--jobs", "2")
COMMAND = [sys.executable, "-m", "rastudy", "sweep", "--preset", "smoke", *PART]


def start(root: Path, before: Callable[[], object] | None = None, errors: int = subprocess.STDOUT) -> subprocess.Popen:
    """The sweep in a root; ``before`` is called in its process first."""
    environment = os.environ | {"RASTUDY_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    told = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
    return subprocess.Popen(COMMAND, env=environment, cwd=root.parent, preexec_fn=before, **told)


def figures(root: Path) -> dict[str, bytes]:
    """Every CSV, prediction and weight of a study; wall-clock times lie in a file of their own."""
    folder = root / "results"
    kinds = (".csv", ".npz", ".safetensors")
    files = (path for path in folder.rglob("*") if path.suffix in kinds and path.name != "timings.csv")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[dict[str, bytes], float, Path]:
    """The figures of a sweep that nothing disturbed, how long it took, and where it lies."""
    root, started = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    process = start(root, errors=subprocess.PIPE)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0 and not errors, output + errors
    found = figures(root)
    assert sum(name.endswith(".csv") for name in found) > 10 and sum(name.endswith(".npz") for name in found) >= 2
    return found, time.monotonic() - started, root


def kill(process: subprocess.Popen, everything: bool) -> None:
    """SIGKILL to a sweep alone, or to all that it has started, as when a machine loses its power."""
    children = psutil.Process(process.pid).children(recursive=True) if everything else []
    for one in (psutil.Process(process.pid), *children):
        try:
            one.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass
    process.communicate()


@pytest.mark.parametrize("moments", [3, pytest.param(50, marks=pytest.mark.full)])
def test_killed_at_random_moments(undisturbed, tmp_path, moments):
    """A sweep killed again and again comes to the undisturbed figures; where it comes through, it starts afresh."""
    expected, duration, _ = undisturbed
    rng, root, finished = random.Random(0), tmp_path, 0
    for moment in range(moments):
        process = start(root)
        try:
            output, _ = process.communicate(timeout=rng.uniform(0.1, 0.8) * duration)
        except subprocess.TimeoutExpired:
            kill(process, everything=moment % 2 == 0)
            continue
        assert process.returncode == 0, output
        assert figures(root) == expected
        shutil.rmtree(root / "results")
        shutil.rmtree(root / "runs")
        finished += 1
    process = start(root)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert figures(root) == expected, sorted(name for name in expected if figures(root).get(name) != expected[name])


def test_two_sweeps_at_once(undisturbed, tmp_path):
    """Neither corrupts the other's files nor trains what the other trains; both end well."""
    processes = [start(tmp_path), start(tmp_path)]
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert figures(tmp_path) == undisturbed[0]


class Adding(NamedTuple):
    """A file that several processes add to: its name, what adds a thing called 0 or 1, and which of them it holds."""

    name: str
    add: Callable[[Path, int], object]
    held: Callable[[Path], Iterable[object]]


def _write_part(path: Path, k: int) -> Path:
    arrays = {"label": np.zeros(1), "group": np.zeros(1), "top5": np.full((1, 1, 1), k)}
    save_predictions(path, arrays, {"run_id": str(k)})
    return path


def _finish(run: Path, k: int) -> None:
    write_json(run / "trained.json", {"curve": []})
    merge_records("smoke")


QUESTIONS = RatingStudy("study", "smoke", ("plain", "ra"), [Pair(0, (), (), "plain")] * 2, pictures=None)
ADDED_TO = (
    Adding("answers.npz", lambda root, k: answers.save(root / "answers.npz", {bytes([k] * 16): k}),
           lambda root: answers.load(root / "answers.npz").values()),
    Adding("SHA256SUMS", lambda root, k: write_pinned(root / f"{k}.x", {"w": torch.zeros(1)}, {}),
           lambda root: (name[0] for name in pinned_hashes(root))),
    Adding("records.json", lambda root, k: _finish(root / "runs" / "smoke" / str(k), k),
           lambda root: read_records(records_file("smoke"))),
    Adding("datasets.npz", lambda root, k: keep_parts("smoke", "datasets", [("v", _write_part(root / f"{k}.npz", k))]),
           lambda root: load_kept("smoke", "datasets")["v"]),
    Adding("rater.csv", lambda root, k: QUESTIONS.answer("rater", k, "left", 1), lambda root: QUESTIONS.answers("rater")),
)  # fmt: skip


@pytest.mark.parametrize("file", ADDED_TO, ids=lambda file: file.name)
def test_two_add_to_one_file(study_root, monkeypatch, file):
    """What one adds while the other, who has read the file, is about to write it, is lost to neither."""
    replace, about_to_write, other_is_done = os.replace, threading.Event(), threading.Event()

    def slowly(source: Path, target: Path) -> None:
        if target.name == file.name and not about_to_write.is_set():
            about_to_write.set()
            other_is_done.wait(1.5)  # in vain where the other waits for this one
        replace(source, target)

    monkeypatch.setattr(os, "replace", slowly)
    first = threading.Thread(target=file.add, args=(study_root, 0))
    first.start()
    assert about_to_write.wait(10)
    file.add(study_root, 1)
    other_is_done.set()
    first.join()
    assert sorted(map(int, file.held(study_root))) == [0, 1]


def test_a_part_that_another_process_has_merged(study_root):
    """Two sweeps read one run side by side: who comes second finds nothing left to add, and that is well."""
    part = _write_part(study_root / "0.npz", 0)
    for _ in range(2):
        keep_parts("smoke", "datasets", [("v", part)])
    assert list(load_kept("smoke", "datasets")["v"]) == ["0"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_notebook_that_two_execute(study_root, monkeypatch, fails):
    """The one that ends first takes the running file away; the other's notebook is kept all the same."""

    def another_is_faster(_source, running: Path, *_args, **_settings) -> nbformat.NotebookNode:
        running.write_text("{}")
        running.unlink()
        if fails:
            raise RuntimeError("a cell raised")
        return nbformat.v4.new_notebook()

    monkeypatch.setattr(papermill, "execute_notebook", another_is_faster)
    problem = execute(NOTEBOOKS / "01_train.ipynb", study_root / "01_train.ipynb", {})
    assert ("a cell raised" in problem) == fails and (study_root / "01_train.ipynb").is_file() != fails


@pytest.mark.parametrize("message, times", [(f"{NOT_STARTED} to kernel_info", 2), ("a cell raised", 1)])
def test_a_kernel_that_did_not_start_is_started_again(study_root, monkeypatch, message, times):
    """Once: no cell has run; of what a cell raises there is no second try."""
    tried = []

    def starts_at_last(*_args, **_settings) -> nbformat.NotebookNode:
        tried.append(1)
        if len(tried) < 2:
            raise RuntimeError(message)
        return nbformat.v4.new_notebook()

    monkeypatch.setattr(papermill, "execute_notebook", starts_at_last)
    problem = execute(NOTEBOOKS / "01_train.ipynb", study_root / "01_train.ipynb", {})
    assert len(tried) == times and bool(problem) == (times == 1)


def test_clocks_may_jump(undisturbed, tmp_path, sweep):
    """Nothing goes by the age of a file: with all of them from another century there is nothing to do, and nothing changes."""
    shutil.copytree(undisturbed[2], tmp_path, dirs_exist_ok=True)
    for k, path in enumerate(sorted(tmp_path.rglob("*"))):
        if path.is_file():
            os.utime(path, (4e9, 4e9) if k % 2 else (1e9, 1e9))
    done = sweep(tmp_path, *PART)
    assert done.returncode == 0 and "0 to do" in done.stdout and figures(tmp_path) == undisturbed[0]


def no_room() -> None:
    """No file may grow beyond 20 kB: what a full disk says to a writer, for this process and its children."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk(undisturbed, tmp_path):
    """The sweep ends with a sentence, no half-written file stays, and with room again it comes to the undisturbed figures."""
    process = start(tmp_path, no_room)
    output, _ = process.communicate(timeout=600)
    assert process.returncode in (1, 2) and "cannot be written" in output and "File too large" in output, output
    hidden = [path for path in tmp_path.rglob(".*") if path.is_file() and path.suffix != ".lock"]
    assert not hidden, "a temporary file stayed"
    found = figures(tmp_path)
    assert all(undisturbed[0][name] == content for name, content in found.items()) and len(found) < len(undisturbed[0])
    process = start(tmp_path)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and figures(tmp_path) == undisturbed[0], output


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["read-only", "a file in its place"])
def test_results_that_cannot_be_written(tmp_path, kind):
    """Said in a sentence that names the place, before anything is trained twice."""
    root = tmp_path / "study"
    (root / "results").parent.mkdir()
    if kind == "read-only":
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        (root / "results").mkdir(mode=0o555)
    else:
        (root / "results").touch()
    process = start(root)
    output, _ = process.communicate(timeout=600)
    assert process.returncode in (1, 2) and "results" in output and "cannot be written" in output, output


@pytest.mark.parametrize("kind", ["predictions", "weights"])
def test_damaged_files_are_found_by_their_checksum(undisturbed, tmp_path, kind, sweep):
    """And named, and made anew: the rerun comes to the undisturbed figures."""
    shutil.copytree(undisturbed[2], tmp_path, dirs_exist_ok=True)
    (path,) = (tmp_path / "results" / "smoke" / kind).glob("*-ra-*.safetensors" if kind == "weights" else "*-ra-*.test.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = sweep(tmp_path, *PART)
    assert done.returncode == 0 and "1 to do" in done.stdout and path.name.partition("-s0")[0] in done.stdout, done
    assert figures(tmp_path) == undisturbed[0]
