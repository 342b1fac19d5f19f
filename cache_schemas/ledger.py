"""Reads and writes the ledger. A record of the ledger belongs to one shard and one stage.

The shard is done (sealed) for the stage if and only if this record exists.
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
    """Returns `words` unchanged if they are empty or a date and time of ISO 8601. Raises ValueError for other words."""
    try:
        datetime.fromisoformat(words or "1970-01-01").timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"given {words[:40]!r}, expected: a date and time of ISO 8601") from error
    return words


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Failure(_Record):
    """The reason why the clip `clip_id` has no features. `reason` is one word, such as "timeout", and `detail` is the
    full message.
    """

    clip_id: str
    reason: Reason
    detail: str


class Warned(_Record):
    """A warning of the video decoder about the clip `clip_id`. `detail` is the text of the warning. The clip has
    features in spite of it.
    """

    clip_id: str
    detail: str


class SealedObject(_Record):
    """The size in bytes and the digest (xxh3_128) of one object (file) of a finished shard."""

    size: NumBytes
    xxh3_128: str


class Source(_Record):
    """The identity of a file at the moment when it was read. If the identity differs later, the file has changed. The
    file is a video, or a file of boxes or scene graphs that belongs to a video.
    """

    size: NumBytes  # in bytes
    mtime_ns: int  # the time of the last change, in nanoseconds. It is 0 if the store behind a URL does not report it.
    digest: str  # a digest of samples of the content
    etag: str | None = None  # the text by which the store behind a URL identifies the content, or None


class Exported(_Record):
    """Says that a shard was copied from another cache."""

    kind: str  # the kind of store of the other cache, "zarr" or "hdf5"
    kinegraph: str  # the version of kinegraph that made the copy
    at: str  # the time of the copy (ISO 8601)


class Record(_Record):
    """The ledger record of one stage and one shard. It says that the shard is done (sealed), what was written, what was
    read and how the values were computed.
    """

    latest_schema_version: ClassVar[int] = UPGRADE_SCHEMA_VERSION
    schema_version: int = Field(SCHEMA_VERSION, ge=1)
    # `key`, `shard`, `num_rows`: the key of the stage, the number of the shard, and its number of rows
    key: str
    shard: int = Field(ge=0)
    num_rows: int = Field(ge=0, le=MAX_SHARD_CLIPS)
    fingerprint: str  # the fingerprint of the stage
    objects: dict[ObjectName, SealedObject]  # path of each written object, relative to the cache -> its size and digest
    # `failures`, `warnings`: the failed clips, and the warnings of the video decoder
    failures: list[Failure] = []
    warnings: list[Warned] = []
    sources: dict[str, Source] = {}  # video_id -> identity of the video that was read
    # video_id -> identity of the file of boxes or scene graphs that was read for the video
    files: dict[str, Source] = Field({}, validation_alias=AliasChoices("files", "box_files"))  # early name: box_files
    # `versions`, `device`, `host`, `batch_size`, `threads`: the software and hardware that computed the shard
    versions: dict[str, str] = {}
    device: str = ""
    batch_size: int = 0
    threads: int = 0
    attempt: int = 1  # the number of the shard's lease, from 1
    seconds: dict[str, Annotated[float, Field(ge=0)]] = {}  # kind of work -> the seconds that it took
    host: str = ""
    sealed_at: Annotated[str, AfterValidator(_date)] = ""  # the date and time when the shard was finished (ISO 8601)
    # Set if the shard was copied from another cache. Only `objects` then describes the copy. All other fields describe
    # the original shard.
    exported: Exported | None = None
    # The fingerprint of the stage before the cache was upgraded, if the shard is older than the upgrade
    upgraded_from: str | None = None

    def upgraded(self, to: str) -> "Record":
        """Returns a copy of this record for an upgraded cache. The copy has the fingerprint `to` and a higher schema
        version. So earlier versions of kinegraph refuse the copy and ask for an update.
        """
        now = {"fingerprint": to, "upgraded_from": self.fingerprint, "schema_version": UPGRADE_SCHEMA_VERSION}
        return self.model_copy(update=now)


def encoded(record: Record) -> bytes:
    """Returns the bytes of the JSON document in which the ledger stores `record`."""
    return json.dumps(record.model_dump(exclude_none=True), indent=1, sort_keys=True).encode()


def _shard_of(name: str, key: str) -> int | None:
    """Returns the shard number in `name`, the path of a record of the stage `key`. Returns None if `name` is another
    object below the stage's folder.
    """
    stem = name[len(LEDGER) + len(key) + 2 : -len(ENDING)]  # no Path objects, which are slow for 16,000 records
    return int(stem) if name.endswith(ENDING) and stem.isascii() and stem.isdigit() else None


class Ledger:
    """The ledger of a cache: the records in its folder `ledger`. A shard is done for a stage if the ledger has a record
    of this stage and this shard.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def name(self, key: str, shard: int) -> str:
        """Returns the path of the record of shard number `shard` and the stage `key`, relative to the cache
        (`ledger/clips/000000.json`).
        """
        return f"{LEDGER}/{key}/{shard:06d}.json"

    def seal(self, record: Record) -> bool:
        """Marks a shard as done by writing its record. Returns whether this call wrote the record. An existing record
        stays unchanged.

        All objects of the shard must survive a power cut before this call.
        """
        return self.storage.create(self.name(record.key, record.shard), encoded(record))

    def restamp(self, record: Record, to: str) -> None:
        """Replaces the record of a shard by a copy with the fingerprint `to`. An upgrade of the cache calls this for a
        shard whose values do not change.
        """
        self.storage.put(self.name(record.key, record.shard), [encoded(record.upgraded(to))])

    def unseal(self, key: str, shard: int) -> None:
        """Marks shard number `shard` as not done for the stage `key`, by removing its record. The next extraction
        computes the shard again.
        """
        self.storage.delete(self.name(key, shard))

    def shards(self, key: str) -> list[int]:
        """Returns the numbers of the shards that are done for the stage `key`, in ascending order."""
        shards = (_shard_of(name, key) for name in self.storage.names(f"{LEDGER}/{key}"))
        return sorted(shard for shard in shards if shard is not None)

    def stamps(self, key: str) -> dict[int, str | None]:
        """Returns shard number -> stamp of the shard's record, for all shards that are done for the stage `key`, in
        ascending order. A stamp is a text that changes if the record changes. A stamp is None if the storage cannot
        tell whether the record has changed.
        """
        stamps = self.storage.stamps(f"{LEDGER}/{key}")
        numbered = ((shard, name, stamp) for name, stamp in stamps if (shard := _shard_of(name, key)) is not None)
        return dict(sorted((shard, stamp) for shard, name, stamp in numbered if name == self.name(key, shard)))

    def has(self, key: str, shard: int) -> bool:
        """Returns whether shard number `shard` is done for the stage `key`, which means that its record exists."""
        return self.storage.exists(self.name(key, shard))

    def read(self, key: str, shard: int) -> Record | None:
        """Returns the Record of shard number `shard` and the stage `key`, or None if there is no record.

        Raises CacheError if the record is damaged, for example because another tool wrote only a part of it. Raises
        CacheTooNew if a later version of kinegraph wrote the record.
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
        """Returns an iterator over the Records of the stage `key`, one for each shard that is done, in the order of the
        shards. If `among` is not None, only the shards with the numbers in `among` are read.

        Raises CacheError for a damaged record, and CacheTooNew for a record of a later version of kinegraph.
        """
        return self.records_of(key, [shard for shard in self.shards(key) if among is None or shard in among])

    def records_of(self, key: str, shards: Sequence[int]) -> Iterator[Record]:
        """Yields the Records of the stage `key` for the shard numbers `shards`, in this order. A shard without a record
        is skipped.

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
