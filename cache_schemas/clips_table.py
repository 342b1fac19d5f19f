"""clips.parquet: one row per clip and crop. Sorted when first written, append-only afterwards."""

import bisect
import itertools
import math
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from kinegraph.cache_schemas.crops import Framing, Rectangle, directed, seen_rectangle
from kinegraph.cache_schemas.errors import CacheError, CacheMismatch, CacheNotFound
from kinegraph.cache_schemas.regular import require_regular
from kinegraph.cache_schemas.storage import Storage

TABLE = "clips.parquet"
ROW_GROUP_ROWS = 8192  # what is read to get at one row
Interval = tuple[float, float]  # [start, end), seconds from the first presented frame


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """One clip under one crop. Times in seconds from the first presented frame, crop in video pixels.

    A video that could not be opened when it was indexed has rows with `target_times` empty and NaN elsewhere;
    a later index fills them in. Of a video that is listed by intervals each is scored by itself: `video_id` names one.
    `list_index` is the video's place in the data set's list, -1 where it is not known.
    """

    clip_id: str
    video_id: str
    path: str
    split: str
    start_seconds: float
    end_seconds: float
    labels: tuple[int, ...]
    target_times: tuple[float, ...]
    crop: tuple[float, float, float, float]
    frame_width: int
    frame_height: int
    list_index: int = -1
    interval: Interval | None = None  # as it was listed; None: the whole video
    mirrored: bool = False  # the pixels, after they are cut out; the crop is as in the video
    frame_rate: float | None = None  # of a folder of images; None: `path` is a video
    target_frames: tuple[int, ...] | None = None  # from 0, as presented, where they say which; None: target_times do

    @property
    def is_probed(self) -> bool:
        return len(self.target_times) > 0

    @property
    def video_name(self) -> str:
        """The id of the whole video, by which files beside it are found."""
        return name_of_video(self.video_id, self.interval)

    @property
    def crop_name(self) -> str:
        return crop_of(self.clip_id)

    def seen(self, framing: Framing) -> Rectangle:
        """What of the frame a network sees, in video pixels, in reading direction: x1 > x2 where it is mirrored."""
        rectangle = self.crop
        if framing.cuts(self.crop_name):
            rectangle = seen_rectangle(self.crop_name, self.frame_width, self.frame_height, framing)
        return directed(rectangle, mirrored=self.mirrored)


SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("split", pa.string()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("labels", pa.list_(pa.int32())),
        ("target_times", pa.list_(pa.float64())),
        ("crop", pa.list_(pa.float64(), 4)),
        ("frame_width", pa.int32()),
        ("frame_height", pa.int32()),
        ("list_index", pa.int32()),
    ]
)
INTERVAL = pa.field("interval", pa.list_(pa.float64()))
MIRRORED = pa.field("mirrored", pa.bool_())
FRAME_RATE = pa.field("frame_rate", pa.float64())
TARGET_FRAMES = pa.field("target_frames", pa.list_(pa.int32()))
OPTIONAL = (INTERVAL, MIRRORED, FRAME_RATE, TARGET_FRAMES)  # a column only where some row has it
MAY_BE_NULL = {INTERVAL.name, FRAME_RATE.name, TARGET_FRAMES.name}
MAY_CHANGE = {"path", "split", "labels", "list_index"}  # enter no extraction fingerprint


