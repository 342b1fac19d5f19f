"""Files that appear whole or not at all, also after a power cut."""

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
MAX_NAME_BYTES, MAX_ENDING_BYTES = 255, 16  # of a file, on all usual file systems
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}  # of link(2), on a file of our own
TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}(?P<pid>\d+)-(?P<host>[^-]+)-")
ENDED = {"Z", "X"}  # states of a process: a zombie, or dead
Buffer = bytes | bytearray | memoryview


def _host(proc: Path = Path("/proc")) -> str:
    """Where process numbers mean the same as here: a machine since it was started, and in it one namespace of them.

    Containers have namespaces of their own, and often one host name; where Linux is not, the name has to do.
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
    """A new name beside `name`, which `sweep` knows; it ends with `name` unless that would be too long for a file."""
    start = f"{TEMPORARY_PREFIX}{os.getpid()}-{HOST}-{time.monotonic_ns()}-"
    return start + shortened(name, MAX_NAME_BYTES - len(start))


def shortened(name: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """The name of a file in at most `max_bytes`; a longer one keeps its start and its ending, with a digest between.

    One name always gives one short name. Different names give different ones.
    """
    if len(encoded := os.fsencode(name)) <= max_bytes:
        return name
    ending = os.fsencode(PurePath(name).suffix)
    tail = f"~{xxhash.xxh3_64_hexdigest(encoded)}".encode() + (ending if len(ending) <= MAX_ENDING_BYTES else b"")
    return encoded[: max_bytes - len(tail)].decode("utf-8", "ignore") + tail.decode("utf-8", "ignore")


def free_inodes(folder: Path) -> int | None:
    """How many files can still be made there; None where the file system makes inodes as it needs them (btrfs)."""
    disk = os.statvfs(folder)
    return disk.f_favail if disk.f_files > 0 else None


def _ran_out_of_inodes(path: Path) -> bool:
    """Whether there is no inode left at a path, or above it where it is not there."""
    with suppress(OSError):
        return free_inodes(next(folder for folder in path.absolute().parents if folder.is_dir())) == 0
    return False


def _write_temporary(target: Path, parts: Iterable[Buffer]) -> tuple[Path, int, str]:
    """Write `parts` durably beside `target`; gives the temporary file, its size and its xxh3_128."""
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
    """Tell of a full or read-only disk in words, with the file's name; other errors pass."""
    try:
        yield
    except OSError as error:
        no_inodes = error.errno == errno.ENOSPC and _ran_out_of_inodes(target)
        if (told := not_writable(target, error, no_inodes=no_inodes)) is not None:
            raise told from error
        raise


def write_whole(target: Path, parts: Iterable[Buffer]) -> tuple[int, str]:
    """Replace `target` by the concatenation of `parts`: temporary name, fsync, rename, fsync of the folder.

    Gives the size in bytes and the xxh3_128, computed while writing. A crash leaves the old file or the new
    one, and at most a temporary file that `sweep` removes. Raises CacheNotWritable.
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


def remove_durably(path: Path) -> None:
    """Remove a file where there is one; it does not come back after a power cut."""
    with _explained(path):
        try:
            path.unlink()
        except FileNotFoundError:
            return
        _sync_folder(path.parent)


def create_exclusively(target: Path, content: bytes) -> bool:
    """Create `target` whole unless it exists already; says whether this call made it. Raises CacheNotWritable."""
    with _explained(target):
        temporary, _, _ = _write_temporary(target, [content])
        try:
            os.link(temporary, target)
        except FileExistsError:
            # Two links: NFS asked twice, the first answer was lost, and this one won (open(2)).
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
    """Remove temporary files of dead processes: of this machine at once, of others by age; gives how many.

    The age is by the clock of the file system, which may be another machine's.
    """
    removed = 0
    for parent, _, names in os.walk(folder):  # pathlib's globbing takes ten times as long
        for name in names:
            if (writer := TEMPORARY.match(name)) is None:
                continue
            path = Path(parent, name)
            with suppress(FileNotFoundError), _explained(path):  # its writer, on another machine, renamed it meanwhile
                if (
                    not alive(int(writer["pid"]))
                    if writer["host"] == HOST
                    else _age_seconds(path) > FOREIGN_AGE_SECONDS
                ):
                    path.unlink()
                    removed += 1
    return removed


def _age_seconds(path: Path) -> float:
    """How long ago a file was written. A new file beside it shows what time it is there."""
    written, present = path.stat().st_mtime, path.parent / temporary_name("now")
    try:
        present.touch(exist_ok=False)
        return present.stat().st_mtime - written
    finally:
        present.unlink(missing_ok=True)


def alive(pid: int, started: int = 0) -> bool:
    """Whether a process of this machine runs. A zombie does not.

    `started`: its `start_ticks`, if known. Another process that has its number by now is not the one that was meant.
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
    """When a process of this machine started, in clock ticks since the boot; 0 where the system does not tell."""
    return _process(pid)[1]


def _process(pid: int, proc: Path = Path("/proc")) -> tuple[str, int]:
    """The state and the start of a process (proc(5), fields 3 and 22 of `stat`); empty where they cannot be read."""
    try:
        behind_its_name = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return behind_its_name[0].decode(), int(behind_its_name[19])
    except (OSError, ValueError, IndexError):
        return "", 0


def file_digest(path: Path) -> tuple[int, str]:
    """Size in bytes and xxh3_128 of a file."""
    digest, size = xxhash.xxh3_128(), 0
    with open_regular(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
