"""Detection: scenes, detectors whose losses reach P, average precision against pycocotools, and PASCAL VOC in miniature."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import save_file
from torch import nn

from rastudy.__main__ import main
from rastudy.config import make_config
from rastudy.data import scenes
from rastudy.data.datasets import load_split
from rastudy.data.scenes import Boxes
from rastudy.errors import StudyError
from rastudy.evaluation import average_precision as detection
from rastudy.evaluation.average_precision import Found, average_precision, match
from rastudy.evaluation.evaluate import evaluate
from rastudy.models import classifiers, detectors
from rastudy.models.detectors import DETECTORS, Detector, first_label_of, load_detector
from rastudy.presets import PRESETS
from rastudy.report import figures as plots
from rastudy.training.fit_detectors import train_detector
from rastudy.training.train import train
from rastudy.training.weights import build_models, save_weights
from rastudy.transfer import directions, voc
from rastudy.transfer import tables as transfer
from rastudy.transfer.read import read_direction

ONE = {("jpeg", 4.0): PRESETS["smoke"]["degradations"]["jpeg", 4.0]}


# --- scenes


def test_scenes():
    """Prefixes never change; boxes lie in the picture, apart from one another; some scenes are empty."""
    pictures, truth = scenes.render("test", 60)
    again, _ = scenes.render("test", 30)
    assert (pictures[:30] == again).all() and pictures.shape == (60, 96, 96, 3)
    counts = {len(one.labels) for one in truth}
    assert counts == {0, 1, 2, 3, 4}
    for boxes, _ in truth:
        assert ((boxes >= 0) & (boxes <= 96)).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        overlaps = torchvision.ops.box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes))
        assert (overlaps.fill_diagonal_(0) == 0).all()
    assert load_split("scenes", "test", 30).digest == load_split("scenes", "test", 30).digest
    with pytest.raises(StudyError, match="holds 500 pictures, 501 were asked for"):
        load_split("scenes", "test", 501)


# --- detectors


def make(name: str, truth=()) -> Detector:
    torch.manual_seed(0)
    return Detector(name, DETECTORS[name](), "random", first_label_of(name), truth)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_loss_reaches_the_pictures_alone(name):
    """Statistics and parameters stay; the same pictures give the same loss; an empty scene has one, too."""
    pixels, truth = scenes.render("train", 8)
    assert not all(len(one.labels) for one in truth)
    detector = make(name, truth)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    pictures = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).requires_grad_()
    rng = torch.get_rng_state()
    first, second = (detector.loss(pictures, torch.arange(8)) for _ in range(2))
    first.backward()
    assert first.item() == second.item() > 0 and pictures.grad.abs().sum() > 0
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())
    assert not any(p.grad is not None for p in detector.parameters()) and not any(m.training for m in detector.modules())


@pytest.mark.parametrize("name", DETECTORS)
def test_dropout_and_batch_norm_stay_still(name):
    net = make(name).net
    net.add_module("extra", nn.Dropout())
    with detectors.losses_of(net):
        still = [m for m in net.modules() if isinstance(m, (nn.BatchNorm2d, nn.Dropout))]
        assert len(still) > 3 and not any(m.training for m in still) and net.training
    assert not net.training


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_learn(name, monkeypatch):
    """A few steps on a few scenes lower the loss."""
    _, truth = scenes.render("train", 32)
    pixels = torch.from_numpy(scenes.render("train", 32)[0]).permute(0, 3, 1, 2).float() / 255
    losses = [
        float(Detector(name, net, "", first_label_of(name), truth).loss(pixels, torch.arange(32)))
        for net in (DETECTORS[name](), _trained(name))
    ]
    assert losses[1] < 0.8 * losses[0]


def _trained(name: str) -> nn.Module:
    net = DETECTORS[name]()
    net.load_state_dict(train_detector(name, {"scenes": 32, "epochs": 8, "lr": 2e-3}))
    return net


def test_labels_start_at_0():
    """Those of a detector that keeps 0 for the background, too."""
    picture = torch.rand(2, 3, 96, 96)
    for name in DETECTORS:
        for one in make(name)(picture):
            assert ((one["labels"] >= 0) & (one["labels"] < 10)).all() and len(one["scores"]) <= 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"mode": "ra", "source_arch": "fcos_small"}, "takes detectors"),
     ({"mode": "ra", "dataset": "scenes", "image_size": 96}, "takes"),
     ({"mode": "ra_unsupervised", "dataset": "scenes", "image_size": 96, "source_arch": "fcos_small"}, "takes detectors"),
     ({"dataset": "scenes"}, "image_size=32 does not fit; scenes have 96 x 96")],
)  # fmt: skip
def test_detectors_belong_to_scenes(settings, message):
    with pytest.raises(StudyError, match=message):
        make_config("digits", "jpeg", **settings)


def test_missing_and_foreign_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(detectors, "WEIGHTS", tmp_path)
    with pytest.raises(StudyError, match="no weights for fcos_small; rastudy recognisers --preset scenes trains"):
        load_detector("fcos_small")
    (tmp_path / "scenes").mkdir()
    save_file(DETECTORS["faster_rcnn_small"]().state_dict(), tmp_path / "scenes" / "fcos_small.safetensors")
    with pytest.raises(StudyError, match="weights of another architecture"):
        load_detector("fcos_small")
    (tmp_path / "scenes" / "SHA256SUMS").write_text("00  fcos_small.safetensors\n")
    with pytest.raises(StudyError, match="not the one in SHA256SUMS"):
        load_detector("fcos_small")


# --- average precision


def guesses(truth: list[Boxes], rng: np.random.Generator) -> Found:
    """Detections that are right, shifted, doubled, of another class, or of nothing, at random."""
    rows = []
    for k, one in enumerate(truth):
        for box, label in zip(one.boxes, one.labels, strict=True):
            for _ in range(rng.integers(3)):
                shown = label if rng.random() < 0.8 else rng.integers(10)
                rows.append((k, *(box + rng.normal(0, 3, 4)), shown, rng.random()))
        if rng.random() < 0.5:
            x, y = rng.uniform(0, 60, 2)
            rows.append((k, x, y, x + 20, y + 20, rng.integers(10), rng.random()))
    table = np.array(rows)
    return Found(table[:, 0].astype(int), table[:, 1:5], table[:, 5].astype(int), table[:, 6])


@pytest.fixture(scope="module")
def example() -> tuple[list[Boxes], Found]:
    truth = list(scenes.render("test", 40)[1])
    return truth, guesses(truth, np.random.default_rng(0))


@pytest.mark.parametrize("metric", detection.RECALLS)
def test_precision_is_pycocotools(example, metric):
    """Of all pictures, and of a resample: as if the drawn pictures stood there as often."""
    truth, found = example
    draw = np.random.default_rng(3).integers(0, 3, len(truth))
    for weights in (np.ones(len(truth), int), draw):
        places = np.repeat(np.arange(len(truth)), weights)
        mine = average_precision(match(found, truth), metric, weights[None])[0]
        assert mine == pytest.approx(reference([truth[k] for k in places], found, places, metric), abs=1e-6)
    assert 10 < mine < 90


def reference(truth: list[Boxes], found: Found, places: np.ndarray, metric: str) -> float:
    annotations, rows = [], []
    for k, (one, place) in enumerate(zip(truth, places, strict=True)):
        for (x1, y1, x2, y2), label in zip(one.boxes.tolist(), one.labels.tolist(), strict=True):
            annotations.append({"id": len(annotations) + 1, "image_id": k, "category_id": label, "iscrowd": 0,
                                "area": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]})  # fmt: skip
        for m in np.flatnonzero(found.picture == place):
            x1, y1, x2, y2 = found.boxes[m]
            rows.append([k, x1, y1, x2 - x1, y2 - y1, found.scores[m], found.labels[m]])
    coco = COCO()
    coco.dataset = {"images": [{"id": k} for k in range(len(truth))], "annotations": annotations,
                    "categories": [{"id": k} for k in range(10)]}  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        task = COCOeval(coco, coco.loadRes(np.array(rows)), "bbox")
        task.params.iouThrs, task.params.recThrs, task.params.maxDets = (
            np.array([0.5]),
            detection.RECALLS[metric],
            [1, 10, 1000],
        )
        task.evaluate()
        task.accumulate()
    precision = task.eval["precision"][0, :, :, 0, 2]
    return 100 * precision[:, precision[0] > -1].mean()


def test_precision_by_hand():
    """One class, two boxes; found: one, then nothing, then the other: precision 1, then 2/3."""
    truth = [Boxes(np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32), np.array([3, 3]))]
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 31]], float)
    found = Found(np.zeros(3, int), boxes, np.full(3, 3), np.array([0.9, 0.8, 0.7]))
    matched = match(found, truth)
    assert matched.keys() == {3} and matched[3].right.tolist() == [True, False, True]
    assert average_precision(matched, "ap_voc07")[0] == pytest.approx(100 * (6 * 1 + 5 * 2 / 3) / 11)


def test_difficult_boxes_count_neither_way():
    truth = [Boxes(np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32), np.array([0, 0]))]
    boxes = np.array([[20, 20, 30, 30], [0, 0, 10, 10]], float)
    found = Found(np.zeros(2, int), boxes, np.zeros(2, int), np.array([0.9, 0.8]))
    matched = match(found, truth, [np.array([False, True])])
    assert matched[0].right.tolist() == [True] and matched[0].there.tolist() == [1]


def test_nothing_found_and_nothing_there():
    """No detections: 0. No box anywhere: an error, for there is nothing to average."""
    empty = Found(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    truth = [Boxes(np.array([[0, 0, 9, 9]], np.float32), np.array([1])), Boxes(np.zeros((0, 4), np.float32), np.zeros(0, int))]
    assert average_precision(match(empty, truth), "ap50")[0] == 0
    with pytest.raises(StudyError, match="no picture holds a box"):
        match(empty, truth[1:])


# --- the direction, on a small study


@pytest.fixture
def small_study(study_root, monkeypatch):
    """Detectors with random weights in the place of the trained ones."""
    weights = study_root / "weights"
    (weights / "scenes").mkdir(parents=True)
    (weights / "digits").symlink_to(classifiers.WEIGHTS / "digits")
    for name in DETECTORS:
        state = {k: v.contiguous() for k, v in make(name).net.state_dict().items()}
        save_file(state, weights / "scenes" / f"{name}.safetensors")
    for module in (classifiers, detectors):
        monkeypatch.setattr(module, "WEIGHTS", weights)
    monkeypatch.setitem(PRESETS, "smoke", PRESETS["smoke"] | {"degradations": ONE})


@pytest.mark.slow
def test_the_direction(small_study):
    """Classification's P read by detectors, a detector's P by both; its P at weight 0 is plain's."""
    for run in directions.runs("smoke", "detection"):
        train(run.config, log=lambda _: None)
        for split in run.splits:
            evaluate(run.config, split, log=lambda _: None)
    read_direction("smoke", "detection", log=lambda _: None)
    transfer.make_table("smoke", "detection")
    table = transfer.load_table("smoke", "detection")
    assert set(table["variant"]) == {"classification_to_detectors", "detection_at_home", "detection_to_classifiers"}
    assert set(table.loc[table["variant"] == "detection_to_classifiers", "metric"]) == {"top1"}
    assert set(table.loc[table["variant"] == "detection_at_home", "metric"]) == set(detection.RECALLS)
    assert set(table.loc[table["variant"] == "detection_at_home", "source_arch"]) == set(DETECTORS)
    assert (table["low"] <= table["value"]).all() and table["clean"].notna().all()
    assert len(plots.plot_transfer(table).axes) >= 1
    shared = {"dataset": "scenes", "image_size": 96, "train_images": 16, "pretrain_epochs": 0, "epochs": 1}
    curves = [
        train(make_config("smoke", "jpeg", mode, **shared, **others), log=lambda _: None)
        for mode, others in (("plain", {}), ("ra", {"source_arch": "fcos_small", "ra_weight": 0.0}))
    ]
    assert curves[0][-1]["image_loss"] == curves[1][-1]["image_loss"] and curves[1][-1]["recognition_loss"] > 0


