"""One training run to do, as plain values that other machines can read. Torch-free."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kinegraph.stages.training.options import TrainOptions


class WantedRun(BaseModel):
    """A head to train: its name in the table, its recipe with the seed, and where the run goes.

    `code` is the Python source of a head of one's own, so that it travels to other machines.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    options: TrainOptions
    folder: Path
    code: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunPlace:
    """Which run of a table says something: `number` of `num_runs`, counted from 1.

    `runs_after`: how many runs follow it, on average, where it is trained; `num_epochs`: 0 until its clips are known.
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
    """Of each run; those that are `trained` take no time, and `workers` share the others."""
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
