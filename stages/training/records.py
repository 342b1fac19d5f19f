"""The records that training returns and logs. Torch-free."""

from dataclasses import dataclass

RECORD_FILE = "run.json"  # written last in the folder of a run


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch, numbered from 1: mean training loss, validation metrics and `loss` (empty without validation).

    `seconds` includes validation. `clips_per_second` is the speed of training alone.
    """

    epoch: int
    loss: float
    metrics: dict[str, float]
    seconds: float
    learning_rate: float
    clips_per_second: float


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """A moment within an epoch: steps done, all steps, mean loss and speed of the epoch so far, last validation
    metric.
    """

    epoch: int
    step: int
    num_steps: int
    loss: float
    clips_per_second: float
    metric: tuple[str, float] | None


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The epoch whose weights the head has after training. `metric` names the metric that chose it, or is None."""

    best_epoch: int
    best_metric: float | None
    metric: str | None
    history: tuple[EpochRecord, ...]
    seconds: float
    num_parameters: int
