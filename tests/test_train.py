"""Training: what each mode changes and what it leaves alone, resuming, schedules, and what stops a run."""

import json
import math
import multiprocessing
import os
import shutil
import zipfile
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rastudy import registry
from rastudy.config import Config, make_config
from rastudy.data.loaders import Loader, load_pictures
from rastudy.errors import StudyError
from rastudy.models import precision
from rastudy.models.classifiers import load_classifier
from rastudy.models.precision import Rounded
from rastudy.training import steps
from rastudy.training import train as training
from rastudy.training.losses import recognition_loss
from rastudy.training.run_store import CURVE_COLUMNS, is_trained, merge_records, read_curves, run_folder
from rastudy.training.steps import Models, learning_rate, step_of
from rastudy.training.train import make_models, relabel, train, train_one_epoch
from rastudy.training.weights import load_models, weights_file

TWO = "resnet18_small,vgg16_bn_small"


def small(mode: str = "ra", task: str = "sr", **overrides) -> Config:
    """64 pictures, two epochs, a small P and the paper's T; no pretraining unless asked for, as in the paper."""
    sizes = {"train_images": 64, "epochs": 2, "channels": 8, "blocks": 1, "transformer_blocks": 1, "pretrain_epochs": 0,
             "schedule": "onecycle", "lr": 2e-3, "transformer": "resnet_generator", "transformer_lr": 0.0}  # fmt: skip
    return make_config("smoke", task, mode, **(sizes | overrides))


def quiet(_: str) -> None:
    """No log."""


def trained(config: Config, part: str = "processor") -> dict[str, torch.Tensor]:
    """Train to the end; P's (or T's) final state."""
    train(config, quiet)
    return load_file(weights_file(config, part))


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[k].cpu().contiguous().numpy().tobytes() == other[k].cpu().contiguous().numpy().tobytes() for k in one
    )


def copy(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def loader_of(config: Config) -> Loader:
    return Loader(load_pictures(config, "train"), config.task, config.strength, config.batch_size)


def first_batch(config: Config):
    return next(loader_of(config).epoch(config.seed, 0))


def gradients(models: Models, net: str = "processor") -> list[torch.Tensor]:
    """The gradients one step leaves in P (or T), then cleared."""
    models.processor.train()
    registry.resolve(registry.MODES[models.config.mode].step)(models, first_batch(models.config))
    found = [parameter.grad.clone() for parameter in getattr(models, net).parameters()]
    for each in (models.processor, models.transformer):
        if each is not None:
            each.zero_grad(set_to_none=True)
    return found


# --- what each mode trains


@pytest.mark.parametrize("mode", ["ra", "ra_unsupervised"])
@pytest.mark.parametrize("task", ["sr", "dn", "jpeg"])
def test_plain_is_bitwise_ra_with_weight_0(study_root, task, mode):
    plain, zero = trained(small("plain", task)), trained(small(mode, task, ra_weight=0.0))
    assert same_bits(plain, zero)
    if task == "sr":
        assert not same_bits(plain, trained(small(mode, task, ra_weight=1.0)))


def test_the_transformers_processor_is_bitwise_plains(study_root):
    """Whatever the weight; T itself changes."""
    plain = trained(small("plain"))
    config = small("ra_transformer", ra_weight=10.0)
    assert same_bits(plain, trained(config))
    first = make_models(config).transformer.state_dict()
    last = load_file(weights_file(config, "transformer"))
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert changed == set(first)


@pytest.mark.parametrize("mode", ["ra", "ra_unsupervised", "ra_transformer", "perceptual"])
def test_training_leaves_r_alone(mode):
    """Parameters and batch norm statistics, bitwise; no gradient is left in R, and it stays in eval mode."""
    models = make_models(small(mode, source_arch=f"{TWO},densenet121_small"))
    before = [copy(source) for source in models.sources]
    processor = copy(models.processor)
    train_one_epoch(models, loader_of(models.config), 0)
    assert not same_bits(processor, copy(models.processor))
    for source, state in zip(models.sources, before, strict=True):
        # folded into the convolutions but for the pre-activations of the DenseNet
        assert any("running_mean" in name for name in state) == source.name.startswith("densenet")
        assert same_bits(state, copy(source))
        assert not source.training and not any(module.training for module in source.modules())
        assert all(parameter.grad is None for parameter in source.parameters())


def test_no_recognition_gradient_reaches_p_under_ra_transformer():
    """P's gradients are plain's, bitwise; under ra they are not."""
    plain = gradients(make_models(small("plain")))
    for mode, equal in (("ra_transformer", True), ("ra", False)):
        found = gradients(make_models(small(mode, ra_weight=100.0)))
        assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True)) == equal, mode


