"""Finds the shards of an old cache that hold other frames than the latest rules choose. Imports no torch.

Rules decide which frames, times and crops a clip takes from its video. The version of the stage `clips` is the version
of its rules. A verdict says what an upgrade of the cache has to change in one shard.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
import xxhash
from pydantic import BaseModel, ConfigDict

from kinegraph.cache_schemas.arrays import CLIPS, FRAME_TIMES
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.closure import stages_in_order, with_readers
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.ledger import Record, encoded
from kinegraph.cache_schemas.stage import Stage
from kinegraph.pipeline.caches.clip_rules import rules_of
from kinegraph.pipeline.caches.indexing import video_rows
from kinegraph.pipeline.shards.contents import ShardContents
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.datasets.listing import Video
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import Probe, probe
from kinegraph.stages.decode.two_rules import Comparison, compare
from kinegraph.stages.decode.wanted import LATEST_RULES, Wanted
from kinegraph.stages.kinds import kind_of
from kinegraph.stages.remote.faults import CredentialsError, NetworkError, Stopped
from kinegraph.stages.remote.staging import Staging

Times = tuple[tuple[float, ...] | None, ...]


class Timing(BaseModel):
    """The part of a row of clips.parquet that depends on the rules for choosing frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # `start_seconds`, `end_seconds`: the span of the clip, in seconds from the first frame of the video
    start_seconds: float
    end_seconds: float
    target_times: tuple[float, ...]  # the times of the wanted frames, in seconds from the first frame of the video
    crop: tuple[float, float, float, float]  # (x1, y1, x2, y2) in pixels of the video
    # `frame_width`, `frame_height`: the size of a frame in pixels
    frame_width: int
    frame_height: int

    @classmethod
    def of(cls, row: ClipRow) -> "Timing | None":
        """Returns the Timing of a row of clips.parquet, which has its times, crop and frame size. Returns None if the
        video of the row could not be opened.
        """
        return cls(**{key: getattr(row, key) for key in cls.model_fields}) if row.is_probed else None


