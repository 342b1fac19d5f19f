"""A baseline head without time or objects: mean of the features over the frames, dropout, linear layer.

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
    """Classifies the mean over the T frames of the array features/<backbone>/<tap>_pooled [T, C], with C channels.

    The option `consensus` chooses how frames are joined. With `features`, the mean of the frame features is classified.
    With `logits` and `max`, each frame is classified, and the logits of the clip are the mean (`logits`) or the maximum
    (`max`) of the frames' logits, as in TSN (Wang et al. 2016, arXiv 1608.00859, eq. 1). Without dropout, `features`
    and `logits` have equal results.
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
