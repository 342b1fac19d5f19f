"""Computes how the time of an extraction was spent, from the ledger records of its finished shards. Torch-free.

The records contain measured seconds, and all executors write the same kind of record.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.ledger import Record
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.config import Config
from kinegraph.stages.clock import DEVICE, START_UP, THREADS, of_computing, of_prefix, summed


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A summary of the time that one extraction took, summed over all workers and all shards that it finished."""

    # `num_clips`, `num_shards`: the numbers of computed clips and shards
    num_clips: int
    num_shards: int
    devices: tuple[str, ...]  # the names of the devices that computed
    workers: int  # the number of workers that finished shards
    decoders: int  # the number of decoder threads of each worker. 0 means that the thread that computes also decodes.
    start_up: float  # the seconds in which the workers started
    # Kind of work, for example "waiting for decode" -> seconds of the threads that compute, without overlap
    computing: dict[str, float]
    beside: dict[str, float]  # kind of work -> seconds of the other threads
    on_device: dict[str, float]  # stage key -> seconds on CUDA devices
    wall: float  # the seconds that the command took
    is_one_process: bool  # whether one worker ran in the process of the command

    @property
    def outside(self) -> float:
        """Returns the seconds of the command that belong neither to the start-up of the worker nor to its work on
        finished shards. Returns 0 if workers ran in other processes, because their idle time is unknown.
        """
        inside = self.start_up + sum(self.computing.values())
        return max(0.0, self.wall - inside) if self.is_one_process else 0.0

    @property
    def total(self) -> float:
        """Returns the sum of all seconds: those of the start-up, those of the threads that compute, and the seconds
        `outside`.
        """
        return self.start_up + sum(self.computing.values()) + self.outside

    def busy(self, kind: str) -> float:
        """Returns how many threads of a worker did the work `kind` at a time, on average, while the worker computed.
        `kind` is a key of `beside`.
        """
        seconds = sum(self.computing.values())
        return self.beside.get(kind, 0.0) / seconds if seconds else 0.0


def profile_of(config: Config, cache: Cache, units: Iterable[WorkUnit], wall: float) -> Profile | None:
    """Returns a summary of the time that the finished work units `units` took, or None if `units` is empty. `wall` is
    the number of seconds that the command took.
    """
    records = [record for unit in units for record in _of_unit(cache, unit)]
    if not records:
        return None
    seconds = summed(*(record.seconds for record in records))
    inline = config.run.executor == "inline"
    return Profile(
        num_clips=sum({record.shard: record.num_rows for record in records}.values()),
        num_shards=len({record.shard for record in records}),
        devices=tuple(sorted({record.device for record in records})),
        workers=max(1, sum(START_UP in record.seconds for record in records)),
        decoders=0 if inline else max(record.threads for record in records),
        start_up=seconds.get(START_UP, 0.0),
        computing=of_computing(seconds),
        beside=of_prefix(THREADS, seconds),
        on_device=of_prefix(DEVICE, seconds),
        wall=wall,
        is_one_process=inline or (config.run.executor == "local" and config.run.workers == 1),
    )


def _of_unit(cache: Cache, unit: WorkUnit) -> Iterator[Record]:
    """Yields one ledger record for each worker that computed stages of `unit`. A worker writes one record per stage,
    and the records have the same seconds, so only its last record is yielded.
    """
    latest: dict[object, Record] = {}
    for key in unit.keys:
        if record := cache.ledger.read(key, unit.shard):
            latest[record.host, record.attempt, *of_computing(record.seconds).items()] = record
    yield from latest.values()
