"""The records that training returns and logs. Imports no torch."""

from dataclasses import dataclass

RECORD_FILE = "run.json"  # written last in the folder of a run


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """The results of one epoch. Epochs are counted from 1.

    `loss` is the mean training loss. `metrics` has the validation metrics and the validation `loss` by name, and is
    empty without validation. `seconds` includes validation. `clips_per_second` is the speed of training alone.
    """

    epoch: int
    loss: float
    metrics: dict[str, float]
    seconds: float
    learning_rate: float
    clips_per_second: float


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """The progress of a run in the middle of an epoch.

    `step` of `num_steps` steps of the run are done. `loss` and `clips_per_second` are means over the epoch so far.
    `metric` is the name and the value of the last validation metric, or None before the first validation.
    """

    epoch: int
    step: int
    num_steps: int
    loss: float
    clips_per_second: float
    metric: tuple[str, float] | None


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a training run.

    After training, the head has the weights of `best_epoch`. `metric` names the validation metric that chose this
    epoch. `metric` and `best_metric` are None without validation.
    """

    best_epoch: int
    best_metric: float | None
    metric: str | None
    history: tuple[EpochRecord, ...]
    seconds: float
    num_parameters: int
