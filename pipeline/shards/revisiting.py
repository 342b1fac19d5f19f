"""Tries work units again that another worker was busy with, until all of them are done."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from kinegraph.cache_schemas import stopping

REVISIT_SECONDS, LONGEST_SECONDS = 1.0, 30.0
WAITED_SHARE = 0.1  # a wait is this share of the time that was waited before
Unit = TypeVar("Unit")


def revisit(
    units: Iterable[Unit],
    one_pass: Callable[[Iterable[Unit]], Sequence[Unit]],
    after_waiting: Callable[[], None] = lambda: None,
) -> None:
    """Calls `one_pass` with `units`, and then again with the units that the last call returned, until a call returns no
    units. A call returns the units that another worker has leased.

    Before each further call, the function waits and calls `after_waiting`. An error that `after_waiting` raises ends
    the loop. A wait is a second long at first, and later a tenth of the time that was waited before, at most 30 s.
    """
    waited = 0.0
    while units := one_pass(units):
        seconds = min(max(REVISIT_SECONDS, WAITED_SHARE * waited), LONGEST_SECONDS)
        stopping.sleep(seconds)
        waited += seconds
        after_waiting()
