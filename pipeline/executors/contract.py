"""What an executor is: it runs all units of a job, in whatever order and place, and says what happens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cache_schemas.cache import Cache
from pipeline.config import Config
from pipeline.events import Event
from pipeline.plan import WorkUnit
from pipeline.walltime import Allotment

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
