"""The storages that there are, by a cache's path or URL."""

from pathlib import Path

from kinegraph.cache_schemas.errors import UnknownStorage
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.urls import has_login, has_query, without_secret


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
    # takes time to import, which a folder need not wait for
    from kinegraph.cache_schemas.object_storage import ObjectStorage

    return ObjectStorage(str(root))
