"""What `--status` says of a run, from nothing to done and back to stale; that it changes nothing."""

import shutil

import nbformat
import pytest
from filelock import FileLock

from rastudy.__main__ import main, parse
from rastudy.evaluation.evaluate import evaluate, is_evaluated
from rastudy.evaluation.predictions import predictions_file
from rastudy.grid import Run
from rastudy.paths import read_json, write_json
from rastudy.presets import PRESETS
from rastudy.sweep.status import STATES, show_status, state_of
from rastudy.sweep.sweep import select
from rastudy.training import run_store as runs
from rastudy.training.run_store import code_versions, merge_records, read_records, run_folder
from rastudy.training.train import train
from rastudy.training.weights import weights_file


@pytest.fixture
def cell(study_root) -> Run:
    """RA's run of the smoke study, read on validation, with nothing done yet."""
    return select(parse(["sweep", "--preset", "smoke", "--task", "jpeg", "--mode", "ra", "--split", "val"])[1])[0]


@pytest.fixture
def done(cell) -> Run:
    train(cell.config, log=lambda _: None)
    evaluate(cell.config, "val", log=lambda _: None)
    merge_records("smoke")
    return cell


def test_from_nothing_to_done(cell):
    assert state_of(cell).name == "to do"
    folder = run_folder(cell.config)
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").touch()
    assert state_of(cell).name == "begun"
    (folder / "checkpoint.pt").unlink()
    train(cell.config, log=lambda _: None)
    assert state_of(cell) == ("begun", "not evaluated on val")
    evaluate(cell.config, "val", log=lambda _: None)
    assert state_of(cell).name == "done"


def test_another_process_trains_it(cell):
    run_folder(cell.config).mkdir(parents=True)
    with FileLock(run_folder(cell.config) / "lock"):
        assert state_of(cell).name == "running"
    assert state_of(cell).name == "to do", "a dead process's lock does not last"


def test_a_failed_run_names_its_error_and_its_notebook(cell):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("train()")])
    notebook.cells[0].outputs = [nbformat.v4.new_output("error", ename="StudyError", evalue="loss is not finite", traceback=[])]
    path = run_folder(cell.config) / "01_train.failed.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)
    state = state_of(cell)
    assert state.name == "failed" and "StudyError: loss is not finite" in state.why and path.name in state.why


def test_code_that_matters_has_changed(done, monkeypatch):
    """The module is named; one that the evaluation alone uses counts, too."""
    for module, marker in (("training.steps", "trained"), ("evaluation.metrics", "val")):
        path = run_folder(done.config) / f"{marker}.json"
        before = read_json(path)
        write_json(path, before | {"code": before["code"] | {module: "0" * 8}})
        state = state_of(done)
        file = module.replace(".", "/") + ".py"
        assert state.name == "stale" and file in state.why and str(run_folder(done.config).name) in state.why
        assert is_evaluated(done.config, "val"), "said, not redone: whether it matters is the reader's to decide"
        write_json(path, before)


def test_settings_and_weights_have_changed(done):
    path = run_folder(done.config) / "config.json"
    before = read_json(path)
    write_json(path, before | {"source_weights": {"resnet18_small": "another"}})
    state = state_of(done)
    assert state.name == "stale" and "source_weights" in state.why and "delete runs/smoke/" in state.why
    write_json(path, before)
    weights = weights_file(done.config)
    weights.write_bytes(weights.read_bytes() + b" ")
    state = state_of(done)
    assert state.name == "stale" and "its weights" in state.why


def test_predictions_have_changed(done):
    path = predictions_file(done.config, "val")
    path.write_bytes(path.read_bytes() + b" ")
    state = state_of(done)
    assert state.name == "stale" and "reads it anew" in state.why


def test_a_fresh_checkout(done):
    """With the committed record it is committed; without its weights its figures are kept."""
    shutil.rmtree(run_folder(done.config).parent)
    recorded = read_records(runs.records_file("smoke"))
    assert done.config.run_id in recorded and state_of(done).name == "committed"
    runs.restore_records([done.config])
    assert state_of(done).name == "done"
    weights_file(done.config).unlink()
    assert state_of(done).name == "kept"


def test_code_is_what_counts(tmp_path):
    """Not comments, docstrings and layout; a moved statement and another constant do."""
    code = 'def f(a, b=0):\n    """Add."""\n    if a:\n        x = 1\n        y = 2\n    return a + b\n'
    same = 'def f(a,  b = 0):  # adds\n    """Adds two."""\n\n    if a:\n        x = 1; y = 2\n    return (a + b)\n'
    changes = [
        ("b=0", "b=0.0"),
        ("a + b", "a - b"),
        ("        y", "    y"),
        ("        y", "    else:\n        y"),
        ("1", "True"),
    ]
    others = [code.replace(*change) for change in changes]
    hashes = {runs._code_hash(text) for text in (code, same)}
    assert len(hashes) == 1 and len(hashes | {runs._code_hash(text) for text in others}) == 1 + len(others)


def test_the_modules_that_numbers_come_from_exist():
    assert all(len(code_versions(modules)) == len(modules) for modules in (runs.TRAINED_BY, runs.READ_BY))


def test_the_command(done, capsys):
    """Counts that add up, and not a file more or less."""
    files = lambda: {path: path.stat().st_mtime_ns for path in run_folder(done.config).rglob("*")}  # noqa: E731
    before = files()
    assert main(["sweep", "--preset", "smoke", "--status"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    counts = {line[:10].strip(): int(line[10:15]) for line in lines if line[:10].strip() in STATES}
    assert counts == {"begun": 1, "to do": 17} and int(total.split()[1]) == 18  # it was not read on test
    assert files() == before


def test_every_state_is_shown(monkeypatch, study_root):
    shown = []
    cells = select(parse(["sweep", "--preset", "smoke", "--task", "jpeg"])[1])
    assert PRESETS["smoke"] and len(cells) == 6
    show_status(cells, shown.append)
    assert shown == [f"{'to do':10s}{6:5d}  {STATES['to do']}", f"{'together':10s}{6:5d}"]
