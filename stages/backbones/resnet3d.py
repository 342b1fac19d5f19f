"""Defines the ResNet-3D family: C2D, I3D, non-local I3D and SlowOnly. A `ResNetLayout` describes each network.

I3D is that of "Videos as Space-Time Region Graphs" (Wang and Gupta 2018, arXiv 1806.01810, Table 1). C2D and non-local
I3D are those of "Non-local Neural Networks" (Wang et al. 2018, arXiv 1711.07971). SlowOnly is the slow pathway of
SlowFast (Feichtenhofer et al. 2019, arXiv 1812.03982). One thing differs from the papers: Table 1 of Wang and Gupta
states a kernel of 3x1x1 for pool2. kinegraph's pool2 has 2x1x1 without padding, as in every released implementation.

Shapes: B clips, T frames, C channels, H rows and W columns of a map.
"""

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.non_local import NonLocal
from kinegraph.stages.backbones.resnet3d_layouts import STAGES, ResNetLayout

EXPANSION = 4


class Bottleneck3D(nn.Module):
    """A residual block: three convolutions with the kernels t x 1 x 1, 1 x 3 x 3 and 1 x 1 x 1, and a shortcut. t is
    `temporal_kernel`.

    The input has `in_channels` channels, the inside of the block has `width` channels, and the output has 4 `width`
    channels. The second convolution divides height and width by `stride`. The submodules have torchvision's names.
    """

    def __init__(self, in_channels: int, width: int, temporal_kernel: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * width
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
        """Runs the block on the maps x [B, C, T, H, W]. Returns [B, 4 width, T, H / stride, W / stride].

        `width` and `stride` are those of the constructor.
        """
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x)).add_(shortcut)
        out: Tensor = self.relu(x)
        return out


class ResidualStage(nn.Module):
    """A sequence of residual blocks. The names of its blocks are "0", "1", ....

    `after` is {name of a block: module that runs directly after this block}. It is empty at first, and a caller may add
    modules.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        for index, block in enumerate(blocks):
            self.add_module(str(index), block)
        self.after = nn.ModuleDict()

    def forward(self, x: Tensor) -> Tensor:
        """Runs all blocks on the maps x [B, C, T, H, W] and returns the maps of the last block, [B, C', T', H', W'].
        There are B clips, C and C' channels, T and T' frames, H and H' rows, W and W' columns.
        """
        for name, block in self.named_children():
            if block is not self.after:
                x = block(x)
                if name in self.after:
                    x = self.after[name](x)
        return x


class ResNet3D(Backbone):
    """A network of the ResNet-3D family without its classifier. The argument `layout` describes the network, such as
    its depth and its kernels. `stages` maps each tap to the submodules that compute it.

    Parameters have names such as conv1, bn1, res2.0.conv1 and res3.after.1.theta.
    """

    stages: ClassVar = {
        "stem": ("conv1", "bn1", "relu", "pool1"),
        "res2": ("res2",),
        "res3": ("pool2", "res3"),
        "res4": ("res4",),
        "res5": ("res5",),
    }

    def __init__(self, layout: ResNetLayout) -> None:
        super().__init__()
        frames, stride = layout.stem_frames, layout.stem_time_stride
        self.conv1 = nn.Conv3d(3, 64, (frames, 7, 7), stride=(stride, 2, 2), padding=(frames // 2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        joined, padding = layout.pool1_time_stride, layout.pool1_padding
        self.pool1 = nn.MaxPool3d((joined, 3, 3), stride=(joined, 2, 2), padding=(0, padding, padding))
        self.pool2 = nn.MaxPool3d((2, 1, 1)) if layout.pool2_time_stride == 2 else nn.Identity()
        strides = (1, 2, 2, layout.res5_stride)
        in_channels, width = 64, 64
        for name, stride in zip(STAGES, strides, strict=True):
            self.add_module(name, _stage(layout, name, in_channels, width, stride))
            in_channels, width = EXPANSION * width, 2 * width


def _stage(layout: ResNetLayout, name: str, in_channels: int, width: int, stride: int) -> ResidualStage:
    first, *others = layout.kernels(name)
    out_channels = EXPANSION * width
    blocks = [Bottleneck3D(in_channels, width, first, stride)]
    blocks += [Bottleneck3D(out_channels, width, kernel, 1) for kernel in others]
    stage = ResidualStage(blocks)
    for index in layout.non_local.get(name, ()):
        stage.after[str(index)] = NonLocal(out_channels, layout.res3_attention_frames if name == "res3" else "all")
    return stage