def t_gradients(**overrides) -> list[torch.Tensor]:
    return gradients(make_models(small("ra_transformer", **overrides)), "transformer")


def test_t_learns_from_r_alone():
    """T has no image loss: its gradients scale with the weight."""
    one, four, none = (t_gradients(ra_weight=weight) for weight in (1.0, 4.0, 0.0))
    assert all(torch.equal(4 * a, b) for a, b in zip(one, four, strict=True))
    assert sum(float(gradient.abs().sum()) for gradient in one) > 0
    assert not any(gradient.any() for gradient in none)


def test_t_learns_to_copy_in_its_pretraining(study_root):
    """Its gradients there are those of the distance to plain P's picture; no R has a say, and P does not move."""
    config = small("ra_transformer", ra_weight=100.0, pretrain_epochs=1).pretraining
    start = trained(config.pretraining)
    models = make_models(config)
    assert models.sources == [] and same_bits(start, copy(models.processor))
    models.processor.eval()
    restored = models.processor(first_batch(config).lq).detach()
    (models.transformer(restored) - restored).square().mean().backward()
    expected = [parameter.grad.clone() for parameter in models.transformer.parameters()]
    models.transformer.zero_grad(set_to_none=True)
    step_of("ra_transformer")(models, first_batch(config))
    for a, b in zip(expected, models.transformer.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)
    before = copy(models.transformer)
    assert same_bits(start, trained(config)) and not same_bits(before, load_file(weights_file(config, "transformer")))


def test_every_mode_starts_from_one_pretraining(study_root):
    """P is plain's after it, bitwise, whatever mode, weight and R follow; T's is trained once for every R."""
    runs = [small(mode, pretrain_epochs=1, ra_weight=weight) for mode in registry.modes("paper") for weight in (0.5, 1.0)]
    runs += [small(mode, pretrain_epochs=1, source_arch="vgg16_bn_small") for mode in registry.modes("paper")]
    assert len({run.pretraining.run_id for run in runs}) == 2
    assert len({(run.pretraining.pretraining or run.pretraining).run_id for run in runs}) == 1
    start = trained(runs[0].pretraining)
    assert same_bits(start, trained(small("plain", epochs=1, lr=runs[0].pretrain_lr)))
    for run in runs[::2]:
        for before in (run.pretraining.pretraining, run.pretraining):
            if before is not None:
                train(before, quiet)
        assert same_bits(start, copy(make_models(run).processor))
    lines = []
    train(small("plain", pretrain_epochs=1), lines.append)
    assert len(lines) == 2 and not same_bits(start, trained(small("plain", pretrain_epochs=1)))  # it goes on from there


@pytest.mark.parametrize("pretrain_epochs", [0, 1])
def test_p_under_t_is_plains_with_a_pretraining_too(study_root, pretrain_epochs):
    plain, other = (trained(small(mode, pretrain_epochs=pretrain_epochs)) for mode in ("plain", "ra_transformer"))
    assert same_bits(plain, other)


def test_a_run_goes_on_with_fresh_shuffles(study_root, monkeypatch):
    """The epochs after the pretraining are not the ones it saw."""
    seen, step = [], step_of("plain")
    monkeypatch.setattr(steps, "plain_step", lambda models, batch: seen.append(batch.index) or step(models, batch))
    train(small("plain", pretrain_epochs=2, epochs=1), quiet)
    assert len({tuple(index.tolist()) for index in seen}) == 3 * 4


def test_another_pretraining_is_another_run(study_root):
    """A run is not finished, and not resumed, where its pretraining is lost or has come out otherwise."""
    config = small(pretrain_epochs=1)
    train(config, quiet)
    assert is_trained(config)
    path = weights_file(config.pretraining)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    assert not is_trained(config)
    train(config, quiet)  # trained again, to the same bits
    assert is_trained(config)


