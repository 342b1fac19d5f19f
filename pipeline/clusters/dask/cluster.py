"""Starts or joins the Dask cluster that a config describes: a cluster that runs already, batch jobs, or processes of
this machine.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.config
from distributed import Client, LocalCluster

from kinegraph.cache_schemas.regular import CONFIG_BYTES, NotRegularError, read_regular
from kinegraph.cache_schemas.words import sentence
from kinegraph.pipeline.cluster_options import DaskOptions
from kinegraph.pipeline.clusters.dask.jobs import LOOPBACK, job_cluster
from kinegraph.pipeline.config import RunOptions
from kinegraph.pipeline.errors import ClusterError
from kinegraph.pipeline.shards.leases import MAX_DEATHS

UNITS_AT_ONCE = 4  # of one process: one is computed, one sealed, one decoded, and one waits, so that no step idles
NEVER_SECONDS = 10 * 365 * 24 * 3600.0


def needs_gpu(run: RunOptions) -> bool:
    """Returns whether the config asks for a GPU: its `run.device` begins with "cuda"."""
    return run.device.startswith("cuda")


def resources(run: RunOptions, tasks: int = 1, tasks_at_once: int = UNITS_AT_ONCE) -> dict[str, float]:
    """Returns the Dask resources that `tasks` tasks need, for example {"GPU": 0.25}. Returns {} if the config asks for
    no GPU.

    `tasks_at_once` tasks share the GPU of a worker. If 4 tasks share it, each task needs 0.25 of it.
    """
    return {"GPU": tasks / tasks_at_once} if needs_gpu(run) else {}


def most_workers(run: RunOptions) -> int:
    """Returns the largest number of Dask workers that the config asks for. `run` is the section `run` of the config.

    Returns 1 if the config names a cluster that runs already, because its number of workers is unknown.
    """
    options = run.dask
    if options.jobqueue is not None:
        return options.jobqueue.jobs
    return 1 if options.scheduler or options.scheduler_file else run.workers


def are_children(run: RunOptions) -> bool:
    """Returns whether the Dask workers are child processes of this process. Such workers have the names 0, 1, 2, ...

    `run` is the section `run` of the config. The section `run.dask` says how the workers are started.
    """
    return run.dask.scheduler is None and run.dask.scheduler_file is None and run.dask.jobqueue is None


def settings(*, children: bool) -> dict[str, Any]:
    """Returns the settings of Dask that hold while this process uses the cluster, as a dict {name of a setting: value}.

    `children` says whether the workers are child processes of this process. If they are, the restart of a dead worker
    has no time limit.
    """
    configuration: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": MAX_DEATHS - 1,
        # a paused worker waits until memory is free, but its networks stay in memory, so it would wait for ever
        "distributed.worker.memory.pause": False,
    }
    # by default Dask closes a child for good if its restart takes more than 15 s
    return configuration | ({"distributed.deploy.lost-worker-timeout": NEVER_SECONDS} if children else {})


@contextmanager
def dask_client(run: RunOptions, tasks_at_once: int = UNITS_AT_ONCE) -> Iterator[Client]:
    """Starts or joins the Dask cluster that the config describes. Yields a client of this cluster for a `with` block.

    `run` is the section `run` of the config. A cluster that this function started ends with the block. Each worker runs
    up to `tasks_at_once` tasks at a time. Raises ClusterError if no scheduler answers, or if the cluster cannot be
    started.
    """
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with dask.config.set(settings(children=are_children(run))):
        if run.dask.scheduler or run.dask.scheduler_file:
            with _running(run.dask) as client:
                yield client
            return
        with _started(run, tasks_at_once) as cluster, Client(cluster) as client:
            try:
                yield client
            finally:  # ending takes seconds where torch was loaded: Dask warns and kills workers that are done
                logging.getLogger("distributed.nanny").setLevel(logging.ERROR)


def _running(options: DaskOptions) -> Client:
    address = options.scheduler or _address_in(Path(options.scheduler_file or ""))
    where = f"{address}, as {options.scheduler_file} says," if options.scheduler_file else address
    try:
        return Client(address, timeout=options.timeout_seconds)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"No Dask scheduler answers at {where} within {options.timeout_seconds:g} s: {sentence(error)} Start one "
            "with `dask scheduler`, or leave --scheduler out for workers on this machine."
        ) from error


def _address_in(file: Path) -> str:
    """Returns the address of the Dask scheduler that wrote `file` (`--scheduler-file`). Raises ClusterError if `file`
    has no address.
    """
    try:
        return str(json.loads(read_regular(file, CONFIG_BYTES))["address"])
    except FileNotFoundError:
        wrong = f"no such file (looked from {Path.cwd()})"
    except NotRegularError as error:
        wrong = str(error)
    except (ValueError, KeyError, TypeError, RecursionError):
        wrong = "no scheduler wrote this file: it has no `address`"
    raise ClusterError(f"--scheduler-file {file}: {wrong}. A scheduler writes it: `dask scheduler --scheduler-file F`.")


def _started(run: RunOptions, tasks_at_once: int) -> Any:
    """Starts the Dask cluster that `run.dask` describes and returns it. Each worker runs up to `tasks_at_once` tasks at
    a time.

    Raises ClusterError if Dask cannot start the cluster.
    """
    options = run.dask
    try:
        if options.jobqueue is not None:
            return job_cluster(run, options.jobqueue, tasks_at_once, gpu=needs_gpu(run))
        return local_cluster(run, tasks_at_once)
    except ClusterError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"run.dask: no cluster starts with interface {options.interface}, dashboard {options.dashboard}, "
            f"memory_limit {options.memory_limit}: {error}"
        ) from error


def local_cluster(run: RunOptions, tasks_at_once: int = UNITS_AT_ONCE) -> LocalCluster:
    """Starts a Dask cluster of `run.workers` worker processes on this machine and returns it.

    Each worker runs up to `tasks_at_once` tasks at a time, each in a thread. If a worker dies, Dask starts a new
    process.
    """
    interface = run.dask.interface
    return LocalCluster(
        n_workers=run.workers,
        threads_per_worker=tasks_at_once,
        memory_limit=run.dask.memory_limit,
        dashboard_address=run.dask.dashboard,
        resources=resources(run, UNITS_AT_ONCE),
        **({"host": LOOPBACK} if interface is None else {"interface": interface}),
    )
