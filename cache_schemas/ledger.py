"""Reads and writes the ledger, which has one record per stage key and shard.

A shard is done (sealed) for a stage key if and only if the record of that shard and stage key exists.
"""

import json
from collections.abc import Container, Iterator, Sequence
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field

from kinegraph.cache_schemas.arrays import SCHEMA_VERSION, UPGRADE_SCHEMA_VERSION
from kinegraph.cache_schemas.documents import MAX_SHARD_CLIPS, parsed
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.names import ObjectName
from kinegraph.cache_schemas.storage import Span, Storage

LEDGER, ENDING = "ledger", ".json"
ADVICE = "`kinegraph verify --repair` removes it, and the next extract redoes the shard."
RECORDS_AT_ONCE = 256  # records that one call of the storage reads
Reason = Literal[
    "missing",
    "unreadable",
    "no_video_stream",
    "truncated",
    "too_short",
    "timeout",
    "non_finite",
    "upstream",
]

NumBytes = Annotated[int, Field(ge=0)]  # bytes


def _date(words: str) -> str:
    """Returns `words` unchanged where they are empty or a date of ISO 8601. Raises ValueError for other words."""
    try:
        datetime.fromisoformat(words or "1970-01-01").timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"given {words[:40]!r}, expected: a date and time of ISO 8601") from error
    return words


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Failure(_Record):
    """Says why the clip `clip_id` has no features. `reason` is one of a few words, such as "timeout", and `detail` is
    the full message.
    """

    clip_id: str
    reason: Reason
    detail: str


class Warned(_Record):
    """The complaint `detail` of the video decoder about the clip `clip_id`. The clip has features in spite of it."""

    clip_id: str
    detail: str


class SealedObject(_Record):
    """Holds the size in bytes and the digest of one object of a sealed shard."""

    size: NumBytes
    xxh3_128: str


class Source(_Record):
    """Identifies the content of a file at the moment when it was read. The file is a video, or a file beside a video
    such as its boxes.

    `size` is in bytes. `mtime_ns` is the time of the last change, in nanoseconds. `digest` is the digest of sampled
    parts of the content. `etag` is the mark by which a store behind a URL identifies the content. For a file at a URL,
    `mtime_ns` and `etag` are those that the store reports. Where the store reports none, `mtime_ns` is 0 and `etag` is
    None.
    """

    size: NumBytes
    mtime_ns: int
    digest: str
    etag: str | None = None


class Exported(_Record):
    """Says that a shard was copied from another cache: `kind` is the kind of that cache's store, `kinegraph` the
    version that copied, and `at` the time (ISO 8601).
    """

    kind: str
    kinegraph: str
    at: str


class Record(_Record):
    """Says what was written when one shard of one stage key was sealed, and which files were read for it.

    `key`, `shard` and `num_rows` say which shard it is, and `fingerprint` is that of the stage. `objects` maps the path
    of each written object, relative to the cache, to its size and digest. `sources` maps a video_id to the identity of
    the video that was read. `files` maps a video_id to the identity of the file that was read beside the video.
    `seconds` maps a kind of work to the seconds that it took. `exported` is set for a shard that was copied from
    another kind of store. All entries except `objects` are then those of the original shard. `failures` lists the
    failed clips, and `warnings` the complaints of the video decoder. `upgraded_from` is the fingerprint under which the
    shard was first sealed, by an earlier version that took the same frames.

    The other fields say how the shard was computed: the `versions` of software, the `device`, the `host`, the date
    (`sealed_at`), the `batch_size` and the number of `threads`. `attempt` is the number of the shard's lease, from 1.
    """

    latest_schema_version: ClassVar[int] = UPGRADE_SCHEMA_VERSION
    schema_version: int = Field(SCHEMA_VERSION, ge=1)
    key: str
    shard: int = Field(ge=0)
    num_rows: int = Field(ge=0, le=MAX_SHARD_CLIPS)
    fingerprint: str
    objects: dict[ObjectName, SealedObject]
    failures: list[Failure] = []
    warnings: list[Warned] = []
    sources: dict[str, Source] = {}
    files: dict[str, Source] = Field({}, validation_alias=AliasChoices("files", "box_files"))  # early name: box_files
    versions: dict[str, str] = {}
    device: str = ""
    batch_size: int = 0
    threads: int = 0
    attempt: int = 1
    seconds: dict[str, Annotated[float, Field(ge=0)]] = {}
    host: str = ""
    sealed_at: Annotated[str, AfterValidator(_date)] = ""
    exported: Exported | None = None
    upgraded_from: str | None = None

    def upgraded(self, to: str) -> "Record":
        """Returns a copy of this ledger record for an upgraded cache, with the fingerprint `to`.

        The copy has a higher schema version, so that earlier versions of kinegraph refuse it and ask for an update of
        kinegraph.
        """
        now = {"fingerprint": to, "upgraded_from": self.fingerprint, "schema_version": UPGRADE_SCHEMA_VERSION}
        return self.model_copy(update=now)


