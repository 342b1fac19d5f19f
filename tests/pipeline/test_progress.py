"""What an extraction says of other runs on its cache."""

import logging

import pytest

from pipeline.events import ClipsDone, UnitLeased, UnitSealed, UnitSealedElsewhere
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
    assert message == "another run is at shard 1 of this cache; this one does what nobody is at"
    progress(UnitLeased(unit=unit(2)))
    progress(ClipsDone(clips=4, videos=4, waiting="decode"))
    progress(UnitSealed(unit=unit(0), failed_clips=()))
    assert len(caplog.messages) == 1
    progress(UnitSealedElsewhere(unit=unit(3)))
    assert caplog.messages[1].startswith("shards that are left: 2, all with other runs. Waiting until they are sealed")
    for shard in (1, 2, 1, 2):
        progress(UnitLeased(unit=unit(shard)))
    progress(UnitSealedElsewhere(unit=unit(1)))
    progress(UnitSealedElsewhere(unit=unit(2)))
    progress.close()
    assert len(caplog.messages) == 2
    assert (progress.units_done, progress.units_elsewhere, progress.clips, progress.total_clips) == (4, 3, 4, 4)
