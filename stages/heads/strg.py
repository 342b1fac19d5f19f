"""The head STRG, "Videos as Space-Time Region Graphs" (Wang and Gupta, ECCV 2018). A region is the part of a frame
inside a box, and a node of a graph is a region.

Shapes: B clips, T frames, N regions of a frame, V = T * N nodes of a clip, D cached channels, C = `dim` channels.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.heads.clip_graphs import ClipGraph, Links, masked_graph, outputs_of
from kinegraph.stages.heads.graphs import (
    between_all,
    collect_all,
    collect_next,
    collect_previous,
    iou_graphs,
    similarity_graph,
)
from kinegraph.stages.heads.head import Classifier, Head, HeadError, Spec
from kinegraph.stages.heads.inputs import Regions, masked_mean
from kinegraph.stages.heads.projected_regions import ProjectedRegionOptions, ProjectedRegions

Collect = Callable[[Tensor], Tensor]  # nodes X [B, T, N, C] -> G X, of the same shape

# graphs that are summed inside the layers of each branch; branches are summed at the end
BRANCHES: dict[str, tuple[tuple[str, ...], ...]] = {
    "similarity": (("similarity",),),
    "spatial_temporal": (("front", "back"),),
    "joint": (("similarity",), ("front", "back")),
    "fused": (("similarity", "front", "back"),),
}


class StrgOptions(ProjectedRegionOptions):
    graphs: Literal["joint", "similarity", "spatial_temporal", "fused"] = Field(
        "joint",
        description="joint: one branch per kind of graph, summed; fused: all three graphs in each layer; "
        "spatial_temporal: no similarity graph, and the two options of similarities have no "
        "effect",
    )
    activate_projection: bool = Field(
        False, description="with regions_from: maps, BatchNorm and ReLU behind the projection"
    )
    num_layers: int = Field(3, gt=0, description="graph convolutions per branch")
    scale_similarity: bool = Field(
        False, description="similarities are divided by sqrt(dim), which the paper does not do"
    )
    similarity_of: Literal["first", "each"] = Field(
        "first", description="features that are compared: those before the first layer, or the input of each layer"
    )
    share_g: bool = Field(True, description="all branches share one transform g")
    residual: Literal["transformed", "raw"] = Field(
        "transformed", description="what the first layer's residual adds: g(x), or x as in eq. 6"
    )
    activate_last: bool = Field(True, description="LayerNorm and ReLU after the last layer too")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class Strg(Head):
    """A head that runs graph convolutions over all regions of a clip. It classifies the mean of the regions and the
    mean of the frame features, joined to one vector (STRG paper, fig. 2).

    Before the graphs, a projection reduces the channels, by default from 2048 to 512. With `regions_from: maps`, it
    runs on the maps before RoIAlign, as in the paper. With `regions_from: cached`, it runs on the cached regions, which
    is a deviation. With `dim: null`, there is no projection.
    """

    option_model = StrgOptions

    def __init__(self, spec: Spec, num_classes: int, options: StrgOptions) -> None:
        super().__init__()
        if options.activate_projection and (options.regions_from == "cached" or options.dim is None):
            raise HeadError("Head strg: activate_projection is true; it needs `regions_from: maps` and a `dim`.")
        self.read_regions = ProjectedRegions(spec, options, boxes=options.graphs != "similarity", with_mean=True)
        self.source, self.reads = self.read_regions.source, self.read_regions.reads
        dim = self.read_regions.channels
        self.project = self.read_regions.make_project()
        self.activate = nn.Sequential(nn.BatchNorm2d(dim), nn.ReLU()) if options.activate_projection else None
        self.graph = RegionGraph(dim, options)
        self.classifier = Classifier(2 * dim, num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        regions, mean = self.read_regions(batch, self.classifier.fc.weight.dtype, self.project, self.activate)
        assert mean is not None
        nodes = self.graph(regions.features, regions)  # [B, T, N, C]
        logits: Tensor = self.classifier(torch.cat([masked_mean(nodes, regions.valid), mean], 1))  # [B, 2C]
        return logits

    def boxes_read(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.read_regions.proposals.read(batch)

    @property
    def graph_links(self) -> Mapping[str, Links]:
        """Returns {name of a graph: which boxes the graph links}. The value of "similarity" is "boxes", because it
        links any two boxes of a clip. The value of "front" and of "back" is "boxes of neighbouring frames".

        With `similarity_of: each`, each layer has its own similarity graph: "similarity" in the first layer,
        "similarity_2" in the second, and so on.
        """
        return self.graph.links

    def clip_graphs(self, batch: Mapping[str, Tensor]) -> dict[str, ClipGraph]:
        regions, _ = self.read_regions(batch, self.classifier.fc.weight.dtype, self.project, self.activate)
        graphs, proposals = self.graph.matrices(regions.features, regions), self.read_regions.proposals
        frames = proposals.frames(batch)
        links = self.graph_links.items()
        return {
            name: masked_graph(matrix, regions.valid, kind, proposals.step, frames)
            for (name, kind), matrix in zip(links, graphs, strict=True)
        }


class RegionGraph(nn.Module):
    """The graph network of STRG. It runs one or two branches on the features of regions and adds up their results.
    `forward` maps x [B, T, N, C] to the same shape, for N regions of a frame and C = `dim`.

    A branch is a linear layer g and a series of graph convolutions. With `graphs: joint`, one branch has the similarity
    graph, and the other branch has the graphs of overlapping boxes.

    Regions that are not valid do not change the others. With `graphs: joint`, three layers per branch, no bias and one
    g for both branches, there are 12 C^2 + 12 C parameters.
    """

    def __init__(self, dim: int, options: StrgOptions) -> None:
        super().__init__()
        branches = BRANCHES[options.graphs]
        self.follows_boxes = options.graphs != "similarity"
        self.raw_residual, self.anew = options.residual == "raw", options.similarity_of == "each"
        self.affinity = Affinity(dim, options.scale_similarity) if options.graphs != "spatial_temporal" else None
        self.g = nn.ModuleList(_small_linear(dim) for _ in branches[: 1 if options.share_g else None])
        self.branches = nn.ModuleList(Branch(dim, graphs, options) for graphs in branches)
        self.links: dict[str, Links] = {}
        if self.affinity is not None:
            later = range(2, options.num_layers + 1) if self.anew else ()
            self.links |= dict.fromkeys(["similarity", *(f"similarity_{layer}" for layer in later)], "boxes")
        if self.follows_boxes:
            self.links |= dict.fromkeys(["front", "back"], "boxes of neighbouring frames")

    def matrices(self, x: Tensor, regions: Regions) -> list[Tensor]:
        """Returns the matrix [B, V, V] of each graph, for B clips and the V = T * N nodes of a clip. The graphs are in
        the order of the attribute `links`, a dictionary with the names of the graphs.

        `x` [B, T, N, C] has the features of the regions, and `regions` has their mask and their boxes.
        """
        with outputs_of(*([] if self.affinity is None else [self.affinity])) as matrices:
            self(x, regions)
        if self.follows_boxes:
            assert regions.boxes is not None
            front, back = iou_graphs(regions.boxes, regions.valid)
            matrices += [between_all(front, 1), between_all(back, -1)]
        return matrices

    def forward(self, x: Tensor, regions: Regions) -> Tensor:
        collect = self._graphs(x, regions)
        later = collect | self._similarity_anew(regions.valid)
        transformed = [g(x) for g in self.g]
        outputs = []
        for index, branch in enumerate(self.branches):
            start = transformed[index % len(transformed)]
            outputs.append(branch(start, x if self.raw_residual else start, collect, later))
        nodes: Tensor = reduce(torch.add, outputs)
        return nodes

    def _graphs(self, x: Tensor, regions: Regions) -> dict[str, Collect]:
        """Returns {name of a graph: function} for the graphs of the first layer. The function maps nodes to weighted
        sums of nodes, with the weights of the graph.

        The names are "similarity", or "front" and "back", or all three, as the option `graphs` says. The similarity
        graph is computed from the region features `x`. The graphs "front" and "back" are computed from the overlaps of
        the boxes of `regions`.
        """
        collect: dict[str, Collect] = {}
        if self.affinity is not None:
            collect["similarity"] = partial(collect_all, self.affinity(x, regions.valid))
        if self.follows_boxes:
            assert regions.boxes is not None
            front, back = (graph.to(x.dtype) for graph in iou_graphs(regions.boxes, regions.valid))
            collect |= {"front": partial(collect_next, front), "back": partial(collect_previous, back)}
        return collect

    def _similarity_anew(self, valid: Tensor) -> dict[str, Collect]:
        """Returns {"similarity": function} with the option `similarity_of: each`, with which each layer has its own
        similarity graph. Without this option, returns {}.

        The function gets the nodes [B, T, N, C] of a layer, computes their similarity graph, and returns the weighted
        sums of the nodes. `valid` bool [B, T, N] is false for padding. The axes are B clips, T frames, N nodes of a
        frame and C channels.
        """
        affinity = self.affinity
        if affinity is None or not self.anew:
            return {}
        return {"similarity": lambda nodes: collect_all(affinity(nodes, valid), nodes)}


class Affinity(nn.Module):
    """Computes the similarity graph of all regions of a clip (STRG paper, eq. 1 and 2). `forward(x, valid)` maps
    regions x [B, T, N, C] to a graph [B, V, V], for N regions of a frame, C = `dim` and V = T * N. `valid` bool [B, T,
    N] is false for padding.

    The similarity of the regions i and j is (w x_i) . (w' x_j), with learned linear layers w and w'. If `scale` is
    true, it is divided by sqrt(C). Row i of the graph is the softmax over the valid regions j.
    """

    def __init__(self, dim: int, scale: bool) -> None:
        super().__init__()
        self.w, self.w_prime = _small_linear(dim), _small_linear(dim)
        self.factor = dim**-0.5 if scale else 1.0

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        x = x.flatten(1, 2)  # [B, V, C]
        return similarity_graph(self.w(x) * self.factor, self.w_prime(x), valid.flatten(1, 2))


class Branch(nn.Module):
    """Runs `options.num_layers` graph convolutions one after the other (STRG paper, eq. 6 to 8). `forward` maps nodes x
    [B, T, N, C] to the same shape, for B clips, T frames, N nodes of a frame and C = `dim` channels. `graphs` are the
    names of the graphs that the convolutions use.
    """

    def __init__(self, dim: int, graphs: Sequence[str], options: StrgOptions) -> None:
        super().__init__()
        last = options.num_layers - 1
        self.layers = nn.ModuleList(
            GraphConvolution(dim, graphs, activate=index < last or options.activate_last)
            for index in range(options.num_layers)
        )

    def forward(
        self, x: Tensor, residual: Tensor, collect: Mapping[str, Collect], later: Mapping[str, Collect]
    ) -> Tensor:
        """Returns the nodes `x` [B, T, N, C] after all graph convolutions, in the same shape, for N nodes of a frame.

        - `residual`: nodes that the first convolution adds to its result. Each later convolution adds its own input.
        - `collect`: {name of a graph G: function} for the first convolution. The function maps nodes X to G X.
        - `later`: the same for all later convolutions.
        """
        for layer in self.layers:
            x = residual = layer(x, residual, collect)
            collect = later
        return x


class GraphConvolution(nn.Module):
    """A graph convolution: ReLU(LayerNorm(sum over graphs k of G_k X W_k + residual)) (STRG paper, eq. 6 and 8). If
    `activate` is false, LayerNorm and ReLU are left out.

    X has the features of the nodes, with `dim` numbers, and the residual has the same shape. `graphs` are the names of
    the graphs. G_k is the matrix of graph k. W_k are learned weights, which start at 0.
    """

    def __init__(self, dim: int, graphs: Sequence[str], *, activate: bool) -> None:
        super().__init__()
        self.weights = nn.ModuleDict({graph: nn.Linear(dim, dim, bias=False) for graph in graphs})
        for weight in self.weights.parameters():
            nn.init.zeros_(weight)
        self.activation = nn.Sequential(nn.LayerNorm(dim), nn.ReLU()) if activate else nn.Identity()

    def forward(self, x: Tensor, residual: Tensor, collect: Mapping[str, Collect]) -> Tensor:
        for graph, weight in self.weights.items():
            residual = residual + weight(collect[graph](x))
        activated: Tensor = self.activation(residual)
        return activated


def _small_linear(dim: int) -> nn.Linear:
    linear = nn.Linear(dim, dim, bias=False)
    nn.init.normal_(linear.weight, std=0.01)
    return linear
