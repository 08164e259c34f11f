"""Folders and files as people have them: which pictures are in them, what their labels are, how they are opened."""

import errno
import os
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from safetensors.torch import save_file

from rastudy import paths
from rastudy.__main__ import main, parse
from rastudy.analysis import comparisons, style
from rastudy.config import configure, make_config
from rastudy.data import loaders
from rastudy.data.datasets import CIFAR10, CIFAR10_FILES, class_folders, load_split, read_folder
from rastudy.data.image_files import list_pictures, read_whole
from rastudy.errors import StudyError
from rastudy.evaluation.evaluate import evaluate, is_evaluated
from rastudy.evaluation.predictions import load_predictions
from rastudy.grid import settings_from
from rastudy.models import classifiers
from rastudy.models.small_nets import build_small
from rastudy.models.weight_files import load_state_file
from rastudy.paths import expand, read_json, root, write_json
from rastudy.report import document
from rastudy.restore.image_io import open_picture
from rastudy.training.run_store import is_trained
from rastudy.training.train import train

RUN = make_config("digits", "jpeg", "ra").run_id
COMMITTED = str(Path(__file__).parents[1] / "results" / "digits" / "weights" / f"{RUN}.processor.safetensors")


def fill(folder: Path, names: tuple[str, ...] | list[str], n: int = 2, size: int = 32) -> Path:
    """Class folders of ``n`` pictures whose first pixel tells the class."""
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            picture = np.random.default_rng(10 * k + i).integers(0, 256, (size, size, 3), np.uint8)
            picture[0, 0] = len(name)
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    return folder


# --- class folders


@pytest.mark.parametrize("stated", [(), ("truck", "cat")], ids=["all", "stated"])
def test_labels_are_those_of_the_names(tmp_path, stated):
    """With one class left out by statement, too; the label of a folder never depends on the others."""
    fill(tmp_path, CIFAR10)
    pictures, labels, classes = read_folder(tmp_path, 32, known=CIFAR10, stated=stated)
    assert classes == CIFAR10 and {CIFAR10[k] for k in labels} == set(stated or CIFAR10)
    assert [len(CIFAR10[k]) for k in labels] == pictures[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("there", "missing", "unknown"), [
    ([name for name in CIFAR10 if name != "bird"], "missing bird", "unknown none"),
    ([*CIFAR10, "zebra"], "missing none", "unknown zebra"),
    (["plane" if name == "airplane" else name for name in CIFAR10], "missing airplane", "unknown plane"),
    (list("0123456789"), "missing airplane, automobile", "unknown 0, 1, 2"),
    ([name.title() for name in CIFAR10], "missing airplane", "unknown Airplane"),
], ids=["one is missing", "one too many", "renamed", "numbers", "capitals"])  # fmt: skip
def test_other_class_folders_are_refused_with_both_lists(tmp_path, there, missing, unknown):
    fill(tmp_path, there, 1)
    with pytest.raises(StudyError) as caught:
        read_folder(tmp_path, 32, known=CIFAR10)
    assert missing in str(caught.value) and unknown in str(caught.value) and "--classes" in str(caught.value)


def test_one_level_too_high(tmp_path):
    fill(tmp_path / "pictures", CIFAR10, 1)
    with pytest.raises(StudyError, match="the classes lie in .*pictures; name that folder"):
        class_folders(tmp_path, CIFAR10)


@pytest.mark.parametrize("dataset", ["cifar10", "folder"])
def test_a_test_folder_has_trainings_classes(tmp_path, dataset):
    """Training lacks one, or the test does: refused; both lack it, and it is stated: the labels stay."""
    names = CIFAR10 if dataset == "cifar10" else ("ant", "bee", "cow")
    fill(tmp_path / "train", names, 4), fill(tmp_path / "test", names[:-1])
    with pytest.raises(StudyError, match=f"missing {names[-1]}"):
        load_split(dataset, "test", 0, n_val=2, data_dir=str(tmp_path))
    found = load_split(dataset, "test", 0, n_val=2, data_dir=str(tmp_path), classes=names[1:-1])
    assert set(found.labels) == set(range(1, len(names) - 1)) and found.classes == names


