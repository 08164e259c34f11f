"""The Snakefile: every CSV is a target, what is remade after which change, and that its jobs are the sweep's."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rastudy import similarity
from rastudy.errors import StudyError
from rastudy.presets import PRESETS
from rastudy.tables import TABLES
from rastudy.train import parse
from rastudy.workflow import Study

pytest.importorskip("snakemake")
ROOT = Path(__file__).parents[1]
# one task and two modes of the smoke study: its jobs take a minute
SMALL = """
from rastudy.presets import PRESETS
PRESETS["smoke"]["modes"] = ("plain", "ra")
PRESETS["smoke"]["degradations"] = {("jpeg", 6.0): PRESETS["smoke"]["degradations"]["jpeg", 6.0]}
"""
TARGETS = ("csvs",)  # not notebooks, which show the whole study


def snakemake(root: Path, *arguments: str, change: str = "") -> str:
    """Run snakemake in a root on the small study, its presets changed; returns what it printed."""
    (root / "small.smk").write_text(f"{SMALL}{change}\ninclude: {str(ROOT / 'Snakefile')!r}\n")
    command = [sys.executable, "-m", "snakemake", "-s", str(root / "small.smk"), "-d", str(root), "--cores", "2", *arguments]
    environment = os.environ | {"RASTUDY_ROOT": str(root), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--config", "preset=smoke"], env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def planned(root: Path, *arguments: str, change: str = "") -> dict[str, int]:
    """Rule to the number of its jobs that a run would execute now."""
    output = snakemake(root, *(arguments or ["all"]), "--dry-run", "--quiet", "rules", change=change)
    found = {name: int(count) for name, count in re.findall(r"^([a-z]+) +(\d+)$", output, re.MULTILINE)}
    return {name: count for name, count in found.items() if name not in ("all", "csvs", "total")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The small study, made by a real run."""
    root = tmp_path_factory.mktemp("snakemake")
    snakemake(root, *TARGETS)
    return root


def test_everything_is_planned_from_nothing(tmp_path):
    """3 trainings (one shared pretraining), 4 runs on 2 splits each, and one job for each of the rest."""
    assert planned(tmp_path) == {"train": 3, "evaluate": 8, "tables": 1, "boundaries": 1, "notebooks": 1}
    assert not (tmp_path / "results").exists() and not (tmp_path / "runs").exists()


def test_a_finished_study_has_nothing_to_do(finished):
    assert {path.name for path in finished.rglob("*.csv")} >= {f"{name}.csv" for name in (*TABLES, *similarity.TABLES)}
    assert not planned(finished, *TARGETS)


def test_after_a_deleted_csv(finished):
    """It is made anew with what rests on it, and nothing else."""
    folder = finished / "results" / "smoke"
    afterwards = {"runs/jpeg6-ra-*.test.csv": {"evaluate": 1, "tables": 1, "boundaries": 1},
                  "curves/jpeg6-ra-*.csv": {"train": 1, "evaluate": 2, "tables": 1, "boundaries": 1}}  # fmt: skip
    for name, jobs in afterwards.items():
        (path,) = folder.glob(name)
        path.rename(finished / "aside")
        assert planned(finished, *TARGETS) == jobs
        (finished / "aside").rename(path)
    before = (folder / "gains.csv").read_bytes()
    (folder / "gains.csv").unlink()
    assert planned(finished, *TARGETS) == {"tables": 1}
    snakemake(finished, *TARGETS)
    assert (folder / "gains.csv").read_bytes() == before and not planned(finished, *TARGETS)


def test_after_a_changed_setting(finished):
    """Of RA alone: its run, not plain's and not the pretraining; of the place of the pictures: nothing."""
    change = 'PRESETS["smoke"]["degradations"]["jpeg", 6.0]["ra_weights"]["ra"] = 0.004'
    assert planned(finished, *TARGETS, change=change) == {"train": 1, "evaluate": 2, "tables": 1, "boundaries": 1}
    assert not planned(finished, *TARGETS, change='config["data"] = "elsewhere"')


def test_after_changed_code(finished):
    """That training rests on: every training, and what follows."""
    change = 'import rastudy.workflow as made\nmade.code_versions = lambda modules: {"steps": "another"}'
    assert planned(finished, *TARGETS, change=change) == {"train": 3, "evaluate": 4, "tables": 1, "boundaries": 1}


GIVEN = {
    "smoke": {}, "digits": {"full": True, "directions": "upload detection"}, "cifar10": {"full": "true", "data": "D"},
    "imagenet_lite": {"data": "D"},
}  # fmt: skip


@pytest.mark.parametrize(("preset", "given"), GIVEN.items())
def test_a_jobs_command_makes_its_run(preset, given):
    """The flags of every run, pretrainings too, give that run and no other."""
    study = Study(preset, **given)
    everything = {*study.cells, *study.trained}
    for run in everything:
        flags = shlex.split(f"{study.train(run)} {study.place}")
        config, splits = parse(flags[2:])
        assert flags[:2] == ["-m", "rastudy.train"] and (config.run_id, splits) == (run, "")
        assert config.data_dir == given.get("data", "")
    assert len(everything) > len(PRESETS[preset]["modes"])


@pytest.mark.parametrize(("name", "value"), [("presset", "x"), ("preset", "x"), ("full", "x"), ("directions", "upload x")])
def test_typos_are_named(name, value):
    with pytest.raises(StudyError, match=f"{name.rstrip('s')}.*is unknown"):
        Study(**{name: value})


def test_an_unknown_run_is_named(study_root):
    with pytest.raises(StudyError, match="no run of smoke"):
        Study("smoke").train("jpeg6-ra-nothing")
