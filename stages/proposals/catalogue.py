"""Lists the proposal networks, with their inputs and weights. Imports no torch, because plans are made from the
list.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from kinegraph.stages.weights.sources import IMAGENET_MEAN, IMAGENET_STD, KINETICS_MEAN, KINETICS_STD, WeightSource

COUNTED_FRAME = 240, 320  # (height, width) in px of the frame for which GMACs are counted


@dataclass(frozen=True, kw_only=True)
class ProposalEntry:
    """The description of a proposal network in the catalogue: its input, its named weights and its size."""

    name: str
    source: str  # the value of the option `proposals.source` that runs the network
    # `num_params`, `gmacs`: the number of parameters, and the billions of multiplications of convolutions for one frame
    # of the size COUNTED_FRAME. The second stage of a detector does not count.
    num_params: int
    gmacs: float
    # `short_side`, `max_side`: a frame is resized to `short_side` px on its short side. If its long side would then
    # have more than `max_side` px, the frame is resized to `max_side` px on its long side.
    short_side: int
    max_side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # "rgb" for an input of RGB in 0..1, "bgr_255" for BGR in 0..255. `mean` and `std` belong to this input.
    channels: Literal["rgb", "bgr_255"] = "rgb"
    # How the sides are rounded, "down" as in torchvision or "half_up" as in detectron2
    rounding: Literal["down", "half_up"] = "down"
    score_threshold: float = 0.0  # a box is dropped if the sigmoid of its score is lower
    # {name: WeightSource}, the weights files that have a name
    weights: Mapping[str, WeightSource] = field(default_factory=dict)

    def at(self, short_side: int | None) -> "ProposalEntry":
        """Returns a copy of this entry for frames that are resized to `short_side` px on their short side. `max_side`
        changes in proportion. If `short_side` is None, returns the entry unchanged.
        """
        if short_side is None:
            return self
        return replace(self, short_side=short_side, max_side=round(self.max_side * short_side / self.short_side))

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size (rows, columns) in px to which the caller must resize a frame of `height` x `width` px."""
        if self.rounding == "half_up":
            return self._half_up(height, width)
        scale = min(self.short_side / min(height, width), self.max_side / max(height, width))
        return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))

    def _half_up(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size (rows, columns) in px to which a frame of `height` x `width` px is resized, rounded as in
        detectron2's ResizeShortestEdge.
        """
        # detectron2's order of multiplications decides how a side that ends in .5 is rounded
        scale = self.short_side / min(height, width)
        new_height, new_width = (
            (self.short_side, scale * width) if height < width else (scale * height, self.short_side)
        )
        if (longest := max(new_height, new_width)) > self.max_side:
            new_height, new_width = (side * (self.max_side / longest) for side in (new_height, new_width))
        return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def _torchvision(name: str, file_name: str, num_params: int, gmacs: float) -> ProposalEntry:
    source = WeightSource(
        url=f"https://download.pytorch.org/models/{file_name}",
        file_name=file_name,
        sha256=file_name.rpartition("-")[2].removesuffix(".pth"),
        licence="BSD-3-Clause (torchvision), trained on COCO 2017",
    )
    return ProposalEntry(
        name=name,
        source="torchvision",
        num_params=num_params,
        gmacs=gmacs,
        short_side=800,
        max_side=1333,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        weights={"coco_v1": source},
    )


_RESNET50, _RESNET50_V2 = "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"
_MOBILENET, _MOBILENET_320 = "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"

_TORCHVISION = (
    _torchvision(_RESNET50, "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 27_446_351, 163.222),
    _torchvision(_RESNET50_V2, "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", 28_038_479, 205.967),
    replace(
        _torchvision(_MOBILENET, "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth", 5_048_699, 6.105),
        score_threshold=0.05,
    ),
    replace(
        _torchvision(_MOBILENET_320, "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", 5_048_699, 1.006),
        short_side=320,
        max_side=640,
        score_threshold=0.05,
    ),
)

_TINY_RPN = ProposalEntry(
    name="tiny_rpn",
    source="tiny",
    num_params=79_701,
    gmacs=0.038,
    short_side=96,
    max_side=160,
    mean=KINETICS_MEAN,
    std=KINETICS_STD,
    weights={
        "shipped": WeightSource(
            path="proposals/shipped/tiny_rpn.safetensors",
            file_name="tiny_rpn.safetensors",
            sha256="de1d4032a1dbb1344622dcbf7122b58346efac56a35e73fde86fed0eca376ee5",
            licence="as this package; made by kinegraph.stages.generated.tiny_networks",
        )
    },
)

_DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection"


def _model_zoo(name: str, file: str) -> WeightSource:
    return WeightSource(
        url=f"{_DETECTRON2_URL}/{name}/{file}",
        file_name=f"{name}-{Path(file).name}",
        sha256="",  # no digest is published
        licence="CC BY-SA 3.0 (detectron2's model zoo), trained on COCO 2017",
    )


_DETECTRON2_FPN = ProposalEntry(
    name="detectron2_fpn",
    source="detectron2-checkpoint",
    num_params=27_446_351,  # the number with a ResNet-50
    gmacs=159.211,
    short_side=800,
    max_side=1333,
    mean=(103.530, 116.280, 123.675),
    std=(1.0, 1.0, 1.0),
    channels="bgr_255",
    rounding="half_up",
    weights={
        name: _model_zoo(name, file)
        for name, file in {
            "rpn_R_50_FPN_1x": "137258492/model_final_02ce48.pkl",
            "faster_rcnn_R_50_FPN_1x": "137257794/model_final_b275ba.pkl",
            "faster_rcnn_R_50_FPN_3x": "137849458/model_final_280758.pkl",
            "faster_rcnn_R_101_FPN_3x": "137851257/model_final_f6e8b1.pkl",
        }.items()
    },
)

PROPOSALS: dict[str, ProposalEntry] = {known.name: known for known in (*_TORCHVISION, _DETECTRON2_FPN, _TINY_RPN)}


def entry(name: str) -> ProposalEntry:
    """Returns the ProposalEntry of the network `name`, which describes the input, the named weights and the size of the
    network.

    Raises ValueError if there is no such network. The message lists the names of all networks.
    """
    if name not in PROPOSALS:
        raise ValueError(f"no proposal network {name!r}; there are {', '.join(PROPOSALS)}")
    return PROPOSALS[name]
