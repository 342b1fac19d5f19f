"""Finds the present file of a video, which may have moved or changed since it was extracted. Imports no torch."""

import os
import stat
from pathlib import Path

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.ledger import Source
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.numbered_images import images_changed
from kinegraph.stages.decode.opening import on_disk
from kinegraph.stages.decode.source import source_identity
from kinegraph.stages.errors import UsageError
from kinegraph.stages.remote.urls import is_url


class VideosAtHand:
    """Finds the files of videos that may have moved. `root` is a folder in which videos are looked for by their ids. If
    `root` is None, or has no file for a video, the path in the cache is used.

    Raises UsageError if `root` is no folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        if root is not None and not root.is_dir():
            raise UsageError(f"--videos {root}: no such folder. Name the folder that holds the videos.")
        self.root = root

    def exists(self, video_name: str, path: str) -> bool:
        """Returns whether the file of a video is on this machine. `video_name` is the id of the video, and `path` is
        its path in the cache.
        """
        return self._below_root(video_name) is not None or (not is_url(path) and _is_there(path))

    def path(self, row: ClipRow) -> str:
        """Returns the path of the video of `row`: `<root>/<id of the video>` if this file exists, else the path in the
        cache. If the path in the cache is a URL, it is not checked.

        Raises DecodeError (`missing`) if neither file exists.
        """
        if (file := self._below_root(row.video_name)) is not None:
            return file
        if is_url(row.path) or _is_there(row.path):
            return row.path
        tried = f"no file {row.path}"
        if self.root is None:
            raise DecodeError("missing", f"{tried}, looked from {Path.cwd()}. If the videos moved, give --videos ROOT.")
        raise DecodeError("missing", f"{tried}, and no {row.video_name} below {self.root} (--videos).")

    def _below_root(self, video_name: str) -> str | None:
        file = "" if self.root is None else on_disk(str(self.root / video_name))
        if self.root is None or not _is_there(file):
            return None
        return file if Path(file).resolve().is_relative_to(self.root.resolve()) else None


def _is_there(path: str) -> bool:
    """Returns whether there is a file or folder at `path`. Returns False for a name that no file can have."""
    return os.path.exists(on_disk(path))  # noqa: PTH110 -- Path.exists raises an error for a name that is too long


def has_changed(path: str, source: Source) -> bool:
    """Returns whether the file, or the folder of images, at `path` has changed since its identity `source` was
    recorded. Returns False if nothing is at `path`.
    """
    try:
        now = os.stat(on_disk(path))  # noqa: PTH116 -- a million Path objects take seconds
    except OSError:
        return False
    if stat.S_ISDIR(now.st_mode):
        return images_changed(path, source)
    if now.st_size != source.size or now.st_mtime_ns == source.mtime_ns:
        return now.st_size != source.size
    identity = source_identity(path)
    return identity is not None and identity.digest != source.digest


def change_of(path: str, before: Source | None) -> str:
    """Returns a sentence if the video at `path` has changed since it was extracted, else "". `before` is the identity
    of the video in the ledger, or None if the ledger has none. A video at a URL counts as unchanged.
    """
    if before is None or is_url(path) or before.etag or not has_changed(path, before):
        return ""
    return "the video has changed since it was extracted"
