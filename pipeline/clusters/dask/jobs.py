"""Runs Dask workers as jobs of a batch system with dask-jobqueue, and replaces jobs that brought no worker.

dask-jobqueue never checks a submitted job again. If a job is refused, or ends before its worker reaches the scheduler,
dask-jobqueue treats it as a job that waits in the queue.
"""

import logging
import math
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed.core import Status

from kinegraph.pipeline.cluster_options import JobQueueOptions
from kinegraph.pipeline.config import RunOptions
from kinegraph.pipeline.errors import ClusterError, ProgramMissing
from kinegraph.pipeline.machine.programs import run, tell_once

LOOPBACK, LOOPBACK_INTERFACE = "127.0.0.1", "lo"
DEMAND_SECONDS = "1s"  # Dask starts jobs for work that takes longer than this; a unit takes minutes
MAX_FRUITLESS = 3  # jobs in a row that brought no worker
LOOK_EVERY_SECONDS = 30.0  # more than the 15 s after which dask-jobqueue replaces a job whose worker left
ASK_SECONDS = 60.0
ASK = {
    "slurm": ("squeue", "-h", "-o", "%T", "-j"),
    "pbs": ("qstat",),
    "lsf": ("bjobs", "-noheader", "-o", "stat"),
    "sge": ("qstat", "-j"),
}
SAYS_OVER = {
    "slurm": r"\s*|.*invalid job id.*",  # squeue lists only jobs that are not over
    "pbs": r".*(unknown job|has finished).*",
    "lsf": r".*(done|exit|is not found).*",
    "sge": r".*do not exist.*",
}
log = logging.getLogger("kinegraph")


