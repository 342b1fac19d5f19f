"""Defines the ResNets of He et al. 2015 (arXiv 1512.03385), run on each frame of a clip. Parameters have torchvision's
names.
"""

from typing import ClassVar

from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone, frame_by_frame

# B clips, T frames, C channels, H, W.


class ResNet2D(Backbone):
    """The torchvision ResNet `resnet` without its classifier, run on every frame of a clip.

    `stages` maps each tap to the submodules of the ResNet that compute it.
    """

    stages: ClassVar = {
        "stem": ("conv1", "bn1", "relu", "maxpool"),
        "res2": ("layer1",),
        "res3": ("layer2",),
        "res4": ("layer3",),
        "res5": ("layer4",),
    }

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.adopt(resnet)

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Runs the network on each frame of B clips. Returns {tap: maps [B, C, T, H', W']} for each wanted tap (a named
        layer).

        `clips` are normalised pixels [B, 3, T, H, W].
        """
        return frame_by_frame(self.run, clips)
