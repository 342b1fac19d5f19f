"""ResNet-50 I3D as in "Videos as Space-Time Region Graphs" (Wang and Gupta 2018, arXiv 1806.01810, Table 1).

The table reads as 3x1x1 in every block; only the alternating pattern of the authors' non-local network code
(arXiv 1711.07971) gives the published 28.0 M parameters and 153 GMAC. It also gives pool2 as 3x1x1; every released
implementation pools 2x1x1 without padding, and so do we.
"""

from typing import ClassVar

from torch import Tensor, nn

from stages.backbones.backbone import Backbone

# B clips, T frames, C channels, H, W.

TEMPORAL_KERNELS = {"res2": (3, 3, 3), "res3": (3, 1, 3, 1), "res4": (3, 1, 3, 1, 3, 1), "res5": (1, 3, 1)}


class Bottleneck3D(nn.Module):
    """t x 1 x 1, 1 x 3 x 3 (with the stride), 1 x 1 x 1, added to the shortcut; submodules named as torchvision's."""

    def __init__(self, in_channels: int, width: int, temporal_kernel: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv3d(
            in_channels, width, (temporal_kernel, 1, 1), padding=(temporal_kernel // 2, 0, 0), bias=False
        )
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride=(1, stride, stride), bias=False),
                nn.BatchNorm3d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, 4 width, T, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x)).add_(shortcut)
        out: Tensor = self.relu(x)
        return out


class I3DResNet50(Backbone):
    """The network without its classifier. T is halved before res3; res5 has res4's size unless `res5_stride=2`."""

    stages: ClassVar = {
        "stem": ("conv1", "bn1", "relu", "pool1"),
        "res2": ("res2",),
        "res3": ("pool2", "res3"),
        "res4": ("res4",),
        "res5": ("res5",),
    }

    def __init__(self, *, res5_stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, (5, 7, 7), stride=(1, 2, 2), padding=(2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.res2 = _stage("res2", 64, 64, stride=1)
        self.pool2 = nn.MaxPool3d((2, 1, 1), stride=(2, 1, 1))
        self.res3 = _stage("res3", 256, 128, stride=2)
        self.res4 = _stage("res4", 512, 256, stride=2)
        self.res5 = _stage("res5", 1024, 512, stride=res5_stride)


def _stage(name: str, in_channels: int, width: int, *, stride: int) -> nn.Sequential:
    first, *others = TEMPORAL_KERNELS[name]
    blocks = [Bottleneck3D(in_channels, width, first, stride)]
    blocks += [Bottleneck3D(4 * width, width, kernel, 1) for kernel in others]
    return nn.Sequential(*blocks)
