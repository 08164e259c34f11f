"""A study that was run here beside the record: where it writes, what it reads, and when a gain replicates."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_tables import PLAIN, put, right

from rastudy import PORTABLE, paths
from rastudy.analysis import replication
from rastudy.analysis.tables import load_table, make_tables
from rastudy.config import configure
from rastudy.errors import StudyError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def both(tmp_path, monkeypatch):
    """A clone with a record of three trainings; what is put from now on is ours. The root is the default one."""
    clone = tmp_path / "clone"
    monkeypatch.setenv("RASTUDY_ROOT", str(clone))
    for seed, gained in enumerate((20, 24, 28)):
        put("plain", PLAIN, seed=seed), put("ra", {arch: right((0, 200 + gained)) for arch in PLAIN}, seed=seed)
    make_tables("smoke")
    (clone / "figures" / "smoke").mkdir(parents=True)
    for module in (paths, replication):
        monkeypatch.setattr(module, "CHECKOUT", clone)
    monkeypatch.setattr(paths, "is_checkout", lambda: True)
    monkeypatch.delenv("RASTUDY_ROOT")
    return clone


def ours(gained: int) -> None:
    put("plain", PLAIN), put("ra", {arch: right((0, 200 + gained)) for arch in PLAIN})
    make_tables("smoke")


@pytest.mark.parametrize("gained, verdict, same", [(20, "replicates", True), (27, "replicates", False), (60, "differs", False)])
def test_the_verdict(both, gained, verdict, same):
    """The spread is that of the record's trainings: standard deviation 1, three against one."""
    before = {path: path.read_bytes() for path in both.rglob("*") if path.is_file()}
    ours(gained)
    found = replication.replicate("smoke")
    assert set(found["role"]) == {"source", "mean_unseen"} and set(found["verdict"]) == {verdict}
    row = found.iloc[0]
    assert (row["record"], row["ours"], row["record_trainings"], row["our_trainings"]) == (6, gained / 4, 3, 1)
    assert row["record_seed_0"] == 5
    assert row["spread"] == pytest.approx(4.3027 * 1 * (1 / 3 + 1) ** 0.5, rel=1e-3) and row["same_bits"] == same
    told = replication.told(found)
    assert told.startswith(f"{2 * (verdict == 'replicates')} of 2 gains replicate")
    assert ("sr x4 RA" in told) == (verdict == "differs")
    assert {path: path.read_bytes() for path in before} == before  # the record is not touched
    assert (both / "runs" / "study" / "results" / "smoke" / "replication.csv").is_file()


def test_of_the_record_itself_there_is_no_replication(both, monkeypatch):
    monkeypatch.setenv("RASTUDY_ROOT", str(both))
    assert paths.is_record() and not len(replication.replicate("smoke"))


def test_what_is_read(both):
    """The record until a study of the preset was run here; from then on never both."""
    table = paths.results_folder("smoke") / "gains.csv"
    assert paths.to_read(table) == both / "results" / "smoke" / "gains.csv"
    assert load_table("smoke", "gains")["n_seeds"].max() == 3
    put("plain", PLAIN)  # a run alone is no study
    assert paths.to_read(table) == both / "results" / "smoke" / "gains.csv"
    ours(60)
    assert paths.to_read(table) == table and load_table("smoke", "gains")["n_seeds"].max() == 1
    other = paths.results_folder("cifar10") / "gains.csv"
    assert paths.to_read(other) == both / "results" / "cifar10" / "gains.csv"


def test_paths_are_told_from_the_clone(both):
    assert str(paths.short(paths.results_folder("smoke"))) == "runs/study/results/smoke"


# --- arithmetic