def test_all_of_a_folders_classes_are_stated_in_the_order_of_rs_labels(tmp_path):
    """In training as in the test; a part of them leaves training's order."""
    names = ("ant", "bee", "cow")
    fill(tmp_path / "train", names, 4), fill(tmp_path / "test", names)
    found = [load_split("folder", split, 0, n_val=2, data_dir=str(tmp_path), classes=("cow", "ant", "bee"))
             for split in ("train", "test")]  # fmt: skip
    assert all(one.classes == ("cow", "ant", "bee") for one in found)
    files = [Path(tmp_path / "test" / name) for name in found[1].classes]
    for label, folder in enumerate(files):
        assert (found[1].array[found[1].labels == label][0] == read_whole(next(folder.iterdir()))).all()


def test_a_part_of_the_published_cifar10_cannot_be_stated(tmp_path):
    (tmp_path / CIFAR10_FILES).mkdir()
    with pytest.raises(StudyError, match="classes='cat' does not fit: .* is read whole"):
        load_split("cifar10", "test", 0, data_dir=str(tmp_path), classes=("cat",))


def test_classes_that_a_recogniser_cannot_tell_apart_are_refused(tmp_path, study_root, small_r):
    """An own R's classes have no names: as many folders as it has classes, or the order is stated."""
    spec = small_r()
    (
        fill(tmp_path / "data" / "train", [f"c{k}" for k in range(9)], 4),
        fill(tmp_path / "data" / "val", [f"c{k}" for k in range(9)]),
    )
    settings = {"dataset": "folder", "data_dir": str(tmp_path / "data"), "source_arch": spec, "target_archs": spec,
                "train_images": 0, "val_images": 4, "test_images": 0}  # fmt: skip
    with pytest.raises(StudyError, match="which of R's they are cannot be told; .*name them in the order"):
        train(make_config("smoke", "jpeg", "ra", **settings), log=lambda _: None)
    stated = make_config("smoke", "jpeg", "none", **settings, classes=",".join(f"c{k}" for k in range(9)))
    assert evaluate(stated, "test", log=lambda _: None).is_file()


def test_classes_are_a_setting_of_class_folders_alone(tmp_path):
    with pytest.raises(StudyError, match="classes='cat' does not fit"):
        make_config("digits", "sr", classes="cat")
    with pytest.raises(StudyError, match="classes='dog' is unknown"):
        class_folders(fill(tmp_path, ("cat",), 1), ("cat",), ("dog",))


# --- the same folder, or another one


@pytest.mark.parametrize("change", ["pixel", "label", "name", "added", "removed", "another folder"])
@pytest.mark.parametrize("dataset", ["cifar10", "folder"])
def test_other_pictures_are_another_run(tmp_path, study_root, monkeypatch, dataset, change):
    """Neither trained nor evaluated already, whatever has changed in which part."""
    data = tmp_path / "data"
    fill(data / "train", CIFAR10, 4), fill(data / "test", CIFAR10)
    settings = {
        "dataset": dataset,
        "train_images": 0,
        "val_images": 10,
        "test_images": 0,
        "batch_size": 8,
        "pretrain_epochs": 0,
    }
    config = make_config("smoke", "jpeg", "plain", data_dir=str(data), target_archs="resnet18_small", **settings)
    config = replace(config, target_archs=_random_r(tmp_path))
    train(config, log=lambda _: None), evaluate(config, "test", log=lambda _: None)
    assert is_trained(config) and is_evaluated(config, "test")
    loaders._version.cache_clear()
    assert is_trained(config) and is_evaluated(config, "test")
    for part, check in (("train", is_trained), ("test", lambda run: is_evaluated(run, "test"))):
        file, other = data / part / "cat" / "1.png", data / part / "dog" / "1.png"
        before = {path: path.read_bytes() for path in (file, other)}
        if change == "pixel":  # and not a byte longer or shorter
            content = bytearray(file.read_bytes())
            content[-20] ^= 1
            file.write_bytes(content)
        elif change == "label":
            file.write_bytes(before[other]), other.write_bytes(before[file])
        elif change == "name":
            file.rename(file.with_name("2.png" if part == "test" else "9.png"))
        elif change == "added":
            Image.new("RGB", (32, 32)).save(file.with_name("new.png"))
        elif change == "removed":
            file.unlink()
        run = config
        if change == "another folder":
            (tmp_path / part / part).parent.mkdir()
            fill(tmp_path / part / "train", CIFAR10, 5), fill(tmp_path / part / "test", CIFAR10, 3)
            run = replace(config, data_dir=str(tmp_path / part))
        loaders._version.cache_clear()
        assert not check(run)


