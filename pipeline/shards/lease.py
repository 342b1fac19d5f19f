"""Defines a lease and reads leases. A lease is a small file in which a worker says that it works on a shard. Imports no
torch.
"""

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from kinegraph.cache_schemas.files import HOST, alive
from kinegraph.cache_schemas.storage import Storage

LEASES = "leases"
NAME = re.compile(rf"{LEASES}/(\d{{6,}})(?:\.(\d+))?\.json")
MAX_SECONDS = 7 * 86_400.0  # longest time without a refresh after which a lease is stale
REFRESHES = 4  # per `seconds` of a lease


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One worker's claim on one shard. A lease becomes stale if the worker does not refresh it for `seconds`. Another
    worker may then take the shard over, with a new lease.
    """

    shard: int
    attempt: int  # the number of this lease among the leases of the shard, from 1
    seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS)]
    keys: tuple[str, ...] = ()  # the stages that the worker computes
    # `holder`, `host`, `host_name`: a random name of the worker, a digest of its machine, and the machine's name
    holder: str = ""
    host: str = ""
    host_name: str = ""
    # `pid`, `started`: the number of the worker's process, and its start in clock ticks since the boot (0 if unknown)
    pid: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    started: int = 0
    # How many earlier workers died while they held the shard, so that the shard may have killed them. None in leases of
    # earlier versions, where every earlier attempt counts as a death.
    deaths: int | None = None
    # True while the shard waits, because its worker still works on a shard that it leased before this one. If the
    # worker dies then, this shard is not the cause.
    ahead: bool = False
    refreshes: int = 0
    # When the worker last refreshed the lease, in seconds since 1970 by the worker's clock
    refreshed_at: Annotated[float, Field(allow_inf_nan=False)] = 0.0

    @property
    def name(self) -> str:
        return lease_name(self.shard, self.attempt)

    @property
    def content(self) -> bytes:
        return json.dumps(vars(self)).encode()

    def is_same_as(self, other: "Lease") -> bool:
        """Returns whether `other` is this lease, perhaps with a later refresh: same shard, same worker, same
        attempt.
        """
        return (self.shard, self.attempt, self.holder) == (other.shard, other.attempt, other.holder)

    @property
    def holder_is_dead(self) -> bool:
        """Returns whether the worker that holds the lease ran on this machine and has ended."""
        return self.host == HOST and not alive(self.pid, self.started)

    @property
    def deaths_before(self) -> int:
        return self.attempt - 1 if self.deaths is None else self.deaths

    @property
    def deaths_if_holder_died(self) -> int:
        return self.deaths_before + (not self.ahead)


def lease_name(shard: int, attempt: int) -> str:
    """Returns the name of the object in which lease number `attempt` of shard number `shard` is stored."""
    return f"{LEASES}/{shard:06d}{f'.{attempt}' if attempt > 1 else ''}.json"


def live_leases(storage: Storage) -> Iterator[Lease]:
    """Yields the newest lease of each shard that is leased now. A lease is yielded if it was refreshed in time and its
    worker is not known to be dead.
    """
    now = cache(lambda: _now(storage))
    for shard, attempt in newest_attempts(storage).items():
        lease = read_lease(storage, Lease(shard=shard, attempt=attempt, seconds=0.0))
        if lease is not None and not lease.holder_is_dead and _was_refreshed_lately(storage, lease, now):
            yield lease


def _was_refreshed_lately(storage: Storage, lease: Lease, now: Callable[[], float | None]) -> bool:
    """Returns whether the lease was written less than `lease.seconds` ago, by the clock of the storage. `now` returns
    the present time of this clock. Returns True if the storage does not report times, and False if the lease is gone.
    """
    try:
        written = storage.written_at(lease.name)
    except FileNotFoundError:
        return False
    present = now() if written is not None else None
    return written is None or present is None or present - written < lease.seconds


def _now(storage: Storage) -> float | None:
    """Returns the present time by the clock of the storage, in seconds since 1970. It writes a small object and asks
    when this object was written. Returns None if nothing can be written.
    """
    probe = f"probes/{uuid.uuid4().hex}"
    try:
        storage.put(probe, [b""])
        written = storage.written_at(probe)
        storage.delete(probe)
    except OSError:
        return None
    return written


def lease_of(storage: Storage, shard: int, seconds: float = 0.0) -> Lease | None:
    """Returns the newest lease of shard number `shard`, or None if the shard has no lease.

    If the stored lease is damaged, its holder is unknown. The function then returns a Lease with only `shard`,
    `attempt` and `seconds` set. `seconds` is the time for which a lease must stay unchanged to be stale.
    """
    attempts = [attempt for other, attempt in listed(storage) if other == shard]
    return read_lease(storage, Lease(shard=shard, attempt=max(attempts), seconds=seconds)) if attempts else None


def newest_attempts(storage: Storage) -> dict[int, int]:
    """Returns shard number -> number of the newest lease of the shard, for all shards that have a lease."""
    newest: dict[int, int] = {}
    for shard, attempt in listed(storage):
        newest[shard] = max(attempt, newest.get(shard, 0))
    return newest


def listed(storage: Storage) -> Iterator[tuple[int, int]]:
    """Yields (shard number, attempt) of each stored lease. A shard may have several leases."""
    for name in storage.names(LEASES):
        if match := NAME.fullmatch(name):
            yield int(match[1]), int(match[2] or 1)


def read_lease(storage: Storage, nobodys: Lease) -> Lease | None:
    """Reads one stored lease and returns it. `nobodys` is a Lease without a holder, whose shard and attempt say which
    lease to read. Returns None if there is no such lease, and `nobodys` if the stored lease is damaged.
    """
    try:
        lease = DOCUMENT.validate_json(storage.get(nobodys.name))
        return replace(lease, shard=nobodys.shard, attempt=nobodys.attempt)
    except FileNotFoundError:
        return None
    except ValidationError:
        return nobodys


DOCUMENT = TypeAdapter(Lease)
