"""Runs the work units of an extraction as tasks of a Dask cluster, one task per unit.

A unit is a `WorkUnit`: one shard with the stage keys to compute for it. The workers write the arrays to the cache. A
task returns only events, for example that the unit is finished.
"""

import itertools
import logging
import queue
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from dask.utils import key_split
from distributed import Client, Future, KilledWorker

from kinegraph.cache_schemas import stopping
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.clusters.dask.checks import absolute_root, check_cluster
from kinegraph.pipeline.clusters.dask.cluster import UNITS_AT_ONCE, are_children, dask_client, resources
from kinegraph.pipeline.clusters.dask.workers import COUNT_WORKERS_SECONDS, Workers
from kinegraph.pipeline.clusters.walltime import require_time_to_wait
from kinegraph.pipeline.errors import ClusterLost, OutOfTimeError, WalltimeError
from kinegraph.pipeline.extraction.events import (
    Event,
    Preparing,
    Report,
    UnitLeased,
    UnitSealed,
    UnitSuspected,
    WorkerLost,
)
from kinegraph.pipeline.extraction.executors.contract import Job, set_aside
from kinegraph.pipeline.extraction.executors.dask_station import Station, run_unit
from kinegraph.pipeline.extraction.executors.inline import InlineExecutor
from kinegraph.pipeline.machine.versions import agreed_versions
from kinegraph.pipeline.shards.lease import lease_of
from kinegraph.pipeline.shards.leases import MAX_DEATHS
from kinegraph.pipeline.shards.revisiting import revisit

FORGET_EVERY = 1000  # submissions
_submitted = itertools.count(1)  # Dask would take a key that was used before for the old task
log = logging.getLogger("kinegraph")


class DaskExecutor:
    """Runs work units on the workers of the Dask cluster that `run.dask` of the config describes. A work unit is one
    shard with the stage keys to compute for it.

    If a worker dies, its units run again. A unit that killed three workers runs at the end, with nothing else on the
    cluster. If it kills a fourth worker, `run` raises SetAsideError. A worker that leaves because its batch job ends
    does not count as dead. When the time limit of the command ends, `run` waits for the units that have begun.
    """

    def run(self, job: Job, report: Report) -> None:
        if not job.units:
            InlineExecutor().run(job, report)  # builds the networks and compares their weights with the cache
            return
        with dask_client(job.config.run) as client:
            log.info("Dask's dashboard: %s", client.dashboard_link)
            check_cluster(client, job.config.run, job.cache, job.units[0].shard)
            report(Preparing(doing="Dask's workers load the networks"))
            station = _station(job, client)
            client.register_plugin(station, name=station.name)
            try:
                suspects = DaskSubmission(client, job, station, report).run(job.units, MAX_DEATHS)
                alone = [left for unit in suspects for left in _alone(client, job, station, report, unit)]
            finally:
                with suppress(OSError):  # the cluster and its stations may be gone
                    client.unregister_worker_plugin(station.name)
                job.cache.storage.sweep()
        limit = job.config.run.dask.memory_limit
        hint = f" If it took too much memory (run.dask.memory_limit: {limit}), the workers' nannies say so."
        set_aside(alone, job.cache.num_shards, hint)


def _station(job: Job, client: Client) -> Station:
    root, of_client, allotted = absolute_root(job.cache.root), are_children(job.config.run), job.allotted
    if allotted is not None and not of_client:
        allotted = allotted.on_clock(_scheduler_ahead_seconds(client))
    return Station(job.config, root, job.keys, agreed_versions(), of_client=of_client, allotted=allotted)


def _scheduler_ahead_seconds(client: Client) -> float:
    asked = time.time()
    theirs: float = client.run_on_scheduler(time.time)
    return theirs - (asked + time.time()) / 2


def _alone(client: Client, job: Job, station: Station, report: Report, unit: WorkUnit) -> list[WorkUnit]:
    """Runs `unit`, which killed several workers, once more, with nothing else on the cluster. Calls `report` with each
    event of the unit.

    Returns [unit] if the unit killed its worker again, otherwise [].
    """
    lease = lease_of(job.cache.storage, unit.shard)
    max_deaths = lease.deaths_if_holder_died + 1 if lease else MAX_DEATHS
    return DaskSubmission(client, job, station, report).run([unit], max_deaths)


