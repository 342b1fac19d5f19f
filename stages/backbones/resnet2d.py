"""The ResNets of He et al. 2015 (arXiv 1512.03385) on each frame of a clip, with torchvision's parameter names."""

from typing import ClassVar

from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone, frame_by_frame

# B clips, T frames, C channels, H, W.


class ResNet2D(Backbone):
    """A torchvision ResNet without its classifier. The network runs on every frame of a clip.

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
        """Returns tap -> maps [B, C, T, H', W'] for the wanted taps. `clips` are normalised pixels [B, 3, T, H, W].

        B is the number of clips, C of channels, T of frames. A frame has H rows and W columns, a map H' rows and W'
        columns.
        """
        return frame_by_frame(self.run, clips)
