"""Keeps results that a GPU is still computing or copying. The CPU can begin the next batch before they arrive."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kinegraph.stages.transfers import Pending

BATCHES_IN_FLIGHT = 2  # the GPU computes one, and the results of the other are on their way


@dataclass(frozen=True, kw_only=True)
class _Result:
    array: str
    pending: Pending
    take: Callable[[np.ndarray], None]


class Arriving:
    """The results of one shard's batches that a GPU is still copying to the host's memory.

    `expect` adds a result with the function that takes it. `end_batch` and `take_all` wait for results, in the order in
    which they were added. On a CPU each result is taken at once.
    """

    def __init__(self) -> None:
        self._batches: deque[deque[_Result]] = deque()  # oldest first

    def begin_batch(self) -> None:
        self._batches.append(deque())

    def end_batch(self) -> None:
        """Ends the present batch. If BATCHES_IN_FLIGHT batches have results on their way to the host's memory, waits
        for the results of the oldest of these batches.
        """
        if len(self._batches) >= BATCHES_IN_FLIGHT:
            _take(self._batches.popleft())

    def expect(self, array: str, pending: Pending, take: Callable[[np.ndarray], None]) -> None:
        """Arranges that `take` is called with the values of `pending`, once a GPU has copied these values to the host's
        memory. On a CPU, `take` is called at once.

        `array` is the name of the array that `take` fills, or "" if it fills none. After `take` returns, the memory of
        the values is used for other values.
        """
        result = _Result(array=array, pending=pending, take=take)
        if pending.is_here:
            _take(deque([result]))
        else:
            self._batches[-1].append(result)

    def awaits(self, array: str) -> bool:
        """Returns whether rows of `array` are on their way."""
        return any(result.array == array for batch in self._batches for result in batch)

    def take_all(self) -> None:
        """Waits for all results that are on their way."""
        for batch in self._batches:
            _take(batch)


def _take(results: deque[_Result]) -> None:
    while results:
        result = results.popleft()
        with result.pending.arrived() as values:
            result.take(values)
