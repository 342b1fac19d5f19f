"""Makes a Dask worker leave its cluster before its batch job ends. The other workers go on. Torch-free.

Dask's own option `--lifetime` does not suffice, because it does not know when SLURM ends the job.
"""

import asyncio
import os
import time
import uuid
from dataclasses import dataclass

import psutil
from distributed import Worker as DaskWorker
from distributed import WorkerPlugin

from kinegraph.pipeline.clusters.walltime import Allotment, UnitSchedule, allotment

FRESH_SECONDS = 60.0  # a worker that gets its first unit later than this after its start was idle
RETIRE_TRIES, RETIRE_PAUSE_SECONDS = 20, 0.5


@dataclass(frozen=True)
class WorkerTime:
    """The time limit of one Dask worker.

    `schedule` decides whether another work unit (one shard with its stages) can end in time. `is_own` is True if the
    limit is the end of this worker's batch job, and False if it is the time limit of the whole command.
    """

    schedule: UnitSchedule
    is_own: bool

    @property
    def seconds_left(self) -> float | None:
        """Returns the seconds after which the worker must leave its cluster, because its batch job ends.

        Returns None if there is no limit, or if the limit is that of the whole command.
        """
        allotted = self.schedule.allotted
        return allotted.stops_at - time.time() if self.is_own and allotted is not None else None


def time_of(command: Allotment | None, own: Allotment | None) -> WorkerTime:
    """Returns the time limit of a Dask worker that begins its first work unit now, as a WorkerTime.

    `command` is the time limit of the whole command, and `own` is the time limit of the worker's batch job. None means
    that there is no limit. The limit that ends first counts.
    """
    is_own = own is not None and (command is None or own.ends_at < command.ends_at)
    allotted, now = own if is_own else command, time.time()
    was_idle = allotted is not None and now - allotted.began_at > FRESH_SECONDS
    return WorkerTime(UnitSchedule(allotted, idle_until=now if was_idle else None), is_own)


def job_around(worker: DaskWorker, walltime_seconds: float | None) -> Allotment | None:
    """Returns the time limit of the batch job in which `worker` runs, as an Allotment, or None if there is no limit.

    The job ends `walltime_seconds` after its start, or when SLURM ends it, whichever comes first. The start of the job
    is taken to be the start of the worker's nanny (the process of Dask that restarts a dead worker), or of the worker
    if it has no nanny. The function may call SLURM, which takes up to 30 s.
    """
    pid = os.getppid() if worker.nanny else os.getpid()
    return allotment(walltime_seconds, psutil.Process(pid).create_time())


async def leave(worker: DaskWorker) -> None:
    """Closes the Dask worker `worker`, so that its batch job ends. Dask runs its tasks on other workers and does not
    count the end as a death.

    The scheduler refuses to close a worker that holds the only copy of a result. So the request is repeated until the
    client has fetched the result.
    """
    for _ in range(RETIRE_TRIES):
        await asyncio.sleep(RETIRE_PAUSE_SECONDS)
        if await worker.scheduler.retire_workers(workers=[worker.address], close_workers=False, remove=True):
            break
    await worker.close(nanny=True, reason="kinegraph-walltime")


class LeaveInTime(WorkerPlugin):
    """A plugin of Dask workers that makes each worker leave the cluster before its batch job ends.

    A job ends `walltime_seconds` after its start, or when SLURM ends it. If `walltime_seconds` is None and SLURM sets
    no end, the worker does not leave.
    """

    def __init__(self, walltime_seconds: float | None) -> None:
        self.name, self.walltime_seconds = f"kinegraph-leave-{uuid.uuid4().hex[:12]}", walltime_seconds

    async def setup(self, worker: DaskWorker) -> None:
        self._leaving = None
        own = await asyncio.to_thread(job_around, worker, self.walltime_seconds)
        if own is not None:
            self._leaving = worker.loop.call_later(max(0.0, own.stops_at - time.time()), leave, worker)

    async def teardown(self, worker: DaskWorker) -> None:
        if self._leaving is not None:
            worker.loop.remove_timeout(self._leaving)
