"""When the batch job around a Dask worker ends: the worker leaves in time, in order, and others go on. Torch-free.

Dask's own `--lifetime` counts from the worker's start, knows nothing of SLURM's clock, and cannot tell a unit that is
too long for any job from one that began too late.
"""

import asyncio
import os
import time
import uuid
from dataclasses import dataclass

import psutil
from distributed import Worker as DaskWorker
from distributed import WorkerPlugin

from kinegraph.pipeline.clusters.walltime import Allotment, Schedule, allotment

FRESH_SECONDS = 60.0  # what a worker and its client may take until there is work; later than that it was idle
RETIRE_TRIES, RETIRE_PAUSE_SECONDS = 20, 0.5


@dataclass(frozen=True)
class WorkerTime:
    """The time in which a worker may begin units; `is_own`: it ends with this worker's job, not with the command."""

    schedule: Schedule
    is_own: bool

    @property
    def seconds_left(self) -> float | None:
        """Until the worker must leave; None where that is for the command to say."""
        allotted = self.schedule.allotted
        return allotted.stops_at - time.time() if self.is_own and allotted is not None else None


def time_of(command: Allotment | None, own: Allotment | None) -> WorkerTime:
    """The time of a worker that is asked for its first unit now: of the command or its own, whichever ends first."""
    is_own = own is not None and (command is None or own.ends_at < command.ends_at)
    allotted, now = own if is_own else command, time.time()
    was_idle = allotted is not None and now - allotted.began_at > FRESH_SECONDS
    return WorkerTime(Schedule(allotted, idle_until=now if was_idle else None), is_own)


def job_around(worker: DaskWorker, walltime_seconds: float | None) -> Allotment | None:
    """The time of the job that a worker is in, which began with the process that starts it anew where it dies.

    SLURM may be asked, which takes a moment.
    """
    pid = os.getppid() if worker.nanny else os.getpid()
    return allotment(walltime_seconds, psutil.Process(pid).create_time())


async def leave(worker: DaskWorker) -> None:
    """End a worker and its job. What it was at goes to others, which is no death.

    It cannot retire while it alone holds a result; the client is about to fetch that.
    """
    for _ in range(RETIRE_TRIES):
        await asyncio.sleep(RETIRE_PAUSE_SECONDS)
        if await worker.scheduler.retire_workers(workers=[worker.address], close_workers=False, remove=True):
            break
    await worker.close(nanny=True, reason="kinegraph-walltime")


class LeaveInTime(WorkerPlugin):
    """Makes each worker leave before the end of its own job."""

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
