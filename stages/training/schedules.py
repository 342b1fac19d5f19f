"""Computes the learning rate over a run."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from kinegraph.stages.training.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Maps a step to a factor on the learning rate. `milestones` and `warmup` are in steps."""

    options: TrainOptions
    steps_per_epoch: int

    @property
    def num_steps(self) -> int:
        """Returns the number of steps of the run."""
        return self.options.iterations or self.options.epochs * self.steps_per_epoch

    @property
    def num_epochs(self) -> int:
        """Returns the number of epochs begun. The last epoch may be cut short."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    def factor(self, step: int, metrics: Sequence[float] = ()) -> float:
        """Returns the factor of `step`, counted from 0.

        Warm-up rises to 1 at its last step. Cosine falls from there to 0 at the end. `metrics` has the metric of each
        epoch before, and a higher metric is better. Only the schedule `plateau` uses `metrics`.
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
    """Returns how often `length` epochs in a row were not better than the best epoch before them.

    Each plateau restarts the count.
    """
    best, waited, plateaus = -math.inf, 0, 0
    for metric in metrics:
        waited = 0 if metric > best else waited + 1
        best = max(best, metric)
        if waited == length:
            waited, plateaus = 0, plateaus + 1
    return plateaus
