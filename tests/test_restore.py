"""Pictures of any size and kind through P: tiles without seams, files that keep what they were, clear refusals."""

import io
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import papermill
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, PngImagePlugin
from sklearn.datasets import load_sample_images

from rastudy.__main__ import main
from rastudy.config import make_config
from rastudy.data.datasets import CIFAR10
from rastudy.data.degradations import to_tensor, to_uint8
from rastudy.data.loaders import load_pictures
from rastudy.errors import StudyError
from rastudy.evaluation.predictions import load_predictions, predictions_file
from rastudy.models.processors import build_processor
from rastudy.restore import restore
from rastudy.restore.image_io import open_picture, prepare, save_picture
from rastudy.restore.restore import Models, load, plan, restore_files, restore_picture
from rastudy.restore.tiles import _windows, geometry, restore_pixels
from rastudy.training.weights import save_weights, weights_file

ROOT = Path(__file__).parents[1]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
KINDS = [("srresnet", 1), ("srresnet", 2), ("srresnet", 4), ("srdensenet", 4), ("resnet_generator", 1)]


def small_net(name: str = "srresnet", factor: int = 1, blocks: int = 2) -> torch.nn.Module:
    """A narrow P with random weights that differ enough for every pixel of its field to count."""
    torch.manual_seed(0)
    net = build_processor(name, factor, 4, blocks).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
    return net


def noise(height: int, width: int, *channels: int, kind: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, (height, width, *channels), kind)


@pytest.fixture
def models() -> Models:
    return Models(make_config("smoke", "jpeg", "ra"), small_net(), None)


@pytest.fixture(scope="session")
def flower() -> Image.Image:
    return Image.fromarray(load_sample_images().images[1]).crop((200, 100, 297, 183))  # of odd sides


# --- tiles


@pytest.mark.parametrize(("name", "factor"), KINDS)
def test_the_radius_is_that_of_the_network(name, factor):
    """What changes of the output where one pixel of the input does lies within it; of SRResNet it is no larger than that."""
    net, (found, radius, multiple) = small_net(name, factor, blocks=1), geometry(small_net(name, factor, blocks=1))
    side = -(-(2 * radius + 9) // multiple) * multiple
    lq = torch.rand(1, 3, side, side, dtype=torch.float64)
    net.double()
    reach = []
    for place in range(side // 2, side // 2 + multiple):
        other = lq.clone()
        other[:, :, place, place] += 0.5
        with torch.inference_mode():
            rows = torch.nonzero((net(lq) - net(other)).abs().amax((0, 1, 3)) > 1e-14)[:, 0] // factor
        reach += [place - int(rows.min()), int(rows.max()) - place]
    assert found == factor and max(reach) <= radius
    assert name != "srresnet" or max(reach) == radius


@pytest.mark.parametrize(("name", "factor"), KINDS)
@pytest.mark.parametrize("size", [(101, 83), (96, 120), (47, 240)])
def test_tiles_give_what_one_pass_gives(name, factor, size):
    """To one of 65,535 steps, where sums are taken in another order: no seam, at prime and at even sides."""
    net, pixels = small_net(name, factor, blocks=1), noise(*size, 3)
    with torch.inference_mode():
        whole = restore_pixels(net, pixels, tile=10**6)
        tiled = restore_pixels(net, pixels, tile=factor * 2)  # as small as the radius allows
    assert whole.shape == tiled.shape == (factor * size[0], factor * size[1], 3)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


@pytest.mark.parametrize("task", ["sr", "dn", "jpeg"])
def test_committed_networks_give_the_bare_passs_picture(task, flower):
    processor = load(task=task).processor
    with torch.inference_mode():
        bare = to_uint8(processor(to_tensor(np.asarray(flower))[None])[0])
    assert np.abs(np.asarray(restore_picture(flower, processor, tile=40)).astype(int) - bare).max() <= 1


@pytest.mark.parametrize(("name", "factor"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 67), (3, 2), (5, 7), (8, 8)])
def test_tiny_pictures_keep_their_size(name, factor, size):
    net = small_net(name, factor, blocks=1)
    assert restore_pixels(net, noise(*size, 3, kind=np.uint8)).shape == (factor * size[0], factor * size[1], 3)


@pytest.mark.parametrize("size", [1, 2, 13, 512, 513, 1000, 4001])
@pytest.mark.parametrize(("tile", "radius", "even"), [(512, 14, 2), (128, 12, 2), (2, 14, 2), (512, 64, 4)])
def test_windows_cover_a_side_once(size, tile, radius, even):
    windows = list(_windows(size, tile, radius, even))
    assert [k for w in windows for k in range(w.start, w.stop)] == list(range(size))
    for w in windows:
        assert (w.low == 0 or w.low <= w.start - radius) and (w.high == size or w.high == w.stop + radius)
        assert w.high - w.low <= max(tile, 4 * radius, 2 * even + 2 * radius) + even
        assert (w.high - w.low) % 2 == 0 or w.low == 0


def test_progress_counts_every_pixel():
    told = []
    restore_pixels(small_net(factor=2), noise(70, 90, 3, kind=np.uint8), tile=60, done=told.append)
    assert sum(told) == 70 * 90 and len(told) > 4


def test_a_processor_in_training_is_refused():
    with pytest.raises(StudyError, match="eval"):
        restore_pixels(small_net().train(), noise(8, 8, 3))


# --- kinds of pictures


def saved(picture: Image.Image, path: Path, **options) -> Path:
    picture.save(path, **options)
    return path


def run(source: Path, target: Path, models: Models) -> Image.Image:
    assert restore_files([source], target, models) == []
    with Image.open(target) as file:
        file.load()
        return file


def test_colour_is_what_p_gives(tmp_path, flower, models):
    """Of a PNG exactly P's rounded picture."""
    out = run(saved(flower, tmp_path / "a.png"), tmp_path / "out" / "b.png", models)
    assert out.mode == "RGB" and np.array_equal(out, restore_pixels(models.processor, np.asarray(flower)))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".PNG"])