# --- PASCAL VOC


def annotation(objects: list[tuple[str, int, int, int, int, str]]) -> str:
    parts = [
        f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d, hard in objects
    ]
    return f"<annotation><filename>x.jpg</filename>{''.join(parts)}</annotation>"


BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
DOG = "<annotation><object><name>dog</name>{}</object></annotation>"


@pytest.fixture
def devkit(tmp_path, photo) -> Path:
    """Three pictures in VOC's format: two objects, of which one is difficult; one object; none."""
    place = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (place / name).mkdir(parents=True)
    found = [[("dog", 1, 1, 20, 30, "0"), ("person", 5, 6, 40, 50, "1")], [("tvmonitor", 10, 10, 30, 30, "0")], []]
    for k, objects in enumerate(found):
        Image.fromarray(photo[:, : 62 - k]).save(place / "JPEGImages" / f"{k:06d}.jpg")
        (place / "Annotations" / f"{k:06d}.xml").write_text(annotation(objects))
    (place / "ImageSets" / "Main" / "test.txt").write_text("000000\n000001\n000002\n")
    return tmp_path


def test_voc_in_miniature(devkit):
    """Boxes from 0 on, difficult ones marked, an empty picture; sides divide by 4."""
    data, truth, difficult = voc.voc_pictures(devkit, "test")
    assert truth[0].boxes.tolist() == [[0, 0, 20, 30], [4, 5, 40, 50]] and difficult[0].tolist() == [False, True]
    assert [voc.VOC_CLASSES[k] for one in truth for k in one.labels] == ["dog", "person", "tvmonitor"]
    assert truth[2].boxes.shape == (0, 4)
    batches = list(voc.voc_batches(data, make_config("digits", "sr")))
    assert [tuple(b.gt.shape[2:]) for b in batches] == [(64, 60)] * 3 and tuple(batches[0].lq.shape[2:]) == (16, 15)


