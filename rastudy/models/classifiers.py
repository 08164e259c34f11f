"""Recognisers R: a name, pinned weights and a normalisation, frozen for good."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

from rastudy.errors import StudyError
from rastudy.models import pretrained
from rastudy.models.precision import checkpoint_contexts
from rastudy.models.pretrained import IMAGENET_MEAN, IMAGENET_STD, folded
from rastudy.models.small_nets import build_small, n_classes_of
from rastudy.models.weight_files import COMMAND, load_state, own_version, read_pinned, sha256
from rastudy.paths import WEIGHTS, expand
from rastudy.registry import bounds_of, check_spec, half_of, kind_of, name_of, small_arch

N_IMAGENET = 1000  # classes
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)


class Frozen(nn.Module):
    """A network with a name and a version of its weights, which take no gradient; batch norm and dropout stay in eval mode."""

    def __init__(self, name: str, net: nn.Module, weights: str):
        super().__init__()
        self.name, self.weights, self.net = name, weights, net
        self.micro_batch = 0  # pictures that it reads at a time where a gradient is wanted; 0: all
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever is asked."""
        return super().train(False)


class Classifier(Frozen):
    """A frozen recogniser: pictures (N, 3, H, W) in [0, 1] to logits (N, K), normalisation inside.

    Its parameters take no gradient and its batch norm statistics never change; ``train()`` keeps it in eval mode.
    Gradients still flow to the pictures.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, name: str, net: nn.Module, weights: str, mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):  # fmt: skip
        super().__init__(name, net, weights)
        self.classes = slice(None)  # those of its classes that it may name; half of them where the pictures are of that half
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        if not (self.micro_batch and torch.is_grad_enabled()):
            return self._read(pictures)
        parts = pictures.split(self.micro_batch)  # read twice, once for the gradient: memory of one part, the same logits
        return torch.cat([checkpoint(self._read, part, use_reentrant=False, context_fn=checkpoint_contexts) for part in parts])

    def loss(self, pictures: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with the labels (N,), the mean over the pictures."""
        return F.cross_entropy(self(pictures).float(), label)

    def _read(self, pictures: torch.Tensor) -> torch.Tensor:
        logits = self.net((pictures - self.mean) / self.std)
        if not (isinstance(logits, torch.Tensor) and logits.ndim == 2 and len(logits) == len(pictures)):
            given = f"a tensor {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
            raise StudyError(f"recogniser {self.name} gives {given}; it must give logits ({len(pictures)}, K): wrap it so")
        return logits[:, self.classes]

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """What R sees before it decides: the output (N, C, h, w) of its last activation layer with a spatial extent.

        Of a network of tokens (one with layer norms), or without such an activation, the input (N, D) of its last linear layer.

        Raises:
            StudyError: the network shows neither, as a compiled one (TorchScript) does.
        """
        spatial: list[torch.Tensor] = []
        before: list[torch.Tensor] = []

        def keep(_layer: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
            if output.ndim == 4:
                spatial[:] = [output]

        def keep_input(_layer: nn.Module, inputs: tuple) -> None:
            before[:] = [inputs[0]]

        layers = list(self.net.modules())
        of_tokens = any(isinstance(layer, nn.LayerNorm) for layer in layers)
        activations = [] if of_tokens else [layer for layer in layers if isinstance(layer, ACTIVATIONS)]
        hooks = [layer.register_forward_hook(keep) for layer in activations]
        hooks += [layer.register_forward_pre_hook(keep_input) for layer in layers if isinstance(layer, nn.Linear)]
        try:
            self._read(pictures)
        finally:
            for hook in hooks:
                hook.remove()
        for found in (spatial, before):
            if found:
                return found[0]
        raise StudyError(
            f"recogniser {self.name} has neither an activation nor a linear layer whose features a perceptual loss could "
            "compare; name another R, or take mode='ra_unsupervised', which compares its verdicts"
        )


def load_classifier(spec: str, dataset: str = "imagenet") -> Classifier:
    """Load the recogniser that ``spec`` names.

    Args:
        spec: one of
            ``resnet18_small`` ... (the study's own, trained on ``dataset``; ``resnet18_small_seed1``, ``..._untrained``,
            ``..._on_plain_sr2``: a copy of that architecture, from the file of that name; ``NAME@FILE`` takes another
            weight file),
            a torchvision architecture such as ``resnet18``, with the weights IMAGENET1K_V1,
            ``efficientnet_lite0`` (1, 2), ``squeezenet``: ImageNet recognisers whose weights come with the ``imagenet`` extra,
            ``timm:NAME@FILE``: timm's architecture with a local weight file of it and timm's normalisation,
            ``module:function@FILE``: your function builds the network and FILE holds its state dict
            (pictures come in [0, 1]; a network with attributes ``mean`` and ``std`` gets them normalised),
            ``torchscript:FILE``: a TorchScript module that takes pictures in [0, 1].
        dataset: whose weights a small recogniser takes; for half of ImageNet's classes (``imagenet_first``) an R names only
            those, though it was trained on all.

    Raises:
        StudyError: an unknown name, or weights that are missing, damaged or of another architecture.
    """
    check_spec(spec)
    name, kind, path = _find(spec, dataset)
    if kind == "detector":
        raise StudyError(f"recogniser {spec!r} is a detector; it reads scenes (dataset='scenes'), and no labels of pictures")
    if "@" in spec and kind in ("wheel", "torchvision"):
        raise StudyError(f"recogniser {spec!r}: {name} has its own weights; for others write module:function@FILE")
    if kind in ("timm", "own", "torchscript") and not path.is_file():
        form = "torchscript:FILE" if kind == "torchscript" else f"{name}@FILE"
        raise StudyError(f"recogniser {spec!r}: no such file of weights ({path}); write {form}")
    classifier = _load_small(name, path) if kind == "small" else Classifier(*pretrained.LOADERS[kind](name, path))
    whole, half = half_of(dataset)
    if half and whole == "imagenet":
        classifier.classes = slice(*bounds_of(half, N_IMAGENET))
    return classifier


def weights_versions(specs: Iterable[str], dataset: str) -> dict[str, str]:
    """Name to version of each recogniser's weights as they are now, without loading them; ``missing`` where there are none."""
    return dict(_version(*_find(spec, dataset)) for spec in specs)


def _find(spec: str, dataset: str) -> tuple[str, str, Path]:
    """A recogniser's name, its kind (of the registry's, or timm, own, torchscript) and the file of its weights."""
    name, _, file = spec.partition("@")
    if name.startswith("torchscript:"):
        path = expand(spec.removeprefix("torchscript:"))
        return name_of(spec), "torchscript", path
    kind = "small" if small_arch(name) else kind_of(name)
    if kind in ("small", "detector"):
        return name, kind, expand(file) if file else WEIGHTS / dataset / f"{name}.safetensors"
    if ":" in name:
        return name, "timm" if name.startswith("timm:") else "own", expand(file)
    if kind == "wheel":
        return name, kind, pretrained.wheel_file(name)
    return name, "torchvision", pretrained.torchvision_address(name)[1]


def _version(name: str, kind: str, path: Path) -> tuple[str, str]:
    if kind == "torchvision":
        return name, pretrained.torchvision_version(name)
    if not path.is_file():
        return name, "missing"
    if kind == "own":
        return name, own_version(name, path)
    return name, f"{path.parent.name}:" * (kind in ("small", "detector")) + sha256(path)[:8]


def _load_small(name: str, path: Path) -> Classifier:
    if not path.is_file():
        raise StudyError(
            f"{path}: no weights for {name}; `make recognisers` (rastudy recognisers) trains and puts them there, "
            f"{name}@FILE names others, and for pictures of your own you bring your own R (module:function@FILE)"
        )
    arch = small_arch(name)
    state, metadata = read_pinned(path, COMMAND)
    if metadata.get("arch", arch) != arch:
        raise StudyError(f"{path}: holds {metadata['arch']}, not {arch}")
    net = folded(load_state(build_small(arch, n_classes_of(arch, state)), state, path))
    return Classifier(name, net, f"{path.parent.name}:{sha256(path)[:8]}")


def without_weights(arch: str) -> Classifier:
    """A torchvision R with random weights: enough to measure time or operations, without a download."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(arch, weights=None).to(memory_format=torch.channels_last)
    return Classifier(arch, folded(net), "random")
