"""Counts the clips, failures, bytes and seconds of a cache for a report. Reads clips.parquet and the ledger, but no
values of arrays. Torch-free.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kinegraph.cache_schemas.arrays import STATUS_FAILED, STATUS_NOT_RUN, STATUS_OK, STATUS_WARNED
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.ledger import Record, SealedObject
from kinegraph.cache_schemas.sealed_rows import sealed_records
from kinegraph.cache_schemas.stage import Stage
from kinegraph.pipeline.caches.failures import FailedClip, failed_clips
from kinegraph.stages.clock import THREADS, WRITE

STATES = {STATUS_OK: "ok", STATUS_WARNED: "warned", STATUS_FAILED: "failed", STATUS_NOT_RUN: "not run"}
COLUMNS = [
    "clip_id",
    "video_id",
    "split",
    "labels",
    "start_seconds",
    "end_seconds",
    "frame_width",
    "frame_height",
]
Seal = tuple[str, int, str]  # time of sealing (ISO 8601), rows, host


@dataclass(kw_only=True)
class StageNumbers:
    """The numbers of one stage of a cache, as the ledger records them."""

    stage: Stage
    state: np.ndarray  # uint8 [rows], the state of each row of the cache. A state is a key of STATES.
    num_shards: int = 0  # the number of sealed shards
    # {(versions, device, host): number of the shards that were made with them}
    made_by: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    # {name of an array: its bytes on disk}. In an HDF5 cache the key of the stage is the only name.
    bytes_of: Counter[str] = field(default_factory=Counter)
    # (date and time in ISO 8601, number of rows, host) for each sealed shard
    seals: list[Seal] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Returns {name of a state: number of rows in the state}, for example {"ok": 90, "warned": 2, ...}."""
        return {name: int((self.state == state).sum()) for state, name in STATES.items()}

    @property
    def usable(self) -> np.ndarray:
        """Returns a mask, bool [rows]. Entry i is True if the stage has values for row i."""
        return np.isin(self.state, (STATUS_OK, STATUS_WARNED))


