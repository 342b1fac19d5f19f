"""Runs work units in a worker process of a Dask cluster. All tasks of the process share one `Worker` of kinegraph.

A `Worker` of kinegraph loads networks and runs units. A Dask worker is a process of the cluster. Schedulers import this
module too, because they must unpickle the tasks. Torch is imported with the first unit.
"""

import asyncio
import queue
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distributed import Reschedule, WorkerPlugin, get_worker
from distributed import Worker as DaskWorker

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.clusters.dask.walltime import WorkerTime, job_around, leave, time_of
from kinegraph.pipeline.clusters.walltime import Allotment
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ClusterError, OutOfTimeError
from kinegraph.pipeline.extraction.events import ClipsDone, Event, Measured, Preparing
from kinegraph.pipeline.machine.versions import differing_versions
from kinegraph.pipeline.shards.leases import leases_on
from kinegraph.stages.errors import UsageError

if TYPE_CHECKING:
    from kinegraph.pipeline.extraction.worker import Worker

IDLE_SECONDS = 120.0
STOP_SECONDS = 60.0
SPEAKING = (UsageError, CacheError, OutOfTimeError)


def run_unit(station: str, unit: WorkUnit, max_deaths: int) -> tuple[Event, ...] | Exception:
    """Computes a work unit (one shard with its stage keys) on this Dask worker. Returns the events of the unit, or an
    error of the user or of the cache. This is the function of a Dask task.

    `station` is the name of the `Station`, a plugin of this Dask worker that holds the networks. A unit that may have
    killed `max_deaths` workers is not computed, and its last event is UnitSuspected. Raises Reschedule if the station
    was closed, so that Dask puts the task back into its queue.
    """
    plugin = get_worker().plugins.get(station)
    if not isinstance(plugin, Station):
        raise Reschedule  # the station was closed while the task waited
    try:
        return plugin.run(unit, max_deaths)
    except SPEAKING as error:
        return error


@dataclass(frozen=True)
class _Errand:
    unit: WorkUnit
    max_deaths: int


class _StationEnds(Exception):
    """Raised to stop the computation of a unit, because the process must end or its time is up."""


