"""Sorts and merges the rows of a clips table with little memory. The rows are held as Arrow columns. Python objects,
which take four times the memory, are made for some thousand rows at a time.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kinegraph.cache_schemas.clips_columns import INTERVAL
from kinegraph.cache_schemas.clips_table import (
    ROW_GROUP_ROWS,
    ClipRow,
    ClipsTable,
    RowOrder,
    merged,
    order_of,
    row_order,
)


def sorted_table(rows: Iterable[ClipRow]) -> ClipsTable:
    """Returns a table of `rows`, sorted by video, interval, clip and crop. The caller can pass a generator, so that not
    all rows are in memory as Python objects.
    """
    before: RowOrder | None = None
    is_sorted = True

    def watched() -> Iterator[ClipRow]:
        nonlocal before, is_sorted
        for row in rows:
            now = row_order(row)
            is_sorted = is_sorted and (before is None or before <= now)
            before = now
            yield row

    table = ClipsTable.from_rows(watched())
    return table if is_sorted else ClipsTable.from_rows(_in_order(table))


def merged_tables(old: ClipsTable, rows: Iterable[ClipRow]) -> ClipsTable:
    """Returns the table of a cache after another run of `index`: first the rows of `old`, with their row numbers, then
    the rows that are only in `rows`, sorted. Old rows take new labels, splits and paths from `rows`, by the rules of
    `clips_table.merged`.

    If `rows` has a row twice, the first counts. `rows` may be a generator. Raises CacheMismatch if `rows` lacks a row
    of `old`, or if times, crop or frame size of a row changed.
    """
    new = ClipsTable.from_rows(rows)
    old_ids, new_ids = old.table.column("clip_id"), new.table.column("clip_id")
    places = pc.index_in(old_ids, value_set=new_ids)
    added = _in_order(ClipsTable(new.table.filter(pc.invert(pc.is_in(new_ids, value_set=old_ids)))))
    return ClipsTable.from_rows(chain(_kept(old, new, places), added))


def _kept(old: ClipsTable, new: ClipsTable, places: pa.ChunkedArray) -> Iterator[ClipRow]:
    """Yields the rows of `old` with the labels, splits and paths that they have in `new`. `places` has the row number
    in `new` of each row of `old`, or null if `new` lacks the row.
    """
    whole = new.table.combine_chunks()  # `take` would do so each time
    for first in range(0, len(old), ROW_GROUP_ROWS):
        now = ClipsTable(whole.take(places.slice(first, ROW_GROUP_ROWS).drop_null()))
        yield from merged([*old.rows(first, first + ROW_GROUP_ROWS)], [*now.rows()])


def _in_order(table: ClipsTable) -> Iterator[ClipRow]:
    """Yields the rows of `table`, sorted by video, interval, clip and crop."""
    ids = [table.column("clip_id"), table.column("video_id")]
    has_intervals = INTERVAL.name in table.table.column_names
    intervals = table.column(INTERVAL.name) if has_intervals else [None] * len(table)
    keys = [*map(order_of, *ids, intervals)]
    order = np.array(sorted(range(len(table)), key=keys.__getitem__), np.int64)
    whole = table.table.combine_chunks()
    for first in range(0, len(order), ROW_GROUP_ROWS):
        yield from ClipsTable(whole.take(order[first : first + ROW_GROUP_ROWS])).rows()
