"""Trains one head in several processes, as torchrun starts them. In a single process this module has no effect.

Every process holds the whole head and takes every k-th clip of each batch. The result is that of one process with the
same batches, up to the order of sums and the draws of dropout.
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

PATIENCE = timedelta(hours=2)  # how long the other processes wait while the first one validates
T = TypeVar("T")


def num_processes() -> int:
    """Returns the number of processes that train together, 1 for a process alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Returns this process's number. Process 0 validates, writes and prints."""
    return int(os.environ.get("RANK", "0")) if num_processes() > 1 else 0


@contextmanager
def acquainted(device: torch.device) -> Iterator[None]:
    """Connects the processes while the context is open. Where `device` is any GPU, each process has its own GPU."""
    if num_processes() == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        own = own_device(device)
        torch.cuda.set_device(own)  # broadcasts and gathers use the current device
        dist.init_process_group("nccl", timeout=PATIENCE, device_id=own)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """Returns the GPU of this process, where `device` is any GPU.

    Raises UsageError where this machine has fewer GPUs than processes.
    """
    if num_processes() == 1 or device.type != "cuda":
        return device
    local_rank = int(os.environ["LOCAL_RANK"])
    advice = "start torchrun with a --nproc-per-node of at most as many as there are, or use run.device=cpu"
    require_cuda(local_rank, f"LOCAL_RANK: given {local_rank}", advice)
    return torch.device("cuda", local_rank)


def in_step(head: nn.Module, device: torch.device) -> nn.Module:
    """Returns the module to call in place of `head`. With it, gradients are means over the processes.

    The parameters that a head does not use must be the same at each step. BatchNorm sees the clips of all processes.

    Raises UsageError for BatchNorm on CPUs, which torch does not support.
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
    """Returns this process's clips of `order`, which is cut into batches, and their number in each batch.

    Where the last batch is too small for all processes, this process repeats a clip. The loss's weight leaves the
    repeated clip out. Raises UsageError unless the processes can share a batch evenly.
    """
    count = num_processes()
    if batch_size % count:
        raise UsageError(f"train.batch_size: given {batch_size}, allowed: a multiple of the {count} processes")
    own, own_size = order[rank() :: count], batch_size // count
    if len(torch.split(own, own_size)) < len(torch.split(order, batch_size)) or not len(own):
        own = torch.cat([own, order[:1]])
    return own, own_size


def from_first(value: T) -> T:
    """Returns the value of the first process. Values of other processes are ignored."""
    if num_processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: T) -> list[T]:
    """Returns the values of all processes, by rank."""
    if num_processes() == 1:
        return [value]
    values: list[T | None] = [None] * num_processes()
    dist.all_gather_object(values, value)
    return [of_rank for of_rank in values if of_rank is not None]


def summed(tensor: Tensor) -> Tensor:
    """Returns the sum over processes."""
    if num_processes() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def meet() -> None:
    """Waits for all processes."""
    if num_processes() > 1:
        dist.barrier()
