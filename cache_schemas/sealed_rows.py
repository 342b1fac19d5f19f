"""Reads the records of sealed shards and compares each record with the rows of the cache.

A record may no longer match the rows, for example because clips.parquet was replaced or has lost rows since the shard
was sealed.
"""

from collections.abc import Container, Iterator, Sequence

from kinegraph.cache_schemas.cache import MANIFEST, Cache
from kinegraph.cache_schemas.clips_table import TABLE, ClipsTable, video_of
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.ledger import Record
from kinegraph.cache_schemas.words import counted

WHOLE = "The sealed shards may well be whole, and `verify --repair` does not help."
RESTORE_BOTH = (
    f"Restore {TABLE} from a copy, and {MANIFEST} if it was changed, too. Without a copy extract into a new `cache:`."
)


class RowsMismatch(CacheError):
    """The sealed shards do not match the rows of the cache. After the shards were sealed, clips.parquet or the entry
    `shard_clips` of cache.json was changed.

    `document` is the name of the changed file: clips.parquet or cache.json. `seen` says in words what does not match,
    and `advice` what to do.
    """

    def __init__(self, cache: Cache, document: str, seen: str, advice: str) -> None:
        super().__init__(f"{cache.root}/{document} does not fit what is sealed: {seen}. {advice} {WHOLE}")
        self.document = document


def sealed_shards(cache: Cache, key: str) -> list[int]:
    """Returns the numbers of the shards that are sealed (have a ledger record) for the stage `key`, in ascending order.

    If another process has added rows to the cache since `cache` counted them, the shards of the new rows are left out.
    Raises RowsMismatch if a sealed shard lies beyond the rows that clips.parquet has now, and CacheError if its record
    is damaged.
    """
    return _within(cache, key, cache.ledger.shards(key))


def sealed_stamps(cache: Cache, key: str) -> dict[int, str | None]:
    """Returns the shards of `sealed_shards`, in ascending order -> the stamp of the shard's record. While the stamp
    stays the same, the record is the same. A stamp of None says nothing.
    """
    stamps = cache.ledger.stamps(key)
    return {shard: stamps[shard] for shard in _within(cache, key, [*stamps])}


def _within(cache: Cache, key: str, shards: Sequence[int]) -> list[int]:
    """Returns those of the sealed `shards` of the stage `key` that lie within the rows of the cache. Raises
    RowsMismatch if the others are not of rows that were added meanwhile.
    """
    if shards and shards[-1] >= cache.num_shards and cache.ledger.read(key, shards[-1]) is not None:
        _require_newer(cache, key, shards[-1], f"is sealed as shard {shards[-1]:,}, counted from 0")
    return [shard for shard in shards if shard < cache.num_shards]


def sealed_records(cache: Cache, key: str, among: Container[int] | None = None) -> Iterator[Record]:
    """Returns an iterator over the ledger records of the stage `key`, in the order of the shards.

    `among` contains the numbers of the shards whose records are wanted. None means all shards. If another process has
    added rows to the cache since `cache` counted them, the shards of the new rows are skipped. Raises RowsMismatch
    where a record does not match the rows of the cache, CacheError where a record is damaged.
    """
    shards = sealed_shards(cache, key)
    return records_of(cache, key, shards if among is None else [shard for shard in shards if shard in among])


def records_of(cache: Cache, key: str, shards: Sequence[int]) -> Iterator[Record]:
    """Returns an iterator over the ledger records of the stage `key` for the sealed `shards`, in this order. It skips
    records and raises errors as `sealed_records` does, but makes no list of all records.
    """
    return (record for record in cache.ledger.records_of(key, shards) if _is_of_rows(cache, record))


def require_rows_of(cache: Cache, record: Record) -> None:
    """Raises RowsMismatch if the rows that `record` states for its shard are not the rows that `cache` has there
    now.
    """
    _is_of_rows(cache, record)


def require_rows(cache: Cache) -> None:
    """Raises RowsMismatch if the sealed shards do not fit the rows of the cache.

    For the first stage, the contents of the ledger records are compared with the rows. For the other stages, only the
    numbers of the sealed shards are compared.
    """
    keys = cache.stage_keys()
    for key in keys:
        sealed_shards(cache, key)
    for _ in sealed_records(cache, keys[0]) if keys else ():
        pass


def _is_of_rows(cache: Cache, record: Record) -> bool:
    """Returns True if all rows of the shard of `record` are among the rows that `cache` counted when it was opened.
    Returns False if the shard has more rows, because another process has added rows to the cache meanwhile.

    Raises RowsMismatch if the shard was sealed with other rows than the cache has.
    """
    num_rows = len(cache.shard_rows(record.shard))
    if record.num_rows > num_rows:
        _require_newer(cache, record.key, record.shard, f"is sealed with {counted(record.num_rows, 'row')}")
        return False
    if record.num_rows < num_rows:  # an index may have added rows while the shard was sealed
        _require_same_layout(cache, record.key, record.shard)
    _require_same_videos(cache, record)
    return True


def _require_newer(cache: Cache, key: str, shard: int, seen: str) -> None:
    """Raises RowsMismatch if clips.parquet has no more rows now than `cache` counted when it was opened. If it has more
    rows, another process has added them, and the record of the shard `shard` may be about the new rows.

    `seen` is the part of the error's message that says what this record states.
    """
    _require_same_layout(cache, key, shard)
    num_rows = ClipsTable.count(cache.storage)
    if num_rows <= cache.num_rows:
        there = f"{counted(num_rows, 'row')} in {counted(cache.num_shards, 'shard')} of up to {cache.shard_clips:,}"
        raise RowsMismatch(
            cache, TABLE, f"{cache.ledger.name(key, shard)} {seen}, and {TABLE} has {there}", RESTORE_BOTH
        )


def _require_same_layout(cache: Cache, key: str, shard: int) -> None:
    declared = cache.store.declared_shard_clips(cache.stage(key).arrays)
    if declared not in (None, cache.shard_clips):
        seen = f"store.shard_clips is {cache.shard_clips:,}, and arrays on disk have {counted(declared, 'row')} a shard"
        advice = f"Set store.shard_clips back to {declared}, or restore {MANIFEST} from a copy."
        raise RowsMismatch(cache, MANIFEST, seen, advice)


def _require_same_videos(cache: Cache, record: Record) -> None:
    named = record.sources.keys() | {video_of(failure.clip_id) for failure in record.failures}
    absent = named.difference(cache.video_ids(record.shard))
    if absent and (absent == named or absent & record.sources.keys()):
        name = cache.ledger.name(record.key, record.shard)
        seen = f"{name} is of {min(absent)}, and {TABLE} has no row of it in this shard"
        raise RowsMismatch(cache, TABLE, seen, RESTORE_BOTH)
