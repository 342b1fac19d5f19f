"""Reads the ledger records of finished shards and compares each record with the rows of the cache.

A record may no longer match the rows, for example because clips.parquet was replaced after the shard was finished.
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
    """The finished shards do not match the rows of the cache. The file clips.parquet, or the entry `shard_clips` of
    cache.json, was changed after the shards were finished.

    `document` is the name of the changed file. `seen` says what does not match, and `advice` says what to do.
    """

    def __init__(self, cache: Cache, document: str, seen: str, advice: str) -> None:
        super().__init__(f"{cache.root}/{document} does not fit what is sealed: {seen}. {advice} {WHOLE}")
        self.document = document


def sealed_shards(cache: Cache, key: str) -> list[int]:
    """Returns the numbers of the shards that are sealed (done) for the stage `key`, in ascending order. A shard is
    sealed if it has a ledger record. If another process has added rows meanwhile, shards with only new rows are left
    out.

    Raises RowsMismatch if a finished shard lies beyond the rows of clips.parquet. Raises CacheError if the record of
    such a shard is damaged.
    """
    return _within(cache, key, cache.ledger.shards(key))


def sealed_stamps(cache: Cache, key: str) -> dict[int, str | None]:
    """Returns shard number -> stamp of the shard's ledger record, for the shards that `sealed_shards` returns, in
    ascending order. A stamp is a text that changes if the record changes. A stamp is None if the storage cannot tell
    whether the record has changed.
    """
    stamps = cache.ledger.stamps(key)
    return {shard: stamps[shard] for shard in _within(cache, key, [*stamps])}


def _within(cache: Cache, key: str, shards: Sequence[int]) -> list[int]:
    """Returns the numbers in `shards` that lie within the rows of the cache. `shards` are the sealed shards of the
    stage `key`. Raises RowsMismatch if a shard lies beyond the rows although no process has added rows.
    """
    if shards and shards[-1] >= cache.num_shards and cache.ledger.read(key, shards[-1]) is not None:
        _require_newer(cache, key, shards[-1], f"is sealed as shard {shards[-1]:,}, counted from 0")
    return [shard for shard in shards if shard < cache.num_shards]


def sealed_records(cache: Cache, key: str, among: Container[int] | None = None) -> Iterator[Record]:
    """Returns an iterator over the ledger records of the stage `key`, in the order of the shards. `among` has the
    numbers of the shards to read, or is None for all. If another process has added rows meanwhile, shards with new rows
    are skipped.

    Raises RowsMismatch if a record does not match the rows of the cache, and CacheError if a record is damaged.
    """
    shards = sealed_shards(cache, key)
    return records_of(cache, key, shards if among is None else [shard for shard in shards if shard in among])


def records_of(cache: Cache, key: str, shards: Sequence[int]) -> Iterator[Record]:
    """Returns an iterator over the ledger records of the stage `key` for the shard numbers `shards`, in this order. If
    another process has added rows meanwhile, shards with new rows are skipped.

    Raises RowsMismatch if a record does not match the rows of the cache, and CacheError if a record is damaged.
    """
    return (record for record in cache.ledger.records_of(key, shards) if _is_of_rows(cache, record))


def require_rows_of(cache: Cache, record: Record) -> None:
    """Raises RowsMismatch if the shard of `record` was written with other rows than `cache` has now."""
    _is_of_rows(cache, record)


def require_rows(cache: Cache) -> None:
    """Raises RowsMismatch if the finished shards do not match the rows of the cache.

    For the first stage, every ledger record is compared with the rows. For the other stages, only the numbers of the
    finished shards are compared.
    """
    keys = cache.stage_keys()
    for key in keys:
        sealed_shards(cache, key)
    for _ in sealed_records(cache, keys[0]) if keys else ():
        pass


def _is_of_rows(cache: Cache, record: Record) -> bool:
    """Returns whether all rows of the shard of `record` are among the rows that `cache` counted when it was opened. The
    result is False if another process has added rows to this shard since.

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
    """Raises RowsMismatch unless clips.parquet has more rows now than `cache` counted when it was opened. More rows
    mean that another process has added them, and that the record of the shard number `shard` may be about the new rows.

    `seen` says in words what the record states. It becomes a part of the error's message.
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
