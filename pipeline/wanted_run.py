"""Describes one training run that is to be done, in plain values that other machines can read. Torch-free."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kinegraph.stages.training.options import TrainOptions


class WantedRun(BaseModel):
    """A head to train: its name in the table `name`, its recipe `options` (the training options, seed included), and
    the folder of the run, `folder`.

    `code` is the Python source of a user's own head, so that the head can be sent to other machines. It is None for the
    heads of kinegraph.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    options: TrainOptions
    folder: Path
    code: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunPlace:
    """The place of a run in the table of runs that are trained together: run `number` of `num_runs`, counted from 1.
    `name` is the name of the trained head or variant.

    `runs_after` is how many runs the same process will train after this run, on average. `num_epochs` is 0 until the
    clips of the run are known.
    """

    name: str
    seed: int
    number: int = 1
    num_runs: int = 1
    runs_after: float = 0.0
    num_epochs: int = 0

    @property
    def title(self) -> str:
        if self.num_runs == 1:
            return f"{self.name} seed {self.seed}"
        return f"run {self.number:,} of {self.num_runs:,} ({self.name}, seed {self.seed})"


def places(runs: Sequence[WantedRun], trained: Container[WantedRun] = (), workers: int = 1) -> list[RunPlace]:
    """Returns a RunPlace for each run. It says the number of the run in the table, and how many runs its process will
    train after it, on average.

    The runs in `trained` are finished and are not trained again. The other runs are divided among `workers` processes.
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
