"""Opens URLs through fsspec, a library for many kinds of storage. If fsspec needs another package for a kind of URL,
the error message says which package to install.
"""

from typing import Any

import fsspec

from kinegraph.cache_schemas.errors import UnknownStorage
from kinegraph.cache_schemas.words import sentence

EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}  # URL scheme -> extra of kinegraph to install


def open_file_system(url: str, **settings: Any) -> tuple[fsspec.AbstractFileSystem, str]:
    """Opens the file system of `url` with fsspec. Returns (file system, path of `url` in the file system).

    `settings` are further arguments of the file system. Listings of folders are not cached, because other processes
    write too. Raises UnknownStorage if no installed package opens the URL.
    """
    scheme = url.partition("://")[0]
    try:
        system, path = fsspec.url_to_fs(url, use_listings_cache=False, **settings)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        remedy = f"pip install 'kinegraph[{extra}]'" if extra else f"install what fsspec needs ({error})"
        raise UnknownStorage(f"{url}: nothing is installed that opens {scheme}://. For it, {remedy}.") from error
    except ValueError as error:
        raise UnknownStorage(
            f"{url}: {sentence(error)} Give a folder, s3://bucket/prefix, or another URL of fsspec."
        ) from error
    return system, path.rstrip("/")
