"""Events that workers report while they run. Events are small and can be sent between processes.

A unit is a `WorkUnit`: one shard with the stage keys to compute for it.
"""

from dataclasses import dataclass

from kinegraph.pipeline.caches.plan import WorkUnit


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """An event: the first clips are being prepared. `doing` says what is done now, for example "decoding the first
    videos".
    """

    doing: str


@dataclass(frozen=True, kw_only=True)
class ClipsDone:
    """An event: the networks are done with `clips` more clips, from `videos` videos.

    `waiting` names what took most of the time of this shard so far: a stage key, or a wait such as `waiting for
    decode`.
    """

    clips: int
    videos: int
    waiting: str


@dataclass(frozen=True, kw_only=True)
class UnitSealed:
    """An event: the work unit `unit` is done, so each of its stage keys has a ledger record. `failed_clips` are the ids
    of the clips that failed.
    """

    unit: WorkUnit
    failed_clips: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class UnitSealedElsewhere:
    """Another run sealed `unit` before this run began it."""

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class UnitLeased:
    """Another run holds the lease of the unit and works on it. This run has to try the unit again later."""

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class UnitSuspected:
    """`unit` killed several workers. It runs again at the end, with nothing else beside it."""

    unit: WorkUnit


@dataclass(frozen=True, kw_only=True)
class WorkerLost:
    """A worker process died while it held the units of `shards`. `exit_code` is None if the exit code is unknown.

    The units whose shards are in `set_aside` have killed several workers, and run again at the end. The other units run
    again at once.
    """

    shards: tuple[int, ...]
    exit_code: int | None
    set_aside: tuple[int, ...]


UnitFate = UnitSealed | UnitSealedElsewhere | UnitLeased | UnitSuspected
Event = Preparing | ClipsDone | UnitFate | WorkerLost
