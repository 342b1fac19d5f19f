"""Opens files whose paths come from a user, a csv or a cache. Only regular files are opened. FIFOs (named pipes),
sockets and devices are refused, because reading from them could take for ever.

Documents above a size limit are refused, too.
"""

import errno
import io
import os
import stat
from pathlib import Path

MIB = 1 << 20
DOCUMENT_BYTES = 1024 * MIB  # limit for one video's boxes or graphs, a run's record, a list of classes
TABLE_BYTES = 8192 * MIB  # limit for a csv with millions of lines
CONFIG_BYTES = 64 * MIB
KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class NotRegularError(OSError):
    """The path is not a regular file, or the file is larger than the caller allows. The message says which."""

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: Path | str) -> io.BufferedReader:
    """Opens a regular file for reading and returns it. A link to a regular file is followed. Unlike Python's `open`,
    the call never waits for another program.

    Raises FileNotFoundError if there is no file. Raises NotRegularError for a folder, a FIFO, a socket or a device.
    Raises OSError if the system cannot open the file.
    """
    return open(_descriptor(path), "rb")


def read_whole(path: Path | str) -> bytes:
    """Returns all bytes of the regular file `path`.

    Raises FileNotFoundError if there is no file. Raises NotRegularError for a folder, a FIFO, a socket or a device.
    Raises OSError if the system cannot open the file.
    """
    descriptor = _descriptor(path)
    try:
        parts, left = list[bytes](), os.fstat(descriptor).st_size
        while part := os.read(descriptor, max(left, 1)):  # the file may have grown
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)


def _descriptor(path: Path | str) -> int:
    """Opens a regular file for reading and returns its file descriptor.

    Raises FileNotFoundError if there is no file. Raises NotRegularError for a folder, a FIFO, a socket or a device.
    Raises OSError if the system cannot open the file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            require_regular(path)
        raise
    try:
        _check(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def require_regular(path: Path | str) -> os.stat_result:
    """Checks that `path` is a regular file, and returns its status as `os.stat` does. Call this function before a
    library opens the file by its path.

    Raises NotRegularError for a folder, a FIFO, a socket or a device. Raises FileNotFoundError if there is no file.
    """
    status = os.stat(path)  # noqa: PTH116 -- a million Path objects take seconds
    _check(path, status)
    return status


def read_regular(path: Path | str, limit_bytes: int = DOCUMENT_BYTES) -> bytes:
    """Returns all bytes of the regular file `path`, which may have at most `limit_bytes` bytes.

    Raises NotRegularError for a larger file, and for a folder, a FIFO, a socket or a device. Raises FileNotFoundError
    if there is no file, and OSError if the system cannot open the file.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size <= limit_bytes:
            content = file.read(limit_bytes + 1)  # files of /proc have more bytes than their status says
            if len(content) <= limit_bytes:
                return content
    raise NotRegularError(
        errno.EFBIG, f"{path} has more than {limit_bytes // MIB} MiB, the limit for such a file; is it the right one?"
    )


def _check(path: Path | str, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise NotRegularError(errno.EISDIR, f"{path} is a folder; a file is expected")
    kind = KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
    raise NotRegularError(errno.EINVAL, f"{path} is {kind}; only regular files are read")
