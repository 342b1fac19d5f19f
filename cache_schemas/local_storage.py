"""Stores the objects of a cache as files in a folder. The methods are those of `storage.Storage`."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from kinegraph.cache_schemas.errors import UnsafeName
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
from kinegraph.cache_schemas.storage import ROOT, Span

SETTLED_SECONDS = 60.0  # age from which the times of a file tell its versions apart


class LocalStorage:
    """A folder on a POSIX file system that holds the objects of a cache as files.

    Reading follows symbolic links. Writing and removing raise UnsafeName if a link leads out of the folder. So a cache
    from another person cannot make kinegraph write elsewhere. The folder itself may be a link.
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
        folder = str(self._folder)  # making a Path takes longer than reading a ledger record
        return [_read_part(f"{folder}/{checked_name(name)}", start, stop) for name, start, stop in spans]

    def exists(self, name: str) -> bool:
        return self._at(name).exists()

    def digest(self, name: str) -> tuple[int, str]:
        return file_digest(self._at(name))

    def written_at(self, name: str) -> float | None:
        return (self._folder / checked_name(name)).stat().st_mtime

    def stamp(self, name: str) -> str | None:
        with suppress(FileNotFoundError):
            return _stamp((self._folder / checked_name(name)).stat())
        return None

    def stamps(self, folder: str) -> Iterator[tuple[str, str | None]]:
        for name, entry in _entries(str(self._at(folder)), folder):
            with suppress(FileNotFoundError):  # removed since it was listed
                yield name, _stamp(entry.stat())

    def names(self, folder: str) -> Iterator[str]:
        return (name for name, _ in _entries(str(self._at(folder)), folder))

    def delete(self, name: str) -> None:
        remove_durably(self._to_change(name))

    def sweep(self) -> None:
        sweep(self._folder)

    def local_path(self, name: str) -> Path | None:
        return self._at(name)

    def _at(self, name: str) -> Path:
        return self._folder / (name if name in ROOT else checked_name(name))

    def _to_change(self, name: str) -> Path:
        """Returns the path of the object `name`, before it is written or removed. Raises UnsafeName if a symbolic link
        leads out of the folder of this storage.
        """
        path, folder = self._folder / checked_name(name), str(self._folder)
        for part in name.split("/")[:-1]:
            folder = f"{folder}/{part}"
            if os.path.islink(folder):  # noqa: PTH114 -- Path is slow, and this runs for each object
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


def _stamp(status: os.stat_result) -> str | None:
    """Returns a text that changes if the file changes. `status` is the file's status. Returns None if the file changed
    less than SETTLED_SECONDS ago, because two changes within one tick of the clock show the same time.
    """
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_SECONDS:
        return None
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _entries(path: str, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields (name, entry) of every object in the folder at `path` and in the folders below it. `folder` is the name of
    the folder at `path`. Every yielded name starts with `folder` (`ledger` -> `ledger/clips/000000.json`).
    """
    try:
        entries = os.scandir(path)
    except FileNotFoundError:
        return
    with entries:  # an entry knows whether it is a folder, so no file needs a stat
        for entry in entries:
            if entry.is_dir():
                yield from _entries(entry.path, f"{folder}/{entry.name}")
            elif not entry.name.startswith(TEMPORARY_PREFIX):
                yield f"{folder}/{entry.name}", entry


def _read_part(path: str, start: int, stop: int | None) -> bytes:
    if start == 0 and stop is None:
        return read_whole(path)
    with open_regular(path) as file:
        if start == 0:
            return file.read(stop)
        first = file.seek(start) if start >= 0 else file.seek(max(0, file.seek(0, os.SEEK_END) + start))
        return file.read() if stop is None else file.read(stop - first)
