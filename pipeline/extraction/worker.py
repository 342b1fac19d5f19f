"""Defines the worker, which loads the networks once and computes work units.

A unit is a `WorkUnit`: one shard with the stage keys to compute for it. A unit is sealed (finished) when each of its
stage keys has a ledger record.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic

import torch

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.caches.verification import shard_problems
from kinegraph.pipeline.clusters.walltime import UnitSchedule, allotment, require_time_to_wait
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.events import (
    ClipsDone,
    Preparing,
    UnitLeased,
    UnitSealed,
    UnitSealedElsewhere,
    UnitSuspected,
)
from kinegraph.pipeline.extraction.feed import Feed, PixelBatch
from kinegraph.pipeline.extraction.networks import Loaded, Report, load
from kinegraph.pipeline.extraction.shard import ShardInProgress
from kinegraph.pipeline.machine.hardware import usable_cores
from kinegraph.pipeline.shards.leases import Leases, NoLeases, leases_on
from kinegraph.pipeline.shards.revisiting import revisit
from kinegraph.stages.clock import DECODE_WAIT, FIRST_BATCH, REST, START_UP, WRITER_WAIT, Clock

log = logging.getLogger("kinegraph")


@dataclass(frozen=True)
class Pass:
    """One pass of a worker over work units, with lists of the units that the pass could not run. A work unit is one
    shard with the stage keys to compute for it.

    - `leases`: the leases of the worker. A lease reserves a shard for one worker.
    - `max_deaths`: a unit that has killed this many workers is not run.
    - `leased`: the units that another run has leased.
    - `suspects`: the units that may have killed `max_deaths` workers.
    - `too_late`: the first unit that cannot end before the time limit.
    """

    leases: Leases | NoLeases
    max_deaths: float
    leased: list[WorkUnit] = field(default_factory=list)
    suspects: list[WorkUnit] = field(default_factory=list)
    too_late: list[WorkUnit] = field(default_factory=list)


class Worker:
    """Computes work units of one config and writes them to one cache. A work unit is one shard with the stage keys to
    compute for it.

    - `keys`: the stages to compute. The constructor loads their networks and declares the stages in the cache.
    - `report`: a function that is called with each event.
    - `schedule`: decides whether another unit can end in time. Default: the time limit of the config or of the SLURM
      job around this process, whichever ends first.
    - `loaded`: networks that another worker has loaded. They are used in place of the networks of `keys`.
    - `begun`: the time at which the start-up of this worker began, by time.monotonic. Default: now.

    The constructor raises WeightsError if weights cannot be read, and CacheMismatch if the cache was made with other
    weights.
    """

    def __init__(
        self,
        config: Config,
        cache: Cache,
        keys: Iterable[str],
        report: Report,
        schedule: UnitSchedule | None = None,
        loaded: Loaded | None = None,
        begun: float | None = None,
    ) -> None:
        begun = monotonic() if begun is None else begun
        self.config, self.cache, self.report = config, cache, report
        self.schedule = schedule or UnitSchedule(allotment(config.run.walltime_seconds))
        self.threads = config.run.worker_threads
        torch.set_num_threads(self.threads)
        self.loaded = loaded or load(config, cache, keys, report)
        self._start_up_seconds = max(0.0, monotonic() - begun)

    @property
    def decoders(self) -> int:
        """Returns the number of threads of this worker that decode videos, if it decodes ahead of the networks.

        The option `run.decode_threads` sets the number. Its default is the number of threads that compute. On a GPU
        with `threads: auto` the default is at least this worker's share of the CPU cores, because the networks do not
        use them.
        """
        run = self.config.run
        if run.decode_threads is not None or run.threads != "auto" or self.loaded.device.type == "cpu":
            return run.decode_threads or self.threads
        return max(self.threads, usable_cores() // max(1, torch.cuda.device_count()))

    def run(self, units: Iterable[WorkUnit], *, decode_threads: int, max_deaths: float = math.inf) -> list[WorkUnit]:
        """Computes all work units `units`, with `decode_threads` threads that decode. Returns the suspects: the units
        that may have killed `max_deaths` workers and were not run.

        If another run works on a unit, tries the unit again after the other units. This goes on until the other run has
        finished the unit, or is dead and this run computes the unit. If a signal stops the call, all finished shards
        stay in the cache.

        Raises OutOfTimeError if no further unit can end in time. All units that have begun are finished before. Raises
        WalltimeError if the time limit is too short for one unit.
        """
        suspects: list[WorkUnit] = []

        def one_pass(units: Iterable[WorkUnit]) -> list[WorkUnit]:
            current_pass = Pass(leases, max_deaths)
            self._run_in_time(iter(units), current_pass, decode_threads)
            suspects.extend(current_pass.suspects)
            if current_pass.too_late:
                raise self.schedule.stopped()
            return current_pass.leased

        self.report(Preparing(doing="decoding the first videos"))
        with closing(leases_on(self.cache.storage, self.config.run.lease_seconds)) as leases, self._explained_stop():
            revisit(units, one_pass, partial(require_time_to_wait, self.schedule.allotted))
        return suspects

    @contextmanager
    def _explained_stop(self) -> Iterator[None]:
        """Raises WalltimeError in place of a KeyboardInterrupt in the `with` block, if the time limit was too short for
        one unit. Otherwise the KeyboardInterrupt is raised unchanged.
        """
        try:
            yield
        except KeyboardInterrupt as stop:
            if (error := self.schedule.cut_off()) is not None:
                raise error from stop
            raise

    def _run_in_time(self, units: Iterator[WorkUnit], current_pass: Pass, decode_threads: int) -> None:
        """Computes those of `units` that this worker can lease, with `decode_threads` threads that decode. Adds the
        other units to the lists of `current_pass`.

        If the time is limited, the first unit runs alone, because its duration must be known before other units begin.
        """
        while self.schedule.lacks_measure and (first := next(units, None)) is not None:
            self.run_free([first], current_pass, decode_threads=decode_threads)
        self.run_free(units, current_pass, decode_threads=decode_threads)

    def _taken(self, units: Iterable[WorkUnit], current_pass: Pass) -> Iterator[WorkUnit]:
        """Takes the lease of each of `units` and yields the unit. A yielded unit has only the stage keys that are not
        sealed yet.

        A unit that cannot run now is not yielded and is added to a list of `current_pass`:

        - `suspects`: the unit may have killed `current_pass.max_deaths` workers.
        - `leased`: another run has leased the unit.
        - `too_late`: the unit cannot end before the time limit. The iterator then ends.

        A unit whose keys are all sealed is reported as UnitSealedElsewhere.
        """
        for unit in units:
            if not self.schedule.has_room():
                current_pass.too_late.append(unit)
                return
            if current_pass.leases.deaths(unit.shard) >= current_pass.max_deaths:
                current_pass.suspects.append(unit)
                self.report(UnitSuspected(unit=unit))
                continue
            if not current_pass.leases.take(unit.shard, unit.keys):
                current_pass.leased.append(unit)
                self.report(UnitLeased(unit=unit))
                continue
            self.cache.check_not_upgraded()  # an upgrade that begins from now on sees the lease of this worker
            if (left := self._left(unit)).keys:
                self.schedule.begin(unit.shard)
                yield left
            else:
                current_pass.leases.release(unit.shard)
                self.report(UnitSealedElsewhere(unit=unit))

    def _left(self, unit: WorkUnit) -> WorkUnit:
        """Returns `unit` with only those stage keys that still have to be computed. Leaves out a key that another
        worker has sealed since the unit was planned.

        A sealed key stays if its failed clips are to be retried (`unit.reopened`). If the sealed values of this key are
        damaged, all its rows in the shard are computed again.
        """
        ledger, planned = self.cache.ledger, {record.key: record for record in unit.reopened}
        keys, reopened = [], []
        for key in unit.keys:
            if ledger.has(key, unit.shard):
                if key not in planned or ledger.read(key, unit.shard) != planned[key]:
                    continue
                if problem := next(shard_problems(self.cache, self.loaded.declared.stages[key], planned[key]), None):
                    log.warning("%s shard %d runs again as a whole: %s: %s", key, unit.shard, *reversed(problem))
                    ledger.unseal(key, unit.shard)
                else:
                    reopened.append(planned[key])
            keys.append(key)
        return replace(unit, keys=tuple(keys), reopened=tuple(reopened))

    def run_free(self, units: Iterable[WorkUnit], current_pass: Pass, *, decode_threads: int) -> None:
        """Computes those of the work units `units` that no other run has leased. Never waits for another run.
        `decode_threads` threads decode ahead.

        Reports one event for each unit: UnitSealed, UnitSealedElsewhere, UnitLeased or UnitSuspected. Units that were
        not run are added to the lists of `current_pass`. A unit that cannot end before the time limit has no event.
        """
        feed = Feed(
            lambda unit: self.cache.rows(unit.shard),
            self.loaded.wanted,
            batch_size=self.loaded.provenance.batch_size,
            timeout_seconds=self.config.run.video_timeout_seconds,
            threads=decode_threads,
            staging=self.config.run.staging,
            note=lambda unit, doing: current_pass.leases.note(unit.shard, doing),
        )
        batches_of = feed.batches(self._taken(units, current_pass))
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writer, closing(batches_of) as batches:
            pending: Future[None] | None = None
            shard: ShardInProgress | None = None
            clock = Clock(REST)
            for batch in clock.each(stopping.checked(batches), DECODE_WAIT, FIRST_BATCH):
                if shard is None:
                    current_pass.leases.note(batch.unit.shard, "computing")
                    shard = ShardInProgress(self.loaded, batch.unit, batch.clip_ids, clock)
                self._compute(shard, batch)
                if batch.is_last:
                    with clock.during(WRITER_WAIT):
                        if pending is not None:
                            stopping.result(pending)
                    shard.spend(clock.taken() | self._start_up())
                    pending, shard = writer.submit(self._seal, shard, current_pass), None
            if pending is not None:
                stopping.result(pending)

    def _start_up(self) -> dict[str, float]:
        """Returns {START_UP: seconds that the start-up of this worker took} at the first call, for a ledger record.
        Returns {} at later calls.
        """
        seconds, self._start_up_seconds = self._start_up_seconds, 0.0
        return {START_UP: seconds} if seconds else {}

    def _compute(self, shard: ShardInProgress, batch: PixelBatch) -> None:
        shard.add(batch)
        videos = len({row.video_id for row in batch.rows})
        seconds = shard.clock.seconds() | {REST: 0.0}
        waiting = max(seconds, key=lambda kind: seconds[kind])
        retried = batch.unit.retried
        clips = sum(retried is None or row.clip_id in retried for row in batch.rows)
        self.report(ClipsDone(clips=clips, videos=videos, waiting=waiting))

    def _seal(self, shard: ShardInProgress, current_pass: Pass) -> None:
        failed_clips = shard.seal(current_pass.leases)
        current_pass.leases.release(shard.unit.shard)
        self.schedule.end(shard.unit.shard)
        if failed_clips is None:
            current_pass.leased.append(shard.unit)
            self.report(UnitLeased(unit=shard.unit))
        else:
            self.report(UnitSealed(unit=shard.unit, failed_clips=failed_clips))
