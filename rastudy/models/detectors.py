"""The study's own small detectors of digits in scenes, of two kinds: ``rastudy recognisers --preset scenes`` trains them.

Built from torchvision's detection library on backbones like the small recognisers'. Weights lie in
``rastudy/weights/scenes/<name>.safetensors``, with their hashes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from rastudy.config import Config
from rastudy.data import scenes
from rastudy.data.scenes import Boxes
from rastudy.errors import StudyError, one_of
from rastudy.models.classifiers import Classifier, Frozen, load_classifier
from rastudy.models.small_nets import resnet18, vgg16_bn
from rastudy.models.weight_files import load_state, read_pinned, sha256
from rastudy.paths import WEIGHTS

COMMAND = "rastudy recognisers --preset scenes"  # trains them


class _Features(nn.Module):
    """The backbone of a detector: normalised pictures (N, 3, H, W) to features (N, C, H / 8, W / 8)."""

    def __init__(self, body: nn.Module, channels: int, out_channels: int):
        super().__init__()
        self.body, self.project, self.out_channels = body, nn.Conv2d(channels, out_channels, 1), out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(self.body(x))


def _faster_rcnn() -> nn.Module:
    """Two-stage: proposals, then a classification of each."""
    backbone = _Features(resnet18(10).features, 56, 64)
    anchors = AnchorGenerator(sizes=((12, 18, 26),), aspect_ratios=((1.0, 1.5, 2.0),))
    pooling = MultiScaleRoIAlign(["0"], output_size=5, sampling_ratio=2)
    return FasterRCNN(
        backbone, min_size=scenes.SIZE, max_size=scenes.SIZE, rpn_anchor_generator=anchors, box_roi_pool=pooling,
        box_head=TwoMLPHead(64 * 25, 96), box_predictor=FastRCNNPredictor(96, 11), rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=60, rpn_pre_nms_top_n_test=100, rpn_post_nms_top_n_test=40, rpn_batch_size_per_image=64,
        box_batch_size_per_image=64, box_detections_per_img=20,
    )  # fmt: skip


def _fcos() -> nn.Module:
    """One-stage, without anchors: every place of the feature map predicts a class and the distances to the box's sides."""
    layers = vgg16_bn(10).features
    third = [k for k, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)][2]
    anchors = AnchorGenerator(sizes=((8,),), aspect_ratios=((1.0,),))
    return FCOS(
        _Features(layers[: third + 1], 32, 32), num_classes=10, min_size=scenes.SIZE, max_size=scenes.SIZE,
        anchor_generator=anchors, score_thresh=0.05, nms_thresh=0.5, detections_per_img=20, topk_candidates=100,
    )  # fmt: skip


DETECTORS: dict[str, Callable[[], nn.Module]] = {"faster_rcnn_small": _faster_rcnn, "fcos_small": _fcos}


class Detector(Frozen):
    """A frozen detector: pictures (N, 3, H, W) in [0, 1] to ``boxes``, ``labels`` and ``scores`` of each.

    Gradients flow to the pictures.

    Args:
        first_label: the network's number of the first class (torchvision's two-stage detectors keep 0 for the background).
        truth: the boxes in each picture of the training set, for :meth:`loss`.
    """

    def __init__(self, name: str, net: nn.Module, weights: str, first_label: int = 0, truth: Sequence[Boxes] = ()):
        super().__init__(name, net, weights)
        self.first_label, self.truth = first_label, truth
        self.register_buffer("mean", torch.zeros(1))  # its device is where pictures are wanted

    def forward(self, pictures: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        found = self.net(list(pictures))
        return [one | {"labels": one["labels"] - self.first_label} for one in found]

    def loss(self, pictures: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The sum of the detector's losses on the pictures with these places in ``truth``, as torchvision trains it.

        The two-stage detector samples the proposals that enter its loss; the draw depends on the pictures' places alone.
        """
        truth = [self.truth[k] for k in index.tolist()]
        with torch.random.fork_rng(devices=[]), losses_of(self.net):
            torch.manual_seed(int(index.sum()))
            return detection_loss(self.net, pictures, truth, self.first_label)


@contextmanager
def losses_of(net: nn.Module) -> Iterator[None]:
    """Switch a torchvision detector to train mode, in which it gives losses; batch norm and dropout stay in eval mode."""
    still = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d, nn.Dropout)
    for module in net.modules():
        module.training = not isinstance(module, still)
    try:
        yield
    finally:
        net.eval()


def detection_loss(net: nn.Module, pictures: torch.Tensor, truth: Sequence[Boxes], first_label: int) -> torch.Tensor:
    """The sum of a torchvision detector's losses, in train mode."""
    targets = [{"boxes": torch.from_numpy(one.boxes), "labels": torch.from_numpy(one.labels) + first_label} for one in truth]
    return sum(net(list(pictures.float()), [{k: v.to(pictures.device) for k, v in t.items()} for t in targets]).values())


def first_label_of(name: str) -> int:
    """torchvision's two-stage detectors keep 0 for the background, FCOS does not."""
    return int(name == "faster_rcnn_small")


def load_detector(name: str, truth: Sequence[Boxes] = ()) -> Detector:
    """One of ``DETECTORS`` with its pinned weights; StudyError where they are missing or not the pinned ones."""
    one_of("detector", name, DETECTORS)
    path = WEIGHTS / "scenes" / f"{name}.safetensors"
    if not path.is_file():
        raise StudyError(f"{path}: no weights for {name}; {COMMAND} trains and puts them there")
    net = load_state(DETECTORS[name](), read_pinned(path, COMMAND)[0], path)
    return Detector(name, net, f"scenes:{sha256(path)[:8]}", first_label_of(name), truth)


def load_source(name: str, config: Config) -> Classifier | Detector:
    """A run's source R by its name: a classifier of the data set, or a detector that knows the boxes of the training scenes."""
    if name in DETECTORS:
        return load_detector(name, scenes.render("train", config.train_images or scenes.SPLITS["train"])[1])
    return load_classifier(name, config.dataset)