def test_an_old_record_is_checked_by_what_it_read(tmp_path, study_root):
    """It does not say which files it was made from; its predictions say which pictures were read."""
    data = tmp_path / "data"
    fill(data / "train", CIFAR10, 4), fill(data / "test", CIFAR10)
    config = make_config("smoke", "jpeg", "none", dataset="cifar10", data_dir=str(data), val_images=10, test_images=0,
                         target_archs=_random_r(tmp_path))  # fmt: skip
    evaluate(config, "test", log=lambda _: None)
    marker = study_root / "runs" / "smoke" / config.run_id / "test.json"
    write_json(marker, {name: value for name, value in read_json(marker).items() if name != "pictures"})
    assert is_evaluated(config, "test") and is_evaluated(replace(config, data_dir=str(tmp_path / "not here")), "test")
    other = replace(config, data_dir=str(tmp_path / "other"))
    fill(tmp_path / "other" / "train", CIFAR10, 4), fill(tmp_path / "other" / "test", CIFAR10)
    (tmp_path / "other" / "test" / "cat" / "1.png").write_bytes((data / "test" / "dog" / "1.png").read_bytes())
    assert not is_evaluated(other, "test")


def _random_r(place: Path) -> str:
    torch.manual_seed(0)
    path = place / "r.safetensors"
    save_file(build_small("resnet18_small", 10).state_dict(), path, {"arch": "resnet18_small"})
    return f"resnet18_small@{path}"


# --- one listing


def test_a_listing_says_what_it_leaves_out(tmp_path):
    """Every picture once, wherever it lies and whatever it is called; and nothing that a program has put beside them."""
    picture = Image.new("RGB", (8, 8))
    kept = ["a.JPG", "a.jfif", "b/c d.png", "b/deep/er.webp", "ünï.png"]
    left = ["._a.jpg", ".hidden/x.png", "b/.ipynb_checkpoints/c-checkpoint.png", "b/@eaDir/c.png", "__MACOSX/a.png",
            "b/Thumbs/c.png", "notes.txt", "b/Thumbs.db"]  # fmt: skip
    for name in (*kept, *left):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "in" / name, "PNG")
    outside = tmp_path / "outside"
    outside.mkdir()
    picture.save(outside / "linked.png")
    (tmp_path / "in" / "z").symlink_to(outside), (tmp_path / "in" / "zz").symlink_to(outside)
    (tmp_path / "in" / "b" / "up").symlink_to(tmp_path / "in")
    with pytest.warns(UserWarning) as said:
        found = list_pictures(tmp_path / "in")
    assert found == tuple(sorted([*kept, "z/linked.png"]))
    assert [str(one.message) for one in said] == [
        f"{tmp_path / 'in'}: 6 pictures; left out: 6 hidden or made by programs, 2 links to folders that are listed already, "
        "2 of other kinds"
    ]


def test_a_clean_folder_says_nothing(tmp_path):
    fill(tmp_path, CIFAR10, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list_pictures(tmp_path)) == 10


