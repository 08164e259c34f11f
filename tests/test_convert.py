"""The authors' weights: read without executing anything, checked strictly, evaluated like our own."""

import os
import pickle
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from rastudy.errors import StudyError
from rastudy.models.processors import ResnetGenerator, SRDenseNet, SRResNet
from rastudy.tools.release_weights import convert, read_release_file, to_ours
from rastudy.training.weights import load_weights, read_metadata


class _Sum(nn.Module):
    """x + f(x), f the children in order."""

    def forward(self, x):
        y = x
        for child in self.children():
            y = child(y)
        return x + y


def residual(c: int) -> nn.Module:
    block = _Sum()
    block.conv1, block.bn1, block.prelu = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), nn.PReLU()
    block.conv2, block.bn2 = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)
    return block


class _Up(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.conv, self.pixel_shuffle, self.prelu = nn.Conv2d(c, 4 * c, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()

    def forward(self, x):
        return self.prelu(self.pixel_shuffle(self.conv(x)))


class _Srresnet(nn.Module):
    """A network with the names and layers of the release's ``ResNet``."""

    def __init__(self, doublings: int, c: int = 64):
        super().__init__()
        self.residual = False
        self.block1 = nn.Sequential(nn.Conv2d(3, c, 9, padding=4), nn.PReLU())
        for k in range(2, 7):
            setattr(self, f"block{k}", residual(c))
        self.block7 = nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.PReLU())
        self.block8 = nn.Sequential(*(_Up(c) for _ in range(doublings)), nn.Conv2d(c, 3, 9, padding=4))

    def forward(self, x):
        first = y = self.block1(x)
        for k in range(2, 8):
            y = getattr(self, f"block{k}")(y)
        return (torch.tanh(self.block8(first + y)) + 1) / 2


class _Growing(nn.Module):
    def __init__(self, inside: int, growth: int):
        super().__init__()
        self.conv = nn.Conv2d(inside, growth, 3, padding=1)

    def forward(self, x):
        return torch.cat((x, torch.relu(self.conv(x))), 1)


class _Block(nn.Module):
    def __init__(self, inside: int):
        super().__init__()
        self.block = nn.Sequential(*(_Growing(inside + 16 * k, 16) for k in range(8)))

    def forward(self, x):
        return self.block(x)


class _Srdensenet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.denseblock = nn.Sequential(*(_Block(16 + 128 * k) for k in range(8)))
        self.Bottleneck = nn.Conv2d(1040, 128, 1)
        self.convt1, self.convt2 = (nn.ConvTranspose2d(128, 128, 4, stride=2, padding=1) for _ in range(2))
        self.conv2 = nn.Conv2d(128, 3, 3, padding=1)

    def forward(self, x):
        return self.conv2(self.convt2(self.convt1(self.Bottleneck(self.denseblock(torch.relu(self.conv1(x)))))))


class _Conv_block(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        conv = lambda: nn.Conv2d(c, c, 3, bias=False)  # noqa: E731
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), conv(), nn.BatchNorm2d(c), nn.ReLU(True), nn.ReflectionPad2d(1), conv(), nn.BatchNorm2d(c)
        )

    def forward(self, x):
        return x + self.conv_block(x)


class _Generator(nn.Module):
    def __init__(self, c: int = 64):
        super().__init__()
        down = [[nn.Conv2d(k * c, 2 * k * c, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * k * c), nn.ReLU(True)] for k in (1, 2)]
        up = [
            [nn.ConvTranspose2d(2 * k * c, k * c, 3, 2, 1, 1, bias=False), nn.BatchNorm2d(k * c), nn.ReLU(True)] for k in (2, 1)
        ]
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, c, 7, bias=False), nn.BatchNorm2d(c), nn.ReLU(True), *down[0], *down[1],
            *(_Conv_block(4 * c) for _ in range(6)), *up[0], *up[1], nn.ReflectionPad2d(3), nn.Conv2d(c, 3, 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x):
        return (self.model(x) + 1) / 2


@pytest.fixture
def release():
    """Have the stand-ins pickle as classes of the release's modules, which exist nowhere when the file is read."""

    def save(net: nn.Module, path: Path, zipped: bool = True) -> Path:
        home = types.ModuleType("model_sr")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "model_sr", home)
            for cls in {type(module) for module in net.modules() if type(module).__module__ == __name__}:
                patch.setattr(cls, "__module__", "model_sr")
                setattr(home, cls.__name__, cls)
            torch.save(nn.DataParallel(net), path, _use_new_zipfile_serialization=zipped)
        return path

    return save


