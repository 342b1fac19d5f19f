"""A video that gives no answer costs its time limit, and nothing else."""

import gc
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kinegraph.pipeline.caches import probing
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.probing import VideosHangError, probe_all
from kinegraph.pipeline.config import check_config
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import Probe, probe

FOUND = Probe(duration=1.0, frame_width=4, frame_height=4)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Set when the test ends: no thread is left behind."""
    event = threading.Event()
    yield event
    event.set()


def test_a_video_that_hangs_is_a_timeout_and_the_rest_goes_on(release: threading.Event) -> None:
    def slow(path: str) -> Probe:
        if path.startswith("hangs"):
            release.wait()
        return FOUND

    paths = ["hangs 1", "a", "hangs 2", "b", "c"]
    answers = dict(probe_all(paths, slow, 1, lambda path: 0.01 if path.startswith("hangs") else math.inf))
    assert answers.keys() == {*paths}
    assert [answers[path] for path in "abc"] == [FOUND] * 3
    for path in ("hangs 1", "hangs 2"):
        error = answers[path]
        assert isinstance(error, DecodeError)
        assert (error.reason, error.detail) == ("timeout", "no answer within run.video_timeout_seconds (0.01 s)")


def test_when_all_hang_the_file_system_is_named(release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "MOST_HANGING", 3)

    def hanging(path: str) -> Probe:
        release.wait()
        return FOUND

    with pytest.raises(VideosHangError, match=r"3 videos gave no answer .* Does their file system answer"):
        list(probe_all([*"abcdef"], hanging, 2, lambda path: 0.01))


def test_threads_may_begin_videos_while_the_overdue_are_looked_for() -> None:
    """A collection of garbage, at which Python changes threads, is where another video begins here."""
    pool = probing._ProbeThreads([], lambda path: FOUND)
    pool._begun.update((str(number), time.monotonic()) for number in range(1000))

    def begin(phase: str, info: object) -> None:
        pool._begun[f"new {len(pool._begun)}"] = time.monotonic()

    usual = gc.get_threshold()
    gc.callbacks.append(begin)
    gc.set_threshold(1)
    try:
        assert [*pool.overdue(lambda path: math.inf)] == []
    finally:
        gc.set_threshold(*usual)
        gc.callbacks.remove(begin)
    assert len(pool._begun) > 1000


def test_what_is_wrong_with_more_than_a_video_stops_all() -> None:
    def broken(path: str) -> Probe:
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        list(probe_all([*"abc"], broken, 2, lambda path: math.inf))


def test_index_marks_it_and_a_later_one_fills_it_in(
    tiny_document: dict[str, Any], release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hanging(path: str) -> Probe:
        if path.endswith("v2.mp4"):
            release.wait()
        return probe(path)

    monkeypatch.setattr("kinegraph.stages.remote.staging.probe", hanging)
    config = check_config(tiny_document | {"run": {"video_timeout_seconds": 5.0}}, "test")
    indexed = index(config)
    assert {video: error.reason for video, error in indexed.unreadable.items()} == dict.fromkeys(
        indexed.unreadable, "timeout"
    )
    assert any(video.endswith("v2.mp4") for video in indexed.unreadable)
    release.set()
    monkeypatch.undo()
    again = index(check_config(tiny_document, "test"))
    assert (again.num_new_rows, again.unreadable) == (0, {})
    assert all(row.is_probed for row in again.cache.clips.rows())


def test_the_process_ends_while_a_thread_hangs(tmp_path: Path) -> None:
    script = (
        "import threading\n"
        "from kinegraph.pipeline.caches.probing import probe_all\n"
        "print(*probe_all(['x'], lambda path: threading.Event().wait(), 1, lambda path: 0.01))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "timeout: no answer within" in done.stdout
