"""A Dask cluster that cannot do the work is refused before any is done, with the worker and what it lacks."""

import json
import multiprocessing
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import Client, LocalCluster

from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.clusters.dask import cluster as clusters
from kinegraph.pipeline.clusters.dask.checks import _check_versions, _unseen, check_cluster
from kinegraph.pipeline.config import Config, RunOptions, load_config
from kinegraph.pipeline.errors import ClusterError, ConfigError
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.executors.dask import DaskExecutor
from tests.caches import write_config

Load = Callable[..., Config]


@pytest.fixture
def job(load: Load, dask_cluster: LocalCluster) -> Job:
    config = load("run.executor=dask", f"run.dask.scheduler={dask_cluster.scheduler_address}")
    return job_of(config)


def job_of(config: Config) -> Job:
    cache = index(config).cache
    plan = make_plan(config, cache)
    return Job(config=config, cache=cache, keys=plan.keys, units=plan.units)


@contextmanager
def worker(address: str, tmp_path: Path, path: str = "") -> Iterator[None]:
    """One more worker process, started in another folder, with `path` before all other modules."""
    program = "from distributed.cli.dask_worker import main; main()"
    command = [sys.executable, "-c", program, address, "--no-nanny", "--no-dashboard", "--name", "other"]
    environment = {"PYTHONPATH": path, "HOME": str(tmp_path)}
    with (
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as process,
        Client(address) as client,
    ):
        client.wait_for_workers(1, timeout=30)
        try:
            yield
        finally:
            process.terminate()


@pytest.fixture
def empty_cluster() -> Iterator[LocalCluster]:
    """A scheduler without workers."""
    with LocalCluster(n_workers=0, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_by_default_on_this_machine(load: Load) -> None:
    """Loopback only, one thread a network unless told otherwise, and nothing stays behind."""
    run, before = load("run={executor: dask, workers: 2}").run, set(multiprocessing.active_children())
    assert run.worker_threads == 1
    with clusters.dask_client(run) as client:
        addresses = [client.scheduler.address, *client.nthreads(), client.dashboard_link]
        assert list(client.nthreads().values()) == [clusters.UNITS_AT_ONCE] * 2
        # Else Dask closes the nanny of a worker that dies again within 15 s, and nobody starts it any more.
        assert dask.config.get("distributed.deploy.lost-worker-timeout") == clusters.NEVER_SECONDS
        # Else one whose networks take 80% of its memory waits for ever until that is free.
        assert {*client.run(dask.config.get, "distributed.worker.memory.pause").values()} == {False}
    assert all("//127.0.0.1:" in address for address in addresses), addresses
    assert set(multiprocessing.active_children()) == before


@pytest.mark.parametrize(
    ("dask", "words"),
    [
        ("memory_limit: abc", "memory_limit abc: Could not interpret 'abc' as a byte unit"),
        ("interface: nope0", "interface nope0, .*'nope0' is not a valid network interface"),
        ("dashboard: '127.0.0.1:door'", "dashboard 127.0.0.1:door, .*door"),
        (
            "interface: nope0, jobqueue: {kind: slurm, options: {cores: 1, memory: 1GB}}",
            "interface nope0, .*not a valid",
        ),
    ],
)
def test_what_no_cluster_can_start_with(load: Load, dask: str, words: str) -> None:
    run = load("run.executor=dask", f"run.dask={{{dask}}}").run
    with (
        pytest.raises(ClusterError, match=rf"^run.dask: no cluster starts with .*{words}"),
        clusters.dask_client(run),
    ):
        pass


def test_no_scheduler(load: Load) -> None:
    port = free_port()
    config = load("run.executor=dask", f"run.dask.scheduler=tcp://127.0.0.1:{port}", "run.dask.timeout_seconds=0.5")
    with pytest.raises(ClusterError, match=rf"No Dask scheduler answers at tcp://127.0.0.1:{port} within 0.5 s"):
        DaskExecutor().run(job_of(config), print)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), ("{", "no scheduler"), ("[]", "no scheduler"), ("[" * 100_000, "no scheduler")],
)
def test_no_scheduler_file(load: Load, tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "scheduler.json"
    if content is not None:
        file.write_text(content)
    run = load("run.executor=dask", f"run.dask.scheduler_file={file}").run
    with (
        pytest.raises(ClusterError, match=rf"--scheduler-file .*scheduler.json: {words}"),
        clusters.dask_client(run),
    ):
        pass


def test_a_file_of_a_scheduler_that_is_gone(load: Load, tmp_path: Path) -> None:
    address, file = f"tcp://127.0.0.1:{free_port()}", tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": address}))
    run = load("run.executor=dask", f"run.dask={{scheduler_file: {file}, timeout_seconds: 0.5}}").run
    with (
        pytest.raises(ClusterError, match=rf"answers at {address}, as .*scheduler.json says,"),
        clusters.dask_client(run),
    ):
        pass


def test_no_workers(load: Load, empty_cluster: LocalCluster) -> None:
    address = empty_cluster.scheduler_address
    config = load("run.executor=dask", f"run.dask.scheduler={address}", "run.dask.timeout_seconds=0.5")
    with pytest.raises(ClusterError, match=rf"{address} has no worker after 0.5 s. Start some"):
        DaskExecutor().run(job_of(config), print)


def test_other_versions(load: Load, empty_cluster: LocalCluster, tmp_path: Path) -> None:
    """Both are named; kinegraph need not be there to say so."""
    for package, number in {"kinegraph": "9.8", "torch": "1.13.1"}.items():
        folder = tmp_path / "site" / f"{package}-{number}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {number}\n")
    job = job_of(load("run.executor=dask", f"run.dask.scheduler={empty_cluster.scheduler_address}"))
    with (
        worker(empty_cluster.scheduler_address, tmp_path, str(tmp_path / "site")),
        Client(empty_cluster.scheduler_address) as client,
        pytest.raises(ClusterError, match=r"worker tcp://\S+ has kinegraph 9.8 \(here .*\), torch 1.13.1 \(here "),
    ):
        check_cluster(client, job.config.run, job.cache, job.units[0].shard)


