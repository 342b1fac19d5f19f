"""Keeps the last frames of a video in memory, for clips that share frames with the clips before them, as windows do.
Torch-free.
"""

from collections import deque
from collections.abc import Iterator

from kinegraph.stages.decode.stream import OpenVideo, TimedFrame

KEPT_BYTES = 256 * 1024**2  # of one video; beyond it nothing is kept, and the next pass seeks or reads from the start
PIXEL_BYTES = 2  # of a decoded frame: 1.5 with 8 bits in 4:2:0, 3 with 10 bits


class OverlappingFrames:
    """Yields the frames of an open video: first the frames that an earlier pass kept in `video.again`, then the next
    frames of the file.

    Keeps the frames that the next pass may need again: the frame that is shown at the time `since` (in seconds) and all
    later frames.
    """

    def __init__(self, video: OpenVideo, since: float) -> None:
        self._video, self._since = video, since
        self._again, video.again = deque(video.again), []
        self._kept: deque[TimedFrame] = deque()
        self._most = KEPT_BYTES

    @property
    def latest(self) -> TimedFrame | None:
        """Returns the frame before the next one that `frames` yields, or None before the first."""
        return None if self._again else self._video.latest

    def frames(self, deadline: float) -> Iterator[TimedFrame]:
        """Yields the frames in the order of time: first the kept ones, then the next frames of the file. Raises
        DecodeError (`timeout`) once time.monotonic() is later than `deadline`, and the other errors of
        `OpenVideo.frames`.
        """
        while self._again:
            yield self._noted(self._again.popleft())
        for shown in self._video.frames(deadline):
            yield self._noted(shown)

    def _noted(self, shown: TimedFrame) -> TimedFrame:
        self._kept.append(shown)
        while len(self._kept) > 1 and self._kept[1].seconds - self._video.slack_seconds <= self._since:
            self._kept.popleft()
        if len(self._kept) * shown.frame.width * shown.frame.height * PIXEL_BYTES > self._most:
            self._kept.clear()
            self._most = 0
        return shown

    def forget(self) -> None:
        """Drops all kept frames, because a seek has left a gap after them."""
        self._again.clear()
        self._kept.clear()

    def leave(self) -> None:
        """Stores the kept frames in `video.again`, where the next pass over the video finds them."""
        self._video.again = [*self._kept]
