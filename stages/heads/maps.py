"""What the heads on cached maps share: their options, reading the maps, and running a 2D network on each frame.

B clips, T frames, D cached channels, C = dim, H, W.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.heads.head import Source, Spec, TapOptions
from stages.heads.inputs import project_maps


class MapOptions(TapOptions):
    dim: int | None = Field(None, gt=0, description="width of a 1x1 convolution of the cached maps; null: as cached")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class MapReader(nn.Module):
    """Reads the maps of one tap from a batch, through a 1x1 convolution where `dim` is given: [B, T, C, H, W]."""

    def __init__(self, spec: Spec, source: Source, dim: int | None) -> None:
        super().__init__()
        self.array = source.maps
        self.num_frames, cached, self.height, self.width = spec[source.maps]
        self.channels = dim or cached
        self.project = nn.Linear(cached, dim) if dim else nn.Identity()

    def forward(self, batch: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        return project_maps(self.project, batch[self.array].to(dtype))


def each_frame(network: nn.Module, clips: Tensor) -> Tensor:
    """A network for images, on the frames of clips [B, T, C, H, W]: [B, T, C', H', W']."""
    frames: Tensor = network(clips.flatten(0, 1))
    return frames.view(clips.shape[:2] + frames.shape[1:])
