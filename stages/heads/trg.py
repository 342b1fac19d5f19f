"""The head TRG, "Temporal Reasoning Graph for Activity Recognition" (Zhang et al. 2019, arXiv 1908.09995). Its graphs
have frames as nodes.

Shapes: B clips, T frames, N graphs that run side by side (the paper calls them heads), C channels, H rows and W columns
of a map, P = H * W positions. i and j are frames.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.device import without_autocast
from kinegraph.stages.heads.clip_graphs import FrameGraphs
from kinegraph.stages.heads.maps import MapHead, MapOptions, each_frame
from kinegraph.stages.options import StageOptions


class TrgBlockOptions(StageOptions):
    num_heads: int = Field(3, gt=0, description="number of graphs over the frames, each with its own weights")
    relation: Literal["dot", "sum", "bilinear"] = Field("dot", description="how two frames are compared")
    scale_relation: bool = Field(True, description="relations are divided by sqrt(C H W), which the paper does not do")
    norm_after: Literal["convolution", "graph"] = Field(
        "convolution", description="convolution: BatchNorm before frames are mixed; graph: after"
    )
    aggregator: Literal["attention", "mean", "concatenation"] = Field(
        "attention", description="how the heads are aggregated"
    )
    fusion: Literal["add", "concat"] = Field("add", description="how the block's input and its graphs are joined")


class TrgOptions(TrgBlockOptions, MapOptions):
    dim: int | None = Field(
        512, gt=0, description="width of a 1x1 convolution on the cached maps; null: no convolution"
    )
    num_blocks: int = Field(3, gt=0, description="blocks in a row")


class Trg(MapHead):
    """A head that runs TRG blocks on the cached maps features/<backbone>/<tap> [T, C, H, W] and classifies the mean of
    the result over frames and positions (TRG paper, eq. 13).

    Deviations: the blocks run after the cached tap. In the paper, they are between layers of the backbone. The maps are
    reduced to `dim` channels before the blocks, because the paper contradicts itself. By its formula, three blocks on
    2,048 channels have 378 M parameters. By its tables, they have 4.5 M. With `dim: null`, the maps are not reduced.
    """

    option_model = TrgOptions

    def make_blocks(self, options: TrgOptions) -> Iterable[nn.Module]:
        return (TrgBlock(self.read_maps.channels, options) for _ in range(options.num_blocks))


class TrgBlock(nn.Module):
    """A block of TRG, which mixes the frames of a clip over N learned graphs: ReLU(X + Z) (TRG paper, eq. 12).
    `forward` maps X [B, T, C, H, W] to the same shape. Z is the mixture.

    The order of the frames has no influence. With `relation: dot` and `aggregator: attention`, the block has 10 N C^2 +
    N^2 + 4 N C parameters: N C^2 in the embedding, 9 N C^2 in the convolution, N^2 in the attention, and 4 N C in batch
    norms.
    """

    def __init__(self, channels: int, options: TrgBlockOptions) -> None:
        super().__init__()
        self.num_heads, self.scale_relation = options.num_heads, options.scale_relation
        self.norm_first = options.norm_after == "convolution"
        wide = options.num_heads * channels
        self.embed = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
        self.relation = RELATIONS[options.relation](options.num_heads, channels)
        self.graphs = FrameGraphs(options.num_heads)
        self.convolution = nn.Conv2d(channels, wide, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(wide)
        self.aggregate = AGGREGATORS[options.aggregator](options.num_heads, channels)
        self.fuse = Concatenate(2, channels) if options.fusion == "concat" else None

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.aggregate(self.collect(self.adjacency(x), x))  # [B, T, C, H, W]
        if self.fuse is None:
            return (x + z).relu()
        fused: Tensor = self.fuse(torch.stack([x, z], 2))
        return fused

    def adjacency(self, x: Tensor) -> Tensor:
        """Returns the N graphs of each clip, [B, N, T, T]: the weights between its T frames (TRG paper, eq. 2 to 4).

        Row i of a graph is the softmax over all frames j of the relation of the frames i and j. The relation is a
        number that compares two embedded frames. `x` [B, T, C, H, W] has the maps.
        """
        u = self._by_head(each_frame(self.embed, x))  # [B, T, N, C, H, W]
        relations: Tensor = self.relation(u.flatten(4).transpose(1, 2))  # [B, N, T, T]
        if self.scale_relation:
            relations = relations * u[0, 0, 0].numel() ** -0.5
        weights: Tensor = self.graphs(relations.softmax(3))
        return weights

    def collect(self, adjacency: Tensor, x: Tensor) -> Tensor:
        """Returns for each frame and each graph the weighted sum of all frames: x [B, T, C, H, W] -> z [B, T, N, C, H,
        W], for N graphs.

        For each graph, z_i = ReLU(sum over frames j of a_ij (W * x_j)) (TRG paper, eq. 5). `adjacency` [B, N, T, T] has
        the weights a_ij. W * x_j is a learned convolution, followed by BatchNorm.
        """
        y = each_frame(self.convolution, x)  # [B, T, N C, H, W]
        if self.norm_first:
            y = each_frame(self.norm, y)
        z = torch.einsum("bnij,bjnp->binp", adjacency, self._by_head(y).flatten(3)).reshape_as(y)
        if not self.norm_first:
            z = each_frame(self.norm, z)
        return self._by_head(z.relu())

    def _by_head(self, x: Tensor) -> Tensor:
        """Divides the channels of `x` among N graphs: [B, T, N * C, H, W] -> [B, T, N, C, H, W]. The axes are B clips,
        T frames, C channels of a graph, H rows and W columns.
        """
        b, t, _, h, w = x.shape
        return x.reshape(b, t, self.num_heads, -1, h, w)


class DotRelation(nn.Module):
    """Compares each two frames of a clip by a dot product, for TRG. `forward` maps u [B, N, T, C, P] to relations [B,
    N, T, T], for N graphs and P positions of a map.

    The relation of the frames i and j is the sum of u_i * u_j over all channels and positions.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()

    def forward(self, u: Tensor) -> Tensor:
        flat = _flat(u)
        return _products(flat, flat)


