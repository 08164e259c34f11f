"""Small counterparts of the paper's five recognisers, and two of other families, for 32 x 32 pixels.

Of 50k to 200k parameters each. They keep what distinguishes the families (basic or bottleneck residual blocks, dense
connections, plain convolutions with a fully connected head, and the depths) and shrink the widths. Built from torchvision's
own blocks.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from rastudy import registry


class SmallResNet(nn.Module):
    """ResNet with a 3 x 3 stem and no max pooling, (N, 3, 32, 32) normalised to (N, K) logits."""

    def __init__(self, block: type[BasicBlock | Bottleneck], depths: tuple, widths: tuple, strides: tuple, num_classes: int):
        super().__init__()
        channels = 16
        layers = [nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        for depth, width, stride in zip(depths, widths, strides, strict=True):
            for k in range(depth):
                step, out = stride if k == 0 else 1, width * block.expansion
                project = None
                if step > 1 or channels != out:
                    project = nn.Sequential(nn.Conv2d(channels, out, 1, step, bias=False), nn.BatchNorm2d(out))
                layers.append(block(channels, width, step, project))
                channels = out
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class SmallVGG(nn.Module):
    """VGG-16 with batch norm: thirteen 3 x 3 convolutions between max poolings, then fully connected layers."""

    def __init__(self, widths: tuple, num_classes: int):
        super().__init__()
        layers, channels = [], 3
        for width, depth in zip(widths, (2, 2, 3, 3, 3), strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(channels, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.head(self.features(x).flatten(1)))


def densenet121(num_classes: int) -> DenseNet:
    net = DenseNet(growth_rate=10, block_config=(4, 6, 8, 6), num_init_features=16, bn_size=2, num_classes=num_classes)
    net.features.conv0 = nn.Conv2d(3, 16, 3, padding=1, bias=False)  # 3 x 3 stem; the max pooling stays
    return net


def _tokens(width: int) -> nn.Sequential:
    """A picture's 8 x 8 tokens by two strided convolutions: with them few pictures are enough (Xiao et al. 2021)."""
    narrow = width // 2
    stem = [nn.Conv2d(3, narrow, 3, 2, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()]
    return nn.Sequential(*stem, nn.Conv2d(narrow, width, 3, 2, 1))


class SmallViT(nn.Module):
    """A vision transformer of 8 x 8 tokens: four pre-norm blocks of self-attention, the mean of their tokens classified."""

    def __init__(self, num_classes: int, width: int = 64, depth: int = 4):
        super().__init__()
        self.tokens = _tokens(width)
        self.place = nn.Parameter(0.02 * torch.randn(1, 64, width))
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tokens(x).flatten(2).transpose(1, 2)  # N 64 C
        return self.fc(self.blocks(x + self.place).mean(1))


class _Mix(nn.Module):
    """Mixes tokens, then channels."""

    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.of_tokens, self.of_channels = (
            nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n)) for n in (tokens, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.of_tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.of_channels(self.norms[1](x))


class SmallMixer(nn.Module):
    """An MLP mixer of 8 x 8 tokens: no attention, and no convolution after the tokens."""

    def __init__(self, num_classes: int, width: int = 64, depth: int = 4):
        super().__init__()
        self.tokens = _tokens(width)
        self.blocks = nn.Sequential(*(_Mix(64, width) for _ in range(depth)), nn.LayerNorm(width))
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(self.tokens(x).flatten(2).transpose(1, 2)).mean(1))


def resnet18(num_classes: int) -> SmallResNet:
    return SmallResNet(BasicBlock, (2, 2, 2, 2), (16, 24, 40, 56), (2, 1, 2, 2), num_classes)


def resnet50(num_classes: int) -> SmallResNet:
    return SmallResNet(Bottleneck, (3, 4, 6, 3), (8, 12, 16, 24), (2, 1, 2, 2), num_classes)


def resnet101(num_classes: int) -> SmallResNet:
    return SmallResNet(Bottleneck, (3, 4, 23, 3), (8, 12, 14, 20), (2, 1, 2, 2), num_classes)


def vgg16_bn(num_classes: int) -> SmallVGG:
    return SmallVGG((16, 24, 32, 40, 48), num_classes)


def build_small(arch: str, num_classes: int) -> nn.Module:
    """A freshly initialised small recogniser, by its name in the registry."""
    return registry.resolve(registry.RECOGNISERS[arch].build)(num_classes)


def n_classes_of(arch: str, state: Mapping[str, torch.Tensor]) -> int:
    """How many classes weights of an architecture are for: where their shapes differ from those for one class."""
    with torch.device("meta"):
        single = build_small(arch, 1).state_dict()
    sides = (pair for name in single.keys() & state.keys() for pair in zip(state[name].shape, single[name].shape, strict=False))
    return next((have for have, one in sides if have != one), 1)
