"""Reads the size and the version of a file at a URL from the answer of its store. Stores use different keys in answers.

Torch-free, and without fsspec.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from kinegraph.cache_schemas.answers import etag_of
from kinegraph.cache_schemas.ledger import Source

MODIFIED = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created")


@dataclass(frozen=True, kw_only=True)
class RemoteInfo:
    """The facts that a store reports about a video at a URL."""

    size: int | None  # the size in bytes, or None if the store does not report it
    mtime_ns: int  # the time of the last change in ns since 1970, or 0 if the store does not report it
    etag: str | None  # the store's name for the version of the file, or None if the store does not report it

    @classmethod
    def from_store(cls, info: Mapping[str, Any]) -> "RemoteInfo":
        """Returns the RemoteInfo of a file. `info` is the result of fsspec's method `info` for the file."""
        return cls(size=info.get("size"), mtime_ns=_modified_ns(info), etag=etag_of(info))

    def identity_of(self, copy: Source) -> Source:
        """Returns the Source by which the ledger identifies the video at the URL. `copy` is the Source of the copy on
        this machine.

        Size and digest of the result are those of the copy. The time of the last change and the etag are those that the
        store reports.
        """
        return copy.model_copy(update={"mtime_ns": self.mtime_ns, "etag": self.etag})

    def is_version(self, source: Source) -> bool:
        """Returns whether the video at the URL is still the version of `source`, a Source from the ledger. The etags
        are compared. An etag is the store's name for a version.

        If both etags are missing, the times of the last change are compared. For a store that reports neither etag nor
        time, the result is always True.
        """
        if self.etag is not None and self.etag == source.etag:
            return True
        return (self.etag, self.mtime_ns) == (source.etag, source.mtime_ns)


def _modified_ns(info: Mapping[str, Any]) -> int:
    """Returns the time at which a file was last changed, in ns since 1970. `info` is the answer of the store about the
    file. Returns 0 if the store reports no time, or a time in an unknown form.
    """
    modified = next((info[key] for key in MODIFIED if info.get(key)), None)
    with suppress(ValueError):
        if isinstance(modified, str):
            modified = datetime.fromisoformat(modified) if modified[:1].isdigit() else parsedate_to_datetime(modified)
    if isinstance(modified, datetime):
        modified = modified.timestamp()
    return int(modified * 10**6) * 1000 if isinstance(modified, int | float) else 0
