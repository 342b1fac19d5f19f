"""The linear probe, which classifies one vector of a clip by a linear layer. Several copies are trained side by side,
with different learning rates.

Shapes: B clips, T frames, C channels, H rows and W columns of a map, K classes.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kinegraph.stages.heads.candidates import (
    DECAYS,
    RATES,
    CandidateHead,
    CandidateOptions,
    Decay,
    Rate,
)
from kinegraph.stages.heads.head import MASK, Classifier, Spec
from kinegraph.stages.heads.padded import mean_over_time

# DINOv2's, whose optimiser is SGD without weight decay; it multiplies them by the batch size over 256
LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)


class LinearProbeOptions(CandidateOptions):
    read: Literal["pooled", "maps"] = Field(
        "pooled",
        description="pooled: the mean over time of pooled features, or of class tokens (`tap: <tap>_class`); maps: the "
        "mean over time, rows and columns",
    )
    learning_rates: tuple[Rate, ...] = Field(LEARNING_RATES, min_length=1, description=RATES)
    weight_decays: tuple[Decay, ...] = Field((0.0,), min_length=1, description=DECAYS)


class LinearProbe(CandidateHead):
    """A head that classifies the mean of the features over the clip by a linear layer. Several copies of the layer are
    trained together, with different learning rates and weight decays.

    The default learning rates are those of DINOv2 (Oquab et al. 2023, arXiv 2304.07193). As in DINOv2, the first
    weights have a standard deviation of 0.01, and biases start at 0.
    """

    option_model = LinearProbeOptions
    reads_sequences: ClassVar[bool] = True

    def __init__(self, spec: Spec, num_classes: int, options: LinearProbeOptions) -> None:
        super().__init__()
        channels = self.choose_array(spec, options.read, options)
        self.reads = (self.array,)
        self.add_candidates(Classifier(channels, num_classes, dropout=0.0), options)

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor]:
        x = batch[self.array].to(next(self.parameters()).dtype)
        if x.ndim == 5:
            return (x.mean((1, 3, 4)),)
        return (x if x.ndim == 2 else mean_over_time(x, batch.get(MASK)),)  # an output of the whole clip is [B, C]

    @property
    def class_map_array(self) -> str:
        return "" if self.source.is_vector else self.source.maps

    def class_maps(self, batch: Mapping[str, Tensor]) -> Tensor:
        if not self.class_map_array:
            return super().class_maps(batch)
        x = batch[self.source.maps].to(next(self.parameters()).dtype)
        probes = [probe for probe in self.probes if isinstance(probe, Classifier)]
        return torch.stack([probe.maps(x) for probe in probes]).mean(0)
