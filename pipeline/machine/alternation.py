"""Compares the speeds of several methods that do the same work. The methods run in turn, so that a busy machine slows
all of them alike. Torch-free.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kinegraph.cache_schemas import stopping

Seconds = Mapping[str, Sequence[float]]  # name of a way -> seconds of each round


def nothing() -> None:
    """Does nothing. This function is the default of `Way.prepare`."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One of several methods to compare. `run` does the work and is timed. `prepare` is called before each run and is
    not timed.
    """

    name: str
    run: Callable[[], Any]
    prepare: Callable[[], Any] = nothing


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median, the lowest and the highest of several measurements."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median=statistics.median(values), lowest=min(values), highest=max(values))


def alternate(
    ways: Sequence[Way],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, list[float]]:
    """Runs each of `ways` once in each of `rounds` rounds, and times each run with `clock`. Returns a dict {name of the
    way: seconds of its run in each round}.

    The order of the ways changes from round to round. `on_progress` is called after each run with the name of the way,
    the number of finished runs and the number of all runs.
    """
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(rounds):
        first = number % len(ways)
        for way in stopping.checked([*ways[first:], *ways[:first]]):
            way.prepare()
            begun = clock()
            way.run()
            seconds[way.name].append(clock() - begun)
            on_progress(way.name, sum(map(len, seconds.values())), rounds * len(ways))
    return seconds


def ratios(seconds: Seconds, way: str, other: str) -> Spread:
    """Divides the seconds of the way `way` by the seconds of the way `other`, round by round. Returns the median, the
    lowest and the highest of these ratios.

    `seconds` maps the name of each way to its seconds in each round.
    """
    return Spread.of([a / b for a, b in zip(seconds[way], seconds[other], strict=True)])