class Growing:
    """Stands in for a client whose cluster has one worker more at each question, and one that left."""

    def __init__(self) -> None:
        self.workers = ["first", "left"]

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"workers": dict.fromkeys(self.workers), "address": "tcp://here"}

    def run(
        self, function: Callable[[str], str], package: str, workers: list[str] | None = None, on_error: str = "raise"
    ) -> dict[str, Any]:
        asked = workers or [*self.workers]
        self.workers.append(f"number {len(self.workers)}")
        return {worker: OSError("gone") if worker == "left" else function(package) for worker in asked}


def test_workers_come_and_go_while_versions_are_asked() -> None:
    _check_versions(Growing())  # type: ignore[arg-type]


def test_a_cache_that_workers_do_not_see(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process writes there does not appear where they look."""
    with Client(job.config.run.dask.scheduler) as client:
        check_cluster(client, job.config.run, job.cache, job.units[0].shard)
        monkeypatch.setattr("kinegraph.pipeline.clusters.dask.checks.absolute_root", lambda root: f"{root}-elsewhere")
        with pytest.raises(ClusterError, match=r"worker tcp://\S+ does not see the cache .*-elsewhere \(FileNotFoundE"):
            check_cluster(client, job.config.run, job.cache, job.units[0].shard)
        assert list(job.cache.storage.names("probes")) == []


def test_a_worker_that_cannot_open_the_cache_says_why() -> None:
    assert "s4://bucket/x: Protocol not known: s4" in _unseen("s4://bucket/x", "probe", b"")


def test_videos_by_paths_that_mean_something_else_there(
    dask_cluster: LocalCluster,
    tmp_path: Path,
    video_folder: Path,
    inline_document: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Relative paths, and workers that run in another folder."""
    monkeypatch.chdir(video_folder.parent)
    inline_document["dataset"]["root"] = "videos"
    run = [f"run.dask.scheduler={dask_cluster.scheduler_address}", "run.executor=dask"]
    job = job_of(load_config(write_config(tmp_path / "relative.yaml", inline_document), run))
    with (
        Client(dask_cluster.scheduler_address) as client,
        pytest.raises(ClusterError, match=r"does not see the video videos/left/\S+: there is no /"),
    ):
        check_cluster(client, job.config.run, job.cache, job.units[0].shard)


def test_no_gpu(job: Job) -> None:
    on_gpu = job.config.model_copy(update={"run": job.config.run.model_copy(update={"device": "cuda"})})
    with (
        Client(job.config.run.dask.scheduler) as client,
        pytest.raises(ClusterError, match=r"none of 2 workers of tcp://\S+ has the resource GPU"),
    ):
        check_cluster(client, on_gpu.run, job.cache, job.units[0].shard)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_units_share_the_gpu_of_their_process(device: str) -> None:
    run = RunOptions(executor="dask", device=device)
    whole, unit = clusters.resources(run, clusters.UNITS_AT_ONCE), clusters.resources(run)
    if device == "cpu":
        assert whole == unit == {}
    else:
        assert whole == {"GPU": 1}
        assert sum(unit["GPU"] for _ in range(clusters.UNITS_AT_ONCE)) == 1


def test_one_cluster_is_named(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"run.dask.jobqueue: given beside scheduler, allowed: one of "):
        load("run.dask={scheduler: 'tcp://a:1', jobqueue: {kind: slurm}}")


def test_walltimes_of_command_and_jobs(load: Load) -> None:
    here = load("run.executor=dask", "run.walltime_seconds=60").run
    jobs = load("run.executor=dask", "run.walltime_seconds=60", "run.dask.jobqueue={kind: slurm}").run
    assert (here.command_walltime_seconds, here.jobs_walltime_seconds) == (60, None)
    assert (jobs.command_walltime_seconds, jobs.jobs_walltime_seconds) == (None, 60)
