"""Transfer in other directions: who reads what, comparisons by hand, and every direction on a small study."""

import functools
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rastudy import registry
from rastudy.__main__ import parse
from rastudy.analysis.comparisons import cell_key, load_cells
from rastudy.config import make_config
from rastudy.data import digits
from rastudy.data.datasets import CIFAR10, load_split
from rastudy.data.degradations import round_to_8_bits
from rastudy.data.loaders import load_pictures
from rastudy.errors import StudyError
from rastudy.evaluation.evaluate import evaluate
from rastudy.evaluation.predictions import Predictions, load_predictions, predictions_file, save_predictions
from rastudy.grid import grid, select
from rastudy.models import classifiers
from rastudy.models.small_nets import build_small
from rastudy.paths import results_folder
from rastudy.presets import PRESETS, degradations
from rastudy.report import figures as plots
from rastudy.training.train import train
from rastudy.transfer import directions, kept, read
from rastudy.transfer import tables as transfer
from rastudy.transfer.read import _settings_of_pictures
from rastudy.transfer.upload import UPLOADS, upload

ONE = {("jpeg", 4.0): PRESETS["smoke"]["degradations"]["jpeg", 4.0]}


# --- halves of the categories


def test_halves_split_the_pictures():
    """Each picture of the whole set is in one half, under its own class's name, with its own group."""
    whole = load_split("digits", "test", 200)
    halves = [load_split(f"digits_{half}", "test", 200) for half in ("first", "second")]
    assert [half.classes for half in halves] == [tuple("01234"), tuple("56789")]
    assert sum(len(half) for half in halves) == 200
    for half, shift in zip(halves, (0, 5), strict=True):
        mine = (whole.labels >= shift) & (whole.labels < shift + 5)
        assert (half.labels == whole.labels[mine] - shift).all() and (half.groups == whole.groups[mine]).all()
        assert (half.pictures == whole.pictures[mine]).all()
    assert len({whole.digest, *(half.digest for half in halves)}) == 3


def test_categories_that_do_not_split(tmp_path):
    """A class of one half leaves nothing for the other; a folder's halves are no data set."""
    for split in ("train", "test"):
        (tmp_path / split / "truck").mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (32, 32), (k, 0, 0)).save(tmp_path / split / "truck" / f"{k}.png")
    with pytest.raises(StudyError, match="leave no pictures for the first half"):
        load_split("cifar10_first", "test", 0, n_val=0, data_dir=str(tmp_path), classes=("truck",))
    with pytest.raises(StudyError, match="dataset='folder_first'"):
        make_config("digits", "sr", dataset="folder_first")


# --- the picture's way


def test_uploads(photo):
    """PNG loses nothing, JPEG loses more at a lower quality; all round to 8 bits first and keep the size."""
    pictures = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255 + 0.001
    sent = {way: upload(pictures, way) for way in UPLOADS}
    assert torch.equal(sent["png"], round_to_8_bits(pictures))
    error = [float((sent[way] - sent["png"]).square().mean()) for way in ("jpeg95", "jpeg90", "jpeg75", "jpeg50")]
    assert 0 < error[0] and error == sorted(error)
    assert {tuple(s.shape) for s in sent.values()} == {tuple(pictures.shape)} and (sent["resized"] != sent["png"]).any()


# --- which runs, which readers


@pytest.mark.parametrize("direction", directions.DIRECTIONS)
def test_every_direction_has_plain_beside_ra(direction):
    """Of the same degradation, data and seed: nothing is compared with a plain of other pictures."""
    found = [run.config for run in directions.runs("digits", direction)]
    plain = {(c.task, c.dataset, c.train_images, c.seed) for c in found if c.mode == "plain"}
    taught = {(c.task, c.dataset, c.train_images, c.seed) for c in found if not c.is_baseline and c.mode != "plain"}
    assert taught == plain and len(plain) >= (2 if direction == "upload_aware" else 3)
    of_variants = {run.config.run_id for one in directions.variants("digits", direction) for run in one.runs("digits")}
    assert {config.run_id for config in found} == of_variants  # those that are read nowhere else (detection), too


