"""Opens the storage of a cache, which is a folder or an object store."""

from pathlib import Path

from kinegraph.cache_schemas.errors import UnknownStorage
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.urls import has_login, has_query, without_secret


def open_storage(root: Path | str) -> Storage:
    """Returns the Storage of the cache at `root`, a path or a URL. A Storage reads and writes the objects (files) of a
    cache.

    Raises UnknownStorage for a URL that no installed package opens, and for a URL that contains a secret such as a
    password, because URLs are printed and logged.
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
    # imported here, because the import takes time and a folder does not need it
    from kinegraph.cache_schemas.object_storage import ObjectStorage

    return ObjectStorage(str(root))