def settled(net: nn.Module) -> nn.Module:
    """With batch norm statistics of its own."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 2), module.weight.data.uniform_(0.5, 1.5)
    return net.eval()


CASES = {
    "sr": (lambda: _Srresnet(2), SRResNet, "srresnet", 4),
    "jpeg": (lambda: _Srresnet(0), SRResNet, "srresnet", 1),
    "sr-dense": (_Srdensenet, SRDenseNet, "srdensenet", 4),
    "dn": (_Generator, ResnetGenerator, "resnet_generator", 1),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_the_releases_networks(tmp_path, release, case, zipped):
    """Both formats of torch.save: the same pictures as the network that was saved gives."""
    make, ours, name, factor = CASES[case]
    theirs = settled(make())
    lq = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = theirs(lq)
        path = release(theirs, tmp_path / "model_sr_epoch_5.pth", zipped)
        found, enlarges, net = to_ours(read_release_file(path))
        assert (found, enlarges, type(net)) == (name, factor, ours)
        torch.testing.assert_close(net.eval()(lq), expected, rtol=1e-4, atol=1e-5)


def test_the_converted_file_is_one_of_ours(tmp_path, release):
    path = release(_Srresnet(2), tmp_path / "p.pth")
    out = convert(path, tmp_path / "theirs", "sr", "ra")
    settings = read_metadata(out)
    assert out.name == "theirs.processor.safetensors"
    assert (settings["preset"], settings["mode"], settings["ra_weight"], settings["channels"]) == ("imagenet", "ra", 1e-3, 64)
    load_weights(out, SRResNet(4))
    with pytest.raises(StudyError, match="p.pth: enlarges by 4, task 'jpeg' needs 1"):
        convert(path, tmp_path / "theirs", "jpeg", "ra")
    with pytest.raises(StudyError, match="srresnet.*T is"):
        convert(path, tmp_path / "theirs", "sr", "ra_transformer", "transformer")


class _Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_executed(tmp_path, zipped, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = nn.Sequential(nn.Conv2d(3, 3, 3))
    net.extra = _Harm()
    torch.save(net, "harm.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(StudyError, match="system.*nothing was executed"):
        read_release_file(Path("harm.pth"))
    assert not Path("harmed").exists()
    subprocess.run([sys.executable, "-c", "import torch; torch.load('harm.pth', weights_only=False)"], check=True)
    assert Path("harmed").exists()  # torch.load does execute it


def test_getattr_tricks_are_refused(tmp_path):
    """Names with dots reach into modules; torch.nn.modules holds imports such as warnings."""
    for module, name in (("torch.nn.modules.module", "warnings.sys.exit"), ("builtins", "getattr"), ("networks", "os.system")):
        content = b"\x80\x04c" + f"{module}\n{name}\n.".encode()
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("x/data.pkl", content), archive.writestr("x/version", "3")
        with pytest.raises(StudyError, match="nothing was executed"):
            read_release_file(tmp_path / "x.pth")


def test_what_is_no_such_file(tmp_path, release):
    cases = {"text.pth": b"no weights", "empty.pth": b"", "number.pth": pickle.dumps(5)}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StudyError, match=name):
            read_release_file(tmp_path / name)
    torch.save(_Srresnet(2).state_dict(), tmp_path / "state.pth")
    with pytest.raises(StudyError, match="dict where a whole module belongs"):
        read_release_file(tmp_path / "state.pth")
    with pytest.raises(StudyError, match="no such file"):
        read_release_file(tmp_path / "absent.pth")
    whole = release(_Srresnet(0), tmp_path / "p.pth", False).read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[:-100])
    with pytest.raises(StudyError, match="short.pth"):
        read_release_file(tmp_path / "short.pth")


def test_files_of_old_torch(tmp_path, release, monkeypatch):
    """Up to torch 1.1 every module held a backend, pickled by the name of a function that is no more."""
    net = _Srresnet(0)
    home = types.ModuleType("torch.nn.backends.thnn")
    exec("def _get_thnn_function_backend(): pass", home.__dict__)
    monkeypatch.setitem(sys.modules, "torch.nn.backends.thnn", home)
    net._backend = _Backend(home._get_thnn_function_backend)
    path = release(net, tmp_path / "old.pth", False)
    assert to_ours(read_release_file(path))[0] == "srresnet"


class _Backend:
    def __init__(self, make):
        self.make = make

    def __reduce__(self):
        return self.make, ()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("offset", "size", "stride"), [(1, (4,), (1,)), (0, (1000, 1000), (0, 0)), (-1, (1,), (1,))])
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_tensors_beyond_their_storage(tmp_path, zipped, offset, size, stride):
    """Neither past its end nor larger than it by a stride of nothing."""

    class Beyond:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (torch.zeros(4).storage(), offset, size, stride, False, None)

    torch.save(Beyond(), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(StudyError, match="beyond its storage"):
        read_release_file(tmp_path / "x.pth")


def test_torchscript_is_not_run(tmp_path, monkeypatch):
    """torch.load would hand such an archive to torch.jit.load, which runs its code."""
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: pytest.fail("torch.jit.load was called"))
    torch.save(_Srresnet(0), tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "a") as archive:
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(StudyError, match="TorchScript.*nothing was executed"):
        read_release_file(tmp_path / "x.pth")


def test_sources_in_a_file_write_no_patches(tmp_path, monkeypatch):
    """Beside the older format's classes their sources lie; torch.load would write a patch where such a class asks for it."""
    monkeypatch.chdir(tmp_path)
    asks = {"dump_patches": True, "__module__": "rastudy.tools.release_weights", "__qualname__": "_Inert", "__name__": "harm"}
    text = lambda words: b"X" + len(words).to_bytes(4, "little") + words.encode()  # noqa: E731
    changed = b"cnetworks\nX\n" + pickle.dumps((None, asks), 2)[2:-1] + b"b"
    module = b"\x80\x02(" + text("module") + changed + text("x.py") + text("another source") + b"tQ."
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    Path("x.pth").write_bytes(head + module + pickle.dumps([], 2))
    with pytest.raises(StudyError, match="holds type where a whole module belongs"):
        read_release_file(Path("x.pth"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_names_and_shapes_are_checked(tmp_path, release):
    state = read_release_file(release(_Srresnet(2), tmp_path / "p.pth"))
    with pytest.raises(StudyError, match="no block9.weight"):
        to_ours(state | {"block9.weight": torch.zeros(1)})
    with pytest.raises(StudyError, match="head.0.bias"):
        to_ours({name: value for name, value in state.items() if name != "block1.0.bias"})
    with pytest.raises(StudyError, match=r"head.0.bias: .* shape torch.Size\(\[3\]\) .* torch.Size\(\[64\]\)"):
        to_ours(state | {"block1.0.bias": torch.zeros(3)})
    with pytest.raises(StudyError, match="none of the release's networks"):
        to_ours({"conv.weight": torch.zeros(1)})
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert to_ours(old)[0] == "srresnet"
