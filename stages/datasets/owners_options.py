"""Defines the config section `dataset` for data sets in the form in which their owners publish them. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kinegraph.stages.options import ClassName, SplitName, StageOptions
from kinegraph.stages.remote.urls import FILE, UrlError, check_url


class OwnersOptions(StageOptions):
    """The base class of the options of data sets in the form in which their owners publish them. The class has the
    folder of the videos and the folder of the label files.
    """

    root: str = Field(description="folder of the videos; they may lie in folders below it; or a URL that lists files")
    annotations: str = Field(description="folder of the owners' label files, or a URL below which they lie")

    @model_validator(mode="after")
    def _hold_no_secret(self) -> Self:
        for key, given in (("root", self.root), ("annotations", self.annotations)):
            try:
                check_url(given)
            except UrlError as error:
                raise ValueError(f"{key}: {error}") from None
        return self


class Ucf101Options(OwnersOptions):
    """The config section `dataset` for UCF101 (Soomro et al. 2012), by one of its official splits. `annotations` has
    classInd.txt, trainlist01.txt, testlist01.txt and so on. The classes are in the order of classInd.txt.

    A video is found by its file name. The name of its folder does not matter.
    """

    kind: Literal["ucf101"]
    official_split: Literal[1, 2, 3] = Field(1, description="number of the official split")


class ActionGenomeOptions(OwnersOptions):
    """The config section `dataset` for Action Genome (Ji et al. 2020), which annotates frames of the videos of
    Charades. The videos are the mp4 files of Charades, in any size, at their own frame rate. `annotations` has
    object_bbox_and_relationship.pkl, person_bbox.pkl, object_classes.txt and relationship_classes.txt.

    The classes are the 157 actions of Charades, in the order of Charades_v1_classes.txt. With `labels: interval`, each
    action of a video is an interval with one label. With `labels: video`, a video has the labels of all its actions.
    Videos without an annotated frame are left out.
    """

    kind: Literal["action_genome"]
    charades: str | None = Field(
        None,
        description="folder of Charades_v1_train.csv, Charades_v1_test.csv and Charades_v1_classes.txt; null: "
        "`annotations`",
    )
    labels: Literal["video", "interval"] = Field(
        "video", description="what has labels: a video, or each interval of it"
    )

    @property
    def objects_file(self) -> str:
        """Returns the path of the pickle with the objects and relations in all annotated frames."""
        return f"{self.annotations.removeprefix(FILE)}/object_bbox_and_relationship.pkl"

    @property
    def persons_file(self) -> str:
        """Returns the path of the pickle with the persons in all annotated frames."""
        return f"{self.annotations.removeprefix(FILE)}/person_bbox.pkl"


LeaveOut = Annotated[
    tuple[str, ...] | str,
    Field(description="names of videos to leave out, or a file with them: one a line, or a JSON list"),
]


class ActivityNetOptions(OwnersOptions):
    """The config section `dataset` for ActivityNet 1.3 (Caba Heilbron et al. 2015), untrimmed videos with labelled
    segments. The splits are train, val and test. The videos of test have no labels. The classes are sorted by name.

    The name of a video file is the id of the video, or `v_` and the id. With `clips.sampling: windows`, clips cover
    whole videos, and the segments are kept as annotations of the videos. With any other sampling, clips are taken from
    each segment alone, and have its label.
    """

    kind: Literal["activitynet"]
    file: str = Field("activity_net.v1-3.min.json", description="name of the owners' JSON file in `annotations`")
    leave_out: LeaveOut = ()


class Thumos14Options(OwnersOptions):
    """The config section `dataset` for THUMOS14 (Jiang et al. 2014), the untrimmed videos with labelled segments. The
    split train has the videos `video_validation_*`, and test has `video_test_*`. The 20 classes are sorted by name.

    With `clips.sampling: windows`, clips cover whole videos, and the segments are kept as annotations of the videos.
    With any other sampling, clips are taken from each segment alone, and have its label.
    """

    kind: Literal["thumos14"]
    labels: Literal["owners", "gtad"] = Field(
        "owners",
        description="owners: val_Annotation.csv and thumos14_test_groundtruth.csv in `annotations`; gtad: "
        "thumos_gt.json of G-TAD",
    )
    leave_out: LeaveOut = ()


class JsonOptions(StageOptions):
    """The config section `dataset` for your own videos with labelled segments, in a JSON file in the form of
    ActivityNet.

    The file is `{"database": {<id>: {"subset": ..., "annotations": [{"segment": [start, end], "label": ...}]}}}`, with
    times in seconds. The name of a video file is `prefix` and the id. With `clips.sampling: windows`, clips cover whole
    videos, and the segments are kept as annotations of the videos. With any other sampling, clips are taken from each
    segment alone, and have its label.
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
    """The config section `dataset` for Charades (Sigurdsson et al. 2016). `annotations` has Charades_v1_classes.txt,
    Charades_v1_train.csv and Charades_v1_test.csv. The classes are in the order of the class file. Charades_v1_test.csv
    is the split `val`, because papers call it validation.

    Videos are `<id>.mp4` of any size, or the folders of images of Charades_v1_rgb, with 24 images per second.
    docs/datasets.md describes the data set.
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


class SomethingSomethingOptions(OwnersOptions):
    """The config section `dataset` for Something-Something V1 or V2 (Goyal et al. 2017). docs/datasets.md describes the
    data set.

    For V1, `annotations` has something-something-v1-labels.csv, -train.csv and -validation.csv, and the videos are
    folders of images with the id as name. For V2, `annotations` has the same files as json, with these long names or as
    labels.json, train.json and validation.json. The videos are `<id>.webm`.

    Both versions have the same 174 class names. `class_order: sorted` sorts them by name, as networks of TRN and TSM
    have them. `class_order: owner` takes the order of the owners, as networks of mmaction2 have them. In V2 both orders
    are equal.

    A mirrored video of a class such as `Pushing something from left to right` shows another class. So leave
    `finetune.views.mirror` at false, and use no crops that end in `_flip`.
    """

    kind: Literal["something_something"]
    version: Literal[1, 2] = Field(description="1: folders of images and csv files; 2: webm videos and json files")
    class_order: Literal["owner", "sorted"] = Field(
        "owner", description="owner: the order of the owners' labels file. sorted: by name, as in TRN and TSM"
    )
    test: bool = Field(False, description="whether to list the split test, too. Its videos have no labels")
    frame_rate: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="images per second where the videos are folders of numbered images; null: 12 in V1, as the owners "
        "made them, and no such folders in V2",
    )


class KineticsOptions(OwnersOptions):
    """The config section `dataset` for Kinetics-400, 600 or 700 (Kay et al. 2017, Carreira et al. 2018 and 2019).
    `annotations` has the owners' csv files. The classes are sorted by name. docs/datasets.md describes the data set.

    The file of a clip is `<youtube_id>_<start>_<end>` with 6 digits for each time, or `<youtube_id>` if the video has
    only this clip. The file may lie in any folder, because the csv states the class. Videos in a folder
    `replacement_for_corrupted_k400` replace those of the same id.
    """

    kind: Literal["kinetics"]
    version: Literal[400, 600, 700] = Field(description="number of classes")
    files: dict[Literal["train", "val", "test"], str] = Field(
        {"train": "train.csv", "val": "val.csv"},
        min_length=1,
        description="name of the csv of each split; a split that you do not have is left out; the csv of test has no "
        "labels",
    )
    classes: str | None = Field(
        None,
        description="file or URL with all classes in order, one per line; null: the labels of the csv files, sorted",
    )


class Hmdb51Options(OwnersOptions):
    """The config section `dataset` for HMDB51 (Kuehne et al. 2011), by one of its official splits. `annotations` is the
    folder testTrainMulti_7030_splits. The classes are sorted by name. docs/datasets.md describes the data set.

    The class list in the code of TSN has another order, in which two pairs of classes are swapped.
    """

    kind: Literal["hmdb51"]
    official_split: Literal[1, 2, 3] = Field(1, description="number of the official split")


OwnersDatasetOptions = (
    Ucf101Options
    | ActionGenomeOptions
    | ActivityNetOptions
    | CharadesOptions
    | Thumos14Options
    | JsonOptions
    | SomethingSomethingOptions
    | KineticsOptions
    | Hmdb51Options
)
