"""What the doctor finds on this machine, and what it says of one on which something is missing or wrong."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rastudy.__main__ import main
from rastudy.data.datasets import CIFAR10
from rastudy.paths import write_json
from rastudy.tools import doctor


def levels(findings) -> set[str]:
    return {finding.level for finding in findings}


def run(capsys, *arguments: str) -> tuple[int, str]:
    status = main(["doctor", *arguments])
    return status, capsys.readouterr().out


def test_this_machine_runs_the_study(capsys):
    """Everything that is not optional is there; every finding that is not ok has its next step below it."""
    status, output = run(capsys)
    assert status == 0 and "make study runs here" in output
    assert re.search(r"^ok +packages: .*torch \d", output, re.MULTILINE) and "digits: embedded" in output
    lines = output.splitlines()
    for line, after in zip(lines, lines[1:], strict=False):
        assert not line.startswith(("absent", "wrong")) or after.startswith("  "), line


def test_a_package_that_is_too_old(monkeypatch):
    versions = doctor.importlib.metadata.version
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "2.1" if name == "torch" else versions(name))
    (finding,) = [finding for finding in doctor.packages() if finding.what.startswith("packages")]
    assert finding.level == "wrong" and "torch 2.1 is not" in finding.what and "pip install" in finding.step


def test_a_missing_extra_is_no_obstacle(monkeypatch):
    def version(name):
        if name == "snakemake":
            raise doctor.importlib.metadata.PackageNotFoundError
        return "99"

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    (finding,) = [finding for finding in doctor.packages() if "extra cluster" in finding.what]
    assert finding.level == "absent" and "snakemake is missing" in finding.what and "'.[cluster]'" in finding.step


def test_before_the_first_run(study_root, monkeypatch):
    """In a fresh clone the root of studies is not there yet: it can be written where the nearest folder above it can."""
    monkeypatch.setenv("RASTUDY_ROOT", str(study_root / "runs" / "study"))
    found = [finding.what for finding in doctor.machine()]
    assert any("GB free at" in what for what in found) and not any("cannot be written" in what for what in found)


def test_too_little_room(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    monkeypatch.setattr(doctor, "_free_memory", lambda: 0.5)
    found = {finding.what.split(" GB")[0]: finding for finding in doctor.machine()}
    assert found["0"].level == "wrong" and any("--jobs 1" in finding.step for finding in found.values())


def test_another_pythons_kernel(monkeypatch):
    class Spec:
        argv = ["/elsewhere/bin/python", "-m", "ipykernel_launcher"]

    monkeypatch.setattr(doctor.KernelSpecManager, "get_kernel_spec", lambda self, name: Spec)
    (finding,) = doctor.kernel()
    assert finding.level == "wrong" and "elsewhere" in finding.what and "-m jupyter lab" in finding.step


def test_changed_results_and_weights(study_root, monkeypatch):
    """Are named, with what restores them."""
    folder = study_root / "results" / "digits"
    write_json(folder / "records.json", {"run": {"test": {"predictions": "0" * 64}}})
    (finding,) = doctor.results()
    assert finding.level == "absent" and "0 of 1" in finding.what and "run.test.npz" in finding.step
    weights = study_root / "weights"
    shutil.copytree(doctor.WEIGHTS / "digits", weights / "digits")
    (weights / "digits" / "resnet18_small.safetensors").write_bytes(b"")
    monkeypatch.setattr(doctor, "WEIGHTS", weights)
    first = next(doctor.recognisers())
    assert first.level == "wrong" and "resnet18_small.safetensors" in first.step and "git checkout" in first.step


def test_missing_published_weights_have_address_and_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    *_, finding = doctor.recognisers()
    assert finding.level == "absent" and finding.what.endswith("0 of 5")
    assert finding.step.count("https://download.pytorch.org/") == 5 and finding.step.count(str(tmp_path)) == 5


@pytest.mark.parametrize("kind", ["nothing", "missing", "cifar10", "own", "photographs", "neither"])
def test_a_folder_of_pictures(tmp_path, capsys, kind):
    """Is told apart, counted, and refused with the loader's own next step."""

    def put(*places: str) -> None:
        for place in places:
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / place)

    if kind == "cifar10":
        put(*(f"{part}/{name}/0.png" for part in ("train", "test") for name in CIFAR10))
    elif kind == "own":
        put(*(f"{part}/{name}/{k}.png" for part in ("train", "test") for name in ("ant", "bee") for k in range(3)))
    elif kind == "photographs":
        put("val/n01440764/1.JPEG", "val/n01443537/2.JPEG")
    elif kind == "neither":
        (tmp_path / "notes.txt").touch()
    place = {"nothing": "", "missing": str(tmp_path / "none")}.get(kind, str(tmp_path))
    *_, finding = doctor.data(place)
    level, said = {"nothing": ("absent", "no folder was named"), "missing": ("wrong", "no data set"),
                   "cifar10": ("absent", "CIFAR-10, 10 train and 10 test"), "own": ("ok", "own pictures, 6 train and 6 test"),
                   "photographs": ("ok", "2 photographs"),
                   "neither": ("wrong", "no data set")}[kind]  # fmt: skip
    assert (finding.level, said in finding.what) == (level, True) and bool(finding.step) == (level != "ok")
    if kind == "missing":
        status, output = run(capsys, "--data", place)
        assert status == 1 and "1 to be mended" in output and Path(place).name in output
