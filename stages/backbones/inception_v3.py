"""Defines Inception-V3 (Szegedy et al. 2016, arXiv 1512.00567), run on each frame of a clip. Parameters have
torchvision's names.
"""

from typing import ClassVar

from torch import Tensor

from kinegraph.stages.backbones.backbone import Backbone, frame_by_frame

# B clips, T frames, C channels, H, W.

# Tap -> channels of each branch of the tap's Inception block, in the order in which the branches are joined. A branch
# that splits at its end, as in 7b, is listed as two halves. The last branch of 6a and 7a is the pooled input.
BRANCHES: dict[str, tuple[int, ...]] = {
    "mixed_5b": (64, 64, 96, 32),
    "mixed_5c": (64, 64, 96, 64),
    "mixed_5d": (64, 64, 96, 64),
    "mixed_6a": (384, 96, 288),
    **{f"mixed_6{letter}": (192, 192, 192, 192) for letter in "bcde"},
    "mixed_7a": (320, 192, 768),
    "mixed_7b": (320, 768, 768, 192),
    "mixed_7c": (320, 768, 768, 192),
}


class InceptionV3(Backbone):
    """Torchvision's Inception-V3 without its classifiers. `stages` maps each tap to the submodules that compute it.

    Most layers have no padding, so the cells of a map do not reach the edge of the frame.
    """

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
        **{tap: (tap.capitalize(),) for tap in BRANCHES},
    }

    def __init__(self) -> None:
        from torchvision.models import Inception3  # commands that read BRANCHES alone start without torchvision

        super().__init__()
        self.adopt(Inception3(aux_logits=False, init_weights=False))

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Runs the network on each frame of B clips. Returns {tap: maps [B, C, T, H', W']} for each wanted tap (a named
        layer).

        `clips` are normalised pixels [B, 3, T, H, W].
        """
        return frame_by_frame(self.run, clips)
