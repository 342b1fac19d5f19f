"""A Dask worker's side: the tasks of one process hand their units to one `Worker`. Torch-free until the first unit.

Schedulers import this too, so that they can read the tasks they pass on.
"""

import asyncio
import queue
import signal
import threading
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
from kinegraph.pipeline.extraction.events import ClipsDone, Event, Preparing
from kinegraph.pipeline.machine.versions import differing_versions
from kinegraph.pipeline.shards.leases import leases_on
from kinegraph.stages.errors import UsageError

if TYPE_CHECKING:
    from kinegraph.pipeline.extraction.worker import Worker

IDLE_SECONDS = 120.0
STOP_SECONDS = 60.0
SPEAKING = (UsageError, CacheError, OutOfTimeError)


def run_unit(station: str, unit: WorkUnit, max_deaths: int) -> tuple[Event, ...] | Exception:
    """A Dask task: run the unit at this process's station; gives what happened, what became of the unit last.

    An error that says all there is to say is given back too: of one that is raised Dask prints the way it came.
    """
    found = get_worker().plugins.get(station)
    if not isinstance(found, Station):
        raise Reschedule  # it was closed while the task waited
    try:
        return found.run(unit, max_deaths)
    except SPEAKING as error:
        return error


@dataclass(frozen=True)
class _Errand:
    unit: WorkUnit
    max_deaths: int


class _Stopped(Exception):
    """The station is closed, or the worker's time is up, in the middle of a unit."""


class Station(WorkerPlugin):
    """One `Worker` per process: networks are loaded once, and decoding runs ahead into the units of other tasks.

    It starts with the first unit, and ends, giving networks and leases back, when its plugin is removed, its Dask
    worker closes, or nothing came for `IDLE_SECONDS` (a client that was killed removes nothing). `of_client`:
    whether the processes are children of the client, numbered; then they share its CUDA devices and leave Ctrl-C to it.
    `allotted` is the command's time, by the scheduler's clock, or its own where workers are its children; its end is an
    error for the command; where a worker's own job ends before, it leaves.
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
        self._clips_done: list[Event] = []
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._timer: threading.Timer | None = None
        self._time: WorkerTime | None = None
        self._end: Exception | None = None

    async def teardown(self, worker: DaskWorker) -> None:
        await asyncio.to_thread(self._stop)

    def run(self, unit: WorkUnit, max_deaths: int) -> tuple[Event, ...]:
        """Hand the unit over and wait until it is sealed or left. Raises what stopped the `Worker`."""
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
        self._finish(Reschedule())  # another worker shall do what is left

    def _serve(self) -> None:
        try:
            self._run_until_idle()
        except _Stopped:
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
                over = Pass(leases, errand.max_deaths)
                units = [errand.unit] if worker.schedule.lacks_measure else self._from(errand)
                worker.run_free(units, over, decode_threads=worker.threads)
                if over.too_late:
                    raise worker.schedule.stopped()

    def _open(self) -> "Worker":
        """Load the networks. Raises what a worker that came late cannot do: ClusterError, CacheNotFound, ..."""
        schedule = self._begin_time().schedule
        from kinegraph.pipeline.extraction.worker import Worker
        from kinegraph.pipeline.machine.devices import on_device_of, on_gpu_if_asked

        if differing := differing_versions(self.versions):
            raise ClusterError(f"worker {self._dask_worker.address} has {differing}. Install the same on all machines.")
        config = on_device_of(self.config, int(self._dask_worker.name)) if self.of_client else self.config
        config = on_gpu_if_asked(config, gpu_of(self._dask_worker))
        return Worker(config, Cache(self.cache), self.keys, self._report, schedule)

    def _begin_time(self) -> WorkerTime:
        """The time of this process, from its first unit on: what that took is known when the station opens again."""
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
        """The command's time by this machine's clock; Dask measures how far the scheduler's is ahead of it."""
        if self.allotted is None or self.of_client:
            return self.allotted
        return self.allotted.on_clock(-self._dask_worker.scheduler_delay)

    def _cut_off(self, time_of_worker: WorkerTime) -> None:
        """The end of this worker's job is near. A unit that no job is long enough for is an error."""
        error = time_of_worker.schedule.first_cut_off() if self._answers else None
        if error is not None:
            self._finish(error)
        else:
            self._leave()

    def _leave(self) -> None:
        """Let the worker close, and this station with it. Until then no further unit is begun."""
        self._dask_worker.loop.add_callback(leave, self._dask_worker)

    def _next(self) -> _Errand | None:
        """The next errand; None when the station is to end."""
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
        """The unit and those that wait behind it. It ends rather than to wait: the feed would hold back what it has."""
        yield first.unit
        while True:
            try:
                errand = self._errands.get_nowait()
            except queue.Empty:
                return
            if errand is None:
                self._errands.put(None)
                return
            yield errand.unit

    def _report(self, event: Any) -> None:
        """Keep how many clips are done for the next answer; answer the task whose unit's fate this is."""
        if isinstance(event, Preparing):
            return  # with the next answer it would be over
        if isinstance(event, ClipsDone):
            if self._stopping.is_set() or self._end is not None:
                raise _Stopped
            with self._lock:
                self._clips_done.append(event)
            return
        with self._lock:
            events, self._clips_done = (*self._clips_done, event), []
            answer = self._answers.pop(event.unit.shard, None)
        if answer is not None:
            answer.set_result(events)

    def _finish(self, end: Exception) -> None:
        """Answer all that wait, and all that come."""
        with self._lock:
            self._end = self._end or end
            answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.set_exception(self._end)


def gpu_of(worker: DaskWorker) -> str:
    """How a worker says that it has a GPU; empty where it does not."""
    has_gpu = worker.state.total_resources.get("GPU", 0) > 0
    return f"--resources GPU of Dask worker {worker.address}" if has_gpu else ""


def _give_back_gpu_memory() -> None:
    """To others that want the GPU: what the networks took is free by now, but torch would keep it for this process."""
    import torch

    torch.cuda.empty_cache()  # nothing where CUDA was not used
