"""Evaluation: what R reads under each mode, independence of the batch size, skipping, and the command line."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from rastudy import registry
from rastudy.__main__ import main
from rastudy.analysis.comparisons import load_cells
from rastudy.analysis.tables import accuracy_rows
from rastudy.config import Config, make_config
from rastudy.data import digits
from rastudy.data import loaders as photos
from rastudy.data.datasets import PictureSet
from rastudy.data.degradations import round_to_8_bits, to_tensor, to_uint8
from rastudy.data.loaders import Loader
from rastudy.errors import StudyError
from rastudy.evaluation import evaluate, metrics
from rastudy.evaluation.evaluate import first_pictures, load_pictures, predict
from rastudy.evaluation.predictions import Predictions, load_predictions, predictions_file, save_predictions, tidy_rows
from rastudy.models.classifiers import load_classifier
from rastudy.models.processors import apply_processor
from rastudy.training.fit_classifiers import processed
from rastudy.training.run_store import run_folder
from rastudy.training.train import train
from rastudy.training.weights import build_models, load_models, save_weights, weights_file

TARGETS = ("resnet18_small", "vgg16_bn_small")


def small(mode: str = "ra", task: str = "sr", **overrides) -> Config:
    """A short run, read by two R's on 60 pictures."""
    sizes = {"train_images": 64, "epochs": 1, "transformer_blocks": 1, "target_archs": ",".join(TARGETS)}
    return make_config("smoke", task, mode, **(sizes | overrides))


def quiet(_: str) -> None:
    """No log."""


def targets():
    return [load_classifier(name, "digits") for name in TARGETS]


def untrained(config: Config):
    """P and T as they are initialised, in eval mode."""
    return [net if net is None else net.eval() for net in build_models(config)]


# --- what is computed


@pytest.mark.parametrize("mode, task", [("plain", "dn"), ("ra_transformer", "sr"), ("none", "jpeg")])
def test_nothing_depends_on_the_batch_size(monkeypatch, mode, task):
    """Quality, verdicts and logits at 7 and 60 pictures a batch."""
    config = small(mode, task)
    pictures, nets = load_pictures(config, "test"), untrained(small("plain" if mode == "none" else mode, task))
    found = {}
    for size in (7, 60):
        monkeypatch.setattr(photos, "EVALUATION_BATCH", size)
        found[size] = predict(config, pictures, targets(), *(nets if mode != "none" else ()))
    assert found[7].keys() == found[60].keys() and len(found[7]["label"]) == 60
    for name, one in found[7].items():
        other = found[60][name]
        assert one.dtype == other.dtype and one.shape == other.shape
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(one, other, err_msg=name)


