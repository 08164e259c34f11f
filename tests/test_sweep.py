"""The grid: what is in it, one small study from end to end, and what failures look like."""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest
from PIL import Image

from rastudy import __main__ as command_line
from rastudy import registry
from rastudy.analysis import style
from rastudy.analysis.tables import TABLES, load_table, main_table
from rastudy.boundaries import measure as boundaries
from rastudy.boundaries import tables as similarity
from rastudy.config import Config, check_typed, make_config
from rastudy.errors import StudyError
from rastudy.evaluation.predictions import (
    load_predictions,
    load_results,
    predictions_file,
    save_predictions,
)
from rastudy.grid import Run, grid, merge, product
from rastudy.presets import PRESETS, degradations, settings_of
from rastudy.report import notebooks
from rastudy.report.notebooks import READING
from rastudy.sweep import sweep as sweeps
from rastudy.sweep.sweep import gate_problem, select
from rastudy.training.train import train
from rastudy.training.weights import weights_file
from rastudy.transfer import tables as transfer
from rastudy.transfer.directions import runs

TASKS = ("sr", "dn", "jpeg")
FIVE = {"resnet18_small", "resnet50_small", "resnet101_small", "densenet121_small", "vgg16_bn_small"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sweep) -> SimpleNamespace:
    """The whole smoke study: its root, and what the sweep printed."""
    root = tmp_path_factory.mktemp("sweep")
    done = sweep(root, "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(root=root, stdout=done.stdout, stderr=done.stderr)


@pytest.fixture
def in_finished(finished, monkeypatch) -> Path:
    monkeypatch.setenv("RASTUDY_ROOT", str(finished.root))
    return finished.root


def run_sweep(words: list[str]) -> int:
    return command_line.main(["sweep", *words])


def parse(words: list[str]) -> argparse.Namespace:
    return command_line.parse(["sweep", *words])[1]


@pytest.fixture
def main(study_root, monkeypatch):
    """``rastudy sweep`` in an empty root, without a trace in this process."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(notebooks, "use_warm_kernels", lambda: None)  # it changes the environment
    yield run_sweep
    signal.signal(signal.SIGTERM, handler)


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


# --- one study from end to end


def test_the_sweep_prints_what_it_found(finished, in_finished):
    """The main table, and where everything lies; a clean screen otherwise."""
    assert main_table("smoke").to_string() in finished.stdout
    assert "18 runs, 0 finished, 18 to do, 2 at a time" in finished.stdout
    assert "[18/18]" in finished.stdout and "FAILED" not in finished.stdout
    for name in TABLES:
        assert f"results/smoke/{name}.csv" in finished.stdout
    assert not finished.stderr


def test_the_tables_have_every_row(in_finished):
    """3 tasks x 6 modes x 5 R's, with finite figures and their intervals."""
    accuracy = load_table("smoke", "accuracy")
    top1 = accuracy[accuracy["metric"] == "top1"]
    keys = list(zip(top1["task"], top1["mode"], top1["target_arch"], strict=True))
    assert len(keys) == len(set(keys)) == 3 * 6 * 5
    modes = (*registry.modes("baseline"), *registry.modes("paper"))
    assert set(keys) == {(task, mode, arch) for task in TASKS for mode in modes for arch in FIVE}
    for table in (accuracy, load_table("smoke", "gains")):
        assert np.isfinite(table[["value", "low", "high"]]).all(axis=None)
        assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    gains = load_table("smoke", "gains")
    assert len(gains) == 3 * 3 * 6 and gains["primary"].sum() == 3 * 2
    assert len(load_table("smoke", "kept")) == 3 * 3 and len(load_table("smoke", "tradeoff")) == 3 * 3
    rows = load_results("smoke")
    assert set(rows["split"]) == {"val", "test"} and rows["run_id"].nunique() == 18
    assert set(rows["n_images"]) == {60}


def test_plain_and_the_transformers_processor_agree(in_finished):
    """Across processes and notebooks too: the same PSNR and SSIM in every task."""
    table = load_table("smoke", "accuracy").set_index(["task", "mode", "metric"]).sort_index()
    for task in TASKS:
        for metric in ("psnr", "ssim"):
            plain, other = (table.loc[(task, mode, metric), "value"].item() for mode in ("plain", "ra_transformer"))
            assert plain == other


@pytest.mark.parametrize("name", READING)
def test_reading_notebooks_are_executed(in_finished, name):
    """Every code cell, in order, without error or warning."""
    notebook = nbformat.read(in_finished / "runs" / "smoke" / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert f"run      {make_config('smoke', 'jpeg').run_id}" in printed and "missing" not in printed


def test_every_run_keeps_its_notebook(in_finished):
    """Executed, and none is running or failed."""
    for cell in grid("smoke"):
        folder = in_finished / "runs" / "smoke" / cell.config.run_id
        assert [path.name for path in folder.glob("*.ipynb")] == ["01_train.ipynb"]
        notebook = nbformat.read(folder / "01_train.ipynb", as_version=4)
        text = "".join(str(output) for c in notebook.cells if c.cell_type == "code" for output in c.outputs)
        assert cell.config.run_id in text and "'error'" not in text


def test_figures_are_written(in_finished):
    """Each figure that a notebook names, readable, and with a picture in it."""
    found = {path.stem: path for path in (in_finished / "figures" / "smoke").glob("*.png")}
    assert found.keys() >= {"degradations", "strengths", "accuracy", "gains", "matrix", "paper", "restored_jpeg", "curves",
                            "tradeoff"}  # fmt: skip
    for name, path in found.items():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 80 and pixels.std() > 5, name


def test_the_sweep_of_boundaries(in_finished):
    """The last task's boundaries: every direction and R, distances and shares within what they can be, and the way's ends."""
    base = boundaries.load_predictions(in_finished / "results" / "smoke" / "boundaries" / "jpeg4.npz").about
    found = {name: similarity.load_table("smoke", name) for name in similarity.TABLES}
    reached = found["boundary_distances"].query("metric == 'reached' and reader != 'mean_unseen'")
    assert set(reached["along"]) == set(base["directions"]) and set(reached["reader"]) == set(FIVE) and len(reached) >= 11 * 5
    assert reached["value"].between(0, 100).all() and (reached["low"] <= reached["value"]).all()
    kappa = found["boundary_planes"].query("metric == 'kappa' and along == 'all'")
    assert len(kappa) == 10 and kappa["value"].max() <= 1
    way = found["boundary_path"].query("metric == 'top1' and along == '0'").set_index("reader")["value"]
    plain = load_predictions(predictions_file(make_config("smoke", "jpeg", "plain"), "test"))
    for name, hits in zip(plain.targets, plain.hits_float(), strict=True):
        assert way[name] == pytest.approx(100 * hits[: base["n"]].mean())
    assert not found["boundary_explains"].empty or found["boundary_points"]["gain"].notna().any()


def test_the_sweep_of_transfer(in_finished, sweep):
    """A direction's notebook reads the runs that are there, writes table and figure; a second call reads nothing again."""
    done = sweep(in_finished, "--direction", "upload", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "0 to do" in done.stdout and "upload: results/smoke/transfer_upload.csv" in done.stdout and not done.stderr
    table = transfer.load_table("smoke", "upload")
    assert len(table) == 6 * 3 * 3 * 6 and (in_finished / "figures" / "smoke" / "transfer_upload.png").stat().st_size > 10_000
    before = snapshot(in_finished / "results" / "smoke" / "transfer")
    assert [path.name for path in before] == ["upload.npz"]
    again = sweep(in_finished, "--direction", "upload")
    assert "0 predictions written" in again.stdout and snapshot(in_finished / "results" / "smoke" / "transfer") == before


def test_the_report_of_the_sweep(in_finished, monkeypatch):
    """One file, with the smoke study's tables, every figure and the gallery's pictures."""
    monkeypatch.setattr(style, "DPI", 80)
    assert command_line.main(["report", "--preset", "smoke"]) == 0
    html = (in_finished / "runs" / "report.html").read_text()
    figures = sorted(path.name for path in (in_finished / "figures" / "smoke").glob("*.png"))
    assert sorted(re.findall(r'data-file="figures/smoke/([^"]+)"', html)) == figures and len(html) < 10_000_000
    assert {"turned.png", "turned_jpeg_resnet18_small.png", "turned_sr_resnet50_small.png"} <= set(figures)
    assert "findings in words are about the committed studies" in html and "RA: gain of the source" in html


def test_a_run_of_the_sweep_is_that_of_train(in_finished, tmp_path, monkeypatch):
    """Bit for bit, although its kernel is a fork and this process is not."""
    config = make_config("smoke", "jpeg", "ra")
    of_the_sweep = weights_file(config).read_bytes()
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path))
    train(config, log=lambda line: None)
    assert weights_file(config).is_relative_to(tmp_path) and weights_file(config).read_bytes() == of_the_sweep


def processes_of(root: Path) -> list[psutil.Process]:
    """Those that work in a root."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RASTUDY_ROOT") == str(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


START, TRAINING = "*.running.ipynb", "config.json"  # what lies there when the kernel starts, and when it trains


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, code, sign",
    [("SIGINT", 130, TRAINING), ("SIGTERM", 143, TRAINING), ("SIGTERM", 143, START), ("SIGKILL", -9, TRAINING)],
)
def test_an_interruption_ends_at_once(tmp_path, name, code, sign):
    """While a run trains, and while its kernel starts: no process stays behind, and nothing looks finished."""
    words = "rastudy sweep --preset digits --task jpeg --mode plain --jobs 1"
    arguments = [sys.executable, "-m", *words.split()]
    environment = os.environ | {"RASTUDY_ROOT": str(tmp_path), "OMP_NUM_THREADS": "1"}
    # a shell's background jobs ignore SIGINT, and their children do, too
    restore = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=restore) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob(sign)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert list(tmp_path.rglob(sign))
        process.send_signal(getattr(signal, name))
        process.wait(timeout=60)
        deadline = time.monotonic() + 60
        while processes_of(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not processes_of(tmp_path)
        message = process.stderr.read()
    assert process.returncode == code and ("goes on from here" in message) == (name == "SIGINT")
    assert not list(tmp_path.rglob("trained.json")) and not list(tmp_path.rglob("01_train.ipynb"))


def test_a_fresh_checkout_may_keep_committed_runs(finished, tmp_path, sweep):
    """Given ``--keep-committed``, runs whose files are those of their records are finished; a changed file's run is not."""
    shutil.copytree(finished.root / "results", tmp_path / "results")
    states = {}
    for name, flags in {"plainly": [], "kept": ["--keep-committed"]}.items():
        done = sweep(tmp_path, "--dry-run", *flags)
        assert done.returncode == 0, done.stderr
        states[name] = {named(line): line.startswith("done") for line in done.stdout.splitlines()}
    assert not any(states["plainly"].values()) and all(states["kept"].values())
    shutil.rmtree(tmp_path / "runs")
    jpeg = make_config("smoke", "jpeg", "ra")
    weights = tmp_path / "results" / "smoke" / "weights" / f"{jpeg.run_id}.processor.safetensors"
    shutil.copy(weights.with_name(f"{make_config('smoke', 'jpeg', 'plain').run_id}.processor.safetensors"), weights)
    done = sweep(tmp_path, "--dry-run", "--keep-committed")
    assert [named(line) for line in done.stdout.splitlines() if line.startswith("to do")] == [jpeg.run_id]


def named(line: str) -> str:
    """The run that a line of the dry run is about."""
    return line.removeprefix("to do").removeprefix("done").split()[0]


def test_a_second_call_trains_nothing(in_finished, sweep):
    """Everything is found finished; evidence, weights and tables keep their bytes, notebooks are not executed again."""
    results, runs = in_finished / "results", in_finished / "runs"
    before, content = snapshot(runs), {path: path.read_bytes() for path in snapshot(results)}
    done = sweep(in_finished, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "18 runs, 18 finished, 0 to do" in done.stdout and "notebooks: up to date" in done.stdout
    assert main_table("smoke").to_string() in done.stdout
    assert snapshot(runs) == before
    assert {path: path.read_bytes() for path in snapshot(results)} == content


def test_a_finished_study_is_listed_as_done(in_finished, capsys):
    before = snapshot(in_finished)
    assert run_sweep(["--preset", "smoke", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 18 and all(line.startswith("done ") for line in lines)
    assert snapshot(in_finished) == before


@pytest.mark.slow
@pytest.mark.parametrize("part", [
    ["--set", "test_images=30", "--task", "jpeg", "--mode", "none", "plain", "ra"], ["--task", "sr", "--mode", "ra"],
    ["--set", "channels=4", "--task", "dn", "--mode", "plain", "ra_unsupervised"], ["--task", "jpeg", "--mode", "clean"],
], ids=" ".join)  # fmt: skip
def test_a_part_of_the_grid_goes_to_its_end(tmp_path, sweep, part):
    """Tables and notebooks say what is missing, and no figure is made of nothing."""
    done = sweep(tmp_path, "--jobs", "2", *part)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "smoke" / "gains.csv").is_file()
    notebook = (tmp_path / "runs" / "smoke" / "notebooks" / "02_cross_architecture.ipynb").read_text()
    assert "image/png" in notebook and '"output_type": "error"' not in notebook
    figures = {path.stem for path in (tmp_path / "figures" / "smoke").glob("*.png")}
    own = "--set" not in part  # runs with the preset's settings: their accuracy is drawn, but no gain without plain
    assert "strengths" in figures and ("accuracy" in figures) == own and "gains" not in figures
    assert ("no run has smoke's own settings" in done.stdout) != own


# --- dry run, misuse, failures


@pytest.mark.slow
def test_a_dry_run_writes_nothing(main, study_root, capsys):
    """It lists every run with its splits, and stops."""
    assert main(["--preset", "smoke", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert "18 runs of 18" in printed.err and "about 0.0 hours of one process here" in printed.err
    lines = [line.split() for line in printed.out.splitlines()]
    assert [line[:2] for line in lines] == [["to", "do"]] * 18
    assert {(line[2], line[3]) for line in lines} == {(cell.config.run_id, "val+test") for cell in grid("smoke")}
    assert not any(study_root.iterdir())


@pytest.mark.parametrize(
    "arguments, allowed",
    [
        (["--task", "blur"], "sr, dn, jpeg"),
        (["--mode", "plian"], "plain, ra, ra_transformer, ra_unsupervised"),
        (["--preset", "smok"], "digits"),
        (["--processor", "unet"], "srresnet, srdensenet, resnet_generator"),
    ],
    ids=["task", "mode", "preset", "processor"],
)
def test_unknown_names_exit_2(main, study_root, capsys, arguments, allowed):
    """With the allowed names, before anything is written."""
    assert main(["--preset", "smoke", *arguments]) == 2
    error = capsys.readouterr().err
    assert arguments[1] in error and allowed in error and "Traceback" not in error
    assert not any(study_root.iterdir())


def test_a_failing_run_is_named(in_finished, sweep):
    """Exit 1; the run, why, and its failed notebook; what is finished stays as it is."""
    before = snapshot(in_finished / "results" / "smoke" / "predictions")
    done = sweep(in_finished, "--task", "sr", "--mode", "ra", "--ra-weight", "1e39", "--jobs", "1")
    run_id = make_config("smoke", "sr", "ra", ra_weight=1e39).run_id
    failed = in_finished / "runs" / "smoke" / run_id / "01_train.failed.ipynb"
    assert done.returncode == 1, done.stderr
    assert f"failed: {run_id}" in done.stderr and "not finite at epoch 1" in done.stderr and str(failed) in done.stderr
    assert failed.is_file() and [path.name for path in failed.parent.glob("*.ipynb")] == [failed.name]
    assert f"{run_id} FAILED" in done.stdout and "Traceback" not in done.stderr
    assert snapshot(in_finished / "results" / "smoke" / "predictions") == before


def test_runs_are_named_where_every_one_failed(main, monkeypatch, capsys):
    """Without any predictions, too, the failures are what is reported."""
    monkeypatch.setattr(sweeps, "run_all", lambda *args, **kwargs: {"sr4-ra-x": "StudyError: its reason"})
    assert main(["--preset", "smoke", "--task", "sr", "--mode", "ra"]) == 1
    error = capsys.readouterr().err
    assert "sr4-ra-x" in error and "its reason" in error


def test_a_notebook_that_only_ended_is_a_failure(main, study_root, monkeypatch):
    """A run counts as done when its files are there, not when its notebook ended."""
    monkeypatch.setattr(sweeps, "execute", lambda *args: "")
    cells = [cell for cell in grid("smoke") if cell.config.mode == "none"][:1]
    failures = sweeps.run_all(cells, 1, log=lambda line: None)
    assert list(failures) == [cells[0].config.run_id] and "not finished" in failures[cells[0].config.run_id]


# --- the grid


@pytest.mark.parametrize("preset", PRESETS)
def test_the_full_grid(preset):
    """No run twice; what the rule chooses from is read on validation only, and so is plain whose gate is closed."""
    if "full" not in PRESETS[preset]:
        pytest.skip(f"the preset {preset} has no full grid")
    cells = grid(preset, full=True)
    ids = [cell.config.run_id for cell in cells]
    assert len(ids) == len(set(ids))
    by_id = {cell.config.run_id: cell for cell in cells}
    assert by_id.keys() >= {cell.config.run_id for cell in grid(preset)}
    only_val = 0
    for cell in cells:
        config = cell.config
        own = settings_of(preset, config.task, config.strength)
        control = config.source_arch.endswith("_untrained")  # whose second weight nothing is chosen from
        chosen = control or config.ra_weight == own["ra_weights"].get(config.mode, 0.0)
        rate = config.mode != "ra_transformer" or config.transformer_lr == own.get("transformer_lr", 0.0)
        diverges = (config.task, config.mode, config.seed) == ("sr", "plain", 1) and config.schedule == "through"
        assert ("test" in cell.splits) == (chosen and rate and not diverges), config.run_id
        assert "val" in cell.splits or config.seed, config.run_id
        only_val += not chosen
    grids = [axes for axes in PRESETS[preset]["full"] if "weights" in axes and "sources" not in axes]
    if not grids:  # the paper's weights: nothing is chosen
        assert not only_val
        return
    asked = lambda axes: [key for task in axes.get("tasks", ("",)) for key in degradations(preset, task)]  # noqa: E731
    swept = {(mode, key, weight) for axes in grids for mode in axes["modes"] for key in asked(axes)
             for weight in axes["weights"] if key[1] in axes.get("strengths", (key[1],))}  # fmt: skip
    assert only_val == sum(weight != settings_of(preset, *key)["ra_weights"][mode] for mode, key, weight in swept) > 0
    cycles = [cell.config for cell in cells if cell.config.mode == "plain" and not cell.config.pretrain_epochs]
    if PRESETS[preset].get("schedule") == "through":  # plain is one cycle itself
        assert not cycles
        return
    assert {(c.task, c.strength) for c in cycles} == set(degradations(preset))  # the control for the schedule
    for config in cycles:
        two = settings_of(preset, config.task, config.strength)
        assert config.epochs == two["pretrain_epochs"] + two["epochs"] and config.lr == PRESETS[preset]["pretrain_lr"]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_notebook_parameters_name_the_same_run(preset, full):
    """What the sweep hands to notebook 01 gives the run id it waits for, as plain JSON values."""
    if full and "full" not in PRESETS[preset]:
        pytest.skip(f"the preset {preset} has no full grid")
    for cell in grid(preset, full=full):
        parameters = dict(cell.parameters)
        assert parameters.pop("evaluate_on") == ",".join(cell.splits)
        assert all(type(value) in (int, float, str) for value in parameters.values())
        assert check_typed(parameters) == cell.config  # nor does any of them do nothing


@pytest.mark.parametrize(("preset", "direction"), [("cifar10", "datasets"), ("digits", "detection")])
def test_directions_parameters_name_the_same_run(preset, direction):
    """Baselines of other data, whose training pictures change nothing; detectors, whose settings fit together alone."""
    for run in runs(preset, direction):
        given = {name: value for name, value in run.parameters.items() if name != "evaluate_on"}
        assert check_typed(given).run_id == run.config.run_id


def test_the_test_pictures_can_be_left_unread():
    """``--split val``: every run that is read there, on validation alone; ``--split test`` leaves the weight grid out."""
    val = select(parse(["--full", "--split", "val"]))
    assert {cell.splits for cell in val} == {("val",)}
    assert [cell.config for cell in val] == [cell.config for cell in grid("digits", full=True) if "val" in cell.splits]
    test = select(parse(["--full", "--split", "test"]))
    grids = {cell.config.run_id for cell in grid("digits", full=True) if cell.splits == ("val",)}
    assert (
        {cell.splits for cell in test} == {("test",)} and not grids & {cell.config.run_id for cell in test} and len(grids) > 20
    )
    with pytest.raises(StudyError, match="split='train' is unknown; use one of val, test"):
        select(parse(["--split", "train"]))


def test_the_full_grid_can_be_run_in_parts():
    """What is named narrows it; RA's baselines stay: no processing, clean, and plain beside a named mode or source."""
    whole = {cell.config.run_id: cell for cell in select(parse(["--full"]))}
    part = select(parse(["--full", "--task", "jpeg", "--mode", "ra", "--seed", "0"]))
    assert {c.config.run_id for c in part} == {
        run_id for run_id, c in whole.items()
        if (c.config.task, c.config.seed) == ("jpeg", 0) and c.config.mode in (*registry.modes("baseline"), "plain", "ra")
    }  # fmt: skip
    assert all(whole[c.config.run_id] == c for c in part) and len(part) > 6  # the weight grid and the matrix among them
    assert {(c.config.mode, c.config.seed) for c in select(parse(["--full", "--seed", "1"]))} == {
        *((mode, 1) for mode in registry.modes("paper")), *((mode, 0) for mode in registry.modes("baseline"))
    }  # fmt: skip
    source = {c.config.mode: c.config.source_arch for c in select(parse(["--full", "--source-arch", "vgg16_bn_small"]))}
    assert source == {"none": "-", "clean": "-", "plain": "-", "ra": "vgg16_bn_small"}
    alias, name = (select(parse(["--full", "--mode", mode])) for mode in ("ra_transform", "ra_transformer"))
    assert alias == name and "ra_transformer" in {c.config.mode for c in alias}


@pytest.mark.parametrize(
    "arguments", [["--task", "deblur"], ["--mode", "raa"], ["--seed", "7"], ["--source-arch", "vgg"], ["--ra-weight", "0.5"]]
)
def test_what_the_full_grid_lacks_is_refused(arguments):
    """A part that selects nothing would end as if it were done."""
    with pytest.raises(StudyError, match=f"{arguments[1]}.* is unknown; use one of"):
        select(parse(["--full", *arguments]))


def test_a_run_of_other_options_is_told_from_a_typo():
    """``--run`` takes what ``--list`` printed, with its options; twice is once."""
    here, full = ({run.config.run_id for run in select(parse(words))} for words in ([], ["--full"]))
    name = sorted(full - here)[0]
    assert [run.config.run_id for run in select(parse(["--full", "--run", name, name]))] == [name]
    with pytest.raises(StudyError, match=f"{re.escape(name)}.* is none of the 18 runs of these options; .*--full"):
        select(parse(["--run", name]))


def test_full_adds_seeds_sources_and_processors():
    """Five seeds of every mode, every R as the source, and every other processor beside its plain."""
    cells = grid("digits", full=True)
    seeds = {task: (0, 2, 3, 4, 5) if task == "sr" else (0, 1, 2, 3, 4) for task in TASKS}
    read = {
        (c.config.task, c.config.mode, c.config.seed) for c in cells if c.config.processor == "srresnet" and "test" in c.splits
    }
    assert {(task, mode, seed) for task in TASKS for mode in registry.modes("paper") for seed in seeds[task]} <= read
    assert {c.config.source_arch for c in cells if c.config.mode == "ra" and c.config.task == "sr"} == FIVE
    others = {(c.config.processor, c.config.task, c.config.mode) for c in cells if c.config.processor != "srresnet"}
    assert {("srdensenet", "sr"), ("resnet_generator", "dn"), ("resnet_generator", "jpeg")} == {
        (name, task) for name, task, mode in others if mode not in registry.modes("baseline")
    }
    for name, task, mode in others:
        assert registry.is_baseline(mode) or (name, task, {"plain": "ra", "ra": "plain"}[mode]) in others


def test_the_dry_run_foretells_the_hours():
    """A run costs what it trains for and what is read; RA finds its pretraining done."""
    plain, ra, none = (Run(make_config("digits", "sr", mode), ("val", "test")) for mode in ("plain", "ra", "none"))
    assert none.cost < ra.cost and none.cost < plain.cost
    assert Run(plain.config, ("val",)).cost < plain.cost
    longer = Run(make_config("digits", "sr", "ra", epochs=2 * ra.config.epochs), ra.splits)
    assert longer.cost - none.cost == pytest.approx(2 * (ra.cost - none.cost))
    from_scratch = Run(make_config("digits", "sr", "plain", pretrain_epochs=0, epochs=5), plain.splits)
    assert plain.config.pretrain_epochs + plain.config.epochs == 5 and from_scratch.cost == pytest.approx(plain.cost)


def test_controls_are_axes():
    """Labels, budgets and strengths multiply the grid; what the sweep hands to notebook 01 names the same run."""
    cells = product("digits", ("sr",), ("ra",), labels=("shuffled",), budgets=(2,), strengths=(4.0,))
    settings = settings_of("digits", "sr", 4.0)
    (config,) = (cell.config for cell in cells)
    assert (config.labels, config.epochs, config.pretrain_epochs) == (
        "shuffled", 2 * settings["epochs"], 2 * settings["pretrain_epochs"]
    )  # fmt: skip
    assert not product("digits", ("sr",), ("ra",), strengths=(2.0,))
    parameters = cells[0].parameters
    parameters.pop("evaluate_on")
    assert make_config(**parameters) == config


def test_a_run_asked_for_twice_is_evaluated_on_all_its_splits():
    config = make_config("smoke", "sr", "ra")
    (cell,) = merge([Run(config, ("val",)), Run(config, ("test",)), Run(config, ("val",))])
    assert cell.splits == ("val", "test")


# --- the gate before recognition-aware runs


def read(config: Config, split: str, psnr: float, n: int = 4, flat: bool = False) -> None:
    """Predictions of ``n`` pictures restored at so many dB; ``flat``: and one restored without an error."""
    mse = np.r_[np.full(n, 10 ** (-psnr / 10)), np.zeros(int(flat))]
    n = len(mse)
    arrays = {"top5": np.zeros((1, n, 5), np.uint16), "top1_float": np.zeros((1, n), np.uint16), "label": np.zeros(n),
              "group": np.arange(n), "mse": mse, "ssim": np.ones(n), "ssim_release": np.ones(n)}  # fmt: skip
    about = {"config": config.science(), "run_id": config.run_id, "split": split, "data": "d", "name": "digits",
             "targets": {"resnet18_small": "w"}}  # fmt: skip
    save_predictions(predictions_file(config, split), arrays, about)


@pytest.mark.parametrize("settings", [{}, {"test_images": 100}, {"val_images": 200}, {"seed": 1, "channels": 8}], ids=str)
@pytest.mark.parametrize("gain, opens", [(0.6, True), (0.4, False), (-1.0, False)])
def test_the_gate(study_root, gain, opens, settings):
    """Plain must beat no processing by 0.5 dB on validation, with the run's own settings; test figures have no say."""
    none, plain, ra = (make_config("digits", "sr", mode, **settings) for mode in ("none", "plain", "ra"))
    for config, psnr in ((none, 20.0), (plain, 20.0 + gain)):
        read(config, "val", psnr)
        read(config, "test", 20.0)
    problem = gate_problem(ra)
    assert bool(problem) != opens and (opens or ("does not beat no processing" in problem and plain.run_id in problem))
    assert not gate_problem(plain) and not gate_problem(none)


@pytest.mark.parametrize("missing", ["none", "plain"])
def test_a_gate_that_cannot_be_checked_is_closed(study_root, missing):
    """And a sweep reads what is missing itself."""
    runs = {mode: make_config("digits", "sr", mode, test_images=100) for mode in ("none", "plain", "ra")}
    for mode in {"none", "plain"} - {missing}:
        read(runs[mode], "val", 30.0)
    assert runs[missing].run_id in gate_problem(runs["ra"])
    asked = sweeps.with_gates([Run(runs["ra"], ("test",))])
    assert [(run.config.run_id, run.splits) for run in asked[1:]] == [(runs[missing].run_id, ("val",))]


def test_a_flat_picture_does_not_close_the_gate(study_root):
    """A picture that bicubic upsampling restores without an error has no infinite say in the mean."""
    none, plain, ra = (make_config("digits", "sr", mode) for mode in ("none", "plain", "ra"))
    read(none, "val", 20.0, n=400, flat=True), read(plain, "val", 21.0, n=401)
    assert not gate_problem(ra)


def test_a_closed_gate_costs_its_own_runs_alone(study_root, monkeypatch):
    """They fail with the reason; another task's are trained."""
    monkeypatch.setattr(sweeps, "_run_one", lambda run: ("", 0.0))
    asked = [Run(make_config("digits", task, mode), ("val",)) for task in ("sr", "dn") for mode in ("none", "plain", "ra")]
    for run in asked:
        if run.config.mode != "ra":
            read(run.config, "val", 30.0 if (run.config.task, run.config.mode) == ("dn", "plain") else 20.0)
    told: list[str] = []
    failures = sweeps.run_all(asked, 1, told.append)
    assert list(failures) == [asked[2].config.run_id] and any(asked[5].config.run_id in line for line in told)


@pytest.mark.parametrize("dataset, size", [("scenes", 96), ("digits_first", 32)])
def test_the_gate_of_other_data(study_root, dataset, size, monkeypatch):
    """Runs that nobody reads at home have it, too: their P is measured on their own validation pictures."""
    settings = {"dataset": dataset, "image_size": size, "train_images": 32, "val_images": 20, "pretrain_epochs": 0, "lr": 1e-9}
    source = "fcos_small" if dataset == "scenes" else ""
    none, plain, ra = (make_config("digits", "dn", mode, source_arch=source, **settings) for mode in ("none", "plain", "ra"))
    assert plain.run_id in gate_problem(ra)  # it is not trained yet
    train(plain, lambda _line: None)
    assert "does not beat no processing" in gate_problem(ra)  # such a P has learned nothing
    noise = sweeps.psnr_on_validation(none)
    assert noise == pytest.approx(15.5, abs=0.5) and sweeps.psnr_on_validation(plain) < noise + 0.5
    monkeypatch.setattr(sweeps, "psnr_on_validation", {none: 20.0, plain: 20.6}.get)
    assert not gate_problem(ra) and not sweeps.with_gates([Run(ra, ())])[1:]


def test_smoke_has_no_gate(study_root):
    """Its runs are too short to pass one."""
    assert not any(gate_problem(run.config) for run in grid("smoke"))


def test_a_changed_package_executes_the_notebooks_again(in_finished, tmp_path, monkeypatch):
    """The stamp covers tables and curves: another figure in a table is another digest."""
    before = notebooks._inputs_digest("smoke")
    assert before == notebooks._inputs_digest("smoke")
    shutil.copytree(in_finished / "results", tmp_path / "results")
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path))
    assert notebooks._inputs_digest("smoke") == before
    path = tmp_path / "results" / "smoke" / "gains.csv"
    path.write_text(path.read_text().replace("ra_unsupervised", "ra_unsupervised ", 1))
    assert notebooks._inputs_digest("smoke") != before
