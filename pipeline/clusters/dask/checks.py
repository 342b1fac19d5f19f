"""Checks the workers of a Dask cluster before they get work. An error lists the workers that cannot do the work, and
why.
"""

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
    """Raises ClusterError if the Dask cluster of `client` has no worker, or if a worker cannot extract into `cache`.

    Each worker must have the same versions of kinegraph and torch as this process. Each worker must see the cache and
    the first video of the shard number `shard`. If the config asks for a GPU, at least one worker must have a GPU.
    """
    check_workers(client, run)
    check_cache(client, cache)
    _check_video(client, cache.rows(shard)[0].path)


def check_workers(client: Client, run: RunOptions) -> None:
    """Raises ClusterError if the Dask cluster of `client` has no worker, or if a worker has another version of
    kinegraph or torch than this process.

    `run` is the section `run` of the config. If it asks for a GPU, raises ClusterError also if no worker has a GPU.
    """
    _wait_for_workers(client, run)
    _check_versions(client)
    if needs_gpu(run):
        _check_gpus(client)


def _wait_for_workers(client: Client, run: RunOptions) -> None:
    """Waits until the cluster has a worker. Raises ClusterError if there is no worker after `run.dask.timeout_seconds`.

    Workers that are jobs of a batch system may wait in the queue for any time. For such workers, raises ClusterError
    only if the batch system refuses the jobs, or if jobs end without a worker.
    """
    if run.dask.jobqueue is not None:
        log.info("waiting for the first job of the %s queue to start", run.dask.jobqueue.kind)
        watch = JobWatch(client.cluster, run.dask.jobqueue, had_worker=False)
        while not client.nthreads():
            watch.replace_lost_jobs(num_workers=0)
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
    """Raises ClusterError if a worker of the cluster has another version of kinegraph or torch than this process.

    Checks the workers that are present now. A worker that joins later checks itself.
    """
    expected = {package: versions()[package] for package in MUST_AGREE}
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    # a function of Python's standard library, which works on workers without kinegraph
    answers = {package: client.run(version, package, workers=workers, on_error="return") for package in expected}
    lines = {}
    for worker in workers:
        theirs = [answers[package].get(worker) for package in expected]
        if not any(isinstance(answer, OSError | None) for answer in theirs):  # such a worker left meanwhile
            found = (answer if isinstance(answer, str) else "not installed" for answer in theirs)
            lines[worker] = differing_versions(expected, dict(zip(expected, found, strict=True)))
    _refuse({worker: f"has {line}" for worker, line in lines.items() if line}, "Install the same on all machines.")


def check_cache(client: Client, cache: Cache) -> None:
    """Raises ClusterError if a Dask worker does not see `cache`: its path is missing on the machine of the worker, or
    holds another cache.
    """
    _check_seen(client, cache.storage, f"probes/{uuid.uuid4().hex}", f"the cache {absolute_root(cache.root)}")


def check_run_folder(client: Client, folder: Path) -> None:
    """Raises ClusterError if a Dask worker does not see `folder`. Creates the folder if it does not exist."""
    _check_seen(client, LocalStorage(folder), f".probe-{uuid.uuid4().hex}", f"the folder of runs {folder}")


def _check_seen(client: Client, storage: Storage, probe: str, what: str) -> None:
    """Writes a test object with the name `probe` to the storage and lets each worker read it. Raises ClusterError if a
    worker cannot read it.

    `what` names the storage in the message, for example "the cache /data/cache". The test object is deleted at the end.
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
    """Returns "" if the object `probe` of the storage at `root` has the content `content`. Otherwise returns a text
    that says what this worker sees. Runs on a Dask worker.
    """
    try:
        same = open_storage(root).get(probe) == content
    except UnknownStorage as error:
        return str(error)
    except OSError as error:
        return f"{type(error).__name__} in {Path.cwd()}"
    return "" if same else "another of its name"


def _check_video(client: Client, video: str) -> None:
    """Raises ClusterError if a worker does not see the file `video` under the same absolute path as this process.

    Does nothing if this process does not see the file, for example because `video` is a URL.
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
    """Returns the absolute form of `path` on the machine where this function runs. If no file has this path, returns
    "there is no <absolute path>".
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
    """Returns the path `root` of a cache as an absolute path. Returns a URL unchanged."""
    return root if "://" in root else str(Path(root).absolute())


def _address(client: Client) -> str:
    address: str = client.scheduler_info(n_workers=0)["address"]
    return address


def _refuse(problems: Mapping[str, str], what_to_do: str) -> None:
    if problems:
        lines = "\n".join(f"  worker {worker} {problem}" for worker, problem in problems.items())
        raise ClusterError(f"Dask workers that cannot do the work:\n{lines}\n{what_to_do}")
