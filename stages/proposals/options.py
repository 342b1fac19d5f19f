"""Defines the options of region proposals, with one class for each source of proposals. Imports no torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kinegraph.cache_schemas.crops import Resize
from kinegraph.stages.options import ClassName, StageOptions, need
from kinegraph.stages.proposals.catalogue import entry
from kinegraph.stages.proposals.transformers_detectors import read_detector
from kinegraph.stages.video_files import check_pattern, path_for

Size = tuple[int, int]
Top = Annotated[int, Field(ge=1, le=10_000, description="most boxes per frame, best first")]
Weights = Annotated[str, Field(description="a name that `kinegraph models` lists, a path, or random:<seed>")]
Precision = Annotated[Literal["bf16", "fp16", "fp32"], Field(description="precision in which the network computes")]
ShortSide = Annotated[
    int | None, Field(ge=32, le=8192, description="frames are resized to this short side, px; null: the network's own")
]
HowResized = Annotated[
    Literal["pillow", "swscale"],
    Field(
        description="how frames are resized, bilinear with antialias: by Pillow, as in the network's own code, or by "
        "FFmpeg, which is faster and nearly equal"
    ),
]
# Options that are recorded as a digest or as the network's name.
RECORDED_AS_DIGEST = {"weights", "model", "config", "files"}


class SourceOptions(StageOptions):
    """The base class of the options of all sources of proposals. The properties say what the source needs from the
    pipeline.

    The defaults of the properties fit a source that needs no pixels and has no network.
    """

    every: int = Field(1, ge=1, le=10_000, description="propose on every k-th frame of the clip")

    @property
    def network(self) -> str | None:
        """Returns the name of the proposal network in the catalogue of proposal networks. Returns None for a source
        without such a network, for example files of boxes.
        """
        return None

    @property
    def weights_name(self) -> str:
        """Returns a text that identifies the weights, for messages and for the cache, or "" for a source without
        weights.

        The text is the value of the option `weights`. For the source `detectron2` it is the value of `config`, a blank
        and the value of `weights`. For the source `transformers` it is the value of `model`.
        """
        return ""

    @property
    def takes_numbers(self) -> bool:
        """Returns whether the source needs the number of each frame in the video, from 0."""
        return False

    @property
    def takes_pixels(self) -> bool:
        """Returns whether the source needs the pixels of the frames."""
        return self.network is not None

    @property
    def resizes_by(self) -> Resize:
        """Returns the program that resizes frames for the source: "pillow" or "swscale" (of FFmpeg)."""
        return getattr(self, "resize", "pillow")

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Returns the names of the classes of boxes, in the order of their numbers. The array `proposals/labels` has
        these numbers. Returns None if the source states no classes.
        """
        return None

    @property
    def scores_are(self) -> str:
        """Returns what the score of a box is, in words, such as "objectness logit"."""
        return "objectness logit"

    def input_size(self, height: int, width: int) -> Size:
        """Returns the size (rows, columns) in px to which the pipeline resizes a frame of `height` x `width` px for the
        source. Returns (0, 0) for a source that needs no pixels.
        """
        if self.network is None:
            return 0, 0
        return entry(self.network).at(getattr(self, "short_side", None)).input_size(height, width)

    def file_of(self, video_id: str) -> str | None:
        """Returns the path of the file of boxes for the video `video_id`. Returns None for a source that reads no
        files.
        """
        return None

    def recorded(self) -> dict[str, Any]:
        """Returns {option: value} of the options that the fingerprint of the stage covers. Options that are None are
        left out.

        The fingerprint also covers the digest of the weights, which the caller adds to the dictionary.
        """
        recorded = self.model_dump(mode="json", exclude=RECORDED_AS_DIGEST, exclude_none=True)
        if recorded.get("resize") == "pillow":
            del recorded["resize"]  # earlier versions did not write it, and equal options keep their fingerprint
        if self.network is not None:
            del recorded["source"]
            recorded["network"] = self.network
            if threshold := entry(self.network).score_threshold:
                recorded["score_threshold"] = threshold
        return recorded


