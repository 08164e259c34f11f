"""What an upload does in R's loss: against PIL's own files, with true gradients, and in every mode that has an R."""

import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rastudy import registry
from rastudy.__main__ import main
from rastudy.analysis.comparisons import Cell, baselines_of, cell_key, cells_of
from rastudy.config import make_config
from rastudy.errors import StudyError
from rastudy.evaluation.predictions import Predictions
from rastudy.models.precision import Rounded
from rastudy.training import channels
from rastudy.training.steps import Models
from rastudy.training.train import train
from rastudy.training.weights import weights_file
from rastudy.transfer import aware, directions
from rastudy.transfer.kept import save_kept
from rastudy.transfer.upload import UPLOADS, upload

WITH_R = ("ra", "ra_unsupervised", "perceptual", "ra_transformer")
EVERY = "png,jpeg,resize"


def few(mode: str = "ra", task: str = "jpeg", **overrides):
    sizes = {"train_images": 48, "channels": 4, "blocks": 1, "transformer_blocks": 1}
    return make_config("smoke", task, mode, **(sizes | overrides))


@pytest.fixture
def pictures(photo) -> torch.Tensor:
    """Two pieces of a photograph, (2, 3, 48, 48); no multiple of JPEG's 16 pixels on purpose in the second dimension."""
    return torch.stack([torch.from_numpy(photo[k : k + 48, k : k + 40].copy()).permute(2, 0, 1) for k in (0, 16)]).float() / 255


# mean difference to PIL's file, in levels of 8 bits; kornia rounds coefficients by a polynomial with a gradient
@pytest.mark.parametrize(
    ("way", "send", "value", "levels"),
    [("png", channels.to_8_bits, 0, 0), ("resized", channels.resize, 0.95, 0.5), ("jpeg95", channels.compress, 95, 1.5),
     ("jpeg90", channels.compress, 90, 2.0), ("jpeg75", channels.compress, 75, 2.6), ("jpeg50", channels.compress, 50, 3.2)],
)  # fmt: skip
def test_a_channel_gives_what_the_upload_gives(pictures, way, send, value, levels):
    sent, really = channels.to_8_bits(send(channels.to_8_bits(pictures), value)), upload(pictures, way)
    assert sent.shape == pictures.shape and set(UPLOADS) >= {way}
    apart, changed = (255 * (one - really).abs().mean().item() for one in (sent, pictures))
    assert apart <= levels and apart <= 0.6 * changed + 1e-6  # nearer to PIL's than the picture that was sent


@pytest.mark.parametrize(("send", "value"), [(channels.compress, 60.0), (channels.resize, 0.9)])
def test_gradients_are_those_of_finite_differences(pictures, send, value, monkeypatch):
    """In double precision; without the rounding to 8 bits, whose gradient is the identity by design."""
    monkeypatch.setattr(channels, "to_8_bits", lambda one, _value=0.0: one)
    x = (0.2 + 0.6 * pictures).double().requires_grad_()
    weight = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad((send(x, value) * weight).sum(), x)
    for seed in range(5):
        way = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
        step = 1e-7
        ahead, behind = ((send(x.detach() + sign * step * way, value) * weight).sum() for sign in (1, -1))
        assert ((ahead - behind) / (2 * step)).item() == pytest.approx((slope * way).sum().item(), rel=1e-3, abs=1e-4)


