"""Photographs: the cache of decoded pictures, ImageNet's folders, crops, splits."""

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Resize

from rastudy.config import Config, make_config
from rastudy.data import loaders
from rastudy.data import photo_cache as cache
from rastudy.data.degradations import degrade
from rastudy.data.image_files import list_pictures
from rastudy.data.imagenet import GROUND_TRUTH, KAGGLE, SYNSET_LABELS, photo_labels, split_of, wnids, write_split
from rastudy.data.loaders import CropLoader, data_version, evaluation_batches, load_pictures, loader_of
from rastudy.data.photo_cache import CachedPhotos, FilePhotos, cache_folder, open_cache, pixels_file, table_file, verify
from rastudy.errors import StudyError
from rastudy.training.run_store import is_trained
from rastudy.training.train import train

WNIDS = Path(os.environ.get("RASTUDY_WNIDS", "imagenet_wnids.txt"))  # a list to check timm's against, where there is one
CLASSES = ("n01443537", "n02123045", "n07753592")  # labels 1, 281, 954


def photographs(folder: Path, names: list[str], size: tuple[int, int] = (70, 90)) -> list[Path]:
    """Write JPEG files of smooth noise, each another size."""
    rng, paths = np.random.default_rng(7), []
    for k, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
        coarse.resize((size[1] + 3 * k, size[0]), Image.Resampling.BICUBIC).save(path, "JPEG", quality=92)
        paths.append(path)
    return paths


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 4)


@pytest.fixture
def ten(tmp_path, small_shards) -> FilePhotos:
    """Ten photographs in three shards."""
    names = [f"n01443537/{k}.JPEG" for k in range(10)]
    photographs(tmp_path / "data", names)
    return FilePhotos(tmp_path / "data", tuple(names), 64)


def labels_of(folder: Path) -> list[int]:
    return photo_labels(folder, list_pictures(folder)).tolist()


def imagenet(root: Path, **overrides) -> Config:
    """A run on small photographs."""
    small = {"image_size": 32, "resize": 40, "channels": 4, "blocks": 1, "batch_size": 4, "data_dir": str(root)}
    return make_config("imagenet", "sr", **({"target_archs": "resnet18"} | small | overrides))


def test_the_cache_holds_what_decoding_gives(ten, tmp_path):
    """Bit for bit, by one process and by two, in any order, and after pickling."""
    for workers in (1, 2):
        photos, usable = open_cache(ten, tmp_path / str(workers), workers, log=lambda _: None)
        assert len(photos) == 10 and usable.tolist() == list(range(10))
        for k in (3, 9, 0):
            expected = np.asarray(Resize(64)(Image.open(ten.folder / ten.files[k])))
            assert (photos[k] == ten[k]).all() and (photos[k] == expected).all()
    part = pickle.loads(pickle.dumps(photos.subset([7, 2])))
    assert (part[0] == ten[7]).all() and (part[1] == ten[2]).all() and len(part) == 2
    assert verify(photos) == [] and photos.digest() == open_cache(ten, tmp_path / "1")[0].digest()