def test_held_out_readers_never_taught():
    taught = {name for sources in directions.SOURCES for name in sources.split(",")}
    assert not taught & set(directions.HELD_OUT) and set(directions.HELD_OUT) <= set(registry.main_recognisers())
    assert [len(sources.split(",")) for sources in directions.SOURCES] == [1, 2, 3]


@pytest.mark.parametrize("direction", ["datasets", "detection", "multi_source"])
def test_imagenet_lacks_some_directions(direction):
    with pytest.raises(StudyError, match="needs a study of digits"):
        directions.variants("imagenet", direction)
    with pytest.raises(StudyError, match="preset imagenet has no other_pictures: it names no other pictures"):
        directions.variants("imagenet", "other_pictures")


def test_another_studys_photographs():
    """imagenette's P's, of its whole grid, restore the 300 test photographs of imagenet_lite as that preset crops them."""
    (one,) = directions.variants("imagenette", "other_pictures")
    found = directions.runs("imagenette", "other_pictures", "photographs")
    assert {run.config.source_arch for run in found} >= {"squeezenet", "efficientnet_lite0,squeezenet"}
    whole = {run.config.run_id: run.config.task for run in grid("imagenette", full=True)}
    assert {run.config.run_id for run in found} == {name for name, task in whole.items() if task != "blind"} < whole.keys()
    ra = next(run.config for run in found if run.config.mode == "ra" and run.config.task == "dn")
    there, home = _settings_of_pictures(ra, one), make_config("imagenet_lite", "dn", "none")
    for name in ("dataset", "data_dir", "resize", "image_size", "val_images", "test_images", "strength"):
        assert getattr(there, name) == getattr(home, name)
    boxes = directions.variants("imagenette", "black_box", "litert:a/net_v2.tflite,litert:net_v1.tflite")
    on = "_on_imagenet_lite", "imagenet_lite"
    assert [(box.name, box.pictures) for box in boxes] == [
        ("net_v2", ""), ("net_v2" + on[0], on[1]), ("net_v1", ""), ("net_v1" + on[0], on[1]),
    ]  # fmt: skip


@pytest.mark.parametrize("call", [directions.direction_of, functools.partial(directions.variants, "digits")])
def test_unknown_directions(call):
    with pytest.raises(StudyError, match="direction='sideways' is unknown; use one of categories, datasets"):
        call("sideways")


# --- comparisons by hand


def right(n: int, k: int) -> np.ndarray:
    """(N,) labels of which the first k are the pictures' (0)."""
    return np.where(np.arange(n) < k, 0, 1)


def predictions_of(config, direction: str, variant: str) -> Predictions:
    return kept.load_kept(config.preset, direction)[variant][config.run_id]


def change(config, direction: str, variant: str, **about) -> None:
    """Change what the direction's file says about a run."""
    found = kept.load_kept(config.preset, direction)
    found[variant][config.run_id].about.update(about)
    kept.save_kept(config.preset, direction, found)


def said_by(config, hits: dict[str, int], n: int = 100, data: str = "d") -> Predictions:
    arrays = {"top5": np.stack([right(n, k) for k in hits.values()])[:, :, None].astype(np.uint16),
              "label": np.zeros(n, np.uint16), "group": np.arange(n, dtype=np.int32)}  # fmt: skip
    about = {"config": config.science(), "run_id": config.run_id, "split": "test", "data": data, "name": "digits",
             "targets": dict.fromkeys(hits, "v"), "weights": {}}  # fmt: skip
    return Predictions(about, arrays)


