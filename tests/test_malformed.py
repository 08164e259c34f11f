"""Malformed input, made by hypothesis: about 500 of it in five kinds.

Each ends in a StudyError with a sentence that names the file or the field, or is handled; nothing else is raised, nothing half
written stays, no code in a data file runs, and nothing hangs.
"""

import contextlib
import io
import json
import math
import os
import pickle
import shutil
import signal
import string
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from rastudy.analysis import tables
from rastudy.boundaries import tables as similarity
from rastudy.config import Config, configure, make_config
from rastudy.data.datasets import load_split, read_folder
from rastudy.data.image_files import list_pictures
from rastudy.data.photo_cache import FilePhotos, open_cache
from rastudy.errors import StudyError
from rastudy.evaluation.evaluate import evaluate_files
from rastudy.evaluation.predictions import COLUMNS, KEY, load_csv, load_predictions, read_table, save_predictions
from rastudy.grid import settings_from
from rastudy.models.classifiers import load_classifier
from rastudy.models.processors import build_processor
from rastudy.paths import read_json, results_folder, write_csv
from rastudy.restore.image_io import open_picture
from rastudy.restore.restore import files_of, load, restore_files
from rastudy.tools import doctor
from rastudy.training.run_store import claim_folder, run_folder
from rastudy.training.weights import load_weights, read_metadata
from rastudy.transfer import tables as transfer

SECONDS = 60  # for one input, on a busy machine
many = settings(max_examples=100, derandomize=True, deadline=None, database=None, print_blob=False,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip


@contextlib.contextmanager
def refused_or_handled(folder: Path | None = None, named: str = "") -> Iterator[None]:
    """What is done inside ends well, or in a StudyError that says something and holds ``named``; ``folder`` stays as it was."""

    def listed() -> dict[Path, int]:
        return {path: path.lstat().st_size for path in folder.rglob("*")} if folder else {}

    def hangs(*_: object) -> None:
        raise AssertionError(f"not done after {SECONDS} s")

    before, handler = listed(), signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    except StudyError as error:
        assert len(str(error)) > 15 and named in str(error), str(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    assert listed() == before


# --- what may be wrong

words = st.text(string.ascii_letters + string.digits + "_-:@./, \0é%{}\n", max_size=30)
odd_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), words, st.lists(st.integers(), max_size=3),
    st.dictionaries(words, st.integers(), max_size=2), st.sampled_from(["1e-3", "nan", "-1", "True", "../../etc", "[1]"]),
)  # fmt: skip
FIELDS = [field.name for field in fields(Config)]


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """A file's bytes cut, flipped, doubled, emptied or replaced."""
    kind = draw(st.sampled_from(["cut", "flip", "head", "noise", "empty", "longer"]))
    if kind == "cut":
        return content[: draw(st.integers(0, len(content) - 1))]
    if kind in ("flip", "head"):
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 8))):
            changed[draw(st.integers(0, (len(content) if kind == "flip" else min(64, len(content))) - 1))] ^= draw(
                st.integers(1, 255)
            )
        return bytes(changed)
    return {"noise": draw(st.binary(max_size=300)), "empty": b"", "longer": content + draw(st.binary(min_size=1, max_size=50))}[
        kind
    ]


class Harmful:
    """Unpickled, it makes a file: none may appear."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# --- configs


@many
@given(st.dictionaries(st.one_of(st.sampled_from(FIELDS), words), odd_values, max_size=4))
def test_notebook_parameters(parameters):
    """As a notebook's globals: whatever a user or papermill put there."""
    namespace = {"preset": "smoke", "task": "jpeg", "mode": "ra"} | parameters
    with refused_or_handled():
        config, _ = configure(namespace)
        assert isinstance(config, Config) and config.run_id and len(config.run_id) < 200 and "/" not in config.run_id
        json.dumps(asdict(config), allow_nan=False)


