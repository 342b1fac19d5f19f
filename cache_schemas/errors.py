"""What can be wrong with a cache; each error is also the built-in a caller expects."""

from cache_schemas.arrays import SCHEMA_VERSION


class CacheError(ValueError):
    """A cache that cannot be used as asked; the message says what was seen, expected and what to do."""


class CacheNotFound(CacheError, FileNotFoundError):
    """No cache at this path."""


class CacheMismatch(CacheError):
    """The cache was made with other options than those asked for."""


class CacheTooNew(CacheError):
    """A file of the cache was written by a later version; nothing is wrong with it."""


class UnknownStorage(CacheError):
    """A URL of a kind that no installed package opens."""


class StorageError(CacheError, OSError):
    """The store behind a URL could not be reached, or did not do what was asked."""


def newer_schema(where: str, found: int) -> CacheTooNew:
    return CacheTooNew(f"{where} has schema version {found}; this kinegraph knows {SCHEMA_VERSION}. Update kinegraph.")
