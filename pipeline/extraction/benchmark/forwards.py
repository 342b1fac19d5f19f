"""Records the calls of networks during an extraction, and runs the same calls again without anything else."""

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
    """A call of a network that was recorded, so that the benchmark can repeat it. `arguments` are its arguments.
    Tensors among them are copies, on the device of the originals. The call ran under autocast to `autocast_dtype`, or
    without autocast if `autocast_dtype` is None.
    """

    network: nn.Module
    arguments: tuple[Any, ...]
    autocast_dtype: torch.dtype | None


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
def recorded(device: torch.device) -> Iterator[list[Forward]]:
    """Yields a list to which a Forward is added for each call of a network in the `with` block. The networks compute on
    `device`.

    A layer that a network calls is not recorded by itself. One thread alone may call networks in the block.
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
    """Runs the recorded calls `forwards` one after the other, and waits until `device` has finished them. Drops the
    results.
    """
    for forward in stopping.checked(forwards):
        dtype = forward.autocast_dtype
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            forward.network(*forward.arguments)
    synchronise(device)


def synchronise(device: torch.device) -> None:
    """Waits until a GPU has finished its work. Returns at once for a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
