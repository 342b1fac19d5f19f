"""What opens a URL: fsspec, and the packages that it needs for some kinds of them."""

from typing import Any

import fsspec

from kinegraph.cache_schemas.errors import UnknownStorage

EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}  # of kinegraph, by scheme


def open_file_system(url: str, **settings: Any) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL, and its name for it; listings are not kept, for others write too.

    Raises UnknownStorage where nothing is installed that opens the URL.
    """
    scheme = url.partition("://")[0]
    try:
        system, path = fsspec.url_to_fs(url, use_listings_cache=False, **settings)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        remedy = f"pip install 'kinegraph[{extra}]'" if extra else f"install what fsspec needs ({error})"
        raise UnknownStorage(f"{url}: nothing is installed that opens {scheme}://. For it, {remedy}.") from error
    except ValueError as error:
        raise UnknownStorage(f"{url}: {error}. Give a folder, s3://bucket/prefix, or another URL of fsspec.") from error
    return system, path.rstrip("/")
