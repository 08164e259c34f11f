"""Training the study's own recognisers: reproducible, pinned, and loadable under their names."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from rastudy.__main__ import main
from rastudy.config import make_config
from rastudy.data.datasets import load_split
from rastudy.data.degradations import to_uint8
from rastudy.data.loaders import Loader
from rastudy.errors import StudyError
from rastudy.models import classifiers
from rastudy.models.classifiers import load_classifier
from rastudy.models.small_nets import build_small
from rastudy.models.weight_files import pinned_hashes, read_pinned, sha256, write_pinned
from rastudy.training import fit_classifiers as recognisers
from rastudy.training import fit_detectors
from rastudy.training.fit_classifiers import train_recogniser, untrained_recogniser

SHORT = {"train_images": 384, "epochs": 1, "lr": 4e-3, "augment": True, "longer": {"resnet50_small": 2}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the command writes: an empty folder, with a recipe of seconds."""
    monkeypatch.setattr(recognisers, "WEIGHTS", tmp_path)
    monkeypatch.setattr(classifiers, "WEIGHTS", tmp_path)
    monkeypatch.setitem(recognisers.RECIPES, "digits", SHORT)
    return tmp_path / "digits"


def run(*arguments: str) -> None:
    assert main(["recognisers", "--preset", "digits", *arguments]) == 0


@pytest.mark.slow
def test_the_command_writes_what_can_be_loaded(folder):
    """Under the architecture's name, with its hash pinned, and what it was trained on in its metadata."""
    run("--arch", "resnet18_small")
    run("--arch", "resnet18_small", "--seed", "1")
    run("--arch", "resnet18_small", "--untrained")
    names = ["resnet18_small", "resnet18_small_seed1", "resnet18_small_untrained"]
    assert sorted(path.stem for path in folder.glob("*.safetensors")) == names
    assert pinned_hashes(folder) == {f"{name}.safetensors": sha256(folder / f"{name}.safetensors") for name in names}
    loaded = [load_classifier(name, "digits") for name in names]
    picture = torch.rand(2, 3, 32, 32)
    assert len({tuple(r(picture).flatten().tolist()) for r in loaded}) == 3
    with safe_open(folder / "resnet18_small_seed1.safetensors", "pt") as file:
        about = file.metadata()
    assert (about["arch"], about["seed"], about["train_images"], about["epochs"]) == ("resnet18_small", "1", "384", "1")
    assert 0 <= float(about["val_top1"]) <= 100


def test_an_adapted_recogniser_learns_from_what_ra_would(folder, monkeypatch, study_root):
    """Epoch by epoch the noise of RA's run, never that of the evaluation; from the clean one's weights."""
    run("--arch", "resnet18_small")
    clean = sha256(folder / "resnet18_small.safetensors")
    seen = []
    spy = recognisers.processed
    monkeypatch.setattr(recognisers, "processed", lambda *args: seen.append(spy(*args)) or seen[-1])
    run("--arch", "resnet18_small", "--adapt-to", "none", "--task", "dn")
    name = "resnet18_small_on_none_dn0.2"
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        about = file.metadata()
    config = make_config("digits", "dn", "none")
    assert (about["adapted_to"], about["start"], about["arch"]) == (config.run_id, clean, "resnet18_small")
    assert load_classifier(name, "digits").weights != load_classifier("resnet18_small", "digits").weights
    epochs = make_config("digits", "dn", "ra").epochs
    assert len(seen) == 1 + epochs and [s.split for s in seen] == ["val", *["train"] * epochs]
    train = load_split("digits", "train", 384)
    loader = Loader(train, "dn", config.strength, 50)
    batch = next(loader.epoch(0, make_config("digits", "dn", "ra").pretrain_epochs))
    expected = np.stack([to_uint8(p) for p in batch.lq])
    np.testing.assert_array_equal(seen[1].pictures[batch.index], expected)
    ordered = next(loader.ordered())
    assert not any((seen[1].pictures[k] == to_uint8(p)).all() for k, p in zip(ordered.index, ordered.lq, strict=True))


