"""Train the study's own detectors on clean scenes: ``rastudy recognisers --preset scenes``."""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rastudy.data import digits, scenes
from rastudy.errors import one_of
from rastudy.models.detectors import DETECTORS, detection_loss, first_label_of
from rastudy.models.weight_files import is_wanted, write_pinned
from rastudy.paths import WEIGHTS

TRAINING: dict[str, Any] = {"scenes": 4000, "epochs": 12, "lr": 2e-3}
BATCH_SIZE, WEIGHT_DECAY = 16, 0.05


def train_detector(name: str, recipe: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Train one of ``DETECTORS`` on clean scenes, without flips (a mirrored digit is no digit); returns its state dict."""
    torch.manual_seed(seed)
    net = DETECTORS[name]().train()
    pixels, truth = scenes.render("train", recipe["scenes"])
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    optimiser = torch.optim.AdamW(net.parameters(), recipe["lr"], weight_decay=WEIGHT_DECAY)
    steps = -(-len(truth) // BATCH_SIZE) * recipe["epochs"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe["lr"], steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(recipe["epochs"]):
        started, total = time.perf_counter(), 0.0
        for index in torch.randperm(len(truth), generator=generator).split(BATCH_SIZE):
            loss = detection_loss(net, pictures[index].float() / 255, [truth[k] for k in index], first_label_of(name))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        rate = len(truth) / (time.perf_counter() - started)
        print(f"{name} epoch {epoch + 1}/{recipe['epochs']} loss {total / len(truth):.3f} {rate:.0f} scenes/s", flush=True)
    return net.eval().state_dict()


def fit_detectors(names: Sequence[str], again: bool) -> None:
    """Train detectors, with ``again`` those that are there, too, and write their weights and hashes."""
    torch.set_num_threads(1)
    digest = hashlib.sha256(scenes.render("train", TRAINING["scenes"])[0].tobytes()).hexdigest()[:16]
    for name in names:
        one_of("detector", name, DETECTORS)
        if not is_wanted(path := WEIGHTS / "scenes" / f"{name}.safetensors", again):
            continue
        metadata = {"arch": name, "dataset": "scenes", "classes": "".join(digits.CLASSES)}
        metadata |= {k: str(v) for k, v in TRAINING.items()} | {"digest": digest}
        write_pinned(path, train_detector(name, TRAINING), metadata)