def test_an_interrupted_build_goes_on(ten, tmp_path, monkeypatch):
    """Complete shards are kept; a shard without a table is made again; leftovers of a killed process go."""
    written, write = [], cache._write_shard

    def dies(folder: Path, shard: int, *rest) -> int:
        if shard == 1:
            raise KeyboardInterrupt
        written.append(shard)
        return write(folder, shard, *rest)

    monkeypatch.setattr(cache, "_write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        open_cache(ten, tmp_path)
    folder = cache_folder(ten, tmp_path)
    pixels_file(folder, 1).write_bytes(b"half")
    (folder / ".x1.tmp").write_bytes(b"half")
    monkeypatch.setattr(
        cache, "_write_shard", lambda folder, shard, *rest: written.append(shard) or write(folder, shard, *rest)
    )
    photos, _ = open_cache(ten, tmp_path)
    assert written == [0, 1, 2] and verify(photos) == [] and not list(folder.glob(".*.tmp"))


def test_a_stale_cache_is_refused_and_rebuilt_on_request(ten, tmp_path):
    open_cache(ten, tmp_path)
    photographs(ten.folder, [ten.files[5]], (80, 64))
    with pytest.raises(StudyError, match="stale.*--rebuild"):
        open_cache(ten, tmp_path)
    photos, _ = open_cache(ten, tmp_path, rebuild=True)
    assert (photos[5] == ten[5]).all()
    with pytest.raises(StudyError, match="stale.*10 pictures then, 9 now"):
        open_cache(ten.subset(range(9)), tmp_path)


@pytest.mark.parametrize("harm", ["flip", "truncate", "table", "lost"])
def test_a_damaged_cache_is_found_and_rebuilt_on_request(ten, tmp_path, harm):
    """One changed bit is found when its picture is read, and by --verify; the rest when the cache is opened."""
    open_cache(ten, tmp_path)
    path = pixels_file(cache_folder(ten, tmp_path), 1)
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[-100] ^= 1
        path.write_bytes(content)
        photos, _ = open_cache(ten, tmp_path)
        assert (photos[4] == ten[4]).all() and "checksum" in verify(photos)[0]
        with pytest.raises(StudyError, match="00001.bin.*damaged.*--rebuild"):
            photos[7]
    else:
        if harm == "table":
            table_file(path.parent, 1).write_bytes(b"\x93NUMPY")
        elif harm == "lost":
            path.unlink()
        else:
            path.write_bytes(content[:-1])
        with pytest.raises(StudyError, match="00001.bin.*damaged.*--rebuild"):
            open_cache(ten, tmp_path)
    photos, _ = open_cache(ten, tmp_path, rebuild=True)
    assert verify(photos) == [] and all((photos[k] == ten[k]).all() for k in range(10))


def test_many_shards_need_few_file_descriptors(ten, tmp_path, monkeypatch):
    """ImageNet has thousands of shards; a process may often open a thousand files."""
    monkeypatch.setattr(cache, "SHARD", 1)
    photos, _ = open_cache(ten, tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    pixels = [int(photos[k][0, 0, 0]) for k in range(10)]
    assert len(pixels) == 10 and len(os.listdir("/proc/self/fd")) <= before + 1


def test_too_little_disk_is_said_before_it_starts(ten, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(StudyError, match="GB are free.*cache_dir"):
        open_cache(ten, tmp_path)
    assert not list(cache_folder(ten, tmp_path).glob("*.bin"))


def test_unreadable_photographs(ten, tmp_path):
    (ten.folder / ten.files[6]).write_bytes(b"no picture")
    with pytest.raises(StudyError, match="6.JPEG.*readable"):
        open_cache(ten, tmp_path)
    with pytest.warns(UserWarning, match="skipped 1 pictures"):
        photos, usable = open_cache(ten, tmp_path, skip_unreadable=True)
    assert len(photos) == 9 and 6 not in usable and (photos[6] == ten[7]).all()
    with pytest.raises(StudyError, match="6.JPEG.*readable"):  # a later run without the permission
        open_cache(ten, tmp_path)


def test_wnids():
    pytest.importorskip("timm")
    assert len(set(wnids())) == 1000 and list(wnids()) == sorted(wnids())
    assert [wnids().index(name) for name in CLASSES] == [1, 281, 954]
    if WNIDS.is_file():
        assert wnids() == tuple(WNIDS.read_text().split())


def test_some_classes_keep_the_labels_of_all(tmp_path):
    pytest.importorskip("timm")
    photographs(tmp_path, [f"{name}/{k}.JPEG" for name in reversed(CLASSES) for k in range(2)])
    assert labels_of(tmp_path) == [1, 1, 281, 281, 954, 954]
    assert list_pictures(tmp_path)[2] == "n02123045/0.JPEG"
    (tmp_path / "n02123045" / "0.JPEG").rename(tmp_path / "0.JPEG")
    with pytest.raises(StudyError, match="0.JPEG.*beside class folders"):
        labels_of(tmp_path)


def test_a_class_that_is_not_imagenets(tmp_path):
    """However many there are, and however their folders are named."""
    pytest.importorskip("timm")
    photographs(tmp_path, ["n01443537/0.JPEG", "n00000001/0.JPEG"])
    with pytest.raises(StudyError, match="no class of ImageNet-1k.*n00000001"):
        labels_of(tmp_path)


def test_every_mode_trains_on_the_same_photographs(tmp_path, study_root):
    """Whether it needs labels or not: the same validation pictures are left out, the order is the same."""
    pytest.importorskip("timm")
    photographs(tmp_path / "data" / "train", [f"{name}/{k}.JPEG" for name in CLASSES for k in range(6)])
    sets = {mode: load_pictures(imagenet(tmp_path / "data", mode=mode, val_images=6), "train") for mode in ("plain", "ra")}
    assert sets["plain"].groups.tolist() == sets["ra"].groups.tolist()
    assert set(sets["plain"].labels) == {0} and set(sets["ra"].labels) == {1, 281, 954}
    validation = load_pictures(imagenet(tmp_path / "data", mode="plain", val_images=6), "val").groups
    assert sorted([*validation, *sets["plain"].groups]) == list(range(18))


def test_a_part_of_the_test_pictures_is_no_part_of_the_classes(tmp_path, study_root):
    pytest.importorskip("timm")
    for part in ("train", "val"):
        photographs(tmp_path / "data" / part, [f"{name}/{k}.JPEG" for name in CLASSES for k in range(4)])
    part = load_pictures(imagenet(tmp_path / "data", test_images=6), "test")
    assert len(part) == 6 and set(part.labels) == {1, 281, 954} and len(part.classes) == 1000


def test_another_folder_is_another_run(tmp_path, study_root):
    """A finished run is not taken for one on other photographs; a copy of the folder is the same."""
    pytest.importorskip("timm")
    for name in ("one", "other"):
        photographs(tmp_path / name / "train", [f"{wnid}/{k}{name}.JPEG" for wnid in CLASSES for k in range(2)])
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    config = imagenet(tmp_path / "one", mode="plain", batch_size=3, epochs=1, target_archs="resnet18")
    train(config, lambda _: None)
    assert is_trained(config) and is_trained(replace(config, data_dir=str(tmp_path / "copy")))
    with pytest.raises(StudyError, match="another configuration.*photographs"):
        train(replace(config, data_dir=str(tmp_path / "other")), lambda _: None)


@pytest.mark.parametrize("truth", [KAGGLE, SYNSET_LABELS, GROUND_TRUTH])
def test_the_flat_validation_folder(tmp_path, truth):
    """Only pictures 2 and 3 of ILSVRC's are there; the ground truth lists all four."""
    pytest.importorskip("timm")
    from scipy.io import savemat

    photographs(tmp_path / "val", [f"ILSVRC2012_val_{k:08d}.JPEG" for k in (2, 3)])
    classes = ("n07753592", "n01443537", "n07753592", "n02123045")
    if truth == KAGGLE:
        rows = [f"ILSVRC2012_val_{k + 1:08d},{name} 1 2 3 4" for k, name in enumerate(classes)]
        (tmp_path / truth).write_text("\n".join(["ImageId,PredictionString", *rows]))
    elif truth == SYNSET_LABELS:
        (tmp_path / "val" / truth).write_text("\n".join(classes))
    else:
        (tmp_path / truth).write_text("3\n1\n3\n2\n")
        with pytest.raises(StudyError, match="meta.mat.*own order"):
            labels_of(tmp_path / "val")
        synsets = np.array([(1, "n01443537"), (2, "n02123045"), (3, "n07753592")], [("ILSVRC2012_ID", "O"), ("WNID", "O")])
        savemat(tmp_path / "meta.mat", {"synsets": synsets[:, None]})
    assert labels_of(tmp_path / "val") == [1, 954]
    (tmp_path / "train").mkdir()
    photographs(tmp_path / "val", ["ILSVRC2012_val_00000001.JPEG"])  # evaluated in class order, as ImageFolder has it
    assert load_pictures(imagenet(tmp_path, test_images=0), "test").groups.tolist() == [1, 0, 2]
    if truth == SYNSET_LABELS:  # a mended ground truth is another run's
        config = imagenet(tmp_path, test_images=0)
        before = data_version(config, "test")
        (tmp_path / "val" / truth).write_text("\n".join(reversed(classes)))
        loaders._version.cache_clear()
        assert data_version(config, "test") != before
    photographs(tmp_path / "val", ["ILSVRC2012_val_00000005.JPEG"])
    with pytest.raises(StudyError, match="00000005.*no class"):
        labels_of(tmp_path / "val")


def test_photographs_one_level_too_high(tmp_path):
    photographs(tmp_path / "pictures" / "n01440764", ["a.jpg"])
    with pytest.raises(StudyError, match="the classes lie in .*pictures; name that folder"):
        labels_of(tmp_path)


WAYS = {  # of writing the same text
    "plain": lambda text: text.encode(), "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "BOM": lambda text: text.encode("utf-8-sig"), "UTF-16": lambda text: text.encode("utf-16"),
    "semicolons": lambda text: text.replace(",", ";").encode(), "blank lines": lambda text: (text + "\n\n").encode(),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("truth", [KAGGLE, SYNSET_LABELS, GROUND_TRUTH])
def test_label_files_as_people_have_them(tmp_path, truth, way):
    """The same labels, however the file was saved."""
    flat_validation(tmp_path, truth, WAYS[way])
    assert labels_of(tmp_path / "val") == [954, 1]


@pytest.mark.parametrize(("truth", "text", "said"), [
    (GROUND_TRUTH, "3\none\n", "entry 2: 'one' is none of the devkit's numbers"),
    (GROUND_TRUTH, "3\n1001\n", "entry 2: '1001' is none"), (GROUND_TRUTH, "3\n-1\n", "entry 2: '-1' is none"),
    (GROUND_TRUTH, "3\n", "00000002.*no class"), (KAGGLE, "id,label\na,b\n", "must name ImageId and PredictionString"),
    (KAGGLE, "", "must name ImageId"), (KAGGLE, "ImageId,PredictionString\nILSVRC2012_val_00000001\n", "has no class"),
    (SYNSET_LABELS, "cat\ndog\n", "has no class of ImageNet-1k for it .got 'cat'"),
    (SYNSET_LABELS, b"\xff\x00\xfe", "not a text"),
], ids=str)  # fmt: skip
def test_label_files_that_cannot_be_used(tmp_path, truth, text, said):
    flat_validation(tmp_path, truth, lambda _: text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError, match=said):
        labels_of(tmp_path / "val")


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file, but not really", b"\x00" * 300])
def test_a_damaged_devkit(tmp_path, content):
    flat_validation(tmp_path, GROUND_TRUTH, str.encode)
    (tmp_path / "meta.mat").write_bytes(content)
    with pytest.raises(StudyError, match="meta.mat: not the devkit's file"):
        labels_of(tmp_path / "val")


def flat_validation(place, truth, encoded) -> None:
    """Two pictures, of n07753592 and n01443537, and a ground-truth file."""
    pytest.importorskip("timm")
    from scipy.io import savemat

    photographs(place / "val", [f"ILSVRC2012_val_{k:08d}.JPEG" for k in (1, 2)])
    rows = (
        "ImageId,PredictionString",
        "ILSVRC2012_val_00000001,n07753592 1 2 3 4",
        "ILSVRC2012_val_00000002,n01443537 1 2 3 4",
    )
    lines = {KAGGLE: "\n".join(rows), SYNSET_LABELS: "n07753592\nn01443537", GROUND_TRUTH: "3\n1"}
    (place / truth).write_bytes(encoded(lines[truth]))
    synsets = np.array([(1, "n01443537"), (2, "n02123045"), (3, "n07753592")], [("ILSVRC2012_ID", "O"), ("WNID", "O")])
    savemat(place / "meta.mat", {"synsets": synsets[:, None]})


def test_labels_are_asked_for_where_a_loss_reads_them(tmp_path, study_root):
    """Unsupervised RA takes a plain folder of photographs; RA does not."""
    photographs(tmp_path / "data" / "train", [f"{k}.jpg" for k in range(6)])
    config = imagenet(tmp_path / "data", mode="ra_unsupervised", source_arch="resnet18")
    assert load_pictures(config, "train").labels.tolist() == [0] * 6
    with pytest.raises(StudyError, match="no class folders.*ra_unsupervised"):
        load_pictures(imagenet(tmp_path / "data", mode="ra"), "train")
    with pytest.raises(StudyError, match="data/val.*no such folder"):
        load_pictures(config, "test")


def test_a_folder_without_train_is_split_by_seed(tmp_path, study_root):
    """Each photograph is in one split, listed in a CSV; the split survives a change of everything but the files."""
    pytest.importorskip("timm")
    photographs(tmp_path / "data", [f"{name}/{k}.JPEG" for name in CLASSES for k in range(5)])
    config = imagenet(tmp_path / "data", val_images=2, test_images=6)
    sets = {split: load_pictures(config, split) for split in ("train", "val", "test")}
    assert [len(s) for s in sets.values()] == [7, 2, 6]
    assert sorted(np.concatenate([s.groups for s in sets.values()])) == list(range(15))
    files = list_pictures(tmp_path / "data")
    rows = [line.split(",") for line in write_split(config).read_text().splitlines()[1:]]
    assert [name for name, _ in rows] == list(files)
    assert {name for name, split in rows if split == "test"} == {files[k] for k in sets["test"].groups}
    assert (sets["val"].pictures[0] == FilePhotos(tmp_path / "data", files, 40)[sets["val"].groups[0]]).all()
    with pytest.raises(StudyError, match="15 photographs are fewer.*test_images=14"):
        load_pictures(imagenet(tmp_path / "data", val_images=2, test_images=14), "val")
    with pytest.raises(StudyError, match="no pictures for train.*train/"):
        load_pictures(imagenet(tmp_path / "data"), "train")


def test_the_split_never_changes():
    """Committed results rest on it."""
    parts = split_of(700, 50, 300)
    assert [parts[name][:3].tolist() for name in ("train", "val", "test")] == [[239, 517, 505], [0, 24, 38], [2, 5, 12]]
    assert sum(map(len, parts.values())) == 700


@pytest.fixture
def crops(tmp_path, study_root) -> tuple[Config, object]:
    pytest.importorskip("timm")
    photographs(tmp_path / "data" / "train", [f"{name}/{k}.JPEG" for name in CLASSES for k in range(3)])
    config = imagenet(tmp_path / "data", crop=16)
    return config, load_pictures(config, "train")


@pytest.mark.parametrize("task,strength", [("sr", 4.0), ("dn", 0.1), ("jpeg", 10.0)])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_of_crops(crops, task, strength, workers):
    """Depends on seed and number alone, not on the number of processes; every picture once; lq belongs to gt."""
    _, pictures = crops
    loader = CropLoader(pictures, task, strength, 4, True, 16, workers)
    one, two, other = (list(loader.epoch(3, number)) for number in (1, 1, 2))
    assert len(one) == len(loader) == 3 and sorted(torch.cat([b.index for b in one]).tolist()) == list(range(9))
    serial = list(CropLoader(pictures, task, strength, 4, True, 16).epoch(3, 1))
    for a, b, c in zip(one, two, serial, strict=True):
        assert all(torch.equal(x, y) and torch.equal(x, z) for x, y, z in zip(a, b, c, strict=True))
        assert torch.equal(a.label, torch.from_numpy(pictures.labels)[a.index])
    assert not torch.equal(one[0].gt, other[0].gt)
    for batch in one:
        for k, place in enumerate(batch.index.tolist()):
            gt = (batch.gt[k].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            whole = pictures.pictures[place]
            views = (np.lib.stride_tricks.sliding_window_view(w, (16, 16, 3)) for w in (whole, whole[:, ::-1]))
            assert any((view == gt).all((3, 4, 5)).any() for view in views)
            if task != "dn":
                assert torch.equal(batch.lq[k], degrade(gt, task, strength))
            else:
                assert 0.05 < (batch.lq[k] - batch.gt[k]).std() < 0.15


def test_crops_reach_every_corner(crops):
    """And the flip is drawn for itself."""
    _, pictures = crops
    whole = pictures.pictures.subset([4])
    height, width, _ = whole[0].shape
    rows, columns, flips = set(), set(), set()
    one = type(pictures)("x", "train", whole, pictures.labels[:1], pictures.groups[:1], pictures.classes, 32)
    loader = CropLoader(one, "dn", 0.1, 1, True, height - 1)
    for number in range(120):
        gt = (next(loader.epoch(0, number)).gt[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        for flipped, picture in ((False, gt), (True, gt[:, ::-1])):
            view = np.lib.stride_tricks.sliding_window_view(whole[0], (height - 1, height - 1, 3))[:, :, 0]
            for top, left in np.argwhere((view == picture).all((2, 3, 4))):
                rows.add(int(top)), columns.add(int(left)), flips.add(flipped)
    assert rows == {0, 1} and flips == {False, True}
    assert columns == set(range(width - height + 2))


def test_evaluation_takes_the_middle(crops, tmp_path):
    """As torchvision does, whatever the batch; noise is seeded by the picture's place."""
    config, pictures = crops
    batches = list(evaluation_batches(pictures, make_config("imagenet", "dn", image_size=32, resize=40)))
    gt, lq, index = (torch.cat([getattr(b, name) for b in batches]) for name in ("gt", "lq", "index"))
    assert index.tolist() == list(range(9))
    files = list_pictures(tmp_path / "data" / "train")
    for k, place in enumerate(pictures.groups):
        image = CenterCrop(32)(Resize(40)(Image.open(tmp_path / "data" / "train" / files[place])))
        assert torch.equal(gt[k], torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)
        assert torch.equal(lq[k], degrade(np.asarray(image), "dn", 0.1, k))


def test_shards_of_a_batch_make_the_batch(crops):
    config, pictures = crops
    whole = list(CropLoader(pictures, "jpeg", 10.0, 4, True, 16).epoch(0, 0))
    parts = [list(CropLoader(pictures, "jpeg", 10.0, 4, True, 16, 0, (rank, 2)).epoch(0, 0)) for rank in (0, 1)]
    assert len(whole[-1].index) == 1  # fewer than processes: both train on it
    assert all(torch.equal(whole[-1].gt, part.pop().gt) for part in parts)
    for batch, a, b in zip(whole[:-1], *parts, strict=True):
        assert (
            torch.equal(batch.gt[0::2], a.gt) and torch.equal(batch.gt[1::2], b.gt) and torch.equal(batch.index[1::2], b.index)
        )


def test_the_cache_can_be_left_out(crops):
    """The same pictures either way, and the same digest of what evaluation says it has read."""
    config, pictures = crops
    decoded = load_pictures(replace(config, cache_dir="none"), "train")
    assert isinstance(decoded.pictures, FilePhotos) and isinstance(pictures.pictures, CachedPhotos)
    first, second = (next(loader_of(p, config).epoch(0, 0)) for p in (decoded, pictures))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert decoded.digest == pictures.digest
    with pytest.raises(StudyError, match="skip_unreadable needs the cache"):
        load_pictures(replace(config, cache_dir="none", skip_unreadable=True), "train")


def test_small_photographs_are_enlarged_and_small_crops_refused(tmp_path, study_root):
    """Resize(256) enlarges, as the protocol has it; a folder with resize below the crop is a mistake."""
    pytest.importorskip("timm")
    photographs(tmp_path / "data" / "val", ["n01443537/0.JPEG"], (20, 30))
    pictures = load_pictures(imagenet(tmp_path / "data"), "test")
    assert min(pictures.pictures[0].shape[:2]) == 40
    with pytest.raises(StudyError, match="image_size=48.*resize=40"):
        imagenet(tmp_path / "data", image_size=48)
