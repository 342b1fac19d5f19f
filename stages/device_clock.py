"""Measures how long stages run on a CUDA device, without waiting for the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kinegraph.stages.clock import summed


class DeviceClock:
    """A stopwatch for a CUDA device, by kinds of work. On other devices it measures nothing.

    The computing thread only starts the work of a GPU, so a clock on the host cannot measure the work. This class puts
    a CUDA event before the work and another event after it. The seconds between the two events also contain pauses in
    which the device had nothing to do.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Measures the device time of the work that a `with` block starts on the current stream. The time counts as
        `kind`.
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
        """Returns {kind: seconds on the device} since the last call of this method.

        Call this method when the results of all work are on the host. The time of unfinished work is lost: neither this
        call nor a later call returns it.
        """
        spans, self._spans = self._spans, []
        done = ({kind: begin.elapsed_time(end) / 1000} for kind, begin, end in spans if end.query())  # type: ignore[no-untyped-call]
        return summed(*done)
