"""Says where the time of an extraction went, from the ledger records of the shards that it sealed. Torch-free.

All executors write the same records, so the profile is the same for all. The module reads no clock.
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
    """The seconds of sealed work units, of all workers together: `num_clips` clips in `num_shards` shards.

    `computing` maps each kind of work, for example "waiting for decode", to the seconds of the threads that compute,
    without overlap. `beside` has the seconds of the other threads, and `on_device` those of stages on a CUDA device.
    `start_up` is the time in which `workers` workers started. Each worker has `decoders` threads that decode. If this
    is 0, the thread that computes also decodes. `devices` are the names of the devices that computed. `wall` is the
    duration of the command. `is_one_process` says that one worker ran in the process of the command.
    """

    num_clips: int
    num_shards: int
    devices: tuple[str, ...]
    workers: int
    decoders: int
    start_up: float
    computing: dict[str, float]
    beside: dict[str, float]
    on_device: dict[str, float]
    wall: float
    is_one_process: bool

    @property
    def outside(self) -> float:
        """Returns the seconds of the command that are left over: the duration of the command without the start-up of
        the worker and without the work on sealed shards. Returns 0 if workers ran in other processes, because it is not
        known how long they were idle.
        """
        inside = self.start_up + sum(self.computing.values())
        return max(0.0, self.wall - inside) if self.is_one_process else 0.0

    @property
    def total(self) -> float:
        """Returns the sum of all seconds: the seconds in which workers started, the seconds in which they computed, and
        the seconds `outside`, which belong to no sealed shard.
        """
        return self.start_up + sum(self.computing.values()) + self.outside

    def busy(self, kind: str) -> float:
        """Returns how many threads of a worker were busy with `kind` on average, while the worker computed."""
        seconds = sum(self.computing.values())
        return self.beside.get(kind, 0.0) / seconds if seconds else 0.0


def profiled(config: Config, cache: Cache, units: Iterable[WorkUnit], wall: float) -> Profile | None:
    """Returns the Profile of the sealed work units `units`, or None if `units` is empty. `wall` is the duration of the
    command in seconds.
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
    """Yields one ledger record for each worker that computed stages of the work unit `unit`. A worker writes one record
    for each of its stages, with equal seconds of the thread that computes. Of these, the last is yielded.
    """
    latest: dict[object, Record] = {}
    for key in unit.keys:
        if record := cache.ledger.read(key, unit.shard):
            latest[record.host, record.attempt, *of_computing(record.seconds).items()] = record
    yield from latest.values()
