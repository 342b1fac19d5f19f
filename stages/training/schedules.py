"""Computes the learning rate at each step of a training."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from kinegraph.stages.training.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The schedule of a training: its length in steps and epochs, and the learning rate of each step. A step is one
    update of the weights.

    `options` has the kind of schedule and the length. `steps_per_epoch` is the number of steps in one pass over the
    training clips.
    """

    options: TrainOptions
    steps_per_epoch: int

    @property
    def num_steps(self) -> int:
        """Returns the number of steps of the whole training. A step is one update of the weights."""
        return self.options.iterations or self.options.epochs * self.steps_per_epoch

    @property
    def num_epochs(self) -> int:
        """Returns the number of epochs of the whole training. The last epoch may have fewer steps."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    def factor(self, step: int, metrics: Sequence[float] = ()) -> float:
        """Returns the factor, from 0 to 1, by which the learning rate is multiplied at `step`, counted from 0.

        The factor first rises linearly to 1 (warm-up). Then it follows the option `schedule`. For example, with
        `cosine` it falls to 0 until the end of the training. The schedule `plateau` needs `metrics`, one number for
        each epoch so far. A higher number is better.
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
    """Returns the number of plateaus in a training. `metrics` has one number for each epoch, and a higher number is
    better.

    A plateau is a series of `length` epochs that are not better than the best epoch before the series. Plateaus do not
    overlap. For example, with `length` 2 the metrics 5, 6, 6, 6, 6, 6 have two plateaus.
    """
    best, waited, plateaus = -math.inf, 0, 0
    for metric in metrics:
        waited = 0 if metric > best else waited + 1
        best = max(best, metric)
        if waited == length:
            waited, plateaus = 0, plateaus + 1
    return plateaus
