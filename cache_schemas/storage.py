"""The contract of storages: where the bytes of a cache lie, whole objects by name below one root."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from kinegraph.cache_schemas.files import Buffer

ROOT = ("", ".")


class Span(NamedTuple):
    """Bytes of an object, `start` and `stop` as in a slice: a negative start counts from the end."""

    name: str
    start: int = 0
    stop: int | None = None


class Storage(Protocol):
    """Names are POSIX paths below `root`. An object appears whole or not at all; `put` is durable when it returns.

    Every method raises UnsafeName for a name that leads out of `root`. The empty name and `.` are the root itself, for
    `names` and `local_path` alone.
    """

    root: str

    def put(self, name: str, parts: Iterable[Buffer]) -> tuple[int, str]:
        """Replace an object by the concatenation of `parts`; gives its size and xxh3_128, computed in passing."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Create an object unless there is one; says whether this call made it.

        Of two calls at the same moment only one succeeds, where `creates_exclusively`.
        """
        ...

    def creates_exclusively(self) -> bool:
        """Whether `create` never replaces what another writer created at the same moment."""
        ...

    def get(self, name: str) -> bytes:
        """All bytes of an object. Raises FileNotFoundError."""
        ...

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Parts of objects, side by side where that is faster; shorter where an object ends before.

        Raises FileNotFoundError.
        """
        ...

    def exists(self, name: str) -> bool: ...

    def digest(self, name: str) -> tuple[int, str]:
        """Size and xxh3_128 of an object, read afresh. Raises FileNotFoundError."""
        ...

    def written_at(self, name: str) -> float | None:
        """When an object was put (POSIX seconds), by the clock of the storage; None where it does not tell.

        Raises FileNotFoundError.
        """
        ...

    def names(self, folder: str) -> Iterator[str]:
        """Names of all objects below a folder, in no order; none where there is no such folder."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object for good, also through a power cut; nothing happens where there is none."""
        ...

    def sweep(self) -> None:
        """Remove what dead writers left behind."""
        ...

    def local_path(self, name: str) -> Path | None:
        """Where the object lies as a file, for mapping it; None where it is no file."""
        ...
