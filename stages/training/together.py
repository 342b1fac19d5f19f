"""Several processes that train one head together, as torchrun starts them; in a process alone nothing of it happens.

Every process holds the whole head and takes every k-th clip of each batch. What they compute is what one process would
with the same batches, up to the order of sums and the draws of dropout.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from kinegraph.stages.device import require_cuda
from kinegraph.stages.errors import UsageError

PATIENCE = timedelta(hours=2)  # while the first process validates, the others wait
T = TypeVar("T")


def num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number; the first, 0, validates, writes and prints."""
    return int(os.environ.get("RANK", "0")) if num_processes() > 1 else 0


@contextmanager
def acquainted(device: torch.device) -> Iterator[None]:
    """Inside, the processes can talk to each other; each with its own GPU, where `device` is any."""
    if num_processes() == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        own = own_device(device)
        torch.cuda.set_device(own)  # what is broadcast and gathered passes through the current one
        dist.init_process_group("nccl", timeout=PATIENCE, device_id=own)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The GPU that belongs to this process, where `device` is any GPU.

    Raises UsageError where this machine has fewer GPUs than processes.
    """
    if num_processes() == 1 or device.type != "cuda":
        return device
    number = int(os.environ["LOCAL_RANK"])
    advice = "start torchrun with a --nproc-per-node of at most as many as there are, or use run.device=cpu"
    require_cuda(number, f"LOCAL_RANK: given {number}", advice)
    return torch.device("cuda", number)


def in_step(head: nn.Module, device: torch.device) -> nn.Module:
    """What to call in place of `head`, so that gradients are means over the processes.

    Parameters that a head does not use are the same ones at each step. BatchNorm sees the clips of all processes.

    Raises UsageError for BatchNorm on CPUs, where torch cannot do that.
    """
    if num_processes() == 1:
        return head
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(head)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(head, device_ids=[device], static_graph=True)
    if any(isinstance(module, _BatchNorm) for module in head.modules()):
        raise UsageError("This head has BatchNorm, which processes on CPUs cannot share: train it in one process.")
    return DistributedDataParallel(head, static_graph=True)


def own_share(order: Tensor, batch_size: int) -> tuple[Tensor, int]:
    """Of the clips in `order`, cut into batches, those of this process, and how many of each batch they are.

    Where the last batch is too small for all, this process repeats a clip; the loss's weight leaves that one out.

    Raises UsageError unless the processes can share a batch evenly.
    """
    count = num_processes()
    if batch_size % count:
        raise UsageError(f"train.batch_size: given {batch_size}, allowed: a multiple of the {count} processes")
    own, own_size = order[rank() :: count], batch_size // count
    if len(torch.split(own, own_size)) < len(torch.split(order, batch_size)) or not len(own):
        own = torch.cat([own, order[:1]])
    return own, own_size


def from_first(value: T) -> T:
    """The value that the first process has; others may bring any."""
    if num_processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: T) -> list[T]:
    """The values of all processes, by rank."""
    if num_processes() == 1:
        return [value]
    values: list[T | None] = [None] * num_processes()
    dist.all_gather_object(values, value)
    return [found for found in values if found is not None]


def summed(tensor: Tensor) -> Tensor:
    """The sum over processes."""
    if num_processes() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def meet() -> None:
    """Wait for all processes."""
    if num_processes() > 1:
        dist.barrier()
