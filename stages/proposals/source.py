"""Defines the contract of a source of proposals, its input and its result. A proposal is a box that may hold an object.
Imports no torch.

Shapes: T frames, N proposals of a frame, frames of h rows and w columns.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from kinegraph.cache_schemas.ledger import Reason
from kinegraph.stages.regions.geometry import boxes_in_crop, overlaps


@dataclass(frozen=True, kw_only=True)
class ClipFrames:
    """The input of a source of proposals: T frames of one clip.

    A `PixelSource` may get frames of several clips at once, from videos of equal size. `video_id` is then "", `seconds`
    are NaN, and the fields after `pixels` are not set.
    """

    # The id of the whole video, for example `a/b.mp4`, even if the clip comes from an interval of the video
    video_id: str
    # `width`, `height`: the size of the video in px
    width: int
    height: int
    seconds: np.ndarray  # [T] float64, the presentation times of the frames
    # [T, h, w, 3] uint8 RGB, the frames, resized to the `input_size` of the source's options. None if the source needs
    # no pixels.
    pixels: np.ndarray | None = None
    # [T] int64, the numbers of the frames in the video, from 0. The numbers are valid only if `takes_numbers` of the
    # source's options is true.
    numbers: np.ndarray | None = None
    video_frames: int = 0  # the number of frames of the video, valid only if `numbers` is valid
    # The numbers of the frames in the video, from 0, if the clip consists of annotated frames of the data set. None for
    # other clips.
    annotated: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ClipProposals:
    """The proposals of one clip of T frames, with at most N boxes for each frame."""

    boxes: np.ndarray  # [T, N, 4] float32, (x1, y1, x2, y2) in pixels of the video
    scores: np.ndarray  # [T, N] float32
    # [T] int16, the number of boxes of each frame. `boxes` and `scores` are 0 after the last box of a frame.
    count: np.ndarray
    # [T, N] int16, the class numbers of the boxes, and -1 after the last box of a frame. None if the source states no
    # classes.
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        has_labels = self.labels is None or self.labels.shape == self.scores.shape
        if self.boxes.shape != (*self.scores.shape, 4) or self.scores.shape[:1] != self.count.shape or not has_labels:
            shapes = (f"{name}={list(value.shape)}" for name, value in self.arrays().items())
            raise ValueError(f"shapes do not belong together: {', '.join(shapes)}")

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns {name: array} of the arrays that are not None, for example {"boxes": ..., "scores": ..., "count":
        ...}.
        """
        return {name: values for name, values in vars(self).items() if values is not None}

    @classmethod
    def empty(cls, num_frames: int, top: int, *, has_labels: bool = False) -> "ClipProposals":
        """Returns a ClipProposals without boxes, for the caller to fill in. The result has `num_frames` frames with
        room for `top` boxes in each.

        All values are 0. If `has_labels` is true, the result also has `labels`, which are -1.
        """
        shape = num_frames, top
        return cls(
            boxes=np.zeros((*shape, 4), np.float32),
            scores=np.zeros(shape, np.float32),
            count=np.zeros(num_frames, np.int16),
            labels=np.full(shape, -1, np.int16) if has_labels else None,
        )

    def within(self, crop: tuple[float, float, float, float]) -> "ClipProposals":
        """Returns a copy that has only the boxes that overlap the rectangle `crop`, (x1, y1, x2, y2) in pixels of the
        video.

        The boxes of a frame keep their order and come first. Zeros follow, and -1 in `labels`. Boxes are not clipped to
        the crop.
        """
        top = self.scores.shape[1]
        kept = [
            boxes_in_crop(boxes, scores, int(count), crop, top)
            for boxes, scores, count in zip(self.boxes, self.scores, self.count, strict=True)
        ]
        boxes, scores, count = zip(*kept, strict=True)
        return ClipProposals(
            boxes=np.stack(boxes),
            scores=np.stack(scores),
            count=np.array(count, np.int16),
            labels=self._labels_within(crop),
        )

    def _labels_within(self, crop: tuple[float, float, float, float]) -> np.ndarray | None:
        if self.labels is None:
            return None
        out = np.full_like(self.labels, -1)
        for t, num in enumerate(self.count):
            seen = self.labels[t, :num][overlaps(self.boxes[t, :num], crop)]
            out[t, : len(seen)] = seen
        return out


class ProposalError(Exception):
    """Raised if a source has no proposals for a clip. `reason` is the reason that the ledger records, such as
    "missing". `detail` is the full message.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class ProposalSource(Protocol):
    """A source of region proposals, such as a network or files of boxes. For each frame it returns the best boxes, at
    most `top` of them, by descending score.

    Boxes are (x1, y1, x2, y2) in pixels of the video. They lie within the frame and have an area. They depend on their
    frame alone. tests/stages/proposals/source_contract.py tests these rules.
    """

    @property
    def digest(self) -> str:
        """Returns a digest of the weights for the fingerprint of the stage, or "" if the source has no weights."""

    def propose(self, frames: ClipFrames) -> ClipProposals:
        """Returns the proposals of the clip whose frames are `frames`. Raises ProposalError if the source has none for
        the clip.
        """


@runtime_checkable
class PixelSource(ProposalSource, Protocol):
    """A source of proposals that runs a network on the pixels of frames, and needs nothing more about a clip."""

    @property
    def frames_together(self) -> int:
        """Returns the number of frames that the network should get at once. More frames hardly make it faster. Returns
        1 if the network takes one frame at a time.
        """
