"""Runs a frozen network on a GPU as a CUDA graph. The kernels of the network are recorded once, and then one call
starts all of them.

A graph reads its input from one fixed buffer and writes its results to other fixed buffers. A TapMaps is the result of
a network: {tap: tensor}. A tap is a named layer.
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
    """A recorded sequence of kernels that can be started again. `torch.cuda.CUDAGraph` has the method of this
    protocol.
    """

    def replay(self) -> None:
        """Starts all recorded kernels, on the current stream of the calling thread."""


class CudaCapture:
    """Records the kernels of a computation as a CUDA graph, on the GPU `device`. Only this class of the module calls
    CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, work: Callable[[], TapMaps]) -> tuple[Graph, TapMaps]:
        """Runs `work` and records the kernels that it starts. Returns (graph, maps): the CUDA graph, and the result of
        `work`. Each replay of the graph writes new values into the tensors of `maps`.

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
    """Runs the forward pass `forward` of a network on the GPU `device` through a CUDA graph. `name` is the name of the
    network, for messages.

    The first call records the graph. A later call replays it if its input has the same shape, type and memory order.
    With any other input, or if the recording fails, `forward` runs without a graph. Only one thread at a time may call
    the object.
    """

    def __init__(self, forward: Callable[[Tensor], TapMaps], name: str, device: torch.device) -> None:
        self._forward, self._name, self._capture = forward, name, CudaCapture(device)
        self._recorded: _Recorded | None = None
        self._is_tried = False

    def __call__(self, clips: Tensor) -> TapMaps:
        """Returns {tap: maps} of `clips`, a tensor on the GPU. The maps are copies, so later calls do not change
        them.
        """
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
        """Records the network for inputs with the shape and the type of `clips`. If this fails, logs a warning and
        returns None.
        """
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