@pytest.mark.slow
def test_voc_from_the_command(devkit, tmp_path, monkeypatch, capsys):
    """A real torchvision detector with weights in a local file: no processing, clean and P; a row a metric."""
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    url = torchvision.models.get_model_weights(name).COCO_V1.url
    processor = tmp_path / "p.safetensors"
    config = make_config("smoke", "jpeg")
    save_weights(processor, build_models(config)[0], config)
    arguments = ["voc", "--processor", str(processor), "--data", str(devkit), "--detector", name]
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    assert main([*arguments, name]) == 2 and "two detectors" in capsys.readouterr().err
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert url in message and "put" in message and str(tmp_path / "hub") in message
    place = tmp_path / "hub" / "hub" / "checkpoints"
    place.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), place / Path(url).name)
    assert main([*arguments, "--out", str(tmp_path / "voc.csv")]) == 0
    lines = (tmp_path / "voc.csv").read_text().splitlines()
    assert lines[0].startswith("mode,detector,metric,value") and len(lines) == 1 + 3 * 2
    assert [line.split(",")[0] for line in lines[1::2]] == ["none", "clean", "plain"]


def unreachable(*_args, **_others):
    raise OSError("no network")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "not a readable annotation"), (annotation([("cow boy", 1, 1, 5, 5, "0")]), "none of VOC's"),
        ("", "not a readable annotation"), ('<?xml version="1.0" encoding="odd"?><annotation/>', "not a readable annotation"),
        (DOG.format(""), "object 1 needs one bndbox"), (DOG.format(2 * BOX), "object 1 needs one bndbox"),
        (DOG.format(BOX.replace("<xmax>9</xmax>", "")), "xmin, ymin, xmax and ymax, in numbers"),
        (DOG.format(BOX.replace("9</xmax>", "nine</xmax>")), "in numbers"),
        (DOG.format(BOX).replace("dog", ""), "none of VOC's"),
    ],
)  # fmt: skip
def test_unusable_annotations(devkit, text, message):
    (devkit / "VOCdevkit" / "VOC2007" / "Annotations" / "000001.xml").write_text(text)
    with pytest.raises(StudyError, match=message):
        voc.voc_pictures(devkit, "test")


def test_lists_as_people_have_them(devkit):
    """Blank lines count for nothing; a picture or an annotation that is listed and missing is named."""
    listed = devkit / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt"
    listed.write_text("000000\r\n\r\n  000002  \n\n")
    data, truth, _ = voc.voc_pictures(devkit, "test")
    assert [Path(path).stem for path in data.images] == ["000000", "000002"] and [len(one.labels) for one in truth] == [2, 0]
    for name in ("Annotations/000002.xml", "JPEGImages/000000.jpg"):
        (devkit / "VOCdevkit" / "VOC2007" / name).unlink()
        with pytest.raises(StudyError, match=f"{name}: missing"):
            voc.voc_pictures(devkit, "test")


def test_no_voc_here(tmp_path):
    with pytest.raises(StudyError, match="no VOCdevkit/VOC2007 with ImageSets/Main/test.txt here"):
        voc.voc_pictures(tmp_path, "test")


def test_coco_knows_vocs_classes():
    """All twenty, under COCO's names."""
    categories = torchvision.models.get_model_weights("fasterrcnn_mobilenet_v3_large_320_fpn").COCO_V1.meta["categories"]
    assert {voc.VOC_NAMES.get(one, one) for one in categories} >= set(voc.VOC_CLASSES)
