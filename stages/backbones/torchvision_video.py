"""Torchvision's S3D and R(2+1)D-18, with torchvision's parameter names."""

from typing import ClassVar

from torchvision.models.video import r2plus1d_18, s3d

from kinegraph.stages.backbones.backbone import Backbone


class S3D(Backbone):
    """S3D, which is Inception with separable convolutions (Xie et al. 2018, arXiv 1712.04851).

    Taps have the names of the paper.
    """

    stages: ClassVar = {
        "stem": ("features.0", "features.1"),
        "conv2": ("features.2", "features.3"),
        "mixed_3b": ("features.4", "features.5"),
        "mixed_3c": ("features.6",),
        "mixed_4b": ("features.7", "features.8"),
        "mixed_4c": ("features.9",),
        "mixed_4d": ("features.10",),
        "mixed_4e": ("features.11",),
        "mixed_4f": ("features.12",),
        "mixed_5b": ("features.13", "features.14"),
        "mixed_5c": ("features.15",),
    }

    def __init__(self) -> None:
        super().__init__()
        self.adopt(s3d())


class R2Plus1D(Backbone):
    """R(2+1)D-18, which is a ResNet-18 of 1x3x3 and 3x1x1 convolutions (Tran et al. 2018, arXiv 1711.11248). `stages`
    maps each tap to the names of torchvision's submodules between the tap before and this tap.
    """

    stages: ClassVar = {
        "stem": ("stem",),
        "res2": ("layer1",),
        "res3": ("layer2",),
        "res4": ("layer3",),
        "res5": ("layer4",),
    }

    def __init__(self) -> None:
        super().__init__()
        self.adopt(r2plus1d_18())
