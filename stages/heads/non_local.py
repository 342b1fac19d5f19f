"""The control with attention but without objects: non-local blocks (Wang et al. 2018, arXiv 1711.07971).

B clips, T frames, C channels, H, W.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from stages.backbones.non_local import NonLocal
from stages.heads.head import Classifier, Head, HeadError, Spec
from stages.heads.inputs import choose_source
from stages.heads.maps import MapOptions, MapReader


class NonLocalOptions(MapOptions):
    num_blocks: int = Field(1, gt=0, description="blocks in a row")


class NonLocalHead(Head):
    """Blocks in a row on features/<backbone>/<tap> [T, C, H, W], averaged over time and space.

    Deviation: the paper puts its blocks inside res3 and res4; here they stand behind the cached tap.
    """

    option_model = NonLocalOptions

    def __init__(self, spec: Spec, num_classes: int, options: NonLocalOptions) -> None:
        super().__init__()
        self.source = choose_source(spec, ["maps"], options)
        self.reads = (self.source.maps,)
        self.read_maps = MapReader(spec, self.source, options.dim)
        channels, height, width = self.read_maps.channels, self.read_maps.height, self.read_maps.width
        if min(height, width) < 2 or channels < 2:
            raise HeadError(
                f"Head non_local pools maps 1x2x2 and halves channels; {self.source.maps} gives it "
                f"{channels} x {height} x {width}, at least 2 x 2 x 2 is needed."
            )
        self.blocks = nn.Sequential(*(NonLocal(channels) for _ in range(options.num_blocks)))
        self.classifier = Classifier(channels, num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        maps = self.read_maps(batch, self.classifier.fc.weight.dtype)  # [B, T, C, H, W]
        maps = self.blocks(maps.transpose(1, 2))  # [B, C, T, H, W]
        logits: Tensor = self.classifier(maps.mean((2, 3, 4)))
        return logits
