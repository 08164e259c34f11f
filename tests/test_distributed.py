"""Several processes that share a batch: the same losses and weights as one, restarts, evaluation without repeated pictures."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rastudy.config import Config, make_config
from rastudy.data.distributed import GlobalBatchNorm2d
from rastudy.errors import StudyError
from rastudy.evaluation.evaluate import evaluate
from rastudy.evaluation.predictions import load_predictions
from rastudy.training.run_store import run_folder
from rastudy.training.train import train
from rastudy.training.weights import weights_file

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def small(small_r, mode: str = "ra", **overrides) -> Config:
    """A run whose last batch does not divide by the processes."""
    settings = {"train_images": 21, "val_images": 7, "batch_size": 8, "pretrain_epochs": 0, "epochs": 2, "lr": 1e-3}
    settings |= {"channels": 4, "blocks": 1, "transformer_channels": 4, "transformer_blocks": 1}
    spec = small_r()
    return make_config("digits", "jpeg", mode, source_arch=spec, target_archs=spec, **(settings | overrides))


def weights(config: Config) -> dict[str, torch.Tensor]:
    return load_file(weights_file(config))


def alone_and_shared(config: Config, processes: int, monkeypatch, tmp_path) -> tuple[list, dict, list, dict]:
    """Curve and weights of a run by one process and by several."""
    results = []
    for n in (1, processes):
        monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path / f"by{n}"))
        run = replace(config, processes=n)
        results += [train(run, log=print), weights(run)]
    return results


def same_processor(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """P's weights agree up to rounding, but for the biases before batch norm: they have no effect, so Adam lets rounding drive
    them, and the running means follow."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if not re.search(r"body\.[03]\.bias|running_mean", name):
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("mode,pictures", [("ra", 21), ("ra_transformer", 17)])
def test_the_same_losses_and_weights(small_r, mode, pictures, monkeypatch, tmp_path):
    """Up to rounding, batch norm's statistics included; with one picture for two processes at the end of an epoch."""
    config = small(small_r, mode, train_images=pictures)
    alone, p, shared, q = alone_and_shared(config, 2, monkeypatch, tmp_path)
    for one, other in zip(alone, shared, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    same_processor(p, q)


def test_evaluation_reads_every_picture_once(small_r, monkeypatch, tmp_path):
    """Seven pictures by two processes: the same predictions as by one."""
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path / "shared"))
    config = small(small_r, "plain", epochs=1)
    train(config, log=lambda _: None)
    alone = load_predictions(evaluate(config, "val", log=lambda _: None))
    (run_folder(config) / "val.json").unlink()
    shared = load_predictions(evaluate(replace(config, processes=2), "val", log=lambda _: None))
    assert len(shared.arrays["label"]) == 7 and alone.arrays.keys() == shared.arrays.keys()
    for name, values in alone.arrays.items():
        np.testing.assert_allclose(shared.arrays[name], values, rtol=1e-6, err_msg=name)


def test_batch_norm_alone_is_torchs():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 5)
    ours, theirs = GlobalBatchNorm2d(3), torch.nn.BatchNorm2d(3)
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours.running_var, theirs.running_var)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_a_world_that_does_not_divide_the_batch(small_r):
    with pytest.raises(StudyError, match="batch_size=8 does not divide by 3 processes; take 1, 2, 4, 8"):
        small(small_r, processes=3)


def test_what_goes_wrong_in_a_process_is_told(small_r, study_root):
    """At once: a restart would meet it again."""
    config = small(small_r, processes=2, train_images=999_999)
    with pytest.raises(StudyError, match="999999 were asked for"):
        train(config, log=lambda _: None)


def test_a_killed_process_is_restarted_from_the_last_checkpoint(small_r, monkeypatch, tmp_path):
    """Its siblings too; the result is that of an undisturbed run, bit for bit."""
    config = small(small_r, "plain", epochs=6, train_images=400, processes=2)
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path / "undisturbed"))
    train(config, log=lambda _: None)
    undisturbed = weights(config)
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path / "disturbed"))
    epochs, killed = [], []

    def log(line: str) -> None:
        found = re.search(r"epoch (\d)/6", line)
        if found:
            epochs.append(int(found[1]))
            if epochs == [1, 2]:
                killed.append(kill_one(str(tmp_path / "disturbed")))

    train(config, log=log)
    assert killed[0] and epochs.count(1) == 1 and epochs[-1] == 6, epochs
    assert all(torch.equal(value, weights(config)[name]) for name, value in undisturbed.items())


def kill_one(root: str) -> int:
    """Kill the second process of the run under ``root``; returns its number, or 0."""
    for entry in os.listdir("/proc"):
        try:
            command = open(f"/proc/{entry}/cmdline").read().split("\0")
            environment = open(f"/proc/{entry}/environ").read().split("\0")
        except (OSError, ValueError):
            continue
        if (
            {"rastudy", "train"} <= set(command)
            and "torch.distributed.run" not in command
            and {"RANK=1", f"RASTUDY_ROOT={root}"} <= set(environment)
        ):
            os.kill(int(entry), signal.SIGKILL)
            return int(entry)
    return 0


def test_two_machines_on_loopback(small_r, monkeypatch, tmp_path):
    """Two agents of one process each, as on two nodes; the same weights as by one process."""
    config = small(small_r, "ra")
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path / "one"))
    train(config, log=lambda _: None)
    alone = weights(config)
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path / "two"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"task": "jpeg", "mode": "ra", "source-arch": config.source_arch, "target-archs": config.target_archs}
    settings |= {"train-images": 21, "val-images": 7, "batch-size": 8, "pretrain-epochs": 0, "epochs": 2, "lr": 1e-3}
    settings |= {"channels": 4, "blocks": 1, "transformer-channels": 4, "transformer-blocks": 1}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=7"]
    launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1", "-m", "rastudy", "train"]
    command = [*launcher, *(text for name, value in settings.items() for text in (f"--{name}", str(value)))]
    agents = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    watch = threading.Timer(240, lambda: [agent.kill() for agent in agents])
    watch.start()
    said = [agent.communicate()[0] for agent in agents]
    watch.cancel()
    assert [agent.returncode for agent in agents] == [0, 0], said
    same_processor(alone, weights(config))
