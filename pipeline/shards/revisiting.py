"""Tries work units again that another worker has leased. The trying ends when all of these units are sealed, here or by
the other worker.
"""

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
    """Calls `one_pass` with `units`, then with the units that the call before returned, until it returns none.

    `one_pass` returns the units that another worker has leased. Before each further call the function waits a second
    and calls `after_waiting`, which may raise an error.
    """
    while units := one_pass(units):
        stopping.sleep(REVISIT_SECONDS)
        after_waiting()
