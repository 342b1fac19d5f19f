"""Lists the clips of a cache for `kinegraph browse`, and finds the clips that a filter selects. Torch-free.

clips.parquet is read once, and again when `index` has changed it. A ledger record is read when it is new. So a cache to
which an extraction still adds shards can be browsed.
"""

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_columns import INTERVAL
from kinegraph.cache_schemas.clips_table import TABLE, ClipsTable, name_of_video
from kinegraph.cache_schemas.ledger import LEDGER, Failure, Reason, Record
from kinegraph.cache_schemas.sealed_rows import sealed_records
from kinegraph.cache_schemas.words import on_one_line
from kinegraph.pipeline.browsing.scored import NO_SCORES, ScoredVideos, as_numpy
from kinegraph.pipeline.caches.failures import UPSTREAM

STATUSES = ("ok", "warned", "failed", "not run")
OK, WARNED, FAILED, NOT_RUN = range(4)
REASONS: tuple[str, ...] = get_args(Reason)
VERDICTS = ("right", "wrong", "none")
COLUMNS = ["clip_id", "video_id", "path", "split", "labels", "frame_width", "frame_height", INTERVAL.name]
LOOK_AGAIN_SECONDS = 2.0  # how often the ledger is read again
KEPT_ANSWERS = 32


@dataclass(frozen=True, kw_only=True)
class ClipFilter:
    """The fields of the form on the browser page that selects clips. A clip passes if it fits every field that is not
    "". So all clips pass if all fields are "".

    Names are written as the pages show them, with escapes in place of control characters and line ends.
    """

    split: str = ""  # the name of a split
    # The name of a class of the clip. If no class has this name, the clip must have a class whose name contains the
    # text.
    label: str = ""
    name: str = ""  # a part of the clip id. Capital and small letters are equal.
    status: str = ""  # one of STATUSES, such as "failed"
    reason: str = ""  # the reason of a failure, such as "timeout"
    verdict: str = ""  # "right", "wrong" or "none". A clip without a prediction or without a label has "none".
    predicted: str = ""  # the class that the run predicts. The text has the same meaning as in `label`.


class _Sealed(NamedTuple):
    stamp: int  # time of the last change of the record in ns; 0 if the storage does not tell it
    num_rows: int
    failures: dict[int, Failure]  # {row: Failure}
    warnings: dict[int, str]


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """The status of each row in one stage, as the ledger records it."""

    status: np.ndarray  # [rows], the status of each row, as an index into STATUSES
    failures: Mapping[int, Failure]  # {row: Failure} of the failed clips
    warnings: Mapping[int, str]  # {row: message of the decoder} of the clips that were decoded with a warning
    num_sealed: int  # the number of sealed shards


