"""Collects the results that a GPU is still computing, so that the CPU can prepare the next batch meanwhile."""

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
    """A queue of results of one shard that a GPU is still computing or copying to the host's memory.

    `expect` adds a result and a function to call with the result. `end_batch` and `take_all` wait for results, in the
    order in which they were added, and call these functions. On a CPU the function is called at once, and the queue
    stays empty.
    """

    def __init__(self) -> None:
        self._batches: deque[deque[_Result]] = deque()  # oldest first

    def begin_batch(self) -> None:
        """Begins a new batch. Results that `expect` adds from now on belong to this batch."""
        self._batches.append(deque())

    def end_batch(self) -> None:
        """Ends the present batch. Then waits for the results of the oldest batch in the queue, if the queue has
        BATCHES_IN_FLIGHT batches.
        """
        if len(self._batches) >= BATCHES_IN_FLIGHT:
            _take(self._batches.popleft())

    def expect(self, array: str, pending: Pending, take: Callable[[np.ndarray], None]) -> None:
        """Adds the result `pending` to the queue. Once a GPU has copied the result to the host's memory, `take` is
        called with its values. On a CPU, `take` is called at once.

        `array` is the name of the array that `take` fills, or "" if `take` fills no array. `take` must copy what it
        needs, because later results overwrite the values after `take` returns.
        """
        result = _Result(array=array, pending=pending, take=take)
        if pending.is_here:
            _take(deque([result]))
        else:
            self._batches[-1].append(result)

    def awaits(self, array: str) -> bool:
        """Returns whether a result for the array named `array` is still in the queue, and so has not arrived."""
        return any(result.array == array for batch in self._batches for result in batch)

    def take_all(self) -> None:
        """Waits for all results in the queue and empties the queue."""
        for batch in self._batches:
            _take(batch)


def _take(results: deque[_Result]) -> None:
    while results:
        result = results.popleft()
        with result.pending.arrived() as values:
            result.take(values)
