"""The control with time but without objects: an LSTM over frame features.

B clips, T frames, C channels, H hidden.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from stages.heads.head import Classifier, Head, Spec, TapOptions
from stages.heads.inputs import choose_source


class LstmOptions(TapOptions):
    hidden: int = Field(512, gt=0, description="width of the LSTM")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class Lstm(Head):
    """One LSTM layer over features/<backbone>/<tap>_pooled [T, C]; its last state is classified."""

    option_model = LstmOptions

    def __init__(self, spec: Spec, num_classes: int, options: LstmOptions) -> None:
        super().__init__()
        self.source = choose_source(spec, ["pooled"], options)
        self.reads = (self.source.pooled,)
        self.lstm = nn.LSTM(spec[self.source.pooled][-1], options.hidden, batch_first=True)
        self.classifier = Classifier(options.hidden, num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        frames = batch[self.source.pooled].to(self.classifier.fc.weight.dtype)  # [B, T, C]
        _, (last, _) = self.lstm(frames)  # last [1, B, H]
        logits: Tensor = self.classifier(last[0])
        return logits