@pytest.fixture
def by_hand(study_root, monkeypatch):
    """Plain and RA of one degradation at home and read by two other readers, one of whom reads nothing well."""
    monkeypatch.setitem(PRESETS, "smoke", PRESETS["smoke"] | {"degradations": ONE})

    def make(ra: int = 80, home_ra: int = 90, floor: int = 20) -> dict:
        home = {"clean": 98, "plain": 50, "ra": home_ra}
        readers, found = {"clean": (95, floor), "plain": (60, 10), "ra": (ra, 15)}, {}
        for mode, hits in home.items():
            config = make_config("smoke", "jpeg", mode)
            about, arrays = said_by(config, dict.fromkeys(registry.main_recognisers(), hits))
            save_predictions(predictions_file(config, "test"), arrays, about)
            found[config.run_id] = said_by(config, dict(zip(("vit_small", "svm_hog"), readers[mode], strict=True)))
        kept.save_kept("smoke", "families", {"families": found})
        transfer.make_table("smoke", "families")
        return transfer.load_table("smoke", "families").set_index("reader").to_dict("index")

    return make


def test_gains_beside_home(by_hand):
    """20 points over plain where home gains 40; the mean leaves out who cannot read clean pictures."""
    rows = by_hand()
    vit, svm, mean = (rows[name] for name in ("vit_small", "svm_hog", "mean"))
    assert (vit["value"], vit["reference"], vit["difference"]) == (20, 40, -20)
    assert vit["low"] > 0 > vit["difference_high"] and vit["verdict"] == "transfers"
    assert vit["share"] == 0.5 and 0.2 < vit["share_low"] < 0.5 < vit["share_high"] < 0.9
    assert (svm["value"], svm["clean"], svm["verdict"]) == (5, 20, "undecided (floor)")
    assert (mean["value"], mean["clean"]) == (20, 95) and mean["p_holm"] == mean["p"]  # the only cell's
    assert vit["p_holm"] == pytest.approx(2 * vit["p"], rel=0.01)


@pytest.mark.parametrize(
    ("ra", "home_ra", "floor", "verdict"),
    [(80, 90, 20, "transfers"), (40, 90, 20, "does not"), (61, 56, 20, "undecided"), (61, 90, 20, "undecided"),
     (60, 90, 20, "does not"), (60, 50, 20, "nothing to transfer"),
     (40, 50, 20, "nothing to transfer"), (80, 40, 20, "transfers")],
)  # fmt: skip
def test_verdicts(by_hand, ra, home_ra, floor, verdict):
    assert by_hand(ra, home_ra, floor)["vit_small"]["verdict"] == verdict


def test_other_pictures_are_not_paired(by_hand):
    """The difference to home of another picture set has the wider interval of independent samples."""
    paired = by_hand()["vit_small"]
    for mode in ("clean", "plain", "ra"):
        change(make_config("smoke", "jpeg", mode), "families", "families", data="another")
    transfer.make_table("smoke", "families")
    apart = transfer.load_table("smoke", "families").set_index("reader").loc["vit_small"]
    width = lambda row: row["difference_high"] - row["difference_low"]  # noqa: E731
    assert apart["difference"] == paired["difference"] and width(apart) > 1.1 * width(paired)


def test_nothing_read_yet(study_root):
    with pytest.raises(StudyError, match="nothing has been read; run rastudy sweep --preset smoke --direction upload"):
        transfer.make_table("smoke", "upload")
    with pytest.raises(StudyError, match="no such table; run rastudy sweep"):
        transfer.load_table("digits", "upload")


# --- what is kept


