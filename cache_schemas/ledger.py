"""The ledger: one record per stage key and shard. A shard is done for a key if and only if its record exists."""

import json
from collections.abc import Container, Iterator
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field

from kinegraph.cache_schemas.arrays import SCHEMA_VERSION, UPGRADE_SCHEMA_VERSION
from kinegraph.cache_schemas.documents import MAX_SHARD_CLIPS, parsed
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.names import ObjectName
from kinegraph.cache_schemas.storage import Span, Storage

LEDGER = "ledger"
ADVICE = "`kinegraph verify --repair` removes it, and the next extract redoes the shard."
RECORDS_AT_ONCE = 256  # of one read
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

Size = Annotated[int, Field(ge=0)]  # bytes


def _date(words: str) -> str:
    """The words as given: ISO 8601, or nothing. Raises ValueError."""
    try:
        datetime.fromisoformat(words or "1970-01-01").timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"given {words[:40]!r}, expected: a date and time of ISO 8601") from error
    return words


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Failure(_Record):
    """Why a clip has no features; `detail` says it in words."""

    clip_id: str
    reason: Reason
    detail: str


class Warned(_Record):
    """What the decoder complained about in a clip that is usable all the same."""

    clip_id: str
    detail: str


class SealedObject(_Record):
    size: Size
    xxh3_128: str


class Source(_Record):
    """Identity of a video, or a file read beside it, when it was read: size, mtime and a digest of sampled content.

    Of a video at a URL `mtime_ns` and `etag` are what its store says; 0 and None where it does not.
    """

    size: Size
    mtime_ns: int
    digest: str
    etag: str | None = None


class Exported(_Record):
    """From which kind of store a shard was copied, by which kinegraph, and when (ISO 8601)."""

    kind: str
    kinegraph: str
    at: str


class Record(_Record):
    """What sealing one shard of one stage key wrote. Paths are relative to the cache, times in seconds.

    With `exported`, all but the objects is as in the record of the shard that was copied. `upgraded_from` is the
    fingerprint under which it was sealed first, by earlier rules that took the same frames.
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
    files: dict[str, Source] = Field({}, validation_alias=AliasChoices("files", "box_files"))  # its first name
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
        """The same shard under the fingerprint `to`. Earlier readers are told to be updated."""
        now = {"fingerprint": to, "upgraded_from": self.fingerprint, "schema_version": UPGRADE_SCHEMA_VERSION}
        return self.model_copy(update=now)


def encoded(record: Record) -> bytes:
    """The bytes of a record."""
    return json.dumps(record.model_dump(exclude_none=True), indent=1, sort_keys=True).encode()


class Ledger:
    """Reads and writes the records below `<cache>/ledger`."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def name(self, key: str, shard: int) -> str:
        """Name of a record below the cache."""
        return f"{LEDGER}/{key}/{shard:06d}.json"

    def seal(self, record: Record) -> bool:
        """Declare a shard done, unless it is already; says whether. Its objects must be durable by now."""
        return self.storage.create(self.name(record.key, record.shard), encoded(record))

    def restamp(self, record: Record, to: str) -> None:
        """Put a sealed shard under the fingerprint `to`, in one write; its objects stay."""
        self.storage.put(self.name(record.key, record.shard), [encoded(record.upgraded(to))])

    def unseal(self, key: str, shard: int) -> None:
        """Declare a shard not done; its objects become orphans that the next extraction replaces."""
        self.storage.delete(self.name(key, shard))

    def shards(self, key: str) -> list[int]:
        """Shards that have a record, in order."""
        folder, ending = f"{LEDGER}/{key}", ".json"  # no Path objects: there may be a record per 64 clips of a million
        stems = (n[len(folder) + 1 : -len(ending)] for n in self.storage.names(folder) if n.endswith(ending))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def has(self, key: str, shard: int) -> bool:
        """Whether a shard is done for a key."""
        return self.storage.exists(self.name(key, shard))

    def read(self, key: str, shard: int) -> Record | None:
        """The record, or None where there is none.

        Raises CacheError for a record that cannot be understood: half-written by another tool, or newer than
        this version of kinegraph.
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
        """The records of a key, in order; of the shards `among` alone, where given."""
        shards = [shard for shard in self.shards(key) if among is None or shard in among]
        for first in range(0, len(shards), RECORDS_AT_ONCE):
            some = shards[first : first + RECORDS_AT_ONCE]
            names = [self.name(key, shard) for shard in some]
            try:
                found = self.storage.read([Span(name) for name in names])
            except FileNotFoundError:  # one was unsealed since they were listed
                yield from (record for shard in some if (record := self.read(key, shard)) is not None)
            else:
                yield from map(self._understood, names, found)
