"""A baseline head that uses attention but no objects: non-local blocks (Wang et al. 2018, arXiv 1711.07971).

Shapes: T frames, C channels, H rows and W columns of a map.
"""

from collections.abc import Iterable

from pydantic import Field
from torch import nn

from kinegraph.stages.backbones.non_local import NonLocal
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.heads.maps import MapHead, MapOptions, TimeFirst


class NonLocalOptions(MapOptions):
    num_blocks: int = Field(1, gt=0, description="blocks in a row")


class NonLocalHead(MapHead):
    """A head that runs non-local blocks on the cached maps features/<backbone>/<tap> and classifies the mean of the
    result over frames and positions. One clip of the array is [T frames, C channels, H rows, W columns].

    Deviation: in the paper, the blocks are inside the stages res3 and res4 of the backbone. In this head, they run
    after the cached tap.
    """

    option_model = NonLocalOptions

    def make_blocks(self, options: NonLocalOptions) -> Iterable[nn.Module]:
        channels, height, width = self.read_maps.channels, self.read_maps.height, self.read_maps.width
        if min(height, width) < 2 or channels < 2:
            raise HeadError(
                f"Head non_local pools maps 1x2x2 and halves channels; {self.source.maps} gives it "
                f"{channels} x {height} x {width}, at least 2 x 2 x 2 is needed."
            )
        return (TimeFirst(NonLocal(channels)) for _ in range(options.num_blocks))