@torch.inference_mode()
def test_logits_do_not_depend_on_the_batch_size():
    """Within 1e-4, for both R's."""
    config = small("plain")
    processor, _ = untrained(config)
    for target in targets():
        logits = []
        for size in (7, 60):
            batches = Loader(load_pictures(config, "test"), config.task, config.strength, size).ordered()
            logits.append(torch.cat([target(apply_processor(processor, b.lq, b.gt, config)) for b in batches]))
        torch.testing.assert_close(*logits, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_verdicts_are_those_of_the_restored_pictures():
    """Rounded to 8 bits, and P's floats beside them; best first; label and group are the set's."""
    config = small("plain")
    pictures, (processor, _) = load_pictures(config, "test"), untrained(config)
    arrays = predict(config, pictures, targets(), processor)
    batch = next(Loader(pictures, config.task, config.strength, 60).ordered())
    restored = processor(batch.lq)
    picture = torch.stack([to_tensor(to_uint8(p)) for p in restored])
    assert not torch.equal(picture, restored)
    for r, target in enumerate(targets()):
        expected = target(picture).argsort(1, descending=True)[:, :5]
        np.testing.assert_array_equal(arrays["top5"][r], expected)
        np.testing.assert_array_equal(arrays["top1_float"][r], target(restored).argmax(1))
    expected = ((picture - batch.gt).double() ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(arrays["mse"], expected, rtol=1e-6)
    np.testing.assert_array_equal(arrays["label"], pictures.labels)
    np.testing.assert_array_equal(arrays["group"], pictures.groups)


def test_without_the_floats(study_root):
    """A preset may leave the second reading out: the same verdicts, no figures of floats, and tables without them."""
    config = small("plain")
    pictures, (processor, _) = load_pictures(config, "test"), untrained(config)
    both, once = (predict(replace(config, floats=floats), pictures, targets(), processor) for floats in (True, False))
    assert both.keys() - once.keys() == {"top1_float"}
    np.testing.assert_array_equal(both["top5"], once["top5"])
    about = {"config": config.science(), "run_id": config.run_id, "split": "test", "name": "digits", "data": "d",
             "targets": {target.name: "w" for target in targets()}}  # fmt: skip
    rows = tidy_rows(Predictions(about, once))
    assert {row["metric"] for row in rows} >= {"top1", "top5", "psnr"} and "top1_float" not in {row["metric"] for row in rows}
    save_predictions(predictions_file(config, "test"), once, about)
    (cell,) = load_cells(config.preset, "test").values()
    assert {row["metric"] for row in accuracy_rows({cell.key: cell})} == {"top1", "psnr", "ssim"}


@pytest.mark.parametrize("task", ["sr", "dn", "jpeg"])
def test_no_processing(task):
    """sr: bicubic down and up, 8 bit; dn: the release's noise; jpeg: PIL's round trip."""
    config = small("none", task)
    pictures = load_pictures(config, "test")
    arrays = predict(config, pictures, targets())
    for k in range(0, 60, 7):
        gt, image = to_tensor(pictures.pictures[k]), Image.fromarray(pictures.pictures[k])
        if task == "sr":
            shown = to_tensor(np.asarray(image.resize((8, 8), Image.BICUBIC).resize((32, 32), Image.BICUBIC)))
        elif task == "dn":
            noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(k))
            shown = ((gt + config.strength * noise).clamp(0, 1) * 255).round() / 255
        else:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=int(config.strength))
            shown = to_tensor(np.asarray(Image.open(file)))
        assert arrays["mse"][k] == pytest.approx(float(((shown - gt).double() ** 2).mean()), rel=1e-5)
        verdicts = [int(target(shown[None]).argmax()) for target in targets()]
        assert arrays["top5"][:, k, 0].tolist() == verdicts


def test_processed_pictures_are_what_is_evaluated(study_root):
    """A picture set that R may be trained on: read as a clean one, it gives the run's own verdicts."""
    config = small("plain", train_images=64)
    train(config, quiet)
    pictures = load_pictures(config, "test")
    ordered = Loader(pictures, config.task, config.strength, 25).ordered()
    shown = processed(config, pictures, ordered)
    assert shown.pictures.dtype == np.uint8 and shown.pictures.shape == pictures.pictures.shape
    np.testing.assert_array_equal(shown.labels, pictures.labels)
    arrays = predict(config, pictures, targets(), load_models(config)[0])
    np.testing.assert_array_equal(predict(small("clean"), shown, targets())["top5"], arrays["top5"])
    dn = small("none", "dn")
    loader = Loader(pictures, "dn", dn.strength, 60)
    for batches, batch in ((loader.ordered(), next(loader.ordered())), (loader.epoch(0, 3), next(loader.epoch(0, 3)))):
        noisy = processed(dn, pictures, batches).pictures  # in the set's order, whatever that of the batches
        np.testing.assert_array_equal(noisy[batch.index], np.stack([to_uint8(p) for p in batch.lq]))


def test_clean_is_the_original():
    """No error, and R's own accuracy."""
    config = small("clean")
    pictures = load_pictures(config, "test")
    arrays = predict(config, pictures, targets())
    assert not arrays["mse"].any() and np.allclose(arrays["ssim"], 1)
    batch = torch.stack([to_tensor(picture) for picture in pictures.pictures])
    for r, target in enumerate(targets()):
        hits = target(batch).argmax(1).numpy() == pictures.labels
        assert hits.mean() > 0.7
        np.testing.assert_array_equal(arrays["top5"][r, :, 0] == pictures.labels, hits)
    np.testing.assert_array_equal(arrays["top1_float"], arrays["top5"][:, :, 0])


