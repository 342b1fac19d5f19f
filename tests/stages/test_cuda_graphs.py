"""CUDA graphs on a fake GPU, where a graph is recorded without computing and replayed on the same buffers."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.cuda_graphs import CudaCapture, GraphedForward, TapMaps
from kinegraph.stages.transfers import Pending, transfers_on
from tests.fake_cuda import CUDA, FakeGpu, fake_gpu

FRAMES, SIDE = 8, 32


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with fake_gpu() as gpu:
        yield gpu


def pixels(number: int, clips: int = 2) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (clips, FRAMES, SIDE, SIDE, 3), np.uint8)


def extractor() -> FeatureExtractor:
    options = {"model": "tiny_i3d", "weights": "random:0", "taps": ["res4"], "precision": "fp32"}
    return FeatureExtractor(BackboneOptions.model_validate(options), CUDA)


def through(maps: Callable[[Tensor], TapMaps], batches: list[np.ndarray]) -> list[np.ndarray]:
    """The maps of each batch, with two batches in flight, as an extraction runs them."""
    transfers, found, pending = transfers_on(CUDA), list[np.ndarray](), list[Pending]()
    with torch.inference_mode():
        for number, batch in enumerate(batches):
            pending.append(transfers.download(maps(transfers.upload(batch))["res4"]))
            while len(pending) > (1 if number < len(batches) - 1 else 0):
                with pending.pop(0).arrived() as values:
                    found.append(values.copy())
    return found


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_values_of_the_network_itself(gpu: FakeGpu) -> None:
    batches = [*map(pixels, range(5)), pixels(5, clips=1), pixels(6)]
    plain, graphed = extractor(), extractor()
    expected = through(plain.maps, batches)
    graphed.use_graphs()
    gpu.waits.clear()
    assert same(through(graphed.maps, batches), expected)
    assert gpu.waits == {"event": 7}
    assert gpu.replays == 6, "a batch of another size runs without the graph"
    assert not same(expected[:1], expected[1:2])


@pytest.mark.parametrize("missing", ["the copy of the input", "the copy of the maps"])
def test_no_copy_can_be_left_out(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """The fake GPU notices each of them, so the tests that use it would."""

    def forward(clips: Tensor) -> TapMaps:
        return {"res4": clips.float() * 2}  # contiguous, so that a download does not copy it first

    batches = [*map(pixels, range(4))]
    graphed, expected = GraphedForward(forward, "a network", CUDA), through(forward, batches)
    assert same(through(graphed, batches), expected)
    assert graphed._recorded is not None
    if missing == "the copy of the input":
        monkeypatch.setattr(graphed._recorded.clips, "copy_", lambda clips: None, raising=False)
    else:
        maps = graphed._recorded.maps["res4"]
        monkeypatch.setattr(maps, "clone", lambda: maps, raising=False)
    assert not same(through(graphed, batches), expected)


def test_a_network_that_cannot_be_recorded_runs_without_a_graph(gpu: FakeGpu, caplog: pytest.LogCaptureFixture) -> None:
    def forward(clips: Tensor) -> TapMaps:
        assert clips.float().mean() > 1, "the host looks at a value"
        return {"res4": clips.float() * 2}

    batches = [*map(pixels, range(4))]
    with caplog.at_level(logging.WARNING):
        found = through(GraphedForward(forward, "looking_net", CUDA), batches)
    assert same(found, [batch * np.float32(2) for batch in batches])
    assert gpu.replays == 0
    (message,) = caplog.messages
    assert message == (
        "looking_net runs without a CUDA graph, because it could not be recorded: operation not permitted when stream "
        "is capturing: is_nonzero. Its results are the same. run.cuda_graphs: false avoids the attempt"
    )


def test_an_error_of_the_network_is_not_taken_for_one_of_the_graph(gpu: FakeGpu) -> None:
    def forward(clips: Tensor) -> TapMaps:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        through(GraphedForward(forward, "a network", CUDA), [pixels(0)])


def test_a_graph_is_recorded_on_a_stream_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it can be executed without a GPU: which calls of CUDA are made, in which order."""
    calls: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            calls.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def on(what: str) -> Iterator[None]:
        calls.append(f"begin {what}")
        yield
        calls.append(f"end {what}")

    def graph(graph: str, *, stream: Stream, capture_error_mode: str) -> Any:
        return on(f"{graph} on {stream.name}, {capture_error_mode}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"side of {device}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(f"current of {device}"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: on(stream.name))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "graph")
    monkeypatch.setattr(torch.cuda, "graph", graph)

    def work() -> TapMaps:
        calls.append("work")
        return {}

    assert CudaCapture(torch.device("cuda:1"))(work) == ("graph", {})
    assert calls == [
        "side of cuda:1 waits for current of cuda:1",
        "begin side of cuda:1", "work", "end side of cuda:1",
        "begin graph on side of cuda:1, thread_local", "work", "end graph on side of cuda:1, thread_local",
        "current of cuda:1 waits for side of cuda:1",
    ]  # fmt: skip
