"""Manages leases. A lease is a small file in which a worker says that it works on a shard, so that two runs on one
cache do not repeat work. Imports no torch.

Only the newest lease of a shard counts. To take over a shard, a worker creates the next lease. If two workers compete,
only one can create it. Leases only save work. The ledger alone says which shards are done, so a worker reads the ledger
again after it wins a lease and before it seals a shard.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from os import getpid
from socket import gethostname
from typing import Any, Literal

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.files import HOST, start_ticks
from kinegraph.cache_schemas.storage import Storage
from kinegraph.pipeline.errors import AnotherRunError
from kinegraph.pipeline.shards.lease import REFRESHES, Lease, lease_name, lease_of, listed, live_leases, read_lease
from kinegraph.pipeline.shards.watching import Watch

MAX_DEATHS = 3  # deaths of workers at one unit, before the unit is left for the end
Doing = Literal["decoding", "decoded", "computing"]
log = logging.getLogger("kinegraph")


class NoLeases:
    """Replaces `Leases` if the storage cannot hold leases, because the storage lets two writers create the same object.
    Every shard can be taken, so two runs may compute the same shard.
    """

    def take(self, shard: int, keys: tuple[str, ...]) -> bool:
        return True

    def deaths(self, shard: int) -> int:
        return 0

    def attempt(self, shard: int) -> int:
        return 1

    def is_ours(self, shard: int) -> bool:
        return True

    def note(self, shard: int, doing: Doing) -> None: ...

    def release(self, shard: int) -> None: ...

    def close(self) -> None: ...


class Leases:
    """The leases of one worker on the cache in `storage`. A thread refreshes them until they are released. Call `close`
    to release all of them.

    A worker may take over a shard if the lease of another worker is stale. A lease is stale if its worker was a process
    of this machine and is dead, or if the lease has not changed for the number of seconds that it states. The leases of
    this worker state `seconds`.
    """

    def __init__(self, storage: Storage, seconds: float) -> None:
        self.storage, self.seconds = storage, seconds
        self.holder = uuid.uuid4().hex
        self._held: dict[int, Lease] = {}  # in the order in which they were taken
        self._computing: set[int] = set()
        self._watch = Watch(storage, seconds)
        self._lock, self._taking = threading.Lock(), threading.Lock()
        self._closing = threading.Event()
        self._refresher = threading.Thread(target=self._refresh_all, name="lease", daemon=True)
        self._refresher.start()

    def take(self, shard: int, keys: tuple[str, ...]) -> bool:
        """Tries to lease shard number `shard` for this worker, to compute the stages `keys`. Returns False if another
        worker holds a lease of the shard that is not stale, else True.

        Raises RuntimeError if another thread has called `close`.
        """
        newest, is_stale = self._watch.newest(shard)
        if newest is not None and not is_stale:
            return False
        lease = Lease(
            shard=shard,
            attempt=newest.attempt + 1 if newest else 1,
            seconds=self.seconds,
            keys=keys,
            holder=self.holder,
            host=HOST,
            host_name=gethostname(),
            pid=getpid(),
            started=start_ticks(getpid()),
            deaths=newest.deaths_if_holder_died if newest else 0,
            ahead=bool(self._held),
            refreshed_at=time.time(),
        )
        with self._taking:
            if self._closing.is_set():
                raise RuntimeError(f"the leases of this worker are closed, and shard {shard} cannot be taken")
            if not self.storage.create(lease.name, lease.content):
                return False
            if lease_of(self.storage, shard) != lease:  # another worker took a newer lease meanwhile
                self.storage.delete(lease.name)
                return False
            with self._lock:
                self._held[shard] = lease
                self._watch.forget(shard)
                self._delete_older(lease)
        return True

    def deaths(self, shard: int) -> int:
        """Returns how many workers shard number `shard` may have killed. A worker counts if it began the shard and its
        lease was not released, but is stale or was taken over.
        """
        newest, is_stale = self._watch.newest(shard)
        if newest is None:
            return 0
        return newest.deaths_if_holder_died if is_stale else newest.deaths_before

    def attempt(self, shard: int) -> int:
        """Returns the number of this worker's lease among the leases of shard number `shard`, from 1."""
        return self._held[shard].attempt

    def is_ours(self, shard: int) -> bool:
        """Returns whether this worker still holds the lease of shard number `shard`. Another worker may have taken
        the lease over.
        """
        with self._lock:
            return self._still_held(shard) is not None

    def note(self, shard: int, doing: Doing) -> None:
        """Records what this worker does now with shard number `shard`. `doing` is "decoding", "decoded" (the shard
        waits for its first batch) or "computing".

        If this worker dies, other workers conclude from the last note which shard may be the cause. It is no shard that
        only waits, unless this worker has held it for longest.
        """
        with self._lock:
            lease = self._held.get(shard)
            if lease is None:
                return
            if doing == "computing":
                self._computing.add(shard)
            is_first = shard == next(iter(self._held))
            ahead = doing == "decoded" and not is_first and shard not in self._computing
            if ahead != lease.ahead:
                self._try_to_renew(shard, ahead=ahead)

    def release(self, shard: int) -> None:
        """Releases shard number `shard` by deleting this worker's lease. A lease that another worker has taken over is
        not deleted.
        """
        with self._lock:
            lease = self._still_held(shard)
            self._held.pop(shard, None)
            self._computing.discard(shard)
            if lease is not None:
                self._delete_older(lease)
                self.storage.delete(lease.name)

    def close(self) -> None:
        """Releases all shards and stops the thread that refreshes the leases. If a lease cannot be deleted, it becomes
        stale after `seconds`.
        """
        with self._taking:  # a `take` in another thread ends before, with nothing half written
            self._closing.set()
        self._refresher.join()
        try:
            for shard in list(self._held):
                self.release(shard)
        except OSError as error:  # this error must not hide why the run ends
            log.warning("leases could not be released, and count for %g s more: %s", self.seconds, error)

    def _still_held(self, shard: int) -> Lease | None:
        """Returns the lease that this worker holds on shard number `shard`. Returns None if it holds none, or if
        another worker has taken the shard over.
        """
        lease = self._held.get(shard)
        # read again, because a refresh that got no answer may have been written or not
        newest = lease_of(self.storage, shard) if lease is not None else None
        return lease if lease is not None and newest is not None and newest.is_same_as(lease) else None

    def _is_in_place(self, lease: Lease) -> bool:
        """Returns whether `lease` of this worker is stored, and its shard has no next lease.

        This asks the storage for two objects, not for a list of all leases as `_still_held` does, because hundreds of
        workers refresh their leases all the time.
        """
        if self.storage.exists(lease_name(lease.shard, lease.attempt + 1)):
            return False
        stored = read_lease(self.storage, Lease(shard=lease.shard, attempt=lease.attempt, seconds=lease.seconds))
        return stored is not None and stored.is_same_as(lease)

    def _delete_older(self, lease: Lease) -> None:
        for attempt in range(1, lease.attempt):
            self.storage.delete(lease_name(lease.shard, attempt))

    def _refresh_all(self) -> None:
        while not self._closing.wait(self.seconds / REFRESHES):
            for shard in list(self._held):
                self._refresh(shard)

    def _refresh(self, shard: int) -> None:
        with self._lock:
            self._try_to_renew(shard)

    def _try_to_renew(self, shard: int, **changes: Any) -> None:
        try:
            if (lease := self._held.get(shard)) is not None and self._is_in_place(lease):
                fresh = replace(lease, refreshes=lease.refreshes + 1, refreshed_at=time.time(), **changes)
                self.storage.put(fresh.name, [fresh.content])
                self._held[shard] = fresh
        except OSError as error:
            log.warning("the lease of shard %d could not be refreshed: %s", shard, error)


