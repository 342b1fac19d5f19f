"""What workers say while they run; small, and safe to send between processes."""

from dataclasses import dataclass

from kinegraph.pipeline.caches.plan import WorkUnit


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """What a worker does before its first clips: it loads networks, or waits for a cluster."""

    doing: str


@dataclass(frozen=True, kw_only=True)
class ClipsDone:
    """So many more clips (and videos) went through the networks; `waiting` names what the worker waits for most."""

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
    """Another run sealed the unit while this one got to it."""

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class UnitLeased:
    """Another run is at the unit; it is to be visited again."""

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class UnitSuspected:
    """So many workers died at the unit that it is left alone for now."""

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class WorkerLost:
    """A worker process died; its units run again, unless they killed so many workers that they are `set_aside`.

    `exit_code`: None where it is not known.
    """

    shards: tuple[int, ...]
    exit_code: int | None
    set_aside: tuple[int, ...]


UnitFate = UnitSealed | UnitSealedElsewhere | UnitLeased | UnitSuspected
Event = Preparing | ClipsDone | UnitFate | WorkerLost
