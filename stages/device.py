"""Chooses the device and the precision in which a network runs."""

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kinegraph.stages.errors import UsageError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DTYPES_STORED = {"float16": torch.float16, "float32": torch.float32}


def pick_device(name: str) -> torch.device:
    """Returns the device. `auto` is the first CUDA device, or the CPU where there is none.

    The call switches off TF32 for float32 in this process. Raises UsageError for a device that this machine does not
    have.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    match = re.fullmatch(r"cpu|cuda(?::(0|[1-9]\d*))?", name)
    if match is None:
        raise UsageError(f"run.device: given {name!r}, allowed: auto, cpu, cuda, cuda:<index>")
    if name != "cpu":
        require_cuda(int(match[1] or 0), f"run.device: given {name!r}", "use cpu or auto")
    return torch.device(name)


def require_cuda(index: int, given: str, advice: str) -> None:
    """Raises UsageError where torch finds no CUDA device of that index.

    The message starts with `given` and ends with `advice`.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        devices = f"none beyond cuda:{count - 1}" if count else "no CUDA device"
        raise UsageError(f"{given}, but torch finds {devices} here; {advice}")


def share_of_devices(name: str, number: int, num_cuda: int) -> str:
    """Returns the device of process `number` on a machine with `num_cuda` CUDA devices.

    `auto` and `cuda` take the devices in turn. A name of one device is returned unchanged, and so is every name where
    there are no CUDA devices.
    """
    if name not in ("auto", "cuda") or num_cuda == 0:
        return name
    return f"cuda:{number % num_cuda}"


def frozen_on(network: nn.Module, device: torch.device) -> nn.Module:
    """Returns the network on `device` with channels-last weights.

    Convolutions in half precision are several times faster then.
    """
    network = network.to(device)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
    return network


def require_precision(precision: str, device: torch.device, key: str) -> None:
    """Raises UsageError, which names `key`, for bf16 on a GPU that only emulates bf16, as GPUs before Ampere do."""
    if precision != "bf16" or device.type != "cuda":
        return
    with torch.cuda.device(device):
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UsageError(f"{key}: given 'bf16', which {torch.cuda.get_device_name()} does not compute in; use fp16")


def is_slow_at(precision: str, device: torch.device) -> bool:
    """Returns whether `device` is a CPU without instructions for bf16, as CPUs without AVX-512 are.

    Convolutions in bf16 take up to 100 times longer there than in float32.
    """
    return precision == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def computing_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Returns a context in which operations run in `precision`: autocast, or plain float32 without TF32 for fp32."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Returns a context in which operations keep the precision of their inputs, as on devices without autocast."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def through_lstm(lstm: nn.LSTM, sequences: Tensor, state: tuple[Tensor, ...] | None = None) -> Any:
    """Returns lstm(sequences, state).

    On CPUs without AVX-512 autocast is off, because oneDNN has no LSTM in bf16 for them.
    """
    device = sequences.device
    if not torch.is_autocast_enabled("cpu") or not is_slow_at("bf16", device):
        return lstm(sequences, state)
    with without_autocast(device):
        return lstm(sequences.float(), None if state is None else tuple(x.float() for x in state))


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """Returns the array on `device`. For CUDA the copy uses pinned memory and does not wait."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def on_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Returns `values` as a tensor on `device`.

    Values that were handed on are there already. A row of the cache is read-only.
    """
    return values if isinstance(values, Tensor) else upload(values.copy(), device)
