"""Defines what every storage must do. A storage holds the bytes of a cache as objects, for example as files in a
folder. Each object has a name and is written as a whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from kinegraph.cache_schemas.files import Buffer

ROOT = ("", ".")


class Span(NamedTuple):
    """A range of bytes of the object `name`, from `start` to before `stop`. `start` and `stop` work as in a slice of
    Python. So a negative `start` counts from the end of the object, and a `stop` of None means the end.
    """

    name: str
    start: int = 0
    stop: int | None = None


class Storage(Protocol):
    """Holds the objects of a cache by name. Names are POSIX paths below `root`, a folder or a URL. An object appears
    whole or not at all.

    Every method raises UnsafeName for a name that leads out of `root`. The empty name and `.` mean the root itself.
    Only `names`, `stamps` and `local_path` accept them.
    """

    root: str

    def put(self, name: str, parts: Iterable[Buffer]) -> tuple[int, str]:
        """Writes `parts`, one after the other, as the object `name`. An existing object is replaced. When the call
        returns, the object survives a power cut.

        Returns (size in bytes, xxh3_128 digest). The digest is computed while writing.
        """
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Writes the object `name` with the bytes `content`, unless the object exists already. Returns whether this
        call created the object.

        If several writers call this at the same moment and `creates_exclusively` returns True, at most one of them
        creates the object.
        """
        ...

    def creates_exclusively(self) -> bool:
        """Returns whether `create` never replaces an object, even if two writers create it at the same moment. If not,
        the later writer may replace the object of the earlier writer.
        """
        ...

    def get(self, name: str) -> bytes:
        """Returns all bytes of the object `name`. Raises FileNotFoundError if there is no such object."""
        ...

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Returns the bytes of each of `spans`, in this order. A Span is a range of bytes of one object. Spans at a URL
        are fetched at the same time.

        If an object ends within a span, the result for this span is shorter. Raises FileNotFoundError if there is no
        such object.
        """
        ...

    def exists(self, name: str) -> bool: ...

    def digest(self, name: str) -> tuple[int, str]:
        """Reads the object `name` and returns (size in bytes, xxh3_128 digest). Raises FileNotFoundError if there is no
        such object.
        """
        ...

    def written_at(self, name: str) -> float | None:
        """Returns the time at which the object `name` was last written, in seconds since 1970 by the clock of the
        storage.

        Returns None if the storage does not know the time. Raises FileNotFoundError if there is no such object.
        """
        ...

    def stamp(self, name: str) -> str | None:
        """Returns a text that changes if the object `name` changes. While the text stays the same, a reader may keep
        what it has read.

        Returns None if there is no such object, or if the storage cannot tell whether it has changed. For example, the
        clock of a disk is too coarse for a file that was written less than a minute ago.
        """
        ...

    def stamps(self, folder: str) -> Iterator[tuple[str, str | None]]:
        """Yields (name, stamp) of each object in a folder and in the folders below it. The stamp is what the method
        `stamp` returns. One listing of the folder finds all stamps.
        """
        ...

    def names(self, folder: str) -> Iterator[str]:
        """Yields the names of all objects in a folder and in the folders below it, in any order. Yields nothing if the
        folder does not exist.
        """
        ...

    def delete(self, name: str) -> None:
        """Removes the object `name`, so that a power cut does not bring it back. Does nothing if the object does not
        exist.
        """
        ...

    def sweep(self) -> None:
        """Removes the temporary objects that writers left when they were killed while writing."""
        ...

    def local_path(self, name: str) -> Path | None:
        """Returns the path of the file that holds the object `name`, for example to map it into memory. Returns None if
        the storage does not keep objects as files.
        """
        ...