def _train_in_a_process(config: Config, root: str) -> None:
    os.environ["RASTUDY_ROOT"] = root
    train(config, quiet)


@pytest.mark.slow
def test_two_processes_share_one_pretraining(study_root):
    """Side by side they leave the files of one after the other."""
    runs = [small("plain", pretrain_epochs=2), small("ra", pretrain_epochs=2)]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_train_in_a_process, args=(run, str(study_root))) for run in runs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert all(is_trained(run) for run in runs)


@pytest.mark.parametrize("mode", ["ra", "ra_unsupervised", "ra_transformer"])
def test_several_sources_share_the_loss(mode):
    """The recognition loss of a list of R's is the mean of each one's."""
    values = {}
    for arch in (TWO, *TWO.split(",")):
        models = make_models(small(mode, source_arch=arch))
        assert [source.name for source in models.sources] == arch.split(",")
        values[arch] = float(registry.resolve(registry.MODES[mode].step)(models, first_batch(models.config))[1].detach())
    together, one, other = values.values()
    assert one != other
    assert together == pytest.approx((one + other) / 2, rel=1e-5)


def test_the_recognition_loss_is_of_the_restored_pictures():
    """What ra reports is R's cross-entropy on P's output in training mode."""
    models = make_models(small())
    batch = first_batch(models.config)
    loss, recognition = step_of("ra")(models, batch)
    models = make_models(small())
    restored = models.processor(batch.lq)
    torch.testing.assert_close(recognition, recognition_loss(models.sources, restored, batch.label))
    torch.testing.assert_close(loss, (restored - batch.gt).square().mean())


@pytest.mark.parametrize("task", ["sr", "dn"])
def test_every_mode_sees_the_same_pictures_and_noise(study_root, monkeypatch, task):
    """Comparisons are paired: the same batches in the same order; another seed gives others."""
    seen: dict[tuple, list] = {}

    def train_and_record(mode: str, seed: int) -> None:
        def record(models, batch):
            seen.setdefault((mode, seed), []).append(batch)
            return step(models, batch)

        step = registry.resolve(registry.MODES[mode].step)
        with monkeypatch.context() as patch:
            patch.setattr(steps, f"{mode}_step", record)
            train(small(mode, task, seed=seed), quiet)

    for mode in registry.modes("paper"):
        train_and_record(mode, 0)
    train_and_record("plain", 1)
    plain = seen["plain", 0]
    assert len(plain) == 2 * 4
    for mode in registry.modes("paper"):
        for one, other in zip(plain, seen[mode, 0], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), mode
    assert not torch.equal(plain[0].index, seen["plain", 1][0].index)
    assert not torch.equal(plain[0].index, plain[4].index)  # reshuffled every epoch


def test_initial_weights_depend_on_the_seed_alone():
    """The same P for every mode, another one for another seed."""
    runs = [(mode, seed) for mode in registry.modes("paper") for seed in (0, 1)]
    states = {(mode, seed): copy(make_models(small(mode, seed=seed)).processor) for mode, seed in runs}
    assert all(same_bits(states["plain", seed], states[mode, seed]) for mode, seed in runs)
    assert not same_bits(states["plain", 0], states["plain", 1])


def test_training_learns(study_root):
    """Sixty steps on few pictures lower both losses by far.

    Four seeds, as different as two CPUs make a run, gave ratios of 0.36 to 0.40 (standard deviation 0.02) and 0.02 to 0.21
    (0.08): the bounds lie more than five standard deviations above their means.
    """
    curve = train(small(task="jpeg", strength=20.0, train_images=32, epochs=30, lr=3e-3, ra_weight=0.1), quiet)
    assert curve[-1]["image_loss"] < curve[0]["image_loss"] * 2 / 3
    assert curve[-1]["recognition_loss"] < curve[0]["recognition_loss"] * 2 / 3


# --- the run's files


