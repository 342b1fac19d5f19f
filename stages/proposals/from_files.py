"""Reads proposals from files of the user, one file per video. Imports no torch."""

from pathlib import Path

import numpy as np

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.proposals.box_files import BoxFileError, VideoBoxes, boxes_in_pixels, read_boxes
from kinegraph.stages.proposals.options import FileOptions
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals, ProposalError

CLOCK_NOISE_SECONDS = 1e-6  # tolerance, because times in files are rounded


class FileSource:
    """A source of proposals that reads the boxes of each video from a file of the user. `options` say where the files
    are, and what their numbers mean. The boxes of the last file stay in memory for the next clips of the same video.
    """

    digest = ""

    def __init__(self, options: FileOptions) -> None:
        self.options = options
        self._last: tuple[str, VideoBoxes] | None = None

    def propose(self, frames: ClipFrames) -> ClipProposals:
        path = self.options.file_of(frames.video_id)
        try:
            video_boxes = self._read(path)
            places = self._places(video_boxes, frames)
            boxes = boxes_in_pixels(video_boxes, self.options, frames.width, frames.height)
        except FileNotFoundError:
            raise ProposalError("missing", f"no box file {path} for {frames.video_id}") from None
        except (BoxFileError, OSError) as error:
            raise ProposalError("unreadable", f"box file {path} of {frames.video_id}: {error}") from error
        kept = [self._best(boxes, video_boxes, place) for place in places]
        out = ClipProposals.empty(len(kept), self.options.top, has_labels=video_boxes.labels is not None)
        for t, rows in enumerate(kept):
            out.boxes[t, : len(rows)] = boxes[rows]
            out.scores[t, : len(rows)] = video_boxes.scores[rows]
            out.count[t] = len(rows)
            if out.labels is not None and video_boxes.labels is not None:
                out.labels[t, : len(rows)] = video_boxes.labels[rows]
        return out

    def _read(self, path: str) -> VideoBoxes:
        if self._last is None or self._last[0] != path:
            self._last = path, read_boxes(Path(path), self.options.frames, self.options.labels)
        return self._last[1]

    def _places(self, video_boxes: VideoBoxes, frames: ClipFrames) -> np.ndarray:
        """Finds the frames of a clip in the file of boxes. Returns for each frame of the clip the index of the nearest
        frame in `video_boxes.frames`. `video_boxes` is the content of the file. `frames` describes the frames of the
        clip.

        Raises BoxFileError if the file lacks a frame of the clip, or if it states another number of frames than the
        video has.
        """
        wanted, tolerance = frames.seconds, self.options.tolerance_seconds + CLOCK_NOISE_SECONDS
        if self.options.frames == "index":
            assert frames.numbers is not None
            if video_boxes.num_frames is None:
                raise BoxFileError("has no num_frames, which must be there where frames are named by index")
            if video_boxes.num_frames != frames.video_frames:
                raise BoxFileError(
                    f"was made for {counted(video_boxes.num_frames, 'frame')}, the video has {frames.video_frames}"
                )
            wanted, tolerance = frames.numbers, 0.0
        after = np.searchsorted(video_boxes.frames, wanted).clip(1, max(1, len(video_boxes.frames) - 1))
        before = after - 1
        after = np.minimum(after, len(video_boxes.frames) - 1)
        nearest = np.where(video_boxes.frames[after] - wanted < wanted - video_boxes.frames[before], after, before)
        far = np.abs(video_boxes.frames[nearest] - wanted) > tolerance
        if far.any():
            raise BoxFileError(
                f"lists no frame at {self.options.frames} {wanted[far][0]:g}, the nearest is "
                f"{video_boxes.frames[nearest[far][0]]:g}; "
                f"{counted(len(video_boxes.frames), 'frame is', 'frames are')} listed"
            )
        return nearest

    def _best(self, boxes: np.ndarray, video_boxes: VideoBoxes, place: int) -> np.ndarray:
        """Returns the indices in `boxes` of the best boxes of one frame, at most `top` of them, best score first. Boxes
        without area are left out.

        `boxes` [boxes, 4] are the boxes of all frames of the file `video_boxes`, as (x1, y1, x2, y2). `place` is the
        index of the frame in `video_boxes.frames`.
        """
        rows = np.arange(video_boxes.starts[place], video_boxes.starts[place + 1])
        rows = rows[(boxes[rows, 2:] > boxes[rows, :2]).all(1)]
        return rows[np.argsort(-video_boxes.scores[rows], kind="stable")][: self.options.top]
