"""Settings: what is refused, what a preset fills in, and which fields make another run."""

import dataclasses
import math

import numpy as np
import pytest

from rastudy import registry
from rastudy.config import NOT_APPLICABLE, Config, check_typed, configure, make_config
from rastudy.errors import StudyError
from rastudy.presets import PRESETS, degradations

OF_PHOTOGRAPHS = ("resize", "crop", "pretrain_crop")  # nothing else reads them
FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# where and how fast a run goes, and who reads its output: not its numbers
OPERATIONAL = {"data_dir", "target_archs", "device", "threads", "skip_unreadable", "cache_dir", "workers", "processes",
               "floats", "micro_batch", "compile"}  # fmt: skip
OTHER = {  # another valid value of each field; numbers are doubled or raised by one, switches turned
    "preset": "smoke", "task": "jpeg", "mode": "ra_unsupervised", "strength": 2.0, "source_arch": "resnet50_small",
    "dataset": "cifar10", "processor": "srdensenet", "schedule": "step", "precision": "bf16", "labels": "constant",
    "data_dir": "/elsewhere", "target_archs": "resnet18_small", "device": "cpu", "resize": 512, "crop": 16,
    "pretrain_crop": 16, "cache_dir": "none", "processes": 2, "classes": "cat",
    "transformer": "resnet_generator", "upload": "jpeg",
}  # fmt: skip
BASE = make_config("digits", "sr", "ra", strength=4, ra_weight=0.01, seed=0)


def changed(config: Config, name: str) -> Config:
    """The config with another value of one field."""
    value = getattr(config, name)
    if isinstance(value, bool):
        other = not value
    elif isinstance(value, int | float):
        other = OTHER.get(name, value + 1 if isinstance(value, int) else value * 2)
    else:
        other = OTHER[name]
    strength = {"strength": 8.0} if name == "task" else {}
    return dataclasses.replace(config, **{name: other, **strength})


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_the_science_makes_another_run(name):
    """And no operational one does. T's size counts where there is a T."""
    transformer = name.startswith("transformer")
    setting = {"mode": "ra_transformer"} if transformer else {"dataset": "folder"} if name in ("image_size", "classes") else {}
    setting |= {"dataset": "imagenet"} if name in OF_PHOTOGRAPHS else {}
    base = dataclasses.replace(BASE, **setting)
    assert (changed(base, name).run_id == base.run_id) == (name in OPERATIONAL)
    if transformer or name in OF_PHOTOGRAPHS:
        assert changed(BASE, name).run_id == BASE.run_id


def test_run_ids_are_readable_and_stable():
    """The slug says task, strength, mode, R, weight and seed; the same settings give the same id."""
    assert BASE.run_id.startswith("sr4-ra-resnet18_small-w0.01-s0-")
    assert make_config("digits", "sr", "ra", strength=4, ra_weight=0.01).run_id == BASE.run_id
    assert make_config("digits", "dn", "plain", seed=3, strength=0.2).run_id.startswith("dn0.2-plain-s3-")
    two = make_config("digits", "sr", "ra", source_arch="resnet18_small, vgg16_bn_small")
    assert two.sources == ["resnet18_small", "vgg16_bn_small"] and "-2sources-" in two.run_id


def test_names_between_commas_are_what_they_name():
    """Neither blanks nor the order of the sources make another run; the order of classes gives their labels, and stays."""
    one = make_config("digits", "sr", "ra", source_arch="resnet18_small,vgg16_bn_small")
    for other in ("vgg16_bn_small, resnet18_small", " resnet18_small ,vgg16_bn_small,"):
        assert make_config("digits", "sr", "ra", source_arch=other) == one
    start = make_config("imagenet_lite", "sr", "ra_transformer").pretraining  # T copies P's pictures, with no R
    assert start.sources == [] and start.source_arch == NOT_APPLICABLE
    own = make_config("digits", "sr", "ra", source_arch="vgg16_bn_small@b.pt, resnet18_small@a.pt")
    assert own.sources == ["resnet18_small@a.pt", "vgg16_bn_small@b.pt"]
    folder = {"dataset": "folder", "data_dir": "x"}
    assert make_config("digits", "sr", classes="b, a", **folder).classes == "b,a"


def test_a_folder_beside_embedded_pictures_is_refused():
    """Else the user's own would seem to be read."""
    typed = {"preset": "digits", "task": "sr", "mode": "ra", "data_dir": "x"}
    with pytest.raises(StudyError, match="data_dir='x' has no effect: digits are embedded"):
        check_typed(typed)
    check_typed(typed | {"dataset": "cifar10"})
    make_config("cifar10", "jpeg", dataset="digits")  # its own folder, which other directions of transfer read