def test_what_a_run_leaves_behind(study_root):
    """Weights with their settings, a curve over all pictures, no checkpoint."""
    config = small(train_images=60, batch_size=16)  # the last batch is smaller
    curve = train(config, quiet)
    assert [row["step"] for row in curve] == list(range(1, 9))
    assert [row["images"] for row in curve] == [16, 32, 48, 60, 76, 92, 108, 120]
    folder = study_root / "results" / "smoke"
    merge_records("smoke")
    lines = (folder / "curves.csv").read_text().splitlines()
    assert lines[0] == "run_id,step,images,lr,image_loss,recognition_loss"
    assert read_curves(study_root / "results/smoke/curves.csv")[config.run_id] == curve and set(curve[0]) == set(CURVE_COLUMNS)
    assert sorted(path.name for path in (folder / "weights").iterdir()) == [f"{config.run_id}.processor.safetensors"]
    assert sorted(path.name for path in run_folder(config).iterdir()) == ["config.json", "lock", "trained.json"]


def test_the_curve_holds_means_over_pictures(study_root, monkeypatch):
    """With fewer points than steps, a row is the mean over the pictures since the row before."""
    config = small(train_images=60, epochs=1)
    every = train(config, quiet)
    monkeypatch.setattr(training, "CURVE_POINTS", 2)
    (run_folder(config) / "trained.json").unlink()
    rows = train(config, quiet)
    assert [row["images"] for row in rows] == [32, 60]  # no short row for the rest of an epoch
    for name in ("image_loss", "recognition_loss"):
        expected = [(16 * every[0][name] + 16 * every[1][name]) / 32, (16 * every[2][name] + 12 * every[3][name]) / 28]
        assert [row[name] for row in rows] == pytest.approx(expected, rel=1e-12)


def test_a_finished_run_is_skipped(study_root):
    """It returns the same curve and touches nothing; lost or changed weights are trained again."""
    config, lines = small("plain"), []
    curve = train(config, quiet)
    path = weights_file(config)
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert train(config, lines.append) == curve
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert len(lines) == 1 and "trained already" in lines[0]
    path.unlink()
    train(config, lines.append)
    assert path.read_bytes() == before[1] and len(lines) == 3
    path.write_bytes(before[1][:-4] + b"\0\0\0\1")
    train(config, lines.append)
    assert path.read_bytes() == before[1] and len(lines) == 5


@pytest.mark.parametrize("damage", ["a bit", "cut", "another file"])
def test_a_damaged_checkpoint_is_named_and_not_resumed(study_root, damage):
    """The run starts over and comes to the undisturbed weights; a flipped bit is found by its checksum."""

    class Interruption(Exception):
        pass

    def interrupt(line: str) -> None:
        if "epoch 1/2" in line:
            raise Interruption

    config, lines = small("plain", "dn", epochs=2, pretrain_epochs=0), []
    before = trained(config)
    shutil.rmtree(run_folder(config))
    with pytest.raises(Interruption):
        train(config, interrupt)
    path = run_folder(config) / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as parts:
        tensor = next(part for part in parts.infolist() if "/data/" in part.filename and part.file_size > 100)
    content[tensor.header_offset + 200] ^= 1
    path.write_bytes({"a bit": content, "cut": content[:-50], "another file": b"damaged"}[damage])
    train(config, lines.append)
    assert "damaged checkpoint" in lines[0] and "checkpoint.pt" in lines[0] and "starts over" in lines[0] and len(lines) == 3
    assert same_bits(load_file(weights_file(config)), before)


def test_lost_transformer_weights_are_trained_again(study_root):
    """A run with T is finished only where T's weights are there too."""
    config = small("ra_transformer")
    before = trained(config, "transformer")
    weights_file(config, "transformer").unlink()
    assert same_bits(trained(config, "transformer"), before)


@pytest.mark.parametrize("mode", ["none", "clean"])
def test_baselines_train_nothing(study_root, mode):
    assert train(small(mode), quiet) == []
    assert not any(study_root.iterdir())


@pytest.mark.parametrize("mode", registry.modes("paper"))
def test_resume_equals_the_uninterrupted_run(study_root, monkeypatch, mode):
    """Bitwise: weight files and curve, after an interruption at the end of the first of three epochs."""

    class Interruption(Exception):
        pass

    def interrupt(line: str) -> None:
        if "epoch 1/3" in line:
            raise Interruption

    config, lines = small(mode, "dn", epochs=3, pretrain_epochs=1), []
    parts = ("processor", "transformer") if mode == "ra_transformer" else ("processor",)
    with pytest.raises(Interruption):
        train(config, interrupt)
    assert not weights_file(config).exists() and (run_folder(config) / "checkpoint.pt").is_file()
    torch.rand(7)  # other draws in between change nothing
    resumed = train(config, lines.append)
    assert len(lines) == 2 and "epoch 2/3" in lines[0]  # the first epoch was not repeated
    files = [weights_file(config, part).read_bytes() for part in parts]
    monkeypatch.setenv("RASTUDY_ROOT", str(study_root / "uninterrupted"))
    assert train(config, quiet) == resumed
    assert [weights_file(config, part).read_bytes() for part in parts] == files


