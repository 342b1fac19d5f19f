"""Several runs on one cache: each shard is done once, whoever is slow or dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.files import HOST
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.config import Config, load_config
from kinegraph.pipeline.errors import SetAsideError
from kinegraph.pipeline.extraction.events import Event, UnitSealed, WorkerLost
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.executors.local import _run_alone
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.extraction.worker import Suspect
from kinegraph.pipeline.shards.lease import Lease
from kinegraph.pipeline.shards.leases import Leases
from kinegraph.pipeline.status import status
from tests.caches import same_bytes, write_config
from tests.command_server import SCRIPTS, Run
from tests.conftest import moving_square, write_video
from tests.faults.conftest import Prepared

TOGETHER = {"script": str(SCRIPTS / "extract_together.py")}


@pytest.fixture
def prepared(prepare: Callable[[str], Prepared]) -> Prepared:
    return prepare("zarr")


@pytest.fixture
def path(tmp_path: Path, prepared: Prepared) -> Path:
    """A config whose cache is indexed; it runs, as by default, with threads that decode."""
    return prepared.copy(tmp_path / "cache", run={"threads": 1, "batch_size": 2})


@pytest.fixture
def config(path: Path) -> Config:
    return load_config(path)


def leases(cache: str) -> list[str]:
    return [path.name for path in Path(cache).glob("leases/*")]


def attempts(cache: str) -> set[int]:
    return {json.loads(path.read_bytes())["attempt"] for path in Path(cache).glob("ledger/**/*.json")}


@pytest.mark.parametrize("runs", [2, pytest.param(4, marks=pytest.mark.faults)])
def test_runs_share_the_shards(tmp_path: Path, many: Prepared, run: Run, runs: int) -> None:
    """Two by default: four meet in the same places, only more often."""
    done = run(many.copy(tmp_path / "cache"), runs, **TOGETHER)
    assert done.code == 0, done.said
    clips = [int(line) for line in done.told.split()]
    assert len(clips) == runs
    assert sum(clips) == 24, f"no clip is run twice: {clips}"
    assert sum(number > 0 for number in clips) > 1, clips
    cache = str(tmp_path / "cache")
    assert attempts(cache) == {1}
    assert leases(cache) == []
    assert same_bytes(cache) == many.undisturbed


def many_units(tmp_path: Path, units: int) -> dict[str, Any]:
    """Units that are done in no time: a clip each, and only its frame times."""
    first = write_video(tmp_path / "many" / "000.mp4", moving_square(8, 32, 32))
    for number in range(1, units):
        (first.parent / f"{number:03d}.mp4").hardlink_to(first)
    return {
        "cache": str(tmp_path / "cache"),
        "dataset": {"kind": "folder", "root": str(first.parent)},
        "clips": {"num_frames": 4},
        "store": {"shard_clips": 1},
        "run": {"threads": 1},
    }


@pytest.mark.parametrize(
    ("where", "units"),
    [
        ("folder", 60),
        pytest.param("folder", 200, marks=pytest.mark.faults),
        pytest.param("s3", 200, marks=pytest.mark.faults),
    ],
)
def test_two_runs_do_no_unit_twice(
    tmp_path: Path, run: Run, where: str, units: int, request: pytest.FixtureRequest
) -> None:
    """However often they meet: a shard is taken with its lease, and looked up in the ledger once that is won."""
    document = many_units(tmp_path, units)
    if where == "s3":
        document["cache"] = f"{request.getfixturevalue('s3')}/cache"
    path = write_config(tmp_path / "config.yaml", document)
    index(load_config(path))
    done, cache = run(path, 2, **TOGETHER), Cache(document["cache"])
    assert done.code == 0, done.said
    clips = [int(line) for line in done.told.split()]
    assert sum(clips) == units, f"some units were done twice: {clips}"
    assert all(clips), clips
    assert cache.ledger.shards("clips") == list(range(units))
    assert {record.attempt for record in cache.ledger.records("clips")} == {1}
    assert list(cache.storage.names("leases")) == []


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_run_that_was_only_slow_publishes_nothing(path: Path, config: Config, prepared: Prepared, run: Run) -> None:
    """It stops in the middle of its first object, and finds all its shards taken over when it goes on."""
    sealed: dict[Path, int] = {}

    def take_over(slow: int) -> None:
        while not is_stopped(slow):
            time.sleep(0.01)
        assert leases(config.cache)
        assert not extract(config).failures
        sealed.update((p, p.stat().st_mtime_ns) for p in Path(config.cache).glob("ledger/**/*.json"))
        os.kill(slow, signal.SIGCONT)

    first_object = ["SIGSTOP", "fsync", "*/data.zarr/*/.tmp-*c.*", 1]
    ended = run("extract", path, "--set", "run.lease_seconds=1", strike=first_object, started=take_over)
    assert ended.code == 0, ended.said
    assert sealed
    assert {p: p.stat().st_mtime_ns for p in Path(config.cache).glob("ledger/**/*.json")} == sealed
    assert 2 in attempts(config.cache)
    assert leases(config.cache) == []
    assert same_bytes(config.cache) == prepared.undisturbed


def _three_died_at(config: Config, shard: int, before: int = 0) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    deaths = before + 2  # and that of its holder
    lease = Lease(shard=shard, attempt=deaths + 1, deaths=deaths, seconds=300, keys=("clips",), host=HOST, pid=gone.pid)
    assert Cache(config.cache).storage.create(lease.name, lease.content)


def test_a_video_that_kills_its_worker_is_set_aside(path: Path, config: Config, run: Run) -> None:
    """v3 lies in shard 0. The run survives it and names the shard; shard 1 was only killed from outside."""
    for shard in (0, 1):
        _three_died_at(config, shard)
    died = run(path, "v3.mp4", script=str(SCRIPTS / "deadly_video.py"))
    assert died.code == 99, "the error left the script"
    assert "SetAsideError: shard 0: killed its worker 3 times, then a worker that had nothing else to do" in died.said
    assert Cache(config.cache).ledger.shards("regions/tiny") == [1, 2]
    assert attempts(config.cache) == {1, 4}
    assert leases(config.cache) == ["000000.4.json"]


def test_a_unit_that_another_run_tried_alone_is_set_aside_untried(config: Config) -> None:
    """Hundreds of tasks end at the same time. One process that dies alone is enough for all of them."""
    _three_died_at(config, 0, before=1)
    cache = Cache(config.cache)
    plan, events = make_plan(config, cache), list[Event]()
    job = Job(config=config, cache=cache, keys=plan.keys_to_run, units=plan.units)
    with pytest.raises(SetAsideError, match="shard 0"):
        _run_alone(job, [Suspect(plan.units[0], deaths=3)], events.append)
    assert not any(isinstance(event, WorkerLost | UnitSealed) for event in events)
    assert leases(config.cache) == ["000000.4.json"]


def test_what_a_worker_had_only_pulled_ahead_is_no_death(path: Path, config: Config, run: Run) -> None:
    """The run is killed at shard 0, with 1 and 2 decoded."""
    assert run(path, script=str(SCRIPTS / "killed_while_computing.py")).code == -signal.SIGKILL
    with closing(Leases(Cache(config.cache).storage, 300)) as now:
        assert [now.deaths(shard) for shard in range(3)] == [1, 0, 0]
    assert sorted(leases(config.cache)) == ["000000.json", "000001.json", "000002.json"]
    assert not extract(config).failures


def test_status_counts_running_shards(config: Config) -> None:
    cache = Cache(config.cache)
    extract(config, stages=["clips"], limit=2)
    for shard, keys in ((0, ("clips",)), (1, ("clips",)), (2, ("proposals",))):
        lease = Lease(shard=shard, attempt=1, seconds=300, keys=keys, host="far", refreshed_at=time.time())
        assert cache.storage.create(lease.name, lease.content)
    assert status(cache)["stages"]["clips"]["shards"] == {"done": 1, "running": 1, "missing": 1}