def test_formats(tmp_path, flower, models, suffix):
    out = run(saved(flower, tmp_path / f"a{suffix}"), tmp_path / f"b{suffix}", models)
    assert out.size == flower.size and out.format == {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(suffix, "PNG")


def test_webp_is_lossless_and_jpeg_keeps_colours_whole(tmp_path, flower, models):
    source = saved(flower, tmp_path / "a.png")
    expected = np.asarray(restore_picture(flower, models.processor))
    assert np.array_equal(run(source, tmp_path / "b.webp", models).convert("RGB"), expected)
    jpeg = run(source, tmp_path / "b.jpg", models)
    assert [layer[1:3] for layer in jpeg.layer] == [(1, 1)] * 3
    with io.BytesIO() as file:
        Image.fromarray(expected).save(file, "JPEG", quality=95, subsampling=0)
        assert np.array_equal(jpeg, Image.open(file))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_orientation_is_applied_and_other_exif_kept(tmp_path, flower, models, orientation, suffix):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = orientation, "a maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = flower.width
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FNumber] = 2.5
    out = run(saved(flower, tmp_path / f"a{suffix}", exif=exif), tmp_path / f"b{suffix}", models)
    turned = orientation >= 5
    assert out.size == (flower.size[::-1] if turned else flower.size)
    kept = out.getexif()
    assert kept.get(ExifTags.Base.Orientation, 1) == 1 and kept[ExifTags.Base.Make] == "a maker"
    assert kept.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] == out.width
    assert float(kept.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FNumber]) == 2.5
    if suffix == ".png":
        upright, _ = open_picture(tmp_path / "a.png")
        assert np.array_equal(out, restore_pixels(models.processor, np.asarray(upright)))


def test_super_resolution_names_its_new_size(tmp_path, flower):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = flower.width
    models = Models(make_config("smoke", "sr", "ra"), small_net(factor=4), None)
    out = run(saved(flower, tmp_path / "a.jpg", exif=exif), tmp_path / "b.jpg", models)
    assert out.size == (4 * flower.width, 4 * flower.height)
    assert out.getexif()[ExifTags.Base.Make] == "a maker"
    assert out.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] == out.width


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_alpha_stays(tmp_path, flower, models, suffix):
    """Bit for bit; the colours, those beneath transparent pixels too, are P's."""
    alpha = Image.fromarray(noise(flower.height, flower.width, kind=np.uint8))
    picture = flower.copy()
    picture.putalpha(alpha)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    out = run(saved(picture, tmp_path / f"a{suffix}", **options), tmp_path / f"b{suffix}", models)
    assert out.mode == "RGBA" and np.array_equal(out.getchannel("A"), alpha)
    assert np.array_equal(np.asarray(out)[..., :3], restore_pixels(models.processor, np.asarray(flower)))


