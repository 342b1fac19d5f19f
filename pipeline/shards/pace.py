"""Computes the speed of an extraction from the times at which its shards were finished. Imports no torch."""

import datetime
from collections.abc import Collection, Iterable
from typing import NamedTuple

from kinegraph.cache_schemas.ledger import Record
from kinegraph.stages.clock import of_computing

RECENT_RECORDS = 50


class Sealed(NamedTuple):
    """The time at which one shard was finished (sealed), and how long it took to compute."""

    at: float  # when the shard was finished, in seconds since 1970 by the clock of `host`
    rows: int  # the number of rows of the shard
    seconds: float  # the time that the work unit took to compute
    host: str = ""  # the name of the machine

    @classmethod
    def of(cls, record: Record) -> "Sealed":
        at = datetime.datetime.fromisoformat(record.sealed_at).timestamp() if record.sealed_at else 0.0
        return cls(at, record.num_rows, sum(of_computing(record.seconds).values()), record.host)


def clips_per_second(sealed: Iterable[Sealed], at_work: Collection[str] = ()) -> float | None:
    """Returns the speed of all hosts in `at_work` together, in clips per second. A host is a machine. `sealed` has the
    finished shards, with their times and hosts.

    If `sealed` has no shard of these hosts, returns the average speed of one host, over all hosts in `sealed`. Returns
    None if `sealed` shows no speed at all.
    """
    of_host: dict[str, list[Sealed]] = {}
    for one in sealed:
        of_host.setdefault(one.host, []).append(one)
    paces = {host: pace for host, records in of_host.items() if (pace := _pace(records)).seconds > 0}
    if running := [paces[host].rows / paces[host].seconds for host in set(at_work) & paces.keys()]:
        return sum(running)
    return sum(pace.rows for pace in paces.values()) / sum(pace.seconds for pace in paces.values()) if paces else None


class _HostPace(NamedTuple):
    rows: int
    seconds: float


def _pace(sealed: Iterable[Sealed]) -> _HostPace:
    """Returns how many rows one host sealed lately, and in how many seconds of work. `sealed` has the shards of this
    host.

    The time of a shard is the time since the shard before it, but at most the duration of its own work unit. So a pause
    between runs does not count, and work units that ran at the same time are not counted twice.
    """
    recent = sorted(sealed)[-RECENT_RECORDS:]
    elapsed, before = 0.0, float("-inf")
    for one in recent:
        elapsed += min(one.seconds, one.at - before)
        before = one.at
    return _HostPace(sum(one.rows for one in recent), elapsed)
