"""The Snakefile: every CSV is a target, what is remade after which change, and that its jobs are the sweep's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rastudy.analysis import tables
from rastudy.boundaries import tables as boundary_tables
from rastudy.paths import TABLES

pytest.importorskip("snakemake")
ROOT = Path(__file__).parents[1]
# one task, two modes and one split of the smoke study: its jobs take half a minute
SMALL = """
from rastudy.presets import PRESETS
PRESETS["smoke"]["modes"] = ("plain", "ra")
PRESETS["smoke"]["degradations"] = {("jpeg", 4.0): PRESETS["smoke"]["degradations"]["jpeg", 4.0]}
PRESETS["smoke"]["splits"] = ("test",)
"""

SMOKE = ("preset=smoke",)


def snakemake(root: Path, *arguments: str, change: str = "", settings: tuple = SMOKE) -> subprocess.CompletedProcess:
    """Run snakemake in a root on the small study, its presets changed."""
    (root / "small.smk").write_text(f"{SMALL}{change}\ninclude: {str(ROOT / 'Snakefile')!r}\n")
    command = [sys.executable, "-m", "snakemake", "-s", str(root / "small.smk"), "-d", str(root), "--cores", "2", *arguments]
    # the jobs are processes of their own, with the whole study: they are given the same presets as this one
    (root / "sitecustomize.py").write_text(SMALL + change)
    paths = os.pathsep.join(map(str, (root, ROOT)))
    environment = os.environ | {"RASTUDY_ROOT": str(root), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run([*command, "--config", *settings], env=environment, cwd=root, capture_output=True, text=True)


def planned(root: Path, *arguments: str, change: str = "", settings: tuple = SMOKE) -> dict[str, int]:
    """Rule to the number of its jobs that a run would execute now."""
    done = snakemake(root, *(arguments or ["all"]), "--dry-run", "--quiet", "rules", change=change, settings=settings)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = re.findall(r"^([a-z]+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    return {name: int(count) for name, count in found if name not in ("all", "total")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Runs and tables of the small study, made by real jobs, in a folder whose name a shell would split."""
    root = tmp_path_factory.mktemp("snake make")
    done = snakemake(root, "results/smoke/gains.csv")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return root


@pytest.mark.slow
def test_everything_is_planned_from_nothing(tmp_path):
    """A job a run and split, and one for each of the rest."""
    assert planned(tmp_path) == {"run": 4, "tables": 1, "notebooks": 1}
    assert planned(tmp_path, settings=("preset=smoke", "directions=upload families"))["transfer"] == 2
    assert not (tmp_path / "results").exists() and not (tmp_path / "runs").exists()


def test_what_a_finished_study_wants(finished):
    """Nothing; a deleted table is rebuilt alone, a deleted prediction with the tables."""
    wanted = [f"results/smoke/{name}.csv" for name in TABLES["study"]]
    assert all((finished / table).is_file() for table in wanted) and not planned(finished, *wanted)
    folder = finished / "results" / "smoke"
    (path,) = (folder / "predictions").glob("jpeg4-ra-*.test.npz")
    path.rename(finished / "aside")
    assert planned(finished) == {"run": 1, "tables": 1, "notebooks": 1}
    (finished / "aside").rename(path)
    before = (folder / "gains.csv").read_bytes()
    (folder / "gains.csv").unlink()
    assert planned(finished, *wanted) == {"tables": 1}
    assert snakemake(finished, *wanted).returncode == 0
    assert (folder / "gains.csv").read_bytes() == before and not planned(finished, *wanted)
    assert planned(finished) == {"notebooks": 1}


def test_after_a_changed_setting(finished):
    """RA's weight: its run, not plain's and not the pretraining."""
    change = 'PRESETS["smoke"]["degradations"]["jpeg", 4.0]["ra_weights"]["ra"] = 0.004'
    assert planned(finished, "results/smoke/gains.csv", change=change) == {"run": 1, "tables": 1}


def test_every_table_is_a_target():
    assert TABLES == {"study": tuple(tables.TABLES), "boundaries": tuple(boundary_tables.TABLES)}


@pytest.mark.parametrize("setting", ["presset=smoke", "preset=smok"])
def test_typos_are_named(tmp_path, setting):
    done = snakemake(tmp_path, "--dry-run", settings=(setting,))
    assert done.returncode and ("unknown" in done.stdout + done.stderr)
