"""Processors P and the transformer T.

T is the paper's intermediate transforming model, not attention. Sizes default to the paper's and are pinned by tests.
Source: the release's ``model_sr.py`` and ``networks.py``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rastudy import is_native
from rastudy.config import PROCESSORS, Config
from rastudy.data.degradations import no_processing
from rastudy.data.distributed import GlobalBatchNorm2d
from rastudy.errors import StudyError, one_of
from rastudy.models.own_processors import load_own_processor
from rastudy.registry import is_own


def _to_unit(x: torch.Tensor) -> torch.Tensor:
    return (torch.tanh(x) + 1) / 2


class _Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class _FewChannelConv(nn.Conv2d):
    """A convolution to 3 channels, computed for 2 x 2 output pixels at once.

    The same parameters and the same sums, but 12 output channels fill a CPU's vector registers where 3 leave most lanes
    empty; the zeros in the shifted kernels cost less than that. GPUs and odd sizes use the ordinary convolution.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda or x.shape[2] % 2 or x.shape[3] % 2:
            return super().forward(x)
        shifts = [(j, 1 - j, i, 1 - i) for i in (0, 1) for j in (0, 1)]
        weight = torch.stack([F.pad(self.weight, shift) for shift in shifts], 1).flatten(0, 1)
        weight = weight.contiguous(memory_format=torch.channels_last)
        return F.pixel_shuffle(F.conv2d(x, weight, self.bias.repeat_interleave(4), 2, self.padding), 2)


class _OnePass(torch.autograd.Function):
    """PReLU with one slope. Its backward pass goes through memory once; torch's writes the slope's gradient for every value."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, slope)
        return F.leaky_relu(x, float(slope))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (x, slope), (gradient,) = ctx.saved_tensors, gradients
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        given = torch.ops.aten.leaky_relu_backward(gradient, x, float(slope), False)
        # gradient x summed where x < 0: there ``given`` is slope * gradient, elsewhere gradient
        of_slope = (_row_sums(gradient, x) - _row_sums(given, x)).sum() / (1 - slope.double())
        return given, of_slope.to(slope.dtype)


def _row_sums(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Sums over C and W of the products of two tensors (N, C, H, W): (N H) in double precision, of short rows."""
    a, b = (x.permute(0, 2, 3, 1).flatten(2).flatten(0, 1) for x in (a, b))
    return torch.bmm(a[:, None], b[:, :, None]).double().flatten()


class _PReLU(nn.PReLU):
    """PReLU with one slope: on a CPU in its own arithmetic :class:`_OnePass`, elsewhere torch's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        there = is_native() and not x.is_cuda and torch.is_grad_enabled()
        fits = x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
        if not (there and fits) or float(self.weight.detach()) == 1:
            return super().forward(x)
        return _OnePass.apply(x, self.weight)


class SRResNet(nn.Module):
    """SRResNet with a tanh output; 734,092 parameters for x4 and 438,666 for x1 at the paper's size.

    Maps (N, 3, h, w) in [0, 1] to (N, 3, factor h, factor w) in [0, 1].
    """

    def __init__(self, factor: int, channels: int = 64, blocks: int = 5):
        super().__init__()
        c = channels
        self.head = nn.Sequential(nn.Conv2d(3, c, 9, padding=4), _PReLU())
        self.blocks = nn.Sequential(
            *(
                _Residual(
                    nn.Conv2d(c, c, 3, padding=1), GlobalBatchNorm2d(c), _PReLU(),
                    nn.Conv2d(c, c, 3, padding=1), GlobalBatchNorm2d(c),
                )
                for _ in range(blocks)
            ),
            nn.Conv2d(c, c, 3, padding=1), _PReLU(),  # no batch norm here, as in the release
        )  # fmt: skip
        up = [nn.Conv2d(c, 4 * c, 3, padding=1), nn.PixelShuffle(2), _PReLU()]
        twice = [nn.Conv2d(c, 4 * c, 3, padding=1), nn.PixelShuffle(2), _PReLU()]
        self.tail = nn.Sequential(*{1: [], 2: up, 4: up + twice}[factor], _FewChannelConv(c, 3, 9, padding=4))

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        features = self.head(lq)
        return _to_unit(self.tail(features + self.blocks(features)))


class _Dense(nn.Module):
    """cat(x, relu(conv(x)))."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, growth, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, torch.relu(self.conv(x))), 1)


