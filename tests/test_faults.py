"""Whatever ends a sweep, the same command goes on, and its figures are those of an undisturbed one, byte for byte."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

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
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "a temporary file stayed"
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
