"""A baseline head with 3D convolutions over time and space, and without a graph.

Shapes: B clips, T frames, C channels, H rows and W columns of a map.
"""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.backbones.non_local import NonLocal
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.heads.maps import MapHead, MapOptions, TimeFirst
from kinegraph.stages.options import StageOptions


class Conv3dOptions(MapOptions):
    num_blocks: int = Field(3, gt=0, description="blocks in a row")
    non_local_after: int | None = Field(
        None, gt=0, description="number of the block, from 1, that a non-local block follows; null: no non-local block"
    )


class Conv3dHead(MapHead):
    """A head that runs residual blocks of 3D convolutions on the cached maps features/<backbone>/<tap> and classifies
    the mean of the result over frames, rows and columns. One clip of the array is [T frames, C channels, H rows, W
    columns].

    The head stands for the baselines I3D and non-local of the RSTG paper. Deviation: the baselines of the paper are
    whole networks on pixels.
    """

    option_model = Conv3dOptions

    def make_blocks(self, options: Conv3dOptions) -> Iterable[nn.Module]:
        channels, after = self.read_maps.channels, options.non_local_after
        if after is not None and (after > options.num_blocks or min(self.read_maps.height, self.read_maps.width) < 2):
            raise HeadError(
                f"Head conv3d: non_local_after is {after}; there are {options.num_blocks} blocks, on maps of "
                f"{self.read_maps.height} x {self.read_maps.width}, and 2 x 2 is needed."
            )
        for block_number in range(1, options.num_blocks + 1):
            yield TimeFirst(ResidualBlock(channels))
            if block_number == after:
                yield TimeFirst(NonLocal(channels))


class ResidualBlock(nn.Module):
    """The basic residual block of He et al. (2015), with 3D convolutions: relu(x + norm(conv(relu(norm(conv(x)))))).

    `forward` maps x [B, C, T, H, W] to the same shape, for B clips, C = `channels` channels, T frames, H rows and W
    columns. The convolutions are 3x3x3. `norm` is BatchNorm.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm1(self.conv1(x)).relu()
        out: Tensor = (x + self.norm2(self.conv2(inner))).relu()
        return out


class Conv3dBlockOptions(StageOptions):
    kernel: Literal["3x3x3", "3x1x1"] = Field("3x3x3", description="frames x height x width")
    shortcut: bool = Field(
        True,
        description="true: the result is added to the input, and the block starts as the identity; false: "
        "the result replaces the input",
    )


class Conv3dBlock(nn.Module):
    """A block with one 3D convolution: x + norm(conv(x)), or relu(norm(conv(x))) if the option `shortcut` is false.
    `forward` maps x [B, C, T, H, W] to the same shape.

    The block is a baseline for TRG ("3D convolution after each branch" in table 3 of Zhang et al. 2019, arXiv
    1908.09995). The paper does not state the kernel, nor whether there is a shortcut. With a shortcut, a new block
    returns its input.
    """

    def __init__(self, channels: int, options: Conv3dBlockOptions) -> None:
        super().__init__()
        t, h, w = (int(side) for side in options.kernel.split("x"))
        self.conv = nn.Conv3d(channels, channels, (t, h, w), padding=(t // 2, h // 2, w // 2), bias=False)
        self.norm = nn.BatchNorm3d(channels)
        self.shortcut = options.shortcut
        if self.shortcut:
            nn.init.zeros_(self.norm.weight)
        else:
            nn.init.dirac_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return x + y if self.shortcut else y.relu()
