"""Takes the annotated boxes of Action Genome as proposals. Imports no torch."""

import logging
from pathlib import PurePosixPath

import numpy as np

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.action_genome.errors import ReleaseError
from kinegraph.stages.action_genome.frames import GenomeFrame
from kinegraph.stages.action_genome.release import open_release
from kinegraph.stages.proposals.options import ActionGenomeBoxOptions
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals, ProposalError

OBJECT_SCORE = 1.0  # a person drew these boxes
MOST_ASPECT = 1.05  # ratio of two aspect ratios; rounding to whole and even pixels stays below

log = logging.getLogger("kinegraph")


class GenomeBoxes:
    """A source of proposals that takes the annotated boxes of Action Genome, at most `options.top` in a frame. Clips
    must consist of annotated frames. `folder` has the two pickles with the annotations. The pickles are read when the
    first clip comes.
    """

    digest = ""

    def __init__(self, options: ActionGenomeBoxOptions, folder: str) -> None:
        self.options, self.folder = options, folder
        self._has_dropped = False

    def propose(self, frames: ClipFrames) -> ClipProposals:
        try:
            release = open_release(self.folder)
        except ReleaseError as error:
            raise ProposalError("unreadable", str(error)) from error
        out = ClipProposals.empty(len(frames.seconds), self.options.top)
        for t, number in enumerate(frames.annotated or ()):
            frame = release.frame(PurePosixPath(frames.video_id).stem, number + 1)
            if frame is None:
                words = f"frame {number + 1} of {frames.video_id} is not annotated now, as it was for index"
                raise ProposalError("missing", words)
            boxes, scores = self._best(frame, frames)
            out.count[t] = len(boxes)
            out.boxes[t, : len(boxes)], out.scores[t, : len(boxes)] = boxes, scores
        return out

    def _best(self, frame: GenomeFrame, frames: ClipFrames) -> tuple[np.ndarray, np.ndarray]:
        """Returns (boxes [n, 4], scores [n]) of the annotated frame: its first n boxes, at most as many as the option
        `top`. Boxes are (x1, y1, x2, y2) in pixels of the video. `frames` states the size of the video.
        """
        boxes, scores = boxes_of(frame, frames.width, frames.height)
        if len(boxes) > self.options.top and not self._has_dropped:
            self._has_dropped = True
            log.warning(
                "%s has %s in frame %d, of which proposals.top keeps the first %d: objects, then persons by score. "
                "Others may have too many as well; this is said once.",
                frames.video_id, counted(len(boxes), "box"), frame.number, self.options.top,
            )  # fmt: skip
        return boxes[: self.options.top], scores[: self.options.top]


def boxes_of(frame: GenomeFrame, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (boxes [n, 4] float32, scores [n] float32) of an annotated frame. Visible objects come first, then
    persons by descending score.

    Boxes are (x1, y1, x2, y2) in pixels of the video, which has `width` x `height` px. Boxes are clipped to the frame,
    and boxes without area are left out. Raises ProposalError if the annotated frame has another aspect ratio than the
    video.
    """
    from_width, from_height = frame.size
    if not 1 / MOST_ASPECT < width * from_height / (height * from_width) < MOST_ASPECT:
        raise ProposalError(
            "unreadable",
            f"the boxes of frame {frame.number} are in a frame of {from_width}x{from_height} px, and the video has "
            f"{width}x{height} px. Is it another video, or turned?",
        )
    listed = [entry.box_xyxy for entry in frame.objects if entry.box_xyxy is not None]
    objects = np.array(listed, np.float64).reshape(-1, 4)
    persons = np.argsort(-frame.person_scores, kind="stable")
    boxes = np.concatenate([objects, frame.persons_xyxy[persons]])
    scores = np.concatenate([np.full(len(objects), OBJECT_SCORE), np.minimum(frame.person_scores[persons], 1.0)])
    sides = np.array([width, height] * 2, np.float64)
    boxes = np.clip(boxes * sides / np.array(frame.size * 2), 0, sides).astype(np.float32)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return boxes[has_area], scores[has_area].astype(np.float32)
