"""Recognisers without a network: scikit-learn's, fitted to clean training pictures whenever they are needed.

They are not stored, since loading a pickle executes what it holds. The fit is deterministic and takes seconds.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import sklearn
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from rastudy.data.datasets import PictureSet
from rastudy.data.degradations import to_uint8
from rastudy.errors import StudyError

FITTED_TO = 10_000  # training pictures at most: a support vector machine's time grows with their square


def gradients(pictures: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients, (N, H, W, 3) uint8 to (N, F): nine directions in cells of 4 x 4 pixels."""
    try:
        from skimage.feature import hog
    except ImportError as error:
        raise StudyError("svm_hog needs scikit-image; pip install -e '.[transfer]'") from error
    options = {"orientations": 9, "pixels_per_cell": (4, 4), "cells_per_block": (2, 2), "channel_axis": -1}
    return np.stack([hog(picture, **options) for picture in pictures]).astype(np.float32)


def pixels(pictures: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 to (N, 3HW) in [0, 1]."""
    return pictures.reshape(len(pictures), -1).astype(np.float32) / 255


# name: features, scikit-learn's classifier; no setting was tuned
SHALLOW: dict[str, tuple[Callable, Callable]] = {
    "svm_hog": (gradients, lambda: make_pipeline(StandardScaler(), PCA(150, random_state=0), SVC(C=10, random_state=0))),
    "forest_pixels": (pixels, lambda: RandomForestClassifier(300, min_samples_leaf=2, random_state=0, n_jobs=1)),
}


class ShallowClassifier(nn.Module):
    """One of ``SHALLOW``, fitted: pictures (N, 3, H, W) in [0, 1] to scores (N, K). It sees them rounded to 8 bits."""

    def __init__(self, name: str, train: PictureSet):
        super().__init__()
        self.name, self.weights = name, version(name, train)
        self.features, make = SHALLOW[name]
        self.model = make().fit(self.features(train.array[:FITTED_TO]), train.labels[:FITTED_TO])
        self.register_buffer("mean", torch.zeros(1))  # its device is where pictures are wanted

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features = self.features(np.stack([to_uint8(picture.cpu()) for picture in pictures]))
        scores = getattr(self.model, "decision_function", None) or self.model.predict_proba
        return torch.from_numpy(scores(features)).float()


def version(name: str, train: PictureSet) -> str:
    """What a fit depends on, in 8 hex digits: settings, training pictures, scikit-learn's version."""
    text = f"{name} {SHALLOW[name][1]()} {FITTED_TO} {train.digest} {sklearn.__version__}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


_fitted: dict[str, ShallowClassifier] = {}  # by version: the same pictures, loaded again, need no new fit


def load_shallow(name: str, train: PictureSet) -> ShallowClassifier:
    """One of ``SHALLOW`` fitted to a training set, once per process for the same pictures."""
    key = version(name, train)
    if key not in _fitted:
        _fitted[key] = ShallowClassifier(name, train)
    return _fitted[key]
