"""Keeps the results that a device still computes or copies, so that the host can begin the next batch without them."""

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
        """Ends a batch of results that are copied to the host. If BATCHES_IN_FLIGHT batches are on their way then,
        waits for the oldest batch.
        """
        if len(self._batches) >= BATCHES_IN_FLIGHT:
            _take(self._batches.popleft())

    def expect(self, array: str, pending: Pending, take: Callable[[np.ndarray], None]) -> None:
        """Calls `take` with the values of `pending` once they are on the host. On a CPU this is at once.

        `array` is the name of the array that `take` fills, or "" if it fills none. The memory of the values is used
        again after `take`.
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
