"""Defines the non-local block (Wang et al. 2018, arXiv 1711.07971, section 3.3), in which each position of a map
attends to the other positions. It is the variant with embedded Gaussian and with keys from max-pooled maps.

Shapes: B clips, T frames, C channels, H rows and W columns of a map, N = T H W queries, M keys.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class NonLocal(nn.Module):
    """A non-local block: x + norm(out(softmax(theta(x) phi(x)^T / sqrt(C / 2)) g(x))), for maps x [B, C, T, H, W]. A
    new block returns its input.

    theta, phi, g and out are 1x1x1 convolutions. phi and g see x after 1 x 2 x 2 max-pooling. If `frames` is a number,
    positions attend only to positions in the same group of `frames` consecutive frames. If `frames` is "all", they
    attend to the whole clip. The scale and the groups are those of the authors' code.
    """

    def __init__(self, channels: int, frames: int | Literal["all"] = "all") -> None:
        super().__init__()
        self.frames, inner = frames, channels // 2
        self.theta = nn.Conv3d(channels, inner, 1)
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.out = nn.Conv3d(inner, channels, 1)
        self.norm = nn.BatchNorm3d(channels)
        for conv in (self.theta, self.phi, self.g, self.out):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.constant_(conv.get_parameter("bias"), 0)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output of the block, in the shape of its input x [B, C, T, H, W].

        H and W must be at least 2. If the option `frames` of the block is a number, T must be a multiple of it.
        """
        if self.frames == "all":
            return self._seeing_all(x)
        groups = x.reshape(*x.shape[:2], -1, self.frames, *x.shape[3:])  # [B, C, T / frames, frames, H, W]
        groups = groups.transpose(1, 2)
        out = self._seeing_all(groups.flatten(0, 1)).reshape(groups.shape)
        return out.transpose(1, 2).flatten(2, 3)

    def _seeing_all(self, x: Tensor) -> Tensor:
        pooled = self.pool(x)
        query = _by_place(self.theta(x))  # [B, N, C / 2]
        key, value = (_by_place(conv(pooled)) for conv in (self.phi, self.g))  # [B, M, C / 2]
        # The head axis of one is needed: without it torch has no fused kernel and would store N x M weights.
        attended = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        attended = attended.transpose(1, 2).reshape(-1, attended.shape[2], *x.shape[2:])  # [B, C / 2, T, H, W]
        out: Tensor = x + self.norm(self.out(attended))
        return out


def _by_place(x: Tensor) -> Tensor:
    """Returns `x` [B, C, T, H, W] as [B, T * H * W, C]: one row of C channels for each position.

    The C channels of a position lie side by side in memory, because fused attention needs this layout.
    """
    return x.flatten(2).transpose(1, 2).contiguous()
