"""The control with objects but without edges: region features, pooled over the whole clip.

B clips, T frames, N regions a frame, C channels.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.heads.head import Classifier, Head, Spec, TapOptions
from stages.heads.inputs import RegionReader, choose_source, masked_mean


class ProposalPoolOptions(TapOptions):
    dim: int | None = Field(512, gt=0, description="width of a linear projection; null: as cached")
    hidden: int | None = Field(None, gt=0, description="width of an MLP applied to each region; null: none")
    concat_global: bool = Field(False, description="also classify the mean of the frame features")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class ProposalPool(Head):
    """Masked mean over all regions of a clip, optionally after an MLP per region.

    With `concat_global` it is "proposals + average pool", the control of Wang and Gupta (2018, table 3): STRG
    without its graphs. As there, one projection serves regions and frame features.
    """

    option_model = ProposalPoolOptions

    def __init__(self, spec: Spec, num_classes: int, options: ProposalPoolOptions) -> None:
        super().__init__()
        self.source = choose_source(spec, ["regions", "pooled"] if options.concat_global else ["regions"], options)
        self.read_regions = RegionReader(spec, self.source, boxes=False)
        self.concat_global = options.concat_global
        self.reads = self.read_regions.reads + ((self.source.pooled,) if options.concat_global else ())
        channels, dim = self.read_regions.channels, options.dim or self.read_regions.channels
        self.project = nn.Linear(channels, dim) if options.dim else nn.Identity()
        self.mlp = _mlp(dim, options.hidden) if options.hidden else nn.Identity()
        self.classifier = Classifier(dim * (1 + options.concat_global), num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        dtype = self.classifier.fc.weight.dtype
        regions = self.read_regions(batch, dtype)
        pooled = masked_mean(self.mlp(self.project(regions.features)), regions.valid)  # [B, C]
        if self.concat_global:
            frames = batch[self.source.pooled].to(dtype)  # [B, T, C]
            pooled = torch.cat([pooled, self.project(frames.mean(1))], 1)  # [B, 2C]
        logits: Tensor = self.classifier(pooled)
        return logits


def _mlp(dim: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim), nn.ReLU())
