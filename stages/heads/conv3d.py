"""The control with time and space in one network but without a graph: residual 3D blocks, as those of I3D.

B clips, T frames, C channels, H, W.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from stages.backbones.non_local import NonLocal
from stages.heads.head import Classifier, Head, HeadError, Spec
from stages.heads.inputs import choose_source
from stages.heads.maps import MapOptions, MapReader


class Conv3dOptions(MapOptions):
    num_blocks: int = Field(3, gt=0, description="blocks in a row")
    non_local_after: int | None = Field(
        None, gt=0, description="a non-local block after this one, counted from 1; null: none"
    )


class Conv3dHead(Head):
    """Blocks in a row on features/<backbone>/<tap> [T, C, H, W], averaged over time and space.

    For the baselines I3D and non-local of the RSTG paper. Deviation: theirs are whole networks on pixels.
    """

    option_model = Conv3dOptions

    def __init__(self, spec: Spec, num_classes: int, options: Conv3dOptions) -> None:
        super().__init__()
        self.source = choose_source(spec, ["maps"], options)
        self.reads = (self.source.maps,)
        self.read_maps = MapReader(spec, self.source, options.dim)
        channels, after = self.read_maps.channels, options.non_local_after
        if after is not None and (after > options.num_blocks or min(self.read_maps.height, self.read_maps.width) < 2):
            raise HeadError(
                f"Head conv3d: non_local_after is {after}; there are {options.num_blocks} blocks, on maps of "
                f"{self.read_maps.height} x {self.read_maps.width}, and 2 x 2 is needed."
            )
        self.blocks = nn.Sequential()
        for number in range(1, options.num_blocks + 1):
            self.blocks.append(ResidualBlock(channels))
            if number == after:
                self.blocks.append(NonLocal(channels))
        self.classifier = Classifier(channels, num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        maps = self.read_maps(batch, self.classifier.fc.weight.dtype)  # [B, T, C, H, W]
        maps = self.blocks(maps.transpose(1, 2))  # [B, C, T, H, W]
        logits: Tensor = self.classifier(maps.mean((2, 3, 4)))
        return logits


class ResidualBlock(nn.Module):
    """x + norm(3x3x3 (relu(norm(3x3x3 x)))), then ReLU (He et al. 2015, the basic block, in 3D)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> the same shape."""
        inner = self.norm1(self.conv1(x)).relu()
        out: Tensor = (x + self.norm2(self.conv2(inner))).relu()
        return out
