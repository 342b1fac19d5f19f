"""TRG, "Temporal Reasoning Graph for Activity Recognition" (Zhang et al. 2019, arXiv 1908.09995).

Shapes: B clips, T frames, N heads (graphs that run side by side), C channels, H rows and W columns of a map, P = H * W
positions. i and j are frames.
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
    """Runs TRG blocks on the cached maps features/<backbone>/<tap> [T, C, H, W] and classifies the mean over time and
    space (TRG paper, eq. 13). A clip has T maps of C channels, H rows and W columns.

    There are two deviations from the paper. First, the paper puts its blocks between layers of the backbone, and this
    head puts them after the cached tap. Second, this head reduces the maps to `dim` channels before the blocks, because
    the paper contradicts itself. By its formula three blocks on 2,048 channels have 378 M parameters, but its tables
    leave 4.5 M for them. `dim: null` follows the formula and does not reduce the maps.
    """

    option_model = TrgOptions

    def make_blocks(self, options: TrgOptions) -> Iterable[nn.Module]:
        return (TrgBlock(self.read_maps.channels, options) for _ in range(options.num_blocks))


class TrgBlock(nn.Module):
    """A block of TRG, which computes ReLU(X + Z) for maps X [B, T, C, H, W] (TRG paper, eq. 12). There are B clips, T
    frames, C channels, and maps of H rows and W columns. The result has the same shape.

    Z mixes the frames over N learned graphs. If the frames of X are permuted, those of the result are permuted in the
    same way. With `relation: dot` and `aggregator: attention`, the block has 10 N C^2 + N^2 + 4 N C parameters: N C^2
    in the embedding, 9 N C^2 in the convolution, N^2 in the attention, and 4 N C in batch norms.
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
        """Returns the graphs of a TRG block: the weights [B, N, T, T] between the T frames of `x` [B, T, C, H, W].
        There are B clips, N graphs, C channels, and H rows and W columns of a map.

        Row i of a graph is the softmax over all frames j of the relation of the frames i and j. The relation compares
        embedded frames (TRG paper, eq. 2 to 4).
        """
        u = self._by_head(each_frame(self.embed, x))  # [B, T, N, C, H, W]
        relations: Tensor = self.relation(u.flatten(4).transpose(1, 2))  # [B, N, T, T]
        if self.scale_relation:
            relations = relations * u[0, 0, 0].numel() ** -0.5
        weights: Tensor = self.graphs(relations.softmax(3))
        return weights

    def collect(self, adjacency: Tensor, x: Tensor) -> Tensor:
        """Sums the frames of each clip with the weights in each graph: x [B, T, C, H, W] -> z [B, T, N, C, H, W]. The
        axes are B clips, T frames, N graphs, C channels, and maps of H rows and W columns.

        For each graph, z_i = ReLU(sum over frames j of a_ij (W * x_j)) (TRG paper, eq. 5). a_ij are the entries of
        `adjacency` [B, N, T, T], and W * x_j is a convolution.
        """
        y = each_frame(self.convolution, x)  # [B, T, N C, H, W]
        if self.norm_first:
            y = each_frame(self.norm, y)
        z = torch.einsum("bnij,bjnp->binp", adjacency, self._by_head(y).flatten(3)).reshape_as(y)
        if not self.norm_first:
            z = each_frame(self.norm, z)
        return self._by_head(z.relu())

    def _by_head(self, x: Tensor) -> Tensor:
        """Returns `x` [B, T, N * C, H, W] as [B, T, N, C, H, W], with C channels for each of N graphs: B clips, T
        frames, and maps of H rows and W columns.
        """
        b, t, _, h, w = x.shape
        return x.reshape(b, t, self.num_heads, -1, h, w)


