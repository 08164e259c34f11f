"""Processors and the transformer: sizes pinned to the paper's, shapes, ranges, and the fast convolution."""

import pytest
import torch
from torch import nn

from rastudy.errors import StudyError
from rastudy.models.processors import ResnetGenerator, SRDenseNet, SRResNet, _FewChannelConv, _PReLU, build_processor


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("build", "parameters"),
    [(lambda: SRResNet(4), 734_092), (lambda: SRResNet(1), 438_666), (SRDenseNet, 5_455_043),
     (ResnetGenerator, 7_841_411)],
    ids=["srresnet x4", "srresnet x1", "srdensenet", "resnet_generator"],
)  # fmt: skip
def test_parameter_counts_are_the_papers(build, parameters):
    assert count(build()) == parameters


@pytest.mark.parametrize(
    ("name", "factor", "bounded"),
    [("srresnet", 1, True), ("srresnet", 2, True), ("srresnet", 4, True), ("srdensenet", 4, False),
     ("resnet_generator", 1, True)],
)  # fmt: skip
@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
def test_shapes_and_ranges(name, factor, bounded, size):
    """tanh bounds the output of all but SRDenseNet, even for a net blown up by a factor."""
    torch.manual_seed(0)
    net = build_processor(name, factor, 4, 2).eval()
    lq = torch.rand(3, 3, *size)
    with torch.inference_mode():
        assert net(lq).shape == (3, 3, factor * size[0], factor * size[1])
        for parameter in net.parameters():
            parameter.mul_(3)
        out = net(lq)
    assert out.isfinite().all()
    assert (out.min() >= 0 and out.max() <= 1) if bounded else (out.min() < 0 or out.max() > 1)


def test_the_generator_at_the_papers_size():
    """Reflection padding and two strides of 2 keep the size."""
    with torch.inference_mode():
        assert ResnetGenerator()(torch.rand(2, 3, 16, 20)).shape == (2, 3, 16, 20)


@pytest.mark.parametrize(
    "kernel, padding, size",
    [(9, 4, (8, 8)), (9, 4, (6, 14)), (9, 4, (7, 8)), (9, 4, (9, 11)), (9, 4, (2, 2)), (7, 0, (10, 12)), (7, 0, (11, 12))],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_fast_convolution_is_the_ordinary_one(kernel, padding, size, channels_last):
    """Same values, and same gradients of input, weight and bias, for even and odd sizes."""
    torch.manual_seed(0)
    fast, plain = (conv(5, 3, kernel, padding=padding).double() for conv in (_FewChannelConv, nn.Conv2d))
    plain.load_state_dict(fast.state_dict())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 5, *size, dtype=torch.float64).contiguous(memory_format=layout)
    upstream = torch.randn_like(plain(x))
    results = []
    for net in (fast, plain):
        leaf = x.clone().requires_grad_()
        out = net(leaf)
        out.backward(upstream)
        results.append((out, leaf.grad, net.weight.grad, net.bias.grad))
    for ours, reference in zip(*results, strict=True):
        assert torch.allclose(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("slope", [0.25, -0.5, 3.0])
def test_prelu_in_one_pass_is_prelu(slope, monkeypatch):
    """On a CPU in its own arithmetic: the same values, the same gradients up to rounding; elsewhere it is torch's."""
    x = torch.randn(3, 8, 33, 17).contiguous(memory_format=torch.channels_last)
    gradient, found = torch.randn_like(x), {}
    for arithmetic in ("portable", "native"):
        monkeypatch.setenv("RASTUDY_ARITHMETIC", arithmetic)
        net, seen = _PReLU(init=slope), x.clone().requires_grad_()
        given = net(seen)
        given.backward(gradient)
        found[arithmetic] = given.detach(), seen.grad, net.weight.grad, type(given.grad_fn).__name__
    for ordinary, fast in zip(found["portable"][:2], found["native"][:2], strict=True):
        torch.testing.assert_close(fast, ordinary, rtol=0, atol=0)
    torch.testing.assert_close(found["native"][2], found["portable"][2], rtol=1e-5, atol=1e-3)
    assert found["native"][3] != found["portable"][3]


def test_the_seed_decides_the_initial_weights():
    """P is drawn from the global generator alone."""
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(torch.cat([p.flatten() for p in build_processor("srresnet", 4, 4, 1).parameters()]))
    assert torch.equal(nets[0], nets[1]) and not torch.equal(nets[0], nets[2])


@pytest.mark.parametrize(
    ("name", "factor", "message"),
    [("srdensenet", 1, "upsamples by 4"), ("srdensenet", 2, "upsamples by 4"),
     ("resnet_generator", 4, "keeps the size"), ("unet", 1, "unet.*srresnet, srdensenet, resnet_generator")],
)  # fmt: skip
def test_a_processor_that_does_not_fit(name, factor, message):
    with pytest.raises(StudyError, match=message):
        build_processor(name, factor, 4, 1)