def test_a_channel_keeps_float32_in_bf16_training(pictures):
    """Under autocast, of the hardware or ours, an upload and its gradient are the same: kornia turns autocast off."""
    found = []
    for precision in (nullcontext(), Rounded()):
        x = pictures.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16), precision:
            sent = channels.compress(x, 75.0)
        found.append((sent, *torch.autograd.grad(sent.square().sum(), x)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_rounding_passes_the_gradient():
    x = torch.tensor([-0.1, 0.0012, 0.5, 0.9, 1.2], requires_grad=True)
    sent = channels.to_8_bits(x)
    (slope,) = torch.autograd.grad(sent.sum(), x)
    np.testing.assert_allclose((255 * sent).detach(), [0, 0, 128, 230, 255], atol=1e-4)
    assert slope.tolist() == [0, 1, 1, 1, 0]  # beyond black and white nothing changes


def test_a_step_draws_one_channel_by_seed_and_step(pictures):
    """The same in every mode, and after a resume; another one at other steps; unchanged without the setting."""
    config, other = few(upload=EVERY), few("perceptual", upload=EVERY)
    sent = [channels.draw(config, step)(pictures) for step in range(30)]
    assert all(torch.equal(one, channels.draw(other, step)(pictures)) for step, one in enumerate(sent))
    assert sum(torch.equal(one, channels.to_8_bits(pictures)) for one in sent) in range(4, 20)  # PNG: about a third
    assert len({one.sum().item() for one in sent}) > 12
    assert not torch.equal(sent[0], channels.draw(replace(config, seed=1), 0)(pictures))
    assert channels.draw(few(), 0)(pictures) is pictures


@pytest.mark.parametrize("mode", WITH_R)
def test_every_mode_with_an_r_trains_through_it(study_root, mode):
    """R's loss reaches what it trains through JPEG; the image loss sees P's own picture."""
    plain, sent = few(mode), few(mode, upload="jpeg:50-60")
    assert plain.run_id != sent.run_id and sent.pretraining.run_id == plain.pretraining.run_id
    curves = [train(one, lambda _: None) for one in (plain, sent)]
    part = "transformer" if mode == "ra_transformer" else "processor"
    one, other = (load_file(weights_file(config, part)) for config in (plain, sent))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    if mode == "ra_transformer":  # P is plain's, whatever T reads
        same = [load_file(weights_file(config)) for config in (plain, sent)]
        assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])
        assert [row["image_loss"] for row in curves[0]] == [row["image_loss"] for row in curves[1]]


def test_nothing_else_changes(study_root):
    """The setting's default leaves run ids as they were; a mode without R cannot have it, nor lose its name by it."""
    assert "upload" not in few().science() and few("plain").run_id == replace(few(upload=EVERY), mode="plain").run_id
    assert few(upload="resize, png,jpeg:50-95").run_id == few(upload=EVERY).run_id != few(upload="jpeg").run_id
    assert few(upload=EVERY).upload == EVERY and "-upload-" in few(upload="jpeg:60-80").run_id
    assert cell_key(few(upload="jpeg").science())[-1].endswith("upload=jpeg")


@pytest.mark.parametrize(
    ("upload", "says"),
    [("gif", "'gif' is unknown; use one of png, jpeg, resize"), ("jpg", "did you mean|'jpg' is unknown"),
     ("jpeg:0-50", "quality from 1 to 100"), ("jpeg:50-101", "quality from 1 to 100"), ("jpeg:80-50", "LOW-HIGH"),
     ("jpeg:50", "LOW-HIGH"), ("jpeg:1.2.3-50", "LOW-HIGH"), ("jpeg:a-b", "LOW-HIGH"), ("jpeg,jpeg:50-60", "names jpeg twice"),
     ("resize:0.2-1", "share of the side from 0.5 to 1"), ("png:1-2", "write png"),
     (",", "names no channel"), (" ", "names no channel")],
)  # fmt: skip
def test_bad_channels(upload, says):
    with pytest.raises(StudyError, match=says):
        few(upload=upload)


@pytest.mark.parametrize("mode", ["none", "clean", "plain"])
def test_a_mode_without_r_has_none(mode, capsys):
    with pytest.raises(StudyError, match=f"needs a recogniser in the loss, and mode='{mode}' has none"):
        few(mode, upload="jpeg")
    if mode == "plain":
        assert main(["train", "--preset", "smoke", "--task", "sr", "--mode", mode, "--upload", "jpeg"]) == 2
        assert "needs a recogniser" in capsys.readouterr().err


def test_without_kornia(study_root, monkeypatch):
    """It says what to install before anything is trained; a resize does not need it."""
    monkeypatch.setitem(sys.modules, "kornia.enhance", None)
    with pytest.raises(StudyError, match=r"needs kornia; pip install -e '\.\[transfer\]'"):
        train(few(upload="resize,jpeg"), lambda _: None)
    assert not (study_root / "runs").exists()
    channels.check(few(upload="png,resize"))


