"""Reads a folder with one file <video>.npy per video, also in subfolders. Torch-free."""

from collections.abc import Sequence
from pathlib import Path

import xxhash

from kinegraph.cache_schemas.errors import out_of_descriptors
from kinegraph.cache_schemas.files import file_digest
from kinegraph.cache_schemas.ledger import Source
from kinegraph.stages.imports.features import UnusableError, VideoFeatures, as_features
from kinegraph.stages.number_files import ArrayFileError, read_npy

SUFFIX = ".npy"


class NpyFiles:
    """The FeatureFiles of a folder `root` with one .npy file per video. The id of a video is the path of its file below
    the folder, without the ending: `walk/1.npy` -> `walk/1`.

    The array of a file is [C], [T, C] or [T, C, H, W]: T frames, C channels, H rows and W columns of a map.
    """

    kind = "npy"

    def __init__(self, root: Path) -> None:
        self.root = root

    def videos(self) -> Sequence[str]:
        return ids_of_files(self.root, SUFFIX)

    def where(self, video: str) -> str:
        return str(self._path(video))

    def source(self, video: str) -> Source:
        return source_of(self._path(video))

    def read(self, video: str) -> VideoFeatures:
        try:
            array = read_npy(self._path(video))
        except (OSError, ArrayFileError) as error:
            raise UnusableError("unreadable", f"{self.where(video)}: {error}") from error
        return as_features(array, self.where(video))

    def _path(self, video: str) -> Path:
        return self.root / f"{video}{SUFFIX}"


def ids_of_files(root: Path, suffix: str) -> list[str]:
    """Returns the paths below `root` of all files with the ending `suffix`, sorted and without the ending: `walk/1.npy`
    -> `walk/1`.
    """
    names = (path.relative_to(root).as_posix() for path in root.rglob(f"*{suffix}") if not path.name.startswith("."))
    return sorted(name.removesuffix(suffix) for name in names)


def source_of(path: Path) -> Source:
    """Returns the Source that identifies a file: its size, time of change, and a digest of all bytes. If the file
    cannot be read, size and time are 0, and the digest is that of an empty file.

    Raises TooManyOpenFiles if the process cannot open more files.
    """
    try:
        size, digest = file_digest(path)
        return Source(size=size, mtime_ns=path.stat().st_mtime_ns, digest=digest)
    except OSError as error:
        if full := out_of_descriptors(path, error):
            raise full from error
        return Source(size=0, mtime_ns=0, digest=xxhash.xxh3_128(b"").hexdigest())
