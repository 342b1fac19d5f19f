"""Records the calls of networks during an extraction, and repeats these calls without the rest of the extraction."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from kinegraph.cache_schemas import stopping


@dataclass(frozen=True)
class Forward:
    """A recorded call of a network, which the benchmark can repeat."""

    network: nn.Module  # the network that was called
    arguments: tuple[Any, ...]  # the arguments of the call. Tensors are copies, on the device of the original tensors.
    autocast_dtype: torch.dtype | None  # the type to which autocast converted in the call, or None if autocast was off


@dataclass
class _Recorder:
    device_type: str
    forwards: list[Forward] = field(default_factory=list)
    depth: int = 0

    def enter(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if self.depth == 0:  # a network, and not a layer in it
            copies = tuple(value.clone() if isinstance(value, Tensor) else value for value in arguments)
            is_on = torch.is_autocast_enabled(self.device_type)
            dtype = torch.get_autocast_dtype(self.device_type) if is_on else None
            self.forwards.append(Forward(module, copies, dtype))
        self.depth += 1

    def leave(self, module: nn.Module, arguments: tuple[Any, ...], result: object) -> None:
        self.depth -= 1


@contextmanager
def record_calls(device: torch.device) -> Iterator[list[Forward]]:
    """Yields a list, for `run_again`. Each call of a network in the `with` block adds a Forward (the network and its
    arguments) to this list.

    `device` is the device of the networks. Calls of the layers of a network are not recorded. Only one thread may call
    networks in the block.
    """
    recorder = _Recorder(device.type)
    handles = [
        register_module_forward_pre_hook(recorder.enter),
        register_module_forward_hook(recorder.leave, always_call=True),
    ]
    try:
        yield recorder.forwards
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def run_again(forwards: Sequence[Forward], device: torch.device) -> None:
    """Runs the recorded calls `forwards` in order, drops the results, and waits until `device` has finished."""
    for forward in stopping.checked(forwards):
        dtype = forward.autocast_dtype
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            forward.network(*forward.arguments)
    synchronise(device)


def synchronise(device: torch.device) -> None:
    """Waits until the GPU `device` has finished its work. Returns at once if `device` is a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
