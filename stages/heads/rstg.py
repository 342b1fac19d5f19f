"""The head RSTG, "Recurrent Space-time Graph Neural Networks" (Nicolicioiu, Duta and Leordeanu, NeurIPS 2019).

Shapes: B clips, T frames, V nodes of the grid, D = `dim` channels of a node, C channels of a map, H rows and W columns
of a map.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.heads.clip_graphs import NodeMessages, outputs_of
from kinegraph.stages.heads.grid_graph import pooling, upsampling
from kinegraph.stages.heads.head import Classifier, Head, Spec, TapOptions
from kinegraph.stages.heads.inputs import choose_source
from kinegraph.stages.heads.rstg_graph import RstgBlockOptions, SpaceTimeGraph


class RstgOptions(RstgBlockOptions, TapOptions):
    output: Literal["vec", "map"] = Field("vec", description="RSTG-to-vec or RSTG-to-map")
    readout: Literal["last", "mean"] = Field(
        "last", description="what to-vec reads: the last frame (paper), or the mean"
    )
    residual: bool = Field(
        False,
        description="the graph's result is added to the features, scaled by 0 at the start; to-map always does this",
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class Rstg(Head):
    """A head that runs the graph of RSTG on the cached maps features/<backbone>/<tap> [T, C, H, W] and classifies the
    result. A node of the graph is a cell of the map.

    - `output: vec`: the head classifies the sum of the nodes. With `residual`, the mean of the cached maps is added
      ("final" in the released code).
    - `output: map`: the nodes are added to the maps, and the head classifies the mean of the new maps.
    """

    option_model = RstgOptions

    def __init__(self, spec: Spec, num_classes: int, options: RstgOptions) -> None:
        super().__init__()
        self.source = choose_source(spec, ["maps"], options)
        self.reads = (self.source.maps,)
        _, channels, height, width = spec[self.source.maps]
        self.block: RstgToMap | RstgToVec
        if options.output == "map":
            self.block = RstgToMap(channels, height, width, options)
        else:
            self.block = RstgToVec(channels, height, width, options)
        from_graph = options.output == "vec" and not options.residual
        self.classifier = Classifier(options.dim if from_graph else channels, num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        out = self.block(batch[self.source.maps].to(self.classifier.fc.weight.dtype))
        logits: Tensor = self.classifier(out if out.dim() == 2 else out.mean((1, 3, 4)))
        return logits

    @property
    def class_map_array(self) -> str:
        return self.source.maps if isinstance(self.block, RstgToMap) else ""

    def class_maps(self, batch: Mapping[str, Tensor]) -> Tensor:
        if not self.class_map_array:
            return super().class_maps(batch)
        return self.classifier.maps(self.block(batch[self.source.maps].to(self.classifier.fc.weight.dtype)))

    def node_messages(self, batch: Mapping[str, Tensor]) -> NodeMessages | None:
        """Returns NodeMessages, the strengths of the messages between the cells of each map in the last space stage,
        for the clips of `batch`. With `schedule: time_only`, no messages are sent, and the result is None. `batch` maps
        the name of each array in `reads` to its values.
        """
        space = self.block.graph.space
        if space.silent:
            return None
        with outputs_of(space.sent) as outputs:
            self(batch)
        return space.messages_of(outputs[-1])


class RstgToVec(nn.Module):
    """The block RSTG-to-vec, which reduces maps to one vector per clip with the graph of RSTG. `forward` maps [B, T, C,
    H, W] to [B, D], for nodes of D = `dim` channels.

    The vector is the sum over the nodes of one frame. The option `readout` chooses the nodes of the last frame, or
    their means over all frames. With the option `residual`, the vector is mapped to C channels and the mean of the maps
    is added. The result is then [B, C].
    """

    def __init__(self, channels: int, height: int, width: int, options: RstgOptions) -> None:
        super().__init__()
        self.readout = options.readout
        self.nodes = GridNodes(channels, height, width, options)
        self.graph = SpaceTimeGraph(options)
        self.residual = ScaledResidual(options.dim, channels) if options.residual else None

    def forward(self, maps: Tensor) -> Tensor:
        nodes: Tensor = self.graph(self.nodes(maps))[0]  # [B, T, V, D]
        vector = (nodes[:, -1] if self.readout == "last" else nodes.mean(1)).sum(1)  # [B, D]
        if self.residual is None:
            return vector
        pooled: Tensor = maps.mean((1, 3, 4)) + self.residual(vector)
        return pooled


class RstgToMap(nn.Module):
    """The block RSTG-to-map, which adds the result of the graph of RSTG to maps. `forward` maps [B, T, C, H, W] to the
    same shape. A new block returns its input.

    A node of the graph is a cell of a grid over the map. Its result is added to the map inside the cell. The new maps
    of a frame depend on all frames, as in the released code, because a norm before the addition takes its statistics
    over the whole clip.
    """

    upsampling: Tensor

    def __init__(self, channels: int, height: int, width: int, options: RstgBlockOptions) -> None:
        super().__init__()
        self.nodes = GridNodes(channels, height, width, options)
        self.graph = SpaceTimeGraph(options)
        self.residual = ScaledResidual(options.dim, channels)
        self.register_buffer("upsampling", upsampling(options.scales, height, width).float(), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        nodes, _ = self.graph(self.nodes(maps))
        painted: Tensor = self.residual(self.upsampling @ nodes)  # [B, T, H * W, C]
        return maps + painted.transpose(2, 3).reshape(maps.shape)


class ScaledResidual(nn.Module):
    """Maps the nodes of RSTG to values that are added to the maps of the backbone: s * (LayerNorm(W x) + bias).
    `forward` maps x [B, ..., D] to [B, ..., C], for D = `dim` and C = `channels`.

    W is a linear layer, which is left out if D = C. Each channel has a learned factor s, which starts at 0. LayerNorm
    takes its mean and variance over all values of a clip.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, channels) if dim != channels else nn.Identity()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        scaled: Tensor = self.scale * (F.layer_norm(x, x.shape[1:]) + self.bias)
        return scaled


class GridNodes(nn.Module):
    """Computes the nodes of RSTG from maps. `forward` maps [B, T, C, H, W] to nodes [B, T, V, D], for V nodes with D =
    `dim` channels.

    A node is the mean of the map over one cell of a grid. A linear layer then maps C to D channels, unless C = D. Row v
    of `pooling` [V, H * W] has the weights of the pixels in the mean of node v.
    """

    pooling: Tensor

    def __init__(self, channels: int, height: int, width: int, options: RstgBlockOptions) -> None:
        super().__init__()
        self.register_buffer("pooling", pooling(options.scales, height, width).float(), persistent=False)
        self.project = nn.Linear(channels, options.dim) if channels != options.dim else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        means = maps.flatten(3) @ self.pooling.T  # [B, T, C, V]
        nodes: Tensor = self.project(means.transpose(2, 3))
        return nodes