@torch.inference_mode()
def test_the_transformers_figures_have_names_of_their_own():
    """PSNR and SSIM stay those of P's picture, which people see; R reads T's."""
    config = small("ra_transformer", transformer="resnet_generator")  # another would be the identity
    pictures, (processor, transformer) = load_pictures(config, "test"), untrained(config)
    plain = predict(small("plain"), pictures, targets(), processor)
    arrays = predict(config, pictures, targets(), processor, transformer)
    for name in ("mse", "ssim", "ssim_release"):
        np.testing.assert_array_equal(arrays[name], plain[name])
        assert not np.allclose(arrays[f"{name}_transformed"], plain[name])
    batch = next(Loader(pictures, config.task, config.strength, 60).ordered())
    restored = processor(batch.lq)
    transformed = transformer(round_to_8_bits(restored))
    expected = metrics.mse_per_image(transformed, batch.gt)
    np.testing.assert_allclose(arrays["mse_transformed"], expected, rtol=1e-6)
    for r, target in enumerate(targets()):
        np.testing.assert_array_equal(arrays["top5"][r, :, 0], target(transformed).argmax(1))
        np.testing.assert_array_equal(arrays["top1_float"][r], target(transformer(restored)).argmax(1))
    about = {"config": config.science(), "run_id": "a", "split": "test", "name": "digits",
             "targets": dict.fromkeys(TARGETS, "w")}  # fmt: skip
    values = {row["metric"]: row["value"] for row in tidy_rows(Predictions(about, arrays))}
    assert values["psnr"] == pytest.approx(metrics.psnr(plain["mse"]).mean())
    assert values["psnr_transformed"] == pytest.approx(metrics.psnr(arrays["mse_transformed"]).mean())
    assert {"ssim_transformed", "ssim_release_transformed", "psnr_release", "psnr_transformed_release"} <= values.keys()


# --- evaluate(): files, skipping


def count_predictions(monkeypatch) -> list[str]:
    """Record the mode of every prediction that is computed."""
    calls, original = [], evaluate.predict
    monkeypatch.setattr(evaluate, "predict", lambda config, *rest: calls.append(config.mode) or original(config, *rest))
    return calls


@pytest.mark.parametrize("mode", ["ra", "none", "ra_transformer"])
def test_a_finished_evaluation_is_skipped(study_root, monkeypatch, mode):
    """The files stay; a missing or changed one is made again, with the same bytes."""
    calls, config, lines = count_predictions(monkeypatch), small(mode), []
    train(config, quiet)
    path = evaluate.evaluate(config, "val", quiet)
    before = path.read_bytes()
    assert evaluate.is_evaluated(config, "val") and not evaluate.is_evaluated(config, "test")
    assert evaluate.evaluate(config, "val", lines.append) == path and len(calls) == 1
    assert len(lines) == 1 and "already" in lines[0]
    path.unlink()
    assert not evaluate.is_evaluated(config, "val")
    evaluate.evaluate(config, "val", quiet)
    assert path.read_bytes() == before and len(calls) == 2
    (run_folder(config) / "val.json").unlink()  # as on a fresh checkout, where the predictions are committed
    evaluate.evaluate(config, "val", lines.append)
    assert path.read_bytes() == before and len(calls) == 3
    assert "0 of 120 verdicts differ" in lines[-1]


@pytest.mark.parametrize("part", ["processor", "transformer"])
def test_retrained_weights_are_evaluated_again(study_root, monkeypatch, part):
    """Newer weights of P, or of T, make the predictions stale."""
    calls, config, lines = count_predictions(monkeypatch), small("ra_transformer"), []
    train(config, quiet)
    before = load_predictions(evaluate.evaluate(config, "val", quiet)).arrays
    others = dict(zip(("processor", "transformer"), build_models(small("ra_transformer", seed=5)), strict=True))
    save_weights(weights_file(config, part), others[part], config)
    assert not evaluate.is_evaluated(config, "val")
    after = load_predictions(evaluate.evaluate(config, "val", lines.append)).arrays
    assert len(calls) == 2 and "verdicts differ from the earlier predictions" in lines[-1]
    assert np.array_equal(before["mse"], after["mse"]) == (part == "transformer")
    if part == "transformer":
        assert not np.array_equal(before["mse_transformed"], after["mse_transformed"])


