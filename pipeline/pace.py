"""How fast a stage goes, from when its shards were sealed. Torch-free."""

import datetime
from collections.abc import Iterable
from typing import NamedTuple

RECENT_RECORDS = 50


class Sealed(NamedTuple):
    """When a shard was sealed (POSIX seconds), its rows, and the seconds that its unit took."""

    at: float
    rows: int
    seconds: float

    @classmethod
    def of(cls, sealed_at: str, rows: int, seconds: Iterable[float]) -> "Sealed":
        at = datetime.datetime.fromisoformat(sealed_at).timestamp() if sealed_at else 0.0
        return cls(at, rows, sum(seconds))


def clips_per_second(sealed: Iterable[Sealed]) -> float | None:
    """Clips a second over the most recent records, all workers together; None where nothing tells.

    A record counts the time since the one before it, but no more than its own unit took: so pauses between runs do
    not count, and units that ran side by side count once. Stages that ran in one unit share its time.
    """
    recent = sorted(sealed)[-RECENT_RECORDS:]
    elapsed, before = 0.0, float("-inf")
    for one in recent:
        elapsed += min(one.seconds, one.at - before)
        before = one.at
    return sum(one.rows for one in recent) / elapsed if elapsed > 0 else None