@pytest.mark.parametrize("what", ["dead link", "name that is not UTF-8", "folder that cannot be read", "loop"])
@pytest.mark.parametrize("command", [
    ["evaluate", "--processor", "P", "--task", "jpeg", "--data", "IN"], ["restore", "IN", "--task", "jpeg", "-o", "OUT"],
    ["cache", "--data", "IN", "--cache-dir", "OUT"], ["doctor", "--data", "IN"],
], ids=lambda words: words[0])  # fmt: skip
def test_odd_entries_end_no_command_in_a_traceback(tmp_path, study_root, capsys, command, what):
    """Each is told in a sentence that names it, or is read."""
    folder = fill(tmp_path / "in", list("0123456789"), 1)
    odd = folder / "3" / "odd.png"
    if what == "dead link":
        odd.symlink_to(tmp_path / "gone.png")
    elif what == "loop":
        (folder / "3" / "loop").symlink_to(folder)
    elif what == "name that is not UTF-8":
        os.rename(folder / "3" / "0.png", os.fsencode(folder / "3") + b"/\xff.png")
    else:
        if os.geteuid() == 0:
            pytest.skip("root may read everywhere")
        (folder / "3" / "closed").mkdir(mode=0)
    places = {"P": COMMITTED, "IN": str(folder), "OUT": str(tmp_path / "out")}
    words = [places.get(word, word) for word in command]
    status = main(words if command[0] != "restore" else [*words, "--processor", COMMITTED])
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said and status in (0, 1, 2)
    if what == "dead link" and command[0] in ("evaluate", "cache", "restore"):
        assert status and "odd.png" in said
    elif what != "dead link" and command[0] in ("evaluate", "restore"):
        assert status == 0, said


# --- one opening

UPRIGHT = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
TURNS = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
         5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
         8: lambda a: np.rot90(a, -1)}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNS)
