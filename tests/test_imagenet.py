"""The ImageNet presets, end to end on a tiny folder: real torchvision architectures, random weights in local files."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
import torch
import torchvision
from PIL import Image
from test_convert import _Srresnet, release  # noqa: F401

from rastudy.__main__ import main
from rastudy.analysis.checks import WHOLE, clean_rows, published_top1, warning
from rastudy.analysis.tables import load_table, make_tables
from rastudy.config import make_config
from rastudy.data.loaders import load_pictures
from rastudy.errors import StudyError
from rastudy.evaluation.evaluate import evaluate, evaluate_files, first_pictures, predict
from rastudy.evaluation.predictions import load_predictions, tidy_rows
from rastudy.models.classifiers import Classifier, load_classifier, weights_versions
from rastudy.paths import NOTEBOOKS, results_folder
from rastudy.presets import PRESETS
from rastudy.report import figures as plots
from rastudy.report import gallery
from rastudy.sweep import cost as estimate
from rastudy.tools.release_weights import convert
from rastudy.training.train import train
from rastudy.training.weights import weights_file

PHOTOGRAPHS = Path(os.environ.get("RASTUDY_PHOTOGRAPHS", "data/photographs"))
WNIDS = ("n01443537", "n02123045", "n07753592")
ARCHS = ("resnet18", "densenet121")
SMALL = {"channels": 4, "blocks": 1, "transformer_channels": 4, "transformer_blocks": 1, "batch_size": 4, "workers": 0,
         "target_archs": ",".join(ARCHS)}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """ImageNet's format: train/ and val/ with three of the thousand classes."""
    pytest.importorskip("timm")
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 2)):
        for wnid in WNIDS:
            (tmp_path / "data" / part / wnid).mkdir(parents=True)
            for k in range(count):
                coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
                coarse.resize((280 + k, 260)).save(tmp_path / "data" / part / wnid / f"{wnid}_{k}.JPEG")
    return tmp_path / "data"


@pytest.fixture
def small_preset(tmp_path, study_root, monkeypatch) -> dict:
    """The preset with a small P and weights of two R's in the place of the downloads."""
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for arch in ARCHS:
        torch.manual_seed(0)
        url = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].url
        torch.save(torchvision.models.get_model(arch, weights=None).state_dict(), checkpoints / Path(url).name)
    degradations = {key: value | {"epochs": 1} for key, value in PRESETS["imagenet"]["degradations"].items()}
    monkeypatch.setitem(PRESETS, "imagenet", PRESETS["imagenet"] | SMALL | {"degradations": degradations})
    return PRESETS["imagenet"]


def test_the_protocol_is_the_papers():
    """Held against paper.md's table."""
    config = make_config("imagenet", "sr", "ra")
    assert (config.epochs, config.batch_size, config.lr, config.schedule) == (6, 20, 1e-4, "step")
    assert (config.image_size, config.resize, config.crop, config.flip, config.val_images) == (224, 256, 0, True, 0)
    assert (config.channels, config.blocks, config.transformer_channels, config.transformer_blocks) == (64, 5, 64, 6)
    assert config.sources == ["resnet18"] and config.targets == ["resnet18", "resnet50", "resnet101", "densenet121", "vgg16_bn"]
    weights = {mode: make_config("imagenet", "dn", mode).ra_weight for mode in ("ra", "ra_transformer", "ra_unsupervised")}
    assert weights == {"ra": 1e-3, "ra_transformer": 1e-2, "ra_unsupervised": 10.0}
    assert {task: make_config("imagenet", task).strength for task in ("sr", "dn", "jpeg")} == {"sr": 4, "dn": 0.1, "jpeg": 10}
    assert make_config("imagenet_small", "sr").epochs == 30 and config.pretraining is None
    assert [published_top1(name) for name in config.targets] == [69.758, 76.13, 77.374, 74.434, 73.36]


@pytest.mark.slow
def test_from_photographs_to_tables(data, small_preset):
    """Every mode of one task, trained and read; tables and figures of the preset's own cells; the warning of wrong R's."""
    quiet = lambda _: None  # noqa: E731
    for mode in ("none", "clean", "plain", "ra", "ra_transformer", "ra_unsupervised"):
        config = make_config("imagenet", "sr", mode, data_dir=str(data))
        train(config, quiet)
        evaluate(config, "test", quiet)
    make_tables("imagenet")
    check = load_table("imagenet", "clean_check")
    assert list(check["target_arch"]) == list(ARCHS) and set(check["n_images"]) == {6}
    assert set(check["flag"]) == {"differs"} and "resnet18 reads" in warning("imagenet", check)
    ours = load_table("imagenet", "paper_vs_ours")
    assert set(ours["mode"]) == {"plain", "ra", "ra_unsupervised"} and set(ours["target_arch"]) == set(ARCHS)
    row = ours.set_index(["mode", "target_arch"]).loc[("ra", "resnet18")]
    assert row["paper"] == 61.8 and row["difference"] == pytest.approx(row["value"] - 61.8)
    assert set(load_table("imagenet", "gains")["role"]) == {"source", "unseen", "mean_unseen"}
    for plot in (plots.plot_accuracy, plots.plot_gains, plots.plot_paper, plots.plot_curves):
        assert plot("imagenet").axes
    assert gallery.show_restored(config).axes
    p = weights_file(make_config("imagenet", "sr", "ra"))
    rows = evaluate_files(p, None, "sr", str(data))
    assert {row["n_images"] for row in rows} == {6} and {row["target_arch"] for row in rows} == {"-", *ARCHS}


