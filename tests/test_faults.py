"""Whatever ends a sweep, the same command goes on, and its figures are those of an undisturbed one, byte for byte."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

COMMAND = [sys.executable, "-m", "rastudy.sweep", "--preset", "smoke", "--task", "jpeg", "--mode", "plain", "ra",
           "--no-notebooks", "--jobs", "2"]  # fmt: skip


def start(root: Path) -> subprocess.Popen:
    environment = os.environ | {"RASTUDY_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(COMMAND, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def figures(root: Path) -> dict[str, bytes]:
    """Every CSV, prediction and weight of a study; wall-clock times lie in a file of their own."""
    folder = root / "results"
    kinds = (".csv", ".npz", ".safetensors")
    files = (path for path in folder.rglob("*") if path.suffix in kinds and path.name != "timings.csv")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[dict[str, bytes], float]:
    """The figures of a sweep that nothing disturbed, and how long it took."""
    root, started = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    process = start(root)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    found = figures(root)
    assert sum(name.endswith(".csv") for name in found) > 10 and sum(name.endswith(".npz") for name in found) >= 2
    return found, time.monotonic() - started


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
    expected, duration = undisturbed
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


def test_clocks_may_jump(undisturbed, tmp_path):
    """Nothing goes by the age of a file: with all of them from another century there is nothing to do, and nothing changes."""
    process = start(tmp_path)
    process.communicate(timeout=600)
    for k, path in enumerate(sorted(tmp_path.rglob("*"))):
        if path.is_file():
            os.utime(path, (4e9, 4e9) if k % 2 else (1e9, 1e9))
    process = start(tmp_path)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and "0 to do" in output and figures(tmp_path) == undisturbed[0]