class TorchvisionOptions(SourceOptions):
    """The options of the source `torchvision`: the proposal network of torchvision's detector `model`, with the weights
    `weights`.

    `top` is the largest number of boxes per frame. Frames are first resized so that their short side has `short_side`
    px. If `short_side` is not set, they are resized to the size of the network in the catalogue. The network computes
    in `precision`.
    """

    source: Literal["torchvision"]
    model: Literal[
        "fasterrcnn_resnet50_fpn",
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_mobilenet_v3_large_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
    ] = Field("fasterrcnn_resnet50_fpn", description="name of the detector")
    weights: Weights
    top: Top = 50
    short_side: ShortSide = None
    resize: HowResized = "pillow"
    precision: Precision = "fp32"

    @property
    def network(self) -> str:
        return self.model

    @property
    def weights_name(self) -> str:
        return self.weights


class TinyOptions(SourceOptions):
    """The options of the source `tiny`: the small proposal network of the demo, with the weights `weights`.

    `top` is the largest number of boxes per frame. The network computes in `precision`.
    """

    source: Literal["tiny"]
    weights: Weights
    top: Top = 50
    precision: Precision = "fp32"

    @property
    def network(self) -> str:
        return "tiny_rpn"

    @property
    def weights_name(self) -> str:
        return self.weights


class CheckpointOptions(SourceOptions):
    """The options of the source `detectron2-checkpoint`: the proposal network in `weights`, a file of detectron2. The
    network runs in float32 without the package detectron2.

    The network must be an RPN, Faster, Mask or Keypoint R-CNN, with an FPN on a ResNet with bottlenecks, such as
    ResNet-50. If its anchors, pixels or strides differ from those of the official files, use the source `detectron2`.
    kinegraph cannot always recognise such a file, because the file does not contain its config.

    `top` is the largest number of boxes per frame. Frames are first resized so that their short side has `short_side`
    px. If `short_side` is not set, they are resized to the size of the network in the catalogue.
    """

    source: Literal["detectron2-checkpoint"]
    weights: Weights = "rpn_R_50_FPN_1x"
    top: Top = 50
    short_side: ShortSide = None
    resize: HowResized = "pillow"

    @property
    def network(self) -> str:
        return "detectron2_fpn"

    @property
    def weights_name(self) -> str:
        return self.weights


class Detectron2Options(SourceOptions):
    """The options of the source `detectron2`: the proposal network of the installed package detectron2, in float32. The
    fingerprint covers a digest of its config and weights.

    `config` is a config of detectron2's model zoo or a yaml file. `weights` is "zoo" or a path. `top` is the largest
    number of boxes per frame.
    """

    source: Literal["detectron2"]
    config: str = Field(
        "COCO-Detection/rpn_R_50_FPN_1x.yaml",
        description="a config of detectron2's model zoo, or a yaml file of your own",
    )
    weights: str = Field("zoo", description="zoo: the official file of the model zoo's config; else a path")
    top: Top = 50

    @property
    def weights_name(self) -> str:
        return f"{self.config} {self.weights}"

    @property
    def takes_pixels(self) -> bool:
        return True

    def input_size(self, height: int, width: int) -> Size:
        """Returns (`height`, `width`), the size of the frame itself, because detectron2 resizes the frame."""
        return height, width


