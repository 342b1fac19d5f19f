"""Where the bytes of a cache lie: whole objects by name below one root."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from kinegraph.cache_schemas.errors import UnknownStorage, UnsafeName
from kinegraph.cache_schemas.files import (
    TEMPORARY_PREFIX,
    Buffer,
    create_exclusively,
    file_digest,
    remove_durably,
    sweep,
    write_whole,
)
from kinegraph.cache_schemas.names import checked_name
from kinegraph.cache_schemas.regular import open_regular, read_whole
from kinegraph.cache_schemas.urls import has_login, has_query, without_secret

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


class LocalStorage:
    """A folder on a POSIX file system.

    Reading follows symbolic links. Writing and removing follow those above the root, and refuse folders below it that
    links place outside: a cache that someone else made must not write elsewhere.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = str(root)
        self._folder = Path(root)

    def put(self, name: str, parts: Iterable[Buffer]) -> tuple[int, str]:
        return write_whole(self._to_change(name), parts)

    def create(self, name: str, content: bytes) -> bool:
        return create_exclusively(self._to_change(name), content)

    def creates_exclusively(self) -> bool:
        return True

    def get(self, name: str) -> bytes:
        return _read_part(f"{self._folder}/{checked_name(name)}", 0, None)

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        folder = str(self._folder)  # a Path takes longer than a ledger record
        return [_read_part(f"{folder}/{checked_name(name)}", start, stop) for name, start, stop in spans]

    def exists(self, name: str) -> bool:
        return self._at(name).exists()

    def digest(self, name: str) -> tuple[int, str]:
        return file_digest(self._at(name))

    def written_at(self, name: str) -> float | None:
        return (self._folder / checked_name(name)).stat().st_mtime

    def names(self, folder: str) -> Iterator[str]:
        return _names(str(self._at(folder)), folder)

    def delete(self, name: str) -> None:
        remove_durably(self._to_change(name))

    def sweep(self) -> None:
        sweep(self._folder)

    def local_path(self, name: str) -> Path | None:
        return self._at(name)

    def _at(self, name: str) -> Path:
        return self._folder / (name if name in ROOT else checked_name(name))

    def _to_change(self, name: str) -> Path:
        """Where an object lies that is to be written or removed. Raises UnsafeName where a link leads outside."""
        path, folder = self._folder / checked_name(name), str(self._folder)
        for part in name.split("/")[:-1]:
            folder = f"{folder}/{part}"
            if os.path.islink(folder):  # noqa: PTH114 -- for each object that is written
                break
        else:
            return path
        real, root = os.path.realpath(path.parent), os.path.realpath(self._folder)
        if os.path.commonpath([real, root]) != root:
            raise UnsafeName(
                f"{path} would be written to {real}, outside of the cache: a symbolic link leads there. Move that "
                "folder into the cache, or let a link be the whole cache."
            )
        return path


def _names(path: str, folder: str) -> Iterator[str]:
    """Names of the objects in the folder at `path`, each below the name `folder`."""
    try:
        entries = os.scandir(path)
    except FileNotFoundError:
        return
    with entries:  # they know what is a folder: no stat per file
        for entry in entries:
            if entry.is_dir():
                yield from _names(entry.path, f"{folder}/{entry.name}")
            elif not entry.name.startswith(TEMPORARY_PREFIX):
                yield f"{folder}/{entry.name}"


def _read_part(path: str, start: int, stop: int | None) -> bytes:
    if start == 0 and stop is None:
        return read_whole(path)
    with open_regular(path) as file:
        if start == 0:
            return file.read(stop)
        first = file.seek(start) if start >= 0 else file.seek(max(0, file.seek(0, os.SEEK_END) + start))
        return file.read() if stop is None else file.read(stop - first)


def open_storage(root: Path | str) -> Storage:
    """The storage behind a cache's path, or behind its URL.

    Raises UnknownStorage for a URL of a kind that is not installed, or with a secret in it: it is printed and logged.
    """
    if has_login(str(root)) or has_query(str(root)):
        raise UnknownStorage(
            f"{without_secret(str(root))} names a user, a password or a query, which would be printed and written to "
            "logs. Give them to fsspec instead, in its environment variables (AWS_PROFILE, AWS_ACCESS_KEY_ID, ...) or "
            "config files."
        )
    scheme, separator, rest = str(root).partition("://")
    if not separator:
        return LocalStorage(root)
    if scheme == "file":
        return LocalStorage(rest)
    from kinegraph.cache_schemas.object_storage import (
        ObjectStorage,  # takes time to import, which a folder need not wait for
    )

    return ObjectStorage(str(root))