def leases_on(storage: Storage, seconds: float) -> Leases | NoLeases:
    """Returns a `Leases` for a new worker, which holds no lease yet. A lease that the worker takes becomes stale if it
    is not refreshed for `seconds`.

    If the storage lets several workers create the same lease, returns a `NoLeases`. With a `NoLeases`, a worker may
    take every shard.
    """
    return Leases(storage, seconds) if storage.creates_exclusively() else NoLeases()


@contextmanager
def alone(storage: Storage, seconds: float) -> Iterator[None]:
    """Keeps all other runs away from the cache during the `with` block, by holding the lease of every shard. The leases
    become stale if they are not refreshed for `seconds`.

    Waits until the leases of dead runs are stale. Raises AnotherRunError if another run refreshes its lease meanwhile.
    """
    if not storage.creates_exclusively():
        log.warning("%s keeps no leases. Make sure that no other run works on this cache.", storage.root)
    with closing(leases_on(storage, seconds)) as leases:
        for shard in sorted({0, *(shard for shard, _ in listed(storage))}):  # 0: two such blocks never run together
            first = lease_of(storage, shard)
            while not leases.take(shard, ()):
                now = lease_of(storage, shard)
                if first is not None and now is not None and now != first:
                    raise AnotherRunError(_busy(storage, now))
                first = first or now
                stopping.sleep(seconds / REFRESHES / REFRESHES)
        yield


def require_alone(storage: Storage) -> None:
    """Raises AnotherRunError if another process works on the cache. A process works on the cache if it holds a lease,
    has refreshed the lease in time, and is not known to be dead.
    """
    for lease in live_leases(storage):
        if (lease.host, lease.pid) != (HOST, getpid()):
            raise AnotherRunError(_busy(storage, lease))


def _busy(storage: Storage, lease: Lease) -> str:
    who = f"process {lease.pid} of {lease.host_name or lease.host}"
    return (
        f"{storage.root}: {who} is at work on shard {lease.shard}. Stop all other runs on this cache, then repeat the "
        "command."
    )


def warn_if_off(storage: Storage) -> None:
    """Logs a warning if `storage` cannot hold leases. The warning says what to do."""
    if not storage.creates_exclusively():
        log.warning(
            "%s lets two writers create the same object (no conditional put), so leases are off. If several runs "
            "share this cache, start each with its part, --shards I/N. Otherwise they repeat work.",
            storage.root,
        )
