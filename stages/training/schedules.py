"""The learning rate over a run."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from kinegraph.stages.training.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Step -> factor on the learning rate. `milestones` and `warmup` are steps here."""

    options: TrainOptions
    steps_per_epoch: int

    @property
    def num_steps(self) -> int:
        return self.options.iterations or self.options.epochs * self.steps_per_epoch

    @property
    def num_epochs(self) -> int:
        """Passes begun; the last one may be cut short."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    def factor(self, step: int, worths: Sequence[float] = ()) -> float:
        """Of `step`, counted from 0: warm-up rises to 1 at its last step, cosine falls from there to 0 at the end.

        `worths` are those of the epochs before, the higher the better; plateau looks at nothing else.
        """
        options, unit = self.options, 1 if self.options.iterations else self.steps_per_epoch
        warmup = options.warmup * unit
        if step < warmup:
            return min(1.0, (step + 1) / warmup)
        if options.schedule == "step":
            return options.gamma ** bisect_right([milestone * unit for milestone in options.milestones], step)
        if options.schedule == "plateau":
            return options.gamma ** num_plateaus(worths, options.plateau_epochs)
        if options.schedule == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (self.num_steps - warmup)))


def num_plateaus(worths: Sequence[float], length: int) -> int:
    """How often `length` epochs in a row were not better than the best before them; each ends the count of its own."""
    best, waited, found = -math.inf, 0, 0
    for worth in worths:
        waited = 0 if worth > best else waited + 1
        best = max(best, worth)
        if waited == length:
            waited, found = 0, found + 1
    return found
