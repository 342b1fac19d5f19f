"""Describes one training run that is to be done, in plain values that other machines can read. Torch-free."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kinegraph.stages.training.options import TrainOptions


class WantedRun(BaseModel):
    """One training run that is to be done. `name` is the name of the head or variant in the table of results. `options`
    are the training options, seed included. `folder` is the folder of the run.

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
    """The place of a run in a table of runs: number `number` of `num_runs` runs, counted from 1. The table has the runs
    that one command trains. `name` is the name of the trained head or variant.

    `runs_after` helps to estimate the time left. It is the number of later runs in the table, divided by the number of
    worker processes. `num_epochs` is 0 until the clips of the run are known.
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
    """Returns a RunPlace for each run in `runs`, in the same order.

    The runs in `trained` are finished and take no more time. `workers` processes share the other runs. If 4 runs come
    after a run and there are 2 workers, `runs_after` of this run is 2.
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
