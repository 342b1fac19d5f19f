"""Defines the events that workers report while they run. Events are small objects that can be sent between processes.

A unit is a `WorkUnit`: one shard with the stage keys to compute for it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kinegraph.pipeline.caches.plan import WorkUnit


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """Reports what a worker does before its first batch, for example `doing` = "decoding the first videos"."""

    doing: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Reports that a worker has measured its networks before its first batch, to choose a batch size or the networks to
    compile. `result` is a sentence for the user: what was measured, and what was chosen.
    """

    result: str


@dataclass(frozen=True, kw_only=True)
class ClipsDone:
    """Reports that the networks have computed `clips` more clips of a shard, from `videos` videos.

    `waiting` names the work that took most of the shard's time so far: a stage key, or a wait such as "waiting for
    decode".
    """

    clips: int
    videos: int
    waiting: str


@dataclass(frozen=True, kw_only=True)
class UnitSealed:
    """Reports that this run has finished the work unit `unit` (one shard with its stage keys): each stage key has a
    ledger record. `failed_clips` has the ids of the clips that failed.
    """

    unit: WorkUnit
    failed_clips: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class UnitSealedElsewhere:
    """Reports that another run finished the work unit `unit` (one shard with its stage keys) first."""

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class UnitLeased:
    """Reports that another run is computing the work unit `unit` (one shard with its stage keys). This run has to try
    the unit again later.
    """

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class UnitSuspected:
    """Reports that the work unit `unit` (one shard with its stage keys) may have killed several workers. The unit
    runs again, alone, after all other units.
    """

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class WorkerLost:
    """Reports that a worker process died while it computed the shards with the numbers `shards`.

    `exit_code` is the exit code of the process, or None if it is unknown. `set_aside` has the numbers of those shards
    that have killed several workers. The shards in `set_aside` are computed again at the end, all other shards
    immediately.
    """

    shards: tuple[int, ...]
    exit_code: int | None
    set_aside: tuple[int, ...]


UnitFate = UnitSealed | UnitSealedElsewhere | UnitLeased | UnitSuspected
Event = Preparing | Measured | ClipsDone | UnitFate | WorkerLost
Report = Callable[[Event], None]