class CacheNumbers:
    """The numbers of one cache that reports and figures show, such as clips by class, failed clips and bytes on disk.

    The constructor reads clips.parquet and the ledger once. Shards that are sealed afterwards are not counted. Raises
    CacheError if the cache is damaged.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        table = ClipsTable.read_columns(cache.storage, COLUMNS)
        self.num_rows = len(table)
        self.clip_ids = table.column("clip_id")
        self.video_ids = table.column("video_id")
        encoded = table.column("split").combine_chunks().dictionary_encode()
        self.splits: list[str] = encoded.dictionary.to_pylist()
        self.split_of: np.ndarray = encoded.indices.to_numpy(zero_copy_only=False)
        self.durations = table.column("end_seconds").to_numpy() - table.column("start_seconds").to_numpy()
        self.frame_sizes = np.stack([table.column(side).to_numpy() for side in ("frame_width", "frame_height")], 1)
        labels = table.column("labels").combine_chunks()
        self._labels = labels.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        self._num_labels = labels.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        self._seconds: dict[tuple[int, str, frozenset[tuple[str, float]]], dict[str, float]] = {}
        self.stages = {key: self._stage(key) for key in cache.stage_keys()}

    @cached_property
    def class_names(self) -> list[str]:
        """Returns the names of the classes. Returns an empty list if the cache has no classes.json."""
        try:
            return self.cache.classes
        except CacheError:
            return []

    @cached_property
    def num_videos(self) -> int:
        return len(self.video_ids.unique())

    @property
    def is_multi_label(self) -> bool:
        """Returns whether videos may have several labels. If the cache does not state it, the answer is whether any
        clip has several labels.
        """
        declared = self.cache.multi_label
        return bool((self._num_labels > 1).any()) if declared is None else declared

    @cached_property
    def class_counts(self) -> np.ndarray:
        """Returns the number of clips of each class in each split, int64 [splits, classes]. The order is that of
        `splits` and `class_names`. A clip with several labels counts once for each of its classes.
        """
        size = max(len(self.class_names), int(self._labels.max(initial=-1)) + 1)
        counts = np.zeros((len(self.splits), size), np.int64)
        np.add.at(counts, (np.repeat(self.split_of, self._num_labels), self._labels), 1)
        return counts

    @cached_property
    def first_label(self) -> np.ndarray:
        """Returns the first label of each row, int64 [rows]. A label is the number of a class. A row without labels has
        -1.
        """
        first = np.full(self.num_rows, -1)
        starts = np.cumsum(self._num_labels) - self._num_labels
        has = self._num_labels > 0
        first[has] = self._labels[starts[has]]
        return first

    @cached_property
    def seconds(self) -> Counter[str]:
        """Returns {kind of work: seconds}, summed over the whole cache. `stages/clock.py` lists the kinds, such as
        "waiting for decode".
        """
        total: Counter[str] = Counter()
        for unit in self._seconds.values():
            total.update(unit)
        return total

    @cached_property
    def failures(self) -> list[FailedClip]:
        """Returns one FailedClip for each failed clip and reason, in the order of the shards."""
        return [*failed_clips(self.cache)] if any(stage.counts["failed"] for stage in self.stages.values()) else []

    @cached_property
    def warnings(self) -> dict[str, str]:
        """Returns {clip id: warning of the video decoder} for each clip that was decoded with a warning."""
        warned: dict[str, str] = {}
        for key, stage in self.stages.items():
            if (stage.state == STATUS_WARNED).any():
                for record in sealed_records(self.cache, key):
                    warned |= {warning.clip_id: warning.detail for warning in record.warnings}
        return warned

    @property
    def num_bytes(self) -> int:
        return sum(sum(stage.bytes_of.values()) for stage in self.stages.values())

    @property
    def usable(self) -> np.ndarray:
        """Returns a mask, bool [rows]. Entry i is True if every stage has values for row i."""
        masks = [stage.usable for stage in self.stages.values()]
        return np.logical_and.reduce(masks) if masks else np.zeros(self.num_rows, bool)

    def first_rows(self, video_ids: Sequence[str]) -> dict[str, int]:
        """Returns {video id: row number}. The row is the first row of the video for which every stage has values.
        Videos without such a row are left out.
        """
        places = pc.index_in(self.video_ids, value_set=pa.array(video_ids, pa.string())).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(np.isfinite(places.astype(float)) & self.usable)
        return {video_ids[int(places[row])]: int(row) for row in rows[::-1]}

    def labels_of(self, row: int) -> list[int]:
        """Returns the labels of the row number `row`. A label is the number of a class."""
        end = int(self._num_labels[: row + 1].sum())
        labels: list[int] = self._labels[end - int(self._num_labels[row]) : end].tolist()
        return labels

    def class_name(self, label: int) -> str:
        """Returns the name of the class number `label`. Returns the number as text if the cache has no name for the
        class.
        """
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def name_of(self, row: int) -> str:
        """Returns the names of all classes of the row number `row`, joined with commas, or "no label"."""
        return ", ".join(map(self.class_name, self.labels_of(row))) or "no label"

    def _stage(self, key: str) -> StageNumbers:
        numbers = StageNumbers(stage=self.cache.stage(key), state=np.zeros(self.num_rows, np.uint8))
        for record in sealed_records(self.cache, key):
            first = record.shard * self.cache.shard_clips
            state = numbers.state[first : first + record.num_rows]
            state[:] = STATUS_OK
            self._mark(state, first, (warning.clip_id for warning in record.warnings), STATUS_WARNED)
            self._mark(state, first, (failure.clip_id for failure in record.failures), STATUS_FAILED)
            numbers.num_shards += 1
            versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
            numbers.made_by[versions, record.device, record.host] += 1
            numbers.bytes_of.update(_bytes_by_array(record.objects, key))
            numbers.seals.append((record.sealed_at, record.num_rows, record.host))
            self._add_seconds(record)
        return numbers

    def _mark(self, state: np.ndarray, first: int, clip_ids: Iterable[str], value: int) -> None:
        marked = {*clip_ids}
        if marked:
            here = self.clip_ids.slice(first, len(state)).to_pylist()
            state[[clip_id in marked for clip_id in here]] = value

    def _add_seconds(self, record: Record) -> None:
        """Adds the seconds of the work unit that wrote `record`. All records of a unit repeat the same seconds, so only
        the first of these records is added. The seconds of the writing thread differ: they grow from record to record,
        and the largest value counts.
        """
        write = f"{THREADS}{WRITE}"
        rest = {kind: seconds for kind, seconds in record.seconds.items() if kind != write}
        unit = self._seconds.setdefault((record.shard, record.host, frozenset(rest.items())), rest)
        if write in record.seconds:
            unit[write] = max(unit.get(write, 0.0), record.seconds[write])


def _bytes_by_array(objects: Mapping[str, SealedObject], key: str) -> Counter[str]:
    """Returns {array name: bytes on disk} for the objects of one ledger record. An object of an HDF5 cache holds all
    arrays of the stage `key`, so its bytes count for the name `key`.
    """
    sizes: Counter[str] = Counter()
    for name, entry in objects.items():
        folder, _, last = name.rpartition("/")
        is_zarr = name.startswith("data.zarr/") and last.startswith("c.")
        sizes[folder.removeprefix("data.zarr/") if is_zarr else key] += entry.size
    return sizes
