"""Reads and writes clips.parquet, the table of a cache with one row per clip and crop.

The command `index` writes the table. The first `index` sorts the rows. A later `index` keeps these rows in their order
and appends new rows, sorted among themselves.
"""

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kinegraph.cache_schemas.clips_columns import (
    INTERVAL,
    OPTIONAL,
    SCHEMA,
    TARGET_FRAMES,
    require_columns,
    require_values,
    schema_of,
)
from kinegraph.cache_schemas.crops import Framing, Rectangle, directed, seen_rectangle
from kinegraph.cache_schemas.documents import STAGES
from kinegraph.cache_schemas.errors import CacheError, CacheMismatch, CacheNotFound
from kinegraph.cache_schemas.regular import require_regular
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.words import sentence

TABLE = "clips.parquet"
ROW_GROUP_ROWS = 8192  # rows that are read at least, also for one row
Interval = tuple[float, float]  # [start, end), seconds from the first presented frame
WHOLE: Interval = (-math.inf, math.inf)  # sorts a whole video before its intervals
RowOrder = tuple[str, Interval, int, str]  # name of the video, interval, number of the clip, crop


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRow:
    """One clip under one crop: a row of clips.parquet. Times are in seconds from the first presented frame.

    If `index` could not open the video, `target_times` is empty, the other times and the crop are NaN, and the frame
    size is 0. A later `index` that can open the video fills these values in.
    """

    clip_id: str
    video_id: str
    path: str
    # `split`, `labels`: the split of the data set, and the class numbers
    split: str
    # `start_seconds`, `end_seconds`: the span of the clip
    start_seconds: float
    end_seconds: float
    labels: tuple[int, ...]
    target_times: tuple[float, ...]  # the times of the frames to decode
    # The rectangle (x1, y1, x2, y2) in pixels of the frame, which has `frame_width` x `frame_height` px
    crop: tuple[float, float, float, float]
    frame_width: int
    frame_height: int
    list_index: int = -1  # the position of the video or interval in the data set's list, or -1 if it is unknown
    # (start, end), if the data set lists only a part of a video, or None for a whole video. An interval has its own
    # `video_id` (`film@3-7` for seconds 3 to 7 of `film`) and is scored like a video.
    interval: Interval | None = None
    # Whether the pixels are mirrored after the cut. `crop` is a place in the unmirrored video.
    mirrored: bool = False
    # The number of images per second, if `path` is a folder of images
    frame_rate: float | None = None
    # The numbers of the frames to decode, from 0. If it is set, it is used in place of `target_times`.
    target_frames: tuple[int, ...] | None = None

    @property
    def is_probed(self) -> bool:
        """Returns whether `index` could open the video. If not, the row has no times, crop and frame size."""
        return len(self.target_times) > 0

    @property
    def video_name(self) -> str:
        """Returns the id of the whole video that this row is cut from (`film` for the interval `film@3-7`). Files of
        boxes are named by this id.
        """
        return name_of_video(self.video_id, self.interval)

    @property
    def crop_name(self) -> str:
        """Returns the name of the crop, for example `center` or `left_flip`."""
        return crop_of(self.clip_id)

    def at(self, places: Sequence[int]) -> "ClipRow":
        """Returns a copy of this row with only some of its frames. `places` are the positions of these frames in the
        clip, from 0.
        """
        return replace(
            self,
            target_times=tuple(self.target_times[place] for place in places),
            target_frames=self.target_frames and tuple(self.target_frames[place] for place in places),
        )

    def seen(self, framing: Framing) -> Rectangle:
        """Returns the part of the frame that a network sees, as a rectangle (x1, y1, x2, y2) in pixels of the video.
        `framing` says how the network resizes and cuts frames. If the row is mirrored, x1 is greater than x2.
        """
        rectangle = self.crop
        if framing.cuts(self.crop_name):
            rectangle = seen_rectangle(self.crop_name, self.frame_width, self.frame_height, framing)
        return directed(rectangle, mirrored=self.mirrored)


MAY_CHANGE = {"path", "split", "labels", "list_index"}  # no extraction fingerprint covers these columns
MUST_STAY = [field.name for field in fields(ClipRow) if field.name not in MAY_CHANGE]