@contextmanager
def ctrl_c_kept() -> Iterator[None]:
    """Restores the handler of SIGINT (Ctrl-C) at the end of a `with` block that imports dask_jobqueue. The import of
    dask_jobqueue installs a handler that ends the process with exit code 0.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


def _cluster_classes() -> dict[str, Any]:
    with ctrl_c_kept():
        from dask_jobqueue.lsf import LSFCluster
        from dask_jobqueue.pbs import PBSCluster
        from dask_jobqueue.sge import SGECluster
        from dask_jobqueue.slurm import SLURMCluster
    return {"slurm": SLURMCluster, "pbs": PBSCluster, "lsf": LSFCluster, "sge": SGECluster}


def job_cluster(run: RunOptions, options: JobQueueOptions, tasks_at_once: int, *, gpu: bool) -> Any:
    """Returns a cluster of dask-jobqueue, which submits jobs to a batch system while there is work.

    - `run`: the section `run` of the config.
    - `options`: the options of the jobs, `run.dask.jobqueue`.
    - `tasks_at_once`: the number of tasks that the worker of a job runs at a time. Each job has one worker.
    - `gpu`: whether each worker declares a GPU.

    Raises ClusterError if dask-jobqueue refuses the values in `options.options`.
    """
    interface = run.dask.interface
    ours: dict[str, Any] = {
        "processes": 1,
        "interface": interface or LOOPBACK_INTERFACE,
        "scheduler_options": {"dashboard_address": run.dask.dashboard} | ({} if interface else {"host": LOOPBACK}),
        "job_script_prologue": [
            f"cd {shlex.quote(os.getcwd())}",  # noqa: PTH109 -- paths of a config are relative
            "export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False",  # as in `settings` of dask_cluster.py
        ],
        # Without --nthreads a worker takes a task per core, and Dask starts fewer jobs than there is work for.
        "worker_extra_args": ["--nthreads", str(tasks_at_once), *(["--resources", "GPU=1"] if gpu else [])],
    }
    if run.jobs_walltime_seconds is not None:
        ours["walltime"] = walltime_of(options.kind, run.jobs_walltime_seconds)
    given = dict(options.options)
    for key in ("job_script_prologue", "worker_extra_args"):
        ours[key] += given.pop(key, [])
    cluster_class = _cluster_classes()[options.kind]
    try:
        cluster = cluster_class(job_cls=_with_refusal(cluster_class.job_cls), **ours | given)
    except (TypeError, ValueError) as error:
        raise ClusterError(f"run.dask.jobqueue.options: given {options.options}; dask-jobqueue: {error}") from error
    if not interface and not given.keys() & {"interface", "scheduler_options"}:
        log.warning(
            "run.dask.interface is not set, so the scheduler listens on loopback. Workers of jobs on other nodes "
            "cannot reach it. Name the network between the nodes, such as ib0 (`ip -brief address` lists networks)"
        )
    cluster.adapt(minimum_jobs=1, maximum_jobs=options.jobs, target_duration=DEMAND_SECONDS)
    return cluster


def _with_refusal(job_class: Any) -> Any:
    """Returns a subclass of `job_class`, a job class of dask-jobqueue, that remembers a refusal in its attribute
    `refusal`.

    `refusal` is the message of the batch system if it refused the job, otherwise "". The message is also logged.
    """
    logged: set[str] = set()

    async def start(job: Any) -> None:
        try:
            await job_class.start(job)
        except (OSError, RuntimeError, ValueError) as error:
            job.refusal = str(error).partition("stderr:")[2].strip() or str(error)
            if isinstance(error, FileNotFoundError):
                job.refusal = f"{error.filename} is not on the PATH. Run this on a machine that submits jobs"
            job.status = Status.running
            if job.refusal not in logged:  # where a site limits the number of jobs, more are tried now and then
                logged.add(job.refusal)
                log.warning("the batch system refused a job for a Dask worker: %s", job.refusal)

    async def close(job: Any) -> None:
        try:
            await job_class.close(job)
        except FileNotFoundError as error:
            tell_once(f"{error.filename} is not on the PATH, so job {job.job_id} goes on. End it by hand")
        job.status = Status.closed  # dask-jobqueue does not set it, and distributed checks jobs that are in memory

    return type(job_class.__name__, (job_class,), {"start": start, "close": close, "refusal": ""})


def walltime_of(kind: str, seconds: float) -> str:
    """Returns the time limit of `seconds` in the notation of the batch system `kind`: "HH:MM" for "lsf", otherwise
    "HH:MM:SS".
    """
    minutes, rest = divmod(math.ceil(seconds), 60)
    if kind == "lsf":
        minutes, rest = minutes + (rest > 0), 0
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}" if kind == "lsf" else f"{hours:02}:{minutes:02}:{rest:02}"


class JobWatch:
    """Watches the batch jobs of a Dask cluster, and replaces jobs that were refused or that ended without a worker. A
    job may wait in the queue for any time.

    - `cluster`: the cluster of dask-jobqueue.
    - `options`: the options of its jobs.
    - `had_worker`: whether the cluster has had a worker. If it has, refused jobs are no error at first, because the
      refusal may be temporary. MAX_FRUITLESS jobs in a row without a worker are an error.
    """

    def __init__(self, cluster: Any, options: JobQueueOptions, *, had_worker: bool) -> None:
        self.cluster, self.kind, self.had_worker = cluster, options.kind, had_worker
        self.fruitless = 0
        self._ended: set[str] = set()
        self._looked = time.monotonic()

    def replace_lost_jobs(self, num_workers: int) -> None:
        """Removes jobs that were refused or that ended without a worker. Dask then submits new jobs in their place.
        Jobs are removed at most once in LOOK_EVERY_SECONDS.

        `num_workers` is the present number of workers of the cluster. Raises ClusterError if MAX_FRUITLESS jobs in a
        row were lost in this way. Raises ClusterError at once if all jobs were refused and the cluster never had a
        worker.
        """
        self.fruitless = 0 if num_workers else self.fruitless
        jobs = dict(self.cluster.workers)
        refused = {name: job.refusal for name, job in jobs.items() if job.refusal}
        message = f"{self.kind} refused a job for a Dask worker: {next(iter(refused.values()), '')}"
        none_is_left = bool(refused) and len(refused) == len(jobs) and not num_workers
        if none_is_left and not self.had_worker:
            raise ClusterError(message)
        if num_workers >= len(jobs) or time.monotonic() - self._looked < LOOK_EVERY_SECONDS:
            return
        self._looked = time.monotonic()
        if none_is_left:
            self._count(message)
        over = [*refused, *self._without_worker({name: job for name, job in jobs.items() if name not in refused})]
        if over:
            self.cluster.sync(self.cluster.scale_down, over)  # Dask submits other jobs in their place

    def _without_worker(self, jobs: dict[str, Any]) -> list[str]:
        """Returns the names of those `jobs` that ended without a Dask worker. `jobs` maps names to jobs of
        dask-jobqueue.

        A job that has just ended is returned only by the next call, because its worker may have left a moment before.
        """
        at_work = {worker["name"] for worker in [*self.cluster.scheduler_info["workers"].values()]}
        ended = {name for name in jobs.keys() - at_work if is_over(self.kind, jobs[name].job_id)}
        over, self._ended = sorted(ended & self._ended), ended - self._ended
        for name in over:
            self._count(
                f"{self.kind} job {jobs[name].job_id} ended without a worker. Its output lies in "
                f"{jobs[name].log_directory or os.getcwd()}",  # noqa: PTH109 -- where jobs begin
                f" Can a node reach the scheduler at {self.cluster.scheduler_address} (run.dask.interface), and does "
                "it have this Python environment?",
            )
        return over

    def _count(self, message: str, question: str = "") -> None:
        """Counts a job that was refused or that ended without a worker, and logs `message`, a sentence about the job.

        Raises ClusterError if it was the MAX_FRUITLESS-th such job in a row. The message of the error is `message` and
        then `question`, which asks the user about a likely cause.
        """
        self.fruitless += 1
        if self.fruitless >= MAX_FRUITLESS:
            raise ClusterError(f"{message}. This happened {MAX_FRUITLESS} times in a row.{question}")
        log.warning("%s. Another job is submitted", message)


def is_over(kind: str, job_id: str) -> bool:
    """Returns whether the job `job_id` has ended, or is unknown to its batch system. `kind` is the batch system:
    "slurm", "pbs", "lsf" or "sge".

    Returns False if the batch system does not answer, or if its program is missing.
    """
    try:
        done = run(*ASK[kind], job_id, seconds=ASK_SECONDS)
    except ProgramMissing as error:
        tell_once(
            f"{error}, so a job that ends without a worker is not noticed. Run this on a machine that submits jobs."
        )
        return False
    except subprocess.TimeoutExpired:
        return False
    return re.fullmatch(SAYS_OVER[kind], (done.stdout + done.stderr).lower(), re.DOTALL) is not None
