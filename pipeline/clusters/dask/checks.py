"""Checks a Dask cluster before the cluster gets work. An error lists the workers that cannot do the work, and why."""

import logging
import time
import uuid
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from distributed import Client

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import UnknownStorage
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.clusters.dask.cluster import needs_gpu
from kinegraph.pipeline.clusters.dask.jobs import JobWatch
from kinegraph.pipeline.config import RunOptions
from kinegraph.pipeline.errors import ClusterError
from kinegraph.pipeline.machine.versions import MUST_AGREE, differing_versions, versions

LOOK_SECONDS = 1.0
log = logging.getLogger("kinegraph")


def check_cluster(client: Client, run: RunOptions, cache: Cache, shard: int) -> None:
    """Raises ClusterError if there is no worker, or if a worker cannot do the work.

    Each worker must have the same versions of kinegraph and torch as this process. Each worker must see the cache, and
    the first video of the shard with index `shard`. If the config asks for a GPU, at least one worker must have a GPU.
    """
    check_workers(client, run)
    check_cache(client, cache)
    _check_video(client, cache.rows(shard)[0].path)


def check_workers(client: Client, run: RunOptions) -> None:
    """Checks that the workers of the Dask cluster of `client` fit this process and `run`, the section of the config.

    Raises ClusterError if there is no worker, or if a worker has another version of kinegraph or torch than this
    process. Raises it also if the config asks for a GPU and no worker has one.
    """
    _wait_for_workers(client, run)
    _check_versions(client)
    if needs_gpu(run):
        _check_gpus(client)


def _wait_for_workers(client: Client, run: RunOptions) -> None:
    """Waits for the first worker of the cluster.

    Raises ClusterError if there is no worker after `run.dask.timeout_seconds`. Workers that are jobs of a batch system
    may wait in the queue for any time. For such workers the function raises ClusterError only if the jobs are refused
    or end without a worker.
    """
    if run.dask.jobqueue is not None:
        log.info("waiting for the first job of the %s queue to start", run.dask.jobqueue.kind)
        watch = JobWatch(client.cluster, run.dask.jobqueue, had_worker=False)
        while not client.nthreads():
            watch.look(num_workers=0)
            stopping.sleep(LOOK_SECONDS)
        return
    until = time.monotonic() + run.dask.timeout_seconds
    while not client.nthreads():
        if time.monotonic() >= until:
            raise ClusterError(
                f"The Dask scheduler at {_address(client)} has no worker after {run.dask.timeout_seconds:g} s. Start "
                f"some with `dask worker {_address(client)}`."
            )
        stopping.sleep(stopping.POLL_SECONDS)


def _check_versions(client: Client) -> None:
    """Raises ClusterError if a worker of the cluster of `client` has another version of kinegraph or torch than this
    process.

    Only workers that are present now are checked. A worker that joins later checks itself.
    """
    expected = {package: versions()[package] for package in MUST_AGREE}
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    # a function of Python's standard library, which works on workers without kinegraph
    answers = {package: client.run(version, package, workers=workers, on_error="return") for package in expected}
    lines = {}
    for worker in workers:
        theirs = [answers[package].get(worker) for package in expected]
        if not any(isinstance(answer, OSError | None) for answer in theirs):  # such a worker left meanwhile
            told = (answer if isinstance(answer, str) else "not installed" for answer in theirs)
            lines[worker] = differing_versions(expected, dict(zip(expected, told, strict=True)))
    _refuse({worker: f"has {line}" for worker, line in lines.items() if line}, "Install the same on all machines.")


def check_cache(client: Client, cache: Cache) -> None:
    """Raises ClusterError if a Dask worker of `client` does not see `cache` at its path, or sees another cache
    there.
    """
    _check_seen(client, cache.storage, f"probes/{uuid.uuid4().hex}", f"the cache {absolute_root(cache.root)}")


def check_run_folder(client: Client, folder: Path) -> None:
    """Raises ClusterError if a worker does not see `folder`. The folder is created if it does not exist."""
    _check_seen(client, LocalStorage(folder), f".probe-{uuid.uuid4().hex}", f"the folder of runs {folder}")


def _check_seen(client: Client, storage: Storage, probe: str, what: str) -> None:
    """Writes an object to the storage under the name `probe`. Raises ClusterError if a worker cannot read the object.

    `what` describes the storage in the error, for example `the cache /data/cache`. The object is deleted at the end.
    """
    content = uuid.uuid4().bytes
    storage.put(probe, [content])
    try:
        answers = client.run(_unseen, absolute_root(storage.root), probe, content)
    finally:
        storage.delete(probe)
    _refuse(
        {worker: f"does not see {what} ({answer})" for worker, answer in answers.items() if answer},
        "Put it where all machines see it under the same path (and use an absolute path), or start the workers on "
        "machines that see it.",
    )


def _unseen(root: str, probe: str, content: bytes) -> str:
    """Returns "" if this worker reads `content` from the object `probe` of the storage at `root`. Otherwise returns a
    text that says why not. The client has written the object before.
    """
    try:
        same = open_storage(root).get(probe) == content
    except UnknownStorage as error:
        return str(error)
    except OSError as error:
        return f"{type(error).__name__} in {Path.cwd()}"
    return "" if same else "another of its name"


def _check_video(client: Client, video: str) -> None:
    """Raises ClusterError if a worker does not see the file `video` at the path where this process sees it.

    Does nothing if this process sees no such file, for example if `video` is a URL.
    """
    if not Path(video).exists():
        return
    there = client.run(_absolute, video)
    here = _absolute(video)
    _refuse(
        {worker: f"does not see the video {video}: {answer}" for worker, answer in there.items() if answer != here},
        f"Here it is {here}. Put videos where all machines see them under the same path (dataset.root is best "
        "absolute), or start the workers on machines that see them.",
    )


def _absolute(path: str) -> str:
    """Returns the absolute form of `path` on the machine that runs this function. If the path does not exist there,
    returns a text that says so.
    """
    absolute = str(Path(path).absolute())
    return absolute if Path(path).exists() else f"there is no {absolute}"


def _check_gpus(client: Client) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not any(worker["resources"].get("GPU", 0) >= 1 for worker in workers.values()):
        raise ClusterError(
            f"run.device: given cuda, but none of {counted(len(workers), 'worker')} of {_address(client)} has the "
            "resource GPU. Start workers with `dask worker --resources GPU=1`, or say --set run.device=auto."
        )


def absolute_root(root: str) -> str:
    """Returns `root`, the path of a cache, as an absolute path. A URL is returned unchanged."""
    return root if "://" in root else str(Path(root).absolute())


def _address(client: Client) -> str:
    address: str = client.scheduler_info(n_workers=0)["address"]
    return address


def _refuse(problems: Mapping[str, str], what_to_do: str) -> None:
    if problems:
        lines = "\n".join(f"  worker {worker} {problem}" for worker, problem in problems.items())
        raise ClusterError(f"Dask workers that cannot do the work:\n{lines}\n{what_to_do}")
