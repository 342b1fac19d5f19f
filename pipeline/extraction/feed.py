"""Decodes videos in several threads, ahead of the networks, and puts the pixels of clips together into batches.

A unit is a `WorkUnit`: one shard with the stage keys to compute for it.
"""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.ledger import Source
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.shards.leases import Doing
from kinegraph.stages.clock import ASSEMBLE, DECODE, FETCH, FETCH_WAIT, Clock, summed
from kinegraph.stages.decode.clips import ClipResults, DecodedClip, decode_clips
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.open_videos import OpenVideos
from kinegraph.stages.decode.wanted import LATEST_RULES, Square, Wanted
from kinegraph.stages.remote.options import StagingOptions
from kinegraph.stages.remote.staging import LocalVideo, Staging

Item = TypeVar("Item")
BATCHES_AHEAD = 2
MOST_BYTES_AHEAD = 2**30  # of pixels, up to which each decoder thread has a video beyond two batches of clips
LEFT_OPEN = 2  # videos that a following unit may need again; each holds some decoded frames


@dataclass(kw_only=True)
class PixelBatch:
    """A batch of `batch_size` consecutive rows of one shard, with their decoded pixels. A row is one clip under one
    crop. The last batch of a shard may have fewer rows.
    """

    unit: WorkUnit  # the work unit of the shard
    shard_rows: list[ClipRow]  # all rows of the shard
    offset: int  # the position of the first row of this batch in `shard_rows`
    rows: list[ClipRow]  # the rows of this batch
    is_last: bool  # True for the last batch of the shard
    # The decoded clip of each row, or the error of the decoder
    clips: list[DecodedClip | DecodeError] = field(default_factory=list)
    # A kind of square crop -> pixels, RGB uint8 [batch_size, T, S, S, 3], with T frames of S x S px. The pixels of
    # failed clips and of missing rows are 0.
    pixels: dict[Square, np.ndarray] = field(default_factory=dict)
    # The id of a video -> the identity of its file (size, time of change, digest)
    sources: dict[str, Source] = field(default_factory=dict)
    # Kind of work (`stages.clock.BESIDE`) -> seconds that decoder threads spent on this batch
    thread_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def clip_ids(self) -> list[str]:
        """Returns the clip ids of all rows of the shard, in order."""
        return [row.clip_id for row in self.shard_rows]


@dataclass(frozen=True)
class _UnitVideo:
    """Rows of one work unit that are decoded together, because they are cut from the same video file."""

    unit: WorkUnit
    shard_rows: list[ClipRow]  # all rows of the shard
    rows: list[ClipRow]  # the rows to decode. `numbers` are their positions in `shard_rows`.
    numbers: list[int]
    wanted: Wanted | None  # the frames and crops that the unit needs, or None if it needs no pixels
    is_last: bool  # True for the last rows of the unit
    # A list with one item for each video of the unit that is not decoded yet. All videos of the unit share the list.
    undecoded: list[None]


_Decoded = tuple[list[DecodedClip | DecodeError], Source | None, dict[str, float]]  # the last: seconds by kind of work
_File = AbstractContextManager[LocalVideo]


