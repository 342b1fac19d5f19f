"""Classifies clips from one vector per frame, as in "Spatio-Temporal Scene Graph Network" (ST-SGN), sections 3.3 and 4.
A clip is cut into slices of time, each slice is reduced to one vector, and the vectors are classified.

Shapes: B clips, T frames, D numbers of a frame vector, K slices of all clips together, L frames of the longest slice, H
hidden width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

Reducer = Literal["max", "mean", "gru", "bigru"]


class SliceClassifier(nn.Module):
    """Classifies clips from one vector per frame. A clip is cut into slices of time, and each slice is classified. The
    logit of a class is the largest logit over the slices.

    `forward(frames, times, valid)` returns logits [B, num_classes]. `frames` [B, T, D] has the vectors, with D =
    `width`. `times` [B, T] are the times of the frames in seconds, in ascending order. `valid` [B, T] is false for
    frames to leave out. A clip without a valid frame has the logits of a zero vector.

    - `slice_seconds`: the length of a slice. None means that the whole clip is one slice.
    - `reducer`: how the frames of a slice are reduced to one vector: "max", "mean", "gru" or "bigru".
    - `hidden`: the length of the vector of a slice.
    - `dropout`: the probability of dropout before the classifier, from 0 to 1.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        reducer: Reducer,
        hidden: int,
        dropout: float,
        slice_seconds: float | None,
    ) -> None:
        super().__init__()
        self.reducer, self.slice_seconds = reducer, slice_seconds
        if reducer in ("max", "mean"):
            self.linear = nn.Linear(width, hidden)
        else:
            directions = 2 if reducer == "bigru" else 1
            self.gru = nn.GRU(width, hidden // directions, batch_first=True, bidirectional=reducer == "bigru")
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, frames: Tensor, times: Tensor, valid: Tensor) -> Tensor:
        clip, padded, lengths = self._slices(frames, times, valid)
        logits = self.fc(self.dropout(self._reduce(padded, lengths)))  # [K, num_classes]
        largest = logits.new_zeros(len(frames), logits.shape[1]) + self.fc.bias.to(logits.dtype)
        index = clip[:, None].expand_as(logits)
        highest: Tensor = largest.scatter_reduce(0, index, logits, "amax", include_self=False)
        return highest

    def _slices(self, frames: Tensor, times: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cuts clips into slices of `slice_seconds`. Returns (index of the clip of each slice [K], vectors of the valid
        frames of each slice [K, L, D], number of these frames [K]). K is the number of slices of all clips that have a
        valid frame. L is the length of the longest slice. Shorter slices are followed by zeros.

        `frames` [B, T, D] has a vector of D numbers for each of T frames of B clips. `times` [B, T] are in seconds.
        `valid` [B, T] is true for valid frames.
        """
        clip, frame = valid.nonzero(as_tuple=True)  # in order of clip, then time
        slice_number = torch.zeros_like(clip)
        if self.slice_seconds is not None:
            slice_number = (times[clip, frame] / self.slice_seconds).floor().long()
        clip_and_number, which, lengths = torch.unique_consecutive(
            torch.stack([clip, slice_number]), dim=1, return_inverse=True, return_counts=True
        )
        position = torch.arange(len(clip), device=clip.device) - (lengths.cumsum(0) - lengths)[which]
        padded = frames.new_zeros(len(lengths), int(lengths.max()) if len(lengths) else 0, frames.shape[2])
        padded[which, position] = frames[clip, frame]
        return clip_and_number[0], padded, lengths

    def _reduce(self, padded: Tensor, lengths: Tensor) -> Tensor:
        """Reduces the frames of each slice to one vector and returns the vectors, [K, H] for K slices and H hidden
        numbers.

        `padded` [K, L, D] has the vectors of up to L frames of each slice, with D numbers, and zeros after the last
        frame. `lengths` [K] is the number of frames of each slice.
        """
        # Parameters take part even without a frame, because processes that share a batch wait for each gradient.
        if len(padded) == 0:
            one_frame = F.pad(padded, (0, 0, 0, 1, 0, 1))  # [1, 1, D] of zeros
            return self._reduce(one_frame, lengths.new_ones(1))[:0]
        if self.reducer in ("gru", "bigru"):
            packed = pack_padded_sequence(padded, lengths.cpu(), batch_first=True, enforce_sorted=False)
            _, last = self.gru(packed)  # [directions, K, H / directions]
            states: Tensor = last.transpose(0, 1).flatten(1)
            return states
        inside = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
        if self.reducer == "max":
            reduced = padded.masked_fill(~inside[..., None], -torch.inf).amax(1)
        else:
            reduced = padded.sum(1) / lengths[:, None]
        activated: Tensor = self.linear(reduced).relu()
        return activated
