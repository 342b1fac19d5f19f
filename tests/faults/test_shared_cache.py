"""Several runs on one cache: each shard is done once, whoever is slow or dies."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cache_schemas.cache import Cache
from cache_schemas.files import HOST
from pipeline.config import Config, load_config
from pipeline.extraction import extract
from pipeline.indexing import index
from pipeline.leases import Lease, Leases
from pipeline.status import status
from tests.caches import same_bytes, write_config
from tests.conftest import moving_square, write_video

HERE = Path(__file__).parent


@pytest.fixture
def config(tmp_path: Path, tiny_document: dict[str, Any]) -> Config:
    loaded = load_config(write_config(tmp_path / "config.yaml", tiny_document))
    index(loaded)
    return loaded


@pytest.fixture
def undisturbed(tmp_path: Path, tiny_document: dict[str, Any]) -> dict[str, Any]:
    """The bytes of the same extraction by one run."""
    whole = load_config(write_config(tmp_path / "whole.yaml", tiny_document | {"cache": str(tmp_path / "whole")}))
    index(whole)
    extract(whole)
    return same_bytes(whole.cache)


@pytest.fixture
def more_videos(video_folder: Path) -> None:
    for number in range(18):
        write_video(video_folder / "left" / f"more{number}.mp4", moving_square(12, 96, 80, seed=number))


def run(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(HERE / script), *map(str, arguments)]


def leases(cache: str) -> list[str]:
    return [path.name for path in Path(cache).glob("leases/*")]


def attempts(cache: str) -> set[int]:
    return {json.loads(path.read_bytes())["attempt"] for path in Path(cache).glob("ledger/**/*.json")}


@pytest.mark.usefixtures("more_videos")
@pytest.mark.parametrize("runs", [2, 4])
def test_runs_share_the_shards(tmp_path: Path, undisturbed: dict[str, Any], config: Config, runs: int) -> None:
    done = subprocess.run(
        run("extract_together.py", tmp_path / "config.yaml", runs),
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
    )
    clips = [int(line) for line in done.stdout.split()]
    assert len(clips) == runs
    assert sum(clips) == 24, f"no clip is run twice: {clips}"
    assert sum(number > 0 for number in clips) > 1, clips
    assert attempts(config.cache) == {1}
    assert leases(config.cache) == []
    assert same_bytes(config.cache) == undisturbed


@pytest.fixture
def many_units(tmp_path: Path) -> dict[str, Any]:
    """200 units that are done in no time: a clip each, and only its frame times."""
    first = write_video(tmp_path / "many" / "000.mp4", moving_square(8, 32, 32))
    for number in range(1, 200):
        (first.parent / f"{number:03d}.mp4").hardlink_to(first)
    return {
        "cache": str(tmp_path / "cache"),
        "dataset": {"kind": "folder", "root": str(first.parent)},
        "clips": {"num_frames": 4},
        "store": {"shard_clips": 1},
        "run": {"threads": 1},
    }


@pytest.mark.parametrize("where", ["folder", pytest.param("s3", marks=pytest.mark.faults)])
def test_two_runs_do_no_unit_twice(
    tmp_path: Path, many_units: dict[str, Any], where: str, request: pytest.FixtureRequest
) -> None:
    """However often they meet: a shard is taken with its lease, and looked up in the ledger once that is won."""
    if where == "s3":
        many_units["cache"] = f"{request.getfixturevalue('s3')}/cache"
    path = write_config(tmp_path / "config.yaml", many_units)
    index(load_config(path))
    command = run("extract_together.py", path, 2)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=250)
    clips, cache = [int(line) for line in done.stdout.split()], Cache(many_units["cache"])
    assert sum(clips) == 200, f"some units were done twice: {clips}"
    assert all(clips), clips
    assert cache.ledger.shards("clips") == list(range(200))
    assert {record.attempt for record in cache.ledger.records("clips")} == {1}
    assert list(cache.storage.names("leases")) == []


def test_a_run_that_was_only_slow_publishes_nothing(
    tmp_path: Path, tiny_document: dict[str, Any], undisturbed: dict[str, Any]
) -> None:
    """It stops in the middle of its first object, and finds all its shards taken over when it goes on."""
    tiny_document["run"]["lease_seconds"] = 1
    path = write_config(tmp_path / "config.yaml", tiny_document)
    config = load_config(path)
    index(config)
    moment = 50 + 6 + 1  # after what is declared, and three leases
    with subprocess.Popen(run("signal_while_sealing.py", path, moment, "SIGSTOP")) as slow:
        assert os.WIFSTOPPED(os.waitpid(slow.pid, os.WUNTRACED)[1])
        try:
            assert leases(config.cache)
            assert not extract(config).failures
            sealed = {p: p.stat().st_mtime_ns for p in Path(config.cache).glob("ledger/**/*.json")}
        finally:
            slow.send_signal(signal.SIGCONT)
        assert slow.wait(60) == 0
    assert {p: p.stat().st_mtime_ns for p in Path(config.cache).glob("ledger/**/*.json")} == sealed
    assert 2 in attempts(config.cache)
    assert leases(config.cache) == []
    assert same_bytes(config.cache) == undisturbed


def _three_died_at(config: Config, shard: int) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lease = Lease(shard=shard, attempt=3, deaths=2, seconds=300, keys=("clips",), host=HOST, pid=gone.pid)
    assert Cache(config.cache).storage.create(lease.name, lease.content)


def test_a_video_that_kills_its_worker_is_set_aside(tmp_path: Path, config: Config) -> None:
    """v3 lies in shard 0. The run survives it and names the shard; shard 1 was only killed from outside."""
    for shard in (0, 1):
        _three_died_at(config, shard)
    command = run("deadly_video.py", tmp_path / "config.yaml", "v3.mp4")
    died = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert died.returncode == 1
    assert "SetAsideError: shard 0: killed its worker 3 times, then one that had nothing else to do" in died.stderr
    assert Cache(config.cache).ledger.shards("regions/tiny") == [1, 2]
    assert attempts(config.cache) == {1, 4}
    assert leases(config.cache) == ["000000.4.json"]


def test_what_a_worker_had_only_pulled_ahead_is_no_death(tmp_path: Path, config: Config) -> None:
    """The run is killed at shard 0, with 1 and 2 decoded."""
    command = run("killed_while_computing.py", tmp_path / "config.yaml")
    assert subprocess.run(command, check=False, timeout=90).returncode == -signal.SIGKILL
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
