"""Stores summaries of ledger records in the user's cache folder, so that the next `kinegraph status` reads only records
that are new. Imports no torch.

The stored summaries only save time. If they are missing, damaged or of another version, all records are read. They lie
outside of the cache, because `status` must not write into a cache of another user. A summary is valid while its record,
clips.parquet and cache.json have not changed.
"""

import gc
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import UPGRADE_SCHEMA_VERSION
from kinegraph.cache_schemas.cache import MANIFEST, Cache
from kinegraph.cache_schemas.clips_table import TABLE
from kinegraph.cache_schemas.files import sweep, write_whole
from kinegraph.cache_schemas.ledger import RECORDS_AT_ONCE
from kinegraph.cache_schemas.regular import read_regular
from kinegraph.cache_schemas.sealed_rows import records_of, sealed_stamps
from kinegraph.cache_schemas.user_folders import user_cache
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.summaries import Summary
from kinegraph.pipeline.shards.pace import Sealed

FORMAT = f"summaries 1, records {UPGRADE_SCHEMA_VERSION}"  # another format for other fields or another meaning
FORGOTTEN_SECONDS = 90 * 86_400.0  # age at which the file of a cache is removed
log = logging.getLogger("kinegraph")

Kept = dict[int, tuple[str | None, Summary]]  # number of the shard -> (stamp of its record, summary)


class KeptSummaries:
    """The summaries of all ledger records of `cache`. A summary that an earlier `kinegraph status` has stored is read
    from the user's cache folder. All others are made from the records. Call `write` at the end to store the summaries
    for the next `status`.

    Summaries are not stored if few records are new, or if the storage cannot tell whether an object has changed.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._of = {name: cache.storage.stamp(name) for name in (MANIFEST, TABLE)} | {"cache": cache.location}
        self._path = None if None in self._of.values() else _path(cache.location)
        self._before = _read(self._path, self._of) if self._path is not None else {}
        self._now: dict[str, Kept] = {}
        self._num_new = 0

    def summaries(self, key: str) -> dict[int, Summary]:
        """Returns shard number -> Summary, for each shard that is done for the stage `key`, in ascending order. A
        Summary has the counts of one ledger record. Reads only the records that are new or were replaced.

        Raises RowsMismatch if a record does not match the rows of the cache, and CacheError if a record is damaged.
        """
        stamps, before = sealed_stamps(self._cache, key), self._before.get(key, {})
        kept: Kept = {
            shard: before[shard]
            for shard, stamp in stamps.items()
            if stamp is not None and shard in before and before[shard][0] == stamp
        }
        new = [shard for shard in stamps if shard not in kept]
        # the stamp was taken before the record is read, so a record that changes in between is read again
        for record in stopping.checked(records_of(self._cache, key, new)):
            kept[record.shard] = stamps[record.shard], Summary.of(record)
            self._num_new += stamps[record.shard] is not None
        self._now[key] = {shard: kept[shard] for shard in stamps if shard in kept}
        return {shard: summary for shard, (_, summary) in self._now[key].items()}

    def write(self) -> None:
        """Stores the summaries of the ledger records in the user's cache folder, for the next `kinegraph status`. Logs
        a warning if the file cannot be written.

        Does nothing if fewer than RECORDS_AT_ONCE new records were read, or if the storage cannot tell whether an
        object has changed.
        """
        if self._path is None or self._num_new < RECORDS_AT_ONCE:
            return
        try:
            body = json.dumps({"of": self._of, **self._tables()}, separators=(",", ":")).encode()
            write_whole(self._path, [_head(body), body])
            _tidy(self._path.parent)
        except OSError as error:
            log.warning(
                "The summary of %s cannot be kept in %s: %s. The next `status` reads all of them again. "
                "XDG_CACHE_HOME can name another folder.",
                counted(self._num_new, "ledger record"), self._path.parent, (error.__cause__ or error),
            )  # fmt: skip

    def _tables(self) -> dict[str, Any]:
        """Returns the summaries as a document for JSON. Two kinds of summaries are left out, because their records must
        be read each time: those without a stamp, and those of shards with fewer rows than the cache has there.
        """
        kinds: dict[tuple[str, ...], int] = {}
        stages = {
            key: [
                [shard, stamp, *summary._replace(kinds=kinds.setdefault(summary.kinds, len(kinds)))]  # type: ignore[arg-type]
                for shard, (stamp, summary) in kept.items()
                if stamp is not None and summary.sealed.rows == len(self._cache.shard_rows(shard))
            ]
            for key, kept in self._now.items()
        }
        return {"kinds": [*kinds], "stages": stages}


def _path(location: str) -> Path | None:
    folder = user_cache("status")
    return None if folder is None else folder / f"{xxhash.xxh3_128_hexdigest(location.encode())}.json"


def _head(body: bytes) -> bytes:
    return f"{FORMAT}, {xxhash.xxh3_128_hexdigest(body)}\n".encode()


def _read(path: Path, of: dict[str, str | None]) -> dict[str, Kept]:
    """Returns stage key -> stored summaries, read from the file `path`. Returns an empty dict if the file is missing,
    damaged or of another format, or if clips.parquet or cache.json has changed since. `of` has their present stamps.
    """
    try:
        head, _, body = read_regular(path).partition(b"\n")
        if head + b"\n" != _head(body):
            return {}
        with _no_collection():
            return _from_json(json.loads(body), of)
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _from_json(document: dict[str, Any], of: dict[str, str | None]) -> dict[str, Kept]:
    if document["of"] != of:
        return {}
    kinds = [tuple(names) for names in document["kinds"]]
    return {
        key: {
            shard: (stamp, Summary(failed, warned, size, kinds[of_kinds], tuple(seconds), Sealed(*sealed)))
            for shard, stamp, failed, warned, size, of_kinds, seconds, sealed in entries
        }
        for key, entries in document["stages"].items()
    }


@contextmanager
def _no_collection() -> Iterator[None]:
    """Stops Python's garbage collection during the `with` block. With many new objects that all stay, it takes three
    times as long as making them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _tidy(folder: Path) -> None:
    """Removes from `folder` the temporary files of dead writers, and files that were not written for
    FORGOTTEN_SECONDS.
    """
    sweep(folder)
    for path in folder.glob("*.json"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS:
                path.unlink()
