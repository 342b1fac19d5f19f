"""The best epoch of a training run, and the number by which epochs are compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from kinegraph.stages.training.records import EpochRecord


@dataclass
class BestEpoch:
    """The best epoch of a run so far. A saved state of a run has the values of its fields."""

    worth: float = -math.inf  # the number by which epochs are compared, as `worth_of` returns it
    epoch: int = 0  # the number of the best epoch, counted from 1. It is 0 before the first epoch.
    weights: Mapping[str, Tensor] = field(default_factory=dict)  # the state dict of the head after this epoch
    # The number of the best candidate of this epoch, if the head has candidates. `weights` has only the weights of this
    # candidate.
    candidate: int = 0


def worth_of(record: EpochRecord, metric: str | None) -> float:
    """Returns the number by which the epoch of `record` is compared with other epochs. A higher number is better.

    The number is the validation metric with the name `metric`, or the negative validation loss if `metric` is "loss".
    Without validation, `metric` is None and the result is the number of the epoch, so the last epoch is the best.
    """
    if metric is None:
        return record.epoch
    return -record.metrics["loss"] if metric == "loss" else record.metrics[metric]
