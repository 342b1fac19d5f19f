"""The contract of executors: an executor runs all units of a job, in any order and place, and reports events."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.clusters.walltime import Allotment
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import SetAsideError
from kinegraph.pipeline.extraction.events import Event
from kinegraph.pipeline.shards.leases import MAX_DEATHS

Report = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """The work of one extraction: `units` are the work units of `config` on `cache`, and `keys` are all stage keys of
    these units.

    `allotted` is the time in which the units have to end, or None if the time is not limited. `begun` is the time at
    which the job began, by time.monotonic of this process.
    """

    config: Config
    cache: Cache
    keys: tuple[str, ...]
    units: tuple[WorkUnit, ...]
    allotted: Allotment | None = None
    begun: float = field(default_factory=monotonic)


class Executor(Protocol):
    """Computes the work units of a job. `run` computes all units of `job`, and calls `report` with each Event, which
    says what has become of a unit. It returns once every unit is sealed. No process of the executor outlives the call.

    `run` raises SetAsideError if units were not sealed because they killed every worker that tried them. It raises
    OutOfTimeError if the allotted time ends first, and WalltimeError if not even one unit fits into that time.
    """

    def run(self, job: Job, report: Report) -> None: ...


def set_aside(units: Iterable[WorkUnit], num_shards: int, hint: str = "") -> None:
    """Raises SetAsideError, which names the shards of `units`. Each of these units killed several workers and is given
    up. Does nothing if there are no units.

    `num_shards` counts all shards of the cache. `hint` is a sentence for the end of the message, which says where else
    the user can look for the cause.
    """
    shards = sorted(unit.shard for unit in units)
    if shards:
        raise SetAsideError(
            f"shard {', '.join(map(str, shards))}: killed its worker {MAX_DEATHS} times, then a worker that had "
            "nothing else to do, and was set aside. All other shards are sealed. Run it with `--executor inline "
            f"--shards {shards[0]}/{num_shards}` to see what happens.{hint}"
        )
