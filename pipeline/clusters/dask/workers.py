"""Counts the workers of a Dask cluster, and raises an error if no worker is left. Torch-free."""

import logging
from time import monotonic

from distributed import Client
from distributed.core import Status

from kinegraph.pipeline.clusters.dask.cluster import most_workers
from kinegraph.pipeline.clusters.dask.jobs import JobWatch
from kinegraph.pipeline.config import RunOptions
from kinegraph.pipeline.errors import ClusterLost, OutOfTimeError

COUNT_WORKERS_SECONDS = 5.0
STARTING_PATIENCE = 10  # times `timeout_seconds` while workers start, which takes minutes on a crowded machine
UP = {Status.init, Status.starting, Status.running}  # states of a nanny that is alive, whatever its worker does
log = logging.getLogger("kinegraph")


class Workers:
    """Counts the workers of a Dask cluster, at most once in COUNT_WORKERS_SECONDS. Workers may join and leave.

    Make this object when the cluster has had its first worker. `client` is connected to the cluster, and `run` is the
    section `run` of the config. `left_in_order` says whether the last worker left by itself, for example at the end of
    its job, and did not die.
    """

    def __init__(self, client: Client, run: RunOptions) -> None:
        self.client, self.run = client, run
        self.address = client.scheduler_info(n_workers=0)["address"]
        self.left_in_order = False
        jobs = run.dask.jobqueue
        self._jobs = None if jobs is None else JobWatch(client.cluster, jobs, had_worker=True)
        self._counted, self._number = float("-inf"), 0
        self._gone_since: float | None = None
        self._told = False

    def most(self) -> int:
        """Returns the largest number of workers to expect: the number at the last count, or the number that the config
        asks for, whichever is larger.
        """
        self._count()
        return max(self._number, most_workers(self.run))

    def require(self) -> None:
        """Raises an error if the cluster has had no worker for too long: for `run.dask.timeout_seconds`, or ten times
        as long while workers restart. The error is OutOfTimeError if the last worker left because its time was over,
        else ClusterLost.

        Workers that are batch jobs may be away for any time. For them, raises ClusterError if jobs are refused or end
        without a worker.
        """
        self._count()
        if self._jobs is not None:
            self._jobs.replace_lost_jobs(self._number)
            return
        if self._gone_since is None:
            return
        gone_seconds, patience = monotonic() - self._gone_since, self.run.dask.timeout_seconds
        if gone_seconds >= patience and self._is_starting():
            patience *= STARTING_PATIENCE
            self._tell_once(patience)
        if gone_seconds < patience:
            return
        error = OutOfTimeError if self.left_in_order else ClusterLost
        raise error(
            f"The last worker of the Dask scheduler at {self.address} {'left' if self.left_in_order else 'died'}, and "
            f"none came within {patience:g} s. Finished shards are kept. The same command goes on when there are "
            "workers."
        )

    def _is_starting(self) -> bool:
        """Returns whether a worker may still start: this command started the cluster, and a nanny is alive. A nanny is
        Dask's process that starts and restarts one worker.
        """
        nannies = getattr(self.client.cluster, "workers", {}).values()
        return any(nanny.status in UP for nanny in nannies)

    def _tell_once(self, patience: float) -> None:
        if not self._told:
            self._told = True
            log.warning("Dask's workers died and are restarting, which takes long. Waiting up to %g s", patience)

    def _count(self) -> None:
        if monotonic() - self._counted < COUNT_WORKERS_SECONDS:
            return
        try:
            self._number = len(self.client.nthreads())
        except OSError:  # the futures show that a scheduler is gone; a slow scheduler says nothing about workers
            return
        finally:
            self._counted = monotonic()
        if self._number:
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since = self._counted
