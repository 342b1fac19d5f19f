"""Defines the worker, which loads the networks once and computes work units.

A unit is a `WorkUnit`: one shard with the stage keys to compute for it. A unit is sealed (finished) when each of its
stage keys has a ledger record. Torch is imported late, so that the first videos are decoded while torch and the
networks load.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.declared import declare, known_digests
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.caches.verification import shard_problems
from kinegraph.pipeline.clusters.walltime import UnitSchedule, allotment, require_time_to_wait
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.demand import Demand
from kinegraph.pipeline.extraction.events import (
    ClipsDone,
    Preparing,
    Report,
    UnitLeased,
    UnitSealed,
    UnitSealedElsewhere,
    UnitSuspected,
)
from kinegraph.pipeline.extraction.feed import Feed, PixelBatch
from kinegraph.pipeline.machine.hardware import usable_cores
from kinegraph.pipeline.shards.leases import Leases, NoLeases, leases_on
from kinegraph.pipeline.shards.revisiting import revisit
from kinegraph.stages.clock import DECODE_WAIT, FIRST_BATCH, REST, START_UP, WRITER_WAIT, Clock
from kinegraph.stages.kinds import kind_of

if TYPE_CHECKING:
    import torch

    from kinegraph.pipeline.extraction.networks import Loaded
    from kinegraph.pipeline.extraction.shard import ShardInProgress

log = logging.getLogger("kinegraph")


class Suspect(NamedTuple):
    """A work unit that may have killed several workers, so it was not run. `deaths` says how many, at that time."""

    unit: WorkUnit
    deaths: int


@dataclass(frozen=True)
class Pass:
    """One pass of a worker over work units, with lists of the units that the pass could not run. A work unit is one
    shard with the stage keys to compute for it.
    """

    leases: Leases | NoLeases  # the leases of the worker. A lease reserves a shard for one worker.
    max_deaths: float  # a unit that has killed this many workers is not run
    leased: list[WorkUnit] = field(default_factory=list)  # the units that another run has leased
    suspects: list[Suspect] = field(default_factory=list)  # the units that may have killed `max_deaths` workers
    # A list with the first unit that cannot end before the time limit. Empty if there is no such unit.
    too_late: list[WorkUnit] = field(default_factory=list)


class Worker:
    """Computes work units of one config and writes them to one cache. A work unit is one shard with the stage keys to
    compute for it.

    - `keys`: the stages to compute. The constructor loads their networks and writes the descriptions of the stages.
    - `report`: is called with each event.
    - `schedule`: decides whether another unit can end in time. Default: the time limit of the config or of the SLURM
      job around this process.
    - `loaded`: networks that another worker has loaded, to use in place of new ones.
    - `begun`: the time at which the start-up of this worker began, by time.monotonic. Default: now.
    - `loads_in_run`: if true, the method `run` loads the networks in place of the constructor, while the first videos
      are decoded.

    Loading raises WeightsError if weights cannot be read, and CacheMismatch if the cache was made with other weights.
    """

    def __init__(
        self,
        config: Config,
        cache: Cache,
        keys: Iterable[str],
        report: Report,
        schedule: UnitSchedule | None = None,
        loaded: "Loaded | None" = None,
        begun: float | None = None,
        *,
        loads_in_run: bool = False,
    ) -> None:
        self._begun = monotonic() if begun is None else begun
        self.config, self.cache, self.keys, self.report = config, cache, {*keys}, report
        self.schedule = schedule or UnitSchedule(allotment(config.run.walltime_seconds))
        self.threads = config.run.worker_threads
        self._loading: Future[Loaded] = Future()
        self._demand = Demand(cache=cache, declared=declare(config, known_digests(config, cache), cache))
        if loaded is None:
            report(Preparing(doing=self._what_loads()))
        if not loads_in_run:
            self.load(loaded)

    @property
    def loaded(self) -> "Loaded":
        """Returns the loaded networks. Waits until the thread that computes has loaded them with `load`. Raises the
        error of `load` if the networks cannot be loaded.
        """
        return self._loading.result()

    @loaded.setter
    def loaded(self, loaded: "Loaded") -> None:
        self._loading = Future()
        self._loading.set_result(loaded)

    def load(self, loaded: "Loaded | None" = None) -> None:
        """Loads the networks, unless they are loaded already. If `loaded` is given, uses these networks. Only the
        thread that computes calls this method.
        """
        if self._loading.done():
            return
        try:
            import torch

            from kinegraph.pipeline.extraction.networks import load

            torch.set_num_threads(self.threads)
            loaded = loaded or load(self.config, self.cache, self.keys, self.report)
        except BaseException as error:
            self._loading.set_exception(error)  # for threads that wait
            raise
        self._start_up_seconds = max(0.0, monotonic() - self._begun)
        self._loading.set_result(loaded)

    def _what_loads(self) -> str:
        """Returns a text for the user that says what the worker does in its first seconds."""
        declared = self._demand.declared
        running = declared.running(self.keys, lambda key: False)
        loaded = [key for key in declared.stages if key in running and kind_of(key).network(self.config, key)]
        names = [key.rpartition("/")[2] for key in loaded]
        return f"loading torch, then {', '.join(names)}" if names else "loading torch"

    @property
    def decoders(self) -> int:
        """Returns the number of threads with which this worker should decode ahead of the networks.

        The option `run.decode_threads` sets the number. The default is the number of threads that compute. On a GPU
        with `threads: auto`, the default is at least the number of CPU cores divided by the number of GPUs. The
        executor `inline` does not use this number.
        """
        run = self.config.run
        if run.decode_threads is not None or run.threads != "auto" or self.threads >= usable_cores():
            return run.decode_threads or self.threads
        if self._device.type == "cpu":
            return self.threads
        import torch

        return max(self.threads, usable_cores() // max(1, torch.cuda.device_count()))

    @property
    def _device(self) -> "torch.device":
        from kinegraph.stages.device import pick_device  # imports torch

        return self.loaded.device if self._loading.done() else pick_device(self.config.run.device)

    def run(self, units: Iterable[WorkUnit], *, decode_threads: int, max_deaths: float = math.inf) -> list[Suspect]:
        """Computes all work units `units`, with `decode_threads` threads that decode. Returns the suspects: the units
        that may have killed `max_deaths` workers and were not run.

        If another run works on a unit, the unit is tried again after the other units, until one of the two runs has
        finished it. After a signal, all finished shards stay in the cache. Raises OutOfTimeError if no further unit can
        end in time. Raises WalltimeError if the time limit is too short for one unit.
        """
        suspects: list[Suspect] = []

        def one_pass(units: Iterable[WorkUnit]) -> list[WorkUnit]:
            current_pass = Pass(leases, max_deaths)
            self._run_in_time(iter(units), current_pass, decode_threads)
            suspects.extend(current_pass.suspects)
            if current_pass.too_late:
                raise self.schedule.stopped()
            return current_pass.leased

        if self._loads_first(decode_threads):
            self.load()
        if self._loading.done():
            self.report(Preparing(doing="decoding the first videos"))
        with closing(leases_on(self.cache.storage, self.config.run.lease_seconds)) as leases, self._explained_stop():
            revisit(units, one_pass, partial(require_time_to_wait, self.schedule.allotted))
        return suspects

    def _loads_first(self, decode_threads: int) -> bool:
        """Returns whether the networks must be loaded before any video is decoded. `decode_threads` threads decode."""
        run = self.config.run
        return (
            decode_threads == 0
            or "auto" in (run.batch_size, run.compile)  # what is measured has the machine for itself
            or self.config.clips.torchcodec_device is not None  # which imports torch, and is tried before it is used
            or self.schedule.allotted is not None  # the time of the first unit is a measure for the next
            or not self.cache.storage.creates_exclusively()  # without leases no death of a worker is counted
        )

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
            if deaths := current_pass.leases.deaths(unit.shard):
                self._loading.result()  # so that no shard has two deaths that the networks may have caused
            if deaths >= current_pass.max_deaths:
                current_pass.suspects.append(Suspect(unit, deaths))
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
        clock = Clock(REST)
        feed = self._feed(current_pass, decode_threads)
        batches_of = feed.batches(self._taken(units, current_pass), partial(self._load_beside, clock))
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writer, closing(batches_of) as batches:
            pending: Future[None] | None = None
            shard: ShardInProgress | None = None
            for batch in clock.each(stopping.checked(batches), DECODE_WAIT, FIRST_BATCH):
                shard = shard or self._begin(batch, current_pass, clock)
                self._compute(shard, batch)
                if batch.is_last:
                    with clock.during(WRITER_WAIT):
                        if pending is not None:
                            stopping.result(pending)
                    shard.spend(clock.taken() | self._start_up())
                    pending, shard = writer.submit(self._seal, shard, current_pass), None
            if pending is not None:
                stopping.result(pending)

    def _feed(self, current_pass: Pass, decode_threads: int) -> Feed:
        demand: Demand = self._demand
        batch_size = self.config.run.batch_size
        if self._loading.done():
            demand, batch_size = self.loaded, self.loaded.provenance.batch_size
        assert batch_size != "auto"
        return Feed(
            lambda unit: self.cache.rows(unit.shard),
            demand.wanted,
            batch_size=batch_size,
            timeout_seconds=self.config.run.video_timeout_seconds,
            threads=decode_threads,
            staging=self.config.run.staging,
            note=lambda unit, doing: current_pass.leases.note(unit.shard, doing),
        )

    def _load_beside(self, clock: Clock) -> None:
        """Loads the networks if they are not loaded yet, while other threads decode. `clock` begins anew at the end,
        because this time is start-up.
        """
        if not self._loading.done():
            self.load()
            clock.taken()
            self.report(Preparing(doing="decoding the first videos"))

    def _begin(self, batch: PixelBatch, current_pass: Pass, clock: Clock) -> "ShardInProgress":
        from kinegraph.pipeline.extraction.shard import ShardInProgress  # imports torch

        current_pass.leases.note(batch.unit.shard, "computing")
        return ShardInProgress(self.loaded, batch.unit, batch.clip_ids, clock)

    def _start_up(self) -> dict[str, float]:
        """Returns {START_UP: seconds that the start-up of this worker took} at the first call, for a ledger record.
        Returns {} at later calls.
        """
        seconds, self._start_up_seconds = self._start_up_seconds, 0.0
        return {START_UP: seconds} if seconds else {}

    def _compute(self, shard: "ShardInProgress", batch: PixelBatch) -> None:
        shard.add(batch)
        videos = len({row.video_id for row in batch.rows})
        seconds = shard.clock.seconds() | {REST: 0.0}
        waiting = max(seconds, key=lambda kind: seconds[kind])
        retried = batch.unit.retried
        clips = sum(retried is None or row.clip_id in retried for row in batch.rows)
        self.report(ClipsDone(clips=clips, videos=videos, waiting=waiting))

    def _seal(self, shard: "ShardInProgress", current_pass: Pass) -> None:
        failed_clips = shard.seal(current_pass.leases)
        current_pass.leases.release(shard.unit.shard)
        self.schedule.end(shard.unit.shard)
        if failed_clips is None:
            current_pass.leased.append(shard.unit)
            self.report(UnitLeased(unit=shard.unit))
        else:
            self.report(UnitSealed(unit=shard.unit, failed_clips=failed_clips))
