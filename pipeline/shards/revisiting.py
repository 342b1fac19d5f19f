"""Tries work units again that another worker was busy with, until all of them are done."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from kinegraph.cache_schemas import stopping

REVISIT_SECONDS = 1.0
Unit = TypeVar("Unit")


def revisit(
    units: Iterable[Unit],
    one_pass: Callable[[Iterable[Unit]], Sequence[Unit]],
    after_waiting: Callable[[], None] = lambda: None,
) -> None:
    """Calls `one_pass` with `units`, and then again with the units that the last call returned, until a call returns no
    units. A call must return the units that it could not do because another worker has leased them.

    Before each further call, the function waits a second and calls `after_waiting`. An error that `after_waiting`
    raises ends the loop.
    """
    while units := one_pass(units):
        stopping.sleep(REVISIT_SECONDS)
        after_waiting()
