"""Copies arrays to a device and back while the device computes.

On a CPU nothing is copied. On a GPU each direction has a stream of its own and pinned buffers. A stream is a queue of
work of a GPU. An event is a mark in a stream. Pinned memory is memory of the host that a GPU can copy without the CPU.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

PINNED_STEP_BYTES = 64 * 2**10  # sizes of pinned buffers are multiples, so that small arrays share buffers


class Pending(Protocol):
    """A copy of an array from the device to the host that may still be under way."""

    @property
    def is_here(self) -> bool:
        """Returns whether the array is on the host, so that `arrived` does not wait."""

    def arrived(self) -> AbstractContextManager[np.ndarray]:
        """Waits until the array is on the host, and returns a context with the array. The array is valid only inside
        the context, because its memory is used again afterwards. The context can be entered only once.
        """


class Transfers(Protocol):
    """Copies arrays between the host and one device."""

    def upload(self, array: np.ndarray) -> Tensor:
        """Returns `array` as a tensor on the device. Work on the device that begins after the call sees the values of
        `array`.

        The host may change `array` after the call if the device is a GPU. On the CPU the tensor shares the memory of
        `array`, unless `array` is read-only.
        """

    def download(self, values: Tensor) -> Pending:
        """Begins to copy `values` to the host, and returns a Pending, which waits for the copy. The caller must not
        change `values` in place afterwards.
        """


def transfers_on(device: torch.device) -> Transfers:
    """Returns a new Transfers, which copies arrays to `device` and back. Each worker has one of its own."""
    return StreamedTransfers(device, CudaStreams(device)) if device.type == "cuda" else InPlace()


class InPlace:
    """The Transfers of the CPU. Nothing is copied, because a tensor and its array share memory. The exception is a
    read-only array, which is copied.
    """

    def upload(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array if array.flags.writeable else array.copy())

    def download(self, values: Tensor) -> Pending:
        return _Here(values.numpy())


class _Here:
    is_here = True

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @contextmanager
    def arrived(self) -> Iterator[np.ndarray]:
        yield self._array


class Streams(Protocol):
    """The CUDA streams of one device: `uploads` for copies to the device, `downloads` for copies to the host, and
    `computing` for the networks. Copies call CUDA only through these methods.
    """

    uploads: torch.cuda.Stream
    downloads: torch.cuda.Stream

    @property
    def computing(self) -> torch.cuda.Stream:
        """Returns the stream on which the calling thread computes."""

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[object]:
        """Returns a context in which `stream` is the stream of all work and of all new tensors."""

    def event(self) -> torch.cuda.Event:
        """Returns a new CUDA event. A thread that waits for the event sleeps and leaves its core to the decoders."""

    def pinned(self, num_bytes: int) -> Tensor:
        """Returns new pinned memory of the host, a tensor uint8 [num_bytes]."""

    def keep(self, values: Tensor, stream: torch.cuda.Stream) -> None:
        """Tells torch that `stream` reads the tensor `values`. torch then does not give the memory of `values` to
        another tensor before the work on `stream` is done.
        """


class CudaStreams:
    """The streams of the GPU `device`: `uploads` for copies to the GPU, `downloads` for copies to the host, and
    `computing`, the current stream of the calling thread.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.uploads: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.downloads: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def computing(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._device)

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[object]:
        return torch.cuda.stream(stream)

    def event(self) -> torch.cuda.Event:
        return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def pinned(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def keep(self, values: Tensor, stream: torch.cuda.Stream) -> None:
        values.record_stream(stream)


class StreamedTransfers:
    """Copies arrays to the GPU `device` and back, on the streams of `streams`. `upload` and `download` return before
    the copy is complete. Only `arrived`, a method of the result of `download`, waits.
    """

    def __init__(self, device: torch.device, streams: Streams) -> None:
        self._device, self._streams = device, streams
        self._to_device, self._to_host = _PinnedRing(streams), _PinnedRing(streams)

    def upload(self, array: np.ndarray) -> Tensor:
        streams = self._streams
        buffer = self._to_device.take(array.nbytes)
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        pinned = _viewed(buffer, dtype, array.shape)
        np.copyto(pinned.numpy(), array)
        with streams.on(streams.uploads):
            values = torch.empty(array.shape, dtype=dtype, device=self._device)
            values.copy_(pinned, non_blocking=True)
            copied = streams.uploads.record_event()
        streams.computing.wait_event(copied)
        streams.keep(values, streams.computing)
        self._to_device.give_back(buffer, copied)
        return values

    def download(self, values: Tensor) -> Pending:
        streams = self._streams
        values = values.contiguous()
        buffer = self._to_host.take(values.nbytes)
        pinned = _viewed(buffer, values.dtype, values.shape)
        streams.downloads.wait_event(streams.computing.record_event())
        with streams.on(streams.downloads):
            pinned.copy_(values, non_blocking=True)
            copied = streams.downloads.record_event(streams.event())
        return _OnItsWay(values, pinned.numpy(), buffer, copied, self._to_host)


class _OnItsWay:
    """A copy from the GPU to `array`, an array in the pinned memory `buffer`. The event `copied` comes when the copy is
    complete. `buffer` then goes back to `ring`.

    The tensor `values` is the source of the copy. It is held until the copy is complete, so that its memory stays.
    """

    is_here = False

    def __init__(
        self, values: Tensor, array: np.ndarray, buffer: Tensor, copied: torch.cuda.Event, ring: "_PinnedRing"
    ) -> None:
        self._values: Tensor | None = values
        self._array, self._buffer, self._copied, self._ring = array, buffer, copied, ring

    @contextmanager
    def arrived(self) -> Iterator[np.ndarray]:
        self._copied.synchronize()
        self._values = None
        try:
            yield self._array
        finally:
            self._ring.give_back(self._buffer, self._copied)


class _PinnedRing:
    """Keeps pinned buffers for copies on `streams`, and uses them again. `take` returns a free buffer. `give_back`
    takes the buffer back, together with the event of its last copy. The buffer is free again when this event has come.

    There are as many buffers as copies were ever under way at the same time. Their number does not shrink, because
    pinning memory takes long. One thread takes buffers. Any thread may give them back.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._used: dict[int, deque[tuple[Tensor, torch.cuda.Event]]] = defaultdict(
            deque
        )  # by size in bytes, oldest first

    def take(self, num_bytes: int) -> Tensor:
        """Returns a pinned buffer, uint8, of at least `num_bytes` bytes. The buffer belongs to the caller until
        `give_back`.
        """
        size = max(1, -(-num_bytes // PINNED_STEP_BYTES)) * PINNED_STEP_BYTES
        used = self._used[size]
        if used and used[0][1].query():  # type: ignore[no-untyped-call]
            return used.popleft()[0]
        return self._streams.pinned(size)

    def give_back(self, buffer: Tensor, last_copy: torch.cuda.Event) -> None:
        self._used[len(buffer)].append((buffer, last_copy))


def _viewed(buffer: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Returns the first bytes of `buffer`, uint8 [bytes], as a tensor of `dtype` and `shape`, without a copy."""
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return buffer[:num_bytes].view(dtype).view(shape)
