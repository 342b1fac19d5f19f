"""Describes a training run that is to be done, in plain values that can be sent to other machines. Torch-free."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kinegraph.stages.training.options import TrainOptions


class WantedRun(BaseModel):
    """A training run that is to be done."""

    model_config = ConfigDict(frozen=True)

    name: str  # the name of the head or variant in tables
    options: TrainOptions  # the training options, with the seed
    folder: Path  # the folder of the run
    code: str | None = None  # the Python source of a user's own head, or None for a head of kinegraph


@dataclass(frozen=True, kw_only=True)
class RunPlace:
    """The place of a training run among all runs that one command trains, for messages."""

    # `name`, `seed`: the name of the head or variant, and the seed
    name: str
    seed: int
    # `number`, `num_runs`: the run is number `number` of `num_runs` runs, counted from 1
    number: int = 1
    num_runs: int = 1
    # The number of untrained runs after this run, divided by the number of worker processes, to estimate the time left
    runs_after: float = 0.0
    num_epochs: int = 0  # the number of epochs of the run, 0 until its clips are known

    @property
    def title(self) -> str:
        """Returns the name of the run in messages, for example "run 2 of 21 (lstm, seed 1)"."""
        if self.num_runs == 1:
            return f"{self.name} seed {self.seed}"
        return f"run {self.number:,} of {self.num_runs:,} ({self.name}, seed {self.seed})"


def places(runs: Sequence[WantedRun], trained: Container[WantedRun] = (), workers: int = 1) -> list[RunPlace]:
    """Returns one RunPlace for each of `runs`, in the same order. A RunPlace is for messages such as "run 2 of 21", and
    says how many runs follow.

    The runs in `trained` are finished and take no more time. `workers` processes share the other runs. `runs_after` is
    the number of later runs per process: with 4 later runs and 2 workers, it is 2.
    """
    takes_time = [run not in trained for run in runs]
    return [
        RunPlace(
            name=run.name,
            seed=run.options.seed,
            number=number,
            num_runs=len(runs),
            runs_after=sum(takes_time[number:]) / workers,
        )
        for number, run in enumerate(runs, 1)
    ]
