"""Measures how long stages run on a CUDA device. No call waits for the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kinegraph.stages.clock import summed


class DeviceClock:
    """Measures how long each kind of work takes on a CUDA device, by an event before and an event after the work. On
    other devices nothing is recorded.

    The thread that computes only starts the work of a GPU, and its own clock cannot see when that work runs. The
    seconds between two events are those of the device. They also contain pauses in which the device had nothing to do.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Measures the time of the work that a `with` block starts on the current stream of the device, and counts it
        as `kind`.
        """
        if self._device.type != "cuda":
            yield
            return
        stream = torch.cuda.current_stream(self._device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record(stream)
        yield
        end.record(stream)
        self._spans.append((kind, begin, end))

    def taken(self) -> dict[str, float]:
        """Returns a dict kind -> seconds on the device since the last call of `taken`.

        Work that the device has not finished is left out and never counted. Call this method when the results of all
        work are on the host.
        """
        spans, self._spans = self._spans, []
        done = ({kind: begin.elapsed_time(end) / 1000} for kind, begin, end in spans if end.query())  # type: ignore[no-untyped-call]
        return summed(*done)
