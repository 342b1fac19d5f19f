"""What training tells of itself. Torch-free."""

from dataclasses import dataclass

RECORD_FILE = "run.json"  # appears last in the folder of a run


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch, numbered from 1: mean training loss, validation metrics and `loss` (empty without validation).

    `seconds` has validation in it, `clips_per_second` is that of training.
    """

    epoch: int
    loss: float
    metrics: dict[str, float]
    seconds: float
    learning_rate: float
    clips_per_second: float


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """A moment within an epoch: steps done of all, mean loss and speed of the epoch so far, last validation metric."""

    epoch: int
    step: int
    num_steps: int
    loss: float
    clips_per_second: float
    metric: tuple[str, float] | None


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The epoch whose weights the head now has; `metric` names what chose it, None where nothing did."""

    best_epoch: int
    best_metric: float | None
    metric: str | None
    history: tuple[EpochRecord, ...]
    seconds: float
    num_parameters: int