class DaskSubmission:
    """Submits work units to the Dask scheduler and handles their results. Enough units are submitted at a time to keep
    all workers busy. A work unit is one shard with the stage keys to compute for it.

    - `client`: the connection to the scheduler.
    - `job`: the job that the units belong to.
    - `station`: the plugin of the Dask workers that computes the units.
    - `report`: a function that is called with each event, for example that a unit is finished.
    """

    def __init__(self, client: Client, job: Job, station: Station, report: Report) -> None:
        self.client, self.job, self.station, self.report = client, job, station, report
        self.in_flight: dict[str, tuple[Future[Any], WorkUnit]] = {}
        self.early_deaths = 0  # in a row
        self._attempts: dict[int, int] = {}  # shard -> attempt in its lease when a worker died
        self._lost: deque[tuple[int, ...]] = deque()  # shards of dead workers, appended by the client's thread
        self.leased: list[WorkUnit] = []
        self.watchers: dict[int, tuple[str, ...]] = {}
        self.suspects: list[WorkUnit] = []
        self.out_of_time: OutOfTimeError | WalltimeError | None = None
        self._settled: queue.Queue[Future[Any]] = queue.Queue()
        self._workers = Workers(client, job.config.run)

    def run(self, units: Iterable[WorkUnit], max_deaths: int) -> list[WorkUnit]:
        """Runs all work units `units` and returns the suspects: the units that may have killed `max_deaths` workers.

        If another run works on a unit, the unit is tried again after the other units, until one of the two runs has
        finished it. Raises OutOfTimeError when the time limit of the run is over and the units that have begun are
        finished. Raises WalltimeError if not even one unit fits into the time limit. Raises ClusterLost if the cluster
        is gone.
        """
        self.client.subscribe_topic("all", self._note)
        try:
            one_pass = partial(self._pass, max_deaths=max_deaths)
            revisit(units, one_pass, partial(require_time_to_wait, self.job.allotted))
            return self.suspects
        finally:
            self.client.unsubscribe_topic("all")
            with suppress(OSError):
                self.client.cancel([future for future, _ in self.in_flight.values()])

    def _pass(self, units: Iterable[WorkUnit], max_deaths: int) -> list[WorkUnit]:
        """Runs each of `units` once. Returns the units to try again: units that another run has leased, and units whose
        worker died.

        A unit that may have killed `max_deaths` workers is added to `self.suspects` and not returned.
        """
        waiting, self.leased = deque(units), []
        while True:
            if self.out_of_time is None:
                free = UNITS_AT_ONCE * self._workers.most() - len(self.in_flight)
                self._submit([waiting.popleft() for _ in range(min(free, len(waiting)))], max_deaths)
            if not self.in_flight:
                break
            self._settle_all(self._next_settled(), max_deaths)
            while self._lost:
                self._died(self._lost.popleft())
            self._workers.require()
        if self.out_of_time is not None:
            raise self.out_of_time
        return self.leased

    def _submit(self, units: Sequence[WorkUnit], max_deaths: int) -> None:
        """Submits `units` to the scheduler. Units that any worker may run are sent in one message, which is faster."""
        free = [unit for unit in units if unit.shard not in self.watchers]
        for group in (free, *([unit] for unit in units if unit.shard in self.watchers)):
            if group:
                self._submit_together(group, max_deaths, self.watchers.get(group[0].shard))

    def _submit_together(self, units: Sequence[WorkUnit], max_deaths: int, workers: Sequence[str] | None) -> None:
        numbers = [next(_submitted) for _ in units]
        if any(number % FORGET_EVERY == 0 for number in numbers):
            with suppress(OSError):  # the futures show that a scheduler went away
                self.client.run_on_scheduler(forget_submissions)
        keys = [
            f"kinegraph_unit-{self.station.name}-{unit.shard}-{number}"
            for unit, number in zip(units, numbers, strict=True)
        ]
        futures = self.client.map(
            run_unit, [self.station.name] * len(units), units, [max_deaths] * len(units), key=keys, pure=False,
            resources=resources(self.job.config.run) or None,
            workers=None if workers is None else [*workers], allow_other_workers=workers is not None,
        )  # fmt: skip
        for key, future, unit in zip(keys, futures, units, strict=True):
            self.in_flight[key] = future, unit
            future.add_done_callback(self._settled.put)

    def _next_settled(self) -> list[Future[Any]]:
        """Waits until a Dask task ends. Returns the futures of all tasks that have ended by then. Returns [] if no task
        ends within COUNT_WORKERS_SECONDS.
        """
        ended = []
        with suppress(queue.Empty):
            ended.append(stopping.get(self._settled, COUNT_WORKERS_SECONDS))
            while True:
                ended.append(self._settled.get_nowait())
        return ended

    def _settle_all(self, futures: Sequence[Future[Any]], max_deaths: int) -> None:
        """Handles the Dask tasks `futures`, which have ended. Fetches their results in one message, which is faster.

        Raises ClusterLost if the scheduler went away.
        """
        finished = [future for future in futures if future.status == "finished"]
        try:
            results = self.client.gather(finished) if finished else []
        except OSError as error:
            raise self._scheduler_lost() from error
        result_of = dict(zip(finished, results, strict=True))
        for future in futures:
            self._settle(future, result_of, max_deaths)

    def _may_have_killed(self, unit: WorkUnit, max_deaths: int) -> bool:
        """Returns whether `unit` may have killed at least `max_deaths` workers. The lease of its shard counts these
        deaths. Returns True if the storage of the cache has no leases.
        """
        storage = self.job.cache.storage
        if not storage.creates_exclusively():
            return True  # a run alone shows whether this unit or another one killed the workers
        lease = lease_of(storage, unit.shard)
        return lease is not None and lease.deaths_if_holder_died >= max_deaths

    def _settle(self, future: Future[Any], result_of: Mapping[Future[Any], Any], max_deaths: int) -> None:
        """Handles the end of the Dask task `future`, which had one work unit. `result_of` maps a task to its result, if
        the task has a result.

        If the task killed its workers, the unit is marked to be tried again. If the unit may have killed `max_deaths`
        workers, it is tried again only after all other units. Raises any other error of the task. Raises ClusterLost if
        the scheduler went away.
        """
        _, unit = self.in_flight.pop(str(future.key))
        if future in result_of:
            self._take(result_of[future])
            if unit in self.leased and unit.shard not in self.watchers:
                self._remember_watcher(future, unit)
        elif future.status == "error":
            error = future.exception()
            if not isinstance(error, KilledWorker):
                raise error
            (self.suspects if self._may_have_killed(unit, max_deaths) else self.leased).append(unit)
        else:
            raise self._scheduler_lost()

    def _scheduler_lost(self) -> ClusterLost:
        return ClusterLost(f"The Dask scheduler at {self._workers.address} went away. Finished shards are kept.")

    def _take(self, result: tuple[Event, ...] | Exception) -> None:
        if isinstance(result, OutOfTimeError | WalltimeError):
            self.out_of_time = result
            return
        if isinstance(result, Exception):
            raise result
        for event in result:
            if isinstance(event, UnitLeased):
                self.leased.append(event.unit)
            elif isinstance(event, UnitSuspected):
                self.suspects.append(event.unit)
            elif isinstance(event, UnitSealed):
                self.early_deaths = 0
            self.report(event)

    def _remember_watcher(self, future: Future[Any], unit: WorkUnit) -> None:
        """Remembers which worker computed the Dask task `future`, so that the same worker tries `unit` again. The task
        found that another run has leased the unit.

        Only a worker that watches a lease for some time can see that the holder of the lease is dead.
        """
        with suppress(OSError):
            self.watchers[unit.shard] = self.client.who_has([future])[future.key]

    def _died(self, shards: tuple[int, ...]) -> None:
        """Counts the deaths of Dask workers that had not taken a shard yet. `shards` are the shards that the scheduler
        had given to the dead worker.

        Raises ClusterLost after MAX_DEATHS such deaths in a row.
        """
        storage = self.job.cache.storage
        if not shards or not storage.creates_exclusively():
            return
        attempts = {shard: lease.attempt for shard in shards if (lease := lease_of(storage, shard))}
        # a worker that takes a shard raises the attempt in its lease
        was_early = all(attempt <= self._attempts.get(shard, 0) for shard, attempt in attempts.items())
        self._attempts |= attempts
        self.early_deaths = self.early_deaths + 1 if was_early else 0
        if self.early_deaths >= MAX_DEATHS:
            raise ClusterLost(
                "Dask workers died again and again before they took a shard. Is there memory for the networks in each "
                f"process (run.dask.memory_limit: {self.job.config.run.dask.memory_limit})? Their logs say more."
            )

    def _note(self, event: tuple[float, Any]) -> None:
        """Handles a message of the Dask scheduler. `event` is a pair (time, message), and the message is a dict.

        If the message says that a worker has ended, notes whether the end was expected. If the end was not expected,
        reports the shards of the worker as lost. Ignores all other messages. Dask calls this method in a thread of its
        client.
        """
        message = event[1]
        if message.get("action") != "remove-worker":
            return
        self._workers.left_in_order = message["expected"]
        if not message["expected"]:
            tasks = [self.in_flight.get(key) for key in message["processing-tasks"]]
            shards = tuple(sorted(task[1].shard for task in tasks if task is not None))
            self._lost.append(shards)
            self.report(WorkerLost(shards=shards, exit_code=None, set_aside=()))


def forget_submissions(dask_scheduler: Any) -> None:
    """Frees the memory that the Dask scheduler keeps for finished tasks, about 600 bytes per submission. Runs in the
    process of the scheduler, which `dask_scheduler` represents.
    """
    # the extension adds an entry for each submission and never removes it
    for span in dask_scheduler.extensions["spans"].spans.values():
        if metadata := getattr(span, "metadata", None):  # older versions keep none
            metadata["collections"] = [entry for entry in metadata["collections"] if entry != {"type": "Future"}]
    key_split.cache_clear()  # a table of the kinds of the last 100,000 task keys
