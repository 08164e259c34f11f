"""The embedded picture set: pinned, split without overlap, and the same for ever."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from rastudy.data import digits

PINNED = {"train": "06d17191124b9c65", "val": "a980ce2315a28727", "test": "d6344776f2f0063a"}


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
    for split, (count, _, _) in digits.SPLITS.items():
        assert len(sources[split]) == count
        share = np.bincount(load_digits().target[sources[split]], minlength=10) / count
        assert np.abs(share - everywhere).max() < 1.5 / count + 1e-3


def test_groups_are_the_splits_own_digits():
    for split in digits.SPLITS:
        assert set(digits.render(split, 50)[2]) <= set(digits.source_digits(split))


def test_photograph_columns_are_disjoint():
    columns = sorted(columns for _, columns, _ in digits.SPLITS.values())
    assert columns[0][0] == 0 and columns[-1][1] == load_sample_images().images[0].shape[1]
    assert all(left[1] <= right[0] for left, right in zip(columns, columns[1:], strict=False))


@pytest.mark.parametrize("split", digits.SPLITS)
def test_pictures_come_from_their_own_columns(split, monkeypatch):
    """Inverting the other splits' part of the photographs changes no background."""
    photographs = load_sample_images()
    low, high = digits.SPLITS[split][1]
    others = [photograph.copy() for photograph in photographs.images]  # PIL's box filter reads past the box
    for photograph in others:
        photograph[:, :low] ^= 255
        photograph[:, high:] ^= 255
    render = digits.render.__wrapped__
    before = render(split, 200)[0]
    monkeypatch.setattr(digits, "load_sample_images", lambda: type(photographs)(images=others))
    assert (render(split, 200)[0] == before).all()


@pytest.mark.parametrize("split", digits.SPLITS)
def test_a_prefix_is_the_same_for_ever(split):
    for short, long in zip(digits.render(split, 20), digits.render(split, 50), strict=True):
        assert (short == long[:20]).all()


def test_splits_differ():
    """Picture k has its own random stream in every split."""
    first = {split: digits.render(split, 1)[0][0].tobytes() for split in digits.SPLITS}
    assert len(set(first.values())) == 3