def test_alpha_grows_with_super_resolution(flower):
    picture = flower.copy()
    picture.putalpha(77)
    out = restore_picture(picture, small_net(factor=4))
    assert out.mode == "RGBA" and out.size == (4 * flower.width, 4 * flower.height)
    assert out.getchannel("A").getextrema() == (77, 77)


def test_grey_stays_grey(tmp_path, flower, models):
    """The luminance of what P gives for three equal channels."""
    grey = flower.convert("L")
    for suffix, mode in ((".png", "L"), (".jpg", "L"), (".webp", "RGB")):
        out = run(saved(grey, tmp_path / "a.png"), tmp_path / f"b{suffix}", models)
        assert out.mode == mode
    of_rgb = Image.fromarray(restore_pixels(models.processor, np.asarray(grey.convert("RGB")))).convert("L")
    found = np.asarray(restore_picture(grey, models.processor)).astype(int)
    assert np.abs(found - np.asarray(of_rgb)).max() <= 1
    with_alpha = grey.copy()
    with_alpha.putalpha(9)
    out = run(saved(with_alpha, tmp_path / "c.png"), tmp_path / "d.png", models)
    assert out.mode == "LA" and np.array_equal(out.getchannel("L"), restore_picture(grey, models.processor))


def test_sixteen_bit_grey_stays_sixteen_bit(tmp_path, models, capsys):
    values = noise(40, 30)
    out = run(saved(Image.fromarray(values), tmp_path / "a.png"), tmp_path / "b.png", models)
    assert out.mode.startswith("I") and np.array_equal(out, restore_pixels(models.processor, values))
    assert len(np.unique(np.asarray(out) % 256)) > 100
    assert "bits" not in capsys.readouterr().err
    out = run(tmp_path / "a.png", tmp_path / "b.jpg", models)
    assert out.mode == "L" and "JPEG holds 8 of its 16 bits" in capsys.readouterr().err


