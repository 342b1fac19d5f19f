"""Lets a Dask worker leave its cluster before its batch job ends, while other workers go on. Torch-free.

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
    """The time until which a Dask worker may begin work units.

    `schedule` decides whether another unit can end in time. `is_own` is true if the time ends with this worker's batch
    job, and false if it ends with the command's time limit.
    """

    schedule: UnitSchedule
    is_own: bool

    @property
    def seconds_left(self) -> float | None:
        """Returns the seconds until the worker must leave its cluster, because its batch job ends.

        Returns None if the worker has no time limit, or if the time limit of the whole command ends before its batch
        job.
        """
        allotted = self.schedule.allotted
        return allotted.stops_at - time.time() if self.is_own and allotted is not None else None


def time_of(command: Allotment | None, own: Allotment | None) -> WorkerTime:
    """Returns a WorkerTime, the time limit of a Dask worker that begins its first work unit now.

    `command` is the time limit of the whole command. `own` is the time limit of the worker's own batch job. None means
    no limit. The WorkerTime has the limit that ends first, and whether that limit is `own`.
    """
    is_own = own is not None and (command is None or own.ends_at < command.ends_at)
    allotted, now = own if is_own else command, time.time()
    was_idle = allotted is not None and now - allotted.began_at > FRESH_SECONDS
    return WorkerTime(UnitSchedule(allotted, idle_until=now if was_idle else None), is_own)


def job_around(worker: DaskWorker, walltime_seconds: float | None) -> Allotment | None:
    """Returns an Allotment, the time limit of the batch job in which `worker` runs, or None if there is no limit.

    The job ends `walltime_seconds` after its start, or when SLURM ends it. Its start is estimated by the start of the
    nanny, Dask's process that restarts a dead worker. Without a nanny, it is estimated by the start of the worker. The
    function may call SLURM, which takes up to 30 s.
    """
    pid = os.getppid() if worker.nanny else os.getpid()
    return allotment(walltime_seconds, psutil.Process(pid).create_time())


async def leave(worker: DaskWorker) -> None:
    """Closes the Dask worker `worker`, so that its batch job ends. Its work units go to other workers. Dask does not
    count this as a death.

    The scheduler refuses to close a worker that holds the only copy of a result. So the request is repeated until the
    client has fetched the result.
    """
    for _ in range(RETIRE_TRIES):
        await asyncio.sleep(RETIRE_PAUSE_SECONDS)
        if await worker.scheduler.retire_workers(workers=[worker.address], close_workers=False, remove=True):
            break
    await worker.close(nanny=True, reason="kinegraph-walltime")


class LeaveInTime(WorkerPlugin):
    """A plugin of Dask workers. It makes each worker leave the cluster before the worker's own batch job ends.

    A job ends `walltime_seconds` after its start, or when SLURM ends it. If `walltime_seconds` is None and SLURM sets
    no end, the worker stays.
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