@pytest.mark.parametrize(
    ("mode", "given"),
    [("plain", {"ra_weight": 5.0}), ("plain", {"source_arch": "vgg16_bn_small"}), ("ra_unsupervised", {"labels": "shuffled"}),
     ("ra", {"transformer_lr": 0.5}), ("ra", {"resize": 100}), ("none", {"epochs": 3})],
)  # fmt: skip
def test_what_was_typed_for_nothing_is_refused(mode, given):
    """Where another run, or the same with what it has anyway, is not."""
    typed = {"preset": "digits", "task": "sr", "mode": mode}
    ((name, value),) = given.items()
    with pytest.raises(StudyError, match=f"{name}={value!r} has no effect on task='sr', mode={mode!r} of preset digits"):
        check_typed(typed | given)
    with pytest.raises(StudyError, match="has no effect"):  # in a notebook
        configure(typed | given)
    own = getattr(make_config(**typed), name)
    assert own == NOT_APPLICABLE or check_typed(typed | {name: own}) == make_config(**typed)


@pytest.mark.parametrize("arch", ["my_module:build@/data/w.pt", "torchscript:../mine.pt", "resnet18_small@~/w.safetensors"])
def test_run_ids_are_file_names(arch):
    """A recogniser given by its file puts no path into the names of a run's files."""
    run_id = make_config("digits", "sr", "ra", source_arch=arch).run_id
    assert not set(run_id) & set("/\\:~") and len(run_id) < 200


def test_plain_does_not_know_r():
    """Plain training is one run, whatever R and weight the user had in mind."""
    plain = make_config("digits", "sr", "plain")
    same = make_config("digits", "sr", "plain", source_arch="vgg16_bn_small", ra_weight=0.5)
    assert same == plain and (plain.ra_weight, plain.sources) == (0.0, [])
    assert make_config("digits", "sr", "plain", seed=1).run_id != plain.run_id


@pytest.mark.parametrize("mode", registry.modes("baseline"))
def test_baselines_depend_on_data_and_degradation_alone(mode):
    base = make_config("digits", "sr", mode)
    same = make_config("digits", "sr", mode, seed=2, epochs=9, lr=0.5, processor="srdensenet", ra_weight=1.0)
    assert same.run_id == base.run_id
    assert make_config("digits", "sr", mode, strength=2).run_id != base.run_id
    assert make_config("digits", "sr", mode, test_images=50).run_id != base.run_id


def test_a_weight_of_zero_is_a_weight():
    """0 is a value, not the preset's."""
    assert make_config("digits", "sr", "ra", ra_weight=0.0).ra_weight == 0.0


def test_the_releases_name_of_ra_transformer():
    """The README says ra_transformer, the code ra_transform: one run."""
    for build in (make_config, lambda *args: dataclasses.replace(BASE, mode=args[2])):
        assert build("digits", "sr", "ra_transform").mode == "ra_transformer"
    assert make_config("digits", "sr", "ra_transform") == make_config("digits", "sr", "ra_transformer")


@pytest.mark.parametrize(
    "override",
    [{"seed": -1}, {"strength": -1.0}, {"source_arch": ""}, {"ra_weight": -1.0}, {"processor": ""}, {"epochs": -1},
     {"data_dir": ""}],
)  # fmt: skip
def test_negative_and_empty_mean_the_presets(override):
    assert make_config("digits", "jpeg", "ra", **override) == make_config("digits", "jpeg", "ra")


@pytest.mark.parametrize("override", [{"strength": -10.0}, {"lr": -5.0}, {"epochs": -3}, {"seed": -2}, {"ra_weight": -0.5}])
def test_no_other_number_below_0_does(override):
    """Else a sign that slipped in would be a setting that is ignored."""
    with pytest.raises(StudyError, match=next(iter(override))):
        make_config("digits", "jpeg", "ra", **override)


@pytest.mark.parametrize("mode", registry.modes("paper") + registry.modes("baseline"))
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid(preset, mode):
    for (task, strength), settings in PRESETS[preset]["degradations"].items():
        config = make_config(preset, task, mode, strength=strength)
        assert config.strength == strength
        assert config.ra_weight == settings["ra_weights"].get(mode, 0.0)
        assert config.factor == (strength if task == "sr" else 1)


