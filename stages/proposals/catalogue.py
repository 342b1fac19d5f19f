"""Which proposal networks there are, and what each expects. Imports no torch: plans are made from this."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from stages.weights.sources import IMAGENET_MEAN, IMAGENET_STD, KINETICS_MEAN, KINETICS_STD, WeightSource


@dataclass(frozen=True, kw_only=True)
class ProposalEntry:
    """A proposal network: frames are resized to `short_side` px, at most `max_side`; RGB in 0..1, `mean`, `std`."""

    name: str
    short_side: int
    max_side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: Mapping[str, WeightSource] = field(default_factory=dict)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) px to which a frame is resized before the network, rounded down as torchvision does."""
        scale = min(self.short_side / min(height, width), self.max_side / max(height, width))
        return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))


def _torchvision(name: str, file_name: str, short_side: int = 800, max_side: int = 1333) -> ProposalEntry:
    source = WeightSource(
        url=f"https://download.pytorch.org/models/{file_name}",
        file_name=file_name,
        sha256=file_name.rpartition("-")[2].removesuffix(".pth"),
        licence="BSD-3-Clause (torchvision), trained on COCO 2017",
    )
    return ProposalEntry(
        name=name,
        short_side=short_side,
        max_side=max_side,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        weights={"coco_v1": source},
    )


_RESNET50, _RESNET50_V2 = "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"
_MOBILENET, _MOBILENET_320 = "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"

_TINY_RPN = ProposalEntry(
    name="tiny_rpn",
    short_side=96,
    max_side=160,
    mean=KINETICS_MEAN,
    std=KINETICS_STD,
    weights={
        "shipped": WeightSource(
            path="proposals/shipped/tiny_rpn.safetensors",
            file_name="tiny_rpn.safetensors",
            sha256="de1d4032a1dbb1344622dcbf7122b58346efac56a35e73fde86fed0eca376ee5",
            licence="as this package; made by stages.training.tiny_networks",
        )
    },
)

PROPOSALS: dict[str, ProposalEntry] = {
    _RESNET50: _torchvision(_RESNET50, "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"),
    _RESNET50_V2: _torchvision(_RESNET50_V2, "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth"),
    _MOBILENET: _torchvision(_MOBILENET, "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth"),
    _MOBILENET_320: _torchvision(_MOBILENET_320, "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", 320, 640),
    "tiny_rpn": _TINY_RPN,
}


def entry(name: str) -> ProposalEntry:
    """The entry of this name. Raises ValueError, listing the names, if there is none."""
    if name not in PROPOSALS:
        raise ValueError(f"no proposal network {name!r}; there are {', '.join(PROPOSALS)}")
    return PROPOSALS[name]