def test_every_reader_turns_a_picture_upright(tmp_path, orientation):
    """Class folders, photographs and ``restore`` open the same picture."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(TURNS[orientation](UPRIGHT))).save(tmp_path / "a.png", exif=exif)
    assert (read_whole(tmp_path / "a.png") == UPRIGHT).all()
    assert (np.asarray(open_picture(tmp_path / "a.png")[0]) == UPRIGHT).all()


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
KINDS = [(kind, depth, trns) for kind, depths in DEPTHS.items() for depth in depths
         for trns in ((False, True) if kind in (0, 2, 3) else (False,))]  # fmt: skip


def write_png(path: Path, kind: int, depth: int, trns: bool) -> tuple[np.ndarray, np.ndarray]:
    """A PNG of noise, by the specification alone; its values (H, W, C), and its palette."""
    rng = np.random.default_rng(0)
    values, palette = rng.integers(0, 2**depth, (12, 16, CHANNELS[kind])), rng.integers(0, 256, (2 ** min(depth, 8), 3))
    rows = []
    for row in values.reshape(12, -1):
        bits = "".join(f"{value:0{depth}b}" for value in row)
        rows.append(b"\0" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big"))
    first = values[0, 0].tolist()
    clear = bytes([0]) if kind == 3 else struct.pack(f">{len(first)}H", *first)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 16, 12, depth, kind, 0, 0, 0)), (b"PLTE", bytes(palette.flatten().tolist())),
             (b"tRNS", clear), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]  # fmt: skip
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in parts:
            if (name != b"PLTE" or kind == 3) and (name != b"tRNS" or trns):
                file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return values, palette


@pytest.mark.parametrize(("kind", "depth", "trns"), KINDS)
def test_every_kind_of_png_is_what_the_file_means(tmp_path, kind, depth, trns):
    """Colour type by bit depth by transparent colour: the same colours and alpha, or a note that says what is lost."""
    values, palette = write_png(tmp_path / "a.png", kind, depth, trns)
    picture, notes = open_picture(tmp_path / "a.png")
    said = " ".join(notes)
    top = 2**depth - 1
    alpha = np.full(values.shape[:2], 255)
    if kind == 3:
        colours = palette[values[..., 0]]
        alpha = np.where(values[..., 0] == 0, 0, 255) if trns else alpha
    else:
        colours = values[..., : 3 if kind in (2, 6) else 1]
        alpha = values[..., -1] >> depth - 8 if kind in (4, 6) else alpha
        alpha = np.where((values == values[0, 0]).all(-1), 0, 255) if trns else alpha
        colours = colours * 255 // top if depth != 16 else colours >> 8
    grey, clear = kind in (0, 4), trns or kind in (4, 6)
    if picture.mode == "I;16":
        assert (np.asarray(picture) == values[..., 0]).all() and ("transparent colour is lost" in said) == trns
        return
    if trns and depth == 16:
        assert "transparent colour is lost" in said and "8 are read" in said
        alpha, clear = np.full_like(alpha, 255), False
    assert picture.mode == ("L" if grey else "RGB") + "A" * clear
    assert (np.asarray(picture.convert("RGB")) == np.broadcast_to(colours, (*colours.shape[:2], 3))).all()
    assert (np.asarray(picture.convert("RGBA"))[..., 3] == alpha).all()
    assert bool(notes) == (kind == 3 or trns or depth in (1, 16))
    if (alpha < 255).any() or (trns and depth == 16):
        with pytest.raises(StudyError, match="transparent"):
            read_whole(tmp_path / "a.png")
    else:
        assert (read_whole(tmp_path / "a.png") == np.asarray(picture.convert("RGB"))).all()


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bits_of_a_tiff_are_scaled_to_8(tmp_path, order):
    """Grey, in either order of bytes."""
    values = np.random.default_rng(0).integers(0, 65536, (12, 16)).astype(order)
    mode = "I;16" if order == "<u2" else "I;16B"
    Image.frombytes(mode, (16, 12), values.tobytes()).save(tmp_path / "a.tif")
    assert (read_whole(tmp_path / "a.tif")[..., 0] == (values / 257).round()).all()


@pytest.mark.parametrize(("tag", "kind"), [(254, 1), (254, 2), (282, 2), (282, 7), (296, 12), (34665, 2)])
def test_tags_that_cannot_be_rewritten_cost_the_tags_alone(tmp_path, tag, kind):
    """A picture is turned upright all the same; where its tags go, a note says so, and the next picture is restored."""
    entries = sorted([(ExifTags.Base.Orientation, 3, 1, struct.pack("<HH", 6, 0)), (tag, kind, 1, b"\1\0\0\0")])
    packed = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + packed + bytes(4)
    Image.fromarray(np.ascontiguousarray(np.rot90(UPRIGHT))).save(tmp_path / "a.png", exif=block)
    picture, notes = open_picture(tmp_path / "a.png")
    assert (np.asarray(picture) == UPRIGHT).all()
    assert "exif" in picture.info or "EXIF data cannot be rewritten" in notes[0]
    assert (read_whole(tmp_path / "a.png") == UPRIGHT).all()


# --- files that are written


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_new_files_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "new" / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "a.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_replaced_file_keeps_its_mode_and_a_link_its_target(tmp_path):
    """A link stays one, also where its target is not there yet; no temporary file stays."""
    path, link, dead = tmp_path / "real" / "a.json", tmp_path / "link.json", tmp_path / "dead.json"
    write_json(path, {"a": 1})
    path.chmod(0o640)
    link.symlink_to(path), dead.symlink_to(tmp_path / "real" / "later.json")
    write_json(link, {"a": 2}), write_json(dead, {"a": 3})
    assert link.is_symlink() and read_json(path) == {"a": 2} and path.stat().st_mode & 0o777 == 0o640
    assert dead.is_symlink() and read_json(tmp_path / "real" / "later.json") == {"a": 3}
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.json", "later.json"]


@pytest.mark.parametrize("words", [
    ["restore", "a.png", "--task", "jpeg", "-o", "NAME.png"], ["report", "-o", "NAME"],
    ["evaluate", "--processor", "p", "--task", "sr", "--out", "NAME"],
    ["convert", "f", "--task", "sr", "--mode", "ra", "--out", "NAME"],
], ids=lambda words: words[0])  # fmt: skip
@pytest.mark.parametrize(
    ("name", "said"), [("n" * 300, "255 bytes"), ("ü" * 128, "255 bytes"), ("~nobody-here/x", "home folder")]
)
def test_names_that_cannot_be_written_are_refused_before_the_work(capsys, words, name, said):
    with pytest.raises(SystemExit) as ended:
        main([word.replace("NAME", name) for word in words])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_home_folder_may_be_named_everywhere(tmp_path, monkeypatch):
    """In options, settings, the root, recognisers and notebooks' parameters."""
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "data" / "train", CIFAR10, 4)
    monkeypatch.setenv("RASTUDY_ROOT", "~/study")
    assert root() == tmp_path / "study"
    assert len(load_split("cifar10", "val", 0, n_val=10, data_dir="~/data")) == 10
    assert loaders.data_version(make_config("cifar10", "sr", data_dir="~/data"), "train")["pictures"] != "missing"
    with pytest.raises(StudyError, match=f"{tmp_path}/r.pt"):
        classifiers.load_classifier("torchscript:~/r.pt")
    monkeypatch.delenv("HOME")
    with pytest.raises(StudyError, match="no home folder is known"):
        expand("~nobody-here/x")


