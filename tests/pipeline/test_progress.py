"""What an extraction says while it runs, of other runs on its cache above all."""

import io
import logging
import sys

import pytest

from pipeline.events import ClipsDone, UnitLeased, UnitSealed, UnitSealedElsewhere, WorkerLost
from pipeline.plan import WorkUnit
from pipeline.progress import Progress


def unit(shard: int) -> WorkUnit:
    return WorkUnit(shard=shard, keys=("clips",))


def test_other_runs_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """That there is one, and that only its shards are left; what it does is not counted as ours, nor waited for."""
    caplog.set_level(logging.INFO, "kinegraph")
    progress = Progress({0: 4, 1: 4, 2: 4, 3: 1})
    progress(UnitLeased(unit=unit(1)))
    (message,) = caplog.messages
    assert message == "another run is at work on this cache; this one does the shards that nobody is at"
    progress(UnitLeased(unit=unit(2)))
    progress(ClipsDone(clips=4, videos=4, waiting="decode"))
    progress(UnitSealed(unit=unit(0), failed_clips=()))
    assert len(caplog.messages) == 1
    progress(UnitSealedElsewhere(unit=unit(3)))
    assert caplog.messages[1].startswith("others have taken all shards that are left; waiting until these are sealed")
    for shard in (1, 2, 1, 2):
        progress(UnitLeased(unit=unit(shard)))
    progress(UnitSealedElsewhere(unit=unit(1)))
    progress(UnitSealedElsewhere(unit=unit(2)))
    progress.close()
    assert len(caplog.messages) == 2
    assert (progress.units_done, progress.units_elsewhere, progress.clips, progress.total_clips) == (4, 3, 4, 4)


@pytest.mark.parametrize(
    ("shards", "told"),
    [((3, 4), "a worker died (exit code -9) with shards 3, 4"), ((), "a worker died (exit code -9), at no shard")],
)
def test_a_worker_that_died(caplog: pytest.LogCaptureFixture, shards: tuple[int, ...], told: str) -> None:
    progress = Progress({3: 1, 4: 1})
    progress(WorkerLost(shards=shards, exit_code=-9, set_aside=()))
    progress.close()
    assert caplog.messages == [told]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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
    assert "0/1" in before
    assert before.endswith("\r")
    assert after.startswith("\n")
