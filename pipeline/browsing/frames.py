"""Decodes frames of clips for the pages of `kinegraph browse`, and makes films that every browser plays. Torch-free.

Few decoders run at the same time, each for a limited time. So a bad video does not block the pages.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.pipeline.caches.videos_at_hand import VideosAtHand
from kinegraph.stages.decode.clips import decode_clips
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.numbered_images import open_images
from kinegraph.stages.decode.open_videos import OpenVideos
from kinegraph.stages.decode.opening import on_disk
from kinegraph.stages.decode.seeking import SeekLost
from kinegraph.stages.decode.stream import PYAV_ERRORS, OpenVideo, open_video
from kinegraph.stages.decode.wanted import LATEST_RULES, Wanted, WholeFrame
from kinegraph.stages.pictures.film import film_ending, writing_film
from kinegraph.stages.pictures.strips import shown_size, webp
from kinegraph.stages.remote.urls import is_url

MAX_STRIP = 16  # frames of a clip that a page shows
DECODE_SECONDS, FILM_SECONDS = 10.0, 60.0  # limits for decoding the frames of a page, and for a film
MAX_FILM_SECONDS, FILM_HEIGHT_PX, MAX_FILMS = 60.0, 480, 16
KEPT_BYTES = 64 << 20
Value = TypeVar("Value")


def strip_places(num_frames: int, every: int = 1) -> list[int]:
    """Returns the numbers of the frames that the page of a clip shows: frame 0 and every `every`-th frame after frame
    0, out of `num_frames`. If there are more than MAX_STRIP such frames, MAX_STRIP of them are returned, evenly spread.
    """
    places = range(0, num_frames, every)
    if len(places) <= MAX_STRIP:
        return [*places]
    return [places[round(step)] for step in np.linspace(0, len(places) - 1, MAX_STRIP)]


class _Once(Generic[Value]):
    """Caches the results of calls by key. If several threads ask for the same key at once, one thread makes the call,
    and the others wait for its result.

    `size` returns the size of a result, and all results together have at most the size `most`. The result that was used
    longest ago is removed first, and `drop` is called with it. If the call raises an error, all waiting threads get the
    error, and nothing is cached.
    """

    def __init__(
        self, most: int, size: Callable[[Value], int], drop: Callable[[Value], object] = lambda value: None
    ) -> None:
        self._most, self._size, self._drop = most, size, drop
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Future[Value]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        with self._lock:
            is_first = key not in self._kept
            future = self._kept.setdefault(key, Future())
            self._kept.move_to_end(key)
        if is_first:
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._kept.pop(key, None)
            self._shrink()
        return future.result()

    def has(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._kept and self._kept[key].done()

    def forget(self, key: Hashable) -> None:
        with self._lock:
            self._kept.pop(key, None)

    def _shrink(self) -> None:
        with self._lock:
            done = [(key, future) for key, future in self._kept.items() if future.done()]
            sizes = {key: self._size(future.result()) for key, future in done}
            total = sum(sizes.values())
            dropped = []
            for key, future in done[:-1]:
                if total <= self._most:
                    break
                total -= sizes[key]
                del self._kept[key]
                dropped.append(future.result())
        for value in dropped:
            self._drop(value)


class FramePictures:
    """Decodes frames of clips to WebP pictures, and clips to films.

    - `videos`: finds the video files.
    - `folder`: the folder for films. The caller deletes it.
    - `rules`: the version of the rules by which the cache chose its frames.
    """

    def __init__(self, videos: VideosAtHand, folder: Path, rules: int = LATEST_RULES) -> None:
        self.videos, self._folder, self._rules = videos, folder, rules
        self._slots = threading.BoundedSemaphore(max(1, len(os.sched_getaffinity(0))))
        self._strips: _Once[dict[int, bytes]] = _Once(KEPT_BYTES, lambda pictures: sum(map(len, pictures.values())))
        self._films: _Once[Path] = _Once(MAX_FILMS, lambda film: 1, lambda film: film.unlink(missing_ok=True))

    def picture(self, number: int, row: ClipRow, place: int, places: Sequence[int]) -> bytes:
        """Returns the frame number `place` of a clip as the bytes of a WebP file. `row` is the row of the clip, and
        `number` its row number.

        `places` are the numbers of all frames that the page shows. The first call for a page decodes all of them.
        Raises DecodeError if the frame cannot be decoded.
        """
        key = (number, self._stamp(row), (*places,))
        return self._strips.get(key, lambda: self._decoded(row, places))[place]

    def middle(self, number: int, row: ClipRow) -> bytes:
        """Returns the frame in the middle of a clip as the bytes of a WebP file. `row` is the row of the clip, and
        `number` its row number. Raises DecodeError if the frame cannot be decoded.
        """
        place = len(row.target_times) // 2
        return self.picture(number, row, place, [place])

    def film(self, number: int, row: ClipRow) -> Path:
        """Returns the path of a video file with the clip, which every browser plays. The file is an mp4 with H.264, or
        a webm with VP9 if PyAV lacks H.264. Only the first MAX_FILM_SECONDS of a longer clip are in the film. `row` is
        the row of the clip, and `number` its row number.

        Raises DecodeError if the clip cannot be decoded.
        """
        key = (number, self._stamp(row))
        target = self._folder / f"{number}-{hash(key):x}{film_ending()}"
        if self._films.has(key) and not target.exists():
            self._films.forget(key)
        return self._films.get(key, lambda: self._filmed(row, target))

    def path(self, row: ClipRow) -> str:
        if not row.is_probed:
            raise DecodeError("unreadable", "no times of frames: the video could not be opened, or was imported")
        path = self.videos.path(row)
        if is_url(path):
            raise DecodeError("missing", f"{path} is at a URL, and browse fetches nothing. Give --videos ROOT.")
        return path

    def _stamp(self, row: ClipRow) -> tuple[str, int, int]:
        """Returns (path, size in bytes, time of change in ns) of the video of `row`. If the file is replaced, the stamp
        changes, so no frame of the old file is shown.
        """
        path = self.path(row)
        try:
            now = Path(on_disk(path)).stat()
        except OSError as error:
            raise DecodeError("missing", f"{path}: {error.strerror}") from error
        return path, now.st_size, now.st_mtime_ns

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(timeout=FILM_SECONDS):
            raise DecodeError("timeout", "all decoders were busy. Load the page again.")
        try:
            yield
        finally:
            self._slots.release()

    def _decoded(self, row: ClipRow, places: Sequence[int]) -> dict[int, bytes]:
        path = self.path(row)
        wanted = Wanted(num_frames=len(places), whole=WholeFrame(network_size=shown_size, every=1), may_repeat=True)
        with self._slot():
            (clip,) = decode_clips(path, [row.at(places)], wanted, DECODE_SECONDS, self._rules, OpenVideos())
        if isinstance(clip, DecodeError):
            raise clip
        assert clip.whole is not None
        return {place: webp(pixels) for place, pixels in zip(places, clip.whole, strict=True)}

    def _filmed(self, row: ClipRow, target: Path) -> Path:
        path, deadline = self.path(row), time.monotonic() + FILM_SECONDS
        with self._slot():
            try:
                _write_film(path, row, target, deadline, skips=row.frame_rate is None)
            except SeekLost:
                _write_film(path, row, target, deadline, skips=False)
        return target


def _write_film(path: str, row: ClipRow, target: Path, deadline: float, *, skips: bool) -> None:
    """Writes the frames of a clip to the video file `target`. `path` is the video, and `row` the row of the clip. With
    `skips`, the decoder skips the part of the video before the clip. Decoding ends at `deadline`, a time of
    `time.monotonic`.

    Raises DecodeError if no frame can be decoded. Raises SeekLost if the decoder skipped to a wrong place.
    """
    start, end = row.start_seconds, min(row.end_seconds, row.start_seconds + MAX_FILM_SECONDS)
    opened = open_video(path) if row.frame_rate is None else open_images(path, row.frame_rate)
    height = min(row.frame_height, FILM_HEIGHT_PX)
    size = _even(row.frame_width * height / row.frame_height), _even(height)
    with opened as video, writing_film(target, size, 1 / (video.frame_period or 1.0)) as film:
        for shown in video.frames(deadline):
            if shown.seconds >= end and film.num_frames:
                break
            if skips and isinstance(video, OpenVideo) and shown.seconds < start:
                video.skip_to(start)
            if shown.seconds + video.frame_period <= start:
                continue
            try:
                picture = Image.fromarray(video.rgb(shown.frame)).resize(size, Image.Resampling.BILINEAR)
            except PYAV_ERRORS as error:
                raise DecodeError(
                    "unreadable", f"the frame at {shown.seconds:.2f} s cannot be shown: {error}"
                ) from error
            film.add(np.asarray(picture), max(0.0, shown.seconds - start))
        if not film.num_frames:
            raise DecodeError("truncated", video.complaints or "not one frame of the clip could be decoded")
        film.end(video.frame_period)


def _even(length: float) -> int:
    return max(2, int(length) // 2 * 2)
