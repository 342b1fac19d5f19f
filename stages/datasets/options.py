"""Defines the config section `dataset`, with one class for each kind of data set. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kinegraph.stages.datasets.owners_options import OwnersDatasetOptions
from kinegraph.stages.options import MAX_SEED, ClassName, SplitName, StageOptions
from kinegraph.stages.remote.urls import UrlError, check_url, is_url

MAX_VIDEOS = 10_000_000  # most videos of one split


class FolderOptions(StageOptions):
    """The config section `dataset` for your own videos. The videos lie in class folders below `root`, or a csv
    `annotations` lists them.

    The csv has the columns path, label and (optional) split. Several labels of a video are separated by `;`. With the
    columns start and end, a line is an interval of its video, in seconds from the first frame. The frame that begins at
    `end` does not belong to the interval. Each interval is sampled, labelled and scored by itself. A line with start
    and end empty is the whole video.

    Without a csv, the first folder below `root` is the label of a video (`push/1.mp4`). Folders with the names train,
    training, val, valid, validation, test or testing (in any case) are splits, and the folders in them are the labels
    (`train/push/1.mp4`). Folders may be links.

    With `frame_rate`, a folder of numbered images, such as `00001.jpg` or `img_00001.jpg`, is a video, too. Numbers
    begin at 0 or 1. Image number i, from 0, is shown at i / frame_rate seconds. A folder with two series, such as
    `flow_x_00001.jpg` and `flow_y_00001.jpg`, is optical flow.
    """

    kind: Literal["folder"]
    root: str = Field(description="folder of the videos, or a URL that fsspec opens, such as `s3://bucket/prefix`")
    annotations: str | None = Field(
        None, description="csv with the columns path (below root, absolute, or a URL), label[, split][, start, end]"
    )
    classes: Annotated[tuple[ClassName, ...], Field(min_length=1)] | str | None = Field(
        None,
        description="all classes in order, or a file or URL with one class per line, such as "
        "Charades_v1_classes.txt; needed for a part of a data set that lacks some classes; "
        "null: the classes found, sorted",
    )
    frame_rate: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="images per second where the videos are folders of numbered images; null: no videos are",
    )
    multi_label: bool | None = Field(
        None,
        description="whether a video may have several labels or none, which makes mAP the metric; null: "
        "true if some video has several",
    )
    splits: dict[SplitName, Annotated[float, Field(gt=0, le=1e9)]] = Field(
        {"train": 1.0},
        min_length=1,
        description="shares of the splits for videos listed without a split; a digest of the video's id "
        "decides, so added videos never move another video to another split",
    )

    @model_validator(mode="after")
    def _hold_no_secret(self) -> "FolderOptions":
        for key, given in (("root", self.root), ("annotations", self.annotations), ("classes", self.classes)):
            try:
                check_url(given if isinstance(given, str) else "")
            except UrlError as error:
                raise ValueError(f"{key}: {error}") from None
        return self


def _check_is_folder(root: str) -> None:
    if is_url(root):
        raise ValueError("root: given a URL, allowed: a folder; generated videos are written there")


class InteractionsOptions(StageOptions):
    """The config section `dataset` for the generated data set of the demo. The data set is made below `root` if it is
    missing.
    """

    kind: Literal["interactions"]
    root: str = Field(description="folder of the videos")
    train: int = Field(3000, ge=1, le=MAX_VIDEOS, description="number of videos of the split train")
    val: int = Field(300, ge=1, le=MAX_VIDEOS, description="number of videos of the split val")
    test: int = Field(600, ge=1, le=MAX_VIDEOS, description="number of videos of the split test")
    seed: int = Field(0, ge=-MAX_SEED, le=MAX_SEED, description="seed of the generator")

    @model_validator(mode="after")
    def _lies_here(self) -> Self:
        _check_is_folder(self.root)
        return self


class SyncMnistOptions(StageOptions):
    """The config section `dataset` for SyncMNIST, the generated data set of the RSTG paper. The label of a video says
    which two of its digits move in step. docs/sync_mnist.md describes the data set.

    The data set is made below `root` if it is missing. Videos of `test` show pictures of digits that no other split
    shows.
    """

    kind: Literal["sync_mnist"]
    root: str = Field(description="folder of the videos")
    digits: str | None = Field(
        None,
        description="folder of MNIST's four idx files, gzipped or not; null: the 1797 UCI digits that scikit-learn "
        "bundles (extra `demo`), enlarged",
    )
    num_digits: Literal[3, 5] = Field(5, description="digits in each video, all of different values")
    digit_values: int = Field(
        10,
        ge=3,
        le=10,
        description="how many different digits occur, from 0 on: with 3, they are 0, 1 and 2; "
        "fewer digits make fewer pairs to tell apart",
    )
    motion: Literal["walk", "constant"] = Field(
        "walk", description="walk: the paper's random walk; constant: an easier variant, every digit keeps its velocity"
    )
    multiplier: int = Field(
        10, ge=1, le=1000, description="videos for each training image; the image is the first of their digits"
    )
    val_images: int = Field(
        0,
        ge=0,
        le=MAX_VIDEOS,
        description="number of training images that only the split val shows, taken from the end",
    )
    test_multiplier: int = Field(1, ge=1, le=1000, description="videos for each image of val and test")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the generator")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _check_is_folder(self.root)
        if self.num_digits > self.digit_values:
            raise ValueError(
                f"num_digits: given {self.num_digits}, allowed: at most {self.digit_values}, the dataset.digit_values"
            )
        return self


DatasetOptions = Annotated[
    FolderOptions | InteractionsOptions | SyncMnistOptions | OwnersDatasetOptions, Field(discriminator="kind")
]
