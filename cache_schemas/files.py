"""Writes files that appear whole or not at all, even after a power cut. Cleans up after writers that died."""

import errno
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

import xxhash

from kinegraph.cache_schemas.errors import CacheNotWritable, not_writable
from kinegraph.cache_schemas.regular import open_regular

TEMPORARY_PREFIX = ".tmp-"
FOREIGN_AGE_SECONDS = 3600.0
MAX_NAME_BYTES, MAX_ENDING_BYTES = 255, 16  # limits of a file's name on all usual file systems
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}  # errors of link(2) where the file system has no hard links
TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}(?P<pid>\d+)-(?P<host>[^-]+)-")
ENDED = {"Z", "X"}  # states of a process that does not run: zombie, dead
Buffer = bytes | bytearray | memoryview


def _host(proc: Path = Path("/proc")) -> str:
    """Returns a short text that identifies this machine until it is started again. Another machine, or another
    container on this machine, gets another text. So if the text and the process number are equal, the process is the
    same.

    The text is a digest of the host name, the id of the present boot and the namespace of process numbers. Outside
    Linux it covers the host name alone. `proc` is the folder /proc.
    """
    seen = [socket.gethostname()]
    with suppress(OSError):
        boot_id, namespace = proc / "sys/kernel/random/boot_id", proc / "self/ns/pid"
        seen += [boot_id.read_text().strip(), str(namespace.stat().st_ino)]
    return xxhash.xxh3_64_hexdigest(" ".join(seen).encode())[:8]


HOST = _host()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(name: str) -> str:
    """Returns a new name under which the file `name` can be written before it is renamed. `sweep` later recognises a
    temporary file by this name.

    The temporary name ends with `name`, which is shortened if the result would be too long for a file system.
    """
    start = f"{TEMPORARY_PREFIX}{os.getpid()}-{HOST}-{time.monotonic_ns()}-"
    return start + shortened(name, MAX_NAME_BYTES - len(start))