class SumRelation(nn.Module):
    """Compares each two frames of a clip by a sum, for TRG. `forward` maps u [B, N, T, C, P] to relations [B, N, T, T],
    for N = `num_heads` graphs and P positions of a map.

    The relation of the frames i and j is the sum of v . tanh(u_i + u_j) over all positions. v is learned and has C
    numbers. Deviation: in the paper, v has one number for each channel and position.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(num_heads, channels) * channels**-0.5)

    def forward(self, u: Tensor) -> Tensor:
        rows = [torch.einsum("nc,bnjcp->bnj", self.v, (u_i[:, :, None] + u).tanh()) for u_i in u.unbind(2)]
        return torch.stack(rows, 2)


class BilinearRelation(nn.Module):
    """Compares each two frames of a clip by a bilinear form, for TRG. `forward` maps u [B, N, T, C, P] to relations [B,
    N, T, T], for N = `num_heads` graphs and P positions of a map.

    The relation of the frames i and j is the sum of u_i . W_1 u_j over all positions. Each graph has a learned matrix
    W_1 [C, C], which starts as the identity. Deviation: in the paper, W_1 is [C P, C P], which is 10^10 numbers for
    maps of 2048 x 7 x 7.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.eye(channels).repeat(num_heads, 1, 1))

    def forward(self, u: Tensor) -> Tensor:
        w_u = torch.einsum("ncd,bnjdp->bnjcp", self.w, u)
        return _products(_flat(u), _flat(w_u))


def _flat(u: Tensor) -> Tensor:
    """Joins the last two axes of `u`: [B, N, T, C, P] -> [B, N, T, C * P], for B clips, N graphs, T frames, C channels
    and P positions. The result is float32, or has the type of `u` if this type is wider.
    """
    return u.flatten(3).to(torch.promote_types(u.dtype, torch.float32))


def _products(u: Tensor, w: Tensor) -> Tensor:
    """Returns the dot products of u_i and w_j for all pairs of frames i and j, [B, N, T, T]. `u` and `w` are [B, N, T,
    C * P]. The axes are B clips, N graphs, T frames, and C channels times P positions.
    """
    # Not in float16, in which such long sums overflow, nor in bfloat16, which loses the differences between frames.
    with without_autocast(u.device):
        return u @ w.transpose(2, 3)


class Attention(nn.Module):
    """Computes the weighted mean over the N graphs of TRG (TRG paper, eq. 7 to 10). `forward` maps z [B, T, N, C, H, W]
    to [B, T, C, H, W], for N = `num_heads`.

    The N weights of a frame are softmax(ReLU(W' p)). p [N] has the mean of z over channels and positions for each
    graph. W' [N, N] is learned and starts as the identity.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Linear(num_heads, num_heads, bias=False)
        # A row that started with only negative numbers would get no gradient, because p >= 0.
        nn.init.eye_(self.weight.weight)

    def forward(self, z: Tensor) -> Tensor:
        return torch.einsum("btn,btnchw->btchw", self.shares(z), z)

    def shares(self, z: Tensor) -> Tensor:
        """Returns the weight of each graph in each frame, [B, T, N] for B clips, T frames and N graphs. The weights are
        positive and sum to 1 over the graphs.

        `z` [B, T, N, C, H, W] has the results of the graphs.
        """
        beta: Tensor = self.weight(z.mean((3, 4, 5)))
        return beta.relu().softmax(2)


class Mean(nn.Module):
    """Computes the mean of the results of the graphs of TRG (TRG paper, table 3). `forward` maps z [B, T, N, C, H, W]
    to [B, T, C, H, W], for B clips, T frames, N graphs, C channels, H rows and W columns. The arguments of the
    constructor are not used.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()

    def forward(self, z: Tensor) -> Tensor:
        return z.mean(2)


class Concatenate(nn.Module):
    """Joins the results of the N graphs of TRG by a 1x1 convolution, BatchNorm and ReLU. `forward` maps z [B, T, N, C,
    H, W] to [B, T, C, H, W].

    The TRG paper (table 3) does not say how N C channels become C channels. All its other learned maps use convolution,
    BatchNorm and ReLU.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.merge = nn.Sequential(
            nn.Conv2d(num_heads * channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(self, z: Tensor) -> Tensor:
        return each_frame(self.merge, z.flatten(2, 3))


RELATIONS: dict[str, type[nn.Module]] = {"dot": DotRelation, "sum": SumRelation, "bilinear": BilinearRelation}
AGGREGATORS: dict[str, type[nn.Module]] = {"attention": Attention, "mean": Mean, "concatenation": Concatenate}
