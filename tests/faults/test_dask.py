"""SIGKILL of Dask workers, of the scheduler and of the client in the middle of a run: the next goes on from there."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from distributed import LocalCluster, WorkerPlugin
from distributed import Worker as DaskWorker

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config, check_config, load_config
from kinegraph.pipeline.errors import ClusterLost, SetAsideError
from kinegraph.pipeline.extraction import feed
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.on_dask import train_on_dask
from kinegraph.pipeline.training.table import train_runs
from kinegraph.stages.decode.clips import decode_clips
from kinegraph.stages.training.records import STATE_FILE
from tests.caches import same_bytes, write_config
from tests.command_server import Run
from tests.dask_cluster import running, worker_pids
from tests.faults.conftest import Prepared, records

FIRST_RECORD_SECONDS = 60.0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def document(tmp_path: Path, many: Prepared) -> dict[str, Any]:
    """Indexed; twelve shards, more than are under way at a time."""
    shutil.copytree(many.folder / "indexed", tmp_path / "cache")
    return many.document | {"cache": str(tmp_path / "cache")}


@pytest.fixture
def undisturbed(many: Prepared) -> dict[str, Any]:
    return many.undisturbed


def on_dask(document: dict[str, Any], address: str) -> Config:
    run = document["run"] | {"executor": "dask", "dask": {"scheduler": address, "timeout_seconds": 20}}
    return check_config(document | {"run": run}, "dask")


@contextmanager
def at_the_first_record(cache: str, strike: Callable[[], None]) -> Iterator[None]:
    """Strike once a shard is sealed, on a thread."""

    def wait() -> None:
        deadline = time.monotonic() + FIRST_RECORD_SECONDS
        while not records(Path(cache)) and time.monotonic() < deadline:
            time.sleep(0.01)
        strike()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def goes_on(config: Config, undisturbed: dict[str, Any]) -> None:
    """What is sealed is right and stays; another executor, with another number of workers, does the rest."""
    assert verify(config.cache).ok
    sealed = records(Path(config.cache))
    assert 0 < len(sealed) < 4 * 12, "it was in the middle"
    elsewhere = config.model_copy(update={"run": config.run.model_copy(update={"executor": "inline"})})
    assert not extract(elsewhere).failures
    assert {path: when for path, when in records(Path(config.cache)).items() if path in sealed} == sealed
    assert same_bytes(config.cache) == undisturbed


def test_a_worker_is_killed(
    document: dict[str, Any], undisturbed: dict[str, Any], dask_cluster: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on by itself, with the workers that there are."""
    config = on_dask(document, dask_cluster.scheduler_address)
    sealed: dict[Path, int] = {}

    def strike() -> None:
        os.kill(random.Random(0).choice(worker_pids(dask_cluster)), signal.SIGKILL)
        sealed.update(records(Path(config.cache)))

    with at_the_first_record(config.cache, strike):
        assert not extract(config).failures
    assert 0 < len(sealed) < 4 * 12
    assert {path: when for path, when in records(Path(config.cache)).items() if path in sealed} == sealed
    assert same_bytes(config.cache) == undisturbed
    assert "a worker died" in caplog.text
    assert not list(Path(config.cache).rglob(".tmp-*"))


