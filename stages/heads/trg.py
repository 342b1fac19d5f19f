"""TRG, "Temporal Reasoning Graph for Activity Recognition" (Zhang et al. 2019, arXiv 1908.09995).

B clips, T frames, N heads, C channels, H, W, P = H * W positions.
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
    """Blocks in a row on features/<backbone>/<tap> [T, C, H, W], averaged over time and space (paper, eq. 13).

    Deviations: the paper puts its blocks behind layers of the backbone. Here they stand behind the cached tap. The
    paper's formula has 378 M parameters for three blocks on C = 2048 (its tables leave 4.5 M beside the backbone), so
    maps are first reduced to `dim` channels. dim = None is the formula as printed. Blocks in a tail are as printed too.
    """

    option_model = TrgOptions

    def make_blocks(self, options: TrgOptions) -> Iterable[nn.Module]:
        return (TrgBlock(self.read_maps.channels, options) for _ in range(options.num_blocks))


class TrgBlock(nn.Module):
    """H = ReLU(X + Z) (eq. 12): frames collect from frames over N learned graphs. [B, T, C, H, W] -> the same shape.

    The block does not see the position of a frame: permuting the frames of X permutes the frames of H. With dot
    relations and attention it has 10 N C^2 + N^2 + 4 N C parameters (N C^2 embedding, 9 N C^2 convolution, N^2
    aggregator, BN).
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
        """Returns A [B, N, T, T].

        Rows are a softmax over frames j of the relations g(u_i, u_j), u = W_e x (eq. 2 to 4).
        """
        u = self._by_head(each_frame(self.embed, x))  # [B, T, N, C, H, W]
        relations: Tensor = self.relation(u.flatten(4).transpose(1, 2))  # [B, N, T, T]
        if self.scale_relation:
            relations = relations * u[0, 0, 0].numel() ** -0.5
        return relations.softmax(3)

    def collect(self, adjacency: Tensor, x: Tensor) -> Tensor:
        """Returns z_i = ReLU(sum over j of a_ij (W * x_j)) for each head (eq. 5): [B, T, N, C, H, W]."""
        y = each_frame(self.convolution, x)  # [B, T, N C, H, W]
        if self.norm_first:
            y = each_frame(self.norm, y)
        z = torch.einsum("bnij,bjnp->binp", adjacency, self._by_head(y).flatten(3)).reshape_as(y)
        if not self.norm_first:
            z = each_frame(self.norm, z)
        return self._by_head(z.relu())

    def _by_head(self, x: Tensor) -> Tensor:
        """Returns x [B, T, N C, H, W] as [B, T, N, C, H, W]."""
        b, t, _, h, w = x.shape
        return x.reshape(b, t, self.num_heads, -1, h, w)


class DotRelation(nn.Module):
    """u_i . u_j over all channels and positions: u [B, N, T, C, P] -> [B, N, T, T]."""

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()

    def forward(self, u: Tensor) -> Tensor:
        flat = _flat(u)
        return _products(flat, flat)


class SumRelation(nn.Module):
    """V . tanh(u_i + u_j) for each head, summed over positions: u [B, N, T, C, P] -> [B, N, T, T].

    Deviation: V has C numbers in place of C H W, so that the block takes any H and W. The backward pass keeps N T^2 C P
    numbers per clip.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(num_heads, channels) * channels**-0.5)

    def forward(self, u: Tensor) -> Tensor:
        rows = [torch.einsum("nc,bnjcp->bnj", self.v, (u_i[:, :, None] + u).tanh()) for u_i in u.unbind(2)]
        return torch.stack(rows, 2)


class BilinearRelation(nn.Module):
    """u_i . W_1 u_j for each head, summed over positions: u [B, N, T, C, P] -> [B, N, T, T].

    Deviation: W_1 is C x C in place of CHW x CHW (10^10 numbers at 2048 x 7 x 7). W_1 starts as the identity, so the
    relation starts as the dot product.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.eye(channels).repeat(num_heads, 1, 1))

    def forward(self, u: Tensor) -> Tensor:
        w_u = torch.einsum("ncd,bnjdp->bnjcp", self.w, u)
        return _products(_flat(u), _flat(w_u))


def _flat(u: Tensor) -> Tensor:
    """Returns u [B, N, T, C, P] as [B, N, T, C P], in float32 or wider."""
    return u.flatten(3).to(torch.promote_types(u.dtype, torch.float32))


def _products(u: Tensor, w: Tensor) -> Tensor:
    """Returns u_i . w_j of all frames: [B, N, T, C P] -> [B, N, T, T].

    The products are not taken in half precision. Such long sums exceed float16's 65504, and bfloat16 loses the
    differences between frames.
    """
    with without_autocast(u.device):
        return u @ w.transpose(2, 3)


class Attention(nn.Module):
    """Weights the heads by softmax(ReLU(W' p)), where p is the mean of each head in a frame (eq. 7 to 10).

    z [B, T, N, C, H, W] -> [B, T, C, H, W]. With one head, or W' = 0, the result is the mean of the heads. W' starts as
    the identity. Because p >= 0, a row of W' that starts negative would keep its ReLU closed.
    """

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Linear(num_heads, num_heads, bias=False)
        nn.init.eye_(self.weight.weight)

    def forward(self, z: Tensor) -> Tensor:
        return torch.einsum("btn,btnchw->btchw", self.shares(z), z)

    def shares(self, z: Tensor) -> Tensor:
        """Returns beta' [B, T, N], positive, summing to 1 over the heads."""
        beta: Tensor = self.weight(z.mean((3, 4, 5)))
        return beta.relu().softmax(2)


class Mean(nn.Module):
    """The mean of the heads (paper, table 3): z [B, T, N, C, H, W] -> [B, T, C, H, W]."""

    def __init__(self, num_heads: int, channels: int) -> None:
        super().__init__()

    def forward(self, z: Tensor) -> Tensor:
        return z.mean(2)


class Concatenate(nn.Module):
    """z [B, T, N, C, H, W] -> [B, T, C, H, W]: maps side by side, then 1x1 convolution, BN and ReLU.

    The paper (table 3) does not say how N C channels become C again. "Convolution, BN, ReLU" is its treatment of every
    learnable map.
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
