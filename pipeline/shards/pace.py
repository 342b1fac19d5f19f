"""Computes the speed of a stage from the times at which its shards were sealed. Torch-free."""

import datetime
from collections.abc import Collection, Iterable
from typing import NamedTuple

from kinegraph.cache_schemas.ledger import Record
from kinegraph.stages.clock import of_computing

RECENT_RECORDS = 50


class Sealed(NamedTuple):
    """One sealed shard: the time `at` of sealing, the number of `rows`, and the `seconds` that the work unit took to
    compute.

    `at` is in seconds since 1970 by the clock of the machine `host`.
    """

    at: float
    rows: int
    seconds: float
    host: str = ""

    @classmethod
    def of(cls, record: Record) -> "Sealed":
        at = datetime.datetime.fromisoformat(record.sealed_at).timestamp() if record.sealed_at else 0.0
        return cls(at, record.num_rows, sum(of_computing(record.seconds).values()), record.host)


def clips_per_second(sealed: Iterable[Sealed], at_work: Collection[str] = ()) -> float | None:
    """Returns the speed in clips per second of all hosts in `at_work` together. A host is a machine.

    `at_work` has the names of the hosts that work now, and `sealed` has sealed shards with their times. If `sealed` has
    no shard of a host in `at_work`, returns the speed of one host: the average over all hosts in `sealed`. Returns None
    if `sealed` shows no speed at all.
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
    """Returns the pace of one host: how many rows it sealed lately, and in how many seconds of work. `sealed` has the
    records of this host.

    The time of a record is the time since the record before it, but at most the duration of its own work unit. So a
    pause between runs does not count, and units that ran at the same time are not counted twice.
    """
    recent = sorted(sealed)[-RECENT_RECORDS:]
    elapsed, before = 0.0, float("-inf")
    for one in recent:
        elapsed += min(one.seconds, one.at - before)
        before = one.at
    return _HostPace(sum(one.rows for one in recent), elapsed)
