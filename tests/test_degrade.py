"""Degradations against PIL, and against the release's own lines."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from rastudy.data import blind
from rastudy.data.degradations import degrade, no_processing, to_tensor, to_uint8
from rastudy.errors import StudyError
from rastudy.registry import TASKS

STRENGTH = {"sr": 4, "dn": 0.1, "jpeg": 10, "blind": 0}


@pytest.mark.parametrize("quality", [5, 10, 75])
def test_jpeg_is_pils_round_trip(photo, tmp_path, quality):
    """The release writes a temporary file and reads it again: the same pixels."""
    Image.fromarray(photo).save(tmp_path / "x.jpg", quality=quality)
    with Image.open(tmp_path / "x.jpg") as file:
        expected = np.asarray(file)
        assert file.mode == "RGB" and file.layer[0][1:3] == (2, 2)  # 4:2:0
    assert (to_uint8(degrade(photo, "jpeg", quality)) == expected).all()
    assert np.abs(expected.astype(int) - photo).max() > 0


@pytest.mark.parametrize("seed", [0, 1, 4999])
def test_noise_is_the_releases(photo, seed):
    """The release seeds the global generator with the picture's index."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        noise = torch.randn(3, 64, 64)
    expected = torch.clamp(torch.from_numpy(photo).permute(2, 0, 1) / 255 + 0.1 * noise, 0, 1)
    assert torch.equal(degrade(photo, "dn", 0.1, seed), expected)


def test_noise_depends_on_the_seed_and_has_its_sigma():
    grey = np.full((64, 64, 3), 128, np.uint8)
    first, second = degrade(grey, "dn", 0.1, 1), degrade(grey, "dn", 0.1, 2)
    assert not torch.equal(first, second)
    assert abs((first - 128 / 255).std().item() - 0.1) < 0.003


@pytest.mark.parametrize("factor", [2, 4])
def test_sr_is_pils_antialiased_bicubic(photo, factor):
    lq = degrade(photo, "sr", factor)
    side = 64 // factor
    expected = np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC))
    assert (to_uint8(lq) == expected).all()
    gt = to_tensor(photo)[None]
    levels = {
        antialias: 255 * (F.interpolate(gt, size=(side, side), mode="bicubic", antialias=antialias)[0] - lq).abs()
        for antialias in (True, False)
    }
    assert levels[True].max() < 3  # PIL rounds after each of its two passes
    assert levels[False].mean() > 4  # the classic silent bug


def test_no_processing(photo):
    """sr: PIL's bicubic upsampling, 8 bit; dn and jpeg: the degraded picture itself."""
    lq = degrade(photo, "sr", 4)
    small = Image.fromarray(to_uint8(lq))
    expected = np.asarray(small.resize((64, 64), Image.Resampling.BICUBIC))
    assert (to_uint8(no_processing(lq, "sr", 4)) == expected).all()
    for task in ("dn", "jpeg", "blind"):
        lq = degrade(photo, task, STRENGTH[task])
        assert torch.equal(no_processing(lq, task, STRENGTH[task]), lq)


def test_blind_draws_every_combination_and_what_it_draws_is_the_single_tasks(photo, monkeypatch):
    """By the picture's seed alone; one degradation by itself is what its own task makes of the picture at that strength."""
    assert len(set(blind.COMBINATIONS)) == 7 and not any(not any(one) for one in blind.COMBINATIONS)
    small = photo[:32, :32]
    seen = {tuple(degrade(small, "blind", 0, seed).flatten().tolist()) for seed in range(60)}
    assert len(seen) > 50  # some are resampled to one size
    single = {"sr": ("FACTORS", 4.0), "dn": ("SIGMAS", 0.1), "jpeg": ("QUALITIES", 10.0)}
    for k, (task, (name, strength)) in enumerate(single.items()):
        monkeypatch.setattr(blind, "COMBINATIONS", [tuple(k == place for place in range(3))])
        monkeypatch.setattr(blind, name, (strength, strength))
        alone = no_processing(degrade(photo, task, strength, 5), task, strength)
        assert (to_uint8(degrade(photo, "blind", 0, 5)) == to_uint8(alone)).all(), task


def test_a_mixture_has_the_order_of_a_pictures_way(photo, monkeypatch):
    """Resampled first, compressed last: JPEG's blocks are not blurred."""
    monkeypatch.setattr(blind, "COMBINATIONS", [(True, True, True)])
    for name, ends in (("FACTORS", (2.0, 2.0)), ("SIGMAS", (0.1, 0.1)), ("QUALITIES", (10.0, 10.0))):
        monkeypatch.setattr(blind, name, ends)
    by_hand = degrade(to_uint8(degrade(blind.resample(photo, 2), "dn", 0.1, 3)), "jpeg", 10)
    assert torch.equal(degrade(photo, "blind", 0, 3), by_hand)


@pytest.mark.parametrize("task", STRENGTH)
@pytest.mark.parametrize("extreme", [0, 255, None])
def test_range_levels_and_shape(photo, task, extreme):
    """Outputs lie in [0, 1]; those that a file would hold have 8-bit levels."""
    gt = photo if extreme is None else np.full_like(photo, extreme)
    lq = degrade(gt, task, STRENGTH[task])
    for picture in (lq, no_processing(lq, task, STRENGTH[task])):
        assert picture.dtype == torch.float32 and picture.min() >= 0 and picture.max() <= 1
        if task != "dn":
            assert torch.equal(picture, to_tensor(to_uint8(picture)))
    assert lq.shape == ((3, 16, 16) if task == "sr" else (3, 64, 64))


@pytest.mark.parametrize("task", STRENGTH)
def test_pure(photo, task):
    """The same picture gives the same result; neither it nor the global generators change."""
    before, torch_state, numpy_state = photo.copy(), torch.get_rng_state(), np.random.get_state()[1].copy()
    first = degrade(photo, task, STRENGTH[task], 3)
    torch.rand(5), np.random.rand(5)
    torch.set_rng_state(torch_state), np.random.set_state(("MT19937", numpy_state, *np.random.get_state()[2:]))
    again = degrade(photo, task, STRENGTH[task], 3)
    assert torch.equal(first, again) and (photo == before).all()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_uint8_rounds_to_nearest_and_clamps():
    values = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0, 1.7]).expand(3, 1, 7)
    assert to_uint8(values)[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    assert (to_uint8(to_tensor(levels)) == levels).all()


@pytest.mark.parametrize(
    ("task", "strength"),
    [("sr", 3), ("sr", 2.5), ("sr", 8), ("sr", 1), ("dn", -0.1), ("dn", 1.5), ("dn", float("nan")), ("jpeg", 0),
     ("blind", 0.1), ("blind", 10), ("jpeg", 96), ("jpeg", 10.5), ("jpeg", float("nan"))],
)  # fmt: skip
def test_strengths_that_a_task_does_not_know(task, strength):
    with pytest.raises(StudyError, match=f"strength={strength}.*{task}.*use "):
        TASKS[task].check(strength)


@pytest.mark.parametrize(
    ("task", "strength"), [("sr", 2), ("sr", 4.0), ("dn", 0), ("dn", 0.1), ("dn", 1), ("jpeg", 1), ("jpeg", 95.0)]
)
def test_strengths_that_a_task_knows(task, strength):
    TASKS[task].check(strength)


def test_misuse_is_refused(photo):
    with pytest.raises(StudyError, match="61 x 64 .* does not divide by the factor 4"):
        degrade(photo[:, :61], "sr", 4)
    with pytest.raises(StudyError, match="deblur.*sr, dn, jpeg"):
        degrade(photo, "deblur", 10)
