"""A baseline head that uses time and space but no objects: ConvLSTM (Shi et al. 2015, arXiv 1506.04214).

Shapes: B clips, T frames, C channels, K hidden channels, H rows and W columns of a map.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.heads.head import Classifier, Head, Spec
from kinegraph.stages.heads.inputs import choose_source
from kinegraph.stages.heads.maps import MapOptions, MapReader, each_frame


class ConvLstmOptions(MapOptions):
    dim: int | None = Field(
        512, gt=0, description="width of a 1x1 convolution on the cached maps; null: no convolution"
    )
    hidden: int = Field(256, gt=0, description="channels of the state")
    kernel: Literal[1, 3, 5, 7] = Field(3, description="side of the convolutions, in map cells")
    peephole: bool = Field(
        True, description="the gates see the cell (W_ci, W_cf, W_co), which limits the head to one map size"
    )


class ConvLstm(Head):
    """A head that runs one ConvLSTM layer over the cached maps features/<backbone>/<tap> in the order of time. One clip
    of the array is [T frames, C channels, H rows, W columns].

    The head classifies the state of the layer after the last frame, averaged over the positions of the map.
    """

    option_model = ConvLstmOptions

    def __init__(self, spec: Spec, num_classes: int, options: ConvLstmOptions) -> None:
        super().__init__()
        self.source = choose_source(spec, ["maps"], options)
        self.reads = (self.source.maps,)
        self.read_maps = MapReader(spec, self.source, options.dim)
        size = (self.read_maps.height, self.read_maps.width) if options.peephole else None
        self.lstm = ConvLstmLayer(self.read_maps.channels, options.hidden, options.kernel, size)
        self.classifier = Classifier(options.hidden, num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        maps = self.read_maps(batch, self.classifier.fc.weight.dtype)  # [B, T, C, H, W]
        last = self.lstm(maps)[:, -1]  # [B, K, H, W]
        logits: Tensor = self.classifier(last.mean((2, 3)))
        return logits


class ConvLstmLayer(nn.Module):
    """An LSTM layer on maps, with convolutions in place of matrix products (ConvLSTM paper, eq. 3). `forward` maps x
    [B, T, C, H, W] to the states after each frame, [B, T, K, H, W], with K = `hidden` channels.

    The convolutions are `kernel` x `kernel`. If `size` is (H, W), the gates also read the cell (peepholes), and all
    maps must have this size. If `size` is None, there are no peepholes.
    """

    def __init__(self, channels: int, hidden: int, kernel: int, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = nn.Conv2d(channels, 4 * hidden, kernel, padding=kernel // 2)
        self.from_state = nn.Conv2d(hidden, 4 * hidden, kernel, padding=kernel // 2, bias=False)
        self.peepholes = nn.Parameter(torch.zeros(3, hidden, *size)) if size else None

    def forward(self, x: Tensor) -> Tensor:
        inputs = each_frame(self.from_input, x)  # all frames at once: [B, T, 4 K, H, W]
        state = cell = inputs.new_zeros(x.shape[0], self.hidden, *x.shape[3:])
        states = []
        for frame in inputs.unbind(1):
            state, cell = self._step(frame + self.from_state(state), cell)
            states.append(state)
        return torch.stack(states, 1)

    def _step(self, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        enter, forget, leave, content = gates.chunk(4, 1)
        if self.peepholes is not None:
            enter, forget = enter + self.peepholes[0] * cell, forget + self.peepholes[1] * cell
        cell = forget.sigmoid() * cell + enter.sigmoid() * content.tanh()
        if self.peepholes is not None:
            leave = leave + self.peepholes[2] * cell
        return leave.sigmoid() * cell.tanh(), cell
