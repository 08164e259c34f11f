"""Picture sets and batches: what a loader gives, and what a folder of pictures becomes."""

import functools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import CenterCrop, Resize

from rastudy.data.datasets import CIFAR10, PictureSet, load_split, read_folder
from rastudy.data.degradations import degrade, to_tensor
from rastudy.data.image_files import centre_crop, read_picture, read_whole
from rastudy.data.loaders import Loader
from rastudy.errors import StudyError

STRENGTH = {"sr": 4, "dn": 0.2, "jpeg": 8}


def make_folder(folder: Path, counts: dict[str, int], size: int = 40, ext: str = "png") -> dict[str, list[np.ndarray]]:
    """Write a folder of class folders with random pictures; returns their pixels by class."""
    rng, pixels = np.random.default_rng(len(counts)), {}
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        pixels[name] = [rng.integers(0, 256, (size, size, 3), np.uint8) for _ in range(count)]
        for k, picture in enumerate(pixels[name]):
            Image.fromarray(picture).save(folder / name / f"{k:03d}.{ext}")
    return pixels


def epoch(loader: Loader, seed: int, number: int) -> list[torch.Tensor]:
    """lq, gt, label and index of a whole epoch."""
    return [torch.cat(parts) for parts in zip(*loader.epoch(seed, number), strict=True)]


@pytest.mark.parametrize("task", STRENGTH)
def test_an_epoch_depends_on_seed_and_number_alone(small_set, task):
    """Two loaders give the same batches, whatever the global generator does; other seeds and epochs give others."""
    first, second = (Loader(small_set, task, STRENGTH[task], 5, flip=True) for _ in range(2))
    expected = epoch(first, 1, 2)
    torch.manual_seed(99)
    epoch(second, 0, 0)
    assert all(torch.equal(a, b) for a, b in zip(expected, epoch(second, 1, 2), strict=True))
    for other in ((1, 3), (2, 2), (0, 0)):
        assert not torch.equal(expected[3], epoch(second, *other)[3])


@pytest.mark.parametrize("task", STRENGTH)
def test_every_picture_is_seen_once_an_epoch(small_set, task):
    loader = Loader(small_set, task, STRENGTH[task], 5)
    batches = list(loader.epoch(0, 0))
    assert [len(batch.index) for batch in batches] == [5, 5, 5, 5, 3] and len(loader) == 5
    lq, gt, label, index = epoch(loader, 0, 0)
    assert sorted(index.tolist()) == list(range(23)) != index.tolist()
    assert torch.equal(label, torch.from_numpy(small_set.labels)[index])
    for k, i in enumerate(index):
        assert torch.equal(gt[k], to_tensor(small_set.pictures[i]))
        if task != "dn":
            assert torch.equal(lq[k], degrade(small_set.pictures[i], task, STRENGTH[task]))


def test_training_noise_is_fresh(small_set):
    """Another epoch, another picture: other noise of the right size."""
    loader = Loader(small_set, "dn", 0.2, 5)
    noise = []
    for number in range(2):
        lq, gt, _, index = epoch(loader, 0, number)
        noise.append((lq - gt)[index.argsort()])
        inside = (lq > 0) & (lq < 1) & (gt > 0.3) & (gt < 0.7)
        assert abs((lq - gt)[inside].std().item() - 0.2) < 0.02
    assert (noise[0] != noise[1]).flatten(1).any(1).all() and (noise[0][0] != noise[0][1]).any()


@pytest.mark.parametrize("task", STRENGTH)
def test_a_flipped_variant_is_the_flipped_picture(small_set, task):
    """Half of the draw is flipped before its degradation: JPEG of a flipped picture is no flipped JPEG."""
    lq, gt, _, index = epoch(Loader(small_set, task, STRENGTH[task], 23, flip=True), 0, 0)
    flipped = 0
    for k, i in enumerate(index):
        original = small_set.pictures[i]
        mirrored = np.ascontiguousarray(original[:, ::-1])
        is_flipped = torch.equal(gt[k], to_tensor(mirrored))
        assert is_flipped != torch.equal(gt[k], to_tensor(original))
        if task != "dn":
            assert torch.equal(lq[k], degrade(mirrored if is_flipped else original, task, STRENGTH[task]))
        flipped += is_flipped
    assert 4 < flipped < 19


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_evaluation_noise_is_seeded_by_the_index(small_set, batch_size):
    """The release's noise: in order, whatever the batch size."""
    batches = list(Loader(small_set, "dn", 0.2, batch_size).ordered())
    lq, gt, _, index = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert index.tolist() == list(range(23))
    for k in range(23):
        noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(k))
        assert torch.equal(lq[k], (gt[k] + 0.2 * noise).clamp(0, 1))


