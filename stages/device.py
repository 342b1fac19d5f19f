"""Devices and precision: where a network runs and in which numbers."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from stages.errors import UsageError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def pick_device(name: str) -> torch.device:
    """`auto` is the first CUDA device where there is one, else the CPU.

    Raises UsageError for a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"run.device: given {name!r}, allowed: auto, cpu, cuda, cuda:<index>") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"run.device: given {name!r}, but torch finds no CUDA device here; use cpu or auto")
    return device


def share_of_devices(name: str, number: int, num_cuda: int) -> str:
    """The device of the `number`-th process of a machine with `num_cuda` CUDA devices: `auto` and `cuda` take turns.

    What names one device, or where there are none to share, stays as it is.
    """
    if name not in ("auto", "cuda") or num_cuda == 0:
        return name
    return f"cuda:{number % num_cuda}"


def frozen_on(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on `device`, weights channels-last: convolutions there are several times faster in half precision."""
    network = network.to(device)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
    return network


def computing_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to `precision`; plain float32 for fp32, without TF32."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside, operations keep the precision of what they are given, as ever on devices that have no autocast."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on `device`; through pinned memory and without waiting on CUDA."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
