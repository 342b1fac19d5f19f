"""The non-local block of "Non-local Neural Networks" (Wang et al. 2018, arXiv 1711.07971).

B clips, C channels, T frames, H, W.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class NonLocalBlock(nn.Module):
    """x + BN(W y) (eq. 6), y the embedded Gaussian over all positions (eq. 1 to 4): [B, C, T, H, W] -> the same.

    Keys and values are max-pooled 1x2x2, affinities divided by sqrt(C / 2), as in the authors' code. Starts as the
    identity (BN gain 0). 2 C^2 + 3 (C / 2) + C + 2 C parameters.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.theta = nn.Conv3d(channels, inner, 1)
        self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.out = nn.Conv3d(inner, channels, 1)
        self.pool = nn.MaxPool3d((1, 2, 2), ceil_mode=True)  # maps of one cell stay
        self.norm = nn.BatchNorm3d(channels)
        for conv in (self.theta, self.phi, self.g, self.out):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x)
        query, key, value = (_tokens(part) for part in (self.theta(x), self.phi(pooled), self.g(pooled)))
        y = F.scaled_dot_product_attention(query, key, value)  # [B, THW, C/2]
        y = self.out(y.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:]))
        out: Tensor = x + self.norm(y)
        return out


def _tokens(x: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, T H W, C]."""
    return x.flatten(2).transpose(1, 2)
