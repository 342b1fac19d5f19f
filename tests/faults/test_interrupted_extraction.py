"""Killed anywhere, an extraction resumes to the bytes of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_config
from pipeline.extraction import extract
from pipeline.indexing import index
from tests.caches import same_bytes, write_config
from tests.conftest import moving_square, write_video

SIGNAL = Path(__file__).with_name("signal_while_sealing.py")
KINEGRAPH = [sys.executable, "-m", "cli"]


@pytest.fixture
def kind() -> str:
    """Of store; a test may be parametrised with another."""
    return "zarr"


@pytest.fixture
def tiny_document(tiny_document: dict[str, Any], kind: str) -> dict[str, Any]:
    return tiny_document | {"store": {"kind": kind, "shard_clips": 2}}


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


@pytest.mark.parametrize(
    ("kind", "moments"),
    [
        # while declaring arrays; a lease written but not linked; then among the 30 fsyncs of a unit's sealing: an
        # object written but not renamed, renamed but not the folder synced, around its first, middle and last record
        ("zarr", (4, 38, 13, 14, 25, 31, 33)),
        # data.h5 renamed but the folder not synced; a shard file written but not renamed; its ledger record likewise
        ("hdf5", (4, 22, 7)),
    ],
    ids=["zarr", "hdf5"],
)
def test_sigkill_at_every_kind_of_moment(
    tmp_path: Path, tiny_document: dict[str, Any], undisturbed: dict[str, Any], moments: tuple[int, ...]
) -> None:
    tiny_document["run"]["executor"] = "inline"  # which never leaves a unit for the end, however often it was killed
    path = write_config(tmp_path / "config.yaml", tiny_document)
    config = load_config(path)
    index(config)
    for moment in moments:
        command = [sys.executable, str(SIGNAL), str(path), str(moment), "SIGKILL"]
        died = subprocess.run(command, check=False, timeout=120)
        assert died.returncode == -signal.SIGKILL
    sealed = {p: p.stat().st_mtime_ns for p in (Path(config.cache) / "ledger").rglob("[0-9]*.json")}
    assert sealed, "the kills should have left some work done"
    extract(config)
    assert {p: p.stat().st_mtime_ns for p in sealed} == sealed, "a sealed shard was computed again"
    assert same_bytes(Path(config.cache)) == undisturbed


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


def _wait_for(happened: Any, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.01)


def _workers(parent: int) -> list[int]:
    """Spawned worker processes, without multiprocessing's resource tracker."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
