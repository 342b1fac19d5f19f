"""Options of the data set and of clip sampling. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from stages.options import StageOptions

Crop = Literal["center", "left", "right", "full"]


class FolderOptions(StageOptions):
    """Videos in class folders below `root`, or listed in a csv with the columns path, label and (optional) split.

    Labels of a csv are class names, several separated by `;`. Without a csv the first folder below `root` is the
    label, unless the folders are named train, val or test: then that is the split and the next folder the label.
    A video that is listed without a split is dealt into `splits` by a digest of its id, so that adding videos never
    moves one from train to test.
    """

    kind: Literal["folder"]
    root: str
    annotations: str | None = None
    splits: dict[str, Annotated[float, Field(gt=0)]] = Field({"train": 1.0}, min_length=1)


class InteractionsOptions(StageOptions):
    """The generated data set of the demo; made below `root` when it is not there yet."""

    kind: Literal["interactions"]
    root: str
    train: int = Field(3000, ge=1)
    val: int = Field(300, ge=1)
    test: int = Field(600, ge=1)
    seed: int = 0


DatasetOptions = Annotated[FolderOptions | InteractionsOptions, Field(discriminator="kind")]


class ClipOptions(StageOptions):
    """Which frames make a clip. `fps` belongs to dense and centre; uniform spans the whole video."""

    num_frames: int = Field(32, ge=1)
    fps: float = Field(6.0, gt=0)
    sampling: Literal["uniform", "dense", "centre"] = "dense"
    per_video: int = Field(1, ge=1)
    crops: tuple[Crop, ...] = Field(("center",), min_length=1)
    short: Literal["repeat_last", "loop", "fail"] = "repeat_last"

    @property
    def rows_per_video(self) -> int:
        return self.per_video * len(self.crops)
