"""What is asked of a Dask cluster before it gets work: errors that come early name the worker and what it lacks."""

import logging
import uuid
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from distributed import Client

from cache_schemas.storage import open_storage
from pipeline.config import RunOptions
from pipeline.errors import ClusterError
from pipeline.executors.contract import Job
from pipeline.executors.dask_cluster import needs_gpu
from pipeline.versions import MUST_AGREE, differing_versions, versions

log = logging.getLogger("kinegraph")


def check_cluster(client: Client, job: Job) -> None:
    """Raise ClusterError unless there are workers, and they can do the job."""
    _wait_for_workers(client, job.config.run)
    _check_versions(client)
    _check_paths(client, job)
    if needs_gpu(job.config.run):
        _check_gpus(client)


def agreed_versions() -> dict[str, str]:
    """Versions of this process that all workers must have."""
    return {package: versions()[package] for package in MUST_AGREE}


def _wait_for_workers(client: Client, run: RunOptions) -> None:
    """Wait for the first worker: a batch system may take its time, others may not."""
    if run.dask.jobqueue is not None:
        log.info("waiting for the first job of the %s queue to start", run.dask.jobqueue.kind)
        client.wait_for_workers(1)
        return
    try:
        client.wait_for_workers(1, timeout=run.dask.timeout_seconds)
    except TimeoutError as error:
        raise ClusterError(
            f"The Dask scheduler at {_address(client)} has no worker after {run.dask.timeout_seconds:g} s. Start some "
            f"with `dask worker {_address(client)}`."
        ) from error


def _check_versions(client: Client) -> None:
    """By functions of Python's own, which workers without kinegraph know too. Who comes later asks itself."""
    expected = agreed_versions()
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    answers = {package: client.run(version, package, workers=workers, on_error="return") for package in expected}
    lines = {}
    for worker in workers:
        theirs = [answers[package].get(worker) for package in expected]
        if not any(isinstance(answer, OSError | None) for answer in theirs):  # that one left meanwhile
            told = (answer if isinstance(answer, str) else "not installed" for answer in theirs)
            lines[worker] = differing_versions(expected, dict(zip(expected, told, strict=True)))
    _refuse({worker: f"has {line}" for worker, line in lines.items() if line}, "Install the same on all machines.")


def _check_paths(client: Client, job: Job) -> None:
    """Workers must see this cache (not another under its name), and the videos as this process does."""
    storage, probe, content = job.cache.storage, f"probes/{uuid.uuid4().hex}", uuid.uuid4().bytes
    video = job.cache.rows(job.units[0].shard)[0].path
    video_here = str(Path(video).absolute()) if Path(video).exists() else None
    storage.put(probe, [content])
    try:
        answers = client.run(_unseen, absolute_root(job.cache.root), probe, content, video, video_here)
    finally:
        storage.delete(probe)
    _refuse(
        {worker: f"does not see {path}" for worker, path in answers.items() if path},
        "Put cache and videos where all machines find them under the same path (and name them by absolute paths), or "
        "start the workers where they do.",
    )


def _unseen(root: str, probe: str, content: bytes, video: str, video_here: str | None) -> str:
    """On a worker: the path it does not see as the client does; none is the empty string."""
    try:
        if open_storage(root).get(probe) != content:
            return f"the cache {root}"
    except OSError as error:
        return f"the cache {root} ({type(error).__name__} in {Path.cwd()})"
    if video_here is not None and (not Path(video).exists() or str(Path(video).absolute()) != video_here):
        return f"the video {video} from {Path.cwd()}"
    return ""


def _check_gpus(client: Client) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not any(worker["resources"].get("GPU", 0) >= 1 for worker in workers.values()):
        raise ClusterError(
            f"run.device: given cuda, but none of the {len(workers)} workers of {_address(client)} has the resource "
            "GPU. Start workers with `dask worker --resources GPU=1`, or say --set run.device=auto."
        )


def absolute_root(root: str) -> str:
    """A cache's root that means the same in any working directory."""
    return root if "://" in root else str(Path(root).absolute())


def _address(client: Client) -> str:
    address: str = client.scheduler_info(n_workers=0)["address"]
    return address


def _refuse(problems: Mapping[str, str], what_to_do: str) -> None:
    if problems:
        lines = "\n".join(f"  worker {worker} {problem}" for worker, problem in problems.items())
        raise ClusterError(f"Dask workers that cannot do the work:\n{lines}\n{what_to_do}")
