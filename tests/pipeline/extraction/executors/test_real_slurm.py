"""SLURM itself, where it can be started (`make test-slurm`): jobs die, are requeued, and stop at their walltime."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config, load_config
from kinegraph.pipeline.errors import SlurmError
from kinegraph.pipeline.extraction.executors import slurm
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.status import status
from kinegraph.pipeline.training.on_slurm import train_on_slurm
from tests.caches import same_bytes, write_config
from tests.conftest import moving_square, write_video
from tests.pipeline.conftest import ROOT
from tests.pipeline.extraction.executors import real_slurm

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
WALLTIME_SECONDS = 30


@pytest.fixture(scope="session")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    try:
        with real_slurm.running(tmp_path_factory.mktemp("slurm")) as config:
            yield config
    except real_slurm.CannotRun as reason:
        pytest.skip(str(reason))


@pytest.fixture(autouse=True)
def real(slurm_conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.5)


@pytest.fixture
def config(tmp_path: Path, inline_document: dict[str, Any], video_folder: Path) -> Path:
    """An indexed cache of videos in two splits."""
    for split in ("train", "val"):
        for number in range(2):
            video = moving_square(12, 96, 80, seed=number)
            write_video(video_folder / split / ("left" if number else "right") / f"{split}{number}.mp4", video)
    document = inline_document | {"train": {"head": "avg_pool", "epochs": 1, "run": str(tmp_path / "runs")}}
    path = write_config(tmp_path / "config.yaml", document)
    index(load_config(path))
    return path


def on_slurm(config: Path, *overrides: str) -> Config:
    return load_config(config, ("run.executor=slurm", "run.workers=2", *overrides))


def same_as_undisturbed(config: Path, tmp_path: Path) -> None:
    undisturbed = load_config(config, [f"cache={tmp_path / 'undisturbed'}"])
    index(undisturbed)
    extract(undisturbed)
    cache = load_config(config).cache
    assert verify(cache).ok
    assert same_bytes(cache) == same_bytes(undisturbed.cache)


def test_an_array_extracts_and_trains(config: Path, tmp_path: Path) -> None:
    assert not extract(on_slurm(config)).failures
    same_as_undisturbed(config, tmp_path)
    runs = train_on_slurm(on_slurm(config), seeds=2)
    assert [set(run.results.scores) for run in runs] == [{"val"}] * 2
    told = status(Cache(load_config(config).cache))["jobs"]
    assert [(job["kind"], job["tasks"]["done"]) for job in told] == [("train", 2), ("extract", 2)]


SLOW = """
import time
from kinegraph.pipeline.extraction.shard import ShardInProgress
seal = ShardInProgress.seal
def slowly(shard, leases):
    time.sleep({seconds})
    return seal(shard, leases)
ShardInProgress.seal = slowly
"""


@pytest.fixture
def slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Every shard takes so many seconds more, in all processes."""

    def make(seconds: float) -> None:
        folder = tmp_path / "site"
        folder.mkdir()
        # Dask's workers are spawned by processes that need not load all this.
        hook = "import sys\nif {'slurm-task', '--multiprocessing-fork'} & {*sys.orig_argv}:\n"
        body = "".join(f"    {line}\n" for line in SLOW.format(seconds=seconds).strip().splitlines())
        (folder / "sitecustomize.py").write_text(hook + body)
        monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")

    return make


def test_a_walltime_of_half_a_minute_and_arrays_of_changing_size(
    config: Path, tmp_path: Path, slowly: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of 11 s: each job begins those that can end in time, stops, and is submitted again until all is sealed."""
    slowly(11)
    sealed, stopped = [0], 0

    def one_array_a_command(*_: object) -> None:
        raise SlurmError("one array a command")

    monkeypatch.setattr(slurm, "_require_progress", one_array_a_command)
    for workers in itertools.cycle((2, 1)):
        settings = on_slurm(config, f"run.walltime_seconds={WALLTIME_SECONDS}", f"run.workers={workers}")
        with suppress(SlurmError):
            extract(settings)
        cache = Cache(settings.cache)
        sealed.append(len(cache.ledger.shards("regions/tiny")))
        stopped += status(cache)["jobs"][0]["tasks"]["stopped"]
        if sealed[-1] == cache.num_shards:
            break
        assert sealed[-1] > sealed[-2]
    assert stopped, "no job was stopped by its walltime"
    same_as_undisturbed(config, tmp_path)


def test_a_task_that_dies_and_one_that_is_requeued(
    config: Path, tmp_path: Path, slowly: Callable[[float], None]
) -> None:
    """SIGKILL of one task, `scontrol requeue` of the other, in the middle of their shards."""
    slowly(3)
    command = [sys.executable, "-m", "kinegraph", "extract", str(config), "--executor", "slurm", "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as client:
        cache = Path(load_config(config).cache)
        _wait_for(lambda: len(list(cache.glob("leases/*.json"))) >= 2)
        os.kill(_pids()[0], signal.SIGKILL)
        subprocess.run(["scontrol", "requeue", f"{_jobs()[0]}_1"], check=False)
        _, said = client.communicate(timeout=300)
    assert client.returncode == 0, said
    same_as_undisturbed(config, tmp_path)


def test_jobs_of_dask_are_replaced_before_their_walltime(
    config: Path, tmp_path: Path, slowly: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Shards of 20 s in jobs of a minute: each begins one or two and leaves; others take its place. None is killed."""
    slowly(20)
    options = f"{{cores: 1, memory: 1GB, log_directory: '{tmp_path}/logs'}}"
    jobs = f"run.dask.jobqueue={{kind: slurm, jobs: 2, options: {options}}}"
    assert not extract(load_config(config, ["run.executor=dask", "run.walltime_seconds=60", jobs])).failures
    assert len([*tmp_path.glob("logs/*.err")]) > 2
    assert "a worker died" not in caplog.text
    records = [json.loads(path.read_bytes()) for path in Path(load_config(config).cache).glob("ledger/*/*/*.json")]
    assert {record["attempt"] for record in records} == {1}
    assert not [*tmp_path.glob("cache/leases/*")]
    same_as_undisturbed(config, tmp_path)


def _jobs() -> list[str]:
    said = subprocess.run(["squeue", "-h", "-o", "%F"], capture_output=True, text=True, check=True).stdout
    return said.split()


def _pids() -> list[int]:
    """Processes of tasks."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"slurm-task" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.05)
