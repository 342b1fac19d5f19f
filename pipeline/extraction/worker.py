"""One worker loads the networks once and turns work units into sealed shards.

A unit is a `WorkUnit`: one shard with the stage keys to compute for it.
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
    """One pass of a worker over units. `leases` are the leases of the worker.

    Three lists collect the units that do not run in this pass. `leased` has units that another run has leased.
    `suspects` has units that killed `max_deaths` workers. `too_late` has the unit that cannot end in time.
    """

    leases: Leases | NoLeases
    max_deaths: float
    leased: list[WorkUnit] = field(default_factory=list)
    suspects: list[WorkUnit] = field(default_factory=list)
    too_late: list[WorkUnit] = field(default_factory=list)


class Worker:
    """Runs units of one config on one cache. The constructor loads the networks of the stages `keys` and declares the
    stages in the cache. With `loaded`, this worker uses what another worker has loaded and declared. `report` is called
    with each event.

    `schedule` decides whether another unit can end in time. By default it has the time limit of the config or of the
    SLURM job around this process, whichever ends first. `begun` is the time at which the start-up of this worker began,
    by time.monotonic of this machine. By default it is now.

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
        """Returns the number of threads of this worker that decode ahead, if it decodes ahead.

        Without the option `run.decode_threads` it is that of the threads that compute. On a GPU with `threads: auto` it
        is at least this worker's share of the cores, because the networks leave these idle.
        """
        run = self.config.run
        if run.decode_threads is not None or run.threads != "auto" or self.loaded.device.type == "cpu":
            return run.decode_threads or self.threads
        return max(self.threads, usable_cores() // max(1, torch.cuda.device_count()))

    def run(self, units: Iterable[WorkUnit], *, decode_threads: int, max_deaths: float = math.inf) -> list[WorkUnit]:
        """Runs all units and returns the suspects: the WorkUnits that killed `max_deaths` workers. `decode_threads`
        threads decode videos.

        Units that another run has leased are tried again after the other units, until they are sealed or that run is
        dead. If a signal stops the call, sealed shards stay, and nothing else was changed. Raises OutOfTimeError if no
        further unit can end in time, once every unit that began is sealed. Raises WalltimeError if not even one unit
        fits into the time.
        """
        suspects: list[WorkUnit] = []

        def one_pass(units: Iterable[WorkUnit]) -> list[WorkUnit]:
            over = Pass(leases, max_deaths)
            self._run_in_time(iter(units), over, decode_threads)
            suspects.extend(over.suspects)
            if over.too_late:
                raise self.schedule.stopped()
            return over.leased

        self.report(Preparing(doing="decoding the first videos"))
        with closing(leases_on(self.cache.storage, self.config.run.lease_seconds)) as leases, self._explained_stop():
            revisit(units, one_pass, partial(require_time_to_wait, self.schedule.allotted))
        return suspects

    @contextmanager
    def _explained_stop(self) -> Iterator[None]:
        """Raises WalltimeError in place of a KeyboardInterrupt of the `with` block, if the time was too short for even
        one unit.

        Otherwise the KeyboardInterrupt is raised unchanged.
        """
        try:
            yield
        except KeyboardInterrupt as stop:
            if (error := self.schedule.cut_off()) is not None:
                raise error from stop
            raise

    def _run_in_time(self, units: Iterator[WorkUnit], over: Pass, decode_threads: int) -> None:
        """Runs those of `units` that this worker can lease, with `decode_threads` decoder threads. The others are put
        into the lists of the Pass `over`.

        If the time is limited, the first unit runs alone, because its duration is needed before other units begin.
        """
        while self.schedule.lacks_measure and (first := next(units, None)) is not None:
            self.run_free([first], over, decode_threads=decode_threads)
        self.run_free(units, over, decode_threads=decode_threads)

    def _taken(self, units: Iterable[WorkUnit], over: Pass) -> Iterator[WorkUnit]:
        """Takes the lease of each of `units` and yields the unit, without the keys that another worker has sealed
        meanwhile. A unit without any key left is not yielded.

        A unit that cannot run now is put into one of three lists of the Pass `over`. `suspects` gets units that killed
        `over.max_deaths` workers. `leased` gets units whose lease another run has. `too_late` gets the first unit that
        cannot end in time, after which no unit is yielded.
        """
        for unit in units:
            if not self.schedule.has_room():
                over.too_late.append(unit)
                return
            if over.leases.deaths(unit.shard) >= over.max_deaths:
                over.suspects.append(unit)
                self.report(UnitSuspected(unit=unit))
                continue
            if not over.leases.take(unit.shard, unit.keys):
                over.leased.append(unit)
                self.report(UnitLeased(unit=unit))
                continue
            self.cache.check_not_upgraded()  # an upgrade that begins from now on sees the lease of this worker
            if (left := self._left(unit)).keys:
                self.schedule.begin(unit.shard)
                yield left
            else:
                over.leases.release(unit.shard)
                self.report(UnitSealedElsewhere(unit=unit))

    def _left(self, unit: WorkUnit) -> WorkUnit:
        """Returns the unit with only those stage keys that still have to be computed. Keys that another worker has
        sealed since the unit was planned are left out.

        A sealed key stays if its failed clips are to be retried (`unit.reopened`). If what is sealed for this key is
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

    def run_free(self, units: Iterable[WorkUnit], over: Pass, *, decode_threads: int) -> None:
        """Computes and seals those of `units` that no other run has leased, with the leases of the Pass `over`. The
        call never waits for another worker. `decode_threads` threads decode videos ahead.

        Reports one event for each unit: sealed by this worker, already sealed, leased by another run, or suspected of
        killing its workers. A unit that cannot end before the time limit of the run has no event and is added to the
        list `over.too_late`.
        """
        feed = Feed(
            lambda unit: self.cache.rows(unit.shard),
            self.loaded.wanted,
            batch_size=self.loaded.provenance.batch_size,
            timeout_seconds=self.config.run.video_timeout_seconds,
            threads=decode_threads,
            staging=self.config.run.staging,
            note=lambda unit, doing: over.leases.note(unit.shard, doing),
        )
        batches_of = feed.batches(self._taken(units, over))
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writer, closing(batches_of) as batches:
            pending: Future[None] | None = None
            shard: ShardInProgress | None = None
            clock = Clock(REST)
            for batch in clock.each(stopping.checked(batches), DECODE_WAIT, FIRST_BATCH):
                if shard is None:
                    over.leases.note(batch.unit.shard, "computing")
                    shard = ShardInProgress(self.loaded, batch.unit, batch.clip_ids, clock)
                self._compute(shard, batch)
                if batch.is_last:
                    with clock.during(WRITER_WAIT):
                        if pending is not None:
                            stopping.result(pending)
                    shard.spend(clock.taken() | self._start_up())
                    pending, shard = writer.submit(self._seal, shard, over), None
            if pending is not None:
                stopping.result(pending)

    def _start_up(self) -> dict[str, float]:
        """Returns {START_UP: seconds of the start-up of this worker}, for the record of its first shard. Later calls
        return {}.
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

    def _seal(self, shard: ShardInProgress, over: Pass) -> None:
        failed_clips = shard.seal(over.leases)
        over.leases.release(shard.unit.shard)
        self.schedule.end(shard.unit.shard)
        if failed_clips is None:
            over.leased.append(shard.unit)
            self.report(UnitLeased(unit=shard.unit))
        else:
            self.report(UnitSealed(unit=shard.unit, failed_clips=failed_clips))