def test_evaluation_never_flips(small_set):
    for batch in Loader(small_set, "jpeg", 8, 5, flip=True).ordered():
        for k, i in enumerate(batch.index):
            assert torch.equal(batch.gt[k], to_tensor(small_set.pictures[i]))


def test_the_digest_of_a_set_sees_pictures_and_labels(small_set):
    fields = {name: getattr(small_set, name) for name in ("name", "split", "pictures", "labels", "groups", "classes")}
    pixels = small_set.pictures.copy()
    pixels[3, 5, 5, 1] ^= 1
    others = [{"pictures": pixels}, {"labels": np.roll(small_set.labels, 1)}]
    assert PictureSet(**fields).digest == small_set.digest
    assert len({small_set.digest, *(PictureSet(**fields | other).digest for other in others)}) == 3


def test_class_folders_are_read_in_order(tmp_path):
    """Labels follow sorted class names; PNG pixels survive, other files and hidden folders are left alone."""
    pixels = make_folder(tmp_path, {"zebra": 2, "ant": 3, "Bee": 1})
    (tmp_path / ".cache").mkdir()
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    pictures, labels, classes = read_folder(tmp_path, 40)
    assert classes == ("Bee", "ant", "zebra") and labels.tolist() == [0, 1, 1, 1, 2, 2]
    assert labels.dtype == np.int64 and pictures.dtype == np.uint8
    assert (pictures == np.stack(pixels["Bee"] + pixels["ant"] + pixels["zebra"])).all()


def test_jpeg_files_decode_as_pil_does(tmp_path):
    pixels = make_folder(tmp_path, {"a": 1}, ext="JPEG")["a"][0]
    decoded = read_picture(tmp_path / "a" / "000.JPEG", 40)
    assert (decoded == np.asarray(Image.open(tmp_path / "a" / "000.JPEG"))).all() and (decoded != pixels).any()


def test_other_pixel_modes_become_rgb(tmp_path):
    """Greyscale, palette, bilevel, CMYK, 16 bit, and opaque transparency channels."""
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 256, (40, 40), np.uint8), rng.integers(0, 256, (40, 40, 3), np.uint8)
    palette = Image.fromarray(colour).quantize(16)
    cmyk = np.concatenate([255 - colour, np.zeros((40, 40, 1), np.uint8)], 2)  # no black: RGB is 255 - CMY
    opaque = np.concatenate([colour, np.full((40, 40, 1), 255, np.uint8)], 2)
    three = grey[..., None].repeat(3, 2)
    deep = grey.astype(np.uint16) * 256 + (255 - grey)  # 0 to 65535 stand for 0 to 255
    table = np.array(palette.getpalette()[:48], np.uint8).reshape(16, 3)
    cases = {
        "grey.png": (Image.fromarray(grey), three),
        "palette.png": (palette, table[np.asarray(palette)]),
        "bilevel.png": (Image.fromarray(grey > 127), np.where(three > 127, 255, 0)),
        "cmyk.tif": (Image.fromarray(cmyk, "CMYK"), colour),
        "deep.png": (Image.fromarray(deep), three),
        "deep.tif": (Image.fromarray(deep), three),
        "rgba.png": (Image.fromarray(opaque), colour),
        "la.png": (Image.fromarray(grey).convert("LA"), three),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        assert np.abs(read_picture(tmp_path / name, 40) - expected.astype(int)).max() <= name.startswith("deep"), name


@pytest.mark.parametrize("kind", ["rgba", "la", "palette", "colour key"])
def test_transparent_pictures_are_refused(tmp_path, kind):
    """One transparent pixel is enough: what lies behind it is unknown."""
    path, extra = tmp_path / "x.png", {}
    image = Image.new({"rgba": "RGBA", "la": "LA", "palette": "P", "colour key": "RGB"}[kind], (40, 40))
    if kind in ("rgba", "la"):
        image.putalpha(255)
        image.putpixel((7, 3), (0,) * (len(image.getbands()) - 1) + (254,))
    else:
        extra["transparency"] = {"palette": 0, "colour key": (0, 0, 0)}[kind]
    image.save(path, **extra)
    with pytest.raises(StudyError, match="x.png.*transparent"):
        read_picture(path, 40)


@pytest.mark.parametrize("sides", [(300, 400), (400, 301), (256, 256), (225, 333), (230, 224), (375, 500), (361, 412)])
def test_resize_and_crop_are_torchvisions(tmp_path, sides):
    """The paper's validation crops: Resize(256), CenterCrop(224)."""
    rng = np.random.default_rng(sum(sides))
    image = Image.fromarray(rng.integers(0, 256, (*sides, 3), np.uint8))
    image.save(tmp_path / "x.png")
    expected = np.asarray(CenterCrop(224)(Resize(256)(image)))
    assert (centre_crop(read_whole(tmp_path / "x.png", 256), 224) == expected).all()


def test_the_resized_side_is_exact_for_every_size(tmp_path, monkeypatch):
    """The shorter side becomes 256 pixels, never 255: seen from the crop of a gradient picture."""
    asked = []
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *a, **k: asked.append(size) or Image.new("RGB", size))
    for side in range(40, 400):
        Image.new("RGB", (side, side)).save(tmp_path / "x.bmp")
        read_whole(tmp_path / "x.bmp", 256)
    assert set(asked) == {(256, 256)}


