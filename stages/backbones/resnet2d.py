"""The ResNets of He et al. 2015 (arXiv 1512.03385), frame by frame, under torchvision's parameter names."""

from typing import ClassVar

from torch import Tensor
from torchvision.models import ResNet

from stages.backbones.backbone import Backbone

# B clips, T frames, C channels, H, W.


class ResNet2D(Backbone):
    """A torchvision ResNet without its classifier, run on every frame of a clip.

    Clips that lie in memory as [B, T, H, W, 3] (decoded frames, permuted) are neither copied nor reordered: the
    network sees them as channels_last.
    """

    stages: ClassVar = {
        "stem": ("conv1", "bn1", "relu", "maxpool"),
        "res2": ("layer1",),
        "res3": ("layer2",),
        "res4": ("layer3",),
        "res5": ("layer4",),
    }

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        for modules in self.stages.values():
            for module in modules:
                self.add_module(module, getattr(resnet, module))

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """clips [B, 3, T, H, W], normalised -> wanted tap -> [B, C, T, H', W']."""
        frames = clips.transpose(1, 2).flatten(0, 1)  # [B*T, 3, H, W]
        num_clips = clips.shape[0]
        return {tap: x.view(num_clips, -1, *x.shape[1:]).transpose(1, 2) for tap, x in self.run(frames).items()}