def test_two_trainings_give_the_same_bytes(study_root, monkeypatch):
    """Same seed, same machine: the same files."""
    config = small("ra_unsupervised")
    curve = train(config, quiet)
    monkeypatch.setenv("RASTUDY_ROOT", str(study_root / "again"))
    assert train(config, quiet) == curve
    one, other = study_root, study_root / "again"
    for name in (f"results/smoke/weights/{config.run_id}.processor.safetensors", f"runs/smoke/{config.run_id}/trained.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


# --- what stops a run


@pytest.mark.parametrize("overrides", [{"lr": 1e30}, {"ra_weight": 1e39}])
def test_a_loss_that_is_not_finite_stops_the_run(study_root, overrides):
    """The message names run, epoch and step; no weights are left, finite or not."""
    config = small(**overrides)
    with pytest.raises(StudyError, match="not finite") as caught:
        train(config, quiet)
    message = str(caught.value)
    assert config.run_id in message and "epoch 1" in message and "step 1" in message and "lr" in message
    assert not weights_file(config).exists()
    assert not (run_folder(config) / "trained.json").exists()


def test_a_folder_of_another_configuration_is_refused(study_root):
    """The message names what differs."""
    config = small("plain")
    train(config, quiet)
    path = run_folder(config) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lr": 7.0}))
    with pytest.raises(StudyError, match="lr: 7.0 there"):
        train(config, quiet)


def test_other_source_weights_are_another_run(study_root, small_r):
    """A source R that was retrained since does not resume the run it was not part of."""
    spec = small_r("resnet18_small", seed=0)
    config = small(source_arch=spec)
    train(config, quiet)
    small_r("resnet18_small", seed=0)
    train(config, quiet)  # the same weights again: finished
    path = spec.partition("@")[2]
    with open(small_r("resnet18_small", seed=1).partition("@")[2], "rb") as other:
        content = other.read()
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(StudyError, match="source_weights"):
        train(config, quiet)


# --- schedules and precision


@pytest.mark.parametrize("epochs, lengths", [(6, (4, 1, 1)), (30, (20, 5, 5)), (12, (8, 2, 2))])
@pytest.mark.parametrize("per_epoch", [1, 7])
def test_the_papers_schedule(epochs, lengths, per_epoch):
    """lr for 4/6 of the epochs, a tenth for 1/6, a hundredth for 1/6."""
    config = small(schedule="step", lr=0.5, epochs=epochs)
    rates = [learning_rate(config, step, per_epoch * epochs) for step in range(per_epoch * epochs)]
    factors = [factor for factor, length in zip((1, 0.1, 0.01), lengths, strict=True) for _ in range(length)]
    assert rates == pytest.approx([0.5 * factor for factor in factors for _ in range(per_epoch)])


@pytest.mark.parametrize("steps", [10, 1000])
def test_one_cycle(steps):
    """Rises from near 0 to lr over the first 15 %, falls to near 0."""
    config = small(schedule="onecycle", lr=0.5)
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    peak = rates.index(max(rates))
    assert 0 < rates[0] <= 0.5 / (0.15 * steps)
    assert peak == pytest.approx(0.15 * steps, abs=1) and max(rates) == pytest.approx(0.5, rel=0.05)
    assert all(a < b for a, b in zip(rates[:peak], rates[1 : peak + 1], strict=True))
    assert all(a > b for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False))
    assert 0 < rates[-1] < 0.5 * (math.pi / 1.7 / steps) ** 2


def through(mode: str = "plain", **overrides) -> Config:
    return small(mode, schedule="through", pretrain_epochs=2, epochs=1, lr=1e-2, **overrides)


