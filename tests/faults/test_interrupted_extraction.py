"""Told to stop, an extraction stops cleanly; a dead worker is replaced. The bytes are those of an undisturbed one."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import same_bytes
from tests.command_server import SCRIPTS, Run
from tests.faults.conftest import Prepared, goes_on


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_and_says_how_to_go_on(
    tmp_path: Path, many: Prepared, run: Run, sent: signal.Signals, code: int
) -> None:
    """It comes from outside, when the first shard is sealed and threads decode the next ones."""
    config, cache = many.copy(tmp_path / "cache"), tmp_path / "cache"

    def stop(pid: int) -> None:
        _wait_for(lambda: [*(cache / "ledger" / "regions").rglob("*.json")])
        os.kill(pid, sent)

    ended = run("extract", config, started=stop)
    assert ended.code == code
    assert "The same command goes on from there" in ended.said
    assert not [*cache.rglob(".tmp-*")]
    extract(load_config(config))
    assert same_bytes(cache) == many.undisturbed


STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
SEALING = ("replace", "*/proposals/*1*", 1)


@pytest.mark.parametrize("prepared", ["zarr"], indirect=True)
@pytest.mark.parametrize(("sent", "code"), STOPS)
def test_a_signal_while_sealing(tmp_path: Path, prepared: Prepared, run: Run, sent: signal.Signals, code: int) -> None:
    """The shard is sealed in every stage, the next is left."""
    config = prepared.copy(tmp_path / "cache")
    ended = run("extract", config, strike=[sent.name, *SEALING])
    assert ended.code == code
    assert "The same command goes on from there" in ended.said
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


@pytest.mark.parametrize("prepared", ["zarr"], indirect=True)
def test_a_killed_worker_process_is_replaced(tmp_path: Path, prepared: Prepared, run: Run) -> None:
    """Of two: one is killed when it decodes v3, which lies in shard 0."""
    config = prepared.copy(tmp_path / "cache", run={"executor": "local", "workers": 2, "threads": 1, "batch_size": 2})
    ended = run(config, "v3.mp4", tmp_path / "died", script=str(SCRIPTS / "deadly_video.py"))
    assert ended.code == 0, ended.said
    assert "a worker died (exit code -9) with shards 0" in ended.said
    assert (tmp_path / "died").exists()
    assert same_bytes(tmp_path / "cache") == prepared.undisturbed


def _wait_for(happened: Callable[[], object], seconds: float = 240) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.01)
