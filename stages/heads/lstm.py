"""A baseline head that uses time but no objects. An LSTM runs over the features of the frames.

Shapes: B clips, T frames, C channels, H rows and W columns of a map.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.device import through_lstm
from kinegraph.stages.heads.head import MASK, Classifier, Head, HeadError, Spec, TapOptions, are_videos
from kinegraph.stages.heads.inputs import choose_source, read_vectors, vector_shape
from kinegraph.stages.heads.maps import each_frame
from kinegraph.stages.heads.padded import last_of


class LstmOptions(TapOptions):
    hidden: int = Field(512, gt=0, description="width of the LSTM")
    convolutions: int = Field(
        0,
        ge=0,
        description="number of 3x3 convolutions of stride 2 with ReLU on the cached maps, in place of a "
        "mean over positions",
    )
    dim: int = Field(128, gt=0, description="channels of these convolutions")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class Lstm(Head):
    """A head that runs one LSTM layer over pooled features and classifies the state after the last frame. It reads
    features/<backbone>/<tap>_pooled [T, C].

    If the option `convolutions` is greater than 0, the head reads maps [T, C, H, W] and runs convolutions on each map
    before the LSTM. This is the baseline "Conv + LSTM" of the RSTG paper (Nicolicioiu et al., NeurIPS 2019). The paper
    does not state the size of the convolutions.
    """

    option_model = LstmOptions
    reads_sequences: ClassVar[bool] = True

    def __init__(self, spec: Spec, num_classes: int, options: LstmOptions) -> None:
        super().__init__()
        if not options.convolutions and options.dim != LstmOptions.model_fields["dim"].default:
            raise HeadError(f"dim: given {options.dim}, allowed: only with `convolutions`, which have dim channels.")
        if options.convolutions and are_videos(spec):
            words = "0 over whole videos, because they read maps of frames"
            raise HeadError(f"convolutions: given {options.convolutions}, allowed: {words}.")
        kind = "maps" if options.convolutions else "pooled"
        self.source = choose_source(spec, [kind], options)
        self.array = self.source.array(kind)
        self.reads = (self.array,)
        shape = spec[self.array]
        width, size = (shape[1], shape[2:]) if options.convolutions else (vector_shape(shape)[1], ())
        self.convolve: nn.Module | None = None
        if options.convolutions:
            self.convolve = nn.Sequential(*_convolutions(width, options), nn.Flatten())
            shrink = 2**options.convolutions
            width = options.dim * -(-size[0] // shrink) * -(-size[1] // shrink)
        self.lstm = nn.LSTM(width, options.hidden, batch_first=True)
        self.classifier = Classifier(options.hidden, num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        dtype = self.classifier.fc.weight.dtype
        if self.convolve is None:
            frames = read_vectors(batch, self.array, dtype)  # [B, T, C]
        else:
            frames = each_frame(self.convolve, batch[self.array].to(dtype))  # [B, T, C] of maps [B, T, C, H, W]
        states, (last, _) = through_lstm(self.lstm, frames)  # states [B, T, H], last [1, B, H]
        mask = batch.get(MASK)
        logits: Tensor = self.classifier(last[0] if mask is None else last_of(states, mask))
        return logits


def _convolutions(channels: int, options: LstmOptions) -> Iterator[nn.Module]:
    for _ in range(options.convolutions):
        yield nn.Conv2d(channels, options.dim, 3, stride=2, padding=1)
        yield nn.ReLU()
        channels = options.dim
