"""The records that training returns and logs. Imports no torch."""

from dataclasses import dataclass, field

RECORD_FILE = "run.json"  # written last in the folder of a run
STATE_FILE = "state.pt"  # of a run that is not finished


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """The results of one epoch. Epochs are counted from 1.

    `loss` is the mean training loss. `metrics` has the validation metrics and the validation `loss` by name, and is
    empty without validation. `seconds` is the duration of the epoch with its validation. `learning_rate` is that of the
    last step. `clips_per_second` is the speed of training alone. `waited` is the share of the training time, from 0 to
    1, in which the network waited for clips.

    A head may train several candidates, each with its own learning rate and weight decay. `of_candidates` then maps the
    name of each candidate to its validation metric, or to None if it diverged. `candidate_index` is the number of the
    best one, counted from 0, to which the other values belong.
    """

    epoch: int
    loss: float
    metrics: dict[str, float]
    seconds: float
    learning_rate: float
    clips_per_second: float
    waited: float = 0.0
    candidate_index: int = 0
    of_candidates: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """The progress of a run in the middle of `epoch`, counted from 1.

    The run has done `step` of its `num_steps` steps. `loss` and `clips_per_second` are means over the present epoch so
    far. `metric` has the name and the value of the last validation metric (`("top1", 0.5)`), or is None before the
    first validation.
    """

    epoch: int
    step: int
    num_steps: int
    loss: float
    clips_per_second: float
    metric: tuple[str, float] | None


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a training run that took `seconds`, for a head with `num_parameters` trained parameters.

    After training, the head has the weights of the epoch `best_epoch`, counted from 1. `metric` is the name of the
    validation metric that chose this epoch, and `best_metric` is its value. Both are None without validation. `history`
    has the records of all epochs.
    """

    best_epoch: int
    best_metric: float | None
    metric: str | None
    history: tuple[EpochRecord, ...]
    seconds: float
    num_parameters: int

    @property
    def kept_metrics(self) -> dict[str, float]:
        """Returns `val_<metric>` -> its value in the best epoch, or an empty dict without validation."""
        return {} if self.best_metric is None else {f"val_{self.metric}": self.best_metric}

    @property
    def candidate(self) -> str | None:
        """Returns the name of the candidate that validation chose, or None for a head without candidates."""
        best = self.history[self.best_epoch - 1]
        return [*best.of_candidates][best.candidate_index] if best.of_candidates else None

    @property
    def of_candidates(self) -> dict[str, float | None]:
        """Returns the validation metric of each candidate in its own best epoch, by the name of the candidate. The
        value is None if the candidate diverged in the first epoch.
        """
        best = min if self.metric == "loss" else max
        values = {
            name: [record.of_candidates[name] for record in self.history] for name in self.history[0].of_candidates
        }
        told = {name: [value for value in of_one if value is not None] for name, of_one in values.items()}
        return {name: best(of_one) if of_one else None for name, of_one in told.items()}
