"""Keeps the last frames of a video in memory, for clips that share frames with earlier clips, such as overlapping
windows. Torch-free.
"""

from collections import deque
from collections.abc import Iterator

from kinegraph.stages.decode.stream import OpenVideo, TimedFrame

KEPT_BYTES = 256 * 1024**2  # of one video; beyond it nothing is kept, and the next pass seeks or reads from the start
PIXEL_BYTES = 2  # of a decoded frame: 1.5 with 8 bits in 4:2:0, 3 with 10 bits


class OverlappingFrames:
    """Yields the frames of the open video `video`: first the frames that an earlier pass kept in memory, then the next
    frames of the file.

    Keeps these frames in memory for the next pass: the frame that is shown at the time `since`, in seconds, and all
    frames after it. Keeps nothing if the frames need more memory than KEPT_BYTES.
    """

    def __init__(self, video: OpenVideo, since: float) -> None:
        self._video, self._since = video, since
        self._repeated, video.kept_frames = deque(video.kept_frames), []
        self._kept: deque[TimedFrame] = deque()
        self._max_bytes = KEPT_BYTES

    @property
    def latest(self) -> TimedFrame | None:
        """Returns the last frame that was read from the file. Returns None before the first frame, and until `frames`
        has yielded all frames that an earlier pass kept.
        """
        return None if self._repeated else self._video.latest

    def frames(self, deadline: float) -> Iterator[TimedFrame]:
        """Yields a TimedFrame (a frame and its time) for each frame in the order of time: first the kept frames, then
        the next frames of the file. Raises DecodeError (`timeout`) once time.monotonic() is later than `deadline`, and
        the other errors of `OpenVideo.frames`.
        """
        while self._repeated:
            yield self._keep(self._repeated.popleft())
        for timed_frame in self._video.frames(deadline):
            yield self._keep(timed_frame)

    def _keep(self, timed_frame: TimedFrame) -> TimedFrame:
        self._kept.append(timed_frame)
        while len(self._kept) > 1 and self._kept[1].seconds - self._video.slack_seconds <= self._since:
            self._kept.popleft()
        if len(self._kept) * timed_frame.frame.width * timed_frame.frame.height * PIXEL_BYTES > self._max_bytes:
            self._kept.clear()
            self._max_bytes = 0
        return timed_frame

    def forget(self) -> None:
        """Drops all kept frames. Call this after a seek, because the frames between the kept frames and the next frame
        are then missing.
        """
        self._repeated.clear()
        self._kept.clear()

    def keep_for_next_pass(self) -> None:
        """Stores the kept frames in `video.kept_frames`. The next pass over the video yields them first."""
        self._video.kept_frames = [*self._kept]
