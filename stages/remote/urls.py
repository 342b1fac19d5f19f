"""Recognises URLs of videos, and refuses URLs that contain a secret. Torch-free, and without fsspec."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from kinegraph.cache_schemas.urls import has_login, has_query, without_secret
from kinegraph.stages.errors import UsageError

FILE = "file://"
HTTP = ("http", "https")


class UrlError(UsageError):
    """Raised if a URL contains a secret, or if it names several file systems, as `zip::https://...` does."""


def is_url(path: str) -> bool:
    """Returns whether the path of a video is a URL, for example `s3://bucket/a.mp4`. Returns False for `file://...`,
    which is a local path.
    """
    return "://" in path and not path.startswith(FILE)


def origin(url: str) -> str:
    """Returns scheme and host of `url`, or scheme and bucket: `s3://bucket/a.mp4` -> `s3://bucket`. All URLs of one
    origin use the same file system of fsspec.
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def check_url(url: str) -> str:
    """Returns `url` unchanged. Raises UrlError if it is a URL with a user name, a password or a query.

    A user name, a password or a query may be a secret, and URLs are written to clips.parquet and to logs. The message
    hides the secret. Raises UrlError also for a URL of several file systems, such as `zip::https://...`. A local path
    is always allowed.
    """
    if not is_url(url):
        return url
    shown = without_secret(url)
    if has_login(url):
        raise UrlError(
            f"{shown} names a user or a password, which would be written to clips.parquet. Give it to fsspec instead, "
            'in its environment variables or config files, as {"https": {"client_kwargs": {"headers": ...}}}.'
        )
    if has_query(url):
        raise UrlError(
            f"{shown}?... has a query, which may be a signature: it would be written to clips.parquet, and signed URLs "
            "expire. Name the object itself (s3://bucket/key, with credentials in fsspec's own settings). A `?` in a "
            "file's name is written %3F."
        )
    if "::" in url.partition("://")[0]:
        raise UrlError(f"{shown} is a chain of file systems. Name the video's own URL.")
    return url


def locate_video(root: str, path: str) -> tuple[str, str]:
    """Returns (id, full path) of a video in a list. `path` is the entry of the list: a path below `root`, an absolute
    path, or a URL.

    The id of a video below `root` is its path below `root`: `"root", "a/b.mp4" -> ("a/b.mp4", "root/a/b.mp4")`. The id
    of any other video is its full path. Raises the errors of `check_url`.
    """
    root, path = root.removeprefix(FILE), path.removeprefix(FILE)
    if is_url(path):
        return check_url(path).removeprefix(f"{root.rstrip('/')}/"), path
    if is_url(root) and not path.startswith("/"):
        below = PurePosixPath(path).as_posix()
        return below, check_url(f"{root.rstrip('/')}/{below}")
    full = Path(root) / path
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else full.as_posix(), str(full)
