"""Copies beside the computation, on a fake GPU that makes each copy as late as it may."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

from kinegraph.stages.transfers import CudaStreams, InPlace, Pending, StreamedTransfers, transfers_on
from tests.fake_cuda import CUDA, FakeEvent, FakeGpu, FakeStream, fake_gpu


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with fake_gpu() as gpu:
        yield gpu


def array(number: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(number).random(shape, np.float32)


def doubled(transfers: StreamedTransfers, batches: int) -> list[np.ndarray]:
    """Twice `array(number)` of each batch, as a loop with two batches in flight gets it."""
    found: list[np.ndarray] = []
    pending: list[Pending] = []

    def take() -> None:
        with pending.pop(0).arrived() as values:
            found.append(values.copy())

    for number in range(batches):
        given = array(number, 3, 5)
        on_device = transfers.upload(given)
        given[:] = -1  # the host may go on with its array
        pending.append(transfers.download(on_device * 2))
        if len(pending) == 2:
            take()
    take()
    return found


def is_right(found: list[np.ndarray]) -> bool:
    return all(np.array_equal(values, 2 * array(number, 3, 5)) for number, values in enumerate(found))


def test_batches_go_there_and_back(gpu: FakeGpu) -> None:
    transfers = transfers_on(CUDA)
    assert isinstance(transfers, StreamedTransfers)
    assert is_right(doubled(transfers, 7))
    assert gpu.waits == {"event": 7}
    # Two batches in flight and one that is filled, in each direction; not two for each of the seven batches.
    assert len(gpu.pinned_buffers) <= 6


@pytest.mark.parametrize("missing", ["the computation's wait", "the host's wait", "the wait before a buffer is reused"])
def test_no_wait_can_be_left_out(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """The fake GPU notices each of them, so the tests that use it would."""
    if missing == "the computation's wait":
        monkeypatch.setattr(FakeStream, "wait_event", lambda stream, event: None)
    elif missing == "the host's wait":
        monkeypatch.setattr(FakeEvent, "synchronize", lambda event: None)
    else:
        monkeypatch.setattr(FakeEvent, "query", lambda event: True)
    transfers = StreamedTransfers(CUDA, gpu)
    if missing == "the wait before a buffer is reused":
        with pytest.raises(AssertionError, match="pinned memory was written to while copied"):
            doubled(transfers, 7)
    else:
        assert not is_right(doubled(transfers, 7))


def test_arrays_of_all_types_and_sizes(gpu: FakeGpu) -> None:
    transfers = transfers_on(CUDA)
    for dtype in (np.uint8, np.int16, np.int64, np.float16, np.float32, np.float64, np.bool_):
        for shape in ((0,), (2, 0), (), (7,), (300, 301)):
            given = np.asarray(np.random.default_rng(0).random(shape) * 9).astype(dtype)
            given.setflags(write=False)
            with transfers.download(transfers.upload(given)).arrived() as values:
                assert (values.dtype, values.shape) == (given.dtype, given.shape)
                assert np.array_equal(values, given)
    turned = transfers.upload(array(0, 4, 6).T)
    with transfers.download(turned.transpose(0, 1)).arrived() as values:
        assert np.array_equal(values, array(0, 4, 6))


def test_on_a_cpu_nothing_is_copied_or_waited_for() -> None:
    transfers = transfers_on(torch.device("cpu"))
    assert isinstance(transfers, InPlace)
    given = array(0, 2, 3)
    tensor = transfers.upload(given)
    assert tensor.data_ptr() == given.ctypes.data
    pending = transfers.download(tensor)
    assert pending.is_here
    with pending.arrived() as values:
        assert np.shares_memory(values, given)
    given.flags.writeable = False  # as rows of a cache
    assert transfers.upload(given).data_ptr() != given.ctypes.data


def test_the_streams_are_those_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it can be executed without a GPU: which streams of which device are asked for."""
    numbers = count()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"stream {next(numbers)} of {device}")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"current of {device}")
    streams: Any = CudaStreams(torch.device("cuda:1"))
    assert [streams.uploads, streams.downloads, streams.computing] == [
        "stream 0 of cuda:1", "stream 1 of cuda:1", "current of cuda:1",
    ]  # fmt: skip
