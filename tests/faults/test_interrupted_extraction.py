"""Told to stop, an extraction stops cleanly; a dead worker is replaced. The bytes are those of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cache_schemas.cache import Cache
from pipeline.config import load_config
from pipeline.extraction import extract
from pipeline.indexing import index
from tests.caches import same_bytes, write_config
from tests.command_server import Run
from tests.conftest import moving_square, write_video
from tests.faults.conftest import Prepared, goes_on

KINEGRAPH = [sys.executable, "-m", "cli"]


@pytest.fixture
def undisturbed(tmp_path: Path, tiny_document: dict[str, Any]) -> dict[str, Any]:
    """The bytes of the same extraction, never interrupted."""
    config = load_config(write_config(tmp_path / "whole.yaml", tiny_document | {"cache": str(tmp_path / "whole")}))
    index(config)
    extract(config)
    return same_bytes(Path(config.cache))


@pytest.fixture
def many_videos(video_folder: Path) -> None:
    """Enough work that a signal arrives in the middle of it."""
    for number in range(90):
        write_video(video_folder / "left" / f"more{number}.mp4", moving_square(12, 96, 80, seed=number))


@pytest.mark.usefixtures("many_videos")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_and_says_how_to_go_on(
    tmp_path: Path, tiny_document: dict[str, Any], undisturbed: dict[str, Any], sent: signal.Signals, code: int
) -> None:
    path = write_config(tmp_path / "config.yaml", tiny_document)
    config = load_config(path)
    index(config)
    with subprocess.Popen([*KINEGRAPH, "extract", str(path)], stderr=subprocess.PIPE, text=True) as running:
        _wait_for(lambda: list((Path(config.cache) / "ledger" / "regions").rglob("*.json")))
        running.send_signal(sent)
        _, said = running.communicate(timeout=60)
    assert running.returncode == code
    assert "the same command goes on from there" in said
    assert not list(Path(config.cache).rglob(".tmp-*"))
    extract(config)
    assert same_bytes(Path(config.cache)) == undisturbed


STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
SEALING = ("replace", "*/proposals/*1*", 1)


@pytest.mark.parametrize("prepared", ["zarr"], indirect=True)
@pytest.mark.parametrize(("sent", "code"), STOPS)
def test_a_signal_while_sealing(tmp_path: Path, prepared: Prepared, run: Run, sent: signal.Signals, code: int) -> None:
    """The shard is sealed in every stage, the next is left."""
    config = prepared.copy(tmp_path / "cache")
    ended = run("extract", config, strike=[sent.name, *SEALING])
    assert ended.code == code
    assert "the same command goes on from there" in ended.said
    cache = Cache(tmp_path / "cache")
    assert {1 in cache.ledger.shards(key) for key in cache.stage_keys()} == {True}
    assert not [*cache.storage.names("leases")]
    assert not list((tmp_path / "cache").rglob(".tmp-*"))
    goes_on(config, prepared.undisturbed)


@pytest.mark.parametrize("prepared", ["zarr"], indirect=True)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(tmp_path: Path, prepared: Prepared, run: Run, sent: signal.Signals) -> None:
    """What is being sealed would take a minute."""
    config = prepared.copy(tmp_path / "cache")
    assert run("extract", config, strike=[sent.name, *SEALING], again=True).code == -sent
    goes_on(config, prepared.undisturbed)


@pytest.mark.usefixtures("many_videos")
def test_a_killed_worker_process_is_replaced(
    tmp_path: Path, tiny_document: dict[str, Any], undisturbed: dict[str, Any]
) -> None:
    path = write_config(tmp_path / "config.yaml", tiny_document)
    config = load_config(path)
    index(config)
    command = [*KINEGRAPH, "extract", str(path), "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        _wait_for(lambda: list((Path(config.cache) / "ledger" / "regions").rglob("*.json")))
        os.kill(_workers(running.pid)[-1], signal.SIGKILL)
        _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert "a worker died" in said
    assert same_bytes(Path(config.cache)) == undisturbed


def _wait_for(happened: Any, seconds: float = 240) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.01)


def _workers(parent: int) -> list[int]:
    """Spawned worker processes, without multiprocessing's resource tracker."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
