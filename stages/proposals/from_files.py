"""Takes proposals from files that a user already has, one file per video. Imports no torch."""

from pathlib import Path

import numpy as np

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.proposals.box_files import BoxFileError, VideoBoxes, boxes_in_pixels, read_boxes
from kinegraph.stages.proposals.options import FileOptions
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals, ProposalError

CLOCK_NOISE_SECONDS = 1e-6  # tolerance, because times in files are rounded


class FileSource:
    """A source that reads the boxes of each video from the file of that video. The boxes of the last file stay in
    memory.
    """

    digest = ""

    def __init__(self, options: FileOptions) -> None:
        self.options = options
        self._last: tuple[str, VideoBoxes] | None = None

    def propose(self, frames: ClipFrames) -> ClipProposals:
        path = self.options.file_of(frames.video_id)
        try:
            listed = self._read(path)
            places = self._places(listed, frames)
            boxes = boxes_in_pixels(listed, self.options, frames.width, frames.height)
        except FileNotFoundError:
            raise ProposalError("missing", f"no box file {path} for {frames.video_id}") from None
        except (BoxFileError, OSError) as error:
            raise ProposalError("unreadable", f"box file {path} of {frames.video_id}: {error}") from error
        kept = [self._best(boxes, listed, place) for place in places]
        out = ClipProposals.empty(len(kept), self.options.top, has_labels=listed.labels is not None)
        for t, rows in enumerate(kept):
            out.boxes[t, : len(rows)] = boxes[rows]
            out.scores[t, : len(rows)] = listed.scores[rows]
            out.count[t] = len(rows)
            if out.labels is not None and listed.labels is not None:
                out.labels[t, : len(rows)] = listed.labels[rows]
        return out

    def _read(self, path: str) -> VideoBoxes:
        if self._last is None or self._last[0] != path:
            self._last = path, read_boxes(Path(path), self.options.frames, self.options.labels)
        return self._last[1]

    def _places(self, listed: VideoBoxes, frames: ClipFrames) -> np.ndarray:
        """Returns for each frame of a clip the index in `listed.frames` of the nearest frame there. `listed` has the
        content of the file of boxes, and `frames` has the frames of the clip.

        Raises BoxFileError if the file lacks a frame of the clip. Raises it also if the file states another number of
        frames than the video has.
        """
        wanted, tolerance = frames.seconds, self.options.tolerance_seconds + CLOCK_NOISE_SECONDS
        if self.options.frames == "index":
            assert frames.numbers is not None
            if listed.num_frames is None:
                raise BoxFileError("has no num_frames, which must be there where frames are named by index")
            if listed.num_frames != frames.video_frames:
                raise BoxFileError(
                    f"was made for {counted(listed.num_frames, 'frame')}, the video has {frames.video_frames}"
                )
            wanted, tolerance = frames.numbers, 0.0
        after = np.searchsorted(listed.frames, wanted).clip(1, max(1, len(listed.frames) - 1))
        before = after - 1
        after = np.minimum(after, len(listed.frames) - 1)
        nearest = np.where(listed.frames[after] - wanted < wanted - listed.frames[before], after, before)
        far = np.abs(listed.frames[nearest] - wanted) > tolerance
        if far.any():
            raise BoxFileError(
                f"lists no frame at {self.options.frames} {wanted[far][0]:g}, the nearest is "
                f"{listed.frames[nearest[far][0]]:g}; {counted(len(listed.frames), 'frame is', 'frames are')} listed"
            )
        return nearest

    def _best(self, boxes: np.ndarray, listed: VideoBoxes, place: int) -> np.ndarray:
        """Returns the indices in `boxes` of the best boxes of one frame, at most `top` of them, best score first. Boxes
        without area are left out.

        `boxes` [boxes, 4] are the boxes of all frames of the file `listed`, as x1, y1, x2, y2. `place` is the position
        of the frame in the list of frames of the file.
        """
        rows = np.arange(listed.starts[place], listed.starts[place + 1])
        rows = rows[(boxes[rows, 2:] > boxes[rows, :2]).all(1)]
        return rows[np.argsort(-listed.scores[rows], kind="stable")][: self.options.top]