def test_the_authors_p_is_evaluated_like_ours(data, small_preset, tmp_path, release):  # noqa: F811
    """From the release's file to figures."""
    path = convert(release(_Srresnet(2), tmp_path / "model_sr_epoch_5.pth"), tmp_path / "theirs", "sr", "ra")
    rows = evaluate_files(path, None, "sr", str(data), "resnet18")
    assert {(row["metric"], row["n_images"]) for row in rows} >= {("top1", 6), ("psnr", 6), ("ssim", 6)}


def test_the_clean_check_on_the_whole_set(small_preset, monkeypatch):
    """Within 0.1 points on 50,000 pictures it is silent, beyond it warns; on fewer pictures the interval decides."""

    class Clean:
        def __init__(self, right: int, n: int):
            from rastudy.analysis.statistics import Groups

            self.hits = np.zeros((1, 1, n))
            self.hits[:, :, :right] = 100.0
            self.groups = Groups(np.arange(n))
            self.settings = {"mode": "clean"}
            self.first = type("Run", (), {"about": {"targets": {"resnet18": "IMAGENET1K_V1"}}})()

    def flag(right: int, n: int) -> str:
        from rastudy.analysis.comparisons import main_key

        rows = list(clean_rows("imagenet", {main_key("imagenet", "sr", 4.0, "clean"): Clean(right, n)}))
        return rows[0]["flag"]

    exact = round(0.69758 * WHOLE)
    assert [flag(exact, WHOLE), flag(exact - 40, WHOLE), flag(exact - 60, WHOLE)] == ["", "", "differs"]
    assert [flag(210, 300), flag(270, 300), flag(150, 300)] == ["part", "part", "differs"]
    fine = pd.DataFrame({"flag": ["", "part", "unpublished"]})
    assert warning("imagenet", fine) == "" == warning("digits", fine[:0])
    assert "there is no clean baseline yet" in warning("imagenet", fine[:0])