@many
@given(st.lists(st.one_of(words, st.builds("{}={}".format, st.sampled_from(FIELDS), words)), max_size=3))
def test_settings_of_the_sweep(pairs):
    """NAME=VALUE on the command line."""
    with refused_or_handled():
        given_ = settings_from(pairs)
        assert make_config(**({"preset": "smoke", "task": "dn", "mode": "plain"} | given_)).run_id


@settings(many, max_examples=40)
@given(
    st.one_of(damaged(b'{"preset": "smoke", "seed": 0, "lr": 0.01}'), st.builds(lambda v: json.dumps(v).encode(), odd_values))
)
def test_a_run_folders_json(study_root, content):
    config = make_config("smoke", "dn", "plain", pretrain_epochs=0)
    path = run_folder(config) / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with refused_or_handled(study_root, "config.json"):
        assert isinstance(read_json(path), dict)
    with refused_or_handled(study_root, "config.json"):
        claim_folder(config, {})


# --- results

ROW = dict.fromkeys(COLUMNS, "x") | {
    "strength": 4.0,
    "ra_weight": 0.0,
    "seed": 0,
    "value": 61.5,
    "n_images": 500,
    "n_groups": 5,
}


TABLES = [
    *((name, columns, partial(similarity.load_table, "smoke", name)) for name, columns in similarity.TABLES.items()),
    *((name, columns, partial(tables.load_table, "smoke", name)) for name, columns in tables.TABLES.items()),
    ("transfer_upload", transfer.COLUMNS, partial(transfer.load_table, "smoke", "upload")),
]  # fmt: skip


@cache
def whole(suffix: str) -> bytes:
    """A whole file's bytes, which examples damage."""
    with tempfile.TemporaryDirectory() as name:
        return _files(Path(name))[suffix]


@cache
def _files(folder: Path) -> dict[str, bytes]:
    write_csv(folder / "a.csv", [ROW | {"metric": name} for name in ("psnr", "ssim")], COLUMNS)
    arrays = {"label": np.arange(50, dtype=np.uint16), "top5": np.zeros((2, 50, 5), np.uint16)}
    save_predictions(folder / "a.npz", arrays, {"run_id": "x", "targets": {"r": "v"}})
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "webp"):
        picture.save(folder / f"a.{suffix}")
    config = make_config("smoke", "dn", "plain", channels=4, blocks=1)
    net = build_processor("srresnet", 1, 4, 1)
    (folder / "a.safetensors").write_bytes(save(net.state_dict(), {"config": json.dumps(config.science())}))
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@settings(many, max_examples=60)
@given(st.data())
def test_csvs(tmp_path, data):
    path = tmp_path / "table.csv"
    path.write_bytes(data.draw(damaged(whole(".csv"))))
    with refused_or_handled(tmp_path, "table.csv"):
        table = load_csv(path)
        assert list(table.columns) == list(COLUMNS) and table["value"].notna().all() and not table.duplicated(list(KEY)).any()
    with refused_or_handled(tmp_path, "table.csv"):
        assert list(read_table(path, COLUMNS, "make tables").columns) == list(COLUMNS)


@settings(many, max_examples=60)
@given(st.data())
def test_tables(study_root, data):
    """Those of transfer and of the boundaries, damaged: no table is half of one, and no figure's number is a word."""
    name, columns, load_one = data.draw(st.sampled_from(TABLES))
    path = results_folder("smoke") / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict.fromkeys(columns, "x") | dict.fromkeys(("value", "low", "high"), k + 0.5) for k in range(2)]
    write_csv(path, [{key: row[key] for key in columns} for row in rows], columns)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    with refused_or_handled(study_root, path.name):
        table = load_one()
        assert list(table.columns) == list(columns)
        assert all(table[key].dtype.kind in "fi" for key in ("value", "low", "high") if key in columns and len(table))


