"""Keeps videos open from one work unit to the next, so that the next unit can read on where the last unit stopped.
Torch-free.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from kinegraph.stages.decode.opening import on_disk
from kinegraph.stages.decode.stream import OpenVideo, begin_video

WAIT_SECONDS = 0.5  # between two checks of the other threads
FirstWanted = Callable[[float], float]  # slack of the video in seconds -> first wanted time, s
Identity = tuple[int, int, int, int]


class _IdleVideo(NamedTuple):
    path: str
    identity: Identity | None
    video: OpenVideo


class OpenVideos:
    """A pool of open videos, for threads that decode. A thread can read on in a video where another thread stopped.
    `lend_new` opens a video and lends it. `lend_open` lends a video that is still open.

    A lent video belongs to one thread for a `with` block. After the block the video stays open at the frame where the
    thread stopped, unless anything went wrong or the video ended. At most `limit` unused videos stay open. Call `close`
    at the end.
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit, self._is_closed = limit, False
        self._idle: list[_IdleVideo] = []
        self._readers: list[tuple[str, float]] = []  # path and first wanted time of each reader, s
        self._changed = threading.Condition()

    @contextmanager
    def lend_open(self, path: str, first_wanted: FirstWanted, *, waits: bool = False) -> Iterator[OpenVideo | None]:
        """Lends an OpenVideo of the file `path` that an earlier work unit left open, for a `with` block. Lends None if
        there is no such video, or if it was read past the first frame that the caller wants.

        `first_wanted` is a function: tolerance of the times of the video, in seconds -> time of the first wanted frame,
        in seconds. If `waits` is true, the call waits for a thread that reads an earlier part of the file.
        """
        with self._announce(path, first_wanted):
            idle = self._take_open(path, first_wanted, waits=waits)
            with nullcontext() if idle is None else self._lend(idle) as video:
                yield video

    @contextmanager
    def lend_new(self, path: str, first_wanted: FirstWanted) -> Iterator[OpenVideo]:
        """Opens the video at `path` and lends it for a `with` block. `first_wanted` takes the tolerance of the video's
        times and returns the time of the first wanted frame, both in seconds. Raises DecodeError if the video cannot be
        opened.
        """
        identity = file_identity(path)
        with self._announce(path, first_wanted), self._lend(_IdleVideo(path, identity, begin_video(path))) as video:
            yield video

    @contextmanager
    def _announce(self, path: str, first_wanted: FirstWanted) -> Iterator[None]:
        """Notes, for the time of a `with` block, that a thread reads the video `path`, and from which time on. Other
        threads that want a later part of the video can then wait for this thread. `first_wanted` returns the time.
        """
        entry = path, first_wanted(0.0)
        with self._changed:
            self._readers.append(entry)
        try:
            yield
        finally:
            with self._changed:
                self._readers.remove(entry)
                self._changed.notify_all()

    def close(self) -> None:
        """Closes all open videos that no thread uses. A video in use is closed when its `with` block ends."""
        with self._changed:
            self._is_closed, closing, self._idle = True, self._idle, []
        for idle in closing:
            idle.video.close()

    @contextmanager
    def _lend(self, idle: _IdleVideo) -> Iterator[OpenVideo]:
        surplus = [idle]
        try:
            with idle.video.collect_messages():
                yield idle.video
            if idle.video.can_continue:
                surplus = self._keep(idle)
        finally:
            for each in surplus:
                each.video.close()

    def _keep(self, idle: _IdleVideo) -> list[_IdleVideo]:
        """Keeps the video `idle` open for later. Returns the videos that the caller must close.

        If more videos than the limit are open, the oldest are returned. After a call of `close`, no video is kept, and
        `idle` itself is returned.
        """
        with self._changed:
            if self._is_closed:
                return [idle]
            self._idle.append(idle)
            surplus = self._idle[: max(0, len(self._idle) - self._limit)]
            self._idle = self._idle[len(surplus) :]
            return surplus

    def _take_open(self, path: str, first_wanted: FirstWanted, *, waits: bool) -> _IdleVideo | None:
        """Removes an open video of the file `path` from the unused videos, and returns the video as an _IdleVideo.
        Returns None if no unused video fits.

        A video fits if its file is unchanged and it was not read past the first wanted frame. If several videos fit,
        the video that was read furthest is returned. `first_wanted` and `waits` are the arguments of `lend_open`.
        """
        if not self._idle and not waits:
            return None
        identity, first = file_identity(path), first_wanted(0.0)
        with self._changed:
            while waits and any(of == path and seconds < first for of, seconds in self._readers):
                self._changed.wait(WAIT_SECONDS)
            fitting = [idle for idle in self._idle if idle.path == path and idle.identity == identity]
            fitting = [idle for idle in fitting if _is_before(idle.video, first_wanted)]
            idle = max(fitting, key=lambda idle: _position(idle.video), default=None)
            if idle is not None:
                self._idle.remove(idle)
            return idle


def _position(video: OpenVideo) -> float:
    """Returns the time in seconds of the first frame that a reader of `video` can still get."""
    first = video.kept_frames[0] if video.kept_frames else video.latest
    return first.seconds if first is not None else 0.0


def _is_before(video: OpenVideo, first_wanted: FirstWanted) -> bool:
    """Returns whether a reader of the open video `video` still gets the first wanted frame. `first_wanted` returns the
    time of this frame in seconds. The result is True also if this frame is the last frame that was read.
    """
    slack = video.slack_seconds
    return _position(video) - slack <= first_wanted(slack)


def file_identity(path: str) -> Identity | None:
    """Returns (device, inode, size in bytes, time of the last change in ns) of the file at `path`. One of these values
    changes if another file takes the place of the file.

    Returns None if the file cannot be read.
    """
    try:
        status = os.stat(on_disk(path))  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