def test_one_file_holds_every_run(study_root):
    """What goes in comes out; the same content in another order gives the same bytes; labels are stored once per variant."""
    found = {variant: {config.run_id: said_by(config, {"a": k}, data=variant) for k, config in enumerate(
        make_config("smoke", "jpeg", mode) for mode in ("clean", "plain", "ra"))} for variant in ("one", "other")}  # fmt: skip
    path = kept.save_kept("smoke", "upload", found)
    bytes_, again = path.read_bytes(), kept.load_kept("smoke", "upload")
    assert {name: runs.keys() for name, runs in again.items()} == {name: runs.keys() for name, runs in found.items()}
    for mine, theirs in ((found[name][run_id], again[name][run_id]) for name in found for run_id in found[name]):
        assert mine.about == theirs.about and mine.arrays.keys() == theirs.arrays.keys()
        assert all((mine.arrays[key] == theirs.arrays[key]).all() for key in mine.arrays)
    turned = {name: dict(reversed(found[name].items())) for name in reversed(found)}
    assert kept.save_kept("smoke", "upload", turned).read_bytes() == bytes_
    assert len(load_predictions(path).arrays) == 2 * (3 + 2)
    next(iter(found["one"].values())).arrays["label"][0] = 3  # read on other pictures
    assert len(load_predictions(kept.save_kept("smoke", "upload", found)).arrays) == 2 * (3 + 2) + 2
    assert next(iter(kept.load_kept("smoke", "upload")["one"].values())).arrays["label"][0] == 3


def test_parts_replace_their_run_alone(study_root):
    """What was not read now stays; merged parts are gone; without parts the file is not written again."""
    plain, ra = (make_config("smoke", "jpeg", mode) for mode in ("plain", "ra"))
    kept.save_kept("smoke", "upload", {"png": {one.run_id: said_by(one, {"a": 10}) for one in (plain, ra)}})
    part, (about, arrays) = kept.part_file(ra, "upload", "png"), said_by(ra, {"a": 20})
    save_predictions(part, arrays, about)
    kept.keep_parts("smoke", "upload", [("png", part)])
    assert [int(predictions_of(one, "upload", "png").hits().sum()) for one in (plain, ra)] == [10, 20] and not part.exists()
    before = kept.kept_file("smoke", "upload").stat()
    kept.keep_parts("smoke", "upload", [])
    assert kept.kept_file("smoke", "upload").stat().st_mtime_ns == before.st_mtime_ns


# --- a small study, every direction


def guess(files):
    """A black box: says whether a picture is bright, which is no class, or names digit 3."""
    return [[("3", 0.9)] if np.asarray(Image.open(file)).mean() < 128 else [("bright", 0.5), ("3", 0.4)] for file in files]


def sure(files):
    """Another black box, which sees 3 everywhere."""
    return [[("3", 0.9)] for _ in files]


@pytest.fixture(scope="module")
def small_study(tmp_path_factory):
    """The smoke preset's JPEG runs, trained and evaluated at home; R's of the halves and of CIFAR-10 with random weights."""
    place = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RASTUDY_ROOT", str(place))
        patch.setitem(PRESETS, "smoke", PRESETS["smoke"] | {"degradations": ONE})
        weights = place / "weights"
        weights.mkdir()
        (weights / "digits").symlink_to(classifiers.WEIGHTS / "digits")
        for dataset, classes in (("digits_first", 5), ("digits_second", 5), ("cifar10", 10), ("random", 10)):
            (weights / dataset).mkdir()
            for arch in registry.recognisers("small"):
                torch.manual_seed(0)
                save_file(build_small(arch, classes).state_dict(), weights / dataset / f"{arch}.safetensors", {"arch": arch})
        patch.setattr(classifiers, "WEIGHTS", weights)
        for split in ("train", "test"):
            for k, name in enumerate(CIFAR10):
                (place / "cifar" / split / name).mkdir(parents=True)
                for n in range(2):
                    Image.new("RGB", (32, 32), (25 * k, 100 * n, 0)).save(place / "cifar" / split / name / f"{n}.png")
        for mode in (*registry.modes("baseline"), *registry.modes("paper")):
            config = make_config("smoke", "jpeg", mode)
            train(config, log=lambda _: None)
            evaluate(config, "test", log=lambda _: None)
        yield place


@pytest.fixture
def readers(monkeypatch):
    """Weights of ViT and mixer, where they are wanted from a folder without them."""
    find = classifiers._load_small
    spare = lambda name, path: find(name, path if path.exists() else classifiers.WEIGHTS / "random" / path.name)  # noqa: E731
    monkeypatch.setattr(classifiers, "_load_small", spare)


