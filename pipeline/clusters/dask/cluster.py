"""The Dask cluster of a config: one that runs, jobs of a batch system, or processes of this machine."""

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
from kinegraph.pipeline.cluster_options import DaskOptions
from kinegraph.pipeline.clusters.dask.jobs import LOOPBACK, job_cluster
from kinegraph.pipeline.config import RunOptions
from kinegraph.pipeline.errors import ClusterError
from kinegraph.pipeline.shards.leases import MAX_DEATHS

UNITS_AT_ONCE = 4  # of one process: one is computed, one sealed, one decoded, and one waits, so that none is waited for
NEVER_SECONDS = 10 * 365 * 24 * 3600.0


def needs_gpu(run: RunOptions) -> bool:
    return run.device.startswith("cuda")


def resources(run: RunOptions, tasks: int = 1, tasks_at_once: int = UNITS_AT_ONCE) -> dict[str, float]:
    """The part of a worker's resources that so many tasks take: `tasks_at_once` share one process, and its GPU."""
    return {"GPU": tasks / tasks_at_once} if needs_gpu(run) else {}


def most_workers(run: RunOptions) -> int:
    """How many worker processes there may be, as far as the config knows."""
    options = run.dask
    if options.jobqueue is not None:
        return options.jobqueue.jobs
    return 1 if options.scheduler or options.scheduler_file else run.workers


def are_children(run: RunOptions) -> bool:
    """Whether workers are processes of this machine, started by this one and numbered."""
    return run.dask.scheduler is None and run.dask.scheduler_file is None and run.dask.jobqueue is None


def settings(*, children: bool) -> dict[str, Any]:
    """Dask's configuration while there is a cluster.

    A cluster of processes gives up a worker that is not back 15 s after it died; one that died again meanwhile, and is
    just being started, is then closed for good. It is started anew by its nanny, however long that takes.

    No worker pauses: it would until memory is free again, and networks are there to stay.
    """
    found: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": MAX_DEATHS - 1,
        "distributed.worker.memory.pause": False,
    }
    return found | ({"distributed.deploy.lost-worker-timeout": NEVER_SECONDS} if children else {})


@contextmanager
def connected(run: RunOptions, tasks_at_once: int = UNITS_AT_ONCE) -> Iterator[Client]:
    """A client of the cluster, whose workers take so many tasks at a time; what was started for it ends with it.

    Raises ClusterError.
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
            finally:  # to end takes seconds where torch was loaded: Dask warns, and kills what has nothing left to do
                logging.getLogger("distributed.nanny").setLevel(logging.ERROR)


def _running(options: DaskOptions) -> Client:
    address = options.scheduler or _address_in(Path(options.scheduler_file or ""))
    where = f"{address}, as {options.scheduler_file} says," if options.scheduler_file else address
    try:
        return Client(address, timeout=options.timeout_seconds)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"No Dask scheduler answers at {where} within {options.timeout_seconds:g} s: {error}. Start one with "
            "`dask scheduler`, or leave --scheduler out for workers on this machine."
        ) from error


def _address_in(file: Path) -> str:
    """The address of the scheduler that wrote a file."""
    try:
        return str(json.loads(read_regular(file, CONFIG_BYTES))["address"])
    except FileNotFoundError:
        wrong = f"no such file (looked from {Path.cwd()})"
    except NotRegularError as error:
        wrong = str(error)
    except (ValueError, KeyError, TypeError):
        wrong = "no scheduler wrote this: there is no `address` in it"
    raise ClusterError(f"--scheduler-file {file}: {wrong}. A scheduler writes it: `dask scheduler --scheduler-file F`.")


def _started(run: RunOptions, tasks_at_once: int) -> Any:
    """A cluster of our own. Raises ClusterError where Dask cannot make it as the config says."""
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
    """`run.workers` processes of this machine, started anew where they die."""
    interface = run.dask.interface
    return LocalCluster(
        n_workers=run.workers,
        threads_per_worker=tasks_at_once,
        memory_limit=run.dask.memory_limit,
        dashboard_address=run.dask.dashboard,
        resources=resources(run, UNITS_AT_ONCE),
        **({"host": LOOPBACK} if interface is None else {"interface": interface}),
    )
