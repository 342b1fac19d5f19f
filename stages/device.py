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
    """Returns the torch device for `name`: "auto", "cpu", "cuda" or "cuda:<index>". "auto" is the first CUDA device, or
    the CPU if there is none.

    The function also switches off TF32 in this process, a mode of NVIDIA GPUs with less precision. Raises UsageError
    for an unknown name, or for a device that this machine does not have.
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
    """Raises UsageError if torch does not find the CUDA device with the number `index`.

    `given` begins the message and says what the user asked for, such as `run.device: given 'cuda:1'`. `advice` ends the
    message and says what to do.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        devices = f"none beyond cuda:{count - 1}" if count else "no CUDA device"
        raise UsageError(f"{given}, but torch finds {devices} here; {advice}")


def share_of_devices(name: str, number: int, num_cuda: int) -> str:
    """Distributes processes over the CUDA devices of a machine. Returns the device of process number `number` (from 0),
    such as "cuda:1".

    If `name` is "auto" or "cuda", the processes take the `num_cuda` devices in turn. With two devices, the processes 0,
    1 and 2 use cuda:0, cuda:1 and cuda:0. Any other `name` is returned unchanged, and so is any `name` if there are no
    CUDA devices.
    """
    if name not in ("auto", "cuda") or num_cuda == 0:
        return name
    return f"cuda:{number % num_cuda}"


def move_network(network: nn.Module, device: torch.device) -> nn.Module:
    """Moves `network` to `device` and returns it. Also changes the weights of its 2D and 3D convolutions to
    channels-last order, in which they run faster.

    Does not change whether the network is in training or evaluation mode, nor which parameters have gradients.
    """
    network = network.to(device)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
    return network


def require_precision(precision: str, device: torch.device, key: str) -> None:
    """Raises UsageError if `precision` is "bf16" and `device` is a GPU that only emulates bf16, as GPUs before Ampere
    do.

    `precision` is "bf16", "fp16" or "fp32". The message starts with `key`, the option of the config that has this
    value.
    """
    if precision != "bf16" or device.type != "cuda":
        return
    with torch.cuda.device(device):
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UsageError(f"{key}: given 'bf16', which {torch.cuda.get_device_name()} does not compute in; use fp16")


def is_slow_at(precision: str, device: torch.device) -> bool:
    """Returns whether convolutions in `precision` ("bf16", "fp16" or "fp32") are very slow on `device`.

    The result is True only for bf16 on a CPU without the instructions for bf16 (AVX-512). On such a CPU, convolutions
    in bf16 take up to 100 times longer than in float32.
    """
    return precision == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def computing_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Returns a context manager. In its `with` block, torch computes in `precision` on `device`. `precision` is "bf16",
    "fp16" or "fp32". bf16 and fp16 switch autocast on, and fp32 switches it off.
    """
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Returns a context in which torch's autocast is off on `device`, so that operations compute in the precision of
    their inputs.
    """
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def through_lstm(lstm: nn.LSTM, sequences: Tensor, state: tuple[Tensor, ...] | None = None) -> Any:
    """Runs `lstm` on `sequences`. Returns the result of torch.nn.LSTM: (outputs of all steps, (h, c) after the last
    step).

    `state` is (h, c) before the first step, or None for zeros. Under autocast, the LSTM runs in half precision. On a
    CPU without AVX-512 it runs in float32 instead, because torch has no LSTM in bf16 for such CPUs.
    """
    device = sequences.device
    if not torch.is_autocast_enabled("cpu") or not is_slow_at("bf16", device):
        return lstm(sequences, state)
    with without_autocast(device):
        return lstm(sequences.float(), None if state is None else tuple(x.float() for x in state))


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """Copies `array` to `device` and returns the tensor. On the CPU nothing is copied: the tensor shares the memory of
    `array`.

    For CUDA, the array is copied through pinned memory. The call may return before the copy is finished.
    """
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
