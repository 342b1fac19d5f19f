"""Trains one head in several processes that torchrun starts. In a single process, these functions change nothing.

Every process has a copy of the whole head. With k processes, each takes every k-th clip of each batch. The result is
that of one process with the same batches, except for rounding and the random draws of dropout.
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
    """Returns the number of processes that train one head together. Without torchrun, the number is 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Returns the number of this process among the processes that train one head together, counted from 0. Without
    torchrun, the number is 0. Process 0 validates, writes files and prints.
    """
    return int(os.environ.get("RANK", "0")) if num_processes() > 1 else 0


@contextmanager
def connected_processes(device: torch.device) -> Iterator[None]:
    """Connects the processes that train one head together while a `with` block runs. Does nothing if there is only one
    process.

    If `device` is a GPU, each process uses another GPU of its machine. Raises UsageError if a machine has fewer GPUs
    than processes.
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
    """Returns the device on which this process trains. If `device` is a GPU and several processes train together, each
    process has a GPU of its own. Otherwise the result is `device`.

    Raises UsageError if this machine has fewer GPUs than processes.
    """
    if num_processes() == 1 or device.type != "cuda":
        return device
    local_rank = int(os.environ["LOCAL_RANK"])
    advice = "start torchrun with a --nproc-per-node of at most as many as there are, or use run.device=cpu"
    require_cuda(local_rank, f"LOCAL_RANK: given {local_rank}", advice)
    return torch.device("cuda", local_rank)


def distributed(head: nn.Module, device: torch.device) -> nn.Module:
    """Returns the module that the training calls in place of `head`. If only one process trains, the module is `head`
    itself.

    If several processes train together, every process gets the mean gradient of all. A trained BatchNorm takes its
    statistics over the clips of all processes. The head must use the same parameters at each step. Raises UsageError if
    several processes on CPUs train a BatchNorm, because torch does not support this.
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
    """Returns (indices of the clips that this process trains on, number of these clips in a full batch).

    `order` has the indices of all clips. They are cut into batches of `batch_size` clips, and the processes divide each
    batch. If the last batch is too small, a process gets the first clip of `order`, which the loss does not count.
    Raises UsageError if the batch size is not a multiple of the number of processes.
    """
    count = num_processes()
    if batch_size % count:
        raise UsageError(f"batch_size: given {batch_size}, allowed: a multiple of the {count} processes")
    own, own_size = order[rank() :: count], batch_size // count
    if len(torch.split(own, own_size)) < len(torch.split(order, batch_size)) or not len(own):
        own = torch.cat([own, order[:1]])
    return own, own_size


def factor_of_mean(weights: Tensor) -> float:
    """Returns the number by which this process multiplies its mean loss. torch takes the mean of the gradients over all
    processes. With this factor, the mean is the gradient of the weighted mean loss of the whole batch.

    `weights` has the weight of each clip of the batch, also of the clips of other processes.
    """
    count = num_processes()
    return 1.0 if count == 1 else count * float(weights[rank() :: count].sum() / weights.sum())


def factor_of_sum(batch_size: int, own_size: int) -> float:
    """Returns the number by which this process multiplies its summed loss. torch takes the mean of the gradients over
    all processes. With this factor, the mean is the gradient of the summed loss of the whole batch.

    `batch_size` is the number of clips of the whole batch. `own_size` is the number of clips that this process has
    computed. If its only clip is an extra clip (see `own_share`), the factor is 0.
    """
    count = num_processes()
    return count * len(range(rank(), batch_size, count)) / own_size


def from_first(value: T) -> T:
    """Returns in every process the `value` with which process 0 calls this function. Every process must call it."""
    if num_processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: T) -> list[T]:
    """Returns in every process a list of the `value` of each process, in the order of `rank`. Every process must call
    this function.
    """
    if num_processes() == 1:
        return [value]
    values: list[T | None] = [None] * num_processes()
    dist.all_gather_object(values, value)
    return [of_rank for of_rank in values if of_rank is not None]


def summed(tensor: Tensor) -> Tensor:
    """Returns in every process the sum of the tensors of all processes, which have one shape. Every process must call
    this function. Without torchrun, returns `tensor` itself.
    """
    if num_processes() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def barrier() -> None:
    """Waits until all processes that train one head together have called this function."""
    if num_processes() > 1:
        dist.barrier()
