"""Every misuse ends in one clear message, and leaves nothing behind."""

import csv
import errno
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from rastudy.__main__ import main
from rastudy.config import configure, make_config
from rastudy.data.datasets import load_split, read_folder
from rastudy.errors import StudyError
from rastudy.evaluation import evaluate
from rastudy.evaluation.predictions import COLUMNS, load_csv, load_predictions, load_results, save_predictions
from rastudy.models.classifiers import load_classifier
from rastudy.models.processors import build_processor
from rastudy.models.small_nets import build_small
from rastudy.paths import write_atomic, write_csv
from rastudy.training import train
from rastudy.training.run_store import claim_folder, run_folder
from rastudy.training.weights import load_weights, save_weights

RA = make_config("smoke", "sr", "ra", strength=4, ra_weight=0.01, lr=0.01)
ROW = {**dict.fromkeys(COLUMNS, "-"), "run_id": "sr4-plain", "metric": "top1", "value": 61.5, "n_images": 10}


def write_pictures(folder: Path) -> None:
    """Folders of class folders, each with one thing wrong in class b."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
    kinds = ("truncated", "transparent", "float", "small", "no_pictures", "good")
    for kind in kinds:
        for name in "ab":
            (folder / kind / name).mkdir(parents=True)
        for k in range(3):
            image.save(folder / kind / "a" / f"{k}.png")
    image.save(folder / "good" / "b" / "0.png")
    image.save(folder / "truncated" / "b" / "1.jpg")
    content = (folder / "truncated" / "b" / "1.jpg").read_bytes()
    (folder / "truncated" / "b" / "0.jpg").write_bytes(content[: len(content) // 2])
    see_through = image.convert("RGBA")
    see_through.putalpha(128)
    see_through.save(folder / "transparent" / "b" / "0.png")
    image.convert("F").save(folder / "float" / "b" / "0.tif")
    image.resize((31, 40)).save(folder / "small" / "b" / "0.png")
    (folder / "no_pictures" / "b" / "notes.txt").write_text("no picture")
    (folder / "empty").mkdir()
    shutil.copytree(folder / "good", folder / "split" / "train")


def write_weights(folder: Path) -> None:
    """Weight files of small nets, whole and damaged."""
    folder.mkdir()
    config = make_config("smoke", "dn", channels=4, blocks=1)
    save_weights(folder / "dn.safetensors", build_processor("srresnet", 1, 4, 1), config)
    content = (folder / "dn.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(content[: len(content) // 2])
    (folder / "damaged.safetensors").write_bytes(b"\xff" * 1000)
    for classes in (5, 10):
        state = build_small("resnet18_small", classes).state_dict()
        save_file(state, folder / f"r{classes}.safetensors", {"arch": "resnet18_small"})
    state["fc.bias"][3] = float("nan")
    save_file(state, folder / "r_nan.safetensors", {"arch": "resnet18_small"})
    net = build_processor("srresnet", 1, 4, 1)
    next(net.parameters()).data[0] = float("inf")
    save_weights(folder / "dn_inf.safetensors", net, config)


def write_study(root: Path) -> None:
    """A study's folders with runs and results of another kind than the code expects."""
    folder = claim_folder(RA, {"source_weights": {"resnet18_small": "digits:aaaaaaaa"}})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"lr": 0.5}))
    edited = run_folder(plain(seed=8)) / "config.json"
    edited.parent.mkdir(parents=True)
    edited.write_text('{"seed": 8,')
    write_csv(root / "results" / "smoke" / "runs.csv", [ROW, ROW], COLUMNS)
    write_csv(root / "whole.csv", [ROW], COLUMNS)
    for name, value in {"duplicate": 61.6, "nan": float("nan"), "text": "high", "blank": ""}.items():
        write_csv(root / f"{name}.csv", [ROW, ROW | {"value": value}], COLUMNS)
    write_csv(root / "schema.csv", [{"mode": "plain", "top1": 61.5}], ["mode", "top1"])
    with (root / "wide.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, [*ROW.values(), "one more"]])
    save_predictions(root / "whole.npz", {"label": np.arange(500, dtype=np.uint16)}, {"run_id": "x"})
    content = (root / "whole.npz").read_bytes()
    (root / "cut.npz").write_bytes(content[: len(content) // 2])
    (root / "flipped.npz").write_bytes(content[:100] + bytes([content[100] ^ 255]) + content[101:])
    np.savez(root / "foreign.npz", label=np.arange(3))


def plain(**overrides: object):
    """A config that trains plain P on few pictures."""
    return make_config("smoke", "dn", "plain", **overrides)


# What follows makes the rows' callables, which take (inputs, root); "{i}" and "{r}" in texts stand for these.


def at(value: object, i: Path, r: Path) -> object:
    return value.format(i=i, r=r) if isinstance(value, str) else value


def config(preset: str, *args: str, **overrides: object) -> Callable:
    return lambda i, r: make_config(preset, *args, **overrides)


def training(mode: str = "plain", **overrides: object) -> Callable:
    """``train`` of a run, which stops before its first step."""
    return lambda i, r: train.train(make_config("smoke", "dn", mode, **{k: at(v, i, r) for k, v in overrides.items()}))


def folder(kind: str) -> Callable:
    return lambda i, r: read_folder(i / kind, 32)


def split(name: str, n: int = 0, n_val: int = 1) -> Callable:
    return lambda i, r: load_split("folder", name, n, n_val=n_val, data_dir=str(i / "split"))


def r_weights(spec: str) -> Callable:
    return lambda i, r: load_classifier(at(spec, i, r))


def p_weights(name: str, factor: int = 1) -> Callable:
    return lambda i, r: load_weights(i / name, build_processor("srresnet", factor, 4, 1))


def table(name: str) -> Callable:
    return lambda i, r: load_csv(r / name)


def predictions(name: str) -> Callable:
    return lambda i, r: load_predictions(r / name)


def command(*arguments: str) -> Callable:
    """``rastudy ARGUMENTS``, its exit status raised."""
    return lambda i, r: sys.exit(main([str(at(argument, i, r)) for argument in arguments]))


# id, misuse, exception, fragments of the message
MISUSES = [
    # parameters
    ("unknown parameter", config("smoke", "sr", "ra", ra_wieght=1e-3), StudyError, ["ra_wieght", "ra_weight"]),
    ("unknown notebook parameter", lambda i, r: configure({"preset": "smoke", "task": "sr", "sed": 3}),
     StudyError, ["sed", "seed"]),
    ("mistyped parameter", config("smoke", "sr", lr="1e-3"), StudyError, ["lr='1e-3'", "str", "float"]),
    ("unknown task", config("smoke", "deblur"), StudyError, ["task='deblur'", "sr, dn, jpeg"]),
    ("unknown mode", config("smoke", "sr", "rra"), StudyError, ["mode='rra'", "ra_transformer", "clean"]),
    ("unknown architecture", training("ra", source_arch="resnet19"), StudyError, ["'resnet19'", "resnet18_small"]),
    ("unknown target R", config("smoke", "sr", target_archs="resnet18,resnet19"), StudyError, ["'resnet19'", "vgg16_bn"]),
    ("unknown processor", config("smoke", "sr", processor="unet"), StudyError, ["'unet'", "srresnet", "srdensenet"]),
    ("unknown preset", config("digit", "sr"), StudyError, ["preset='digit'", "digits", "smoke"]),
    ("unknown schedule", config("smoke", "sr", schedule="cosine"), StudyError, ["'cosine'", "onecycle", "step"]),
    ("strength of another task", config("smoke", "dn", strength=10), StudyError, ["strength=10.0", "from 0 to 1"]),
    ("factor 3", config("smoke", "sr", strength=3), StudyError, ["strength=3.0", "2 or 4"]),
    ("processor that does not fit", training(processor="srdensenet"), StudyError, ["srdensenet", "upsamples by 4"]),
    ("device that is not there", training(device="cuda:63"), StudyError, ["device='cuda:63'", "auto or cpu"]),
    ("unknown device", training(device="quantum"), StudyError, ["device='quantum'", "auto or cpu"]),
    # data
    ("no data folder given", training(dataset="folder"), StudyError, ["dataset='folder'", "--data", "data_dir"]),
    ("missing data folder", training(dataset="folder", data_dir="{i}/absent"),
     StudyError, ["absent", "no such folder", "data_dir"]),
    ("missing cifar10", training(dataset="cifar10", data_dir="{i}/empty"),
     StudyError, ["empty", "no CIFAR-10", "cifar-10-batches-py", "http"]),
    ("empty data folder", folder("empty"), StudyError, ["empty", "no class folders"]),
    ("class without pictures", folder("no_pictures"), StudyError, ["no_pictures/b", "no pictures", ".png"]),
    ("truncated picture", folder("truncated"), StudyError, ["truncated/b/0.jpg", "readable", "skip_unreadable"]),
    ("transparent picture", folder("transparent"), StudyError, ["transparent/b/0.png", "transparent pixels"]),
    ("32-bit float picture", folder("float"), StudyError, ["float/b/0.tif", "'F'", "8-bit RGB"]),
    ("picture smaller than the crop", folder("small"), StudyError, ["small/b/0.png", "31 x 40", "32"]),
    ("no test pictures", split("test"), StudyError, ["split/val", "no such folder"]),
    ("too few pictures for validation", split("train", n_val=4), StudyError, ["4 training pictures", "val_images=4"]),
    ("too few training pictures", training(train_images=16001), StudyError, ["16000", "16001"]),
    ("too few pictures in a folder", split("train", 4), StudyError, ["holds 3", "4 were asked for"]),
    # weights
    ("weights of R missing", training("ra", source_arch="resnet18_small@{i}/absent.safetensors"),
     StudyError, ["absent.safetensors", "make recognisers"]),
    ("weights of another R", r_weights("vgg16_bn_small@{i}/weights/r10.safetensors"),
     StudyError, ["r10.safetensors", "resnet18_small", "vgg16_bn_small"]),
    ("damaged weights of R", r_weights("resnet18_small@{i}/weights/damaged.safetensors"),
     StudyError, ["damaged.safetensors", "readable"]),
    ("R whose training diverged", r_weights("resnet18_small@{i}/weights/r_nan.safetensors"),
     StudyError, ["r_nan.safetensors", "fc.bias", "not finite"]),
    ("P whose training diverged", p_weights("weights/dn_inf.safetensors"), StudyError, ["dn_inf.safetensors", "not finite"]),
    ("R of too few classes", training("ra", source_arch="resnet18_small@{i}/weights/r5.safetensors"),
     StudyError, ["5 classes", "have 10"]),
    ("weights of P missing", p_weights("absent.safetensors"), StudyError, ["absent.safetensors", "no such weights"]),
    ("weights of another P", p_weights("weights/dn.safetensors", 4), StudyError, ["dn.safetensors", "architecture"]),
    ("truncated weights of P", p_weights("weights/cut.safetensors"), StudyError, ["cut.safetensors", "readable"]),
    ("damaged weights of P", p_weights("weights/damaged.safetensors"), StudyError, ["damaged.safetensors", "readable"]),
    ("P of another task", lambda i, r: evaluate.evaluate_files(i / "weights/dn.safetensors", None, "jpeg"),
     StudyError, ["dn.safetensors", "'dn'", "'jpeg'"]),
    ("weights of no run", lambda i, r: evaluate.evaluate_files(i / "weights/r10.safetensors", None, "dn"),
     StudyError, ["r10.safetensors", "of this study"]),
    # runs and results
    ("run folder of another configuration",
     lambda i, r: claim_folder(RA, {"source_weights": {"resnet18_small": "digits:bbbbbbbb"}}),
     StudyError, [RA.run_id, "lr: 0.5 there, 0.01 now", "source_weights", "digits:aaaaaaaa", "digits:bbbbbbbb"]),
    ("damaged run folder", lambda i, r: claim_folder(plain(seed=8), {}), StudyError, ["config.json"]),
    ("results with duplicate keys", table("duplicate.csv"), StudyError, ["duplicate.csv", "2 rows", "sr4-plain"]),
    ("results of a study with one key twice", lambda i, r: load_results("smoke"),
     StudyError, ["results/smoke/runs.csv", "share a key", "sr4-plain"]),
    ("results of another schema", table("schema.csv"), StudyError, ["schema.csv", "['mode', 'top1']", "n_images"]),
    ("results with a field too many", table("wide.csv"), StudyError, ["wide.csv"]),
    ("results with NaN", table("nan.csv"), StudyError, ["nan.csv", "'value'", "not a number"]),
    ("results with text", table("text.csv"), StudyError, ["text.csv", "'value'", "not a number"]),
    ("results with a blank", table("blank.csv"), StudyError, ["blank.csv", "'value'", "not a number"]),
    ("no results", lambda i, r: load_results("digits"),
     StudyError, ["results/digits/runs.csv", "rastudy sweep --preset digits"]),
    ("truncated predictions", predictions("cut.npz"), StudyError, ["cut.npz", "damaged", "anew"]),
    ("predictions with a flipped bit", predictions("flipped.npz"), StudyError, ["flipped.npz", "damaged"]),
    ("predictions of something else", predictions("foreign.npz"), StudyError, ["foreign.npz", "about"]),
    ("no predictions", predictions("absent.npz"), StudyError, ["absent.npz", "rastudy sweep"]),
    # commands: one line on stderr and status 2, no traceback
    ("train: unknown mode", command("train", "--task", "sr", "--mode", "rra"), SystemExit, ["error: mode='rra'"]),
    ("unknown command", command("tabels"), SystemExit, ["error: unknown command 'tabels'; did you mean tables?"]),
    ("train: unknown option", command("train", "--task", "sr", "--sed", "3"), SystemExit, ["--sed; did you mean --seed?"]),
    ("train: missing data",
     command("train", "--preset", "smoke", "--task", "sr", "--dataset", "folder", "--data-dir", "{i}/absent"),
     SystemExit, ["error: ", "absent"]),
    ("evaluate: no weights", command("evaluate", "--processor", "{i}/absent.safetensors", "--task", "sr"),
     SystemExit, ["error: ", "absent.safetensors"]),
    ("evaluate: another task", command("evaluate", "--processor", "{i}/weights/dn.safetensors", "--task", "sr"),
     SystemExit, ["error: ", "'dn'"]),
    ("evaluate: missing data",
     command("evaluate", "--processor", "{i}/weights/dn.safetensors", "--task", "dn", "--data", "{i}/absent",
             "--target-archs", "resnet18_small@{i}/weights/r10.safetensors", "--out", "{r}/out.csv"),
     SystemExit, ["error: ", "absent", "no such folder"]),
    ("sweep: unknown task", command("sweep", "--preset", "smoke", "--task", "deblur", "--dry-run"),
     SystemExit, ["error: task='deblur'", "sr, dn, jpeg"]),
    ("sweep: unknown preset", command("sweep", "--preset", "digit", "--dry-run"),
     SystemExit, ["error: preset='digit'", "smoke"]),
    ("tables: unknown preset", command("tables", "--preset", "digit"), SystemExit, ["error: preset='digit'"]),
    ("tables: no predictions", command("tables", "--preset", "digits"),
     SystemExit, ["error: ", "results/digits/predictions"]),
    ("boundaries: unknown preset", command("boundaries", "--preset", "digit"), SystemExit, ["error: preset='digit'", "digits"]),
    ("boundaries: nothing measured", command("boundaries", "--preset", "digits", "--tables"),
     SystemExit, ["error: ", "results/digits/boundaries is empty", "run rastudy boundaries --preset digits"]),
    ("boundaries: pictures below 0", command("boundaries", "--preset", "smoke", "--pictures", "-1"),
     SystemExit, ["error: argument --pictures: -1", "0 or more"]),
    ("recognisers: unknown architecture", command("recognisers", "--arch", "resnet19"),
     SystemExit, ["error: arch='resnet19'", "resnet18_small"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> tuple[Path, Path]:
    """Unusable inputs, and a study's root with unusable runs and results."""
    inputs, root = tmp_path_factory.mktemp("inputs"), tmp_path_factory.mktemp("root")
    write_pictures(inputs)
    write_weights(inputs / "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RASTUDY_ROOT", str(root))
        write_study(root)
    return inputs, root


def contents(root: Path) -> dict[str, bytes | None]:
    """Every file and folder under ``root``, but for locks."""
    paths = (path for path in root.rglob("*") if not path.name.endswith("lock"))
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize(("misuse", "exception", "fragments"), [pytest.param(*row, id=name) for name, *row in MISUSES])
def test_misuse(ground, study_root, capsys, misuse, exception, fragments):
    """The error is of the right kind, its message names what matters, and no artefact is left or changed."""
    inputs, prepared = ground
    shutil.copytree(prepared, study_root, dirs_exist_ok=True)
    before = contents(study_root)
    with pytest.raises(exception) as caught:
        misuse(inputs, study_root)
    message = str(caught.value)
    if exception is SystemExit:
        assert caught.value.code == 2
        message = capsys.readouterr().err
    assert [fragment for fragment in fragments if fragment not in message] == [], message
    after = contents(study_root)
    assert after.keys() == before.keys() and after == before


def test_the_sound_counterparts_are_accepted(ground, study_root):
    """What the rows damage works undamaged."""
    inputs, prepared = ground
    shutil.copytree(prepared, study_root, dirs_exist_ok=True)
    assert len(read_folder(inputs / "good", 32)[0]) == 4
    assert len(load_split("folder", "train", 3, n_val=1, data_dir=str(inputs / "split"), size=32)) == 3
    load_classifier(f"resnet18_small@{inputs}/weights/r10.safetensors")
    load_weights(inputs / "weights/dn.safetensors", build_processor("srresnet", 1, 4, 1))
    assert len(load_csv(study_root / "whole.csv")) == 1
    assert load_predictions(study_root / "whole.npz").arrays["label"].tolist() == list(range(500))
    assert claim_folder(plain(seed=7, pretrain_epochs=0), {"source_weights": {}}) == run_folder(
        plain(seed=7, pretrain_epochs=0)
    )


def test_unreadable_pictures_are_skipped_on_request(ground):
    """They are counted in a warning that names the first; the rest keep their labels."""
    inputs, _ = ground
    with pytest.warns(UserWarning, match=r"skipped 1 pictures.*truncated/b/0\.jpg"):
        pictures, labels, classes = read_folder(inputs / "truncated", 32, skip_unreadable=True)
    assert labels.tolist() == [0, 0, 0, 1] and len(pictures) == 4 and classes == ("a", "b")


def test_skipping_everything_is_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="skipped 1"), pytest.raises(StudyError, match="no usable picture"):
        read_folder(tmp_path, 32, skip_unreadable=True)


def failing_write(path: Path, error: BaseException) -> None:
    """Half a file, then the disk is full."""
    path.write_bytes(b"half")
    raise error


@pytest.mark.parametrize("older", [None, b"older"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failed_write_leaves_nothing(tmp_path, older, error):
    """Neither a half-written target nor a temporary file; an older target stays as it was."""
    target = tmp_path / "results" / "x.csv"
    if older:
        target.parent.mkdir()
        target.write_bytes(older)
    raised, said = (StudyError, "x.csv.*No space") if isinstance(error, OSError) else (type(error), "^$")
    with pytest.raises(raised, match=said):
        write_atomic(target, partial(failing_write, error=error))
    assert {path.name for path in target.parent.iterdir()} == ({"x.csv"} if older else set())
    assert not older or target.read_bytes() == older


def test_a_write_replaces_the_older_file_at_once(tmp_path):
    """Whoever has the older file open reads all of it: the newer one is another file, put in its place."""
    target = tmp_path / "x.csv"
    target.write_bytes(b"older")
    with target.open("rb") as reader:
        write_atomic(target, lambda path: path.write_bytes(b"newer"))
        assert reader.read() == b"older"
    assert target.read_bytes() == b"newer" and [path.name for path in tmp_path.iterdir()] == ["x.csv"]
