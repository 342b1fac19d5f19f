"""Runs a frozen network on a GPU as a CUDA graph: its kernels are recorded once and then started by one call.

A graph always reads its input from the same buffer and always writes its results to the same other buffers. A TapMaps
is the result of a network, as a dict of tap (named layer) -> tensor.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

log = logging.getLogger("kinegraph")

TapMaps = dict[str, Tensor]
InputLayout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]  # shape, strides and type of an input


class Graph(Protocol):
    """The recorded kernels of a network. `torch.cuda.CUDAGraph` has this method."""

    def replay(self) -> None:
        """Starts the kernels on the stream in which the calling thread computes."""


class CudaCapture:
    """Records graphs on the GPU `device`. All calls of CUDA that this module makes are in this class."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, work: Callable[[], TapMaps]) -> tuple[Graph, TapMaps]:
        """Records the kernels that `work` starts, and returns the graph and the maps. The maps are filled by each
        replay.

        `work` runs twice on a stream of its own: once to warm up, and once to be recorded. Raises RuntimeError if
        `work` makes the host wait for the GPU, or if memory is short. Other threads may use the GPU meanwhile.
        """
        side: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        computing = torch.cuda.current_stream(self._device)
        side.wait_stream(computing)
        with torch.cuda.stream(side):
            work()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            maps = work()
        computing.wait_stream(side)
        return graph, maps


@dataclass(frozen=True)
class _Recorded:
    graph: Graph
    layout: InputLayout
    clips: Tensor  # the input of every replay
    maps: TapMaps  # the results of the last replay


class GraphedForward:
    """Calls `forward`, the forward pass of the network `name` on the GPU `device`, through a CUDA graph.

    The first call records the graph. A later input must have the same shape, type and order in memory as the first.
    Other inputs run without the graph. If the network cannot be recorded, a warning says so once, and all inputs run
    without a graph. Only one thread at a time may call the object.
    """

    def __init__(self, forward: Callable[[Tensor], TapMaps], name: str, device: torch.device) -> None:
        self._forward, self._name, self._capture = forward, name, CudaCapture(device)
        self._recorded: _Recorded | None = None
        self._is_tried = False

    def __call__(self, clips: Tensor) -> TapMaps:
        """Returns the maps of `clips`, a tensor on the GPU. Later calls do not change these maps."""
        if not self._is_tried:
            self._is_tried = True
            self._recorded = self._record(clips)
        recorded = self._recorded
        if recorded is None or recorded.layout != _layout(clips):
            return self._forward(clips)
        # in the order of the computing stream: the last replay has read the old clips, and its maps were copied
        recorded.clips.copy_(clips)
        recorded.graph.replay()
        return {tap: maps.clone() for tap, maps in recorded.maps.items()}

    def _record(self, clips: Tensor) -> _Recorded | None:
        """Records the network for inputs like `clips`. Returns None if the network cannot be recorded."""
        buffer = clips.clone()
        try:
            graph, maps = self._capture(lambda: self._forward(buffer))
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            log.warning(
                "%s runs without a CUDA graph, because it could not be recorded: %s. Its results are the same. "
                "run.cuda_graphs: false avoids the attempt",
                self._name,
                reason,
            )
            return None
        return _Recorded(graph, _layout(clips), buffer, maps)


def _layout(clips: Tensor) -> InputLayout:
    return tuple(clips.shape), clips.stride(), clips.dtype
