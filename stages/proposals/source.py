"""Defines what every source of proposals has in common. A proposal is a box that may hold an object. Imports no torch.

Shapes: T frames, N proposals of a frame, frames of h rows and w columns.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from kinegraph.cache_schemas.ledger import Reason
from kinegraph.stages.regions.geometry import boxes_in_crop, overlaps


@dataclass(frozen=True, kw_only=True)
class ClipFrames:
    """The input of a source: T frames of one clip of a video of `width` x `height` px.

    `video_id` is the id of the video, for example `a/b.mp4`, also if the clip is an interval of the video. `seconds`
    [T] float64 are the presentation times of the frames. `pixels` [T, h, w, 3] uint8 RGB are the frames, resized to the
    `input_size` of the source's options. `pixels` is None if the source needs no pixels.

    `numbers` [T] int64 are the numbers of the frames, counted from the start of the video, which has `video_frames`
    frames. They are right only if `takes_numbers` of the source's options is true.

    `annotated` are the numbers of the frames, from 0, if the clip has frames that the data set annotates. Otherwise it
    is None.

    A `PixelSource` may get frames of several clips of videos of one size. `video_id` is then "", `seconds` are NaN, and
    the other facts about a clip are missing.
    """

    video_id: str
    width: int
    height: int
    seconds: np.ndarray
    pixels: np.ndarray | None = None
    numbers: np.ndarray | None = None
    video_frames: int = 0
    annotated: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ClipProposals:
    """The proposals of one clip of T frames, with at most N boxes for each frame.

    `boxes` [T, N, 4] float32 are (x1, y1, x2, y2) in pixels of the video. `scores` is [T, N] float32. `count` [T] int16
    is the number of boxes of each frame. A frame with fewer than N boxes has zeros after its last box, in `boxes` and
    `scores`.

    `labels` [T, N] int16 are the numbers of the boxes' classes, and -1 after the last box of a frame. It is None if the
    source states no classes.
    """

    boxes: np.ndarray
    scores: np.ndarray
    count: np.ndarray
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        has_labels = self.labels is None or self.labels.shape == self.scores.shape
        if self.boxes.shape != (*self.scores.shape, 4) or self.scores.shape[:1] != self.count.shape or not has_labels:
            shapes = (f"{name}={list(value.shape)}" for name, value in self.arrays().items())
            raise ValueError(f"shapes do not belong together: {', '.join(shapes)}")

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns name -> array, for each array that there is."""
        return {name: values for name, values in vars(self).items() if values is not None}

    @classmethod
    def empty(cls, num_frames: int, top: int, *, has_labels: bool = False) -> "ClipProposals":
        """Returns a ClipProposals of `num_frames` frames without any box. Its arrays are zeros, with room for `top`
        boxes per frame. If `has_labels` is true, it also has `labels`, which are -1.

        The caller fills in the boxes.
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
    """Raised if a source has no proposals for a clip. `reason` is a reason for a failure in the ledger, such as
    "missing".
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class ProposalSource(Protocol):
    """A source of region proposals, which are boxes (x1, y1, x2, y2) in pixels of the frame. It returns
    the best boxes of each frame, by descending score, at most as many as its option `top`.

    Boxes lie within the frame and have an area. The boxes of a frame depend on that frame alone. Two calls with the
    same frame return the same boxes. tests/stages/proposals/source_contract.py tests these rules.
    """

    @property
    def digest(self) -> str:
        """Returns a digest of the weights for the fingerprint of the stage, or "" if the source has no weights."""

    def propose(self, frames: ClipFrames) -> ClipProposals:
        """Returns the ClipProposals of the clip that `frames` describes. Raises ProposalError if the source has no
        proposals for it.
        """


@runtime_checkable
class PixelSource(ProposalSource, Protocol):
    """A source that runs a network on the pixels of frames, and needs no other facts about a clip."""

    @property
    def frames_together(self) -> int:
        """Returns the number of frames that the network should get at once. With more frames it is hardly faster.
        Returns 1 if the network takes one frame at a time.
        """
