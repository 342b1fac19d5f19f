"""Finds the shards that hold other frames than the latest rules take, in a cache that an earlier version made.
Torch-free.

Rules decide which frames, times and crops a clip takes from its video. The version of the stage `clips` is the version
of its rules. A verdict says what an upgrade has to change in one shard.
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
from kinegraph.stages.decode.stream import Probe, probe
from kinegraph.stages.decode.two_rules import Comparison, compare
from kinegraph.stages.decode.wanted import LATEST_RULES, Wanted
from kinegraph.stages.kinds import kind_of
from kinegraph.stages.remote.faults import CredentialsError, NetworkError, Stopped
from kinegraph.stages.remote.staging import Staging

Times = tuple[tuple[float, ...] | None, ...]


class Timing(BaseModel):
    """The values in a row of clips.parquet that depend on the rules for choosing frames, times and crops.

    `start_seconds`, `end_seconds` and the `target_times` of the wanted frames are seconds from the first frame of the
    video. `crop` (x1, y1, x2, y2), `frame_width` and `frame_height` are in pixels of the video.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_seconds: float
    end_seconds: float
    target_times: tuple[float, ...]
    crop: tuple[float, float, float, float]
    frame_width: int
    frame_height: int

    @classmethod
    def of(cls, row: ClipRow) -> "Timing | None":
        """Returns the Timing of a row of clips.parquet: its times, crop and frame size. Returns None if the video of
        the row could not be opened.
        """
        return cls(**{key: getattr(row, key) for key in cls.model_fields}) if row.is_probed else None


