"""Inception-V3 (Szegedy et al. 2016, arXiv 1512.00567), frame by frame, under torchvision's parameter names."""

from typing import ClassVar

from torch import Tensor
from torchvision.models import Inception3

from stages.backbones.backbone import Backbone, frame_by_frame

# B clips, T frames, C channels, H, W.

BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


class InceptionV3(Backbone):
    """Torchvision's network without its classifiers. Most layers do not pad: maps end short of the frame's edge."""

    stages: ClassVar = {
        "stem": (
            "Conv2d_1a_3x3",
            "Conv2d_2a_3x3",
            "Conv2d_2b_3x3",
            "maxpool1",
            "Conv2d_3b_1x1",
            "Conv2d_4a_3x3",
            "maxpool2",
        ),
        **{f"mixed_{name}": (f"Mixed_{name}",) for name in BLOCKS},
    }

    def __init__(self) -> None:
        super().__init__()
        self.adopt(Inception3(aux_logits=False, init_weights=False))

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """clips [B, 3, T, H, W], normalised -> wanted tap -> [B, C, T, H', W']."""
        return frame_by_frame(self.run, clips)