@pytest.mark.slow
def test_the_dry_run_counts(data, study_root, capsys, monkeypatch):
    """Operations are those of paper.md for a full RA run, without a download or a picture."""
    monkeypatch.setattr(estimate, "TIMED_PIXELS", 100_000)
    cost = estimate.cost_of_run(make_config("imagenet", "sr", "ra", train_images=1_281_167), ())
    assert cost.operations == pytest.approx(2.9e17, rel=0.1)
    args = ["--preset", "imagenet_small", "--task", "sr", "--mode", "plain", "--data", str(data), "--dry-run"]
    assert main(["sweep", *args, "--set", "channels=4", "blocks=1", "target_archs=resnet18"]) == 0
    said = capsys.readouterr()
    assert "to do  sr4-plain" in said.out and "1 runs of 1" in said.err and "GB of disk" in said.err
    assert not results_folder("imagenet_small").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "epoch=2"], "--set='epoch' is unknown"),
        (["--set", "epochs=two"], "--set epochs=two: 'two' is no int"),
        (["--set", "batch_size=20", "processes=3"], "does not divide by 3 processes; take 1, 2, 4, 5, 10, 20"),
        (["--data", "nowhere"], "nowhere.*no such folder"),
    ],
)
def test_mistakes_end_at_once(arguments, message, study_root, capsys):
    assert main(["sweep", "--preset", "imagenet", "--mode", "plain", "--task", "sr", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_foreign_weights_are_not_called_torchvisions(small_preset):
    """A file in the place of the download is known by its hash."""
    assert re.fullmatch(r"[0-9a-f]{8} \(not IMAGENET1K_V1\)", load_classifier("resnet18").weights)
    assert weights_versions(["resnet18"], "imagenet") == {"resnet18": load_classifier("resnet18").weights}


def test_weights_that_are_missing_are_named(data, study_root, monkeypatch, tmp_path):
    """File name, address and folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(StudyError, match=r"resnet18.*https://\S+resnet18-f37072fd.pth at \S+none/hub/checkpoints"):
        train(make_config("imagenet", "sr", "ra", data_dir=str(data), **SMALL))


def test_out_of_memory_is_explained(data, small_preset, monkeypatch):
    """Batch and resolution are named, and what gives the same result with less memory."""

    def step(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("rastudy.training.steps.ra_step", step)
    with pytest.raises(StudyError, match="4 pictures of 224 x 224.*micro_batch=1.*batch_size=4"):
        train(make_config("imagenet", "sr", "ra", data_dir=str(data)), lambda _: None)


@pytest.mark.parametrize(("precision", "native"), [("fp32", True), ("bf16", True), ("bf16", False)])
def test_micro_batches_give_the_same(data, small_preset, tmp_path, monkeypatch, precision, native):
    """R reads a few pictures at a time: the same losses up to rounding, with bf16 of the hardware or without."""
    monkeypatch.setattr("rastudy.models.precision.has_bf16", lambda: native)
    curves, largest, reads, read = [], [], [], Classifier._read
    monkeypatch.setattr(Classifier, "_read", lambda self, x: reads.append(len(x)) or read(self, x))
    for micro_batch in (0, 3):
        monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path / str(micro_batch)))
        config = make_config(
            "imagenet", "jpeg", "ra", data_dir=str(data), image_size=64, micro_batch=micro_batch, precision=precision
        )
        reads.clear()
        curves.append(train(config, lambda _: None))
        largest.append(max(reads))
    assert largest == [4, 3]
    for one, other in zip(*curves, strict=True):
        assert one == pytest.approx(other, rel=1e-4 if precision == "fp32" else 2e-2)


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler here")
def test_compile_gives_the_same(data, small_preset, tmp_path, monkeypatch):
    """torch.compile is optional and changes nothing but rounding."""
    curves = []
    for compiled in (False, True):
        monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path / str(compiled)))
        config = make_config("imagenet", "sr", "ra", data_dir=str(data), image_size=32, compile=compiled)
        curves.append(train(config, lambda _: None))
    assert curves[0][-1] == pytest.approx(curves[1][-1], rel=1e-4)


@pytest.mark.full
@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no photographs; name their folder in RASTUDY_PHOTOGRAPHS")
def test_lite_on_real_photographs(study_root):
    """The yardstick of ecosystem.md, 89 % clean and 50.5 % after bicubic x4 of 200 photographs, on 200 that are other ones."""
    settings = {"data_dir": str(PHOTOGRAPHS), "cache_dir": "none", "test_images": 0, "val_images": 0}
    pictures = first_pictures(load_pictures(make_config("imagenet_lite", "sr", "clean", **settings), "test"), 200)
    r = load_classifier("efficientnet_lite0")
    top1 = {}
    for mode in ("clean", "none"):
        arrays = predict(make_config("imagenet_lite", "sr", mode, **settings), pictures, [r])
        top1[mode] = 100 * (arrays["top5"][0, :, 0] == arrays["label"]).mean()
    assert top1["clean"] == pytest.approx(89.0, abs=4.4) and top1["none"] == pytest.approx(50.5, abs=7)  # two standard errors


@pytest.mark.slow
def test_a_notebook_on_photographs(data, study_root, monkeypatch):
    """The training notebook in a kernel of its own, on a preset of ImageNet's: trained, and read by every R."""
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    settings = {"preset": "imagenet_lite", "task": "jpeg", "mode": "ra", "channels": 4, "blocks": 1, "epochs": 1,
                "pretrain_epochs": 1, "data_dir": str(data), "val_images": 2, "test_images": 4, "image_size": 64,
                "pretrain_crop": 32, "evaluate_on": "test"}  # fmt: skip
    papermill.execute_notebook(NOTEBOOKS / "01_train.ipynb", study_root / "out.ipynb", settings, progress_bar=False)
    (path,) = (results_folder("imagenet_lite") / "predictions").glob("*.test.npz")
    table = pd.DataFrame(tidy_rows(load_predictions(path)))
    assert set(table.loc[table["metric"] == "top1", "target_arch"]) == {f"efficientnet_lite{k}" for k in range(3)}
    assert (table["n_images"] == 4).all()


def test_half_of_the_classes(data, small_preset):
    """Photographs of that half alone, labels from 0 on, and R's that name no other class, as good as ever at those."""
    halves = {
        half: make_config("imagenet", "sr", data_dir=str(data), dataset=f"imagenet_{half}") for half in ("first", "second")
    }
    sets = {half: load_pictures(config, "test") for half, config in halves.items()}
    assert [sorted(set(one.labels)) for one in sets.values()] == [[1, 281], [454]]
    assert all(len(one.classes) == 500 and one.name == f"imagenet_{half}" for half, one in sets.items())
    picture = torch.rand(1, 3, 64, 64)
    whole = load_classifier("resnet18", "imagenet")(picture)
    parts = [load_classifier("resnet18", f"imagenet_{half}")(picture) for half in halves]
    assert torch.equal(torch.cat(parts, 1), whole)
    config = make_config(
        "imagenet", "jpeg", "ra", data_dir=str(data), dataset="imagenet_second", epochs=1, image_size=64, resize=64
    )
    curve = train(config, log=lambda _: None)
    assert curve[-1]["images"] == 3 and np.isfinite(curve[-1]["recognition_loss"])
