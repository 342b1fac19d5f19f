from pathlib import Path

import pytest

from kinegraph.stages.training.records import EpochRecord
from kinegraph.stages.training.tensorboard import scalar_log

pytest.importorskip("tensorboard")


def _record(epoch: int, loss: float) -> EpochRecord:
    metrics = {"top1": epoch / 10}
    return EpochRecord(epoch=epoch, loss=loss, metrics=metrics, seconds=1, learning_rate=0.1, clips_per_second=1)


def test_a_run_that_goes_on_replaces_what_it_does_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for records in ([_record(1, 3.0), _record(2, 2.5)], [_record(2, 2.0), _record(3, 1.0)]):
        with scalar_log(tmp_path) as log:
            for record in records:
                log(record)
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert [event.value for event in found.Scalars("val/top1")] == pytest.approx([0.1, 0.2, 0.3])
    assert found.Tags()["scalars"] == ["train/loss", "train/learning_rate", "val/top1"]
