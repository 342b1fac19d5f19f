"""A GPU that is not there: tensors of the device "cuda" whose values a CPU computes, with streams and pinned memory.

It runs the same Python code as a GPU. It counts what a GPU would be waited for (`waits`). It is as slow as a GPU may
be: a copy in a stream is made only when somebody waits for it. What was not waited for is GARBAGE. It raises
AssertionError where the host writes to pinned memory that may still be copied, and where an operation mixes tensors of
the host and of the device. A recorded graph computes nothing until it is replayed, and then from the same buffers into
the same buffers.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from kinegraph.stages.backbones import extract
from kinegraph.stages.backbones.planes import flatten_layers

GARBAGE = 0x5A
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
# Operations whose results a CPU must see before it goes on: a number, or the size of what comes out.
WAITED_FOR = ("nonzero", "_local_scalar_dense", "masked_select", "_unique2", "unique_dim", "is_nonzero", "equal", "nms")


class DeviceTensor(Tensor):
    """A tensor of the device; `held` has its values."""

    held: Tensor
    gpu: ClassVar["FakeGpu"]  # the mode of a thread does not reach other threads

    @staticmethod
    def __new__(cls, held: Tensor) -> "DeviceTensor":
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=CUDA, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return cls.gpu.run(func, args, kwargs or {})


class FakeEvent:
    stream: "FakeStream"
    number: int  # of the last work before it in its stream

    def __init__(self, gpu: "FakeGpu") -> None:
        self._gpu = gpu

    def query(self) -> bool:
        """Done is only what the host has waited for."""
        return self.stream.known_done >= self.number

    def synchronize(self) -> None:
        self._gpu.waits["event"] += 1
        self.stream.execute_until(self.number)
        self.stream.know(self.number)


class FakeTimer:
    """An event that measures time. Nobody waits for it, and each span takes a second."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: "FakeStream") -> None:
        assert stream.name == "computing"

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: "FakeTimer") -> float:
        return 1000.0


class FakeStream:
    """Work in order. `execute_until` does it; `know` says that the host knows that it is done."""

    def __init__(self, gpu: "FakeGpu", name: str) -> None:
        self._gpu, self.name = gpu, name
        self.queued: deque[tuple[int, Callable[[], None]]] = deque()
        self.waited_for: list[tuple[int, FakeEvent]] = []
        self.checks: list[tuple[int, Callable[[], None]]] = []
        self.length = self.known_done = 0

    def add(self, work: Callable[[], None]) -> int:
        self.length += 1
        self.queued.append((self.length, work))
        return self.length

    def record_event(self, event: "FakeEvent | None" = None) -> FakeEvent:
        made = event or FakeEvent(self._gpu)
        made.stream, made.number = self, self.length
        return made

    def wait_event(self, event: FakeEvent) -> None:
        self.length += 1
        self.waited_for.append((self.length, event))
        if self is self._gpu.computing:  # the CPU computes at once
            event.stream.execute_until(event.number)
        else:
            self.queued.append((self.length, partial(event.stream.execute_until, event.number)))

    def execute_until(self, number: int) -> None:
        while self.queued and self.queued[0][0] <= number:
            self.queued.popleft()[1]()

    def know(self, number: int) -> None:
        if number <= self.known_done:
            return
        self.known_done = number
        for at, event in self.waited_for:
            if at <= number:
                event.stream.know(event.number)
        for at, check in self.checks:
            if at <= number:
                check()
        self.waited_for = [(at, event) for at, event in self.waited_for if at > number]
        self.checks = [(at, check) for at, check in self.checks if at > number]


Step = tuple[Any, Any, dict[str, Any], Any]  # function, arguments, keyword arguments, result


class FakeGraph:
    """Recorded operations, which `replay` runs again on the same memory."""

    def __init__(self, gpu: "FakeGpu") -> None:
        self._gpu = gpu
        self.steps: list[Step] = []

    def replay(self) -> None:
        self._gpu.replays += 1
        for func, args, kwargs, made in self.steps:
            again = func(*tree_map(_held, args), **tree_map(_held, kwargs))
            for old, new in zip(tree_flatten(tree_map(_held, made))[0], tree_flatten(again)[0], strict=True):
                if isinstance(new, Tensor) and new.data_ptr() != old.data_ptr():  # neither a view nor in place
                    _copy(old, new)

    def forget(self) -> None:
        """What was made while recording was never computed."""
        for _, args, kwargs, made in self.steps:
            given = {storage.data_ptr() for storage in _storages((args, kwargs))}
            for storage in _storages(made):
                if storage.data_ptr() not in given:
                    storage.fill_(GARBAGE)


class FakeCapture:
    """Takes the place of `stages.cuda_graphs.CudaCapture`."""

    def __init__(self, gpu: "FakeGpu") -> None:
        self._gpu = gpu

    def __call__(self, work: Callable[[], dict[str, Tensor]]) -> tuple[FakeGraph, dict[str, Tensor]]:
        work()
        self._gpu.recording = graph = FakeGraph(self._gpu)
        try:
            maps = work()
        finally:
            self._gpu.recording = None
        graph.forget()
        return graph, maps


