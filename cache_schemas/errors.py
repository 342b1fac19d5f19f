"""Defines the errors of caches. Each error class also derives from a built-in error, for example CacheNotFound from
FileNotFoundError.
"""

import errno
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

UPGRADE = "kinegraph verify {} --frames --repair"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}
NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


class CacheError(ValueError):
    """The base class of all errors of a cache. The message says what was seen, what was expected and what to do."""


class CacheNotFound(CacheError, FileNotFoundError):
    """There is no cache at the path or URL that the caller gave."""


class UnknownSplit(CacheError):
    """The caller asks for a split that no clip of the cache has."""


class CacheMismatch(CacheError):
    """The cache was made with other options than the caller asks for, or an upgrade of the cache has not ended."""


class CacheNotWritable(CacheError, OSError):
    """A file of the cache cannot be written, for lack of room or permission."""


class TooManyOpenFiles(CacheError, OSError):
    """A file of the cache cannot be opened, because the process has reached its limit of open files."""


class CacheTooNew(CacheError):
    """A later version of kinegraph wrote a file of the cache, and this version cannot read it. The file is not
    damaged.
    """


class UnsafeName(CacheError):
    """The name of an object, for example one with `..`, leads out of the cache."""


class UnknownStorage(CacheError):
    """A URL is refused, because it contains a secret or because no installed package can open it."""


class StorageError(CacheError, OSError):
    """The object store behind a URL could not be reached, or did not do what was asked."""


def other_options(root: str, key: str, changed: Sequence[str]) -> CacheMismatch:
    """Returns a CacheMismatch which says that the cache at `root` was made with other options than the caller asks for.

    `key` names the part of the cache that differs: a stage key, or the section "clips" or "store" of cache.json.
    `changed` has one line for each option that differs.
    """
    lines = "\n".join(f"  {line}" for line in changed)
    return CacheMismatch(
        f"{root} holds {key!r} made with other options (cached -> asked for):\n{lines}\n"
        "Set the options back, choose another name for the entry, or another `cache:` folder."
    )


def earlier_rules(root: str, changed: Sequence[str]) -> CacheMismatch:
    """Returns a CacheMismatch which says that an earlier version of kinegraph made the cache. For some videos, that
    version chose other frames than this version does.

    `root` is the path or URL of the cache. `changed` has one line for each option that differs.
    """
    lines = "\n".join(f"  {line}" for line in changed)
    return CacheMismatch(
        f"{root} was made by an earlier kinegraph, which took other frames of some videos "
        f"(cached -> asked for):\n{lines}\n"
        "It is read as before: `verify`, `train`, `evaluate` and `export` work. To extract, run "
        f"`{UPGRADE.format(root)}` first. It compares the frames, keeps shards with "
        "the right frames, and marks the others as not done. No network runs."
    )


def newer_schema(where: str, found: int, known: int) -> CacheTooNew:
    """Returns a CacheTooNew, the error for the file `where`. The file has the schema version `found`, and this
    version of kinegraph reads schema versions up to `known`.
    """
    return CacheTooNew(f"{where} has schema version {found}; this kinegraph knows {known}. Update kinegraph.")


def not_writable(path: Path, error: OSError, *, no_inodes: bool = False) -> CacheNotWritable | None:
    """Returns a CacheNotWritable with a message for the user, if the file `path` could not be written for lack of room
    or permission. Returns None if `error` has another cause.

    `error` was raised by writing. `no_inodes` says whether the file system cannot hold one more file.
    """
    if error.errno in NO_ROOM:
        seen = error.strerror
        if no_inodes:
            seen = "no inodes are left, of which each file takes one (`df -i` shows them)"
        elif error.errno == errno.EDQUOT:
            seen = f"{seen}, in bytes or in number of files (`quota` shows both)"
        return CacheNotWritable(
            f"{path} could not be written: {seen}. Finished shards are kept. To go on, make room"
            f"{' by removing files' if no_inodes else ''} and run the same command again."
        )
    if error.errno in NO_PERMISSION:
        return CacheNotWritable(
            f"{path} could not be written: {error.strerror}. `status`, `verify`, `plan` and training only read; for "
            "all else make the cache writable."
        )
    return None


def open_files_limit() -> int:
    """Returns how many files this process may have open (`ulimit -n`), or sys.maxsize if there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def out_of_descriptors(path: Path, error: OSError) -> TooManyOpenFiles | None:
    """Returns a TooManyOpenFiles with a message for the user, if the file `path` could not be opened because this
    process has too many files open. Returns None if `error`, raised by opening, has another cause.
    """
    if error.errno not in NO_DESCRIPTOR:
        return None
    return TooManyOpenFiles(
        f"{path} could not be opened: this process has as many files open as it may, {open_files_limit()} "
        "(`ulimit -n`). Close some, or raise the limit (`ulimit -n $(ulimit -Hn)`). kinegraph keeps no shard open."
    )
