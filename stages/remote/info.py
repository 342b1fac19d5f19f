"""Reads the size and the version of a file from the answer of a store. Stores use different keys in their answers.

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
    """The size in bytes and the version of a video at a URL. The version consists of `etag`, a text by which the store
    tells versions apart, and `mtime_ns`. `mtime_ns` is the time of the last change, in ns since 1970.

    If the store does not report them, `size` and `etag` are None, and `mtime_ns` is 0.
    """

    size: int | None
    mtime_ns: int
    etag: str | None

    @classmethod
    def told(cls, info: Mapping[str, Any]) -> "RemoteInfo":
        """Makes a RemoteInfo, with the size and the version of a file. `info` is what fsspec's method `info` returns
        for the file.
        """
        return cls(size=info.get("size"), mtime_ns=_modified_ns(info), etag=etag_of(info))

    def identified(self, copy: Source) -> Source:
        """Returns a Source, the identity of the video at the URL for the ledger. `copy` is the identity of this
        machine's copy of the video.

        The size and the digest in the result are those of the copy. The time of the last change and the etag are those
        that the store reports.
        """
        return copy.model_copy(update={"mtime_ns": self.mtime_ns, "etag": self.etag})

    def is_version(self, source: Source) -> bool:
        """Returns whether the video at the URL is still the version in `source`, an identity from the ledger.

        An etag is the store's name for a version of a file. Two equal etags mean the same version. Otherwise it is the
        same version only if both etags are missing and the times of the last change are equal. So the result is always
        True for a store that reports neither.
        """
        if self.etag is not None and self.etag == source.etag:
            return True
        return (self.etag, self.mtime_ns) == (source.etag, source.mtime_ns)


def _modified_ns(info: Mapping[str, Any]) -> int:
    """Returns the time at which a file was last changed, in ns since 1970. `info` has the facts that a store such as S3
    reports about the file.

    Returns 0 if the store reports no time, or a time in an unknown form.
    """
    modified = next((info[key] for key in MODIFIED if info.get(key)), None)
    with suppress(ValueError):
        if isinstance(modified, str):
            modified = datetime.fromisoformat(modified) if modified[:1].isdigit() else parsedate_to_datetime(modified)
    if isinstance(modified, datetime):
        modified = modified.timestamp()
    return int(modified * 10**6) * 1000 if isinstance(modified, int | float) else 0
