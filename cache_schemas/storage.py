"""Where the bytes of a cache lie: whole objects by name below one root."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from cache_schemas.files import TEMPORARY_PREFIX, Buffer, create_exclusively, file_digest, sweep, write_whole


class Storage(Protocol):
    """Names are POSIX paths below `root`. An object appears whole or not at all; `put` is durable when it returns."""

    root: str

    def put(self, name: str, parts: Iterable[Buffer]) -> tuple[int, str]:
        """Replace an object by the concatenation of `parts`; gives its size and xxh3_128, computed in passing."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Create an object unless there is one; says whether this call made it."""
        ...

    def get(self, name: str) -> bytes:
        """All bytes of an object. Raises FileNotFoundError."""
        ...

    def exists(self, name: str) -> bool: ...

    def digest(self, name: str) -> tuple[int, str]:
        """Size and xxh3_128 of an object, read afresh. Raises FileNotFoundError."""
        ...

    def names(self, folder: str) -> Iterator[str]:
        """Names of all objects below a folder, in no order; none where there is no such folder."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens where there is none."""
        ...

    def sweep(self) -> None:
        """Remove what dead writers left behind."""
        ...

    def local_path(self, name: str) -> Path | None:
        """Where the object lies as a file, for mapping it; None where it is no file."""
        ...


class LocalStorage:
    """A folder on a POSIX file system."""

    def __init__(self, root: Path | str) -> None:
        self.root = str(root)
        self._folder = Path(root)

    def put(self, name: str, parts: Iterable[Buffer]) -> tuple[int, str]:
        return write_whole(self._folder / name, parts)

    def create(self, name: str, content: bytes) -> bool:
        return create_exclusively(self._folder / name, content)

    def get(self, name: str) -> bytes:
        with open(f"{self._folder}/{name}", "rb") as file:  # noqa: PTH123 -- a Path takes longer than a ledger record
            return file.read()

    def exists(self, name: str) -> bool:
        return (self._folder / name).exists()

    def digest(self, name: str) -> tuple[int, str]:
        return file_digest(self._folder / name)

    def names(self, folder: str) -> Iterator[str]:
        try:
            entries = os.scandir(self._folder / folder)
        except FileNotFoundError:
            return
        with entries:  # they know what is a folder: no stat per file
            for entry in entries:
                if entry.is_dir():
                    yield from self.names(f"{folder}/{entry.name}")
                elif not entry.name.startswith(TEMPORARY_PREFIX):
                    yield f"{folder}/{entry.name}"

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        sweep(self._folder)

    def local_path(self, name: str) -> Path | None:
        return self._folder / name


def open_storage(root: Path | str) -> Storage:
    """The storage behind a cache's path."""
    return LocalStorage(root)