def shortened(name: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Returns the file name `name`, shortened to at most `max_bytes` bytes. A short name is returned unchanged.

    A long name keeps its start and its ending, for example `.csv`. A digest of the whole name stands between them, so
    different names stay different. The same name always becomes the same short name.
    """
    if len(encoded := os.fsencode(name)) <= max_bytes:
        return name
    ending = os.fsencode(PurePath(name).suffix)
    tail = f"~{xxhash.xxh3_64_hexdigest(encoded)}".encode() + (ending if len(ending) <= MAX_ENDING_BYTES else b"")
    return encoded[: max_bytes - len(tail)].decode("utf-8", "ignore") + tail.decode("utf-8", "ignore")


def free_inodes(folder: Path) -> int | None:
    """Returns how many more files the file system of `folder` can hold. Returns None if the file system has no such
    limit, for example btrfs.
    """
    disk = os.statvfs(folder)
    return disk.f_favail if disk.f_files > 0 else None


def _ran_out_of_inodes(path: Path) -> bool:
    """Returns whether the file system of `path` has no free inode. `path` itself need not exist."""
    with suppress(OSError):
        return free_inodes(next(folder for folder in path.absolute().parents if folder.is_dir())) == 0
    return False


def _write_temporary(target: Path, parts: Iterable[Buffer]) -> tuple[Path, int, str]:
    """Writes `parts` to a temporary file in the folder of `target`, so that the content survives a power cut.

    Returns (path of the temporary file, size in bytes, xxh3_128 digest).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / temporary_name(target.name)
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


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turns an OSError of the `with` block into CacheNotWritable, if the disk is full or writing is not permitted. The
    message names the path `target`. Other errors are raised unchanged.
    """
    try:
        yield
    except OSError as error:
        no_inodes = error.errno == errno.ENOSPC and _ran_out_of_inodes(target)
        if (explained := not_writable(target, error, no_inodes=no_inodes)) is not None:
            raise explained from error
        raise


def write_whole(target: Path, parts: Iterable[Buffer]) -> tuple[int, str]:
    """Writes `parts`, one after the other, as the file `target`. An existing file is replaced. Returns (size in bytes,
    xxh3_128 digest).

    A crash leaves the old file or the whole new file. It may also leave a temporary file, which `sweep` removes later.
    Raises CacheNotWritable if there is no room or no permission to write.
    """
    with _explained(target):
        temporary, size, digest = _write_temporary(target, parts)
        try:
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
    return size, digest


@contextmanager
def writing_whole(target: Path) -> Iterator[Path]:
    """Yields the path of a temporary file beside `target`, which the caller or another program writes in the `with`
    block. After the block, the temporary file replaces `target`.

    If the block raises an error, the temporary file is removed and `target` stays as it was. Raises CacheNotWritable if
    there is no room or no permission to write.
    """
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / temporary_name(target.name)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


def remove_durably(path: Path) -> None:
    """Removes a file, so that a power cut does not bring it back. A file that does not exist is no error. Raises
    CacheNotWritable if there is no permission to remove the file.
    """
    with _explained(path):
        try:
            path.unlink()
        except FileNotFoundError:
            return
        _sync_folder(path.parent)


def create_exclusively(target: Path, content: bytes) -> bool:
    """Creates the file `target` with `content`, unless the file exists already. Returns whether this call created the
    file. No reader sees the file with only a part of its content.

    Raises CacheNotWritable if there is no room, no permission to write, or no support for hard links.
    """
    with _explained(target):
        temporary, _, _ = _write_temporary(target, [content])
        try:
            os.link(temporary, target)
        except FileExistsError:
            # A link count of two: this call made the file, and NFS repeated it after losing an answer (open(2)).
            if temporary.stat().st_nlink < 2:
                return False
        except OSError as error:
            if error.errno in NO_LINKS:
                raise CacheNotWritable(
                    f"{target} could not be created: its file system makes no hard links ({error.strerror}), by which "
                    "a cache keeps two writers apart. Put the cache on another one."
                ) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
    return True


def sweep(folder: Path) -> int:
    """Removes the temporary files that dead processes left in `folder` and in the folders below it. Returns the number
    of removed files.

    A file of a process of this machine is removed if the process is dead. A file of another machine is removed if it is
    older than FOREIGN_AGE_SECONDS by the clock of the file system.
    """
    removed = 0
    for parent, _, names in os.walk(folder):  # pathlib's glob takes ten times as long
        for name in names:
            if (writer := TEMPORARY.match(name)) is None:
                continue
            path = Path(parent, name)
            with suppress(FileNotFoundError), _explained(path):  # a writer on another machine may rename the file now
                if (
                    not alive(int(writer["pid"]))
                    if writer["host"] == HOST
                    else _age_seconds(path) > FOREIGN_AGE_SECONDS
                ):
                    path.unlink()
                    removed += 1
    return removed


def _age_seconds(path: Path) -> float:
    """Returns how many seconds ago a file was last written, by the clock of its file system."""
    # a new file shows the time of the file system, whose clock may differ from this machine's
    written, present = path.stat().st_mtime, path.parent / temporary_name("now")
    try:
        present.touch(exist_ok=False)
        return present.stat().st_mtime - written
    finally:
        present.unlink(missing_ok=True)


def alive(pid: int, started: int = 0) -> bool:
    """Returns whether the process number `pid` runs on this machine. A zombie, which has ended but still has a number,
    does not run.

    `started` is the start of the process, as `start_ticks` returned it earlier. If another process has got the number
    since, its start differs, and the result is False. If `started` is 0, the starts are not compared.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    state, start = _process(pid)
    return state not in ENDED and (not started or not start or start == started)


def start_ticks(pid: int) -> int:
    """Returns when the process number `pid` started, in clock ticks since this machine booted. Returns 0 if the system
    does not say.
    """
    return _process(pid)[1]


def _process(pid: int, proc: Path = Path("/proc")) -> tuple[str, int]:
    """Returns (state, start in clock ticks) of the process number `pid`, the fields 3 and 22 of the file
    `proc`/<pid>/stat. Returns ("", 0) if they cannot be read.
    """
    try:
        behind_its_name = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return behind_its_name[0].decode(), int(behind_its_name[19])
    except (OSError, ValueError, IndexError):
        return "", 0


def file_digest(path: Path) -> tuple[int, str]:
    """Returns (size in bytes, xxh3_128 digest as hexadecimal text) of the content of a file.

    Raises FileNotFoundError if there is no file. Raises NotRegularError for a folder, a FIFO, a socket or a device.
    Raises OSError if the file cannot be read.
    """
    digest, size = xxhash.xxh3_128(), 0
    with open_regular(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
