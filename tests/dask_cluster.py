"""A Dask cluster for tests: real worker processes, shared by tests because each loads torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import dask.config
from distributed import LocalCluster

from kinegraph.pipeline.clusters.dask.cluster import UNITS_AT_ONCE, local_cluster, settings
from kinegraph.pipeline.config import RunOptions


@contextmanager
def running(workers: int) -> Iterator[LocalCluster]:
    with (
        dask.config.set(settings(children=True)),
        local_cluster(RunOptions(executor="dask", workers=workers)) as cluster,
    ):
        yield cluster


@contextmanager
def in_this_process(workers: int) -> Iterator[LocalCluster]:
    """Workers that are threads, for tests that change what these do."""
    with LocalCluster(
        n_workers=workers,
        threads_per_worker=UNITS_AT_ONCE,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster


def worker_pids(cluster: LocalCluster) -> list[int]:
    """Processes of the workers that are up."""
    return [nanny.pid for nanny in cluster.workers.values() if nanny.pid is not None]