class ClipsTable:
    """The rows of a cache, held as an Arrow table, which takes less memory than Python objects. The method `rows`
    yields them as ClipRows.
    """

    def __init__(self, table: pa.Table) -> None:
        if "list_index" not in table.column_names:  # tables of early versions lack this column
            table = table.append_column("list_index", pa.repeat(-1, len(table)))
        schema = schema_of({*table.column_names})
        self.table = table.select(schema.names).cast(schema)
        require_values(self.table)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[ClipRow]:
        """Yields the rows number `start` to `stop` - 1 as ClipRows. With `stop=None`, yields all rows from `start`
        on.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        for first in range(start, stop, ROW_GROUP_ROWS):  # all rows as Python objects take several times the table
            for entry in self.table.slice(first, min(ROW_GROUP_ROWS, stop - first)).to_pylist():
                for key in ("labels", "target_times", "crop"):
                    entry[key] = tuple(entry[key])
                for key in (INTERVAL.name, TARGET_FRAMES.name):
                    if entry.get(key) is not None:
                        entry[key] = tuple(entry[key])
                yield ClipRow(**entry)

    def column(self, name: str) -> list[object]:
        """Returns the column `name` as a list of Python values."""
        values: list[object] = self.table.column(name).to_pylist()
        return values

    def counts(self, name: str) -> dict[str, int]:
        """Counts the texts in the column `name`. Returns text -> number of rows with this text."""
        counts = pc.value_counts(self.table.column(name))
        return {entry["values"]: entry["counts"] for entry in counts.to_pylist()}

    def with_paths(self, paths: Sequence[str]) -> "ClipsTable":
        """Returns a copy of this table with other paths of videos. `paths` has one path for each row."""
        where = self.table.column_names.index("path")
        return ClipsTable(self.table.set_column(where, SCHEMA.field("path"), pa.array(paths, pa.string())))

    @classmethod
    def from_rows(cls, rows: Iterable[ClipRow]) -> "ClipsTable":
        """Returns a table of `rows`. An optional column, such as `interval`, is left out if no row has a value."""
        schema, used = schema_of({field.name for field in OPTIONAL}), set[str]()
        parts, left = list[pa.Table](), iter(rows)
        while some := [*itertools.islice(left, ROW_GROUP_ROWS)]:
            used |= {field.name for field in OPTIONAL if any(getattr(row, field.name) for row in some)}
            columns = {name: [getattr(row, name) for row in some] for name in schema.names}
            parts.append(pa.table(columns, schema=schema))
        table = pa.concat_tables(parts) if parts else schema.empty_table()
        return cls(table.select(schema_of(used).names))

    @classmethod
    def read(cls, storage: Storage) -> "ClipsTable":
        """Returns all rows of clips.parquet. Raises CacheNotFound if it is missing, CacheError if it is damaged."""
        with _opened(storage) as file:
            return cls(file.read(use_threads=False))

    @staticmethod
    def count(storage: Storage) -> int:
        """Returns the number of rows. Only the footer of clips.parquet is read."""
        with _opened(storage) as file:
            return int(file.metadata.num_rows)

    @staticmethod
    def read_columns(storage: Storage, names: Sequence[str]) -> pa.Table:
        """Reads only the columns `names` of clips.parquet, and returns them as an Arrow table. A column that
        clips.parquet does not have is left out.
        """
        with _opened(storage) as file:
            return file.read(columns=list(names), use_threads=False)

    @staticmethod
    def count_values(storage: Storage, names: Sequence[str]) -> Counter[tuple[Any, ...]]:
        """Counts how often each combination of values occurs in the columns `names`. Returns (value in each column) ->
        number of rows with these values. Only one row group is in memory at a time.
        """
        counts = Counter[tuple[Any, ...]]()
        with _opened(storage) as file:
            for group in range(file.metadata.num_row_groups):
                part = file.read_row_group(group, columns=list(names), use_threads=False)
                of_part = part.group_by(list(names), use_threads=False).aggregate([([], "count_all")])
                *values, numbers = (of_part.column(name).to_pylist() for name in (*names, "count_all"))
                counts.update(dict(zip(zip(*values, strict=True), numbers, strict=True)))
        return counts

    @staticmethod
    def read_video_names(storage: Storage) -> dict[str, str]:
        """Returns video_id -> id of the whole video (`film@3-7` -> `film`), for every row that is an interval of a
        video. The ids of whole videos are left out.
        """
        names = dict[str, str]()
        with _opened(storage) as file:
            if INTERVAL.name in file.schema_arrow.names:
                for group in range(file.metadata.num_row_groups):
                    part = file.read_row_group(group, columns=["video_id", INTERVAL.name], use_threads=False)
                    listed = zip(*(part.column(name).to_pylist() for name in ("video_id", INTERVAL.name)), strict=True)
                    names |= {
                        video: name_of_video(video, interval) for video, interval in listed if interval is not None
                    }
        return names

    @classmethod
    def check(cls, storage: Storage) -> None:
        """Reads every row of clips.parquet once, part by part, to find damage. Raises CacheNotFound if the file is
        missing, and CacheError if it is damaged.
        """
        with _opened(storage) as file:
            for group in range(file.metadata.num_row_groups):
                cls(file.read_row_group(group, use_threads=False))

    @classmethod
    def read_around(cls, storage: Storage, rows: range) -> tuple[int, "ClipsTable"]:
        """Reads the part of clips.parquet that contains the row numbers `rows`. The part may have more rows, because
        the file is read in whole row groups.

        Returns (number of the first row that was read, table of the rows that were read).
        """
        with _opened(storage) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            ends = list(itertools.accumulate(sizes))
            first, last = bisect.bisect_right(ends, rows.start), bisect.bisect_left(ends, rows.stop)
            table = cls(file.read_row_groups(range(first, last + 1), use_threads=False))
            return ends[first] - sizes[first], table

    def write(self, storage: Storage) -> None:
        """Writes the table to clips.parquet in `storage`. An existing file is replaced as a whole."""
        sink = pa.BufferOutputStream()
        pq.write_table(self.table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
        storage.put(TABLE, [memoryview(sink.getvalue())])


@contextmanager
def _opened(storage: Storage) -> Iterator[pq.ParquetFile]:
    """Yields the clips.parquet in `storage` as an open file. A file on a disk is mapped into memory. A file in an
    object store is fetched whole.

    Callers must read the file with use_threads=False, because Arrow's threads sometimes abort the process at exit,
    after all work is done. Raises CacheNotFound where clips.parquet is missing, CacheError where the file cannot be
    read.
    """
    where = f"{storage.root}/{TABLE}"
    try:
        if (path := storage.local_path(TABLE)) is not None:
            require_regular(path)
        with pq.ParquetFile(pa.BufferReader(storage.get(TABLE)) if path is None else path, memory_map=True) as file:
            require_columns(file.schema_arrow)
            yield file
    except FileNotFoundError:
        raise CacheNotFound(f"{where} does not exist{_way_out(storage)}") from None
    except CacheError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise CacheError(f"{where} cannot be read: {sentence(error)} Restore it from a copy of the cache.") from error


def _way_out(storage: Storage) -> str:
    """Returns the end of the error message for a missing clips.parquet, which says how to get the file again."""
    if any(storage.names(STAGES)):
        return ", and only it says which row is which clip. Restore it from a copy of the cache."
    return ". Make it with `kinegraph index CONFIG`."


def _same(old: object, new: object) -> bool:
    both_nan = isinstance(old, float) and isinstance(new, float) and math.isnan(old) and math.isnan(new)
    return old == new or both_nan


def merged(old: Sequence[ClipRow], new: Sequence[ClipRow]) -> list[ClipRow]:
    """Returns the rows of a cache after another run of `index`: first the rows `old`, with their row numbers, then the
    rows that are only in `new`, sorted. Rows with equal clip_id are the same row.

    An old row takes labels, split, path and `list_index` from `new`. If its video could not be opened before, it takes
    all values from `new`. Raises CacheMismatch if `new` lacks an old row, or if times, crop or frame size of a row
    changed.
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
            changed = [key for key in MUST_STAY if not _same(getattr(row, key), getattr(now, key))]
            if changed:
                before, after = getattr(row, changed[0]), getattr(now, changed[0])
                raise CacheMismatch(
                    f"{row.clip_id} was indexed with {changed[0]} {before!r}, now {after!r}: "
                    "another video, or other `clips` options. Start a new cache for it."
                )
        now_known = now.is_probed or not row.is_probed
        kept.append(now if now_known else replace(row, **{key: getattr(now, key) for key in MAY_CHANGE}))
    return kept + sorted(by_id.values(), key=row_order)