class Verdict(BaseModel):
    """Says what an upgrade changes in shard number `shard`.

    of: a digest of the rows and ledger records that were compared.
    rows: maps the clip_id of each row that changes to its new values, or to None if the video cannot be opened.
    reopened: the stage keys whose ledger records are removed. Each key comes after the keys that its stage reads.
    frame_times: the new times of the stage `clips`, in seconds. There is one item per row, None for a failed clip.
    clips: the ledger record of this shard of the stage `clips` before the upgrade.
    differing: maps the id of each clip that shows other frames than before to a message.
    unread: maps the id of each clip whose video cannot be read to a message.
    retimed: the ids of clips that show the same frames as before, at other times.
    dropped: the user asked to count unread clips as differing, and `differing` has such clips.
    judged: maps each stage key to the digest of its ledger record.

    `frame_times` and `clips` are None if the times do not change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    shard: int
    of: str
    rows: dict[str, Timing | None] = {}
    reopened: tuple[str, ...] = ()
    frame_times: Times | None = None
    clips: Record | None = None
    differing: dict[str, str] = {}
    retimed: tuple[str, ...] = ()
    unread: dict[str, str] = {}
    dropped: bool = False
    judged: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Comparer:
    """Compares the frames in the shards of a cache with those that the latest rules choose from the videos. Several
    threads may use one `Comparer`.

    `cache` is the cache, `options` are its clip options, and `rules` is the version of the rules by which it was made.
    `stages` has the stages that are made from videos, each after the stages that it reads. `wanted` says which frames
    are decoded. `staging` copies videos at URLs to this machine. Once the event `stopping` is set, comparisons raise
    Stopped.
    """

    cache: Cache
    options: ClipOptions
    stages: dict[str, Stage]
    wanted: Wanted
    rules: int
    staging: Staging
    stopping: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, cache: Cache, staging: Staging) -> "Comparer":
        """Returns a `Comparer` for the cache `cache`. If a video lies at a URL, `staging` copies it to this machine.
        Raises CacheError if the clip options of the cache are not understood.
        """
        options, stages = latest_options(cache), made_from_clips(cache)
        numbered = any("numbers" in kind_of(key).depends_on(stage) for key, stage in stages.items())
        wanted = Wanted(num_frames=options.num_frames, numbered=numbered, short=options.short)
        rules = rules_of(cache)
        return cls(cache=cache, options=options, stages=stages, wanted=wanted, rules=rules, staging=staging)

    def state(self, shard: int) -> str:
        """Returns a digest of the rows and ledger records of shard number `shard`. A Verdict about the shard is valid
        only as long as this digest stays the same.
        """
        seen = xxhash.xxh3_128(repr(self.cache.rows(shard)).encode())
        for record in self._records(shard).values():
            seen.update(encoded(record))
        return seen.hexdigest()

    def verdict(self, shard: int, *, drop_unread: bool = False) -> Verdict:
        """Compares the frames of a shard under two versions of the rules for choosing frames: the cache's and the
        latest. Returns a Verdict: the changes that an upgrade has to make to the rows and ledger records of the shard.

        All videos of the shard are decoded. A clip is unread if its video cannot be read now and the clip did not fail
        in the cache. With `drop_unread`, an upgrade computes shards with unread clips again. Otherwise unread clips are
        listed in `Verdict.unread`.

        Raises CacheError if a ledger record or the sealed frame times are damaged.
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
        """Returns the rows of one video by the latest rules for choosing frames, and one `Comparison` per row. The
        comparison says whether the frames or times in the cache differ.

        `old` are the rows of the video in the cache, all in one shard. `records` maps stage keys to the ledger records
        of this shard.
        """
        same = [Comparison(change="none") for _ in old]
        if old[0].frame_rate is not None:  # numbered images, which both rules read alike
            return old, same
        try:
            with self.staging.begin(old[0].path) as at_hand:
                told: Probe | DecodeError
                try:
                    told = probe(at_hand.file)
                except DecodeError as error:
                    told = error
                new = [self._row(row, told) for row in old]
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

    def _row(self, row: ClipRow, told: Probe | DecodeError) -> ClipRow:
        """Returns the row that `kinegraph index` would now write for the clip of `row`: times, crop and frame size by
        the latest rules. Returns `row` itself if nothing changes.

        `told` has the facts of the video, read now, or the error if the video cannot be opened. With an error, the new
        row has no times. Raises CacheError if the options `clips` of the cache do not make a clip with the id of `row`.
        """
        if isinstance(told, DecodeError) and not row.is_probed:
            return row
        video = Video(
            video_id=row.video_id, path=row.path, split=row.split, labels=row.labels, list_index=row.list_index,
            interval=row.interval, frame_rate=row.frame_rate,
        )  # fmt: skip
        for new in video_rows(video, told, self.options):
            if new.clip_id == row.clip_id:
                return row if new == row else new
        raise CacheError(f"{self.cache.root}: {row.clip_id} is no row of its `clips` options {self.options!r}.")

    def _reopened(self, has_other_frames: bool, has_other_times: bool, is_moved: bool) -> tuple[str, ...]:
        """Returns the keys of the stages whose values change, and of all stages made from these stages.

        Each argument says what changes in at least one clip of the shard, compared with the cache. If
        `has_other_frames` is true, the clip shows other frames. If `has_other_times` is true, it shows the same frames
        at other times. If `is_moved` is true, it starts or ends at another time.
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
            raise CacheError(f"{where} is damaged. `kinegraph verify --repair` un-marks the shard; then compare again.")
        return contents


def _times(contents: ShardContents) -> np.ndarray:
    """Returns the frame times in seconds, [rows, T] for T frames per row. `contents` has the rows of a shard of the
    stage `clips`.
    """
    return contents.rows[FRAME_TIMES]


def _against(comparison: Comparison, is_ok: bool, sealed_times: np.ndarray) -> Comparison:
    """Checks whether the frames of a clip in the cache are those that the older rules choose from its video now. If
    not, returns a copy of `comparison` whose `change` is "frames".

    `sealed_times` [T] are the cached times of the T frames in seconds. They are compared with `comparison.old_times`,
    the times by the older rules. `comparison` is returned unchanged if the times are equal, if `is_ok` is False because
    the clip failed in the cache, or if there are no old times.
    """
    if not is_ok or comparison.old_times is None or np.array_equal(comparison.old_times, sealed_times):
        return comparison
    return replace(comparison, change="frames", words="its sealed times are not those that the earlier rules give now")


def _frame_times(sealed: ShardContents, comparisons: Sequence[Comparison]) -> Times:
    """Returns the times of the frames in seconds for each row of the sealed shard `sealed`, by the latest rules for
    choosing frames. A failed clip has None in place of times.

    `comparisons` has one item per row. An item has the times by the latest rules, or None if they are the sealed times.
    """
    times: list[tuple[float, ...] | None] = []
    for is_ok, before, comparison in zip(sealed.ok, _times(sealed), comparisons, strict=True):
        now: np.ndarray = before if comparison.frame_times is None else comparison.frame_times
        times.append(tuple(now.tolist()) if is_ok else None)
    return tuple(times)


def latest_options(cache: Cache) -> ClipOptions:
    """Returns the clip options of `cache` without their key `version`. Options without a version stand for the latest
    rules.

    Raises CacheError if the cache has no clip options, or if its clip options are not understood.
    """
    recorded: dict[str, Any] = {key: value for key, value in cache.manifest["clips"].items() if key != "version"}
    try:
        return ClipOptions.model_validate(recorded)
    except ValueError as error:
        raise CacheError(f"{cache.root}: its `clips` options are not understood: {error}") from error


def is_latest(cache: Cache) -> bool:
    """Returns False if an older version of the rules for choosing frames chose the frames in the cache, so that an
    upgrade may change them. Returns True for the latest version and for imported features.

    Raises CacheError if the cache has a version of the rules that this kinegraph does not know.
    """
    return rules_of(cache) == LATEST_RULES


def record_digest(record: Record) -> str:
    return xxhash.xxh3_128_hexdigest(encoded(record))


def made_from_clips(cache: Cache) -> dict[str, Stage]:
    """Returns stage key -> stage for all stages of `cache` that are computed from its videos. A stage comes after the
    stages that it reads. Imported stages are not in the result.
    """
    stages = stages_in_order(cache)
    return {key: stages[key] for key in with_readers(stages, stages.keys() & {CLIPS})}


def _span(row: ClipRow) -> tuple[float, float]:
    return row.start_seconds, row.end_seconds
