"""A baseline head that ignores the order of the frames and the objects. An MLP runs on the features of each frame.

Shapes: B clips, T frames, C channels, H hidden width.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.heads.head import MASK, Classifier, Head, Spec, TapOptions
from kinegraph.stages.heads.inputs import choose_source, read_vectors
from kinegraph.stages.heads.padded import max_over_time, mean_over_time


class MlpOptions(TapOptions):
    hidden: int = Field(512, gt=0, description="width of the hidden layers")
    layers: int = Field(1, ge=1, le=16, description="number of hidden layers, each a linear layer with ReLU")
    consensus: Literal["mean", "max"] = Field("mean", description="how the last hidden layers of the frames are joined")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class Mlp(Head):
    """A head that runs hidden layers on the pooled features of each frame, joins the frames by their mean or maximum,
    and classifies the result. It reads features/<backbone>/<tap>_pooled, which is [T frames, C channels] for one clip.
    The order of the frames has no influence.
    """

    option_model = MlpOptions
    reads_sequences: ClassVar[bool] = True

    def __init__(self, spec: Spec, num_classes: int, options: MlpOptions) -> None:
        super().__init__()
        self.source = choose_source(spec, ["pooled"], options)
        self.reads = (self.source.pooled,)
        self.consensus = options.consensus
        self.layers = nn.Sequential(*_hidden(spec[self.source.pooled][-1], options))
        self.classifier = Classifier(options.hidden, num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        frames = self.layers(read_vectors(batch, self.source.pooled, self.classifier.fc.weight.dtype))  # [B, T, H]
        join = mean_over_time if self.consensus == "mean" else max_over_time
        logits: Tensor = self.classifier(join(frames, batch.get(MASK)))
        return logits


def _hidden(channels: int, options: MlpOptions) -> Iterator[nn.Module]:
    for _ in range(options.layers):
        yield nn.Linear(channels, options.hidden)
        yield nn.ReLU()
        channels = options.hidden
