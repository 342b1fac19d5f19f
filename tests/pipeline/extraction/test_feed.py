"""Decoding ahead gives the batches that decoding in turn gives, and stops when it is closed."""

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction import feed as feed_module
from kinegraph.pipeline.extraction.feed import Feed, PixelBatch
from kinegraph.stages.decode.clips import DecodedClip
from kinegraph.stages.decode.stream import begin_video
from kinegraph.stages.decode.wanted import Square, Wanted
from tests.coded_videos import HEIGHT, WIDTH, read, write
from tests.stages.decode.conftest import clip_row

SQUARE = Square(size=16, every=1)
UNITS = [WorkUnit(shard=0, keys=("x",)), WorkUnit(shard=1, keys=("x",))]
MakeFeed = Callable[[int], Feed]


@pytest.fixture
def feed(load: Callable[..., Config]) -> MakeFeed:
    """9 rows (3 clips each of 3 videos) a unit, in batches of 4: batch borders fall inside videos."""
    rows = list(index(load("clips.per_video=3")).cache.clips.rows())
    wanted = Wanted(num_frames=8, squares=frozenset([SQUARE]))

    def rows_of(unit: WorkUnit) -> list[ClipRow]:
        return rows[9 * unit.shard : 9 * unit.shard + 9]

    return lambda threads: Feed(rows_of, lambda unit: wanted, batch_size=4, timeout_seconds=60.0, threads=threads)


def summary(batch: PixelBatch) -> tuple[object, ...]:
    return batch.unit.shard, batch.offset, [row.clip_id for row in batch.rows], batch.is_last, sorted(batch.sources)


def test_batches_cut_units_in_order(feed: MakeFeed) -> None:
    batches = list(feed(0).batches(UNITS))
    assert [(b.unit.shard, b.offset, len(b.rows), b.is_last) for b in batches] == [
        (0, 0, 4, False), (0, 4, 4, False), (0, 8, 1, True), (1, 0, 4, False), (1, 4, 4, False), (1, 8, 1, True),
    ]  # fmt: skip
    assert {b.pixels[SQUARE].shape for b in batches} == {(4, 8, 16, 16, 3)}
    assert not batches[2].pixels[SQUARE][1:].any(), "slots without a row are zero"
    assert len({row.clip_id for b in batches for row in b.rows}) == 18
    assert {video for b in batches[:3] for video in b.sources} == {row.video_id for b in batches[:3] for row in b.rows}


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(feed: MakeFeed, threads: int) -> None:
    for ahead, in_turn in zip(feed(threads).batches(UNITS), feed(0).batches(UNITS), strict=True):
        assert summary(ahead) == summary(in_turn)
        np.testing.assert_array_equal(ahead.pixels[SQUARE], in_turn.pixels[SQUARE])
        assert all(isinstance(clip, DecodedClip) for clip in ahead.clips)


@pytest.mark.parametrize(("most_bytes", "at_once"), [(2**30, 3), (0, 2)])
def test_each_thread_has_a_video(
    feed: MakeFeed, monkeypatch: pytest.MonkeyPatch, most_bytes: int, at_once: int
) -> None:
    """Also where two videos have more clips than are decoded ahead, unless their pixels take too much memory."""
    made, begun, seen = feed(3), threading.Semaphore(0), list[int]()
    made._batch_size = 1  # 5 clips ahead, and 3 of a video
    decode, numbers = made._decode, itertools.count()

    def held(*arguments: Any) -> Any:
        begun.release()
        if next(numbers) == 0:
            seen.append(sum(begun.acquire(timeout=5 if n < at_once else 0.2) for n in range(3)))
        return decode(*arguments)

    monkeypatch.setattr(made, "_decode", held)
    monkeypatch.setattr("kinegraph.pipeline.extraction.feed.MOST_BYTES_AHEAD", most_bytes)
    assert len(list(made.batches(UNITS[:1]))) == 9
    assert seen == [at_once]


def test_the_caller_has_something_to_do_while_the_first_clips_are_decoded(
    feed: MakeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and the first batch comes after it."""
    decode, decoded, done = feed_module.decode_at_hand, threading.Event(), list[bool]()

    def noted(*arguments: Any) -> Any:
        clips = decode(*arguments)
        decoded.set()
        return clips

    monkeypatch.setattr(feed_module, "decode_at_hand", noted)
    batches = feed(2).batches(UNITS, lambda: done.append(decoded.wait(60)))
    for _ in batches:
        assert done == [True]


def test_what_the_caller_does_meanwhile_may_fail(feed: MakeFeed) -> None:
    def broken() -> None:
        raise MemoryError("no room")

    for threads in (0, 2):
        with pytest.raises(MemoryError, match="no room"):
            next(feed(threads).batches(UNITS, broken))


@pytest.mark.parametrize("threads", [0, 3])
def test_it_says_what_is_being_decoded(feed: MakeFeed, threads: int) -> None:
    """Of each unit: its three videos begin, and then, once, that all are decoded."""
    made, told = feed(threads), {0: list[str](), 1: list[str]()}
    made._note = lambda unit, doing: told[unit.shard].append(doing)
    list(made.batches(UNITS))
    for doings in told.values():
        assert doings.count("decoding") == 3
        assert doings[-1] == "decoded"


def test_closing_early_stops_the_threads(feed: MakeFeed) -> None:
    before = set(threading.enumerate())
    with closing(feed(2).batches(UNITS)) as batches:
        next(batches)
    limit = time.monotonic() + 10
    while new := set(threading.enumerate()) - before:
        assert time.monotonic() < limit, new
        time.sleep(0.01)


def test_an_error_while_decoding_reaches_the_caller(feed: MakeFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("kinegraph.pipeline.extraction.feed.decode_clips", broken)
    with pytest.raises(MemoryError, match="no room"):
        list(feed(2).batches(UNITS))


@pytest.mark.parametrize(("threads", "openings"), [(0, {1}), (1, {1}), (3, {1, 2, 3, 4, 5})])
def test_a_long_video_is_read_on_over_unit_borders(
    threads: int, openings: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a thread after another; by several at the same time each opens it."""
    path = write(tmp_path / "film.mp4", 400, key_every=50)
    rows = [
        clip_row(
            path, (start, start + 0.4), clip=n, frame_width=WIDTH, frame_height=HEIGHT, crop=(0.0, 0.0, WIDTH, HEIGHT)
        )
        for n, start in enumerate(0.5 * number for number in range(30))
    ]
    begun = Mock(side_effect=begin_video)
    monkeypatch.setattr("kinegraph.stages.decode.open_videos.begin_video", begun)
    square = Square(size=WIDTH, every=1)
    feed = Feed(
        lambda unit: rows[6 * unit.shard : 6 * unit.shard + 6],
        lambda unit: Wanted(num_frames=2, squares=frozenset([square])),
        batch_size=6,
        timeout_seconds=60.0,
        threads=threads,
    )
    batches = [*feed.batches([WorkUnit(shard=shard, keys=("x",)) for shard in range(5)])]
    shown = [[read(pixels) for pixels in clip] for batch in batches for clip in batch.pixels[square]]
    assert shown == [[int(t * 25 + 1e-6) for t in row.target_times] for row in rows]
    assert begun.call_count in openings
