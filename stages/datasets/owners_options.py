"""Defines the config section `dataset` for data sets as their owners ship them, one class for each. Torch-free."""

from typing import Literal

from pydantic import Field

from kinegraph.stages.options import StageOptions


class OwnersOptions(StageOptions):
    """The options that all data sets in their owners' layout have."""

    root: str = Field(description="folder of the videos; they may lie in folders below it; or a URL that lists files")
    annotations: str = Field(description="folder of the owners' label files")


class Ucf101Options(OwnersOptions):
    """UCF101 (Soomro et al. 2012) by one of the official splits. `annotations` has classInd.txt, trainlist01.txt,
    testlist01.txt and so on. The classes are in the order of classInd.txt.

    The folder of a video does not matter, because two spellings of a folder are in use.
    """

    kind: Literal["ucf101"]
    official_split: Literal[1, 2, 3] = Field(1, description="number of the official split")


OwnersDatasetOptions = Ucf101Options
