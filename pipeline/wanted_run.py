"""One training run to do, as plain values that other machines can read. Torch-free."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from stages.training.options import TrainOptions


class WantedRun(BaseModel):
    """A head to train: its name in the table, its recipe with the seed, and where the run goes.

    `code` is the Python source of a head of one's own, so that it travels to other machines.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    options: TrainOptions
    folder: Path
    code: str | None = None
