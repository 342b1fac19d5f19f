"""Trains one head in several processes, as torchrun starts them. In a single process the functions change nothing.

Every process holds the whole head and takes every k-th clip of each batch, for k processes. The result is that of one
process with the same batches, except for the order of sums and the random draws of dropout.
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
    """Returns the number of processes that train together. The number is 1 for a process alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Returns the number of this process among the processes that train the head together, counted from 0. It is 0 for
    a process alone. Process 0 validates, writes and prints.
    """
    return int(os.environ.get("RANK", "0")) if num_processes() > 1 else 0


@contextmanager
def acquainted(device: torch.device) -> Iterator[None]:
    """Connects the processes that train one run together, for the time of a `with` block. If there is only one process,
    nothing is done.

    With `device` "cuda", each process uses a GPU of its own. Raises UsageError if this machine has fewer GPUs than
    processes.
    """
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
    """Returns the GPU of this process if `device` is a GPU and several processes train. Otherwise returns `device`.

    Raises UsageError if this machine has fewer GPUs than processes.
    """
    if num_processes() == 1 or device.type != "cuda":
        return device
    local_rank = int(os.environ["LOCAL_RANK"])
    advice = "start torchrun with a --nproc-per-node of at most as many as there are, or use run.device=cpu"
    require_cuda(local_rank, f"LOCAL_RANK: given {local_rank}", advice)
    return torch.device("cuda", local_rank)


def in_step(head: nn.Module, device: torch.device) -> nn.Module:
    """Returns the module to call in place of `head` in a training by one or several processes.

    With one process it is `head` itself. With several, each process gets the mean of the gradients of all processes,
    and a trained BatchNorm takes its statistics over the clips of all processes. A head must then use the same
    parameters at each step.

    Raises UsageError if a head trains BatchNorm in several processes on CPUs, because torch does not support this.
    """
    if num_processes() == 1:
        return head
    head.train()
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(head)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(head, device_ids=[device], static_graph=True)
    if any(isinstance(module, _BatchNorm) and module.training for module in head.modules()):
        raise UsageError(
            "BatchNorm is trained, which processes on CPUs cannot share: train in one process, or fine-tune with "
            "`finetune.batch_norm: frozen`."
        )
    return DistributedDataParallel(head, static_graph=True)


def own_share(order: Tensor, batch_size: int) -> tuple[Tensor, int]:
    """Returns (indices of the clips that this process trains on, largest number of them in one batch).

    `order` has the indices of all clips, and is cut into batches of `batch_size`. The processes divide each batch. If
    the last batch has too few clips, a process without a clip gets the first clip of `order`. This clip does not count
    in the loss. Raises UsageError if the batch size is not a multiple of the number of processes.
    """
    count = num_processes()
    if batch_size % count:
        raise UsageError(f"batch_size: given {batch_size}, allowed: a multiple of the {count} processes")
    own, own_size = order[rank() :: count], batch_size // count
    if len(torch.split(own, own_size)) < len(torch.split(order, batch_size)) or not len(own):
        own = torch.cat([own, order[:1]])
    return own, own_size


def from_first(value: T) -> T:
    """Returns the `value` of process 0 in all processes. The values of the other processes are ignored."""
    if num_processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: T) -> list[T]:
    """Returns a list with the `value` of each process, in the order of the process numbers. Every process must call
    this function.
    """
    if num_processes() == 1:
        return [value]
    values: list[T | None] = [None] * num_processes()
    dist.all_gather_object(values, value)
    return [of_rank for of_rank in values if of_rank is not None]


def summed(tensor: Tensor) -> Tensor:
    """Returns the sum of `tensor` over all processes of a distributed training, as a tensor of the same shape. A
    process that trains alone gets `tensor` itself.
    """
    if num_processes() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def meet() -> None:
    """Waits until all processes that train the head together have called this function."""
    if num_processes() > 1:
        dist.barrier()
