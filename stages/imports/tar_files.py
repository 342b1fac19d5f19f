"""Reads tar files with one sample per video, as the Python package `webdataset` writes them. Imports torch only for
tensors.

A sample is a group of files in the tar file whose names are equal up to the first dot. This part of the name is the key
of the sample: `walk/1` for `walk/1.npy` and `walk/1.json`. Nothing is unpacked to the disk.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import xxhash

from kinegraph.cache_schemas.ledger import Source
from kinegraph.cache_schemas.regular import open_regular
from kinegraph.cache_schemas.words import sentence
from kinegraph.stages.imports.features import FeatureFileError, UnusableError, VideoFeatures, as_features
from kinegraph.stages.imports.pt_files import SUFFIXES, tensor_in
from kinegraph.stages.number_files import GIB, ArrayFileError, array_in

NPY, TAR = ".npy", ".tar"
ENDINGS = (NPY, *SUFFIXES)
PICKLES = (".pkl", ".pickle", ".pyd")
JSON, MAX_JSON_BYTES = "json", 1 << 20
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file inside of the tar file `path`. `start` is the position of its first byte in the tar file, and `size` its
    number of bytes.
    """

    path: Path
    name: str
    start: int
    size: int

    def content(self) -> bytes:
        with open_regular(self.path) as file:
            file.seek(self.start)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


class TarFiles:
    """The FeatureFiles of one tar file, or of all tar files in a folder. A sample has the features of one video.

    The id of the video is `video_id` in the json file of the sample. Without it, the id is the key of the sample. If
    samples have several arrays, `dataset` is the name of the file to read, such as "features.npy".
    """

    kind = "webdataset"

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        self.path, self.dataset = path, dataset

    def videos(self) -> Sequence[str]:
        return sorted(self._members)

    def where(self, video: str) -> str:
        return str(self._members[video])

    def source(self, video: str) -> Source:
        """Returns the Source that identifies the features of `video`: size and digest of the video's file inside of the
        tar file, and the time of change of the tar file.
        """
        member = self._members[video]
        digest = xxhash.xxh3_128_hexdigest(member.content())
        return Source(size=member.size, mtime_ns=member.path.stat().st_mtime_ns, digest=digest)

    def read(self, video: str) -> VideoFeatures:
        member = self._members[video]
        return as_features(_array(member), str(member))

    @cached_property
    def _members(self) -> dict[str, Member]:
        """Returns {video id: Member with its features}. Raises FeatureFileError if two samples are of one video, or if
        a sample has several arrays and `dataset` is None.
        """
        paths = [self.path] if self.path.is_file() else sorted(self.path.rglob(f"*{TAR}"))
        members: dict[str, Member] = {}
        for path in paths:
            for key, sample in _samples(path).items():
                if (member := self._chosen(path, key, sample)) is None:
                    continue
                video = _video_id(sample) or key
                if video in members:
                    raise FeatureFileError(
                        f"{member} and {members[video]} are of one video, {video}. An import has one row per video."
                    )
                members[video] = member
        return members

    def _chosen(self, path: Path, key: str, sample: Mapping[str, Member]) -> Member | None:
        arrays = {rest: member for rest, member in sample.items() if rest.endswith(tuple(s[1:] for s in ENDINGS))}
        if self.dataset is not None:
            wanted = (self.dataset, *(f"{self.dataset}{ending}" for ending in ENDINGS))
            if arrays and not arrays.keys() & {*wanted}:
                raise FeatureFileError(f"--dataset {self.dataset}: {path}:{key} has {', '.join(arrays)}")
            return next((arrays[rest] for rest in wanted if rest in arrays), None)
        if len(arrays) > 1:
            raise FeatureFileError(f"{path}:{key} has {', '.join(arrays)}. Choose one by --dataset NAME")
        return next(iter(arrays.values()), None)


def _samples(path: Path) -> dict[str, dict[str, Member]]:
    """Returns {key of a sample: {ending: Member}} of the tar file `path`. The file `walk/1.features.npy` has the key
    `walk/1` and the ending `features.npy`.
    """
    samples: dict[str, dict[str, Member]] = {}
    for member in _members(path):
        folder, _, name = member.name.rpartition("/")
        stem, _, rest = name.partition(".")
        samples.setdefault(f"{folder}/{stem}" if folder else stem, {})[rest] = member
    return samples


def _members(path: Path) -> Iterator[Member]:
    """Yields a Member for each file inside of the tar file `path`. Raises FeatureFileError if the tar file is damaged,
    cut off or compressed, or if a file inside could do harm.
    """
    try:
        with open_regular(path) as file:
            if file.read(8).startswith(COMPRESSED):
                raise FeatureFileError(f"{path} is compressed, and only plain tar files are read. Unpack it once.")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                last = -1
                while (entry := archive.next()) is not None:
                    if entry.offset <= last or entry.size < 0:
                        raise FeatureFileError(f"{path}: its entry {entry.name!r:.80} goes back in the file. Refused.")
                    last = entry.offset
                    _check(path, entry)
                    if not entry.isdir():
                        yield Member(path=path, name=entry.name, start=entry.offset_data, size=entry.size)
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile stops without an error there
                    raise FeatureFileError(f"{path}: damaged after byte {archive.offset:,}, or cut off. Copy it again.")
    except (OSError, tarfile.TarError, ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, FeatureFileError):
            raise
        raise FeatureFileError(
            f"{path}: no tar file, or damaged or cut off: {sentence(error)} Copy it again."
        ) from error


def _check(path: Path, entry: tarfile.TarInfo) -> None:
    """Raises FeatureFileError if the entry `entry` of the tar file `path` could do harm. Refused are names that lead
    out of the folder, links, devices, pickles, and files of more than 1 GiB.
    """
    named, name = f"{path}: refused: {entry.name!r:.200}", PurePosixPath(entry.name)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.name or "\0" in entry.name:
        raise FeatureFileError(f"{named} leads out of the archive. Expected names below it.")
    if entry.isdir():
        return
    if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.issparse():
        raise FeatureFileError(f"{named} is a link, a device or a sparse file. Expected plain files.")
    if name.suffix.lower() in PICKLES:
        raise FeatureFileError(f"{named} is a pickle. It could run code, so it is never loaded. Write .npy members.")
    if entry.size > GIB:
        raise FeatureFileError(f"{named} has {entry.size:,} bytes. The limit is 1 GiB.")


def _video_id(sample: Mapping[str, Member]) -> str:
    """Returns `video_id` in the json file of a sample, or "" if there is none. Raises FeatureFileError if the file is
    no JSON.
    """
    member = sample.get(JSON)
    if member is None or member.size > MAX_JSON_BYTES:
        return ""
    try:
        facts = json.loads(member.content())
    except (ValueError, RecursionError) as error:
        raise FeatureFileError(f"{member}: no JSON: {sentence(error)}") from error
    video = facts.get("video_id") if isinstance(facts, dict) else None
    return video if isinstance(video, str) else ""


def _array(member: Member) -> np.ndarray:
    """Returns the array in a file inside of a tar file. Raises UnusableError if it cannot be read."""
    try:
        content = member.content()
        return array_in(content) if member.name.endswith(NPY) else tensor_in(content, str(member))
    except (OSError, ArrayFileError) as error:
        raise UnusableError("unreadable", f"{member}: {error}") from error