class Verdict(BaseModel):
    """Says what an upgrade has to change in shard number `shard`.

    `frame_times` and `clips` are None if the times do not change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    shard: int
    of: str  # a digest of the rows and ledger records that were compared
    # clip_id -> new values of the row, or None if the video cannot be opened. Only rows that change are listed.
    rows: dict[str, Timing | None] = {}
    # The keys of the stages that have to be computed again. Each key comes after the keys that its stage reads.
    reopened: tuple[str, ...] = ()
    frame_times: Times | None = None  # the new times of the frames of each row, in seconds, or None for a failed clip
    clips: Record | None = None  # the ledger record of the stage `clips` for this shard, before the upgrade
    differing: dict[str, str] = {}  # clip_id -> message, for clips that show other frames than before
    retimed: tuple[str, ...] = ()  # the ids of clips that show the same frames as before, at other times
    unread: dict[str, str] = {}  # clip_id -> message, for clips whose video cannot be read
    dropped: bool = False  # true if the user asked to count unread clips as differing, and there were unread clips
    judged: dict[str, str] = {}  # stage key -> digest of the ledger record at the time of the verdict


@dataclass(frozen=True, kw_only=True)
class Comparer:
    """Compares the frames in the shards of a cache with the frames that the latest rules choose from the videos.
    Several threads may use one `Comparer`.
    """

    cache: Cache  # the cache
    options: ClipOptions  # the clip options of the cache
    stages: dict[str, Stage]  # the stages that are made from videos, each after the stages that it reads
    wanted: Wanted  # which frames are decoded
    rules: int  # the version of the rules by which the cache was made
    staging: Staging  # copies videos at URLs to this machine
    # An event. Once it is set, comparisons raise Stopped.
    stopping: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, cache: Cache, staging: Staging) -> "Comparer":
        """Returns a `Comparer` for the cache `cache`. `staging` copies videos at URLs to this machine. Raises
        CacheError if the clip options of the cache are not understood.
        """
        options, stages = latest_options(cache), made_from_clips(cache)
        numbered = any("numbers" in kind_of(key).depends_on(stage) for key, stage in stages.items())
        wanted = Wanted(num_frames=options.num_frames, numbered=numbered, short=options.short)
        rules = rules_of(cache)
        return cls(cache=cache, options=options, stages=stages, wanted=wanted, rules=rules, staging=staging)

    def state(self, shard: int) -> str:
        """Returns a digest of the rows and ledger records of shard number `shard`. A stored Verdict about the shard is
        valid only while this digest stays the same.
        """
        seen = xxhash.xxh3_128(repr(self.cache.rows(shard)).encode())
        for record in self._records(shard).values():
            seen.update(encoded(record))
        return seen.hexdigest()

    def verdict(self, shard: int, *, drop_unread: bool = False) -> Verdict:
        """Decodes all videos of shard number `shard` by the rules of the cache and by the latest rules, and compares
        the frames. Returns a Verdict, which says what an upgrade has to change in the shard.

        A clip is unread if its video cannot be read now and the clip did not fail in the cache. If `drop_unread` is
        true, the shard of an unread clip is computed again. Otherwise `Verdict.unread` lists the clip. Raises
        CacheError if a ledger record or the stored frame times are damaged.
        """
        of, rows, records = self.state(shard), self.cache.rows(shard), self._records(shard)
        new: list[ClipRow] = []  # a row that stays is the same object
        comparisons: list[Comparison] = []
        for _, group in groupby(rows, key=lambda row: row.path):
            if self.stopping.is_set():
                raise Stopped
            of_video, compared = self._video(list(group), records)
            new, comparisons = new + of_video, comparisons + compared
        sealed = self._sealed(records[CLIPS]) if CLIPS in records else None
        if sealed is not None:
            comparisons = list(map(_against, comparisons, sealed.ok, _times(sealed)))
        pairs = list(zip(rows, comparisons, strict=True))
        unread = {row.clip_id: comparison.words for row, comparison in pairs if comparison.change == "unread"}
        differing = {row.clip_id: comparison.words for row, comparison in pairs if comparison.change == "frames"}
        if drop_unread:
            differing |= unread
        changed = list(zip(rows, new, strict=True))
        moved = [after.clip_id for before, after in changed if _span(before) != _span(after)]
        retimed = [row.clip_id for row, comparison in pairs if comparison.change == "times"]
        reopened = self._reopened(bool(differing), bool(retimed), bool(moved)) if records else ()
        if any("span" in kind_of(key).depends_on(self.stages[key]) for key in records):
            retimed = list(dict.fromkeys([*retimed, *moved]))
        keeps_clips = bool(retimed) and sealed is not None and CLIPS not in reopened
        return Verdict(
            shard=shard,
            of=of,
            rows={after.clip_id: Timing.of(after) for before, after in changed if after is not before},
            reopened=reopened,
            frame_times=_frame_times(sealed, comparisons) if keeps_clips and sealed is not None else None,
            clips=records[CLIPS] if keeps_clips else None,
            differing=differing,
            retimed=tuple(retimed),
            unread={} if drop_unread else unread,
            dropped=drop_unread and bool(unread),
            judged={key: record_digest(record) for key, record in records.items()},
        )

    def _records(self, shard: int) -> dict[str, Record]:
        records = {key: self.cache.ledger.read(key, shard) for key in self.stages}
        return {key: record for key, record in records.items() if record is not None}

    def _video(self, old: list[ClipRow], records: dict[str, Record]) -> tuple[list[ClipRow], list[Comparison]]:
        """Returns the rows of one video by the latest rules, and one `Comparison` per row. A `Comparison` says whether
        the frames or times in the cache differ from those of the latest rules.

        `old` are the rows of the video in the cache, all in one shard. `records` maps stage keys to the ledger records
        of this shard.
        """
        same = [Comparison(change="none") for _ in old]
        if old[0].frame_rate is not None:  # numbered images, which both rules read alike
            return old, same
        try:
            with self.staging.begin(old[0].path) as at_hand:
                facts: Probe | DecodeError
                try:
                    facts = probe(at_hand.file)
                except DecodeError as error:
                    facts = error
                new = [self._row(row, facts) for row in old]
                if not records:
                    return new, same
                compared = compare(at_hand.file, old, new, self.wanted, self.rules)
                identity = at_hand.identity()
        except (DecodeError, NetworkError, CredentialsError) as error:
            failed = error if isinstance(error, DecodeError) else DecodeError("unreadable", str(error))
            new, identity = [self._row(row, failed) for row in old], None
            compared = [Comparison(change="unread", words=str(failed)) if records else one for one in same]
        clips = records.get(CLIPS)
        failed_clips = {failure.clip_id for failure in clips.failures} if clips else set()
        for row_index, row in enumerate(old):
            source = clips.sources.get(row.video_id) if clips else None
            if compared[row_index].change == "unread":
                if row.clip_id in failed_clips:  # as it was
                    compared[row_index] = same[row_index]
            elif source and identity and (source.size, source.digest) != (identity.size, identity.digest):
                words = "the video has changed since it was cached"
                compared[row_index] = replace(compared[row_index], change="frames", words=words)
        return new, compared

    def _row(self, row: ClipRow, facts: Probe | DecodeError) -> ClipRow:
        """Returns the row that `kinegraph index` would write now for the clip of `row`, with times, crop and frame size
        by the latest rules. Returns `row` itself if nothing changes.

        `facts` has the facts of the video, read now, or is the error if the video cannot be opened. With an error, the
        new row has no times. Raises CacheError if the clip options of the cache make no clip with the id of `row`.
        """
        if isinstance(facts, DecodeError) and not row.is_probed:
            return row
        video = Video(
            video_id=row.video_id, path=row.path, split=row.split, labels=row.labels, list_index=row.list_index,
            interval=row.interval, frame_rate=row.frame_rate,
        )  # fmt: skip
        for new in video_rows(video, facts, self.options):
            if new.clip_id == row.clip_id:
                return row if new == row else new
        raise CacheError(f"{self.cache.root}: {row.clip_id} is no row of its `clips` options {self.options!r}.")

    def _reopened(self, has_other_frames: bool, has_other_times: bool, is_moved: bool) -> tuple[str, ...]:
        """Returns the keys of the stages whose values change in a shard, and of all stages made from these stages.

        has_other_frames: whether some clip of the shard shows other frames than in the cache.
        has_other_times: whether some clip shows the same frames at other times.
        is_moved: whether some clip starts or ends at another time.
        """
        if has_other_frames:
            return tuple(self.stages)
        changed = {fact for fact, is_other in (("times", has_other_times), ("span", is_moved)) if is_other}
        other = [key for key, stage in self.stages.items() if changed & {*kind_of(key).depends_on(stage)}]
        return tuple(with_readers(self.stages, other))

    def _sealed(self, record: Record) -> ShardContents:
        contents = ShardContents(self.cache, self.stages[CLIPS], record)
        if contents.undecodable:
            where = f"{self.cache.root}: {FRAME_TIMES} of shard {record.shard}"
            raise CacheError(
                f"{where} is damaged. `kinegraph verify --repair` marks the shard as not done. Then compare again."
            )
        return contents


def _times(contents: ShardContents) -> np.ndarray:
    """Returns the frame times in a sealed shard of the stage `clips`, in seconds, [rows, T] for T frames per row."""
    return contents.rows[FRAME_TIMES]


def _against(comparison: Comparison, is_ok: bool, sealed_times: np.ndarray) -> Comparison:
    """Checks that the older rules still choose the frames that the cache has. If not, returns a copy of `comparison`
    whose `change` is "frames", because the video must have changed.

    `sealed_times` [T] are the times of the frames in the cache, in seconds. They are compared with
    `comparison.old_times`, the times by the older rules now. `comparison` is returned unchanged if they are equal, if
    there are no old times, or if `is_ok` is False because the clip failed in the cache.
    """
    if not is_ok or comparison.old_times is None or np.array_equal(comparison.old_times, sealed_times):
        return comparison
    return replace(comparison, change="frames", words="its sealed times are not those that the earlier rules give now")


def _frame_times(sealed: ShardContents, comparisons: Sequence[Comparison]) -> Times:
    """Returns the times of the frames of each row by the latest rules, in seconds. A failed clip has None in place of
    times.

    `sealed` is the sealed shard of the stage `clips`. `comparisons` has one item per row, with the times by the latest
    rules, or with None if they are the sealed times.
    """
    times: list[tuple[float, ...] | None] = []
    for is_ok, before, comparison in zip(sealed.ok, _times(sealed), comparisons, strict=True):
        now: np.ndarray = before if comparison.frame_times is None else comparison.frame_times
        times.append(tuple(now.tolist()) if is_ok else None)
    return tuple(times)


def latest_options(cache: Cache) -> ClipOptions:
    """Returns the clip options of `cache`, but with the latest rules for choosing frames.

    Raises CacheError if the cache has no clip options, or if its clip options are not understood.
    """
    recorded: dict[str, Any] = {key: value for key, value in cache.manifest["clips"].items() if key != "version"}
    try:
        return ClipOptions.model_validate(recorded)
    except ValueError as error:
        raise CacheError(f"{cache.root}: its `clips` options are not understood: {error}") from error


def is_latest(cache: Cache) -> bool:
    """Returns whether the latest rules chose the frames in the cache, so that there is nothing to upgrade. Imported
    features have no frames, so the result is True for them.

    Raises CacheError if the cache has a version of the rules that this kinegraph does not know.
    """
    return rules_of(cache) == LATEST_RULES


def record_digest(record: Record) -> str:
    return xxhash.xxh3_128_hexdigest(encoded(record))


def made_from_clips(cache: Cache) -> dict[str, Stage]:
    """Returns stage key -> stage for all stages of `cache` that are computed from its videos. Each stage comes after
    the stages that it reads. Imported stages are left out.
    """
    stages = stages_in_order(cache)
    return {key: stages[key] for key in with_readers(stages, stages.keys() & {CLIPS})}


def _span(row: ClipRow) -> tuple[float, float]:
    return row.start_seconds, row.end_seconds
