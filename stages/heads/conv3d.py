"""A baseline head with time and space but without a graph. It has residual 3D blocks, as I3D has.

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
    """Runs residual 3D blocks on the maps features/<backbone>/<tap> and classifies the mean over all frames, rows and
    columns.

    The head stands for the baselines I3D and non-local of the RSTG paper. Deviation: the paper's baselines are whole
    networks on pixels.
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
    """The basic residual block of He et al. (2015), with 3D convolutions.

    Computes relu(x + norm(conv(relu(norm(conv(x)))))) with 3x3x3 convolutions. x is [B, C, T, H, W] for B clips, C =
    `channels` channels, T frames, H rows and W columns.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output of the block for maps x, both [B, C, T, H, W]: B clips, C channels, T frames, H rows and W
        columns.
        """
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
    """Computes x + norm(conv(x)) with one 3D convolution, for maps x [B, C, T, H, W] of B clips. Without the option
    `shortcut`, computes relu(norm(conv(x))). There are C = `channels` channels, T frames, H rows and W columns.

    The block is a control for TRG ("3D convolution after each branch" in table 3 of Zhang et al. 2019, arXiv
    1908.09995). The paper does not state the kernel or whether there is a shortcut. With a shortcut, a new block
    returns its input, because the scale of the norm starts at 0. Without a shortcut, the convolution starts as the
    identity.
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
        """Returns the output of the block for the maps `x`, both [B, C, T, H, W]: B clips, C channels, T frames, H rows
        and W columns.
        """
        y: Tensor = self.norm(self.conv(x))
        return x + y if self.shortcut else y.relu()