def write_png16(path: Path, pixels: np.ndarray) -> Path:
    """A 16-bit RGB PNG, which PIL cannot write."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_sixteen_bit_colour_is_not_cut_silently(tmp_path, models, capsys):
    out = run(write_png16(tmp_path / "a.png", noise(20, 30, 3)), tmp_path / "b.png", models)
    assert out.mode == "RGB" and "of its 16 bits per channel 8 are read" in capsys.readouterr().err


def test_icc_profiles_stay_byte_for_byte(tmp_path, flower, models):
    for suffix in (".png", ".jpg", ".webp"):
        out = run(saved(flower, tmp_path / f"a{suffix}", icc_profile=SRGB), tmp_path / f"b{suffix}", models)
        assert out.info["icc_profile"] == SRGB
        assert "icc_profile" not in run(saved(flower, tmp_path / f"c{suffix}"), tmp_path / f"d{suffix}", models).info


def test_colour_chunks_of_png_stay(tmp_path, flower, models, capsys):
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", 100_000))
    source = saved(flower, tmp_path / "a.png", pnginfo=info)
    assert run(source, tmp_path / "b.png", models).info["gamma"] == 1.0
    assert "cannot hold" not in capsys.readouterr().err
    run(source, tmp_path / "b.jpg", models)
    assert "JPEG cannot hold PNG's colour information (gAMA)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "mode", "words"),
    [
        (lambda p: p.quantize(64), "RGB", "palette becomes RGB"),
        (lambda p: p.convert("1"), "L", "black and white becomes 8-bit grey"),
    ],
)
def test_palettes_and_bilevel_are_converted_with_a_word(tmp_path, flower, models, capsys, change, mode, words):
    out = run(saved(change(flower), tmp_path / "a.png"), tmp_path / "b.png", models)
    assert out.mode == mode and words in capsys.readouterr().err
    expected = restore_pixels(models.processor, np.asarray(change(flower).convert(mode)))
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_transparent_colours_become_alpha(tmp_path, flower, models, mode):
    picture = flower.quantize(8) if mode == "P" else flower.convert(mode)
    colour = {"P": 3, "L": 120, "1": 0, "RGB": flower.getpixel((5, 5))}[mode]
    source = saved(picture, tmp_path / "a.png", transparency=colour)
    out = run(source, tmp_path / "b.png", models)
    assert out.mode == ("LA" if mode in ("L", "1") else "RGBA")
    same = np.asarray(picture) == colour if mode != "RGB" else (np.asarray(picture) == colour).all(-1)
    assert same.any() and np.array_equal(np.asarray(out.getchannel("A")) == 0, same)


def test_cmyk_is_converted_with_a_word(tmp_path, flower, models, capsys):
    source = saved(flower.convert("CMYK"), tmp_path / "a.jpg", quality=95)
    out = run(source, tmp_path / "b.jpg", models)
    assert out.mode == "RGB" and "CMYK becomes RGB" in capsys.readouterr().err
    source = saved(flower.convert("CMYK"), tmp_path / "c.jpg", quality=95, icc_profile=SRGB)  # of no CMYK
    out = run(source, tmp_path / "d.jpg", models)
    assert "icc_profile" not in out.info and "cannot be used" in capsys.readouterr().err


def test_several_pictures_in_one_file(tmp_path, flower, models, capsys):
    """Animations are refused; of a camera's JPEG with previews the photograph is taken."""
    frames = [flower, flower.rotate(180)]
    for suffix in (".png", ".webp"):
        flower.save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(StudyError, match="animation of 2 pictures"):
            restore_files([tmp_path / f"a{suffix}"], tmp_path / f"b{suffix}", models)
        assert not (tmp_path / f"b{suffix}").exists()
    flower.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:], quality=95)
    assert run(tmp_path / "a.jpg", tmp_path / "b.jpg", models).size == flower.size
    assert "the first is restored" in capsys.readouterr().err


def test_modes_that_no_p_knows_are_refused(flower, models):
    with pytest.raises(StudyError, match="prepare"):
        restore_picture(flower.convert("CMYK"), models.processor)
    with pytest.raises(StudyError, match="save it as RGB"):
        prepare(flower.convert("F"))
    with pytest.raises(StudyError, match="32-bit"):
        prepare(Image.fromarray(np.full((4, 4), 70_000, np.int32)))


# --- files and folders


def test_folders_keep_their_tree_and_bad_files_do_not_stop_them(tmp_path, flower, models, capsys):
    source, out = tmp_path / "in", tmp_path / "in" / "restored"
    (source / "sub").mkdir(parents=True)
    saved(flower, source / "a.png"), saved(flower, source / "sub" / "a.jpg"), saved(flower, source / ".hidden.png")
    (source / "bad.jpg").write_bytes((source / "sub" / "a.jpg").read_bytes()[:300])
    (source / "notes.txt").write_text("no picture")
    with pytest.warns(UserWarning, match="3 pictures; left out: 1 hidden or made by programs, 1 of other kinds"):
        assert restore_files([source], out, models) == [source / "bad.jpg"]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == ["a.png", "sub/a.jpg"]
    said = capsys.readouterr().err
    assert all(f"[{k}/3] {source}" in said for k in (1, 2, 3)) and "bad.jpg: not a readable" in said
    assert "\r" not in said  # a line per picture, no bar
    with pytest.warns(UserWarning, match="left out"):
        restore_files([source], out, models)  # a second time: what was restored is no input
    assert len([p for p in out.rglob("*.*")]) == 2


def test_a_terminal_sees_the_time_left(tmp_path, flower, models, monkeypatch, capsys):
    """A bar that moves within a picture, ends at the number of pixels, and counts a picture that failed."""
    saved(flower, tmp_path / "a.png"), saved(flower, tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:300])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert restore_files([tmp_path], tmp_path / "out", models, tile=40) == [tmp_path / "b.png"]
    said = capsys.readouterr().err
    assert "[1/2] a.png:" in said and re.search(r"<\d\d:\d\d", said) and "100%" in said and "[2/2]" in said


