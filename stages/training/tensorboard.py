"""Writes the losses and metrics of training for TensorBoard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinegraph.stages.errors import UsageError
from kinegraph.stages.training.records import EpochRecord


@contextmanager
def scalar_log(folder: Path) -> Iterator[Callable[[EpochRecord], None]]:
    """Yields a function that writes an EpochRecord to the TensorBoard log in `folder`. The log is closed at the end of
    the `with` block.

    A run that continues after an interruption may train an epoch again that the log already has. The log then drops
    this epoch and all later epochs. Raises UsageError if the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("train.tensorboard: true needs the package: pip install 'kinegraph[tensorboard]'") from error
    opened: list[Any] = []

    def log(record: EpochRecord) -> None:
        if not opened:
            opened.append(SummaryWriter(str(folder), purge_step=record.epoch))
        scalars = {"train/loss": record.loss, "train/learning_rate": record.learning_rate}
        scalars |= {f"val/{name}": value for name, value in record.metrics.items()}
        for name, value in scalars.items():
            opened[0].add_scalar(name, value, record.epoch)

    try:
        yield log
    finally:
        for writer in opened:
            writer.close()