class TransformersOptions(SourceOptions):
    """The options of the source `transformers`: a detector of the package transformers, with the weights in its folder,
    in float32. The detector is DETR, RT-DETR or RT-DETR v2.

    The score of a box is the probability of its most probable class. The array `proposals/labels` has the number of
    this class. A frame has at most `top` boxes, and at most as many as the network has queries.
    """

    source: Literal["transformers"]
    model: str = Field(
        pattern="^transformers/.+",
        description="`transformers/` and a folder, or a repository in the local cache of the Hugging Face hub",
    )
    top: Top = 50
    nms_threshold: float | None = Field(
        None, gt=0, le=1, description="IoU above which the box with the lower score is dropped; null: no suppression"
    )
    resize: HowResized = "pillow"

    @property
    def weights_name(self) -> str:
        return self.model

    @property
    def takes_pixels(self) -> bool:
        return True

    @property
    def classes(self) -> tuple[str, ...]:
        return read_detector(self.model).classes

    @property
    def scores_are(self) -> str:
        return "probability of the most probable class"

    def input_size(self, height: int, width: int) -> Size:
        return read_detector(self.model).input_size(height, width)

    def recorded(self) -> dict[str, Any]:
        detector = read_detector(self.model)
        return super().recorded() | detector.identity | {"labels": [*detector.classes]}


class FileOptions(SourceOptions):
    """The options of the source `file`: boxes that the user already has, in one json or npz file per video. `files` is
    the pattern of the paths. A frame has at most `top` boxes.

    `box_format`, `units` and `frames` say what the numbers in a file mean. Boxes are clipped to the frame. Boxes that
    overlap each other stay, because non-maximum suppression does not run.

    `labels` are the names of classes. If they are given, the label of each box in a file must be one of these names, or
    its position in `labels`. The array `proposals/labels` then has the positions. Otherwise labels in files are
    ignored.
    """

    source: Literal["file"]
    files: str = Field(
        description="path with {stem} (video_id without its ending) or {video_id}, ending in .json or .npz"
    )
    box_format: Literal["xyxy", "xywh"] = Field("xyxy", description="two corners, or one corner and the size")
    units: Literal["px", "fraction"] = Field(
        "px", description="px: pixels of the rotated frame; fraction: 0..1 of its sides"
    )
    frames: Literal["seconds", "index"] = Field(
        "seconds", description="how the files name frames: by the time since the first frame, or by the index from 0"
    )
    tolerance_seconds: float = Field(
        0.02,
        ge=0,
        le=3600,
        description="largest difference between a frame's time and the time of its boxes",
    )
    labels: tuple[ClassName, ...] | None = Field(
        None, min_length=1, max_length=32_767, description="names of the classes of boxes; null: no classes are stored"
    )
    top: Top = 50

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.labels

    @property
    def takes_numbers(self) -> bool:
        return self.frames == "index"

    def file_of(self, video_id: str) -> str:
        return path_for(self.files, video_id)

    @model_validator(mode="after")
    def _files_can_be_found(self) -> "FileOptions":
        check_pattern("files", self.files, (".json", ".npz"))
        labels = self.labels or ()
        need(len({*labels}) == len(labels), "labels", [*labels], "each name once")
        return self


class GridOptions(SourceOptions):
    """The options of the source `grid`: equal cells of the frame as boxes, row by row, without a network. `cells` is
    (number of rows, number of columns). All scores are 0.
    """

    source: Literal["grid"]
    cells: tuple[Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]] = Field(
        (4, 4), description="number of rows and columns"
    )

    @property
    def top(self) -> int:
        return self.cells[0] * self.cells[1]


class ActionGenomeBoxOptions(SourceOptions):
    """The options of the source `action_genome`: the boxes in the annotations of the data set Action Genome
    (`dataset.kind: action_genome`). Only annotated frames have boxes, so `clips.sampling` must be `annotated`.

    The visible objects of a frame come first, in the order of the file, with the score 1. Then come the persons, with
    the score that the data set states for each person. A frame keeps its first `top` boxes. A frame may have no boxes.
    """

    source: Literal["action_genome"]
    top: Top = 16


ProposalOptions = Annotated[
    TorchvisionOptions
    | TinyOptions
    | CheckpointOptions
    | Detectron2Options
    | TransformersOptions
    | FileOptions
    | GridOptions
    | ActionGenomeBoxOptions,
    Field(discriminator="source"),
]