@dataclass(frozen=True, kw_only=True)
class ShownClips:
    """All clips of a cache, as they were at one moment. Each row is one clip."""

    cache: Cache
    classes: list[str]
    # `clip_ids`, `video_ids`, `paths`: one text per row
    clip_ids: Any  # pa.ChunkedArray
    video_ids: Any
    video_names: Any  # the id of the whole video of each row. It differs from `video_ids` for intervals of videos.
    paths: Any
    frame_sizes: np.ndarray  # [rows, 2], (width, height) in px. 0 if the video could not be opened.
    splits: list[str]
    split_of: np.ndarray  # [rows], the split of each row, as an index into `splits`
    # `label_values`, `label_rows`: label_values[i] is a label of the row label_rows[i], as an index into `classes`
    label_values: np.ndarray
    label_rows: np.ndarray
    stages: dict[str, StageStatus]  # {stage key: StageStatus}
    # [rows], indices into STATUSES. A clip is "failed" if any stage failed, and "not run" if a stage has not sealed it.
    status: np.ndarray
    reason: np.ndarray  # [rows], indices into REASONS, or -1 for a clip that has not failed
    _answers: dict[object, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.status)

    def clip_id(self, row: int) -> str:
        return str(self.clip_ids[row].as_py())

    def video_id(self, row: int) -> str:
        return str(self.video_ids[row].as_py())

    def split(self, row: int) -> str:
        return self.splits[int(self.split_of[row])]

    def labels(self, row: int) -> list[int]:
        """Returns the labels of the row number `row`, as indices into `classes`."""
        first, last = np.searchsorted(self.label_rows, [row, row + 1])
        labels: list[int] = self.label_values[first:last].tolist()
        return labels

    def rows_of_video(self, video_id: str) -> np.ndarray:
        """Returns the numbers of all rows of a video, in ascending order."""
        return np.flatnonzero(as_numpy(pc.equal(self.video_ids, video_id), bool))

    def failures(self, row: int) -> list[tuple[str, Failure]]:
        """Returns (stage key, Failure) for each stage in which the clip failed. A stage that failed only because it
        reads a failed stage comes last.
        """
        found = [(key, stage.failures[row]) for key, stage in self.stages.items() if row in stage.failures]
        return sorted(found, key=lambda entry: entry[1].reason == UPSTREAM)

    def warnings(self, row: int) -> list[str]:
        """Returns the warnings of the decoder about a clip. A warning that several stages have is returned once."""
        found = (stage.warnings[row] for stage in self.stages.values() if row in stage.warnings)
        return list(dict.fromkeys(found))

    def matching(self, wanted: ClipFilter, scored: ScoredVideos = NO_SCORES) -> np.ndarray:
        """Returns the numbers of the rows that the filter `wanted` selects, in ascending order. `scored` has the
        predictions of a run. The fields `verdict` and `predicted` of the filter need these predictions.
        """
        key = (wanted, id(scored))
        if key not in self._answers:
            if len(self._answers) >= KEPT_ANSWERS:
                self._answers.clear()
            self._answers[key] = self._matching(wanted, scored)
        return self._answers[key]

    def _matching(self, wanted: ClipFilter, scored: ScoredVideos) -> np.ndarray:
        mask = np.ones(len(self), bool)
        if wanted.split:
            mask &= self.split_of == _index(wanted.split, self.splits)
        if wanted.status:
            mask &= self.status == _index(wanted.status, STATUSES)
        if wanted.reason:
            mask &= self.reason == _index(wanted.reason, REASONS)
        if wanted.name:
            mask &= as_numpy(pc.match_substring(self.clip_ids, wanted.name, ignore_case=True), bool)
        if wanted.label:
            has_label = np.zeros(len(self), bool)
            has_label[self.label_rows[np.isin(self.label_values, matching_names(wanted.label, self.classes))]] = True
            mask &= has_label
        if wanted.verdict or wanted.predicted:
            predicted = scored.predicted(self.video_ids)
            if wanted.predicted:
                mask &= np.isin(predicted, matching_names(wanted.predicted, self.classes))
            if wanted.verdict:
                mask &= self.verdicts(predicted) == _index(wanted.verdict, VERDICTS)
        return np.flatnonzero(mask)

    def verdicts(self, predicted: np.ndarray) -> np.ndarray:
        """Returns for each row whether its prediction is right, as [rows] indices into VERDICTS ("right", "wrong",
        "none"). A prediction is right if it is one of the labels of the row. The verdict of a row without labels or
        without a prediction is "none".

        `predicted` [rows] has the number of the predicted class of each row, or -1.
        """
        right = np.zeros(len(self), bool)
        right[self.label_rows[predicted[self.label_rows] == self.label_values]] = True
        has_verdict = np.zeros(len(self), bool)
        has_verdict[self.label_rows] = True
        has_verdict &= predicted >= 0
        verdicts: np.ndarray = np.where(has_verdict, np.where(right, 0, 1), 2)
        return verdicts


def matching_names(text: str, names: list[str]) -> list[int]:
    """Returns the indices of those `names` that a page shows as `text`. If there is no such name, returns the indices
    of all names that contain `text`. Capital and small letters are then equal.
    """
    shown = [*map(on_one_line, names)]
    exact = [index for index, name in enumerate(shown) if name == text]
    return exact or [index for index, name in enumerate(shown) if text.casefold() in name.casefold()]


def _index(name: str, names: list[str] | tuple[str, ...]) -> int:
    """Returns the index of the name that a page shows as `name`. Returns -2 if there is no such name. No row has the
    index -2.
    """
    return next((index for index, each in enumerate(names) if on_one_line(each) == name), -2)


class Catalogue:
    """Reads the clips of the cache at `root`, and reads them again when the cache has changed. Several threads may call
    `now`.

    Raises CacheError if the cache cannot be read.
    """

    def __init__(self, root: str) -> None:
        self._root, self._lock = root, threading.Lock()
        self._sealed: dict[str, dict[int, _Sealed]] = {}
        self._mark: object = None
        self._written_at: object = None
        self._clips: ShownClips | None = None
        self._next_look = 0.0
        self.now()

    def now(self) -> ShownClips:
        """Returns the clips of the cache, as they were at most LOOK_AGAIN_SECONDS ago."""
        with self._lock:
            if self._clips is None or monotonic() >= self._next_look:
                self._clips = self._read(self._clips)
                self._next_look = monotonic() + LOOK_AGAIN_SECONDS
            return self._clips

    def _read(self, before: ShownClips | None) -> ShownClips:
        cache = Cache(self._root) if before is None else before.cache
        written_at = cache.storage.written_at(TABLE) if cache.storage.exists(TABLE) else None
        if before is None or written_at != self._written_at:
            cache = Cache(self._root)
            before, self._written_at, self._mark = _rows(cache), written_at, None
            self._sealed.clear()
        keys = cache.stage_keys()
        mark = [(key, _changed_at(cache, key)) for key in keys]
        if mark == self._mark and all(changed for _, changed in mark):
            return before
        stages = {key: self._stage(before, key) for key in keys}
        self._mark = mark
        status, reason = _summary(len(before), stages)
        return replace(before, stages=stages, status=status, reason=reason, _answers={})

    def _stage(self, clips: ShownClips, key: str) -> StageStatus:
        """Returns the StageStatus of the stage `key`. Reads only the ledger records that are new or were replaced."""
        cache, known = clips.cache, self._sealed.setdefault(key, {})
        stamps = _stamps(cache, key)
        for shard in [shard for shard in known if stamps.get(shard) != known[shard].stamp]:
            del known[shard]
        for record in sealed_records(cache, key, stamps.keys() - known.keys()):
            known[record.shard] = _kept(clips, record, stamps[record.shard])
        status = np.full(len(clips), NOT_RUN, np.uint8)
        failures: dict[int, Failure] = {}
        warnings: dict[int, str] = {}
        for shard, sealed in known.items():
            start = shard * cache.shard_clips
            status[start : start + sealed.num_rows] = OK
            failures |= sealed.failures
            warnings |= sealed.warnings
        status[[*warnings]] = WARNED
        status[[*failures]] = FAILED
        return StageStatus(status=status, failures=failures, warnings=warnings, num_sealed=len(known))