def test_a_strength_has_settings_of_its_own(monkeypatch):
    """The first strength of a task is the default; one that the preset does not list takes the first one's settings."""
    own = {("sr", 4.0): {"epochs": 2, "ra_weights": {"ra": 0.1}}, ("sr", 2.0): {"epochs": 5, "ra_weights": {"ra": 0.2}}}
    monkeypatch.setitem(PRESETS, "digits", PRESETS["digits"] | {"degradations": own})
    expected = {-1: (4, 2, 0.1), 4: (4, 2, 0.1), 2: (2, 5, 0.2)}
    for strength, values in expected.items():
        config = make_config("digits", "sr", "ra", strength=strength)
        assert (config.strength, config.epochs, config.ra_weight) == values
    assert make_config("digits", "sr", "none", strength=2.0).strength == 2
    monkeypatch.setitem(PRESETS, "digits", PRESETS["digits"] | {"degradations": {("dn", 0.1): own["sr", 4.0]}})
    other = make_config("digits", "dn", "ra", strength=0.3)
    assert (other.strength, other.epochs) == (0.3, 2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epoch", 3, "epoch.*use one of.*epochs"),
        ("preset", "digit", "preset='digit'.*digits.*smoke"),
        ("task", "deblur", "task='deblur'.*sr, dn, jpeg"),
        ("mode", "ra_transfomer", "mode='ra_transfomer'.*none, clean, plain, ra, ra_transformer, ra_unsupervised, perceptual"),
        ("processor", "unet", "processor='unet'.*srresnet, srdensenet, resnet_generator"),
        ("schedule", "cosine", "schedule='cosine'.*onecycle, through, step"),
        ("precision", "fp16", "precision='fp16'.*fp32, bf16"),
        ("dataset", "mnist", "dataset='mnist'.*digits, .*cifar10, .*folder"),
        ("lr", "1e-3", "lr='1e-3' is a str; write a float"),
        ("lr", 0, "lr=0.0 must be above 0"),
        ("epochs", 0, "epochs=0 must be at least 1"),
        ("epochs", 2.5, "epochs=2.5 is a float; write a int"),
        ("epochs", True, "epochs=True is a bool"),
        ("flip", 1, "flip=1 is a int; write a bool"),
        ("seed", None, "seed=None is a NoneType"),
        ("strength", 3, "strength=3.0.*2 or 4"),
        ("image_size", 64, "image_size=64.*32"),  # the digits are 32 x 32 pixels, whatever is asked
        ("source_arch", "resnet19", "'resnet19' is unknown.*resnet18_small"),
        ("target_archs", "resnet18_small,resnet19", "'resnet19' is unknown"),  # before any training, not after it
        ("target_archs", ["resnet18_small"], "target_archs=.*is a list; write a str"),
        *((name, value, name) for name in ("lr", "ra_weight", "strength") for value in (math.nan, math.inf)),
    ],
)
def test_unknown_mistyped_and_impossible_values(name, value, message):
    """StudyError names the value, and the allowed ones or the type."""
    given = {"preset": "digits", "task": "sr", "mode": "ra", name: value}
    with pytest.raises(StudyError, match=message):
        make_config(**given)


@pytest.mark.parametrize("field", ["channels", "blocks", "batch_size", "threads", "image_size"])
def test_sizes_of_zero_are_refused(field):
    with pytest.raises(StudyError, match=f"{field}=0 must be at least 1"):
        make_config("digits", "sr", **{field: 0})


def test_whole_floats_pass_for_integers():
    """papermill and command lines write 4.0 for 4 and 1 for 1.0."""
    config = make_config("digits", "sr", epochs=3.0, strength=2, lr=1)
    assert (config.epochs, config.strength, config.lr) == (3, 2.0, 1.0)
    assert [type(v) for v in (config.epochs, config.strength, config.lr)] == [int, float, float]


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BASE.seed = 3


def notebook(**parameters) -> dict:
    """A notebook's globals: parameters among what IPython and the imports put there."""
    return {"__name__": "__main__", "_": "", "_i1": "text", "In": [""], "Out": {}, "np": np, "open": open} | parameters


def test_configure_takes_a_notebooks_parameters():
    config, own = configure(notebook(preset="smoke", task="dn", mode="ra", seed=2, count=3.0), count=int)
    assert config == make_config("smoke", "dn", "ra", seed=2) and own == {"count": 3}
    assert configure(notebook(preset="smoke", task="dn", source_arch="", epochs=-1))[0].mode == "plain"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"sed": 3}, "parameter='sed'.*seed"), ({"count": "3"}, "count='3' is a str; write a int"),
     ({"ra_wieght": 1e-3}, "ra_wieght"), ({"anything": [1]}, "anything"), ({"lr": "1e-3"}, "lr='1e-3'")],
)  # fmt: skip
def test_configure_refuses_unknown_globals(parameters, message):
    """papermill only warns about an unknown parameter, and reads YAML's 1e-3 as a string."""
    with pytest.raises(StudyError, match=message):
        configure(notebook(preset="smoke", task="dn", **parameters), count=int)


def test_the_device_is_there():
    assert make_config("digits", "sr", device="cpu").torch_device().type == "cpu"
    assert make_config("digits", "sr").torch_device().type in ("cpu", "cuda")


@pytest.mark.parametrize("mode", registry.modes("baseline"))
def test_a_baseline_starts_from_nothing(mode):
    config = make_config("digits", "sr", mode)
    assert config.pretraining is None and config.chain == [config]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("imagenet", "imagenet_small")])
def test_every_mode_starts_from_one_plain_p(preset):
    """The same pretraining, T's included, whatever its crops."""
    for task, strength in degradations(preset):
        runs = [make_config(preset, task, mode, strength=strength) for mode in PRESETS[preset]["modes"]]
        assert len({run.chain[0].run_id for run in runs}) == 1 and runs[0].chain[0].mode == "plain"
