"""Videos that stay open between neighbouring work units, each where it was left. Torch-free."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from kinegraph.stages.decode.opening import on_disk
from kinegraph.stages.decode.stream import OpenVideo, begin_video

FirstWanted = Callable[[float], float]  # the first time that is wanted, s, of a video with a slack of so many seconds
Identity = tuple[int, int, int, int]


class _Left(NamedTuple):
    path: str
    identity: Identity | None
    video: OpenVideo


class OpenVideos:
    """Lends videos to decode; up to `limit` stay open where they were left, so that later times are read on from there.

    Used by any number of threads; a video is lent to one at a time. Close it in the end; what is lent is closed when it
    comes back then. A video in which anything went wrong, or that was read to its end, is not kept.
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit, self._is_closed = limit, False
        self._left: list[_Left] = []
        self._lock = threading.Lock()

    @contextmanager
    def left_before(self, path: str, first_wanted: FirstWanted) -> Iterator[OpenVideo | None]:
        """A video that was left before the first wanted time, where it can go on; None where there is none."""
        left = self._taken(path, first_wanted)
        if left is None:
            yield None
            return
        with self._lent(left) as video:
            yield video

    @contextmanager
    def begun(self, path: str, _: FirstWanted) -> Iterator[OpenVideo]:
        """The video, opened anew. Raises DecodeError."""
        identity = _identity(path)
        with self._lent(_Left(path, identity, begin_video(path))) as video:
            yield video

    def close(self) -> None:
        with self._lock:
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
        """Keep it as the newest; gives what is to be closed."""
        with self._lock:
            if self._is_closed:
                return [left]
            self._left.append(left)
            surplus = self._left[: max(0, len(self._left) - self._limit)]
            self._left = self._left[len(surplus) :]
            return surplus

    def _taken(self, path: str, first_wanted: FirstWanted) -> _Left | None:
        """Of several the one that was left last in the video's time."""
        if not self._left:
            return None
        identity = _identity(path)
        with self._lock:
            fitting = [left for left in self._left if left.path == path and left.identity == identity]
            fitting = [left for left in fitting if _is_before(left.video, first_wanted)]
            left = max(fitting, key=lambda left: _position(left.video), default=None)
            if left is not None:
                self._left.remove(left)
            return left


def _position(video: OpenVideo) -> float:
    return video.latest.seconds if video.latest is not None else 0.0


def _is_before(video: OpenVideo, first_wanted: FirstWanted) -> bool:
    """Whether the frame for the first wanted time is the latest one or follows it."""
    slack = video.slack_seconds
    return _position(video) - slack <= first_wanted(slack)


def _identity(path: str) -> Identity | None:
    """Another file under the same name has another one."""
    try:
        status = os.stat(on_disk(path))  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
