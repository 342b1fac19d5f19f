"""Keeps videos open between neighbouring work units, each video at the frame where the last unit stopped.
Torch-free.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from kinegraph.stages.decode.opening import on_disk
from kinegraph.stages.decode.stream import OpenVideo, begin_video

WAIT_SECONDS = 0.5  # between two looks at the other threads
FirstWanted = Callable[[float], float]  # slack of the video in seconds -> first wanted time, s
Identity = tuple[int, int, int, int]


class _Left(NamedTuple):
    path: str
    identity: Identity | None
    video: OpenVideo


class OpenVideos:
    """Lends open videos to threads that decode, so that a thread can read on where another thread stopped. `begun`
    opens a video and lends it. `left_before` lends a video that stayed open.

    A lent video belongs to one thread until the thread's `with` block ends. After the block it stays open at the frame
    where the thread stopped. At most `limit` videos stay open, and the oldest is closed first.

    Two kinds of videos are closed at once: a video in which anything went wrong, and a video that was read to its end,
    unless it keeps frames for overlapping windows. Any number of threads may use one `OpenVideos`. Call `close` at the
    end.
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit, self._is_closed = limit, False
        self._left: list[_Left] = []
        self._under_way: list[tuple[str, float]] = []  # path and first wanted time of each reading that has begun
        self._changed = threading.Condition()

    @contextmanager
    def left_before(self, path: str, first_wanted: FirstWanted, *, waits: bool = False) -> Iterator[OpenVideo | None]:
        """Lends an OpenVideo of the file `path` that an earlier work unit left open, for a `with` block. Lends None if
        there is none, or if it was already read past the first wanted frame.

        `first_wanted` returns the time of the first wanted frame in seconds. It is called with the tolerance of the
        times of the video, `OpenVideo.slack_seconds`. With `waits`, this call waits while another thread reads an
        earlier part of the same file, so that the file is read only once.
        """
        with self._noted(path, first_wanted):
            left = self._taken(path, first_wanted, waits=waits)
            with nullcontext() if left is None else self._lent(left) as video:
                yield video

    @contextmanager
    def begun(self, path: str, first_wanted: FirstWanted) -> Iterator[OpenVideo]:
        """Opens the video at `path` and lends it for a `with` block. `first_wanted` returns the time of the first
        wanted frame in seconds. Raises DecodeError where the video cannot be opened.
        """
        identity = file_identity(path)
        with self._noted(path, first_wanted), self._lent(_Left(path, identity, begin_video(path))) as video:
            yield video

    @contextmanager
    def _noted(self, path: str, first_wanted: FirstWanted) -> Iterator[None]:
        """Notes, for the time of a `with` block, that a thread reads the video `path`, and from which time on. Other
        threads that want a later part of the same video can then wait for this thread. `first_wanted` returns the time.
        """
        entry = path, first_wanted(0.0)
        with self._changed:
            self._under_way.append(entry)
        try:
            yield
        finally:
            with self._changed:
                self._under_way.remove(entry)
                self._changed.notify_all()

    def close(self) -> None:
        """Closes all open videos that no caller uses. A video in use is closed when its caller leaves the `with`
        block.
        """
        with self._changed:
            self._is_closed, closing, self._left = True, self._left, []
        for left in closing:
            left.video.close()

    @contextmanager
    def _lent(self, left: _Left) -> Iterator[OpenVideo]:
        surplus = [left]
        try:
            with left.video.heard():
                yield left.video
            if left.video.may_go_on:
                surplus = self._kept(left)
        finally:
            for each in surplus:
                each.video.close()

    def _kept(self, left: _Left) -> list[_Left]:
        """Keeps the video `left` open for later. Returns the videos that the caller must close.

        If more videos than the limit are kept, the oldest are returned. After a call of `close`, no video is kept, and
        `left` itself is returned.
        """
        with self._changed:
            if self._is_closed:
                return [left]
            self._left.append(left)
            surplus = self._left[: max(0, len(self._left) - self._limit)]
            self._left = self._left[len(surplus) :]
            return surplus

    def _taken(self, path: str, first_wanted: FirstWanted, *, waits: bool) -> _Left | None:
        """Removes an open video of the file `path` from the kept videos, and returns it as a _Left. Returns None if no
        kept video fits.

        A video fits if its file is unchanged and it was not read past the first wanted frame. If several videos fit,
        the one that was read furthest is returned. `first_wanted` is a function: tolerance of the times of a video ->
        first wanted time, both in seconds.
        """
        if not self._left and not waits:
            return None
        identity, first = file_identity(path), first_wanted(0.0)
        with self._changed:
            while waits and any(of == path and seconds < first for of, seconds in self._under_way):
                self._changed.wait(WAIT_SECONDS)
            fitting = [left for left in self._left if left.path == path and left.identity == identity]
            fitting = [left for left in fitting if _is_before(left.video, first_wanted)]
            left = max(fitting, key=lambda left: _position(left.video), default=None)
            if left is not None:
                self._left.remove(left)
            return left


def _position(video: OpenVideo) -> float:
    """Returns the time in seconds of the first frame that a reader of `video` can still get."""
    first = video.again[0] if video.again else video.latest
    return first.seconds if first is not None else 0.0


def _is_before(video: OpenVideo, first_wanted: FirstWanted) -> bool:
    """Returns whether the reader of an open video can still get the first wanted frame without going back.
    `first_wanted` returns the time of this frame in seconds.

    The result is True also if this frame was the last one that was read.
    """
    slack = video.slack_seconds
    return _position(video) - slack <= first_wanted(slack)


def file_identity(path: str) -> Identity | None:
    """Returns the Identity of the file at `path`: device, inode, size and time of the last change. One of these values
    differs if the file was replaced by another file.

    Returns None where the file cannot be read.
    """
    try:
        status = os.stat(on_disk(path))  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
