"""The embedded picture set: pinned, split without overlap, and the same for ever."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from rastudy.data import digits

PINNED = {"train": "250dd017a14aec73", "val": "ccf6e1379db2e956", "test": "e9ef031966f2903c", "others": "a52c9e4177cfe4e1"}


@pytest.mark.parametrize("split", digits.SPLITS)
def test_digests_are_pinned(split):
    """The digest is that of pictures, labels and groups, and has not changed."""
    sha = hashlib.sha256(b"".join(array.tobytes() for array in digits.render(split, 50)))
    assert sha.hexdigest()[:16] == PINNED[split]


@pytest.mark.parametrize("split", digits.SPLITS)
def test_shapes_types_and_labels(split):
    pictures, labels, groups = digits.render(split, 50)
    assert pictures.shape == (50, 32, 32, 3) and pictures.dtype == np.uint8
    assert labels.dtype == groups.dtype == np.int64
    assert (labels == load_digits().target[groups]).all()
    assert pictures.reshape(50, -1).std(1).min() > 5  # none is blank
    assert len(np.unique(pictures.reshape(50, -1), axis=0)) == 50


def test_source_digits_are_disjoint_and_stratified():
    sources = {split: digits.source_digits(split) for split in digits.SPLITS}
    together = np.concatenate(list(sources.values()))
    assert sorted(together) == list(range(1797))  # each digit belongs to one split
    everywhere = np.bincount(load_digits().target) / 1797
    for split, part in digits.SPLITS.items():
        assert len(sources[split]) == part.digits
        share = np.bincount(load_digits().target[sources[split]], minlength=10) / part.digits
        assert np.abs(share - everywhere).max() < 1.5 / part.digits + 1e-3


def test_groups_are_the_splits_own_digits():
    for split in digits.SPLITS:
        assert set(digits.render(split, 50)[2]) <= set(digits.source_digits(split))


def test_photograph_columns_are_disjoint():
    columns = sorted({part.columns for part in digits.SPLITS.values()})  # the other digits' are those of training
    assert columns[0][0] == 0 and columns[-1][1] == load_sample_images().images[0].shape[1]
    assert all(left[1] <= right[0] for left, right in zip(columns, columns[1:], strict=False))


@pytest.mark.parametrize("split", digits.SPLITS)
def test_pictures_come_from_their_own_columns(split, monkeypatch):
    """Inverting the other splits' part of the photographs changes no background."""
    photographs = load_sample_images()
    low, high = digits.SPLITS[split].columns
    others = [photograph.copy() for photograph in photographs.images]  # PIL's box filter reads past the box
    for photograph in others:
        photograph[:, :low] ^= 255
        photograph[:, high:] ^= 255
    render = digits.render.__wrapped__
    before = render(split, 200)[0]
    monkeypatch.setattr(digits, "load_sample_images", lambda: type(photographs)(images=others))
    monkeypatch.setattr(digits, "backgrounds", digits.backgrounds.__wrapped__)
    assert (render(split, 200)[0] == before).all()


@pytest.mark.parametrize("split", digits.SPLITS)
def test_a_prefix_is_the_same_for_ever(split):
    for short, long in zip(digits.render(split, 20), digits.render(split, 50), strict=True):
        assert (short == long[:20]).all()


@pytest.mark.parametrize("data, owner", [("digits_others", "others"), ("digits_elsewhere", "train"), ("digits_bare", "train")])
def test_other_data_differ_in_training_alone(data, owner):
    """Other source digits, or other backgrounds behind the same ones; validation and test pictures are the digits' own."""
    others, own = digits.render("train", 40, data), digits.render("train", 40)
    assert set(others[2]) <= set(digits.source_digits(owner))
    assert (others[2] == own[2]).all() == (owner == "train") and not (others[0] == own[0]).all((1, 2, 3)).any()
    for split in ("val", "test"):
        both = zip(digits.render(split, 20, data), digits.render(split, 20), strict=True)
        assert all((one == other).all() for one, other in both)
    for picture in others[0]:  # without a photograph one colour is behind the digit
        colours = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)[1]
        assert (colours.max() > 300) == (data == "digits_bare")


def test_splits_differ():
    """Picture k has its own random stream in every split."""
    first = {split: digits.render(split, 1)[0][0].tobytes() for split in digits.SPLITS}
    assert len(set(first.values())) == len(digits.SPLITS)
