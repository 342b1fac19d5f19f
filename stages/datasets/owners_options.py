"""Defines the config section `dataset` for data sets as their owners ship them, one class for each. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kinegraph.stages.options import ClassName, SplitName, StageOptions
from kinegraph.stages.remote.urls import UrlError, checked


class OwnersOptions(StageOptions):
    """The options that all data sets in their owners' layout have."""

    root: str = Field(description="folder of the videos; they may lie in folders below it; or a URL that lists files")
    annotations: str = Field(description="folder of the owners' label files, or a URL below which they lie")

    @model_validator(mode="after")
    def _hold_no_secret(self) -> Self:
        for key, given in (("root", self.root), ("annotations", self.annotations)):
            try:
                checked(given)
            except UrlError as error:
                raise ValueError(f"{key}: {error}") from None
        return self


class Ucf101Options(OwnersOptions):
    """UCF101 (Soomro et al. 2012) by one of the official splits. `annotations` has classInd.txt, trainlist01.txt,
    testlist01.txt and so on. The classes are in the order of classInd.txt.

    The folder of a video does not matter, because two spellings of a folder are in use.
    """

    kind: Literal["ucf101"]
    official_split: Literal[1, 2, 3] = Field(1, description="number of the official split")


LeaveOut = Annotated[
    tuple[str, ...] | str,
    Field(description="names of videos to leave out, or a file with them: one a line, or a JSON list"),
]


class ActivityNetOptions(OwnersOptions):
    """ActivityNet 1.3 (Caba Heilbron et al. 2015), untrimmed videos with labelled segments. The splits are train, val
    and test. The videos of test have no labels. The classes are sorted by name.

    A video file has the name of its id, or the id with `v_` in front. Segments become the annotations of whole videos
    with `clips.sampling: windows`. With any other sampling each segment is an interval, which is sampled by itself.
    """

    kind: Literal["activitynet"]
    file: str = Field("activity_net.v1-3.min.json", description="name of the owners' JSON file in `annotations`")
    leave_out: LeaveOut = ()


class Thumos14Options(OwnersOptions):
    """THUMOS14 (Jiang et al. 2014), the untrimmed videos with labelled segments. The split train has the videos
    `video_validation_*`, and test has `video_test_*`. The 20 classes are sorted by name.

    Segments become the annotations of whole videos with `clips.sampling: windows`. With any other sampling each segment
    is an interval, which is sampled by itself.
    """

    kind: Literal["thumos14"]
    labels: Literal["owners", "gtad"] = Field(
        "owners",
        description="owners: val_Annotation.csv and thumos14_test_groundtruth.csv in `annotations`; gtad: "
        "thumos_gt.json of G-TAD",
    )
    leave_out: LeaveOut = ()


class JsonOptions(StageOptions):
    """Videos of your own with labelled segments, listed in a JSON file in the form of ActivityNet.

    The file is `{"database": {<id>: {"subset": ..., "annotations": [{"segment": [start, end], "label": ...}]}}}`, with
    times in seconds. The name of a video file is `prefix` and the id. Segments become the annotations of whole videos
    with `clips.sampling: windows`. With any other sampling each segment is an interval, which is sampled by itself.
    """

    kind: Literal["json"]
    root: str = Field(description="folder of the videos; they may lie in folders below it; or a URL that lists files")
    annotations: str = Field(description="the JSON file")
    prefix: str = Field("", description="first letters of the names of the video files, before the id")
    classes: Annotated[tuple[ClassName, ...], Field(min_length=1)] | str | None = Field(
        None, description="all classes in order, or a file with one class per line; null: the labels, sorted"
    )
    subsets: dict[str, SplitName] = Field(
        {},
        description="splits of the subsets with names other than training, validation and testing; "
        "ActionFormer's file of THUMOS14 needs `{validation: train}`",
    )
    leave_out: LeaveOut = ()


class CharadesOptions(OwnersOptions):
    """Charades (Sigurdsson et al. 2016). `annotations` has Charades_v1_classes.txt, Charades_v1_train.csv and
    Charades_v1_test.csv. The classes are in the order of the class file. Charades_v1_test.csv is the split `val`,
    because papers call it validation.

    Videos are `<id>.mp4` of any size, or the folders of the 24 fps images of Charades_v1_rgb. docs/datasets.md
    describes the data set.
    """

    kind: Literal["charades"]
    labels: Literal["video", "interval"] = Field(
        "video",
        description="video: each video has the classes of all its actions, or none. interval: each action is a clip of "
        "its own, or an annotation of its video with `clips.sampling: windows`",
    )
    without_actions: bool = Field(
        False,
        description="with labels: interval, whether videos without an action stay, as whole videos without a label",
    )
    frame_rate: float = Field(
        24.0, gt=0, le=1000, description="images per second where the videos are folders of numbered images"
    )


OwnersDatasetOptions = Ucf101Options | ActivityNetOptions | CharadesOptions | Thumos14Options | JsonOptions