def environment(*words: str, **given: str) -> dict[str, str]:
    """The variables of a process that runs ``rastudy`` with these words, at the time when its command runs."""
    code = """
import os, sys
from rastudy import __main__ as command_line
command_line.resolve = lambda _: lambda _: print(dict(os.environ))
command_line.main(sys.argv[1:])
"""
    clean = {name: value for name, value in os.environ.items() if name not in (*PORTABLE, "RASTUDY_ARITHMETIC")}
    done = subprocess.run([sys.executable, "-c", code, *words], env=clean | given, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return eval(done.stdout)  # noqa: S307  # our own print


@pytest.mark.parametrize("words, portable", [
    (("sweep", "--preset", "digits"), True), (("train", "--preset", "smoke", "--task", "sr"), True),
    (("boundaries", "--preset", "digits", "cifar10"), True), (("sweep", "--preset", "cifar10"), False),
    (("restore", "a", "-o", "b", "--task", "sr"), False), (("recognisers", "--preset", "digits"), False), (("doctor",), False),
])  # fmt: skip
def test_which_commands_use_portable_sums(words, portable):
    """Those of presets that ask for them; training in bf16 would be half as fast."""
    found = environment(*words)
    assert {name: found.get(name) for name in PORTABLE} == (PORTABLE if portable else dict.fromkeys(PORTABLE))


@pytest.mark.parametrize("preset, task, portable", [("digits", "sr", True), ("cifar10", "dn", False)])
def test_a_notebook_decides_by_its_preset(preset, task, portable):
    """Before its first sum, which is when the libraries look."""
    configure({"preset": preset, "task": task})
    assert {name: os.environ.get(name) for name in PORTABLE} == (PORTABLE if portable else dict.fromkeys(PORTABLE))


def test_the_user_has_the_last_word():
    assert environment("sweep", RASTUDY_ARITHMETIC="native").keys().isdisjoint(PORTABLE)
    assert environment("sweep", "--preset", "cifar10", MKL_CBWR="COMPATIBLE")["MKL_CBWR"] == "COMPATIBLE"


# --- computing from the record


def test_the_record_is_copied_to_compute_from_it(both):
    """What notebooks compute from the record's P's is written beside it, and gone when a study is run here."""
    before = {path: path.read_bytes() for path in both.rglob("*") if path.is_file()}
    paths.borrow("smoke")
    mine = paths.results_folder("smoke")
    assert {path.name for path in mine.rglob("*.npz")} == {path.name for path in before if path.suffix == ".npz"}
    make_tables("smoke")
    assert load_table("smoke", "gains")["n_seeds"].max() == 3 and paths.to_read(mine / "gains.csv") == mine / "gains.csv"
    assert {path: path.read_bytes() for path in before} == before
    (mine / "user_study" / "first").mkdir(parents=True)
    (mine / "user_study" / "first" / "ann.csv").write_text("what ann said")
    paths.return_borrowed("smoke")
    assert [path.name for path in mine.rglob("*") if path.is_file()] == ["ann.csv"]  # nobody's copy


def test_a_copy_does_not_outlive_its_record(both):
    """After an update of the clone the record is read, and copied anew where something is computed from it."""
    paths.borrow("smoke")
    mine = paths.results_folder("smoke")
    record = paths.record_of(mine)
    for name in ("runs.csv", "gains.csv"):
        (record / name).write_text((record / name).read_text() + "\n")
    assert paths.to_read(mine / "gains.csv") == record / "gains.csv"
    paths.borrow("smoke")
    assert paths.to_read(mine / "gains.csv") == mine / "gains.csv"
    assert (mine / "gains.csv").read_bytes() == (record / "gains.csv").read_bytes()


def test_a_study_of_ones_own_is_not_replaced(both):
    ours(60)
    paths.borrow("smoke")
    paths.return_borrowed("smoke")
    assert load_table("smoke", "gains")["n_seeds"].max() == 1


def test_the_record_is_not_mixed_with_single_runs(both):
    put("plain", PLAIN)
    with pytest.raises(StudyError, match="are no study yet.*rastudy sweep --preset smoke"):
        paths.borrow("smoke")


def test_nothing_is_copied_to_a_root_that_was_named(both, monkeypatch, tmp_path):
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path / "elsewhere"))
    paths.borrow("smoke")
    assert not (tmp_path / "elsewhere").exists()