class FakeGpu(TorchDispatchMode):
    """A context in which "cuda" is the fake device. Implements the protocol `stages.transfers.Streams`.

    `waits` counts by the name of an operation what makes the host wait; "event" are waits for copies to the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.pinned_buffers: list[Tensor] = []
        self.computing: Any = FakeStream(self, "computing")
        self.uploads: Any = FakeStream(self, "uploads")
        self.downloads: Any = FakeStream(self, "downloads")
        self.current = self.computing
        self.recording: FakeGraph | None = None
        self.replays = 0

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def event(self) -> Any:
        return FakeEvent(self)

    def pinned(self, num_bytes: int) -> Tensor:
        self.pinned_buffers.append(torch.full((num_bytes,), GARBAGE, dtype=torch.uint8))
        return self.pinned_buffers[-1]

    def keep(self, values: Tensor, stream: Any) -> None:
        assert isinstance(values, DeviceTensor)
        assert stream is self.computing

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        values = tree_flatten((args, kwargs))[0]
        tensors = [value for value in values if isinstance(value, Tensor)]
        on_device = [value for value in tensors if isinstance(value, DeviceTensor)]
        name = func.overloadpacket.__name__
        target = next((value.type for value in values if isinstance(value, torch.device)), None)
        if name == "pin_memory":
            self.pinned_buffers.append(args[0].clone())
            return self.pinned_buffers[-1]
        if name == "copy_" and on_device and len(on_device) < len(tensors):
            return self._copied(*args, **kwargs)
        if not on_device and target != "cuda":
            return func(*args, **kwargs)
        if on_device and len(on_device) < len(tensors) and any(value.dim() for value in self._of_host(tensors)):
            raise AssertionError(f"{func} of tensors of the host and of the device")
        waits = self.waits.total()
        self._count(name, args, on_device, tensors, target)
        if self.recording and self.waits.total() > waits:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}\nmore lines")
        held = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        with torch.inference_mode(False):  # plain tensors: views of them may be taken anywhere
            made = self._on_device(name, held, on_device, target)
        if self.recording:
            self.recording.steps.append((func, args, kwargs, made))
        return made

    def _on_device(self, name: str, held: Any, on_device: list[Any], target: str | None) -> Any:
        if name in ("empty", "empty_like", "new_empty", "empty_strided"):
            held.untyped_storage().fill_(GARBAGE)
        if target == "cpu":
            return held
        if isinstance(held, Tensor) and on_device and held is on_device[0].held:
            return on_device[0]  # in place
        return tree_map(lambda value: DeviceTensor(value) if isinstance(value, Tensor) else value, held)

    def _of_host(self, tensors: list[Tensor]) -> list[Tensor]:
        return [value for value in tensors if not isinstance(value, DeviceTensor)]

    def _count(self, name: str, args: Any, on_device: list[Any], tensors: list[Tensor], target: str | None) -> None:
        is_mask = name in ("index", "index_put_", "index_put") and any(
            value is not None and value.dtype == torch.bool for value in args[1]
        )
        if is_mask or name in WAITED_FOR:
            self.waits[name] += 1
        elif target == "cpu" and on_device:
            self.waits["copy to the host"] += 1
        elif target == "cuda" and not all(map(self._is_pinned, self._of_host(tensors))):
            self.waits["copy of memory that is not pinned"] += 1

    def _is_pinned(self, values: Tensor) -> bool:
        storage = values.untyped_storage().data_ptr()
        return any(storage == buffer.untyped_storage().data_ptr() for buffer in self.pinned_buffers)

    def _copied(self, to: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        """A copy between the host and the device, made when it is waited for."""
        assert non_blocking, "a copy that waits"
        host = self._of_host([to, source])[0]
        assert self._is_pinned(host), "a copy of memory that is not pinned"
        stream, before = self.current, None if host is to else host.clone()
        at = stream.add(partial(_copy, _held(to), _held(source)))
        if before is not None:
            stream.checks.append((at, lambda: _assert_untouched(host, before)))
        return to


def _tensor(make: Callable[..., Tensor], data: Any, *, device: Any = None, **options: Any) -> Tensor:
    """torch.tensor, which copies from memory that is not pinned, and would look for a driver first."""
    made = make(data, **options)
    return made if device is None else made.to(device)


@torch.inference_mode()
def _copy(to: Tensor, source: Tensor) -> None:
    to.copy_(source)


def _assert_untouched(host: Tensor, before: Tensor) -> None:
    given, now = (values.flatten().view(torch.uint8) for values in (before, host))
    assert torch.equal(now, given), "pinned memory was written to while copied"


def _held(value: Any) -> Any:
    if isinstance(value, torch.device):
        return CPU
    return value.held if isinstance(value, DeviceTensor) else value


def _storages(values: Any) -> list[Any]:
    return [value.held.untyped_storage() for value in tree_flatten(values)[0] if isinstance(value, DeviceTensor)]


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """In this context torch has one GPU, which is fake. A CPU runs the layers of a network as the GPU does, for example
    3D convolutions, which are 2D layers on a CPU elsewhere.
    """
    with pytest.MonkeyPatch.context() as patch:
        gpu = DeviceTensor.gpu = FakeGpu()
        torch._C._ensureCUDADeviceGuardSet()
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "Event", FakeTimer)
        patch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
        patch.setattr(torch.cuda, "current_stream", lambda device: gpu.computing)
        patch.setattr(torch, "tensor", partial(_tensor, torch.tensor))
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "fake GPU")
        patch.setattr(
            extract, "flatten_layers", lambda network, convolutions: flatten_layers(network, convolutions=False)
        )
        patch.setattr("kinegraph.stages.transfers.CudaStreams", lambda device: gpu)
        patch.setattr("kinegraph.stages.cuda_graphs.CudaCapture", lambda device: FakeCapture(gpu))
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with gpu:
                yield gpu
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
