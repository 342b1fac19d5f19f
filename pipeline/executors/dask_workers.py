"""How many workers a Dask cluster has, and whether any are left. Torch-free."""

import time
from contextlib import suppress

from distributed import Client

from pipeline.config import RunOptions
from pipeline.errors import ClusterLost, OutOfTimeError
from pipeline.executors.dask_cluster import most_workers
from pipeline.executors.dask_jobs import JobWatch

COUNT_WORKERS_SECONDS = 5.0


class Workers:
    """The workers of a client's cluster, which had one already, counted now and then; they may come and go.

    `left_in_order`: whether the last that left did so by itself, as at the end of its job, and did not die.
    """

    def __init__(self, client: Client, run: RunOptions) -> None:
        self.client, self.run = client, run
        self.address = client.scheduler_info(n_workers=0)["address"]
        self.left_in_order = False
        jobs = run.dask.jobqueue
        self._jobs = None if jobs is None else JobWatch(client.cluster, jobs, had_worker=True)
        self._counted, self._number, self._last_seen = 0.0, 0, time.monotonic()

    def most(self) -> int:
        """How many there may be: those that are up, or as many as the config has started."""
        self._count()
        return max(self._number, most_workers(self.run))

    def require(self) -> None:
        """Raise where there are none for long, other than jobs that wait in a queue.

        ClusterLost, OutOfTimeError, or, where jobs bring none, ClusterError.
        """
        self._count()
        if self._jobs is not None:
            self._jobs.look(self._number)
            return
        patience = self.run.dask.timeout_seconds
        if time.monotonic() - self._last_seen < patience + COUNT_WORKERS_SECONDS:
            return
        error = OutOfTimeError if self.left_in_order else ClusterLost
        raise error(
            f"The last worker of the Dask scheduler at {self.address} {'left' if self.left_in_order else 'died'}, and "
            f"none came within {patience:g} s. What is sealed stays; the same command goes on once there are workers."
        )

    def _count(self) -> None:
        now = time.monotonic()
        if now - self._counted < COUNT_WORKERS_SECONDS:
            return
        with suppress(OSError):  # a scheduler that is gone shows in what it was to do
            self._number = len(self.client.nthreads())
        self._counted = now
        if self._number:
            self._last_seen = now