def test_plain_through_both_phases_is_one_uninterrupted_cycle(study_root):
    """Bit by bit: the second phase goes on with the first one's optimiser, pictures and learning rate."""
    whole = small("plain", pretrain_epochs=0, epochs=3, lr=1e-2)
    assert same_bits(trained(through()), trained(whole))


@pytest.mark.parametrize("mode", ["ra", "ra_unsupervised", "ra_transformer"])
def test_every_mode_goes_on_inside_the_cycle(study_root, mode):
    """Its P is plain's where R's loss weighs nothing; they share one pretraining."""
    config = through(mode, ra_weight=0.0)
    assert config.pretraining == through().pretraining and len(config.chain) == 2
    assert same_bits(trained(config), trained(through()))


def test_a_cycle_without_its_first_part_is_made_whole(study_root):
    """Weights without the optimiser's state, as a clone has them: the first part is trained again, to the same bytes."""
    before = trained(through("ra"))
    first = through("ra").pretraining
    state = run_folder(first) / "checkpoint.pt"
    state.unlink()
    assert is_trained(through("ra"))  # what is finished stays finished
    weights_file(through("ra")).unlink()
    assert same_bits(trained(through("ra")), before) and state.is_file()


def test_the_rate_goes_through_both_phases():
    config, first = through(), through().pretraining
    rates = [learning_rate(first, step, 20) for step in range(20)] + [learning_rate(config, step, 10) for step in range(10)]
    whole = small("plain", epochs=3, lr=1e-2)
    assert rates == [learning_rate(whole, step, 30) for step in range(30)]


def test_a_residual_t_starts_as_the_identity_at_a_rate_of_its_own(study_root, monkeypatch):
    config = through("ra_transformer", transformer="residual", transformer_lr=1e-4)
    train(config.pretraining, quiet)
    models = make_models(config)
    picture = first_batch(config).gt
    assert torch.equal(models.transformer(picture), picture + 2 * models.transformer.net(picture) - 1)
    assert (models.transformer(picture) - picture).abs().max() < 1e-6
    rates = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, *_: rates.append(self.param_groups[0]["lr"]))
    train_one_epoch(models, loader_of(config), 0)
    steps = len(rates) // 2
    assert rates[::2] == [learning_rate(config, step, steps) for step in range(steps)]
    assert max(rates[1::2]) == pytest.approx(1e-4, rel=0.2) and rates[1::2].index(max(rates[1::2])) in (0, 1)


def test_the_schedule_reaches_the_optimiser(study_root):
    """The curve's column lr is the schedule's, over all epochs; T's optimiser follows it too."""
    config = small("ra_transformer", epochs=6, schedule="step", train_images=32)
    curve = train(config, quiet)
    assert [row["lr"] for row in curve] == pytest.approx([config.lr] * 8 + [config.lr / 10] * 2 + [config.lr / 100] * 2)
    models = make_models(config)
    train_one_epoch(models, loader_of(config), 5)
    rates = [group["lr"] for optimiser in models.optimisers for group in optimiser.param_groups]
    assert rates == pytest.approx([config.lr / 100] * 2)