class ClipsTable:
    """The rows of a cache, held as an Arrow table; a row becomes a `ClipRow` when asked for."""

    def __init__(self, table: pa.Table) -> None:
        if "list_index" not in table.column_names:  # early tables
            table = table.append_column("list_index", pa.repeat(-1, len(table)))
        schema = _schema({*table.column_names})
        self.table = table.select(schema.names).cast(schema)
        _require_values(self.table)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[ClipRow]:
        """Rows [start, stop) as values."""
        for entry in self.table.slice(start, None if stop is None else stop - start).to_pylist():
            for key in ("labels", "target_times", "crop"):
                entry[key] = tuple(entry[key])
            for key in (INTERVAL.name, TARGET_FRAMES.name):
                if entry.get(key) is not None:
                    entry[key] = tuple(entry[key])
            yield ClipRow(**entry)

    def column(self, name: str) -> list[object]:
        found: list[object] = self.table.column(name).to_pylist()
        return found

    def with_paths(self, paths: Sequence[str]) -> "ClipsTable":
        """The same rows, their videos elsewhere."""
        where = self.table.column_names.index("path")
        return ClipsTable(self.table.set_column(where, SCHEMA.field("path"), pa.array(paths, pa.string())))

    @classmethod
    def from_rows(cls, rows: Sequence[ClipRow]) -> "ClipsTable":
        schema = _schema({field.name for field in OPTIONAL if any(getattr(row, field.name) for row in rows)})
        return cls(pa.table({name: [getattr(row, name) for row in rows] for name in schema.names}, schema=schema))

    @classmethod
    def read(cls, storage: Storage) -> "ClipsTable":
        with _opened(storage) as file:
            return cls(file.read(use_threads=False))

    @staticmethod
    def count(storage: Storage) -> int:
        """Number of rows, from the footer alone."""
        with _opened(storage) as file:
            return int(file.metadata.num_rows)

    @staticmethod
    def read_columns(storage: Storage, names: Sequence[str]) -> pa.Table:
        """Some columns, without the rest of the table."""
        with _opened(storage) as file:
            return file.read(columns=list(names), use_threads=False)

    @staticmethod
    def read_video_names(storage: Storage) -> dict[str, str]:
        """video_id -> id of the whole video, of every video that is listed by intervals."""
        found = ClipsTable.read_columns(storage, ["video_id", INTERVAL.name])
        if INTERVAL.name not in found.column_names:
            return {}
        listed = zip(*(found.column(name).to_pylist() for name in found.column_names), strict=True)
        return {video: name_of_video(video, interval) for video, interval in listed if interval is not None}

    @classmethod
    def check(cls, storage: Storage) -> None:
        """Read all rows, a row group at a time. Raises CacheError for a table that is damaged."""
        with _opened(storage) as file:
            for group in range(file.metadata.num_row_groups):
                cls(file.read_row_group(group, use_threads=False))

    @classmethod
    def read_around(cls, storage: Storage, rows: range) -> tuple[int, "ClipsTable"]:
        """The row groups that hold `rows`, without the rest of the table, and the number of their first row."""
        with _opened(storage) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            ends = list(itertools.accumulate(sizes))
            first, last = bisect.bisect_right(ends, rows.start), bisect.bisect_left(ends, rows.stop)
            table = cls(file.read_row_groups(range(first, last + 1), use_threads=False))
            return ends[first] - sizes[first], table

    def write(self, storage: Storage) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(self.table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
        storage.put(TABLE, [memoryview(sink.getvalue())])


def _schema(names: Container[str]) -> pa.Schema:
    """With those of the optional columns that are among `names`."""
    return pa.schema([*SCHEMA, *(field for field in OPTIONAL if field.name in names)])


def _require_columns(found: pa.Schema) -> None:
    """Raises ArrowInvalid unless a table has all columns, each of its kind: wider numbers and strings are cast."""
    optional = {"list_index", *(field.name for field in OPTIONAL)}  # early tables have no list_index
    for field in (*SCHEMA, *OPTIONAL):
        count = found.names.count(field.name)
        if count > 1 or not (count or field.name in optional):
            raise pa.ArrowInvalid(f"{count} columns {field.name}, 1 is expected")
        if count and _kind(found.field(field.name).type) != _kind(field.type):
            raise pa.ArrowInvalid(f"column {field.name} is {found.field(field.name).type}, {field.type} is expected")


def _kind(of: pa.DataType) -> str:
    """What of a type matters to a cast: string, float, integer, or a list of them."""
    types = pa.types
    if types.is_dictionary(of):
        return _kind(of.value_type)
    if types.is_list(of) or types.is_large_list(of) or types.is_fixed_size_list(of):
        return f"list of {_kind(of.value_type)}"
    if types.is_string(of) or types.is_large_string(of):
        return "string"
    return "float" if types.is_floating(of) else "integer" if types.is_integer(of) else str(of)


def _require_values(table: pa.Table) -> None:
    """Raises ArrowInvalid for a null, which no columns may have but `interval`, `frame_rate` and `target_frames`."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        lists = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
        within = sum(chunk.flatten().null_count for chunk in column.chunks) if lists else 0
        if within or (column.null_count and name not in MAY_BE_NULL):
            raise pa.ArrowInvalid(f"column {name} has {column.null_count + within} nulls, none are expected")


@contextmanager
def _opened(storage: Storage) -> Iterator[pq.ParquetFile]:
    """The table's file, opened; mapped where it lies on a disk.

    Read it with use_threads=False: Arrow's threads now and then abort the process at exit, after all is done.
    """
    where = f"{storage.root}/{TABLE}"
    try:
        if (path := storage.local_path(TABLE)) is not None:
            require_regular(path)
        with pq.ParquetFile(pa.BufferReader(storage.get(TABLE)) if path is None else path, memory_map=True) as file:
            _require_columns(file.schema_arrow)
            yield file
    except FileNotFoundError:
        raise CacheNotFound(f"{where} does not exist. Make it with `kinegraph index CONFIG`.") from None
    except CacheError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise CacheError(f"{where} cannot be read: {error}. Restore it from a copy of the cache.") from error


def _same(old: object, new: object) -> bool:
    both_nan = isinstance(old, float) and isinstance(new, float) and math.isnan(old) and math.isnan(new)
    return old == new or both_nan


def merged(old: Sequence[ClipRow], new: Sequence[ClipRow]) -> list[ClipRow]:
    """`old` rows keep their numbers, with labels, splits and places of `new`; rows that only `new` has follow, sorted.

    Rows that could not be probed before are filled in. Raises CacheMismatch where a row was removed or its
    times, crop or frame size changed: what is cached for it would no longer be what the row says.
    """
    by_id = {row.clip_id: row for row in new}
    kept: list[ClipRow] = []
    for row in old:
        now = by_id.pop(row.clip_id, None)
        if now is None:
            raise CacheMismatch(
                f"{row.clip_id} is in the cache but no longer in the data set. Rows are never removed: put the "
                "video back into the list, or start a new cache."
            )
        if row.is_probed and now.is_probed:
            before, after = asdict(row), asdict(now)
            changed = [key for key in before if key not in MAY_CHANGE and not _same(before[key], after[key])]
            if changed:
                raise CacheMismatch(
                    f"{row.clip_id} was indexed with {changed[0]} {before[changed[0]]!r}, now {after[changed[0]]!r}: "
                    "another video, or other `clips` options. Start a new cache for it."
                )
        now_known = now.is_probed or not row.is_probed
        kept.append(now if now_known else replace(row, **{key: getattr(now, key) for key in MAY_CHANGE}))
    return kept + sorted(by_id.values(), key=row_order)


def interval_id(video: str, interval: Interval) -> str:
    """The video_id of an interval: `<video>@<start>-<end>`, seconds as short as they can be said without loss."""
    start, end = (repr(seconds).removesuffix(".0") for seconds in interval)
    return f"{video}@{start}-{end}"


def name_of_video(video_id: str, interval: Interval | None) -> str:
    """The id of the whole video that `video_id` is, or is an interval of."""
    return video_id if interval is None else video_id.removesuffix(interval_id("", interval))


def video_of(clip_id: str) -> str:
    """The video_id in a clip_id."""
    return clip_id.rsplit(":", 2)[0]


def crop_of(clip_id: str) -> str:
    """The name of the crop in a clip_id."""
    return clip_id.rpartition(":")[2]


def row_order(row: ClipRow) -> tuple[str, Interval, int, str]:
    """Sort key of rows: by video, then interval in the order of time, then clip number, then crop."""
    _, clip, crop = row.clip_id.rsplit(":", 2)
    whole = (float("-inf"), float("inf"))
    return row.video_name, whole if row.interval is None else row.interval, int(clip), crop
