"""Defines CSN and X3D, networks for video whose convolutions in space and time see each channel alone (depthwise).

CSN is the channel-separated network ir-CSN of Tran et al. 2019 (arXiv 1904.02811). X3D is that of Feichtenhofer 2020
(arXiv 2004.04730). Layers are those of pytorchvideo. Parameters have the names of the ResNet-3D family.

Shapes: B clips, T frames, C channels, H rows and W columns of a map.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.resnet3d import ResidualStage


class BlockWidths(NamedTuple):
    """The numbers of channels of a residual block."""

    inner: int  # channels of the depthwise convolution
    out: int  # channels of the output of the block
    squeezed: int = 0  # channels of the narrow layer of the squeeze-and-excitation. 0 means that the block has none.


class SqueezeExcitation(nn.Module):
    """A layer that multiplies each channel by a number from 0 to 1 (Hu et al. 2018, arXiv 1709.01507). Two convolutions
    compute these numbers from the means of all channels. `squeezed` is the number of channels between the two
    convolutions.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv3d(channels, squeezed, 1)
        self.fc2 = nn.Conv3d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies each channel of the maps `x` [B, C, T, H, W] by a number from 0 to 1, which is computed from `x`.
        Returns maps of the same shape. There are B clips, C channels, T frames, H rows and W columns.
        """
        factors: Tensor = self.fc2(self.fc1(x.mean((2, 3, 4), keepdim=True)).relu()).sigmoid()
        return x * factors


class DepthwiseBlock(nn.Module):
    """A residual block: convolutions 1x1x1, 3x3x3 depthwise and 1x1x1, whose output is added to a shortcut.

    The input has `in_channels` channels. `widths` has the other numbers of channels. `stride` is the stride of the
    depthwise convolution in time, rows and columns. After the depthwise convolution come the squeeze-and-excitation, if
    `widths` has one, and `activation`. The submodules have torchvision's names.
    """

    def __init__(
        self, in_channels: int, widths: BlockWidths, stride: tuple[int, int, int], activation: nn.Module
    ) -> None:
        super().__init__()
        inner, out, squeezed = widths
        self.conv1 = nn.Conv3d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = nn.Conv3d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm3d(inner)
        self.se = SqueezeExcitation(inner, squeezed) if squeezed else nn.Identity()
        self.activation = activation
        self.conv3 = nn.Conv3d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != (1, 1, 1) or in_channels != out:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, out, 1, stride, bias=False),
                nn.BatchNorm3d(out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Runs the block on the maps x [B, C, T, H, W]. Returns [B, C', T', H', W'].

        T', H' and W' are T, H and W, divided by the stride and rounded up. C' is the number of output channels.
        """
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.activation(self.se(self.bn2(self.conv2(x))))
        out: Tensor = self.relu(self.bn3(self.conv3(x)).add_(shortcut))
        return out


class CSN(Backbone):
    """A channel-separated network (CSN) without its classifier. `blocks` has the numbers of residual blocks of res2,
    res3, res4 and res5.

    Each of res3, res4 and res5 halves the number of frames.
    """

    stages: ClassVar = {
        "stem": ("conv1", "bn1", "relu", "pool1"),
        **{stage: (stage,) for stage in ("res2", "res3", "res4", "res5")},
    }

    def __init__(self, blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        in_channels, inner = 64, 64
        for name, num_blocks in zip([*self.stages][1:], blocks, strict=True):
            stride = 1 if name == "res2" else 2
            widths = [BlockWidths(inner, 4 * inner)] * num_blocks
            self.add_module(name, _stage(in_channels, widths, (stride,) * 3, nn.ReLU))
            in_channels, inner = 4 * inner, 2 * inner


class X3D(Backbone):
    """An X3D network without its classifier. `blocks` has the numbers of residual blocks of res2, res3, res4 and res5.

    All maps have as many frames as the input. In each of res2 to res5, the blocks 0, 2, 4, ... have a
    squeeze-and-excitation. `conv5` is a 1x1x1 convolution. The output `head` is one more layer on the mean of the map
    of `conv5`.
    """

    stages: ClassVar = {
        "stem": ("conv1_xy", "conv1", "bn1", "relu"),
        **{stage: (stage,) for stage in ("res2", "res3", "res4", "res5")},
        "conv5": ("conv5", "bn5", "relu5"),
    }
    HEAD_CHANNELS: ClassVar = 2048
    WIDTHS: ClassVar = (
        BlockWidths(54, 24, 8),
        BlockWidths(108, 48, 8),
        BlockWidths(216, 96, 16),
        BlockWidths(432, 192, 32),
    )

    def __init__(self, blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1_xy = nn.Conv3d(3, 24, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.conv1 = nn.Conv3d(24, 24, (5, 1, 1), padding=(2, 0, 0), groups=24, bias=False)
        self.bn1 = nn.BatchNorm3d(24)
        self.relu = nn.ReLU(inplace=True)
        in_channels = 24
        for name, num_blocks, widths in zip([*self.stages][1:-1], blocks, self.WIDTHS, strict=True):
            each = [widths if index % 2 == 0 else widths._replace(squeezed=0) for index in range(num_blocks)]
            self.add_module(name, _stage(in_channels, each, (1, 2, 2), nn.SiLU))
            in_channels = widths.out
        self.conv5 = nn.Conv3d(in_channels, widths.inner, 1, bias=False)
        self.bn5 = nn.BatchNorm3d(widths.inner)
        self.relu5 = nn.ReLU(inplace=True)
        self.lin5 = nn.Conv3d(widths.inner, self.HEAD_CHANNELS, 1, bias=False)

    def cut(self, taps: Sequence[str]) -> None:
        super().cut(taps)
        if not self.wants_head and hasattr(self, "lin5"):
            del self.lin5

    def head_of(self, x: Tensor) -> Tensor:
        """Returns the output `head` of X3D, [B, 2048] for B clips. `x` [B, 432, T, H, W] is the map of `conv5`."""
        pooled: Tensor = self.lin5(x.mean((2, 3, 4), keepdim=True))
        return pooled.relu().flatten(1)


def _stage(
    in_channels: int, widths: Sequence[BlockWidths], stride: tuple[int, int, int], activation: type[nn.Module]
) -> ResidualStage:
    """Returns a stage with one block for each of `widths`. Only its first block has the stride `stride`."""
    inputs = [in_channels, *(each.out for each in widths)]
    strides = [stride, *[(1, 1, 1)] * (len(widths) - 1)]
    return ResidualStage(DepthwiseBlock(*args, activation()) for args in zip(inputs, widths, strides, strict=False))
