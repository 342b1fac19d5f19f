"""Measures how long stages run on a CUDA device. No call waits for the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kinegraph.stages.clock import summed


class DeviceClock:
    """Records an event of CUDA before and after the work of a kind. On other devices nothing is recorded.

    The thread that computes only starts the work of a GPU, and its own clock cannot see when that work runs. The
    seconds between two events are those of the device. They also contain pauses in which the device had nothing to do.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Measures the work that a `with` block starts on the current stream of the device."""
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
        """Returns a dict kind -> seconds on the device, and begins anew.

        Work that the device has not finished is left out. So the results of all work should be on the host already.
        """
        spans, self._spans = self._spans, []
        done = ({kind: begin.elapsed_time(end) / 1000} for kind, begin, end in spans if end.query())  # type: ignore[no-untyped-call]
        return summed(*done)
