"""The Dask cluster of a config: one that runs, jobs of a batch system, or processes of this machine."""

import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.config
from distributed import Client, LocalCluster

from pipeline.cluster_options import DaskOptions, JobQueueOptions
from pipeline.config import RunOptions
from pipeline.errors import ClusterError
from pipeline.executors.contract import MAX_DEATHS
from pipeline.executors.dask_station import UNITS_AT_ONCE

LOOPBACK, LOOPBACK_INTERFACE = "127.0.0.1", "lo"
DEMAND_SECONDS = "1s"  # adapting starts jobs for work that takes longer; a unit takes minutes


def needs_gpu(run: RunOptions) -> bool:
    return run.device.startswith("cuda")


def resources(run: RunOptions, units: int = 1) -> dict[str, float]:
    """The part of a worker's resources that so many units take: UNITS_AT_ONCE share one process, and its GPU."""
    return {"GPU": units / UNITS_AT_ONCE} if needs_gpu(run) else {}


def most_workers(run: RunOptions) -> int:
    """How many worker processes there may be, as far as the config knows."""
    options = run.dask
    if options.jobqueue is not None:
        return options.jobqueue.jobs
    return 1 if options.scheduler or options.scheduler_file else run.workers


@contextmanager
def connected(run: RunOptions) -> Iterator[Client]:
    """A client of the cluster; what was started for it ends with it. Raises ClusterError."""
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with dask.config.set({"distributed.scheduler.allowed-failures": MAX_DEATHS - 1}):
        if run.dask.scheduler or run.dask.scheduler_file:
            with _running(run.dask) as client:
                yield client
            return
        started = local_cluster(run) if run.dask.jobqueue is None else _jobs(run, run.dask.jobqueue)
        with started as cluster, Client(cluster) as client:
            try:
                yield client
            finally:  # to end takes seconds where torch was loaded: Dask warns, and kills what has nothing left to do
                logging.getLogger("distributed.nanny").setLevel(logging.ERROR)


def _running(options: DaskOptions) -> Client:
    where = options.scheduler or f"the file {options.scheduler_file}"
    if options.scheduler_file and not Path(options.scheduler_file).exists():
        raise ClusterError(
            f"--scheduler-file {options.scheduler_file}: no such file (looked from {Path.cwd()}). A scheduler writes "
            "it: `dask scheduler --scheduler-file F`."
        )
    try:
        return Client(options.scheduler, scheduler_file=options.scheduler_file, timeout=options.timeout_seconds)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"No Dask scheduler answers at {where} within {options.timeout_seconds:g} s: {error}. Start one with "
            "`dask scheduler`, or leave --scheduler out for workers on this machine."
        ) from error


def local_cluster(run: RunOptions) -> LocalCluster:
    """`run.workers` processes of this machine, started anew where they die."""
    interface = run.dask.interface
    return LocalCluster(
        n_workers=run.workers,
        threads_per_worker=UNITS_AT_ONCE,
        memory_limit=run.dask.memory_limit,
        dashboard_address=run.dask.dashboard,
        resources=resources(run, UNITS_AT_ONCE),
        **({"host": LOOPBACK} if interface is None else {"interface": interface}),
    )


def _jobs(run: RunOptions, options: JobQueueOptions) -> Any:
    from dask_jobqueue.lsf import LSFCluster
    from dask_jobqueue.pbs import PBSCluster
    from dask_jobqueue.sge import SGECluster
    from dask_jobqueue.slurm import SLURMCluster

    kinds = {"slurm": SLURMCluster, "pbs": PBSCluster, "lsf": LSFCluster, "sge": SGECluster}
    interface = run.dask.interface
    ours: dict[str, Any] = {
        "processes": 1,
        "interface": interface or LOOPBACK_INTERFACE,
        "scheduler_options": {"dashboard_address": run.dask.dashboard} | ({} if interface else {"host": LOOPBACK}),
        "job_script_prologue": [f"cd {shlex.quote(os.getcwd())}"],  # noqa: PTH109 -- paths of a config are relative
        "worker_extra_args": ["--resources", "GPU=1"] if needs_gpu(run) else [],
    }
    given = dict(options.options)
    for key in ("job_script_prologue", "worker_extra_args"):
        ours[key] += given.pop(key, [])
    try:
        cluster = kinds[options.kind](**ours | given)
    except (TypeError, ValueError) as error:
        raise ClusterError(f"run.dask.jobqueue.options: given {options.options}; dask-jobqueue: {error}") from error
    cluster.adapt(minimum_jobs=1, maximum_jobs=options.jobs, target_duration=DEMAND_SECONDS)
    return cluster