@pytest.mark.parametrize(("number", "wanted"), [
    (errno.ENOSPC, "cannot be written (No space left on device); make room"),
    (errno.EACCES, "a.png: Permission denied; change its"),
    (errno.ENOENT, "a.png: No such file or directory"), (errno.EIO, "a.png: Input/output error"),
    (errno.EISDIR, "a.png: Is a directory"),
])  # fmt: skip
def test_the_system_is_quoted_with_the_file_and_what_can_be_done(monkeypatch, capsys, number, wanted):
    """A failed read is not called a full disk."""

    def fail(_args):
        raise OSError(number, os.strerror(number), "a.png")

    monkeypatch.setattr("rastudy.tools.doctor.doctor_command", fail)
    assert main(["doctor"]) == 2
    error = capsys.readouterr().err
    assert wanted in error and ("make room" in error) == (number == errno.ENOSPC)


# --- recognisers of the user's own


class Odd(torch.nn.Module):
    """Gives what a classifier of another program may give."""

    def __init__(self, kind: str = "tuple"):
        super().__init__()
        self.kind, self.layer = kind, torch.nn.Linear(3, 10)

    def forward(self, pictures):
        logits = self.layer(pictures.mean((2, 3)))
        return {"tuple": (logits, logits), "dict": {"logits": logits}, "image": pictures, "flat": logits.flatten()}[self.kind]


def odd_tuple():
    return Odd("tuple")


def odd_dict():
    return Odd("dict")


def odd_image():
    return Odd("image")


def odd_flat():
    return Odd("flat")


def broken():
    raise RuntimeError("the network wants a GPU")


def nothing():
    return None


@pytest.mark.parametrize(("build", "said"), [
    ("odd_tuple", "gives a tuple; it must give logits"), ("odd_dict", "gives a dict; it must give logits"),
    ("odd_image", r"gives a tensor \(2, 3, 8, 8\); it must"), ("odd_flat", r"gives a tensor \(20,\); it must"),
    ("broken", "raised RuntimeError: the network wants a GPU"), ("nothing", "gives a NoneType, not a torch.nn.Module"),
])  # fmt: skip
def test_odd_networks_are_told_in_a_sentence(tmp_path, build, said):
    torch.save(Odd().state_dict(), tmp_path / "w.pth")
    with pytest.raises(StudyError, match=said):
        classifiers.load_classifier(f"test_folders:{build}@{tmp_path / 'w.pth'}")(torch.zeros(2, 3, 8, 8))


