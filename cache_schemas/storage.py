"""The contract of storages. A storage holds the bytes of a cache as whole objects by name, below one root."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from kinegraph.cache_schemas.files import Buffer

ROOT = ("", ".")


class Span(NamedTuple):
    """A range of bytes of an object. `start` and `stop` work as in a slice: a negative start counts from the end."""

    name: str
    start: int = 0
    stop: int | None = None


class Storage(Protocol):
    """Holds objects by name. Names are POSIX paths below `root`. An object appears whole or not at all.

    Every method raises UnsafeName for a name that leads out of `root`. The empty name and `.` mean the root itself.
    Only `names` and `local_path` take these two.
    """

    root: str

    def put(self, name: str, parts: Iterable[Buffer]) -> tuple[int, str]:
        """Replaces an object by the concatenation of `parts`. The object is durable when the call returns.

        Returns the size in bytes and the xxh3_128, computed while writing.
        """
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Creates an object unless there is one. Returns whether this call created the object.

        Where `creates_exclusively` is true, only one of two simultaneous calls succeeds.
        """
        ...

    def creates_exclusively(self) -> bool:
        """Returns whether `create` never replaces an object that another writer created at the same moment."""
        ...

    def get(self, name: str) -> bytes:
        """Returns all bytes of an object. Raises FileNotFoundError."""
        ...

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Returns parts of objects, one for each span. Parts are fetched side by side where that is faster.

        A part is shorter than its span where the object ends before the span. Raises FileNotFoundError.
        """
        ...

    def exists(self, name: str) -> bool: ...

    def digest(self, name: str) -> tuple[int, str]:
        """Reads an object afresh and returns its size in bytes and its xxh3_128. Raises FileNotFoundError."""
        ...

    def written_at(self, name: str) -> float | None:
        """Returns when an object was put, in POSIX seconds by the clock of the storage.

        Returns None where the storage does not say. Raises FileNotFoundError.
        """
        ...

    def names(self, folder: str) -> Iterator[str]:
        """Yields the names of all objects below a folder, in no order. A folder that does not exist has no objects."""
        ...

    def delete(self, name: str) -> None:
        """Removes an object durably, also through a power cut. An object that does not exist is no error."""
        ...

    def sweep(self) -> None:
        """Removes temporary objects that dead writers left behind."""
        ...

    def local_path(self, name: str) -> Path | None:
        """Returns the path of the object's file, for mapping it. Returns None where objects are no files."""
        ...
