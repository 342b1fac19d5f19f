"""A baseline head that ignores the order of the frames and the objects. It classifies the mean of the features.

Shapes: B clips, T frames, C channels, K classes.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from kinegraph.stages.heads.head import MASK, Classifier, Head, Spec, TapOptions
from kinegraph.stages.heads.inputs import choose_source, read_vectors
from kinegraph.stages.heads.padded import max_over_time, mean_over_time


class AvgPoolOptions(TapOptions):
    consensus: Literal["features", "logits", "max"] = Field(
        "features", description="mean of the features, or mean or maximum of the frames' logits"
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class AvgPool(Head):
    """A head that classifies pooled features by a mean over the frames, dropout and a linear layer. It reads
    features/<backbone>/<tap>_pooled [T, C].

    The option `consensus` chooses how frames are joined:

    - "features": the mean of the frame features is classified.
    - "logits": each frame is classified. The logits of the clip are the mean over the frames.
    - "max": each frame is classified. The logits of the clip are the maximum (TSN, Wang et al. 2016, arXiv 1608.00859,
      eq. 1).
    """

    option_model = AvgPoolOptions
    reads_sequences: ClassVar[bool] = True

    def __init__(self, spec: Spec, num_classes: int, options: AvgPoolOptions) -> None:
        super().__init__()
        self.source = choose_source(spec, ["pooled"], options)
        self.reads = (self.source.pooled,)
        self.consensus = options.consensus
        self.classifier = Classifier(spec[self.source.pooled][-1], num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        frames = read_vectors(batch, self.source.pooled, self.classifier.fc.weight.dtype)  # [B, T, C]
        mask = batch.get(MASK)
        if self.consensus == "features":
            logits: Tensor = self.classifier(mean_over_time(frames, mask))
            return logits
        scores: Tensor = self.classifier(frames)  # [B, T, K]
        return mean_over_time(scores, mask) if self.consensus == "logits" else max_over_time(scores, mask)

    @property
    def class_map_array(self) -> str:
        return "" if self.consensus == "max" or self.source.is_vector else self.source.maps

    def class_maps(self, batch: Mapping[str, Tensor]) -> Tensor:
        if not self.class_map_array:
            return super().class_maps(batch)
        return self.classifier.maps(batch[self.source.maps].to(self.classifier.fc.weight.dtype))
