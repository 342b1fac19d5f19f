"""The head multi-scale TRN, "Temporal Relational Reasoning in Videos" (Zhou et al. 2018, arXiv 1711.08496). It
classifies a clip by the relations among its frames.

Shapes: B clips, T frames, C = `dim` channels, n frames of a tuple, K tuples of n frames, H hidden width.
"""

from collections.abc import Mapping
from itertools import combinations
from math import comb
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.device import upload
from kinegraph.stages.heads.head import ANY_LENGTH, MASK, Classifier, Head, HeadError, Spec, TapOptions
from kinegraph.stages.heads.inputs import choose_source, read_vectors, vector_shape
from kinegraph.stages.heads.padded import evenly

VIDEO_SEGMENTS = 8  # of a whole video, as the authors use of a clip


class TrnOptions(TapOptions):
    dim: int = Field(256, gt=0, description="width of a linear layer on the frame features")
    hidden: int = Field(256, gt=0, description="width of a relation")
    num_segments: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="frames of a clip, or windows of a whole video, that are taken evenly and related; null: all "
        f"frames of a clip, {VIDEO_SEGMENTS} windows of a video",
    )
    num_tuples: int = Field(3, gt=0, description="most tuples of n frames, for each n")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the classifier")


class Trn(Head):
    """A head that compares frames in tuples of n, for each n from 2 to T, and classifies all comparisons together. It
    reads features/<backbone>/<tap>_pooled [T, C].

    For each n, a network computes one vector per clip from tuples of n frames. A linear layer classifies the T - 1
    vectors, joined to one. Deviation from the authors' code: tuples are drawn at random only in training.

    T is the option `num_segments`: T evenly spaced frames of a clip, or windows of a whole video. By default, the head
    takes all frames of a clip, or VIDEO_SEGMENTS windows. With C = `dim` and H = `hidden`, the head has about C H T^2 /
    2 parameters.
    """

    option_model = TrnOptions
    reads_sequences: ClassVar[bool] = True

    def __init__(self, spec: Spec, num_classes: int, options: TrnOptions) -> None:
        super().__init__()
        self.source = choose_source(spec, ["pooled"], options)
        self.reads = (self.source.pooled,)
        cached, channels = vector_shape(spec[self.source.pooled])
        num_frames = options.num_segments or cached or VIDEO_SEGMENTS
        if cached != ANY_LENGTH and not 2 <= num_frames <= cached:
            words = f"{self.source.pooled} has {cached} in a clip, and at least {max(2, num_frames)} are needed"
            raise HeadError(f"Head trn relates frames. {words}.")
        self.takes_all = num_frames == cached
        self.num_frames, self.num_tuples = num_frames, options.num_tuples
        self.project = nn.Sequential(nn.Linear(channels, options.dim), nn.ReLU())
        self.relations = nn.ModuleList(Relation(num_frames, n, options) for n in range(2, num_frames + 1))
        self.classifier = Classifier(len(self.relations) * options.hidden, num_classes, options.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        frames = read_vectors(batch, self.source.pooled, self.classifier.fc.weight.dtype)
        if not self.takes_all:
            frames = evenly(frames, batch.get(MASK), self.num_frames)
        frames = self.project(frames)  # [B, T, C]
        drawn = self._draw(frames.device) if self.training else [None] * len(self.relations)
        sums = [relation(frames, tuples) for relation, tuples in zip(self.relations, drawn, strict=True)]
        logits: Tensor = self.classifier(torch.cat(sums, 1))  # of [B, (T - 1) H]
        return logits

    def _draw(self, device: torch.device) -> list[Tensor]:
        """Draws new tuples of n frame numbers for each n = 2 to T, where T is the number of frames. Returns a list with
        one tensor [K, n] for each n, on `device`. K is `num_tuples`, or the number of all tuples if this number is
        smaller.
        """
        drawn = [draw_tuples(self.num_frames, n, self.num_tuples) for n in range(2, self.num_frames + 1)]
        # in one copy, because each copy waits for the device
        uploaded = upload(torch.cat([tuples.flatten() for tuples in drawn]).numpy(), device)
        parts = torch.split(uploaded, [tuples.numel() for tuples in drawn])
        return [part.view_as(tuples) for part, tuples in zip(parts, drawn, strict=True)]


class Relation(nn.Module):
    """Computes one vector per clip from tuples of n = `length` frames (TRN paper, eq. 1 and 2). `forward` maps frames
    [B, T, C] to vectors [B, H].

    The vector is the sum of g(f_a, f_b, ...) over K tuples of frames a, b, ... in the order of time. f_a is the vector
    of frame a. g is a linear layer with a ReLU on the n joined vectors.
    """

    def __init__(self, num_frames: int, length: int, options: TrnOptions) -> None:
        super().__init__()
        self.g = nn.Sequential(nn.Linear(length * options.dim, options.hidden), nn.ReLU())
        fixed = draw_tuples(num_frames, length, options.num_tuples, torch.Generator().manual_seed(0))
        self.register_buffer("fixed", fixed, persistent=False)
        self.fixed: Tensor

    def forward(self, frames: Tensor, drawn: Tensor | None) -> Tensor:
        """Returns the relation vector of each clip, [B, H] for B clips and H numbers. `frames` [B, T, C] has the
        vectors of T frames, with C channels.

        `drawn` [K, n] has the frame numbers of K tuples of n frames. If it is None, the fixed tuples of the constructor
        are used.
        """
        tuples = self.fixed if drawn is None else drawn
        relations: Tensor = self.g(frames[:, tuples].flatten(2))  # [B, K, n C] -> [B, K, H]
        return relations.sum(1)


def draw_tuples(num_frames: int, length: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draws K different tuples of `length` frame numbers and returns them as int64 [K, length] on the CPU. The numbers
    of a tuple are from 0 to `num_frames` - 1, all different, in ascending order.

    K is `count`, or the number of all such tuples if this number is smaller. `generator` is the random number
    generator. If it is None, torch's global generator is used.
    """
    if comb(num_frames, length) <= count:
        return torch.tensor(list(combinations(range(num_frames), length)), device="cpu")
    drawn: set[tuple[int, ...]] = set()
    while len(drawn) < count:
        order = torch.randperm(num_frames, generator=generator, device="cpu")
        drawn.add(tuple(sorted(order[:length].tolist())))
    return torch.tensor(sorted(drawn), device="cpu")