class DotRelation(nn.Module):
    """Computes how strongly each two frames of a clip are related in TRG, as a dot product. `forward` maps u [B, N, T,
    C, P] to relations [B, N, T, T]. The axes are B clips, N graphs, T frames, C channels and P positions of a map.

    The relation of the frames i and j is the sum of u_i * u_j over all channels and positions. The arguments of the
    constructor are not used.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()

    def forward(self, u: Tensor) -> Tensor:
        flat = _flat(u)
        return _products(flat, flat)


class SumRelation(nn.Module):
    """Computes how strongly each two frames of a clip are related in TRG. `forward` maps u [B, N, T, C, P] to relations
    [B, N, T, T]. The axes are B clips, N = `num_heads` graphs, T frames, C channels and P positions of a map.

    The relation of the frames i and j is the sum of v . tanh(u_i + u_j) over all positions. Deviation from the paper: v
    has C numbers, not C H W, so the block takes maps of any size. For the backward pass, N T^2 C P numbers per clip
    stay in memory.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(num_heads, channels) * channels**-0.5)

    def forward(self, u: Tensor) -> Tensor:
        rows = [torch.einsum("nc,bnjcp->bnj", self.v, (u_i[:, :, None] + u).tanh()) for u_i in u.unbind(2)]
        return torch.stack(rows, 2)


class BilinearRelation(nn.Module):
    """Computes the relation of two frames of TRG as u_i . W_1 u_j, summed over positions: u [B, N, T, C, P] -> [B, N,
    T, T]. The axes are B clips, N graphs, T frames, C channels and P positions of a map. i and j are frames.

    Each graph has a trained matrix W_1, which starts as the identity. Deviation: W_1 is C x C. In the paper it is (C H
    W) x (C H W), for maps of H rows and W columns. That is 10^10 numbers at 2048 x 7 x 7.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.eye(channels).repeat(num_heads, 1, 1))

    def forward(self, u: Tensor) -> Tensor:
        w_u = torch.einsum("ncd,bnjdp->bnjcp", self.w, u)
        return _products(_flat(u), _flat(w_u))


def _flat(u: Tensor) -> Tensor:
    """Returns `u` [B, N, T, C, P] with its last two axes joined: [B, N, T, C * P]. The axes are B clips, N graphs, T
    frames, C channels and P positions. The type is float32, or the type of `u` if that is wider.
    """
    return u.flatten(3).to(torch.promote_types(u.dtype, torch.float32))


def _products(u: Tensor, w: Tensor) -> Tensor:
    """Returns the products [B, N, T, T] of u_i and w_j for all pairs of frames i and j. `u` and `w` are [B, N, T, C P].
    The axes are B clips, N graphs, T frames, and C channels times P positions of a map.
    """
    # Not in float16, in which such long sums overflow, nor in bfloat16, which loses the differences between frames.
    with without_autocast(u.device):
        return u @ w.transpose(2, 3)


class Attention(nn.Module):
    """Computes a weighted mean over the N = `num_heads` graphs of TRG: z [B, T, N, C, H, W] -> [B, T, C, H, W] (TRG
    paper, eq. 7 to 10). The paper calls the graphs heads. The axes are B clips, T frames, C channels, and maps of H
    rows and W columns.

    The N weights of a frame are softmax(ReLU(W' p)). p [N] has for each graph the mean of z over channels, rows and
    columns. W' [N, N] is trained and starts as the identity. `channels` is not used.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Linear(num_heads, num_heads, bias=False)
        # A row that started with only negative numbers would get no gradient, because p >= 0.
        nn.init.eye_(self.weight.weight)

    def forward(self, z: Tensor) -> Tensor:
        return torch.einsum("btn,btnchw->btchw", self.shares(z), z)

    def shares(self, z: Tensor) -> Tensor:
        """Returns the weight of each graph in each frame, [B, T, N], for B clips, T frames and N graphs.

        `z` [B, T, N, C, H, W] has the results of the graphs, maps of C channels, H rows and W columns. The weights are
        positive and sum to 1 over the graphs.
        """
        beta: Tensor = self.weight(z.mean((3, 4, 5)))
        return beta.relu().softmax(2)


class Mean(nn.Module):
    """Computes the mean over the N graphs of TRG (TRG paper, table 3): [B, T, N, C, H, W] -> [B, T, C, H, W]. The other
    axes are B clips, T frames, C channels, and H rows and W columns of a map.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()

    def forward(self, z: Tensor) -> Tensor:
        return z.mean(2)


class Concatenate(nn.Module):
    """Merges the results of N attention heads into one map: [B, T, N, C, H, W] -> [B, T, C, H, W]. The other axes are B
    clips, T frames, C channels, and H rows and W columns of a map. A 1x1 convolution runs on the N C channels of all
    heads, then BatchNorm and ReLU.

    The TRG paper (table 3) does not say how N C channels become C channels. "Convolution, BN, ReLU" is what the paper
    uses for all its other learned maps.
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