def encoded(record: Record) -> bytes:
    """Returns the record as JSON bytes."""
    return json.dumps(record.model_dump(exclude_none=True), indent=1, sort_keys=True).encode()


def _shard_of(name: str, key: str) -> int | None:
    """Returns the number of the shard whose record for the stage `key` has the name `name`, or None for another object
    below the folder of the stage.
    """
    stem = name[len(LEDGER) + len(key) + 2 : -len(ENDING)]  # no Path objects, which are slow for 16,000 records
    return int(stem) if name.endswith(ENDING) and stem.isascii() and stem.isdigit() else None


class Ledger:
    """Reads and writes the ledger records below `<cache>/ledger`. A record marks a shard as done for a stage key."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def name(self, key: str, shard: int) -> str:
        """Returns the path of the ledger record of stage `key` and shard number `shard`, relative to the cache
        (`ledger/clips/000000.json`).
        """
        return f"{LEDGER}/{key}/{shard:06d}.json"

    def seal(self, record: Record) -> bool:
        """Marks a shard as done by creating its record. Returns whether this call created the record. A record that
        exists already stays unchanged.

        The objects of the shard must be durable before the call.
        """
        return self.storage.create(self.name(record.key, record.shard), encoded(record))

    def restamp(self, record: Record, to: str) -> None:
        """Replaces the record of a sealed shard by a copy with the fingerprint `to`. An upgrade of the cache does this
        for a shard whose values need no change.
        """
        self.storage.put(self.name(record.key, record.shard), [encoded(record.upgraded(to))])

    def unseal(self, key: str, shard: int) -> None:
        """Declares shard number `shard` unfinished for the stage `key`, by removing its record. The next extraction
        replaces the objects of the shard.
        """
        self.storage.delete(self.name(key, shard))

    def shards(self, key: str) -> list[int]:
        """Returns the numbers of the shards that have a record for the stage `key`, in ascending order. These are the
        shards that are done.
        """
        shards = (_shard_of(name, key) for name in self.storage.names(f"{LEDGER}/{key}"))
        return sorted(shard for shard in shards if shard is not None)

    def stamps(self, key: str) -> dict[int, str | None]:
        """Returns the number of each shard that has a record for the stage `key`, in ascending order -> the stamp of
        the record. While the stamp stays the same, the record is the same. A stamp of None says nothing.
        """
        stamps = self.storage.stamps(f"{LEDGER}/{key}")
        numbered = ((shard, name, stamp) for name, stamp in stamps if (shard := _shard_of(name, key)) is not None)
        return dict(sorted((shard, stamp) for shard, name, stamp in numbered if name == self.name(key, shard)))

    def has(self, key: str, shard: int) -> bool:
        """Returns whether shard number `shard` is done for the stage `key`. It is done if its ledger record exists."""
        return self.storage.exists(self.name(key, shard))

    def read(self, key: str, shard: int) -> Record | None:
        """Returns the Record of the shard number `shard` of the stage `key`, or None where the shard has no record.

        Raises CacheError for a damaged record, for example a record that another tool wrote halfway. Raises CacheTooNew
        for a record of a later version of kinegraph.
        """
        try:
            return self._understood(self.name(key, shard), self.storage.get(self.name(key, shard)))
        except FileNotFoundError:
            return None

    def _understood(self, name: str, content: bytes) -> Record:
        where = f"{self.storage.root}/{name}"
        record = parsed(where, content, Record, ADVICE)
        if name != self.name(record.key, record.shard):
            raise CacheError(f"{where} is damaged: it is of {record.key!r} shard {record.shard}. {ADVICE}")
        return record

    def records(self, key: str, among: Container[int] | None = None) -> Iterator[Record]:
        """Returns an iterator over the Records of a stage key in the order of the shards, one for each shard that has a
        record. `among` contains the numbers of the shards whose records are wanted. None means all shards.

        Raises CacheError for a damaged record, and CacheTooNew for a record of a later version of kinegraph.
        """
        return self.records_of(key, [shard for shard in self.shards(key) if among is None or shard in among])

    def records_of(self, key: str, shards: Sequence[int]) -> Iterator[Record]:
        """Yields the Records of the shards with the numbers `shards` of a stage key, in this order. Shards without a
        record are skipped.

        Raises CacheError for a damaged record, and CacheTooNew for a record of a later version of kinegraph.
        """
        for first in range(0, len(shards), RECORDS_AT_ONCE):
            some = shards[first : first + RECORDS_AT_ONCE]
            names = [self.name(key, shard) for shard in some]
            try:
                contents = self.storage.read([Span(name) for name in names])
            except FileNotFoundError:  # a record was removed after the listing
                yield from (record for shard in some if (record := self.read(key, shard)) is not None)
            else:
                yield from map(self._understood, names, contents)