WRAPPED = {
    "module.": lambda s: {f"module.{k}": v for k, v in s.items()},
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "both": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "model": lambda s: {"model": s, "optimizer": {}},
    "params_ema": lambda s: {"params": {k: v * 0 for k, v in s.items()}, "params_ema": s},
    "nested": lambda s: {"model": {"state_dict": s}},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_state_dicts_are_unwrapped(tmp_path, kind):
    state = Odd().state_dict()
    torch.save(WRAPPED[kind](state), tmp_path / "w.pth")
    found = load_state_file(tmp_path / "w.pth")
    assert found.keys() == state.keys() and all((found[name] == state[name]).all() for name in state)


@pytest.mark.parametrize("content", [{"optimizer": {}, "lr": 0.1}, [1, 2], {"state_dict": 3}, {}], ids=str)
def test_what_is_no_state_dict_is_told(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(StudyError, match="not a state dict"):
        load_state_file(tmp_path / "w.pth")


@pytest.mark.parametrize("specs", [
    "torchscript:/a/net.pt,torchscript:/b/net.pt", "resnet18_small,resnet18_small",
    "resnet18_small@/a.pth,resnet18_small@/b.pth", "mynets:build@/a.pth,mynets:build@/b.pth",
])  # fmt: skip
@pytest.mark.parametrize("field", ["target_archs", "source_arch"])
def test_recognisers_of_one_name_are_refused_at_the_start(specs, field):
    with pytest.raises(StudyError, match="would both be called"):
        make_config("digits", "sr", "ra", **{field: specs})


@pytest.mark.parametrize("place", ["/a@b/net.pt", "/a b/net.pt", "/ä/net.pt"])
def test_paths_with_odd_signs_are_paths(place):
    assert classifiers._find(f"torchscript:{place}", "digits")[2] == Path(place)
    assert classifiers._find(f"resnet18_small@{place}", "digits")[2] == Path(place)
    with pytest.raises(StudyError, match="commas separate names"):
        make_config("digits", "sr", target_archs="torchscript:/a,b/net.pt")


def test_the_source_from_a_file_is_no_unseen_target(small_r, study_root):
    """``NAME@FILE`` in the loss and in the test is one R: the mean over unseen R's is without it."""
    spec, other = small_r(), small_r("vgg16_bn_small")
    config = make_config("smoke", "jpeg", "ra", source_arch=spec, target_archs=f"{spec},{other}", pretrain_epochs=0)
    train(config, log=lambda _: None)
    cell = comparisons.Cell({0: load_predictions(evaluate(config, "val", log=lambda _: None))})
    assert [(name, role) for name, role, _ in comparisons.contrasts(cell)] == [
        ("resnet18_small", "source"), ("vgg16_bn_small", "unseen"), ("mean_unseen", "mean_unseen")
    ]  # fmt: skip


# --- a loop over a user's files


@pytest.mark.parametrize("flag", [[], ["--skip-unreadable"]], ids=["named", "skipped"])
@pytest.mark.parametrize("command", ["evaluate", "cache"])
def test_one_picture_costs_itself_alone(tmp_path, study_root, capsys, command, flag):
    """It is named, the others are read, and the status says so."""
    folder = fill(tmp_path / "in", list("0123456789"), 2)
    (folder / "3" / "1.png").write_bytes(b"no picture")
    words = {
        "evaluate": ["--processor", COMMITTED, "--task", "jpeg"],
        "cache": ["--cache-dir", str(tmp_path / "cache"), "--resize", "32"],
    }
    assert main([command, "--data", str(folder), *words[command], *flag]) == int(not flag)
    said = "".join(capsys.readouterr())
    assert "3/1.png" in said and ("n = 19" in said or "19 pictures" in said)


# --- the user's surroundings


def test_a_notebooks_parameters_are_those_of_its_cells():
    """A startup file's variables, a scratch one, and a cell run twice are none; a typo in a parameter cell is."""
    cells = [
        "",
        "preset: str = 'smoke'\ntask: str = 'dn'",
        "# Parameters\nseed = 3\n",
        "x = 1; epochs = 9",
        "%matplotlib inline",
    ]
    namespace = {"In": cells, "preset": "smoke", "task": "dn", "seed": 3, "x": 1, "epochs": 9, "startup": [1], "own": {"a": 1}}
    config, _ = configure(namespace)
    assert (config.preset, config.seed) == ("smoke", 3) and config.epochs != 9
    assert configure(namespace | {"config": config, "_": {}})[0] == config
    with pytest.raises(StudyError, match="parameter='sed' is unknown"):
        configure(namespace | {"In": [*cells, "# Parameters\nsed = 3\n"], "sed": 3})


def test_a_personal_matplotlibrc_does_not_reach_the_figures():
    with matplotlib.rc_context({"text.usetex": True, "font.size": 40.0, "axes.facecolor": "red"}):
        style.theme("white")
        assert not matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["axes.facecolor"] == "white"


@pytest.mark.parametrize("word", ["1", "true", "Yes", "on", "0", "false", "no", "OFF", "maybe", "", "2", "tru"])
@pytest.mark.parametrize("way", ["--flip", "--set"])
def test_switches_take_the_usual_words(study_root, capsys, way, word):
    """And refuse any other: none of them is False."""
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if way == "--set":
        if word.lower() in known:
            assert settings_from([f"flip={word}"]) == {"flip": known[word.lower()]}
        else:
            with pytest.raises(StudyError, match="flip"):
                settings_from([f"flip={word}"])
        return
    words = ["train", "--preset", "smoke", "--task", "jpeg", f"--flip={word}"]
    if word.lower() in known:
        assert parse(words)[1].flip == known[word.lower()]
    else:
        with pytest.raises(SystemExit) as ended:
            parse(words)
        assert ended.value.code == 2 and "--flip" in capsys.readouterr().err


@pytest.mark.parametrize("words", [
    ["train", "--task", "sr", "--image-size", "-5"], ["train", "--task", "sr", "--epochs", "0"], ["sweep", "--jobs", "0"],
    ["sweep", "--list", "--set", "image_size=-5"], ["sweep", "--list", "--set", "test_images=-1"],
    ["cache", "--data", "x", "--resize", "0"], ["cache", "--data", "x", "--cache-dir", "none"],
    ["train", "--task", "sr", "--device", "gpu0"], ["boundaries", "--pictures", "-1"], ["recognisers", "--seed", "-1"],
], ids=" ".join)  # fmt: skip
def test_sizes_and_devices_that_are_none(study_root, capsys, words):
    """A negative number is refused where a user writes it; in a notebook it means the preset's."""
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code
    error = capsys.readouterr().err
    assert status == 2 and "Traceback" not in error and words[-1].rpartition("=")[2] in error


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--set", "task=dn"], "--set task=dn: use --task for it"), (["--set", "ra_weight=0.5"], "use --ra-weight"),
     (["--direction", "upload", "--set", "test_images=5"], "--set has no effect beside --direction"),
     (["--direction", "upload", "--split", "val"], "--split has no effect beside --direction"),
     (["--data", "x"], "data_dir='x' has no effect"), (["--set", "resize=100"], "resize=100 has no effect on these"),
     (["--set", "labels=wrong"], "labels='wrong' is unknown"), (["--set", "lr=1.0", "lr=0.5"], "lr is set twice"),
     (["--split"], "--split names no split; use val or test")],
    ids=str,
)  # fmt: skip
def test_options_that_would_do_nothing(study_root, capsys, words, says):
    """Are refused: a study of other settings than those asked for must not come out of it."""
    assert main(["sweep", "--preset", "smoke", "--list", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_part_of_class_folders_has_every_class(tmp_path):
    """They are sorted by class: the first ones would be of one class."""
    names = ["a", "bb", "ccc"]
    fill(tmp_path / "train", names, 6)
    fill(tmp_path / "test", names, 5)
    found = load_split("folder", "test", 6, data_dir=str(tmp_path), size=32, n_val=3)
    assert np.bincount(found.labels).tolist() == [2, 2, 2] and len(set(found.groups)) == 6


def test_what_git_refuses_is_told(study_root, monkeypatch):
    """Not a checkout, and a checkout that git does not trust or cannot read, are two things."""
    monkeypatch.setattr(document, "CHECKOUT", study_root)
    assert document._git("log") == "unknown: not a git checkout"
    (study_root / ".git").mkdir()
    assert document._git("log").startswith("unknown: git refuses (") and "git" in document._git("log")[20:]


def test_an_installed_package_writes_under_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("RASTUDY_ROOT", raising=False)
    assert root() == paths.CHECKOUT / "runs" / "study"
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "site-packages"), monkeypatch.chdir(tmp_path)
    assert root() == tmp_path and paths.WEIGHTS.is_dir()
    with pytest.raises(StudyError, match="the report needs a clone of the repository"):
        paths.need_checkout("the report")


def test_training_says_what_it_ran_on(study_root):
    """torch, the CPU and its instructions, threads: in the run's record."""
    config = make_config("smoke", "jpeg", "plain", pretrain_epochs=0)
    train(config, log=lambda _: None)
    about = read_json(study_root / "runs" / "smoke" / config.run_id / "trained.json")["provenance"]
    assert about["torch"] == torch.__version__ and torch.backends.cpu.get_cpu_capability() in about["cpu"]
    assert about["threads"] == "1"