class Feed:
    """Decodes the videos of work units and yields batches of pixels. A work unit is one shard with the stage keys to
    compute for it.

    - `rows_of`: returns all rows of the shard of a unit.
    - `wanted`: returns which frames and crops a unit needs, or None if it needs no pixels.
    - `batch_size`: the number of rows of a batch.
    - `timeout_seconds`: the time limit for decoding one video.
    - `threads`: the number of decoder threads. 0 means that the thread of the caller decodes.
    - `staging`: the options for copying videos from URLs to this machine.
    - `note`: is called with (unit, "decoding") when a video of the unit is begun, and with (unit, "decoded") after its
      last video. Any thread may call it.
    """

    def __init__(
        self,
        rows_of: Callable[[WorkUnit], list[ClipRow]],
        wanted: Callable[[WorkUnit], Wanted | None],
        *,
        batch_size: int,
        timeout_seconds: float,
        threads: int,
        staging: StagingOptions | None = None,
        note: Callable[[WorkUnit, Doing], None] = lambda unit, doing: None,
    ) -> None:
        self._note = note
        self._rows_of, self._wanted = rows_of, wanted
        self._staging = staging or StagingOptions()
        self._batch_size, self._timeout, self._threads = batch_size, timeout_seconds, threads

    def batches(self, units: Iterable[WorkUnit], meanwhile: Callable[[], None] = lambda: None) -> Generator[PixelBatch]:
        """Yields the batches of all work units `units`, in order. While the caller works on a batch, threads decode the
        next clips, also clips of the next unit. Close the generator to stop the threads.

        `meanwhile` is called once before the first batch, in the thread of the caller, while threads decode. Its error
        ends the generator. For a unit that retries failed clips, yields only the batches that contain such clips.
        """
        open_videos = OpenVideos(LEFT_OPEN)
        if self._threads == 0:
            meanwhile()
            with closing(open_videos), Staging(self._staging) as staging:
                yield from self._assembled(
                    (video, self._decode(video, self._begun(video, staging), open_videos))
                    for video in self._videos(units)
                )
            return
        pool_of = stopping.threads(self._threads, "decode")
        with pool_of as pool, closing(open_videos), Staging(self._staging) as staging:
            closed = threading.Event()
            decoded = self._decoded_ahead(pool, units, staging, closed, open_videos)
            try:
                yield from _in_background(self._assembled(decoded), closed, meanwhile)
            finally:
                closed.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _videos(self, units: Iterable[WorkUnit]) -> Iterator[_UnitVideo]:
        for unit in units:
            rows = self._rows_of(unit)
            row_indexes = self._numbers(unit, rows)
            groups = [
                list(group) for _, group in itertools.groupby(row_indexes, key=lambda row_index: rows[row_index].path)
            ]
            undecoded = [None] * len(groups)
            wanted = self._wanted(unit)
            for of_video in groups:
                is_last = of_video is groups[-1]
                of_rows = [rows[row_index] for row_index in of_video]
                yield _UnitVideo(unit, rows, of_rows, of_video, wanted, is_last, undecoded)

    def _numbers(self, unit: WorkUnit, rows: list[ClipRow]) -> list[int]:
        """Returns the indices of those of `rows` that are to be decoded. `rows` are all rows of the shard of `unit`.

        Usually all rows are decoded. If the unit only retries failed clips, returns all rows of the batches that
        contain a failed clip.
        """
        retried = unit.retried
        if retried is None:
            return list(range(len(rows)))
        batches = {row_index // self._batch_size for row_index, row in enumerate(rows) if row.clip_id in retried}
        return [row_index for row_index in range(len(rows)) if row_index // self._batch_size in batches]

    def _begun(self, video: _UnitVideo, staging: Staging) -> _File:
        """Returns a context manager that yields the file of `video` on this machine, as a LocalVideo.

        If the video lies at a URL, `staging` begins to copy it at this call. Entering the context waits until the copy
        is complete. If the unit needs no pixels, no copy is made.
        """
        path = video.rows[0].path
        return nullcontext(LocalVideo(path)) if video.wanted is None else staging.begin(path)

    def _decode(self, video: _UnitVideo, file: _File, open_videos: OpenVideos) -> _Decoded:
        self._note(video.unit, "decoding")
        clock = Clock(DECODE)
        clips, source, fetch_seconds = self._clips(video, file, open_videos, clock)
        decoded = clips, source, clock.taken() | {FETCH: fetch_seconds}
        video.undecoded.pop()
        if not video.undecoded:
            self._note(video.unit, "decoded")
        return decoded

    def _clips(
        self, video: _UnitVideo, file: _File, open_videos: OpenVideos, clock: Clock
    ) -> tuple[list[DecodedClip | DecodeError], Source | None, float]:
        """Decodes the rows of `video`. Returns a DecodedClip or a DecodeError for each row, the identity of the video
        file, and the seconds that its copying from a URL took.

        `file` is a context manager that yields the video as a local file. `open_videos` has video files that earlier
        calls left open. `clock` measures the time of this thread. If the unit needs no pixels, nothing is decoded and
        the identity is None.
        """
        wanted = video.wanted
        if wanted is None:
            return [DecodedClip.blank(0) for _ in video.rows], None, 0.0
        try:
            with ExitStack() as copies:
                with clock.during(FETCH_WAIT):
                    at_hand = copies.enter_context(file)
                clips = decode_at_hand(at_hand, video.rows, wanted, self._timeout, open_videos, clock)
                return clips, at_hand.identity(), at_hand.fetch_seconds
        except DecodeError as error:  # the video could not be copied
            return [error.detached() for _ in video.rows], None, 0.0

    def _decoded_ahead(
        self,
        pool: ThreadPoolExecutor,
        units: Iterable[WorkUnit],
        staging: Staging,
        closed: threading.Event,
        open_videos: OpenVideos,
    ) -> Iterator[tuple[_UnitVideo, _Decoded]]:
        """Yields pairs (video of a unit, its decoded clips) for all videos of all `units`, in order.

        While the caller works on one video, the threads of `pool` decode the next videos, until about two batches of
        clips are decoded in advance. If videos have many clips, each thread still gets a video, until the pixels take
        MOST_BYTES_AHEAD. `staging` copies videos from URLs. `open_videos` has video files that are left open. The
        iterator ends when `closed` is set.
        """
        capacity = 2 * self._batch_size + self._threads
        under_way: deque[tuple[_UnitVideo, Future[_Decoded]]] = deque()
        clips = num_bytes = 0
        for video in self._videos(units):
            if closed.is_set():
                return
            under_way.append((video, pool.submit(self._decode, video, self._begun(video, staging), open_videos)))
            clips, num_bytes = clips + len(video.rows), num_bytes + self._num_bytes(video)
            while clips > capacity and len(under_way) > (self._threads if num_bytes <= MOST_BYTES_AHEAD else 1):
                first, future = under_way.popleft()
                clips, num_bytes = clips - len(first.rows), num_bytes - self._num_bytes(first)
                yield first, future.result()
        for first, future in under_way:
            yield first, future.result()

    def _num_bytes(self, video: _UnitVideo) -> int:
        wanted, row = video.wanted, video.rows[0]
        if wanted is None or not row.frame_height:  # the header of this video could not be read
            return 0
        return len(video.rows) * wanted.num_bytes(row.frame_height, row.frame_width)

    def _assembled(self, decoded: Iterable[tuple[_UnitVideo, _Decoded]]) -> Iterator[PixelBatch]:
        rows: list[ClipRow] = []
        numbers: list[int] = []
        clips: list[DecodedClip | DecodeError] = []
        sources: dict[str, Source] = {}
        seconds: dict[str, float] = {}
        for video, (of_video, source, of_threads) in decoded:
            seconds = summed(seconds, of_threads)
            rows, numbers, clips = rows + video.rows, numbers + video.numbers, clips + of_video
            if source is not None:
                sources |= {row.video_id: source for row in video.rows}
            while len(rows) >= self._batch_size or (video.is_last and rows):
                size = self._batch_size
                is_last = video.is_last and len(rows) <= size
                batch = PixelBatch(
                    unit=video.unit,
                    shard_rows=video.shard_rows,
                    offset=numbers[0],
                    rows=rows[:size],
                    is_last=is_last,
                    clips=clips[:size],
                    sources=sources,
                )
                clock = Clock(ASSEMBLE)
                self._fill_pixels(batch, video.wanted)
                batch.thread_seconds = summed(seconds, clock.taken())
                yield batch
                rows, numbers, clips, sources, seconds = rows[size:], numbers[size:], clips[size:], {}, {}

    def _fill_pixels(self, batch: PixelBatch, wanted: Wanted | None) -> None:
        if wanted is None:
            return
        for square in wanted.squares:
            frames = -(-wanted.num_frames // square.every)
            pixels = np.zeros((self._batch_size, frames, square.size, square.size, 3), np.uint8)
            for slot, clip in enumerate(batch.clips):
                if isinstance(clip, DecodedClip):
                    pixels[slot] = clip.squares.pop(square)
            batch.pixels[square] = pixels


def decode_at_hand(
    at_hand: LocalVideo,
    rows: Sequence[ClipRow],
    wanted: Wanted,
    timeout_seconds: float,
    open_videos: OpenVideos,
    clock: Clock | None = None,
) -> ClipResults:
    """Decodes the clips `rows` of one video. Returns for each row a DecodedClip (the frame times and pixels) or a
    DecodeError.

    - `at_hand`: the file of the video on this machine, or a local copy of a video at a URL.
    - `wanted`: the frames and crops to decode.
    - `timeout_seconds`: the time limit for one reading of the file.
    - `open_videos`: video files that are already open. Not used for a local copy.
    - `clock`: measures the time of this thread, by kind of work.
    """
    # a copy is removed after use, so it must be closed then
    lent_by = open_videos if at_hand.original is None else OpenVideos()
    clips = decode_clips(at_hand.file, rows, wanted, timeout_seconds, LATEST_RULES, lent_by, clock)
    return [_named(clip, at_hand) for clip in clips]


def _named(clip: DecodedClip | DecodeError, video: LocalVideo) -> DecodedClip | DecodeError:
    """Returns `clip` with the URL of `video` in its message, in place of the path of the local copy.

    The message is that of the error if `clip` is a DecodeError, otherwise the warning of the clip. For a video that is
    a local file, returns `clip` unchanged.
    """
    if isinstance(clip, DecodeError):
        return DecodeError(clip.reason, video.with_url(clip.detail))
    clip.warning = video.with_url(clip.warning)
    return clip


class _End:
    """The last item that a background thread sends. `error` is the exception that stopped the thread, or None."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _in_background(items: Iterator[Item], closed: threading.Event, meanwhile: Callable[[], None]) -> Iterator[Item]:
    """Runs the iterator `items` in a background thread and yields its items. The thread works up to BATCHES_AHEAD items
    ahead. Calls `meanwhile` before it yields the first item, while the thread makes this item.

    The thread stops when `closed` is set. An exception in the thread is raised again in the thread of the caller.
    """
    ready: queue.Queue[Item | _End] = queue.Queue(BATCHES_AHEAD)

    def put(item: Item | _End) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    return
            put(_End(None))
        except BaseException as error:
            put(_End(error))

    thread = threading.Thread(target=work, name="assemble", daemon=True)
    thread.start()
    meanwhile()
    while not isinstance(item := stopping.get(ready), _End):
        yield item
    if item.error is not None:
        raise item.error