def test_the_client_is_killed(
    document: dict[str, Any], undisturbed: dict[str, Any], dask_cluster: LocalCluster, tmp_path: Path, run: Run
) -> None:
    """Units that run come to their end, those that wait are forgotten."""
    config = on_dask(document, dask_cluster.scheduler_address)
    path = write_config(tmp_path / "client.yaml", document)

    def kill(client: int) -> None:
        with at_the_first_record(config.cache, lambda: os.kill(client, signal.SIGKILL)):
            pass

    ended = run("extract", path, "--scheduler", dask_cluster.scheduler_address, started=kill)
    assert ended.code == -signal.SIGKILL, ended.said
    goes_on(config, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_run_is_stopped(
    document: dict[str, Any], undisturbed: dict[str, Any], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """By Ctrl-C, which a terminal sends to the worker processes too, or by a batch system, which need not."""
    path = write_config(tmp_path / "client.yaml", document)
    command = [sys.executable, "-m", "kinegraph", "extract", str(path), "--executor", "dask", "--workers", "2"]
    send = os.killpg if number == signal.SIGINT else os.kill
    with (
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as client,
        at_the_first_record(document["cache"], lambda: send(client.pid, number)),
    ):
        _, said = client.communicate(timeout=60)
    assert client.returncode == code
    assert "Dask's dashboard: http://127.0.0.1:" in said
    assert "The same command goes on from there" in said
    assert "Traceback" not in said
    assert list(Path(document["cache"]).glob("leases/*")) == []
    goes_on(load_config(path), undisturbed)


@contextmanager
def scheduler_and_workers(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A scheduler and two workers as a user starts them; gives the scheduler's process and its file."""
    file = str(tmp_path / "scheduler.json")
    here = ["--scheduler-file", file, "--host", "127.0.0.1", "--no-dashboard"]
    programs = {"scheduler": ["--port", "0"], "worker": ["--nworkers", "2", "--nthreads", "4"]}
    with ExitStack() as stack:
        processes = []
        for name, options in programs.items():
            program = f"from distributed.cli.dask_{name} import main; main()"
            command = [sys.executable, "-c", program, *here, *options]
            process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL))
            stack.callback(process.terminate)
            processes.append(process)
        deadline = time.monotonic() + FIRST_RECORD_SECONDS
        while not Path(file).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield processes[0], file


@pytest.mark.faults
def test_the_scheduler_is_killed(document: dict[str, Any], undisturbed: dict[str, Any], tmp_path: Path) -> None:
    with scheduler_and_workers(tmp_path) as (scheduler, file):
        overrides = ["run.executor=dask", f"run.dask.scheduler_file={file}", "run.dask.timeout_seconds=20"]
        config = load_config(write_config(tmp_path / "client.yaml", document), overrides)
        with (
            at_the_first_record(config.cache, scheduler.kill),
            pytest.raises(ClusterLost, match=r"The Dask scheduler at tcp://127.0.0.1:\d+ went away"),
        ):
            extract(config)
    goes_on(config, undisturbed)


@pytest.mark.faults
def test_a_worker_leaves(document: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    """As a job whose time is over: it gives back what it was at, which is no death, and others do it."""
    with running(workers=2) as cluster:
        config = on_dask(document, cluster.scheduler_address)
        with at_the_first_record(config.cache, lambda: cluster.scale(1)):
            assert not extract(config).failures
        deadline = time.monotonic() + FIRST_RECORD_SECONDS
        while len(cluster.workers) > 1 and time.monotonic() < deadline:  # its process may outlive its work
            time.sleep(0.05)
        assert len(cluster.workers) == 1
    attempts = {json.loads(path.read_bytes())["attempt"] for path in records(Path(config.cache))}
    assert attempts == {1}
    assert same_bytes(config.cache) == undisturbed


class Deadly(WorkerPlugin):
    """Decoding a video kills its process, also in those that are started anew."""

    name = "deadly"

    def __init__(self, video: str) -> None:
        self.video = video

    def setup(self, worker: DaskWorker) -> None:
        def decode(path: str, *arguments: Any) -> Any:
            if path.endswith(self.video):
                os.kill(os.getpid(), signal.SIGKILL)
            return decode_clips(path, *arguments)

        patch.object(feed, "decode_clips", decode).start()


@pytest.mark.faults
@pytest.mark.parametrize(("video", "workers"), [("left/v3.mp4", 2), ("left/more0.mp4", 1)])
def test_a_video_that_kills_its_workers_is_set_aside(document: dict[str, Any], video: str, workers: int) -> None:
    """It lies in a shard of its own trouble: all others are sealed, whoever was beside it; also by the only worker."""
    with running(workers) as cluster:
        config = on_dask(document, cluster.scheduler_address)
        cache = Cache(config.cache)
        deadly = next(n for n in range(cache.num_shards) if any(video in name for name in cache.clip_ids(n)))
        with cluster.get_client() as client:
            client.register_plugin(Deadly(video))
            with pytest.raises(SetAsideError, match=rf"shard {deadly}: killed its worker 3 times"):
                extract(config)
        assert cache.ledger.shards("regions/tiny") == [n for n in range(cache.num_shards) if n != deadly]


@pytest.mark.faults
def test_a_worker_is_killed_in_training(
    tiny_document: dict[str, Any], tmp_path: Path, dask_cluster: LocalCluster
) -> None:
    """The run goes on from its last state on another worker, to the same weights."""
    train = {"head": "avg_pool", "options": {"dropout": 0.5}, "epochs": 200, "threads": 1, "val_split": None}
    document = tiny_document | {"train": train | {"run": str(tmp_path / "there")}}
    config = on_dask(document, dask_cluster.scheduler_address)
    here = check_config(document | {"train": train | {"run": str(tmp_path / "here")}}, "here")
    index(here)
    extract(here, stages=["features"])
    state, epochs = tmp_path / "there" / STATE_FILE, list[int]()

    def kill_all() -> None:
        deadline = time.monotonic() + FIRST_RECORD_SECONDS
        while not state.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in worker_pids(dask_cluster):
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill_all)
    thread.start()
    (run,) = train_on_dask(config, on_epoch=lambda run, record: epochs.append(record.epoch))
    thread.join()
    assert epochs.count(1) < 2, "it began again"
    (expected,) = train_runs(here)
    assert (run.folder / "model.safetensors").read_bytes() == (expected.folder / "model.safetensors").read_bytes()


@pytest.mark.faults
def test_workers_without_memory(document: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Dask's nanny kills each before it has loaded its networks; the run ends with the reason."""
    run = document["run"] | {"executor": "dask", "dask": {"memory_limit": "200MB"}}
    config = check_config(document | {"run": run}, "small")
    with pytest.raises(ClusterLost, match=r"before they took a shard. .*run.dask.memory_limit: 200MB"):
        extract(config)
    assert "a worker died" in caplog.text
    assert not records(Path(config.cache))
