"""The learning rate over a run."""

import math
from bisect import bisect_right
from dataclasses import dataclass

from stages.training.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Step -> factor on the learning rate. Numbers of the options that count epochs are steps here."""

    options: TrainOptions
    steps_per_epoch: int

    @property
    def num_steps(self) -> int:
        return self.options.iterations or self.options.epochs * self.steps_per_epoch

    @property
    def num_epochs(self) -> int:
        """Passes begun; the last one may be cut short."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    def factor(self, step: int) -> float:
        """Of `step`, counted from 0: warm-up rises to 1 at its last step, cosine falls from there to 0 at the end."""
        options, unit = self.options, 1 if self.options.iterations else self.steps_per_epoch
        warmup = options.warmup * unit
        if step < warmup:
            return min(1.0, (step + 1) / warmup)
        if options.schedule == "step":
            return options.gamma ** bisect_right([milestone * unit for milestone in options.milestones], step)
        if options.schedule == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (self.num_steps - warmup)))
