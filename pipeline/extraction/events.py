"""Events that workers report while they run. Events are small and can be sent between processes."""

from dataclasses import dataclass

from kinegraph.pipeline.caches.plan import WorkUnit


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """A worker prepares its first clips: it loads networks or waits for a cluster."""

    doing: str


@dataclass(frozen=True, kw_only=True)
class ClipsDone:
    """More clips and videos went through the networks. `waiting` names what the worker waits for most."""

    clips: int
    videos: int
    waiting: str


@dataclass(frozen=True, kw_only=True)
class UnitSealed:
    """All keys of a unit have their ledger records."""

    unit: WorkUnit
    failed_clips: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class UnitSealedElsewhere:
    """Another run sealed the unit before this run began it."""

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class UnitLeased:
    """Another run works on the unit. The unit has to be retried."""

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class UnitSuspected:
    """The unit killed so many workers that it is left alone for now."""

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class WorkerLost:
    """A worker process died. Its units run again, except those in `set_aside`, which killed too many workers.

    `exit_code` is None if it is unknown.
    """

    shards: tuple[int, ...]
    exit_code: int | None
    set_aside: tuple[int, ...]


UnitFate = UnitSealed | UnitSealedElsewhere | UnitLeased | UnitSuspected
Event = Preparing | ClipsDone | UnitFate | WorkerLost