class SRDenseNet(nn.Module):
    """SRDenseNet(16, 16, 8, 8), x4 only; 5,455,043 parameters at the paper's size; its output is unbounded.

    ``channels`` is the growth (16), ``blocks`` the number of blocks of 8 layers (8); the bottleneck has 8 x growth
    channels (128). Maps (N, 3, h, w) in [0, 1] to (N, 3, 4h, 4w).
    """

    def __init__(self, channels: int = 16, blocks: int = 8, layers: int = 8):
        super().__init__()
        growth, wide = channels, 8 * channels
        self.head = nn.Sequential(nn.Conv2d(3, growth, 3, padding=1), nn.ReLU())
        self.dense = nn.Sequential(*(_Dense(growth * (1 + k), growth) for k in range(blocks * layers)))
        self.tail = nn.Sequential(
            nn.Conv2d(growth * (1 + blocks * layers), wide, 1),
            nn.ConvTranspose2d(wide, wide, 4, stride=2, padding=1),
            nn.ConvTranspose2d(wide, wide, 4, stride=2, padding=1),
            nn.Conv2d(wide, 3, 3, padding=1),
        )

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        return self.tail(self.dense(self.head(lq)))


class ResnetGenerator(nn.Module):
    """The 6-block ResNet generator of pix2pix/CycleGAN; 7,841,411 parameters at the paper's size. Also T.

    Maps (N, 3, H, W) in [0, 1] to the same shape and range. H and W must divide by 4.
    """

    def __init__(self, channels: int = 64, blocks: int = 6):
        super().__init__()
        c = channels

        def norm_relu(width: int) -> list[nn.Module]:
            return [GlobalBatchNorm2d(width), nn.ReLU(inplace=True)]

        def padded(width: int) -> list[nn.Module]:
            return [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=False)]

        self.body = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, c, 7, bias=False), *norm_relu(c),
            nn.Conv2d(c, 2 * c, 3, stride=2, padding=1, bias=False), *norm_relu(2 * c),
            nn.Conv2d(2 * c, 4 * c, 3, stride=2, padding=1, bias=False), *norm_relu(4 * c),
            *(
                _Residual(*padded(4 * c), *norm_relu(4 * c), *padded(4 * c), GlobalBatchNorm2d(4 * c))
                for _ in range(blocks)
            ),
            nn.ConvTranspose2d(4 * c, 2 * c, 3, stride=2, padding=1, output_padding=1, bias=False), *norm_relu(2 * c),
            nn.ConvTranspose2d(2 * c, c, 3, stride=2, padding=1, output_padding=1, bias=False), *norm_relu(c),
            nn.ReflectionPad2d(3), _FewChannelConv(c, 3, 7),
        )  # fmt: skip

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return _to_unit(self.body(picture))


class ResidualTransformer(nn.Module):
    """T as a correction of the picture: SRResNet of factor 1 around a skip. Before its first step it is the identity.

    Maps (N, 3, H, W) in [0, 1] to the same shape in [-1, 2].
    """

    def __init__(self, channels: int, blocks: int):
        super().__init__()
        self.net = SRResNet(1, channels, blocks)
        for parameter in self.net.tail[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return picture + 2 * self.net(picture) - 1


def build_transformer(config: Config) -> nn.Module:
    """Build a freshly initialised T from the global torch RNG."""
    kinds = {"resnet_generator": ResnetGenerator, "residual": ResidualTransformer}
    return kinds[config.transformer](config.transformer_channels, config.transformer_blocks)


def build_processor(name: str, factor: int, channels: int, blocks: int) -> nn.Module:
    """Build a freshly initialised P from the global torch RNG, or load one of the user's (:mod:`.own_processors`).

    Raises:
        StudyError: the name is unknown, or the network does not fit the task's factor.
    """
    if is_own(name):
        return load_own_processor(name, factor)
    one_of("processor", name, PROCESSORS)
    if name == "srdensenet" and factor != 4:
        raise StudyError("processor='srdensenet' upsamples by 4; use it with task='sr', strength=4, or take srresnet")
    if name == "resnet_generator" and factor != 1:
        raise StudyError("processor='resnet_generator' keeps the size; use it with another task than sr, or take srresnet")
    if name == "srresnet":
        return SRResNet(factor, channels, blocks)
    return SRDenseNet(channels, blocks) if name == "srdensenet" else ResnetGenerator(channels, blocks)


def apply_processor(processor: nn.Module | None, lq: torch.Tensor, gt: torch.Tensor, config: Config) -> torch.Tensor:
    """P's output for a batch before rounding, or that of the baselines ``none`` and ``clean``; (N, 3, H, W)."""
    if config.mode == "clean":
        return gt
    if config.mode == "none":
        return torch.stack([no_processing(p.cpu(), config.task, config.strength) for p in lq]).to(gt.device)
    return processor(lq)  # in full precision, whatever precision it was trained in