def run(direction: str, **others) -> pd.DataFrame:
    """Train what is missing, read, make the table."""
    for cell in directions.runs("smoke", direction, others.get("data_dir", "")):
        train(cell.config, log=lambda _: None)
        evaluate(cell.config, "test", log=lambda _: None)
    read.read_direction("smoke", direction, log=lambda _: None, **others)
    black_box = {"black_box": others["black_box"]} if "black_box" in others else {}
    transfer.make_table("smoke", direction, **black_box)
    table = transfer.load_table("smoke", direction)
    assert len(plots.plot_transfer(table).axes) >= 1
    return table


def test_upload(small_study):
    """Every way, the five readers and their mean, every RA mode; PNG is what was read at home."""
    table = run("upload")
    assert set(table["variant"]) == set(UPLOADS) and set(table["reader"]) == {*registry.main_recognisers(), "mean"}
    assert set(table["mode"]) == {*registry.modes("paper")[1:]}
    png = table[(table["variant"] == "png")]
    assert (png["difference"] == 0).all() and (png["value"] == png["reference"]).all()
    for _, cell in png.groupby("mode"):  # the source R reads, too, but is no part of the mean
        values = cell.set_index("reader")["value"]
        assert values["mean"] == pytest.approx(values.drop(["mean", "resnet18_small"]).mean(), abs=1e-5)
    config = make_config("smoke", "jpeg", "ra_transformer")
    home = load_predictions(results_folder("smoke") / "predictions" / f"{config.run_id}.test.npz")
    sent = predictions_of(config, "upload", "png")
    assert (sent.arrays["top5"][:, :, 0] == home.arrays["top5"][:, :, 0]).all()


