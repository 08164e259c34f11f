"""Several processes that train one P: started by torchrun, with gloo on CPUs and NCCL on GPUs.

Every process takes its part of each batch. Batch norm uses the whole batch's statistics, and the gradients of P and T are
summed in one message per step; R has no gradients to synchronise. So losses and weights equal those of one process up to
rounding. P is small (3 MB of gradients): summing after the backward pass costs little and needs no wrapper around the networks.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce  # its gradient is summed over the processes, too

from rastudy.config import check_shares
from rastudy.errors import StudyError

_apart = False


def is_launched() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() and not _apart else 1


@contextmanager
def apart(yes: bool) -> Iterator[None]:
    """Have every process work on the same pictures as if it were alone: for a last batch that is too small to share."""
    global _apart
    _apart = yes
    try:
        yield
    finally:
        _apart = False


@contextmanager
def group(batch_size: int, device: str) -> Iterator[None]:
    """Join the other processes where torchrun has started this one; does nothing otherwise, or inside another such block.

    Raises:
        StudyError: the processes cannot share a batch equally, or are more than the machine's GPUs.
    """
    if not is_launched() or dist.is_initialized():
        yield
        return
    check_shares(batch_size, int(os.environ["WORLD_SIZE"]))
    cuda = device == "cuda"
    if cuda:
        here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > gpus:
            raise StudyError(f"{here} processes on this machine need a GPU each, it has {gpus}; start fewer, or set device=cpu")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=30))
    try:
        yield
    finally:
        dist.destroy_process_group()


def from_first(value: int) -> int:
    """The first process's value, sent to all: what processes read from files may change between their reads."""
    values = [value]
    if world() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def barrier() -> None:
    """Wait for the other processes."""
    if world() > 1:
        dist.barrier()


def sum_gradients(parameters: Iterable[nn.Parameter], losses: torch.Tensor) -> torch.Tensor:
    """Sum the gradients over the processes, in place, in one message; returns the sum of ``losses``, sent along."""
    if world() == 1:
        return losses
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.reshape(-1) for g in grads), losses.to(grads[0])])
    dist.all_reduce(flat)
    for grad, part in zip(grads, flat[: -len(losses)].split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))
    return flat[-len(losses) :].to(losses)


def gather(arrays: dict[str, torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """The tensors of all processes by name, in the order of the processes."""
    everyone = [arrays] * world()
    if world() > 1:
        dist.all_gather_object(everyone, arrays)
    return {name: [theirs[name] for theirs in everyone] for name in arrays}


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of the whole batch over all processes; with one process ``nn.BatchNorm2d``.

    Torch's SyncBatchNorm does not run on CPUs. Two messages in the forward pass (mean, then variance, as accurate as in one
    process), two in the backward pass.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or world() == 1:
            return super().forward(x)
        y = x.float()
        mine = y.new_full((1,), y.numel() // y.shape[1])
        sums = all_reduce(torch.cat([y.sum((0, 2, 3)), mine]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = y - mean[:, None, None]
        var = all_reduce(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(var.detach() * count / (count - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