@settings(many, max_examples=60)
@given(st.data())
def test_predictions(tmp_path, data):
    """An npz that is damaged, or that holds a pickle."""
    path, mark = tmp_path / "run.test.npz", tmp_path.parent / f"{tmp_path.name}-harm"
    if data.draw(st.integers(0, 9)):
        path.write_bytes(data.draw(damaged(whole(".npz"))))
    else:
        np.savez(path, about=np.array(json.dumps({})), label=np.array([Harmful(mark)], dtype=object))
    with refused_or_handled(tmp_path, "run.test.npz"):
        predictions = load_predictions(path)
        assert isinstance(predictions.about, dict) and all(isinstance(a, np.ndarray) for a in predictions.arrays.values())
    assert not mark.exists()


# --- pictures


@settings(many, max_examples=80)
@given(st.data())
def test_pictures(tmp_path, data):
    """Damaged ones, under their own suffix or another's: read and restored whole, or refused with no file written."""
    suffix = data.draw(st.sampled_from([".png", ".jpg", ".webp"]))
    content = data.draw(damaged(whole(data.draw(st.sampled_from([".png", ".jpg", ".webp"])))))
    path, out = tmp_path / f"picture{suffix}", tmp_path / "out.png"
    path.write_bytes(content)
    out.unlink(missing_ok=True)
    with refused_or_handled(tmp_path, path.name):
        picture, notes = open_picture(path)
        assert min(picture.size) > 0 and all(notes)
    try:
        restore_files([path], out, PROCESSOR, [])
    except StudyError as error:
        assert path.name in str(error) and not out.exists()
    if out.exists():
        assert Image.open(out).size == open_picture(path)[0].size
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, out.name}
    path.unlink()


PROCESSOR = load(task="jpeg", mode="plain", device="cpu")


@settings(many, max_examples=30)
@given(st.data())
def test_folders_of_pictures(tmp_path, data):
    path = tmp_path / "data" / "cat" / f"a{data.draw(st.sampled_from(['.png', '.jpg', '.webp', '.txt']))}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.draw(damaged(whole(".png"))))
    with refused_or_handled(tmp_path, "data"):
        pictures, labels, classes = read_folder(tmp_path / "data", 24)
        assert pictures.shape == (1, 24, 24, 3) and labels.tolist() == [0] and classes == ("cat",)
    path.unlink()


names = st.one_of(
    st.sampled_from([b"a.png", b"A.PNG", b"b.jpg", b"c.jfif", b"._a.png", b".hidden", b"Thumbs.db", b"__MACOSX", b"@eaDir",
                     b"cat", b"dog", b"val", b"train", b"test", b"n01440764", b"\xff\xfe.png", b"new\nline.png", b"a b,c;d.png",
                     "\u00fc\u0308.webp".encode(), b"-o.png", b"~.png", b"x" * 250 + b".png"]),
    st.binary(min_size=1, max_size=12).filter(lambda b: b not in (b".", b"..") and not set(b) & {0, ord("/")}),
)  # fmt: skip
leaves = st.one_of(
    st.sampled_from(
        ["whole", "small", "text", "empty", "dead link", "link to itself", "link up", "link across", "pipe", "closed"]
    ),
    st.binary(max_size=60),
)  # fmt: skip
trees = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=10)


def grow(place: bytes, tree: object, top: bytes) -> None:
    """Make a file, a link, a pipe or a folder of them; what the system refuses is not made."""
    if isinstance(tree, dict):
        os.makedirs(place, exist_ok=True)
        for name, inner in tree.items():
            with contextlib.suppress(OSError):
                grow(os.path.join(place, name), inner, top)
    elif isinstance(tree, bytes) or tree in ("whole", "small", "text", "empty", "closed"):
        content = {"whole": whole(".png"), "small": tiny(), "text": b"no picture", "empty": b"", "closed": whole(".png")}
        with open(place, "wb") as file:
            file.write(content.get(tree, tree) if isinstance(tree, str) else tree)
        os.chmod(place, 0 if tree == "closed" else 0o644)
    elif tree == "pipe":
        os.mkfifo(place)
    else:
        targets = {"dead link": b"nowhere", "link to itself": os.path.basename(place), "link up": top, "link across": b"a.png"}
        os.symlink(targets[tree], place)