def interval_id(video: str, interval: Interval) -> str:
    """Returns the video_id of an interval of `video`: `<video>@<start>-<end>`, for example `film@3-7.5`.

    `interval` is (start, end) in seconds. Start and end are written with the fewest digits that keep the exact number.
    """
    start, end = (repr(seconds).removesuffix(".0") for seconds in interval)
    return f"{video}@{start}-{end}"


def name_of_video(video_id: str, interval: Interval | None) -> str:
    """Returns the id of the whole video: `"film@3-7", (3.0, 7.0) -> "film"`. `interval` is (start, end) in seconds. If
    it is None, `video_id` is already the id of a whole video and is returned.
    """
    return video_id if interval is None else video_id.removesuffix(interval_id("", interval))


def video_of(clip_id: str) -> str:
    """Returns the video_id in `clip_id`, which is `<video_id>:<clip number>:<crop>`."""
    return clip_id.rsplit(":", 2)[0]


def crop_of(clip_id: str) -> str:
    """Returns the name of the crop in `clip_id`, which is `<video_id>:<clip number>:<crop>`."""
    return clip_id.rpartition(":")[2]


def row_order(row: ClipRow) -> RowOrder:
    """Returns the key by which `row` is sorted: video, then time of the interval, then clip number, then crop."""
    return order_of(row.clip_id, row.video_id, row.interval)


def order_of(clip_id: str, video_id: str, interval: Sequence[float] | None) -> RowOrder:
    """Returns the key by which a row with these three values is sorted. `row_order` returns the key of a ClipRow."""
    _, clip, crop = clip_id.rsplit(":", 2)
    if interval is None:
        return video_id, WHOLE, int(clip), crop
    start, end = interval
    return name_of_video(video_id, (start, end)), (start, end), int(clip), crop