@pytest.mark.parametrize("mode", registry.modes("paper"))
def test_bf16_autocast(study_root, mode):
    """Runs on the CPU too: finite losses near those of full precision, weights in float32."""
    half, full = (train(small(mode, precision=p), quiet) for p in ("bf16", "fp32"))
    assert all(math.isfinite(value) for row in half for value in row.values())
    assert half != full
    assert half[0]["image_loss"] == pytest.approx(full[0]["image_loss"], rel=0.02)
    state = load_file(weights_file(small(mode, precision="bf16")))
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("layer, shape", [
    (nn.Conv2d(16, 8, 3, padding=1), (2, 16, 9, 9)), (nn.Conv2d(8, 8, 3, groups=8, bias=False), (2, 8, 9, 9)),
    (nn.ConvTranspose2d(8, 4, 4, stride=2), (2, 8, 9, 9)), (nn.Linear(32, 5), (3, 32)),
])  # fmt: skip
def test_bf16_without_the_hardware(layer, shape):
    """Output and gradients are products of rounded factors, rounded once: as in double precision, up to bf16's last bit."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), Rounded():
        y = layer(x)
    exact = deepcopy(layer).bfloat16().double()
    x64 = x.detach().bfloat16().double().requires_grad_()
    y64 = exact(x64)
    seed = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    wanted = torch.autograd.grad(y64, [x64, *exact.parameters()], seed.double())
    found = torch.autograd.grad(y, [x, *layer.parameters()], seed)
    assert y.dtype == torch.bfloat16
    for one, other in zip([y, *found], [y64, *wanted], strict=True):
        assert torch.equal(one, one.bfloat16().to(one.dtype))
        torch.testing.assert_close(one.double(), other, rtol=2**-7, atol=1e-6 * float(other.detach().abs().max()))


@pytest.mark.parametrize("native", [True, False])
def test_bf16_asks_the_cpu(monkeypatch, native):
    """Native where the library has bf16; float32 sums elsewhere; neither without autocast."""
    monkeypatch.setattr(precision, "has_bf16", lambda: native)
    used = []
    monkeypatch.setattr(precision, "_rounded", lambda value: used.append(value) or value)
    for enabled in (False, True):
        with precision.autocast("cpu", enabled):
            nn.Linear(4, 4)(torch.ones(2, 4))
        assert bool(used) == (enabled and not native)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", registry.modes("paper"))
def test_training_on_a_gpu(study_root, mode, precision):
    """First losses as on the CPU; the weights load there."""
    found = train(small(mode, device="cuda", precision=precision), quiet)
    config = small(mode, device="cpu", precision=precision)
    processor, _ = load_models(config)
    assert next(processor.parameters()).device.type == "cpu"
    assert all(source.mean.is_cuda for source in make_models(small(mode, device="cuda")).sources)
    (run_folder(config) / "trained.json").unlink()
    expected = train(config, quiet)
    rel = 1e-3 if precision == "fp32" else 0.03
    for name in ("image_loss", "recognition_loss"):
        assert found[0][name] == pytest.approx(expected[0][name], rel=rel)


def test_the_recogniser_must_know_every_class(study_root):
    """R with fewer classes than the pictures is refused by name, and one of more, whose first ones need not be theirs."""
    pictures = load_pictures(small(), "train")
    known = [load_classifier("resnet18_small", "digits")]
    training.check_classes(known, pictures.classes, pictures.size)
    with pytest.raises(StudyError, match="resnet18_small knows 10 classes, the pictures have 11$"):
        training.check_classes(known, tuple(map(str, range(11))), pictures.size)
    with pytest.raises(StudyError, match="knows 10 classes, the pictures have 9, and which of R's they are cannot be told"):
        training.check_classes(known, pictures.classes[:9], pictures.size)


def test_an_altered_t_is_not_what_was_trained(study_root):
    """Its digest is in the marker beside P's."""
    config = small("ra_transformer", ra_weight=10.0, epochs=1)
    train(config, quiet)
    assert is_trained(config)
    path = weights_file(config, "transformer")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not is_trained(config)


# --- wrong labels, for controls


@pytest.mark.parametrize("labels", ["shuffled", "constant"])
def test_the_controls_tell_wrong_labels(study_root, labels):
    """The same pictures and start; only what R's loss is told differs, and the run has a name of its own."""
    config = make_config("smoke", "jpeg", "ra", labels=labels)
    right = make_config("smoke", "jpeg", "ra")
    pictures = load_pictures(config, "train")
    told = relabel(pictures, labels, config.seed)
    assert np.array_equal(told.pictures, pictures.pictures) and (told.labels != pictures.labels).mean() > 0.7
    if labels == "shuffled":
        assert np.array_equal(np.sort(told.labels), np.sort(pictures.labels))
    else:
        assert set(told.labels) == {0}
    assert config.pretraining == right.pretraining and labels in config.run_id and config.run_id != right.run_id
    curves = [train(c, log=lambda line: None) for c in (config, right)]
    assert abs(curves[0][0]["recognition_loss"] - curves[1][0]["recognition_loss"]) > 0.01
    assert "labels" not in right.science() and config.science()["labels"] == labels


@pytest.mark.parametrize("mode", ["plain", "ra_unsupervised"])
def test_labels_without_a_loss_that_reads_them_are_one_run(mode):
    assert make_config("smoke", "sr", mode, labels="constant") == make_config("smoke", "sr", mode)