def test_what_cannot_be_planned(tmp_path, flower):
    one, two, empty = tmp_path / "one", tmp_path / "two", tmp_path / "empty"
    for folder in (one, two, empty):
        folder.mkdir()
    a, b, other = saved(flower, one / "a.png"), saved(flower, two / "a.png"), saved(flower, one / "a.tif")
    for inputs, out, words in (
        ([tmp_path / "none.png"], tmp_path / "out", "no such file"),
        ([other], tmp_path / "out", "suffix '.tif' is unknown"),
        ([empty], tmp_path / "out", "holds no pictures"),
        ([a, b], tmp_path / "out", "two inputs have this name"),
        ([a, b], tmp_path / "out.png", "names a folder"),
        ([one], tmp_path / "out.png", "names a folder"),
        ([a], tmp_path / "out.gif", "neither a folder nor a file"),
        ([one], b, "names a folder"),
        ([one], one, "would overwrite an input"),
        ([a], one, "would overwrite an input"),
    ):
        with pytest.raises(StudyError, match=words):
            plan(inputs, out)
    assert plan([a], a) == [(a, a)]  # said in so many words
    assert plan([a], two) == [(a, two / "a.png")] and plan([one], two) == [(a, two / "a.png")]


def test_an_input_is_replaced_where_out_names_it(tmp_path, flower, models):
    source = saved(flower, tmp_path / "a.png")
    assert not np.array_equal(run(source, source, models), flower)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_what_a_format_cannot_hold_is_refused_before_work(tmp_path, flower, models, monkeypatch):
    monkeypatch.setattr(restore, "restore_picture", lambda *args: pytest.fail("P ran"))
    see_through = flower.copy()
    see_through.putalpha(100)
    long = Image.new("RGB", (16_384, 1))
    for picture, suffix, words in ((see_through, ".jpg", "no transparency"), (long, ".webp", "at most 16,383")):
        with pytest.raises(StudyError, match=words):
            restore_files([saved(picture, tmp_path / "a.png")], tmp_path / f"b{suffix}", models)


