"""Files that appear whole or not at all, also after a power cut."""

import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import xxhash

TEMPORARY_PREFIX = ".tmp-"
FOREIGN_AGE_SECONDS = 3600.0
HOST = xxhash.xxh3_64_hexdigest(socket.gethostname().encode())[:8]
Buffer = bytes | bytearray | memoryview


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_temporary(target: Path, parts: Iterable[Buffer]) -> tuple[Path, int, str]:
    """Write `parts` durably beside `target`; gives the temporary file, its size and its xxh3_128."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{HOST}-{time.monotonic_ns()}-{target.name}"
    digest, size = xxhash.xxh3_128(), 0
    try:
        with temporary.open("wb", buffering=0) as file:
            for part in parts:
                view = memoryview(part).cast("B")
                digest.update(view)
                while view:  # a raw write may be short
                    written = file.write(view)
                    view, size = view[written:], size + written
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary, size, digest.hexdigest()


def write_whole(target: Path, parts: Iterable[Buffer]) -> tuple[int, str]:
    """Replace `target` by the concatenation of `parts`: temporary name, fsync, rename, fsync of the folder.

    Gives the size in bytes and the xxh3_128, computed while writing. A crash leaves the old file or the new
    one, and at most a temporary file that `sweep` removes.
    """
    temporary, size, digest = _write_temporary(target, parts)
    try:
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)
    return size, digest


def create_exclusively(target: Path, content: bytes) -> bool:
    """Create `target` whole unless it exists already; says whether this call made it."""
    temporary, _, _ = _write_temporary(target, [content])
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return True


def sweep(folder: Path) -> int:
    """Remove temporary files of dead processes: of this machine at once, of others by age; gives how many."""
    limit = time.time() - FOREIGN_AGE_SECONDS
    removed = 0
    for parent, _, names in os.walk(folder):  # pathlib's globbing takes ten times as long
        for name in names:
            if not name.startswith(TEMPORARY_PREFIX):
                continue
            path = Path(parent, name)
            pid, host = name.removeprefix(TEMPORARY_PREFIX).split("-")[:2]
            if not alive(int(pid)) if host == HOST else path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def file_digest(path: Path) -> tuple[int, str]:
    """Size in bytes and xxh3_128 of a file."""
    digest, size = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
