"""Defines the contract of executors. An executor runs all work units of a job, in any order and in any process, and
reports events.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.clusters.walltime import Allotment
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import SetAsideError
from kinegraph.pipeline.extraction.events import Report
from kinegraph.pipeline.shards.leases import MAX_DEATHS


@dataclass(frozen=True, kw_only=True)
class Job:
    """The work of one extraction, which an executor runs."""

    config: Config
    cache: Cache
    keys: tuple[str, ...]  # the stage keys that occur in `units`
    # The work units to compute. A work unit is one shard with the stage keys to compute for it.
    units: tuple[WorkUnit, ...]
    allotted: Allotment | None = None  # the time limit of the job, or None if the time is not limited
    # The time at which the job began, by time.monotonic of this process
    begun: float = field(default_factory=monotonic)


class Executor(Protocol):
    """Runs all work units of a job, in this process or elsewhere. A work unit is one shard with the stage keys to
    compute for it.

    `run` returns when every unit of `job` is finished and all processes of the executor have ended. It calls `report`
    with each event, for example when a unit is finished.

    `run` raises SetAsideError if units killed every worker that tried them. It raises OutOfTimeError if the time limit
    of the job ends first, and WalltimeError if the time limit is too short for one unit.
    """

    def run(self, job: Job, report: Report) -> None: ...


def set_aside(units: Iterable[WorkUnit], num_shards: int, hint: str = "") -> None:
    """Raises SetAsideError with the shard numbers of `units`, the work units that killed every worker that tried them.
    Does nothing if `units` is empty.

    `num_shards` is the number of all shards of the cache. `hint` is a sentence that is added to the message: where the
    user can look for the cause.
    """
    shards = sorted(unit.shard for unit in units)
    if shards:
        raise SetAsideError(
            f"shard {', '.join(map(str, shards))}: killed its worker {MAX_DEATHS} times, then a worker that had "
            "nothing else to do, and was set aside. All other shards are sealed. Run it with `--executor inline "
            f"--shards {shards[0]}/{num_shards}` to see what happens.{hint}"
        )