def test_a_full_disk_leaves_nothing(tmp_path, flower, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(StudyError, match="No space left"):
        save_picture(flower, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIHDR"])
def test_damaged_files(tmp_path, models, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(StudyError, match="not a readable"):
        restore_files([tmp_path / "a.png"], tmp_path / "b.png", models)


# --- the command


def command(*words: object) -> int:
    return main(["restore", *map(str, words)])


def test_the_command(tmp_path, flower, capsys):
    """With committed weights; what R's say comes on stdout, the progress on stderr."""
    source = saved(flower, tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"")
    out = tmp_path / "out"
    words = ("--preset", "cifar10", "--task", "jpeg", "-o", out)
    assert command(source, *words, "--classify", "resnet18_small", "vgg16_bn_small") == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 2 and "a.png  ResNet-18: " in said.out and " %) -> " in said.out and "[1/1]" in said.err
    assert command(source, tmp_path / "bad.png", *words) == 1
    assert "1 of the pictures could not be restored" in capsys.readouterr().err
    assert command(tmp_path / "bad.png", *words) == 2


def test_no_class_is_read_from_beneath_transparent_pixels(tmp_path, flower, capsys):
    """The picture is restored; opaque alpha is no matter; a comparison, which has no alpha, is refused."""
    clear, opaque = flower.convert("RGBA"), flower.convert("RGBA")
    clear.putalpha(9)
    files = [saved(picture, tmp_path / f"{name}.png") for name, picture in (("clear", clear), ("opaque", opaque))]
    words = ("--preset", "cifar10", "--task", "jpeg", "--classify", "resnet18_small")
    assert command(*files, *words, "-o", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "clear.png  not classified: it has transparent pixels" in said and "opaque.png  ResNet-18: " in said
    assert command(files[0], *words, "--compare", "ra", "-o", tmp_path / "all") == 2
    assert "transparent pixels" in capsys.readouterr().err and not (tmp_path / "all").exists()


@pytest.mark.parametrize("task", ["sr", "dn", "jpeg"])
def test_comparing_is_evaluating(task):
    """The first test pictures, degraded here, are read as the committed predictions say, but for what rounding turns."""
    models, count = restore.load_modes("digits", task, ["plain", "ra"]), 12
    config = models["ra"].config
    pictures, readers = load_pictures(config, "test"), restore.available_readers(config)
    versions = [restore.compare(Image.fromarray(pictures.pictures[k]), models, seed=k) for k in range(count)]
    assert list(versions[0]) == ["degraded", "plain", "ra", "original"] and {one.size for one in versions[0].values()} == {
        (32, 32)
    }
    said = [restore.verdicts_of(one, models, readers) for one in versions]
    for mode in models:
        read = load_predictions(predictions_file(models[mode].config, "test"))
        wanted = read.arrays["top5"][[read.targets.index(reader.name) for reader in readers], :count, 0].T
        found = np.array([[int(name) for name, _ in one[mode]] for one in said])
        assert (found == wanted).mean() > 0.95


def test_comparing_files(tmp_path, flower, capsys):
    """Every version and a strip; sides are cut to the factor, a picture that is no clean one is taken as it is."""
    (tmp_path / "in").mkdir()
    saved(flower, tmp_path / "in" / "a.png"), saved(flower.convert("L"), tmp_path / "in" / "b.jpg")
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    words = ("--preset", "cifar10", "--compare", "plain", "ra", "-o", tmp_path / "out")
    assert command(tmp_path / "in", "--degrade", "sr", *words, "--classify", "resnet18_small") == 1
    said = capsys.readouterr()
    assert "bad.png failed" in said.err and said.out.count("\n") == 2
    assert all(f"{name} " in said.out for name in ("ResNet-18: degraded", "plain", "ra", "original"))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{stem}-{name}.png" for stem in "ab" for name in ("degraded", "original", "plain", "ra", "strip")]
    size = (flower.width // 4 * 4, flower.height // 4 * 4)
    with Image.open(tmp_path / "out" / "b-ra.png") as ra, Image.open(tmp_path / "out" / "a-strip.png") as strip:
        assert ra.size == size and ra.mode == "RGB" and strip.size == (4 * (2 * size[0] + 4) - 4, 2 * size[1] + 20)
    assert command(tmp_path / "in" / "a.png", "--task", "jpeg", *words[:-1], tmp_path / "as_it_is") == 0
    assert {path.name for path in (tmp_path / "as_it_is").iterdir()} == {
        f"a-{n}.png" for n in ("input", "plain", "ra", "strip")
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no task was named"),
        (("--degrade", "blur"), "task='blur' is unknown"),
        (("--degrade", "jpeg", "--task", "sr"), "leave one out"),
        (("--degrade", "jpeg", "--compare", "plain", "clean"), "mode='clean' has no P"),
        (("--task", "blur"), "task='blur' is unknown"),
        (("--task", "jpeg", "--mode", "clean"), "mode='clean' has no P"),
        (("--task", "jpeg", "--preset", "imagenet"), "no such weights"),
        (("--task", "jpeg", "--strength", "33"), "no such weights"),
        (("--task", "dn", "--processor", "none.safetensors"), "no such file"),
        (("--task", "jpeg", "--classify", "resnet1"), "recogniser 'resnet1' is unknown"),
        (("--task", "jpeg", "--device", "tpu9"), "device='tpu9' is not available"),
    ],
)
def test_misuse_ends_in_one_message(tmp_path, flower, capsys, words, message):
    source = saved(flower, tmp_path / "a.png")
    assert command(source, *words, "-o", tmp_path / "out") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_own_weights(tmp_path):
    """A file brings its settings; its T lies beside it."""
    config = make_config("smoke", "dn", "ra")
    file = tmp_path / "mine.processor.safetensors"
    save_weights(file, build_processor("srresnet", 1, config.channels, config.blocks), config)
    models = load(task="dn", named=str(file))
    assert models.config.run_id == config.run_id and models.transformer is None and not models.processor.training
    for given in ({"task": "jpeg"}, {"strength": 0.3}, {"preset": "digits"}):  # it has one of each
        ((name, value),) = given.items()
        with pytest.raises(StudyError, match=f"trained with {name}=.*, not {value!r}; leave {name} out"):
            load(**{"task": "dn", "named": str(file)} | given)
    assert load(task="dn", named=str(file), preset="smoke", strength=config.strength).config.run_id == config.run_id


@pytest.mark.parametrize("task", ["sr", "dn", "jpeg"])
@pytest.mark.parametrize("mode", ["plain", "ra", "ra_unsupervised", "ra_transformer"])
def test_every_main_p_of_the_default_preset_is_there(task, mode):
    models = load(task=task, mode=mode)
    assert weights_file(models.config).is_file() and (models.transformer is not None) == (mode == "ra_transformer")


def test_readers_without_a_download(monkeypatch, tmp_path, capsys):
    """Those of the preset that are here; what is missing is said, and how to get it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = make_config("digits", "jpeg", target_archs="resnet18_small,resnet18")
    assert [reader.name for reader in restore.available_readers(config)] == ["resnet18_small"]
    assert "resnet18 would have to be downloaded" in capsys.readouterr().err
    with pytest.raises(StudyError, match="has no recogniser here"):
        restore.available_readers(make_config("imagenet", "jpeg"))


@pytest.mark.parametrize("size", [(1, 1), (33, 500), (5000, 2), (40, 40)])
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "LA"])
def test_pictures_of_any_size_and_mode_are_read(size, mode):
    config = make_config("cifar10", "jpeg")
    picture = Image.new(mode, size, (0, 255) if mode == "LA" else 0)  # opaque
    ((name, probability),) = restore.verdicts(picture, config, restore.available_readers(config, ["resnet18_small"]))
    assert name in CIFAR10 and 0 < probability <= 1


@pytest.mark.full
def test_the_notebook_restores_a_folder(tmp_path, flower, monkeypatch):
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "mine").mkdir()
    saved(flower, tmp_path / "mine" / "a.png"), saved(flower.convert("L"), tmp_path / "mine" / "b.jpg")
    given = {"preset": "cifar10", "task": "sr", "pictures": "mine"}
    papermill.execute_notebook(
        ROOT / "notebooks" / "07_own_pictures.ipynb", tmp_path / "out.ipynb", given, progress_bar=False, cwd=tmp_path
    )
    with Image.open(tmp_path / "restored" / "b.jpg") as out:
        assert out.size == (4 * flower.width, 4 * flower.height) and out.mode == "L"


# --- memory and speed

MEASURE = """
import resource, sys
from pathlib import Path
from rastudy.restore.restore import load, restore_files
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
restore_files([Path(sys.argv[1])], Path(sys.argv[2]), load(task="jpeg"))
print(before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak(folder: Path, width: int, height: int) -> tuple[int, int]:
    """Memory in MB of a process, before and after it restored such a photograph for jpeg."""
    photo = Image.fromarray(load_sample_images().images[0]).resize((width, height), Image.Resampling.BICUBIC)
    source = saved(photo, folder / "large.jpg", quality=10)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, source, folder / "out.jpg"], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with Image.open(folder / "out.jpg") as out:
        assert out.size == (width, height)
    return tuple(map(int, done.stdout.split()[-2:]))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has other units elsewhere")
def test_memory_is_that_of_a_tile(tmp_path):
    """A picture of 2 megapixels costs far less than its features would (16 channels of 4 bytes: 128 MB for each layer)."""
    before, after = peak(tmp_path, 2000, 1000)
    assert after - before < 300


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has other units elsewhere")
def test_twelve_megapixels_take_less_than_two_gigabytes(tmp_path):
    assert peak(tmp_path, 4000, 3000)[1] < 2000


@pytest.mark.full
@pytest.mark.parametrize(("task", "size"), [("jpeg", (1600, 2000)), ("sr", (400, 500))])
def test_tiles_keep_three_quarters_of_the_bare_passs_speed(task, size):
    """Pixels a second of processor time, the best of three, with the conversion from and to 8 bits."""
    processor = load(task=task, device="cpu").processor
    picture = Image.fromarray(noise(*size, 3, kind=np.uint8))
    lq = to_tensor(np.asarray(picture))[None].contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def seconds(work) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    bare, tiled = [], []
    for _ in range(3):
        bare.append(seconds(lambda: processor(lq)))
        tiled.append(seconds(lambda: restore_picture(picture, processor)))
    assert min(bare) / min(tiled) >= 0.75