def test_other_recognisers_are_evaluated_again(study_root, monkeypatch):
    """An R more, or another order, is another evaluation."""
    calls, config = count_predictions(monkeypatch), small("none")
    evaluate.evaluate(config, "val", quiet)
    more = small("none", target_archs="resnet18_small")
    assert more.run_id == config.run_id and not evaluate.is_evaluated(more, "val")
    path = evaluate.evaluate(more, "val", quiet)
    assert len(calls) == 2 and load_predictions(path).targets == ["resnet18_small"]


@pytest.mark.parametrize("mode", registry.modes("paper"))
def test_predictions_hold_no_pickles(study_root, mode):
    """Plain arrays and a JSON text; what they say is the run's."""
    config = small(mode)
    train(config, quiet)
    path = evaluate.evaluate(config, "test", quiet)
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert not any(array.dtype.hasobject for array in arrays.values())
    assert arrays["top5"].dtype == np.uint16 and arrays["top5"].shape == (2, 60, 5)
    about = load_predictions(path).about
    assert about["config"] == config.science() and about["run_id"] == config.run_id and about["split"] == "test"
    assert about["targets"] == {target.name: target.weights for target in targets()}
    assert about["data"] == load_pictures(config, "test").digest
    assert about["provenance"]["torch"] == torch.__version__


def test_untrained_runs_cannot_be_evaluated(study_root):
    with pytest.raises(StudyError, match="no such weights"):
        evaluate.evaluate(small("plain"), "val", quiet)


def test_evaluate_splits_shows_every_target(study_root):
    """A row per split and R, figures as in the tidy rows."""
    config = small("none")
    table = evaluate.evaluate_splits(config, "val, test")
    files = [evaluate.evaluate(config, split, quiet) for split in ("val", "test")]
    rows = [row for path in files for row in tidy_rows(load_predictions(path))]
    shown = {(row["split"], row["target_arch"], row["metric"]): round(row["value"], 3) for row in rows}
    assert len(shown) == 2 * (4 + 2 * 3)
    for (split, arch, metric), value in shown.items():
        assert table.loc[(split, arch), metric] == value


def test_degradation_table(study_root, monkeypatch):
    """Top-1 without processing at the preset's strength is that of the run ``none``; weaker noise costs less."""
    for task, curve in {"sr": (4,), "dn": (0.05, 0.2), "jpeg": (4,)}.items():
        monkeypatch.setitem(registry.TASKS, task, replace(registry.TASKS[task], curve=curve))
    table = evaluate.degradation_table("smoke", 60, target_archs=TARGETS[0])
    assert set(table["task"]) == {"sr", "dn", "jpeg"} and set(table["n_images"]) == {60}
    config = small("none", "dn")
    hits = load_predictions(evaluate.evaluate(config, "val", quiet)).hits()[0]
    noise = table[table["task"] == "dn"].set_index("strength")["top1"]
    assert noise[config.strength] == pytest.approx(100 * hits.mean())
    assert noise[0.05] > noise[0.2]


