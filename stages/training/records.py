"""The results and the progress of a training, as values. Imports no torch."""

from dataclasses import dataclass, field

RECORD_FILE = "run.json"  # written last in the folder of a run
STATE_FILE = "state.pt"  # of a run that is not finished


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """The results of one epoch of a training. Some heads train several candidates: copies of their layers, each with
    its own learning rate and weight decay. All values are then those of the best candidate of the epoch.
    """

    epoch: int  # the number of the epoch, counted from 1
    loss: float  # the mean training loss
    # {name: value} of the validation metrics, with the validation "loss". Empty without validation.
    metrics: dict[str, float]
    seconds: float  # the duration of the epoch, including its validation
    learning_rate: float  # the learning rate of the last step
    clips_per_second: float  # the speed of the training, without the validation
    waited: float = 0.0  # the share of the training time, from 0 to 1, in which the network waited for clips
    candidate_index: int = 0  # the number of the best candidate, counted from 0
    # {name of the candidate: validation metric}. The metric is None if the candidate diverged. The dictionary is empty
    # for a head without candidates.
    of_candidates: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """The progress of a training within an epoch."""

    epoch: int  # the number of the present epoch, counted from 1
    step: int  # the number of steps that are done
    num_steps: int  # the number of steps of the whole training
    loss: float  # the mean training loss of the present epoch so far
    clips_per_second: float  # the mean speed of the present epoch so far
    # The last validation metric as (name, value), such as ("top1", 0.5). None before the first validation.
    metric: tuple[str, float] | None


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a training."""

    # The number of the best epoch, counted from 1. After the training, the head has the weights of this epoch.
    best_epoch: int
    best_metric: float | None  # the value of this metric in the best epoch. None without validation.
    # The name of the validation metric by which epochs are compared, such as "top1". None without validation.
    metric: str | None
    history: tuple[EpochRecord, ...]  # the records of all epochs
    seconds: float  # the duration of the training
    num_parameters: int  # the number of parameters of the head

    @property
    def kept_metrics(self) -> dict[str, float]:
        """Returns the validation metric of the best epoch as a dictionary, such as {"val_top1": 0.5}. The dictionary is
        empty without validation.
        """
        return {} if self.best_metric is None else {f"val_{self.metric}": self.best_metric}

    @property
    def candidate(self) -> str | None:
        """Returns the name of the best candidate, or None for a head without candidates. A candidate is one of several
        copies of the head's layers that are trained with different learning rates and weight decays.
        """
        best = self.history[self.best_epoch - 1]
        return [*best.of_candidates][best.candidate_index] if best.of_candidates else None

    @property
    def of_candidates(self) -> dict[str, float | None]:
        """Returns {name of the candidate: its best validation metric over all epochs}. The metric is None if the
        candidate diverged in every epoch. The dictionary is empty for a head without candidates.
        """
        best = min if self.metric == "loss" else max
        values = {
            name: [record.of_candidates[name] for record in self.history] for name in self.history[0].of_candidates
        }
        finite = {name: [value for value in of_one if value is not None] for name, of_one in values.items()}
        return {name: best(of_one) if of_one else None for name, of_one in finite.items()}
