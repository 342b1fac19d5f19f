"""Defines what every storage must do. A storage holds the bytes of a cache as objects. Each object has a name below one
root and is written as a whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from kinegraph.cache_schemas.files import Buffer

ROOT = ("", ".")


class Span(NamedTuple):
    """A range of bytes of the object `name`. `start` and `stop` work as in a slice of Python, so a negative `start`
    counts from the end of the object.
    """

    name: str
    start: int = 0
    stop: int | None = None


class Storage(Protocol):
    """Holds objects by name. Names are POSIX paths below `root`. An object appears whole or not at all.

    Every method raises UnsafeName for a name that leads out of `root`. The empty name and `.` mean the root itself.
    Only `names` and `local_path` accept the empty name and `.`.
    """

    root: str

    def put(self, name: str, parts: Iterable[Buffer]) -> tuple[int, str]:
        """Writes the concatenation of `parts` as the object `name`, and replaces an existing object. The object is
        durable when the call returns.

        Returns (size in bytes, xxh3_128 digest). The digest is computed while writing.
        """
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Creates the object `name` with the bytes `content`, unless it exists already. Returns whether this call
        created the object.

        If the method `creates_exclusively` returns True, at most one of several simultaneous calls creates the object.
        If it returns False, several calls may.
        """
        ...

    def creates_exclusively(self) -> bool:
        """Returns whether `create` never replaces an object, even if another writer creates the object at the same
        moment. False means that the later of two simultaneous writers may replace the object of the earlier.
        """
        ...

    def get(self, name: str) -> bytes:
        """Returns all bytes of an object. Raises FileNotFoundError where there is no such object."""
        ...

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Returns the bytes of each span, in the order of `spans`. A span is a range of bytes of one object. Several
        spans are fetched at the same time where that is faster.

        Where an object ends within a span, the result for that span has fewer bytes than the span. Raises
        FileNotFoundError where there is no such object.
        """
        ...

    def exists(self, name: str) -> bool: ...

    def digest(self, name: str) -> tuple[int, str]:
        """Returns (size in bytes, xxh3_128 digest) of the object `name`. The bytes are read from the storage again and
        not taken from a copy in memory.

        Raises FileNotFoundError where there is no such object.
        """
        ...

    def written_at(self, name: str) -> float | None:
        """Returns the time at which the object `name` was put, in POSIX seconds by the clock of the storage.

        Returns None where the storage does not know the time. Raises FileNotFoundError where there is no such object.
        """
        ...

    def stamp(self, name: str) -> str | None:
        """Returns a text about the version of the object `name`. While the text of an object stays the same, its bytes
        are the same, so a reader may keep what it has read.

        Returns None where there is no such object, and where the storage cannot tell versions apart. For a minute after
        a file was written, a disk cannot, because its clock has ticks.
        """
        ...

    def stamps(self, folder: str) -> Iterator[tuple[str, str | None]]:
        """Yields (name, what `stamp` returns) of each object that `names` yields. One listing finds all of them."""
        ...

    def names(self, folder: str) -> Iterator[str]:
        """Yields the names of all objects in a folder and in the folders below it, in no particular order. Yields
        nothing for a folder that does not exist.
        """
        ...

    def delete(self, name: str) -> None:
        """Removes the object `name`, so that a power cut does not bring the object back. Does nothing where the object
        does not exist.
        """
        ...

    def sweep(self) -> None:
        """Removes the temporary objects that writers left when they died during a write."""
        ...

    def local_path(self, name: str) -> Path | None:
        """Returns the path of the file that holds the object, for example to map it into memory. Returns None where the
        storage does not keep objects as files.
        """
        ...