class Station(WorkerPlugin):
    """A plugin of a Dask worker that holds one `Worker` of kinegraph, which loads networks once and computes work
    units. The videos of waiting tasks are decoded ahead.

    The `Worker` starts with the first unit. It ends if the client removes the plugin, if the Dask worker closes, or if
    no unit comes for `IDLE_SECONDS`.

    - `cache`: the path or URL of the cache.
    - `keys`: the keys of the stages to compute.
    - `versions`: the versions of packages on the client. The Dask worker must have the same versions.
    - `of_client`: true if the Dask workers are child processes of the client, named 0, 1, 2, ... They share its CUDA
      devices and ignore Ctrl-C.
    - `allotted`: the time limit of the whole command. When it ends, all waiting tasks get an OutOfTimeError. It is by
      the clock of this machine if `of_client` is true, else by the clock of the scheduler.
    """

    def __init__(
        self,
        config: Config,
        cache: str,
        keys: tuple[str, ...],
        versions: dict[str, str],
        *,
        of_client: bool,
        allotted: Allotment | None = None,
    ) -> None:
        self.name = f"kinegraph-{uuid.uuid4().hex[:12]}"
        self.config, self.cache, self.keys = config, cache, keys
        self.versions, self.of_client, self.allotted = versions, of_client, allotted

    def setup(self, worker: DaskWorker) -> None:
        if self.of_client and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._dask_worker = worker
        self._errands: queue.Queue[_Errand | None] = queue.Queue()
        self._answers: dict[int, Future[tuple[Event, ...]]] = {}
        self._to_send: list[Event] = []
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._timer: threading.Timer | None = None
        self._time: WorkerTime | None = None
        self._end: Exception | None = None

    async def teardown(self, worker: DaskWorker) -> None:
        await asyncio.to_thread(self._stop)

    def run(self, unit: WorkUnit, max_deaths: int) -> tuple[Event, ...]:
        """Sends `unit` to the thread that computes, waits for the end of the unit, and returns the events of the unit.

        The last event says what became of the unit. A unit that may have killed `max_deaths` workers is not computed.
        Raises the error that stopped the thread, if the thread failed.
        """
        answer: Future[tuple[Event, ...]] = Future()
        with self._lock:
            if self._end is not None:
                raise self._end
            self._answers[unit.shard] = answer
            self._errands.put(_Errand(unit, max_deaths))
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="station", daemon=True)
                self._thread.start()
        return answer.result()

    def _stop(self) -> None:
        self._stopping.set()
        self._errands.put(None)
        if self._timer is not None:
            self._timer.cancel()
        if (thread := self._thread) is not None:
            thread.join(STOP_SECONDS)
        self._finish(Reschedule())  # another worker takes the units that are left

    def _serve(self) -> None:
        try:
            self._run_until_idle()
        except _StationEnds:
            pass
        except OutOfTimeError as error:
            if self._time is not None and self._time.is_own:
                self._leave()
            else:
                self._finish(error)
        except Exception as error:
            self._finish(error)
        finally:
            _give_back_gpu_memory()

    def _run_until_idle(self) -> None:
        from kinegraph.pipeline.extraction.worker import Pass

        worker = self._open()
        with closing(leases_on(worker.cache.storage, self.config.run.lease_seconds)) as leases:
            while (errand := self._next()) is not None:
                current_pass = Pass(leases, errand.max_deaths)
                units = [errand.unit] if worker.schedule.lacks_measure else self._from(errand)
                worker.run_free(units, current_pass, decode_threads=worker.decoders)
                if current_pass.too_late:
                    raise worker.schedule.stopped()

    def _open(self) -> "Worker":
        """Loads the networks and returns a new `Worker`. First checks whether the Dask worker can compute for this
        cache.

        Raises ClusterError if the Dask worker has other versions of packages than the client. Raises CacheNotFound if
        it does not see the cache, and UsageError if it lacks the GPU that it declares.
        """
        begun, schedule = time.monotonic(), self._begin_time().schedule
        from kinegraph.pipeline.extraction.worker import Worker
        from kinegraph.pipeline.machine.devices import on_device_of, on_gpu_if_asked

        if differing := differing_versions(self.versions):
            raise ClusterError(f"worker {self._dask_worker.address} has {differing}. Install the same on all machines.")
        config = on_device_of(self.config, int(self._dask_worker.name)) if self.of_client else self.config
        config = on_gpu_if_asked(config, gpu_of(self._dask_worker))
        return Worker(config, Cache(self.cache), self.keys, self._report, schedule, begun=begun)

    def _begin_time(self) -> WorkerTime:
        """Returns the time limit of this process as a WorkerTime. The first call also starts a timer that ends the work
        at this limit. Later calls return the same object.
        """
        if self._time is None:
            walltime = self.config.run.jobs_walltime_seconds
            own = None if self.of_client else job_around(self._dask_worker, walltime)
            self._time = time_of(self._allotted_here(), own)
            if (left := self._time.seconds_left) is not None:
                self._timer = threading.Timer(left, self._cut_off, [self._time])
                self._timer.daemon = True
                self._timer.start()
        return self._time

    def _allotted_here(self) -> Allotment | None:
        """Returns the time limit of the command as an Allotment, by the clock of this machine. Returns None if the time
        is not limited.
        """
        if self.allotted is None or self.of_client:
            return self.allotted
        return self.allotted.on_clock(-self._dask_worker.scheduler_delay)

    def _cut_off(self, time_of_worker: WorkerTime) -> None:
        """Makes the Dask worker leave its cluster, near the end of its batch job. `time_of_worker` has the end of that
        job.

        If the job was too short for even one unit, the worker stays, and all waiting tasks end with a WalltimeError.
        """
        error = time_of_worker.schedule.first_cut_off() if self._answers else None
        if error is not None:
            self._finish(error)
        else:
            self._leave()

    def _leave(self) -> None:
        """Asks the Dask worker to leave the cluster, which also closes this station. No further unit begins."""
        self._dask_worker.loop.add_callback(leave, self._dask_worker)

    def _next(self) -> _Errand | None:
        """Waits for the next task and returns its _Errand, which has the work unit. Returns None if the station was
        stopped, or if no task comes for IDLE_SECONDS.
        """
        try:
            errand = self._errands.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            errand = None
        with self._lock:
            if errand is None and (self._stopping.is_set() or self._errands.empty()):
                self._thread = None
                return None
        return errand or self._next()

    def _from(self, first: _Errand) -> Iterator[WorkUnit]:
        yield first.unit
        while True:
            try:
                errand = self._errands.get_nowait()
            except queue.Empty:
                # to wait here would hold back the last units of the feed, which decodes ahead
                return
            if errand is None:
                self._errands.put(None)
                return
            yield errand.unit

    def _report(self, event: Any) -> None:
        """Handles an event of the `Worker` of this station.

        An event with the result of a unit is the answer to the Dask task of the unit. `ClipsDone` and `Measured` events
        are kept and sent with the next answer. `Preparing` events are dropped. Raises _StationEnds at a `ClipsDone`
        event if the station is closed.
        """
        if isinstance(event, Preparing):
            return  # it would be outdated when the next answer is sent
        if isinstance(event, ClipsDone) and (self._stopping.is_set() or self._end is not None):
            raise _StationEnds
        if isinstance(event, ClipsDone | Measured):
            with self._lock:
                self._to_send.append(event)
            return
        with self._lock:
            events, self._to_send = (*self._to_send, event), []
            answer = self._answers.pop(event.unit.shard, None)
        if answer is not None:
            answer.set_result(events)

    def _finish(self, end: Exception) -> None:
        """Ends all waiting tasks and all later tasks with the error `end`."""
        with self._lock:
            self._end = self._end or end
            answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.set_exception(self._end)


def gpu_of(worker: DaskWorker) -> str:
    """Returns "--resources GPU of Dask worker <address>", for a message, if `worker` declares a GPU. Returns ""
    otherwise.
    """
    has_gpu = worker.state.total_resources.get("GPU", 0) > 0
    return f"--resources GPU of Dask worker {worker.address}" if has_gpu else ""


def _give_back_gpu_memory() -> None:
    """Releases GPU memory that torch has reserved and does not use, so that other processes can use it."""
    import torch

    torch.cuda.empty_cache()  # does nothing if CUDA was not used