@pytest.mark.parametrize("arguments", [("--seed", "1"), ("--untrained",)])
def test_what_cannot_be_adapted(folder, capsys, arguments):
    assert main(["recognisers", "--adapt-to", "none", "--task", "dn", *arguments]) == 2
    assert f"{arguments[0]} has no effect beside --adapt-to" in capsys.readouterr().err


def test_a_degradation_without_adapting_is_refused(folder, capsys):
    """Else the clean recognisers would be trained anew, over those that a study is pinned to."""
    for words in (["--task", "dn"], ["--strength", "4"]):
        assert main(["recognisers", *words]) == 2
        assert f"{words[0]} has no effect without --adapt-to" in capsys.readouterr().err
    assert not list(folder.glob("*"))


@pytest.mark.parametrize("preset", ["digits", "scenes"])
def test_pinned_weights_are_not_trained_over_unasked(folder, monkeypatch, capsys, preset):
    """Every run of the record rests on them: a command that was typed to try it must not replace them."""
    monkeypatch.setattr(fit_detectors, "WEIGHTS", folder.parent)
    place, name = folder.parent / preset, {"digits": "resnet18_small", "scenes": "fcos_small"}[preset]
    place.mkdir(parents=True)
    (place / f"{name}.safetensors").write_bytes(b"pinned")
    for words in ([], ["--data", "x"], *([["--seed", "1", "--again"], ["--untrained"]] if preset == "scenes" else [])):
        status = main(["recognisers", "--preset", preset, "--arch", name, *words])
        said = "".join(capsys.readouterr())
        assert (status, "there already; --again" in said) == ((2, False) if words else (0, True))
    assert (place / f"{name}.safetensors").read_bytes() == b"pinned"


def test_what_is_pinned_stays_pinned(folder, capsys):
    """A file written beside an altered one does not bless it; nor is an altered one the start of a fine-tuned copy."""
    for name in ("one", "two"):
        write_pinned(folder / f"{name}.safetensors", {"a": torch.zeros(2)}, {})
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    write_pinned(folder / "three.safetensors", {"a": torch.zeros(2)}, {})
    assert set(pinned_hashes(folder)) == {"one.safetensors", "two.safetensors", "three.safetensors"}
    with pytest.raises(StudyError, match="one.safetensors: its SHA-256 is not the one in SHA256SUMS"):
        read_pinned(folder / "one.safetensors", "nothing")
    write_pinned(folder / "resnet18_small.safetensors", build_small("resnet18_small", 10).state_dict(), {})
    save_file(build_small("resnet18_small", 10).state_dict(), folder / "resnet18_small.safetensors")
    assert main(["recognisers", "--arch", "resnet18_small", "--adapt-to", "none", "--task", "dn"]) == 2
    assert "resnet18_small.safetensors: its SHA-256" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_weights():
    """Bit for bit; another seed gives others."""
    train, val = load_split("digits", "train", 256), load_split("digits", "val", 50)
    one, again, other = (train_recogniser("resnet18_small", train, val, seed, SHORT)[0] for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


def test_some_architectures_train_longer(capsys):
    train, val = load_split("digits", "train", 128), load_split("digits", "val", 50)
    _, about = train_recogniser("resnet50_small", train, val, 0, SHORT)
    assert about["epochs"] == "2" and "epoch 2/2" in capsys.readouterr().out


def test_an_untrained_recogniser_knows_nothing():
    """Its weights are the initial ones; only batch norm has seen pictures, so that its activations are of ordinary size."""
    train, val = load_split("digits", "train", 384), load_split("digits", "val", 500)
    state, about = untrained_recogniser("resnet18_small", train, 0)
    torch.manual_seed(0)
    initial = build_small("resnet18_small", 10)
    assert all(torch.equal(state[name], parameter) for name, parameter in initial.named_parameters())
    initial.load_state_dict(state)
    norms = [module for module in initial.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(module.running_mean.abs().max() > 0 for module in norms) and about["epochs"] == "0"
    assert recognisers.accuracy(initial, val) < 25
