"""Watches the leases of other workers, to see which of them become stale. Imports no torch."""

import math
from dataclasses import dataclass
from time import monotonic

from kinegraph.cache_schemas.storage import Storage
from kinegraph.pipeline.shards.lease import REFRESHES, Lease, newest_attempts, read_lease

LISTING_SECONDS = 1.0  # age up to which a listing of all leases is used again


@dataclass(frozen=True)
class _Seen:
    """A lease of another worker, as it was read at the time `read_at`. It has not changed since the time `since`. Both
    times are in seconds of this machine's monotonic clock.
    """

    lease: Lease
    since: float
    read_at: float

    @property
    def is_recent(self) -> bool:
        """Returns whether the lease was read so lately that it cannot be stale, unless its worker has died."""
        now, seconds = monotonic(), self.lease.seconds
        return now - self.since < seconds and now - self.read_at < seconds / REFRESHES and not self.lease.holder_is_dead


class Watch:
    """Watches the leases in `storage`, for one worker. A damaged lease becomes stale `seconds` after this object first
    read it.

    Many workers may wait for the last shards of a cache, and ask for each of them again and again. To ask the storage
    less, all leases are listed at most once in LISTING_SECONDS, and a lease that cannot be stale yet is read as seldom
    as it is refreshed. So an answer may be old, but a lease is read again before it counts as stale.
    """

    def __init__(self, storage: Storage, seconds: float) -> None:
        self.storage, self.seconds = storage, seconds
        self._seen: dict[int, _Seen] = {}
        self._attempts: dict[int, int] = {}
        self._listed_at = -math.inf

    def newest(self, shard: int) -> tuple[Lease | None, bool]:
        """Returns (newest lease of shard number `shard`, whether this lease is stale). Returns (None, False) if the
        shard has no lease.
        """
        kept = monotonic() - self._listed_at < LISTING_SECONDS
        if not kept:
            self._listed_at, self._attempts = monotonic(), newest_attempts(self.storage)
        if (attempt := self._attempts.get(shard)) is None:
            return None, False
        seen = self._seen.get(shard)
        if seen is not None and seen.lease.attempt == attempt and seen.is_recent:
            return seen.lease, False
        lease = read_lease(self.storage, Lease(shard=shard, attempt=attempt, seconds=self.seconds))
        if lease is not None:
            return lease, self._is_stale(lease)
        if not kept:
            return None, False
        self._listed_at = -math.inf  # the lease was released or taken over after the listing
        return self.newest(shard)

    def forget(self, shard: int) -> None:
        """Forgets what was seen of the lease of shard number `shard`, because this worker holds it now."""
        self._seen.pop(shard, None)

    def _is_stale(self, lease: Lease) -> bool:
        """Returns whether `lease`, which was read just now, is stale."""
        now, before = monotonic(), self._seen.get(lease.shard)
        since = before.since if before is not None and before.lease == lease else now
        self._seen[lease.shard] = _Seen(lease, since, read_at=now)
        return lease.holder_is_dead or now - since >= lease.seconds
