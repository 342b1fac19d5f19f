"""Defines the contract of storages. A storage holds the bytes of a cache as whole objects by name, below one root."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from kinegraph.cache_schemas.files import Buffer

ROOT = ("", ".")


class Span(NamedTuple):
    """A range of bytes of the object `name`. `start` and `stop` work as in a slice, so a negative start counts from the
    end.
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
        """Replaces an object by the concatenation of `parts`. The object is durable when the call returns.

        Returns (size in bytes, xxh3_128 digest). The digest is computed while writing.
        """
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Creates an object unless it exists already. Returns whether this call created the object.

        Where `creates_exclusively` is true, only one of two simultaneous calls succeeds.
        """
        ...

    def creates_exclusively(self) -> bool:
        """Returns whether `create` never replaces an object that another writer created at the same moment."""
        ...

    def get(self, name: str) -> bytes:
        """Returns all bytes of an object. Raises FileNotFoundError where there is no such object."""
        ...

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Returns the bytes of each span, in order. Spans are fetched side by side where that is faster.

        The bytes are fewer than the span asks for where the object ends within the span. Raises FileNotFoundError where
        there is no such object.
        """
        ...

    def exists(self, name: str) -> bool: ...

    def digest(self, name: str) -> tuple[int, str]:
        """Reads an object afresh. Returns (size in bytes, xxh3_128 digest).

        Raises FileNotFoundError where there is no such object.
        """
        ...

    def written_at(self, name: str) -> float | None:
        """Returns the time at which an object was put, in POSIX seconds by the clock of the storage.

        Returns None where the storage does not say. Raises FileNotFoundError where there is no such object.
        """
        ...

    def names(self, folder: str) -> Iterator[str]:
        """Yields the names of all objects below a folder, in no order. A folder that does not exist has no objects."""
        ...

    def delete(self, name: str) -> None:
        """Removes an object, so that a power cut does not bring it back. An object that does not exist is no error."""
        ...

    def sweep(self) -> None:
        """Removes temporary objects of writers that died."""
        ...

    def local_path(self, name: str) -> Path | None:
        """Returns the path of the object's file, so that the caller can map the file. Returns None where objects are no
        files.
        """
        ...