def said(config, correct: int) -> Predictions:
    """What one R says of ten pictures, the first ``correct`` of them rightly."""
    top5 = np.where(np.arange(10) < correct, 0, 1).astype(np.uint16)[None, :, None]
    about = {"config": config.science(), "run_id": config.run_id, "split": "test", "data": "d"}
    about["targets"] = {"resnet18_small": "1"}
    return Predictions(about, {"top5": top5, "label": np.zeros(10, np.uint16), "group": np.arange(10)})


def test_it_is_compared_with_plain_and_with_the_same_run_without():
    found = [few("plain"), few(), few(upload=EVERY), few(seed=1, upload=EVERY)]
    cells = cells_of(said(config, correct) for config, correct in zip(found, (3, 5, 6, 7), strict=True))
    assert len(cells) == 3
    cell: Cell = next(cell for cell in cells.values() if cell.settings.get("upload"))
    modes = {name: other.settings["mode"] for name, other in baselines_of(cell, cells)}
    assert modes == {"plain": "plain", "without_upload": "ra"}
    assert not cell.is_main and [name for name, _ in baselines_of(cells[cell_key(few().science())], cells)] == ["plain"]


def test_the_registry_names_the_channels():
    """Every entry names code that exists; models are sent their pictures as they are unless a run says otherwise."""
    drawn = {name: one.drawn for name, one in registry.CHANNELS.items() if one.value}
    assert drawn == {"jpeg": (50, 95), "resize": (0.9, 1)}  # run ids leave these out: other ranges are named in the setting
    assert all(callable(registry.resolve(one.send)) for one in registry.CHANNELS.values())
    assert Models(few("plain"), torch.nn.Identity(), None, []).send is channels.unchanged


def test_what_survives_an_upload(study_root):
    """Gains over plain after the same upload, without and with uploads in the loss, and their paired difference."""
    runs = {few("plain"): (2, 3), few(): (6, 4), few(upload=EVERY): (5, 7)}

    def read(names: tuple[str, ...]) -> dict[str, Predictions]:
        found = {}
        for config, correct in runs.items():
            one = said(config, 0)
            one.about["targets"] = dict.fromkeys(names, "1")
            top5 = [np.where(np.arange(10) < n, 0, 1) for n in correct]
            found[config.run_id] = Predictions(one.about, one.arrays | {"top5": np.array(top5, np.uint16)[:, :, None]})
        return found

    small = read(("resnet18_small", "vgg16_bn_small"))
    save_kept("smoke", "upload_aware", {"jpeg50": small, "jpeg50_unlike": read(("vit_small", "mixer_small"))})
    aware.write_table("smoke")
    found = aware.load_table("smoke")
    assert len(found) == 9 and set(found["way"]) == {"jpeg50"} and set(found["upload"]) == {EVERY}
    gains = {who: list(part.set_index("gain").loc[list(aware.GAINS), "value"]) for who, part in found.groupby("readers")}
    assert gains == {"source": [40, 30, -10], "unseen": [10, 40, 30], "unlike": [25, 35, 10]}
    assert (
        (found["low"] <= found["value"]).all()
        and (found["value"] <= found["high"]).all()
        and found["trainings_low"].isna().all()
    )


def test_the_direction_reads_what_it_compares():
    """Upload-aware RA, the same run without, and plain of the same seeds; every way, to the five and to other families."""
    found = [run.config for run in directions.runs("cifar10", "upload_aware")]
    taught = {one.run_id: one for one in found if one.upload}
    assert {replace(one, upload="").run_id for one in taught.values()} <= {one.run_id for one in found}
    assert {replace(one, mode="plain").run_id for one in taught.values()} == {
        one.run_id for one in found if one.mode == "plain"
    }
    assert {one.name for one in directions.variants("cifar10", "upload_aware")} == {
        f"{way}{suffix}" for way in UPLOADS for suffix in ("", "_unlike")
    }
    assert not any(one.upload for run in directions.runs("cifar10", "upload") for one in [run.config])
    with pytest.raises(StudyError, match="needs a study of digits or cifar10"):
        directions.variants("imagenette", "upload_aware")