# --- the command line


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> dict[str, Path]:
    """Trained weights of plain and ra_transformer, and 40 test pictures as PNG files in class folders."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RASTUDY_ROOT", str(folder))
        for mode in ("plain", "ra_transformer"):
            train(small(mode), quiet)
        files = {
            "plain": weights_file(small("plain")), "p": weights_file(small("ra_transformer")),
            "t": weights_file(small("ra_transformer"), "transformer"),
        }  # fmt: skip
    pictures, labels, _ = digits.render("test", 40)
    for k, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        path = folder / "pictures" / str(label) / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    assert len(list((folder / "pictures").iterdir())) == 10
    return files | {"data": folder / "pictures", "root": folder}


def command(ground: dict[str, Path], *arguments: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"RASTUDY_ROOT": str(ground["root"]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "rastudy", "evaluate", *map(str, arguments), "--target-archs", ",".join(TARGETS)],
        env=environment, cwd=ground["root"], capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_command_on_ones_own_folder(ground, monkeypatch):
    """Every figure of P and T on a folder of class folders, as computed here; tidy rows on request."""
    out = ground["root"] / "out" / "rows.csv"
    done = command(ground, "--processor", ground["p"], "--transformer", ground["t"], "--task", "sr", "--data",
                   ground["data"], "--out", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("RASTUDY_ROOT", str(ground["root"]))
    config = small("ra_transformer")
    pixels, labels, _ = digits.render("test", 40)
    order = sorted(range(40), key=lambda k: (labels[k], k))  # by class, then by file name
    pictures = load_pictures(config, "test")
    pictures = type(pictures)("x", "test", pixels[order], labels[order], np.arange(40), pictures.classes)
    arrays = predict(config, pictures, targets(), *load_models(config))
    lines = [line.split() for line in done.stdout.splitlines()]
    printed = {(line[0], line[1]): float(line[2]) for line in lines}
    for r, arch in enumerate(TARGETS):
        top1 = 100 * (arrays["top5"][r, :, 0] == labels[order]).mean()
        assert printed[arch, "top1"] == pytest.approx(top1, abs=1e-3)
    assert printed["-", "psnr"] == pytest.approx(metrics.psnr(arrays["mse"]).mean(), abs=1e-3)
    assert printed["-", "psnr_transformed"] == pytest.approx(metrics.psnr(arrays["mse_transformed"]).mean(), abs=1e-3)
    assert all(line[-1] == "40" for line in lines)
    rows = out.read_text().splitlines()
    assert len(rows) == 1 + len(lines) and rows[1].split(",")[2] == "pictures"


@pytest.mark.slow
def test_the_command_refuses_another_task(ground):
    """Exit code 2 and a message that names file and fix, no traceback."""
    done = command(ground, "--processor", ground["plain"], "--task", "dn", "--data", ground["data"])
    assert done.returncode == 2 and not done.stdout
    assert "trained with task='sr', not 'dn'" in done.stderr and str(ground["plain"]) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_command_asks_for_the_transformer(ground, capsys):
    """P of an ra_transformer run alone would give the figures of another mode."""
    assert main(["evaluate", "--processor", str(ground["p"]), "--task", "sr"]) == 2
    assert "give its T with --transformer" in capsys.readouterr().err


def test_the_first_pictures_of_a_sorted_set_are_of_every_class(small_set):
    """Folders give class by class: then some are taken at equal distances; else the first ones are."""
    assert np.array_equal(first_pictures(small_set, 5).pictures, small_set.pictures[:5])
    order = np.argsort(small_set.labels, kind="stable")
    by_class = replace(small_set, labels=small_set.labels[order], pictures=small_set.pictures[order])
    some = first_pictures(by_class, 10)
    assert len(some) == 10 and len(set(some.labels)) >= 7 and (np.diff(some.labels) >= 0).all()
    assert len(first_pictures(by_class, 100)) == len(by_class)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_pictures(monkeypatch):
    """Small results kept between a batch's large arrays leave the memory in pieces: 3,000 photographs took 10 GB."""
    monkeypatch.setattr(evaluate, "check_classes", lambda *_: None)
    pixels = np.random.default_rng(0).integers(0, 256, (360, 224, 224, 3), dtype=np.uint8)
    photographs = PictureSet("x", "test", pixels, np.zeros(360, np.int64), np.arange(360), digits.CLASSES)
    config, reader, held = make_config("digits", "dn", "none"), load_classifier("resnet18_small", "digits"), []
    for n in (60, 360):
        predict(config, photographs.subset(range(n)), [reader])
        held.append(psutil.Process().memory_info().rss - n * pixels[0].nbytes)
    assert held[1] - held[0] < 150e6
