"""What an extraction says while it runs, of other runs on its cache above all."""

import logging
import sys

import pytest

from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.extraction.events import (
    ClipsDone,
    Measured,
    Preparing,
    UnitLeased,
    UnitSealed,
    UnitSealedElsewhere,
    WorkerLost,
)
from kinegraph.pipeline.extraction.progress import Progress
from tests.clock import Clock
from tests.terminal import Terminal


def unit(shard: int) -> WorkUnit:
    return WorkUnit(shard=shard, keys=("clips",))


def test_other_runs_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """That there is one, and that only its shards are left; what it does is not counted as ours, nor waited for."""
    caplog.set_level(logging.INFO, "kinegraph")
    progress = Progress({0: 4, 1: 4, 2: 4, 3: 1})
    progress(UnitLeased(unit=unit(1)))
    (message,) = caplog.messages
    assert message == "another run works on this cache. This run does the shards that no other run has leased"
    progress(UnitLeased(unit=unit(2)))
    progress(ClipsDone(clips=4, videos=4, waiting="decode"))
    progress(UnitSealed(unit=unit(0), failed_clips=()))
    assert len(caplog.messages) == 1
    progress(UnitSealedElsewhere(unit=unit(3)))
    assert caplog.messages[1].startswith("other runs have leased all shards that are left. This run waits until")
    for shard in (1, 2, 1, 2):
        progress(UnitLeased(unit=unit(shard)))
    progress(UnitSealedElsewhere(unit=unit(1)))
    progress(UnitSealedElsewhere(unit=unit(2)))
    progress.close()
    assert len(caplog.messages) == 2
    assert (progress.units_done, progress.units_elsewhere, progress.clips, progress.total_clips) == (4, 3, 4, 4)


def test_the_result_of_a_measurement_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kinegraph")
    progress = Progress({0: 4})
    progress(Measured(result="run.batch_size: auto takes 4"))
    progress.close()
    assert caplog.messages == ["run.batch_size: auto takes 4"]


@pytest.mark.parametrize(
    ("shards", "told"),
    [((3, 4), "a worker died (exit code -9) with shards 3, 4"), ((), "a worker died (exit code -9), at no shard")],
)
def test_a_worker_that_died(caplog: pytest.LogCaptureFixture, shards: tuple[int, ...], told: str) -> None:
    progress = Progress({3: 1, 4: 1})
    progress(WorkerLost(shards=shards, exit_code=-9, set_aside=()))
    progress.close()
    assert caplog.messages == [told]


def test_messages_do_not_begin_at_the_end_of_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        progress = Progress({0: 1})
        logging.getLogger("kinegraph").warning("a word")
        progress.close()
    finally:
        logging.getLogger().removeHandler(handler)
    before, _, after = terminal.getvalue().partition("a word")
    assert "starting" in before
    assert before.endswith("\r")
    assert after.startswith("\n")


def test_what_it_does_before_the_first_clips_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a log each network once, however many workers load it; then a line now and then, with the time left."""
    caplog.set_level(logging.INFO, "kinegraph")
    now = Clock()
    monkeypatch.setattr("kinegraph.pipeline.machine.terminal.time.monotonic", now)
    progress = Progress({0: 40, 1: 40, 2: 20})
    for _ in range(2):
        progress(Preparing(doing="loading networks: i3d (i3d_r50)"))
    now.now += 30
    progress(Preparing(doing="decoding the first videos"))
    for clips in (30, 10):
        now.now += 20
        progress(ClipsDone(clips=clips, videos=clips, waiting="waiting for decode"))
    progress(UnitSealed(unit=unit(0), failed_clips=()))
    now.now += 30
    progress(ClipsDone(clips=2, videos=2, waiting="waiting for decode"))
    progress.close()
    assert caplog.messages == [
        "extract: loading networks: i3d (i3d_r50)",
        "extract: decoding the first videos",
        "extract: 0 of 3 shards, 30 of 100 clips, 1.5 clips/s, 0:00:47 left, mostly waiting for decode",
        "extract: 1 of 3 shards, 42 of 100 clips, 0.6 clips/s, 0:01:37 left, mostly waiting for decode",
    ]
