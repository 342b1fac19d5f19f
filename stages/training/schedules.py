"""Computes the learning rate at each step of a run."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from kinegraph.stages.training.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Computes for each step the factor on the learning rate, and the length of the run in steps and epochs.

    `options` has the schedule and the length. `steps_per_epoch` is the number of updates of the weights in one pass
    over the training clips.
    """

    options: TrainOptions
    steps_per_epoch: int

    @property
    def num_steps(self) -> int:
        """Returns the number of steps of the whole run. In a step the weights are updated once."""
        return self.options.iterations or self.options.epochs * self.steps_per_epoch

    @property
    def num_epochs(self) -> int:
        """Returns the number of epochs of the run. The last epoch may be cut short."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    def factor(self, step: int, metrics: Sequence[float] = ()) -> float:
        """Returns the factor on the learning rate at `step`. Steps are counted from 0.

        During the warm-up, the factor rises linearly to 1. After the warm-up, the option `schedule` decides. For
        example, with `cosine` the factor falls from 1 to 0 until the end of the run. `metrics` has one validation
        metric for each epoch so far, and a higher metric is better. Only the schedule `plateau` uses `metrics`.
        """
        options, unit = self.options, 1 if self.options.iterations else self.steps_per_epoch
        warmup = options.warmup * unit
        if step < warmup:
            return min(1.0, (step + 1) / warmup)
        if options.schedule == "step":
            return options.gamma ** bisect_right([milestone * unit for milestone in options.milestones], step)
        if options.schedule == "plateau":
            return options.gamma ** num_plateaus(metrics, options.plateau_epochs)
        if options.schedule == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (self.num_steps - warmup)))


def num_plateaus(metrics: Sequence[float], length: int) -> int:
    """Returns how often the training stopped improving: the number of plateaus in `metrics`, which has one number per
    epoch. A larger number is better.

    A plateau is `length` epochs in a row that are not better than the best epoch before them. After a plateau, the
    count of epochs starts again at 0. For the metrics 5, 6, 6, 6, 6, 6 and `length` 2, there are two plateaus.
    """
    best, waited, plateaus = -math.inf, 0, 0
    for metric in metrics:
        waited = 0 if metric > best else waited + 1
        best = max(best, metric)
        if waited == length:
            waited, plateaus = 0, plateaus + 1
    return plateaus