@pytest.mark.parametrize("content", [b"", b"P6\n4\xa60 40\n255\n" + b"0" * 4800, b"not a picture"])
def test_whatever_cannot_be_decoded_is_named(tmp_path, content):
    """Also where PIL raises something else than its own error."""
    (tmp_path / "x.ppm").write_bytes(content)
    with pytest.raises(StudyError, match="x.ppm.*readable"):
        read_picture(tmp_path / "x.ppm", 32)


def test_a_picture_that_claims_to_be_huge_is_named(tmp_path):
    """PIL refuses a decompression bomb with an error of its own."""
    Image.new("RGB", (40, 40)).save(tmp_path / "x.bmp")
    content = bytearray((tmp_path / "x.bmp").read_bytes())
    content[18:26] = (40000).to_bytes(4, "little") * 2  # width and height
    (tmp_path / "x.bmp").write_bytes(content)
    with pytest.raises(StudyError, match="x.bmp"):
        read_picture(tmp_path / "x.bmp", 32)


def folder_split(root: Path, split: str, n: int = 0, n_val: int = 8) -> PictureSet:
    return load_split("folder", split, n, n_val=n_val, data_dir=str(root), size=40)


def contents(pictures: PictureSet) -> set[bytes]:
    return {picture.tobytes() for picture in pictures.pictures}


