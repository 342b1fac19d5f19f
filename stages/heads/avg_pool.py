"""The control without time or objects: mean of the frame features, dropout, linear layer.

B clips, T frames, C channels.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from stages.heads.head import Classifier, Head, Spec, TapOptions
from stages.heads.inputs import choose_source


class AvgPoolOptions(TapOptions):
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class AvgPool(Head):
    """Global average pooling of features/<backbone>/<tap>_pooled [T, C]."""

    option_model = AvgPoolOptions

    def __init__(self, spec: Spec, num_classes: int, options: AvgPoolOptions) -> None:
        super().__init__()
        self.source = choose_source(spec, ["pooled"], options)
        self.reads = (self.source.pooled,)
        self.classifier = Classifier(spec[self.source.pooled][-1], num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        frames = batch[self.source.pooled].to(self.classifier.fc.weight.dtype)  # [B, T, C]
        logits: Tensor = self.classifier(frames.mean(1))
        return logits
