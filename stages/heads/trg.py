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
    """Runs TRG blocks on features/<backbone>/<tap> [T, C, H, W] and classifies the mean over time and space.

    The classification is eq. 13 of the TRG paper. There are two deviations. First, the paper puts its blocks behind
    layers of the backbone, and this head has them behind the cached tap. Second, this head reduces the maps to `dim`
    channels before the blocks, because the paper contradicts itself. Its formula has 378 M parameters for three blocks
    on C = 2048, but its tables leave 4.5 M beside the backbone. `dim: null` is the formula as printed. Blocks in a tail
    are as printed too.
    """

    option_model = TrgOptions

    def make_blocks(self, options: TrgOptions) -> Iterable[nn.Module]:
        return (TrgBlock(self.read_maps.channels, options) for _ in range(options.num_blocks))


class TrgBlock(nn.Module):
    """Computes H = ReLU(X + Z) (TRG paper, eq. 12). X, Z and H are [B, T, C, H, W].

    Z is what each frame collects from all frames over N learned graphs. The block does not see the position of a frame.
    If the frames of X are permuted, the frames of the result are permuted alike. With dot relations and attention, the
    block has 10 N C^2 + N^2 + 4 N C parameters (N C^2 embedding, 9 N C^2 convolution, N^2 aggregator, the rest
    BatchNorm).
    """

    def __init__(self, channels: int, options: TrgBlockOptions) -> None:
        super().__init__()
        self.num_heads, self.scale_relation = options.num_heads, options.scale_relation
        self.norm_first = options.norm_after == "convolution"
        wide = options.num_heads * channels
        self.embed = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
        self.relation = RELATIONS[options.relation](options.num_heads, channels)
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
        """Returns the weights A [B, N, T, T] between the frames of x [B, T, C, H, W].

        Row i is the softmax over frames j of the relations g(u_i, u_j), with u = W_e x (TRG paper, eq. 2 to 4).
        """
        u = self._by_head(each_frame(self.embed, x))  # [B, T, N, C, H, W]
        relations: Tensor = self.relation(u.flatten(4).transpose(1, 2))  # [B, N, T, T]
        if self.scale_relation:
            relations = relations * u[0, 0, 0].numel() ** -0.5
        return relations.softmax(3)

    def collect(self, adjacency: Tensor, x: Tensor) -> Tensor:
        """Returns z [B, T, N, C, H, W], with z_i = ReLU(sum over j of a_ij (W * x_j)) for each head (TRG paper, eq. 5).

        a_ij are the entries of `adjacency` [B, N, T, T]. W * x_j is a convolution.
        """
        y = each_frame(self.convolution, x)  # [B, T, N C, H, W]
        if self.norm_first:
            y = each_frame(self.norm, y)
        z = torch.einsum("bnij,bjnp->binp", adjacency, self._by_head(y).flatten(3)).reshape_as(y)
        if not self.norm_first:
            z = each_frame(self.norm, z)
        return self._by_head(z.relu())

    def _by_head(self, x: Tensor) -> Tensor:
        """Returns x [B, T, N C, H, W] reshaped to [B, T, N, C, H, W]."""
        b, t, _, h, w = x.shape
        return x.reshape(b, t, self.num_heads, -1, h, w)


class DotRelation(nn.Module):
    """Computes the products u_i . u_j over all channels and positions: u [B, N, T, C, P] -> [B, N, T, T]."""

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()

    def forward(self, u: Tensor) -> Tensor:
        flat = _flat(u)
        return _products(flat, flat)


class SumRelation(nn.Module):
    """Computes v . tanh(u_i + u_j) for each head, summed over positions: u [B, N, T, C, P] -> [B, N, T, T].

    Deviation: v has C numbers, not C H W as in the paper, so the block takes maps of any size. The backward pass keeps
    N T^2 C P numbers per clip.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(num_heads, channels) * channels**-0.5)

    def forward(self, u: Tensor) -> Tensor:
        rows = [torch.einsum("nc,bnjcp->bnj", self.v, (u_i[:, :, None] + u).tanh()) for u_i in u.unbind(2)]
        return torch.stack(rows, 2)


class BilinearRelation(nn.Module):
    """Computes u_i . W_1 u_j for each head, summed over positions: u [B, N, T, C, P] -> [B, N, T, T].

    Deviation: W_1 is C x C, not C H W x C H W as in the paper (10^10 numbers at 2048 x 7 x 7). W_1 starts as the
    identity, so the relation starts as the dot product.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.eye(channels).repeat(num_heads, 1, 1))

    def forward(self, u: Tensor) -> Tensor:
        w_u = torch.einsum("ncd,bnjdp->bnjcp", self.w, u)
        return _products(_flat(u), _flat(w_u))


def _flat(u: Tensor) -> Tensor:
    """Returns u [B, N, T, C, P] reshaped to [B, N, T, C P], in float32 or wider."""
    return u.flatten(3).to(torch.promote_types(u.dtype, torch.float32))


def _products(u: Tensor, w: Tensor) -> Tensor:
    """Returns the products u_i . w_j of all pairs of frames [B, N, T, T], for u and w [B, N, T, C P].

    The products are not computed in half precision, because such long sums exceed float16's 65504, and bfloat16 loses
    the differences between frames.
    """
    with without_autocast(u.device):
        return u @ w.transpose(2, 3)


class Attention(nn.Module):
    """Returns the weighted sum of the heads: z [B, T, N, C, H, W] -> [B, T, C, H, W] (TRG paper, eq. 7 to 10).

    The weights are softmax(ReLU(W' p)), where p is the mean of each head in a frame. With one head, or with W' = 0, the
    result is the mean of the heads. W' starts as the identity. A row of W' that started with only negative numbers
    would get no gradient, because p >= 0 and its ReLU would be 0.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Linear(num_heads, num_heads, bias=False)
        nn.init.eye_(self.weight.weight)

    def forward(self, z: Tensor) -> Tensor:
        return torch.einsum("btn,btnchw->btchw", self.shares(z), z)

    def shares(self, z: Tensor) -> Tensor:
        """Returns the weights of the heads in each frame [B, T, N].

        The weights are positive and sum to 1 over the heads.
        """
        beta: Tensor = self.weight(z.mean((3, 4, 5)))
        return beta.relu().softmax(2)


class Mean(nn.Module):
    """Returns the mean of the heads (TRG paper, table 3): z [B, T, N, C, H, W] -> [B, T, C, H, W]."""

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()

    def forward(self, z: Tensor) -> Tensor:
        return z.mean(2)


class Concatenate(nn.Module):
    """Merges the heads by a 1x1 convolution on all their channels: z [B, T, N, C, H, W] -> [B, T, C, H, W].

    BatchNorm and ReLU follow. The TRG paper (table 3) does not say how N C channels become C again. "Convolution, BN,
    ReLU" is what the paper does with every other learnable map.
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