def test_a_second_reading_reads_nothing(small_study, monkeypatch):
    """Nor does it load a picture; after P was trained anew it reads that run alone."""
    run("upload")
    said = []
    monkeypatch.setattr(read, "load_pictures", lambda *_: pytest.fail("loaded pictures"))
    read.read_direction("smoke", "upload", log=said.append)
    assert said == ["upload: 6 runs, 0 predictions written"]
    monkeypatch.undo()
    change(make_config("smoke", "jpeg", "ra"), "upload", "png", weights={"processor": "of another P"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RASTUDY_ROOT", str(small_study))
        patch.setitem(PRESETS, "smoke", PRESETS["smoke"] | {"degradations": ONE})
        read.read_direction("smoke", "upload", log=said.append)
    assert said[-1] == "upload: 6 runs, 1 predictions written"


def test_an_interrupted_reading_goes_on(small_study, monkeypatch):
    """Parts of a reading that ended before they were merged are merged without being read again."""
    run("upload")
    whole = kept.kept_file("smoke", "upload").read_bytes()
    for variant, runs in kept.load_kept("smoke", "upload").items():
        for cell in directions.runs("smoke", "upload"):
            if cell.config.run_id in runs:
                about, arrays = runs[cell.config.run_id]
                save_predictions(kept.part_file(cell.config, "upload", variant), arrays, about)
    kept.kept_file("smoke", "upload").unlink()
    monkeypatch.setattr(read, "load_pictures", lambda *_: pytest.fail("loaded pictures"))
    said: list[str] = []
    read.read_direction("smoke", "upload", log=said.append)
    assert said == ["upload: 6 runs, 0 predictions written"] and kept.kept_file("smoke", "upload").read_bytes() == whole


def test_a_part_is_read_alone(small_study):
    """What a command names, with its baselines: the rest may not be trained yet."""
    kept.kept_file("smoke", "upload").unlink(missing_ok=True)
    asked = select(parse(["sweep", "--preset", "smoke", "--direction", "upload", "--mode", "ra"])[1],
                   directions.runs("smoke", "upload"))  # fmt: skip
    assert {run.config.mode for run in asked} == {"none", "clean", "plain", "ra"}
    read.read_direction("smoke", "upload", only={run.config.run_id for run in asked}, log=lambda _: None)
    runs = kept.load_kept("smoke", "upload")["jpeg90"]
    assert {one.about["config"]["mode"] for one in runs.values()} == {"none", "clean", "plain", "ra"}
    transfer.make_table("smoke", "upload")
    assert set(transfer.load_table("smoke", "upload")["mode"]) == {"ra"}


def test_families(small_study, readers):
    table = run("families")
    assert set(table["reader"]) == {"vit_small", "mixer_small", "svm_hog", "forest_pixels", "mean"}
    assert table["clean"].notna().all() and (table["n_images"] == 60).all()


def test_categories(small_study):
    """Both ways: P of one half, R's and pictures of the other; the reference is what the readers' own half gains."""
    table = run("categories")
    assert list(table["variant"].unique()) == ["first_to_second", "second_to_first"]
    assert set(table["other"]) == {"dataset=digits_first train_images=400", "dataset=digits_second train_images=400"}
    counts = table.groupby("variant")["n_images"].unique()
    assert sum(int(n[0]) for n in counts) == 60
    config = make_config("smoke", "jpeg", "ra", dataset="digits_first", train_images=400)
    about = predictions_of(config, "categories", "first_to_second").about
    assert about["name"] == "digits_second" and all(v.startswith("digits_second:") for v in about["targets"].values())
    assert set(load_pictures(config, "train").labels) == set(range(5))
    home = load_cells("smoke", "test")
    theirs = {mode: home[cell_key(make_config("smoke", "jpeg", mode, dataset="digits_second", train_images=400).science())]
              for mode in ("ra", "plain")}  # fmt: skip
    gain = (theirs["ra"].hits - theirs["plain"].hits).mean((0, 2))
    rows = table.query("variant == 'first_to_second' and mode == 'ra' and reader != 'mean'").set_index("reader")["reference"]
    assert rows.to_dict() == pytest.approx(dict(zip(theirs["ra"].targets, gain, strict=True)), abs=1e-5)


def test_datasets(small_study):
    """The study's own pictures, read by R's that were trained on other data."""
    table = run("datasets")
    assert list(table["variant"].unique()) == list(digits.OTHER_DATA) and (table["n_images"] == 60).all()
    assert set(table["reader"]) == {*directions.TAUGHT_ELSEWHERE, "mean"}
    for name in digits.OTHER_DATA:
        about = predictions_of(make_config("smoke", "jpeg", "ra"), "datasets", name).about
        assert about["name"] == "digits" and all(v.startswith(f"{name}:") for v in about["targets"].values())


def test_other_pictures(small_study):
    """The other set's pictures, degraded as strongly, read by the other set's R's."""
    table = run("other_pictures", data_dir=str(small_study / "cifar"))
    assert list(table["variant"].unique()) == ["digits_to_cifar10"] and (table["n_images"] == 20).all()
    about = predictions_of(make_config("smoke", "jpeg", "ra"), "other_pictures", "digits_to_cifar10").about
    assert about["name"] == "cifar10" and all(v.startswith("cifar10:") for v in about["targets"].values())


def test_several_sources(small_study):
    """Nothing is read: the held-out readers are at home. The reference is RA from the first source alone."""
    table = run("multi_source")
    assert set(table["reader"]) == {*directions.HELD_OUT, "mean"} and set(table["source_arch"]) == set(directions.SOURCES)
    alone = table[table["source_arch"] == "resnet18_small"]
    assert (alone["difference"] == 0).all() and (alone["value"] == alone["reference"]).all()


def test_a_black_box(small_study, monkeypatch):
    """It is asked once a picture; what it calls otherwise than the classes is wrong, counted and reported."""
    monkeypatch.setitem(sys.modules, "my_box", sys.modules[__name__])
    said = []
    count = functools.partial(read.read_direction, "smoke", "black_box", black_box="function:my_box:guess")
    with monkeypatch.context() as no_p:  # what keeps no answers is asked about every picture, whatever P makes of it
        no_p.setattr(read, "apply_processor", None)
        assert count(counting=True, log=said.append) == 6 * 60
    table = run("black_box", black_box="function:my_box:guess")
    assert set(table["reader"]) == {"guess", "mean"} and (table["verdict"] == "undecided (floor)").all()
    about, arrays = predictions_of(make_config("smoke", "jpeg", "ra"), "black_box", "guess")
    bright = about["unknown"]["bright"]
    assert bright == (arrays["top5"] == 10).sum() > 0
    assert count(counting=True, log=said.append) == 0


def test_two_black_boxes_read_what_p_gave_once(small_study, monkeypatch):
    """Each keeps its own answers, and what it could not name."""
    monkeypatch.setitem(sys.modules, "my_box", sys.modules[__name__])
    times, restore = [], read.apply_processor
    monkeypatch.setattr(read, "apply_processor", lambda *given: (times.append(len(given[1])), restore(*given))[1])
    boxes = "function:my_box:guess,function:my_box:sure"
    run("black_box", black_box=boxes)
    assert sum(times) == 6 * 60
    for name, top in (("guess", 10), ("sure", 3)):
        about, arrays = predictions_of(make_config("smoke", "jpeg", "ra"), "black_box", name)
        assert list(about["targets"]) == [name] and arrays["top5"].shape == (1, 60, 1) and top in arrays["top5"]
        assert bool(about["unknown"]) == (name == "guess")


def test_missing_weights_name_the_command(small_study):
    config = make_config("smoke", "jpeg", "ra", seed=7)
    with pytest.raises(StudyError, match="no such weights; rastudy sweep --preset smoke --direction upload trains"):
        read.read_run(config, {}, "upload")


def test_the_summary_has_the_studies_means(small_study, monkeypatch):
    """RA's mean of every direction of every preset but smoke's."""
    monkeypatch.setitem(PRESETS, "digits", PRESETS["smoke"] | {"test_images": 60})
    frame = run("upload")
    (results_folder("digits")).mkdir(exist_ok=True)
    frame.assign(preset="digits").to_csv(transfer.table_file("digits", "upload"), index=False)
    transfer.make_table("smoke", "upload")
    summary = transfer.load_summary()
    assert len(plots.plot_transfer_summary(summary).axes) == 2  # the panel and its scale of colours
    assert (summary["reader"] == "mean").all() and set(summary["mode"]) == {"ra"}
    assert set(summary["variant"]) == {*UPLOADS} - {"png"}  # lossless: the gain at home, once more
    transfer.table_file("digits", "upload").unlink()


def test_the_main_comparison_ignores_halves():
    """A half's run is a cell of its own."""
    mine = make_config("digits", "jpeg", "ra", dataset="digits_first", train_images=16000)
    key = cell_key(mine.science())
    assert key[-1] == "dataset=digits_first train_images=16000" and key[0] == degradations("digits", "jpeg")[0][0]


def test_another_models_gain_is_no_reference_to_compare_with():
    """The R of the same name, else the unseen ones; of the source alone there is neither share nor difference."""
    settings = {"source_arch": "resnet18_small", "preset": "digits"}
    gain = np.arange(12.0).reshape(3, 4)
    home = transfer.AtHome(
        SimpleNamespace(targets=["resnet18_small", "vgg16_bn_small", "resnet50_small"], settings=settings), gain
    )
    for readers, places in ((["vgg16_bn_small"], [1]), (["vit_small"], [1, 2]), (["resnet18_small", "vit_small"], [1, 2])):
        assert home.comparable(readers) == places and np.array_equal(home.of(readers), gain[places].mean(0))
    alone = transfer.AtHome(SimpleNamespace(targets=["resnet18_small"], settings=settings), gain[:1])
    assert alone.comparable(["resnet18_small"]) and not alone.comparable(["vgg16_bn_small"]) and not alone.comparable([])
