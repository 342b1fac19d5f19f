"""What can be wrong with a cache; each error is also the built-in a caller expects."""

import errno
import resource
import sys
from pathlib import Path

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}
NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


class CacheError(ValueError):
    """A cache that cannot be used as asked; the message says what was seen, expected and what to do."""


class CacheNotFound(CacheError, FileNotFoundError):
    """No cache at this path."""


class CacheMismatch(CacheError):
    """The cache was made with other options than those asked for."""


class CacheNotWritable(CacheError, OSError):
    """A file of the cache that cannot be written: no room, or no permission."""


class TooManyOpenFiles(CacheError, OSError):
    """A file of the cache cannot be opened, because the process may open no more."""


class CacheTooNew(CacheError):
    """A file of the cache was written by a later version; nothing is wrong with it."""


class UnsafeName(CacheError):
    """A name that would lead out of the cache."""


class UnknownStorage(CacheError):
    """A URL that is not opened: of a kind that no installed package opens, or with a secret in it."""


class StorageError(CacheError, OSError):
    """The store behind a URL could not be reached, or did not do what was asked."""


def newer_schema(where: str, found: int, known: int) -> CacheTooNew:
    return CacheTooNew(f"{where} has schema version {found}; this kinegraph knows {known}. Update kinegraph.")


def not_writable(path: Path, error: OSError, *, no_inodes: bool = False) -> CacheNotWritable | None:
    """What to tell of a file that could not be written; None where we know no better than `error`."""
    if error.errno in NO_ROOM:
        seen = error.strerror
        if no_inodes:
            seen = "no inodes are left, of which each file takes one (`df -i` shows them)"
        elif error.errno == errno.EDQUOT:
            seen = f"{seen}, in bytes or in number of files (`quota` shows both)"
        return CacheNotWritable(
            f"{path} could not be written: {seen}. What is sealed is whole and nothing else counts: make "
            f"room{' by removing files' if no_inodes else ''} and run the same command again."
        )
    if error.errno in NO_PERMISSION:
        return CacheNotWritable(
            f"{path} could not be written: {error.strerror}. `status`, `verify`, `plan` and training only read; for "
            "all else make the cache writable."
        )
    return None


def open_files_limit() -> int:
    """How many files this process may have open: `ulimit -n`; sys.maxsize where there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def out_of_descriptors(path: Path, error: OSError) -> TooManyOpenFiles | None:
    """What to tell of a file that could not be opened; None where it is for another reason than open files."""
    if error.errno not in NO_DESCRIPTOR:
        return None
    return TooManyOpenFiles(
        f"{path} could not be opened: this process has as many files open as it may, {open_files_limit()} "
        "(`ulimit -n`). Close some, or raise the limit (`ulimit -n $(ulimit -Hn)`). kinegraph keeps no shard open."
    )