@cache
def tiny() -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (3, 2)).save(file, "PNG")
        return file.getvalue()


@settings(many, max_examples=300)
@given(st.dictionaries(names, trees, max_size=5))
def test_folders_of_anything(tmp_path, study_root, tree):
    """Every function that takes a user's folder lists and reads it, or refuses it in a sentence; nothing is written into it."""
    folder = tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    grow(os.fsencode(folder), tree, os.fsencode(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (
            list_pictures, lambda place: read_folder(place, 24), lambda place: read_folder(place, 24, failed=[]),
            lambda place: FilePhotos(place, list_pictures(place), 32).stamp(),
            lambda place: open_cache(FilePhotos(place, list_pictures(place), 32), study_root / "cache", skip_unreadable=True,
                                     log=lambda _: None),
            lambda place: load_split("cifar10", "val", 0, n_val=1, data_dir=str(place)),
            lambda place: load_split("folder", "test", 0, data_dir=str(place)),
            lambda place: load_split("imagenet", "test", 0, n_val=0, data_dir=str(place), cache_dir="none", size=24, resize=32),
            lambda place: list(doctor.data(str(place))), files_of,
        ):  # fmt: skip
            with refused_or_handled(folder):
                read(folder)
    shutil.rmtree(study_root / "cache", ignore_errors=True)


# --- weights


@st.composite
def weight_files(draw, mark: Path) -> bytes:
    """Damaged safetensors, well-formed ones with other names, shapes or numbers, and pickles."""
    kind = draw(st.sampled_from(["damaged", "damaged", "names", "shapes", "numbers", "pickle", "torch", "metadata"]))
    if kind == "damaged":
        return draw(damaged(whole(".safetensors")))
    if kind == "pickle":
        return pickle.dumps(Harmful(mark))
    if kind == "torch":
        with io.BytesIO() as file:
            torch.save({"weight": Harmful(mark)}, file)
            return file.getvalue()
    net = build_processor("srresnet", 1, 4, 1).state_dict()
    if kind == "names":
        net = {draw(words) + str(k): tensor for k, tensor in enumerate(net.values())}
    elif kind == "shapes":
        net = {name: torch.zeros(draw(st.lists(st.integers(0, 3), max_size=3))) for name in net}
    elif kind == "numbers":
        next(iter(net.values())).view(-1)[0] = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    return save(net, {"config": json.dumps(draw(odd_values), default=str)} if draw(st.booleans()) else None)


@settings(many, max_examples=80)
@given(st.data())
def test_weights(tmp_path, data):
    """Of P and of R; no code in a pickle runs."""
    path, mark = tmp_path / "w.safetensors", tmp_path.parent / f"{tmp_path.name}-harm"
    path.write_bytes(data.draw(weight_files(mark)))
    with refused_or_handled(tmp_path, path.name):
        load_weights(path, build_processor("srresnet", 1, 4, 1))
    with refused_or_handled(tmp_path, path.name):
        assert isinstance(read_metadata(path), dict)
    with refused_or_handled(tmp_path, path.name):
        load_classifier(f"resnet18_small@{path}")
    with refused_or_handled(tmp_path):
        load(named=str(path), task="dn", device="cpu")
    with refused_or_handled(tmp_path):
        evaluate_files(path, None, "dn", data=str(tmp_path), target_archs="resnet18_small", device="cpu")
    assert not mark.exists()


def test_the_harm_would_show(tmp_path):
    """The pickles of these tests do make what the tests look for."""
    pickle.loads(pickle.dumps(Harmful(tmp_path / "harm")))
    assert (tmp_path / "harm").is_dir()
