"""A baseline head that uses objects but no graph. It classifies the mean of the region features.

A region is the part of a frame inside a box. Shapes: B clips, T frames, N regions of a frame, C channels.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.heads.head import Classifier, Head, Spec
from kinegraph.stages.heads.inputs import masked_mean, mean_over_tracks, missing_arrays
from kinegraph.stages.heads.projected_regions import ProjectedRegionOptions, ProjectedRegions

TRACKS = "tracks/id"


class ProposalPoolOptions(ProjectedRegionOptions):
    hidden: int | None = Field(None, gt=0, description="width of an MLP applied to each region; null: no MLP")
    concat_global: bool = Field(False, description="the mean of the frame features is classified too")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")
    over: Literal["boxes", "tracks"] = Field(
        "boxes", description="tracks: the mean of each track over its frames, then the mean of the tracks"
    )

    def recorded(self) -> dict[str, Any]:
        """Returns the options that a run stores, as {name of the option: value}. The option `over` is left out if it
        has its default, because runs of earlier versions lack this option.
        """
        return self.model_dump(exclude={"over"} if self.over == "boxes" else set())


class ProposalPool(Head):
    """A head that classifies the mean of the region features over all regions of a clip. A region is the part of a
    frame inside a box.

    - `over: tracks`: the mean is taken over the boxes of each track, and then over the tracks.
    - `hidden`: an MLP runs on each region before the mean.
    - `concat_global`: the classifier also gets the projected mean of the frame features. This is STRG without its
      graphs, "proposals + average pool" (Wang and Gupta 2018, table 3).
    """

    option_model = ProposalPoolOptions

    def __init__(self, spec: Spec, num_classes: int, options: ProposalPoolOptions) -> None:
        super().__init__()
        self.read_regions = ProjectedRegions(spec, options, boxes=False, with_mean=options.concat_global)
        self.source, self.reads = self.read_regions.source, self.read_regions.reads
        self.over_tracks = options.over == "tracks"
        if self.over_tracks:
            if TRACKS not in spec:
                raise missing_arrays([TRACKS], spec)
            self.reads += (TRACKS,)
        dim = self.read_regions.channels
        self.project = self.read_regions.make_project()
        self.mlp = _mlp(dim, options.hidden) if options.hidden else nn.Identity()
        self.classifier = Classifier(dim * (1 + options.concat_global), num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        regions, mean = self.read_regions(batch, self.classifier.fc.weight.dtype, self.project)
        features = self.mlp(regions.features)
        if self.over_tracks:
            tracks = self.read_regions.proposals.of_boxes(TRACKS, batch)
            pooled = mean_over_tracks(features, regions.valid, tracks, batch[TRACKS][0].numel())  # [B, C]
        else:
            pooled = masked_mean(features, regions.valid)
        logits: Tensor = self.classifier(pooled if mean is None else torch.cat([pooled, mean], 1))
        return logits

    def boxes_read(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.read_regions.proposals.read(batch)


def _mlp(dim: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim), nn.ReLU())