def _rows(cache: Cache) -> ShownClips:
    """Returns the clips of `cache`, without anything that the ledger records. Raises CacheError if the cache has no
    rows.
    """
    table = ClipsTable.read_columns(cache.storage, COLUMNS).slice(0, cache.num_rows)
    labels = table.column("labels").combine_chunks()
    labels = labels.chunk(0) if isinstance(labels, pa.ChunkedArray) else labels
    encoded = table.column("split").combine_chunks().dictionary_encode()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    cache.require_labels_of_classes(labels.to_pylist())
    return ShownClips(
        cache=cache,
        classes=cache.classes,
        clip_ids=table.column("clip_id"),
        video_ids=table.column("video_id"),
        video_names=_video_names(table),
        paths=table.column("path"),
        frame_sizes=np.stack([as_numpy(table.column(side)) for side in ("frame_width", "frame_height")], 1),
        splits=encoded.dictionary.to_pylist(),
        split_of=as_numpy(encoded.indices),
        label_values=as_numpy(labels.flatten()),
        label_rows=as_numpy(pc.list_parent_indices(labels)),
        stages={},
        status=np.full(len(table), NOT_RUN, np.uint8),
        reason=np.full(len(table), -1, np.int8),
    )


def _video_names(table: Any) -> Any:
    """Returns the id of the whole video for each row of `table`, which has columns of clips.parquet."""
    ids = table.column("video_id")
    if INTERVAL.name not in table.column_names:
        return ids
    intervals = table.column(INTERVAL.name).to_pylist()
    return pa.chunked_array([[name_of_video(*pair) for pair in zip(ids.to_pylist(), intervals, strict=True)]])


def _changed_at(cache: Cache, key: str) -> int:
    """Returns the time, in ns, at which a ledger record of the stage `key` was last created or removed. Returns 0 if
    the storage does not tell the time, and -1 if the stage has no records.
    """
    folder = cache.storage.local_path(f"{LEDGER}/{key}")
    with suppress(FileNotFoundError):
        return 0 if folder is None else folder.stat().st_mtime_ns
    return -1


def _stamps(cache: Cache, key: str) -> dict[int, int]:
    """Returns {shard: time of the last change of its ledger record in ns} for the stage `key`. All times are 0 if the
    cache lies at a URL.
    """
    folder = cache.storage.local_path(f"{LEDGER}/{key}")
    if folder is None:
        return dict.fromkeys(cache.ledger.shards(key), 0)
    return dict(_entries(folder))


def _entries(folder: Path) -> list[tuple[int, int]]:
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            stem = entry.name.removesuffix(".json")
            if stem != entry.name and stem.isascii() and stem.isdigit():
                with suppress(FileNotFoundError):
                    found.append((int(stem), entry.stat().st_mtime_ns))
    return found


def _kept(clips: ShownClips, record: Record, stamp: int) -> _Sealed:
    failures: dict[int, Failure] = {}
    warnings: dict[int, str] = {}
    if record.failures or record.warnings:
        start = record.shard * clips.cache.shard_clips
        ids = clips.clip_ids.slice(start, record.num_rows).to_pylist()
        row_of = {clip_id: row for row, clip_id in enumerate(ids, start)}
        failures = {row_of[each.clip_id]: each for each in record.failures if each.clip_id in row_of}
        warnings = {row_of[each.clip_id]: each.detail for each in record.warnings if each.clip_id in row_of}
    return _Sealed(stamp, record.num_rows, failures, warnings)


def _summary(num_rows: int, stages: Mapping[str, StageStatus]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (status, reason) of each row over all `stages`, as in ShownClips."""
    status = np.full(num_rows, OK if stages else NOT_RUN, np.uint8)
    reason = np.full(num_rows, -1, np.int8)
    for code in (WARNED, NOT_RUN, FAILED):
        for stage in stages.values():
            status[stage.status == code] = code
    for stage in stages.values():
        for row, failure in stage.failures.items():
            if reason[row] < 0 or REASONS[reason[row]] == UPSTREAM:
                reason[row] = REASONS.index(failure.reason)
    return status, reason
