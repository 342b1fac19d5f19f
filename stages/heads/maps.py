"""Has the parts that heads on cached maps share: their options, a reader of maps, and a base class.

Shapes: B clips, T frames, D cached channels, C = `dim` channels, H rows and W columns of a map.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.heads.clip_graphs import ClipGraph, FrameGraphs, Links, outputs_of
from kinegraph.stages.heads.head import Classifier, FeatureSource, Head, Spec, TapOptions
from kinegraph.stages.heads.inputs import choose_source, project_maps


class MapOptions(TapOptions):
    dim: int | None = Field(
        None, gt=0, description="width of a 1x1 convolution on the cached maps; null: no convolution"
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class MapReader(nn.Module):
    """Reads the cached maps of one tap from a batch. `forward` returns [B, T, C, H, W].

    - `spec`: {name of the array: shape of one clip} of the cache.
    - `source`: the tap.
    - `dim`: C, the number of channels to which a learned 1x1 convolution maps the cached channels. If `dim` is None,
      the maps are not changed.
    """

    def __init__(self, spec: Spec, source: FeatureSource, dim: int | None) -> None:
        super().__init__()
        self.array = source.maps
        self.num_frames, cached, self.height, self.width = spec[source.maps]
        self.channels = dim or cached
        self.project = nn.Linear(cached, dim) if dim else nn.Identity()

    def forward(self, batch: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        return project_maps(self.project, batch[self.array].to(dtype))


class MapHead(Head):
    """The base class of heads that run blocks on cached maps, one after the other, and classify the mean of the result
    over frames and positions.

    A subclass makes the blocks in `make_blocks`. A block maps [B, T, C, H, W] to the same shape.
    """

    def __init__(self, spec: Spec, num_classes: int, options: MapOptions) -> None:
        super().__init__()
        self.source = choose_source(spec, ["maps"], options)
        self.reads = (self.source.maps,)
        self.read_maps = MapReader(spec, self.source, options.dim)
        self.blocks = nn.Sequential(*self.make_blocks(options))
        self.classifier = Classifier(self.read_maps.channels, num_classes, options.dropout)

    def make_blocks(self, options: Any) -> Iterable[nn.Module]:
        """Returns the blocks of the head, in the order in which they run. `options` are the options of the head. A
        subclass implements this method.

        A block maps [B, T, C, H, W] to the same shape. Raises HeadError if the maps are too small for the blocks.
        """
        raise NotImplementedError

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.classifier(self._after_blocks(batch).mean((1, 3, 4)))
        return logits

    def _after_blocks(self, batch: Mapping[str, Tensor]) -> Tensor:
        maps: Tensor = self.blocks(self.read_maps(batch, self.classifier.fc.weight.dtype))  # [B, T, C, H, W]
        return maps

    @property
    def class_map_array(self) -> str:
        return self.source.maps

    def class_maps(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.classifier.maps(self._after_blocks(batch))

    @property
    def graph_links(self) -> Mapping[str, Links]:
        """Returns {name of a graph: "frames"} for each graph in the blocks, such as {"block1_graph1": "frames"}. The
        nodes of these graphs are frames.
        """
        counts = [sum(graphs.num_graphs for graphs in _frame_graphs(block)) for block in self.blocks]
        return {
            f"block{block}_graph{number}": "frames"
            for block, count in enumerate(counts, 1)
            for number in range(1, count + 1)
        }

    def clip_graphs(self, batch: Mapping[str, Tensor]) -> dict[str, ClipGraph]:
        with outputs_of(*_frame_graphs(self.blocks)) as outputs:
            self(batch)
        matrices = [matrix for graphs in outputs for matrix in graphs.unbind(1)]  # [B, T, T] each
        return {
            name: ClipGraph(weights=matrix.float()[:, :, None, :, None], links="frames")
            for name, matrix in zip(self.graph_links, matrices, strict=True)
        }


def _frame_graphs(blocks: nn.Module) -> list[FrameGraphs]:
    """Returns the FrameGraphs modules in `blocks`, through which the blocks pass their graphs, in the order in which
    the modules run.
    """
    return [module for module in blocks.modules() if isinstance(module, FrameGraphs)]


class TimeFirst(nn.Module):
    """Wraps a module whose maps have the channels before the frames. `forward` maps [B, T, C, H, W] to the same shape.
    `block` is called with [B, C, T, H, W].
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.block(x.transpose(1, 2))
        return output.transpose(1, 2)


def each_frame(network: nn.Module, clips: Tensor) -> Tensor:
    """Runs `network`, which takes single frames [B*T, C, H, W], on every frame of `clips` [B, T, C, H, W]. Returns the
    outputs as [B, T, ...]. The inputs have C channels, H rows and W columns.
    """
    frames: Tensor = network(clips.flatten(0, 1))
    return frames.view(clips.shape[:2] + frames.shape[1:])
