"""Defines a small region proposal network (RPN) for the offline demo: five convolutions, then torchvision's feature
pyramid and RPN.

Shapes: F frames, H rows and W columns of a frame.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork

CHANNELS = 32
ANCHOR_SIDES = ((16,), (32,))  # px, for the levels with stride 4 and 8; the demo's things have 14 to 18 px


class TinyPyramid(nn.Module):
    """The backbone of the small proposal network. F images [F, 3, H, W] become a dictionary with two levels of maps:
    "0" [F, 32, H/4, W/4] and "1" [F, 32, H/8, W/8].
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 16, stride=2)
        self.fine = nn.Sequential(_conv(16, CHANNELS, stride=2), _conv(CHANNELS, CHANNELS, stride=1))
        self.coarse = nn.Sequential(_conv(CHANNELS, 48, stride=2), _conv(48, 48, stride=1))
        self.fpn = FeaturePyramidNetwork([CHANNELS, 48], CHANNELS)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.fine(self.stem(images))
        pyramid: dict[str, Tensor] = self.fpn(OrderedDict([("0", fine), ("1", self.coarse(fine))]))
        return pyramid


def tiny_region_proposal_network() -> RegionProposalNetwork:
    """Returns torchvision's region proposal network with one square anchor per cell, untrained."""
    return RegionProposalNetwork(
        AnchorGenerator(ANCHOR_SIDES, ((1.0,),) * len(ANCHOR_SIDES)),
        RPNHead(CHANNELS, num_anchors=1),
        fg_iou_thresh=0.6,
        bg_iou_thresh=0.3,
        batch_size_per_image=64,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 20, "testing": 50},
        post_nms_top_n={"training": 5, "testing": 5},
        nms_thresh=0.5,
    )


def _conv(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
