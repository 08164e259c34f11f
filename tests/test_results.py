"""Results as data: tidy rows, CSV files, predictions files."""

import contextlib
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rastudy.config import Config, make_config
from rastudy.errors import StudyError
from rastudy.evaluation.predictions import (
    COLUMNS,
    KEY,
    Predictions,
    load_csv,
    load_predictions,
    load_results,
    load_run,
    predictions_file,
    results_file,
    save_predictions,
    tidy_rows,
)
from rastudy.grid import grid
from rastudy.paths import write_csv
from rastudy.report.claims import STUDIES
from rastudy.training.run_store import read_records
from rastudy.transfer.directions import DIRECTIONS, runs

ROOT = Path(__file__).parents[1]

N = 45
TARGETS = {"resnet18_small": "digits:aaaa", "vgg16_bn_small": "digits:bbbb", "densenet121_small": "digits:cccc"}


def hand_made(config: Config, split: str = "test", seed: int = 0) -> Predictions:
    """Random figures of 45 pictures in groups of 3, read by three R's."""
    rng = np.random.default_rng(seed)
    top5 = np.stack([[rng.permutation(10)[:5] for _ in range(N)] for _ in TARGETS]).astype(np.uint16)
    top1_float = np.where(rng.random(top5.shape[:2]) < 0.1, rng.integers(0, 10, top5.shape[:2]), top5[:, :, 0])
    arrays = {"top5": top5, "top1_float": top1_float.astype(np.uint16), "label": rng.integers(0, 10, N).astype(np.uint16),
              "group": (np.arange(N) // 3).astype(np.int32)}  # fmt: skip
    for suffix in ("", "_transformed") if config.mode == "ra_transformer" else ("",):
        arrays |= {f"{name}{suffix}": rng.uniform(0.01, 0.2, N) for name in ("mse", "ssim", "ssim_release")}
    about = {"config": config.science(), "run_id": config.run_id, "split": split, "data": "d", "name": config.dataset,
             "targets": TARGETS}  # fmt: skip
    return Predictions(about, arrays)


@pytest.mark.parametrize("mode", ["plain", "ra", "ra_transformer", "none", "clean"])
def test_rows_have_exactly_the_columns(mode):
    """Whatever the mode; a row per metric of the picture and three per R, keys unique."""
    config = make_config("smoke", "dn", mode)
    rows = tidy_rows(hand_made(config))
    assert {frozenset(row) for row in rows} == {frozenset(COLUMNS)}
    images = {"clean": 0, "ra_transformer": 8}.get(mode, 4)
    assert len(rows) == images + 3 * len(TARGETS)
    assert len({tuple(row[name] for name in KEY) for row in rows}) == len(rows)
    row = rows[-1]
    assert (row["run_id"], row["preset"], row["task"], row["mode"]) == (config.run_id, "smoke", "dn", mode)
    assert (row["strength"], row["n_images"], row["n_groups"], row["split"]) == (config.strength, N, 15, "test")
    assert row["source_arch"] == ("resnet18_small" if mode.startswith("ra") else "-")
    assert row["processor"] == ("-" if mode in ("none", "clean") else "srresnet")
    assert row["ra_weight"] == config.ra_weight and row["epochs"] == (0 if mode in ("none", "clean") else config.epochs)


def test_values_agree_with_direct_computation():
    """Accuracies in percent, PSNR as the mean over pictures, the release's from batches of 20."""
    predictions = hand_made(make_config("smoke", "sr", "ra_transformer"))
    arrays = predictions.arrays
    values = {(row["target_arch"], row["metric"]): row["value"] for row in tidy_rows(predictions)}
    for r, arch in enumerate(TARGETS):
        label, top5 = arrays["label"].tolist(), arrays["top5"][r].tolist()
        assert values[arch, "top1"] == pytest.approx(100 * sum(row[0] == k for row, k in zip(top5, label)) / N)  # noqa: B905
        read = arrays["top1_float"][r].tolist()
        assert values[arch, "top1_float"] == pytest.approx(100 * sum(a == k for a, k in zip(read, label)) / N)  # noqa: B905
        assert values[arch, "top5"] == pytest.approx(100 * sum(k in row for row, k in zip(top5, label)) / N)  # noqa: B905
    for suffix in ("", "_transformed"):
        mse = arrays[f"mse{suffix}"]
        assert values["-", f"psnr{suffix}"] == pytest.approx(np.mean([10 * np.log10(1 / x) for x in mse]))
        batches = [mse[:20], mse[20:40], mse[40:]]
        release = sum(len(batch) * 10 * np.log10(1 / batch.mean()) for batch in batches) / N
        assert values["-", f"psnr{suffix}_release"] == pytest.approx(release)
        for name in ("ssim", "ssim_release"):
            assert values["-", f"{name}{suffix}"] == pytest.approx(arrays[f"{name}{suffix}"].mean())


def test_csv_round_trip(tmp_path):
    """What is read is what was written, to the last bit; no file but the one."""
    rows = tidy_rows(hand_made(make_config("smoke", "jpeg", "ra")))
    write_csv(tmp_path / "rows.csv", rows, COLUMNS)
    table = load_csv(tmp_path / "rows.csv")
    assert tuple(table.columns) == COLUMNS
    assert table.to_dict("records") == [{name: row[name] for name in COLUMNS} for row in rows]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_predictions_round_trip(tmp_path):
    """Arrays keep values and types, ``about`` its order of R's."""
    predictions = hand_made(make_config("smoke", "sr", "ra"))
    save_predictions(tmp_path / "p.npz", predictions.arrays, predictions.about)
    read = load_predictions(tmp_path / "p.npz")
    assert read.about == predictions.about and read.targets == list(TARGETS)
    assert read.arrays.keys() == predictions.arrays.keys()
    for name, array in predictions.arrays.items():
        assert read.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(read.arrays[name], array)


def test_same_content_gives_the_same_bytes(tmp_path):
    """CSV and npz alike: no time stamps."""
    predictions = hand_made(make_config("smoke", "sr", "ra"))
    for name in ("one", "other"):
        save_predictions(tmp_path / f"{name}.npz", predictions.arrays, predictions.about)
        write_csv(tmp_path / f"{name}.csv", tidy_rows(predictions), COLUMNS)
    for kind in ("npz", "csv"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"other.{kind}").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.npz") as file:
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def write_runs(*runs: tuple[Config, str]) -> None:
    write_csv(results_file("smoke"), [row for config, split in runs for row in tidy_rows(hand_made(config, split))], COLUMNS)


def test_results_are_of_all_runs(study_root):
    """Every row of every run and split."""
    configs = [make_config("smoke", task, "plain") for task in ("sr", "dn")]
    write_runs(*((config, split) for config in configs for split in ("val", "test")))
    table = load_results("smoke")
    assert len(table) == 2 * 2 * (4 + 3 * len(TARGETS))
    assert set(zip(table["run_id"], table["split"], strict=True)) == {
        (config.run_id, split) for config in configs for split in ("val", "test")
    }


def test_a_run_that_is_there_twice_raises(study_root):
    """The message names a row."""
    config = make_config("smoke", "sr", "plain")
    write_runs((config, "test"))
    load_results("smoke")
    write_runs((config, "test"), (config, "test"))
    with pytest.raises(StudyError, match=f"share a key.*{re.escape(config.run_id)}"):
        load_results("smoke")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda t: pd.concat([t, t.iloc[:1]]), "share a key"),
        (lambda t: t.drop(columns="n_groups"), "columns"),
        (lambda t: t.assign(more=1), "columns"),
        (lambda t: t.assign(value=t["value"].where(t.index > 0)), "not a number"),
        (lambda t: t.assign(value=t["value"].astype(str).where(t.index > 0, "high")), "not a number"),
    ],
    ids=["duplicate", "column missing", "column more", "empty value", "text"],
)
def test_spoilt_tables_are_refused(study_root, spoil, message):
    """The message names the file."""
    config = make_config("smoke", "sr", "plain")
    write_runs((config, "test"))
    path = results_file("smoke")
    spoil(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(StudyError, match=message) as caught:
        load_results("smoke")
    assert str(path) in str(caught.value)


def test_no_results_yet(study_root):
    """The message names the command."""
    with pytest.raises(StudyError, match="rastudy sweep --preset smoke"):
        load_results("smoke")
    with pytest.raises(StudyError, match="rastudy sweep"):
        load_predictions(predictions_file(make_config("smoke", "sr"), "test"))


@pytest.mark.parametrize("preset", STUDIES)
def test_every_record_is_of_a_run_that_there_is(preset):
    """No run of an earlier preset lies among the records: each is of the grid or of a direction of transfer, or its start."""
    asked = [run.config for run in grid(preset, full=True)]
    for name in DIRECTIONS:
        with contextlib.suppress(StudyError):  # a direction that the study does not have
            asked += [run.config for run in runs(preset, name)]
    there = {run.run_id for config in asked for run in config.chain}
    for path in (ROOT / "results" / preset / "transfer").glob("*.npz"):
        read = {run for variant in load_predictions(path).about.values() for run in variant}
        assert read <= {run.config.run_id for run in runs(preset, path.stem)}, path.name
    assert not sorted(set(read_records(ROOT / "results" / preset / "records.json")) - there)


def test_what_is_no_runs_predictions_is_refused(study_root):
    """Of another kind, of another version, or with arrays that do not fit together: by name, never as a KeyError."""
    config = make_config("smoke", "dn", "plain")
    path, found = predictions_file(config, "test"), hand_made(config)
    arrays, about = found.arrays, found.about
    newer = about | {"config": about["config"] | {"warmup": 5}}
    spoilt = {"no predictions of a run": (about, {k: v for k, v in arrays.items() if k != "group"}),
              "settings warmup of another version": (newer, arrays),
              "differ in number": (about, arrays | {"top5": arrays["top5"][:, :10]})}  # fmt: skip
    for message, (said, given) in spoilt.items():
        save_predictions(path, given, said)
        with pytest.raises(StudyError, match=message):
            load_run(path)
    save_predictions(path, arrays, about | {"data": "d"})
    assert load_run(path).targets == list(about["targets"])
