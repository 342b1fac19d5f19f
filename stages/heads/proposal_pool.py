"""A baseline head with objects but without edges: region features, pooled over the whole clip.

B clips, T frames, N regions a frame, C channels.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.heads.head import Classifier, Head, Spec
from kinegraph.stages.heads.inputs import masked_mean
from kinegraph.stages.heads.projected_regions import ProjectedRegionOptions, ProjectedRegions


class ProposalPoolOptions(ProjectedRegionOptions):
    hidden: int | None = Field(None, gt=0, description="width of an MLP applied to each region; null: none")
    concat_global: bool = Field(False, description="also classify the mean of the frame features")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class ProposalPool(Head):
    """Masked mean over all regions of a clip, optionally after an MLP per region.

    With `concat_global` the head is "proposals + average pool", the control of Wang and Gupta (2018, table 3): STRG
    without its graphs. As in the paper, one projection serves regions and frame features.
    """

    option_model = ProposalPoolOptions

    def __init__(self, spec: Spec, num_classes: int, options: ProposalPoolOptions) -> None:
        super().__init__()
        self.read_regions = ProjectedRegions(spec, options, boxes=False, whole=options.concat_global)
        self.source, self.reads = self.read_regions.source, self.read_regions.reads
        dim = self.read_regions.channels
        self.project = self.read_regions.make_project()
        self.mlp = _mlp(dim, options.hidden) if options.hidden else nn.Identity()
        self.classifier = Classifier(dim * (1 + options.concat_global), num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        regions, whole = self.read_regions(batch, self.classifier.fc.weight.dtype, self.project)
        pooled = masked_mean(self.mlp(regions.features), regions.valid)  # [B, C]
        logits: Tensor = self.classifier(pooled if whole is None else torch.cat([pooled, whole], 1))
        return logits


def _mlp(dim: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim), nn.ReLU())