def test_validation_is_taken_out_of_training(tmp_path):
    """Disjoint, complete, stratified, the same at every call; the test folder stays apart."""
    make_folder(tmp_path / "train", {"a": 20, "b": 12})
    make_folder(tmp_path / "test", {"a": 4, "b": 3})
    train, val, test = (folder_split(tmp_path, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (24, 8, 7)
    assert not contents(train) & contents(val) and len(contents(train) | contents(val)) == 32
    assert np.bincount(val.labels).tolist() == [5, 3]
    again = folder_split(tmp_path, "val")
    assert again.digest == val.digest and (again.groups == val.groups).all()
    assert len(np.unique(train.groups)) == 24  # every picture for itself
    assert (folder_split(tmp_path, "train", 10).pictures == train.pictures[:10]).all()
    assert len(np.unique(train.labels[:10])) == 2  # a prefix is shuffled, not sorted by class


def test_a_folder_without_test_uses_val(tmp_path):
    make_folder(tmp_path / "val", {"a": 2, "b": 2})
    assert len(folder_split(tmp_path, "test")) == 4


def test_small_classes_and_no_validation(tmp_path):
    """Classes too small to stratify are split at random; ``n_val`` 0 keeps every picture for training."""
    make_folder(tmp_path / "train", {"a": 9, "b": 1})
    assert len(folder_split(tmp_path, "train", n_val=4)) == 6
    assert len(folder_split(tmp_path, "train", n_val=0)) == 10
    with pytest.raises(StudyError, match="no pictures for validation"):
        folder_split(tmp_path, "val", n_val=0)
    make_folder(tmp_path / "few" / "train", {"a": 5, "b": 5})
    assert len(folder_split(tmp_path / "few", "train", n_val=9)) == 1


def test_digits_splits():
    train, val = load_split("digits", "train", 30), load_split("digits", "val", 30)
    assert (len(train), train.name, val.split, train.classes) == (30, "digits", "val", tuple("0123456789"))
    assert not contents(train) & contents(val) and not set(train.groups) & set(val.groups)
    with pytest.raises(StudyError, match="holds 2500 pictures, 2501 were asked for"):
        load_split("digits", "test", 2501)


CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar10(root: Path) -> np.ndarray:
    """A miniature of the published archive: five training batches and a test batch of 20 pictures each."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 20, 3, 32, 32), np.uint8)
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        batch = {"data": pixels[k].reshape(20, 3072), "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CIFAR_CLASSES}))
    return pixels.transpose(0, 1, 3, 4, 2)


def test_cifar10_as_published(tmp_path, monkeypatch):
    """torchvision's own loader reads the archive; validation comes out of the training batches."""
    pixels = write_cifar10(tmp_path)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)  # the MD5s are the real files'
    train, val, test = (load_split("cifar10", s, 0, n_val=20, data_dir=str(tmp_path)) for s in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (80, 20, 20)
    assert (test.pictures == pixels[5]).all() and test.labels.tolist() == [i % 10 for i in range(20)]
    assert contents(train) | contents(val) == {p.tobytes() for p in pixels[:5].reshape(100, 32, 32, 3)}
    assert not contents(train) & contents(val) and test.classes == tuple(CIFAR_CLASSES)
    assert np.bincount(val.labels).tolist() == [2] * 10
    flat = pixels[:5].reshape(100, 32, 32, 3)
    assert (train.pictures == flat[train.groups]).all() and (train.labels == train.groups % 10).all()


def test_a_damaged_cifar10_is_refused(tmp_path):
    """torchvision holds the files against their published MD5s."""
    write_cifar10(tmp_path)
    with pytest.raises(StudyError, match="cifar-10-batches-py|corrupted"):
        load_split("cifar10", "test", 0, data_dir=str(tmp_path))


def test_cifar10_as_class_folders(tmp_path):
    pixels = make_folder(tmp_path / "train", dict.fromkeys(CIFAR_CLASSES, 4), 32)
    make_folder(tmp_path / "test", dict.fromkeys(CIFAR_CLASSES, 1), 32)
    train, test = (load_split("cifar10", s, 0, n_val=20, data_dir=str(tmp_path)) for s in ("train", "test"))
    assert (len(train), len(test), train.name, train.classes) == (20, 10, "cifar10", tuple(CIFAR_CLASSES))
    for picture, label in zip(train.pictures, train.labels, strict=True):
        assert any((picture == other).all() for other in pixels[CIFAR_CLASSES[label]])


def test_skip_unreadable_reaches_class_folders_of_cifar10(tmp_path):
    make_folder(tmp_path / "test", dict.fromkeys(CIFAR_CLASSES, 1), 32)
    (tmp_path / "train").mkdir()
    (tmp_path / "test" / "cat" / "001.png").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="skipped 1 pictures"):
        assert len(load_split("cifar10", "test", 0, data_dir=str(tmp_path), skip_unreadable=True)) == 10


@pytest.mark.full
@pytest.mark.skipif("RASTUDY_CIFAR10" not in os.environ, reason="RASTUDY_CIFAR10 names no folder with CIFAR-10")
def test_the_real_cifar10():
    """The real pictures, from whichever layout the folder has."""
    folder = os.environ["RASTUDY_CIFAR10"]
    train, val, test = (load_split("cifar10", split, 0, data_dir=folder) for split in ("train", "val", "test"))
    for pictures, count in ((train, 49000), (val, 1000), (test, 10000)):
        assert pictures.pictures.shape == (count, 32, 32, 3) and pictures.classes == tuple(CIFAR_CLASSES)
        assert np.bincount(pictures.labels).tolist() == [count // 10] * 10
    means = np.array([125.3, 123.0, 113.9])  # the training pictures' well-known channel means
    assert np.abs(train.pictures.mean((0, 1, 2)) - means).max() < 1
    assert not set(train.groups) & set(val.groups)


def test_two_disjoint_halves_of_cifar10s_training_pictures(tmp_path):
    """P and its source learn from one, the readers from the other; they are validated and tested on the same pictures."""
    for split in ("train", "test"):
        for k, name in enumerate(CIFAR10):
            (tmp_path / split / name).mkdir(parents=True)
            for n in range(4):
                Image.new("RGB", (32, 32), (25 * k, 60 * n, 0)).save(tmp_path / split / name / f"{n}.png")
    load = functools.partial(load_split, n=0, n_val=10, data_dir=str(tmp_path))
    whole, even, odd = (load(name, "train") for name in ("cifar10", "cifar10_even", "cifar10_odd"))
    assert len(even) == len(odd) == 15 and sorted([*even.groups, *odd.groups]) == sorted(whole.groups)
    assert (even.name, odd.name, even.classes) == ("cifar10_even", "cifar10_odd", whole.classes)
    for split in ("val", "test"):
        assert len({load(name, split).digest for name in ("cifar10", "cifar10_even", "cifar10_odd")}) == 1
    assert (load_split("cifar10_odd", "train", 5, n_val=10, data_dir=str(tmp_path)).groups == odd.groups[:5]).all()
    with pytest.raises(StudyError, match="cifar10_odd holds 15 pictures, 16 were asked for"):
        load_split("cifar10_odd", "train", 16, n_val=10, data_dir=str(tmp_path))
