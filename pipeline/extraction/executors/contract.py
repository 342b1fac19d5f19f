"""What an executor is: it runs all units of a job, in whatever order and place, and says what happens."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
    """Units of one config on one cache, and all stage keys they touch. `allotted`: the time there is for it."""

    config: Config
    cache: Cache
    keys: tuple[str, ...]
    units: tuple[WorkUnit, ...]
    allotted: Allotment | None = None


class Executor(Protocol):
    """Returns once every unit is sealed; leaves no process of its own behind, however it is left.

    Raises SetAsideError, and OutOfTimeError or WalltimeError where the time that is allotted ends before the units.
    """

    def run(self, job: Job, report: Report) -> None: ...


def set_aside(units: Iterable[WorkUnit], num_shards: int, hint: str = "") -> None:
    """Raise SetAsideError that names the shards, if there are any; `hint`: where else to look."""
    shards = sorted(unit.shard for unit in units)
    if shards:
        raise SetAsideError(
            f"shard {', '.join(map(str, shards))}: killed its worker {MAX_DEATHS} times, then one that had "
            "nothing else to do, and was set aside. All else is sealed. Run it with `--executor inline --shards "
            f"{shards[0]}/{num_shards}` to see what happens.{hint}"
        )
