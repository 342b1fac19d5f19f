"""Stores what `kinegraph index` has read from the headers of videos, so that the next `index` reads only new and
changed videos. Imports no torch.

A probe is what was read from one header. A cache stores probes in objects `probed/<random>.jsonl`, one probe on each
line. These objects only save time. A cache without them is complete.
"""

import io
import os
import secrets
import threading
import time
from array import array
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

import av
from pydantic import Field, ValidationError

from kinegraph.cache_schemas.documents import Document
from kinegraph.cache_schemas.storage import Storage
from kinegraph.stages.decode.opening import on_disk
from kinegraph.stages.decode.probing import Probe
from kinegraph.stages.decode.timeline import PresentedFrames
from kinegraph.stages.remote.urls import is_url

FOLDER = "probed"
EVERY_SECONDS = 10.0  # an `index` that ends sooner keeps nothing
LINES_AT_ONCE = 1000  # of a kept file, in one write
Stamp = tuple[int, int]  # size in bytes and time of the last change in ns, of a file


class KeptFrames(Document):
    """The number and the times of the frames of a video, in the form in which they are stored as JSON."""

    number: int = Field(ge=0)  # the number of frames
    rate: float  # frames per second
    slack_seconds: float  # the tolerance with which times of frames are compared, for example 0.001
    times: list[float] | None  # the time of each frame in seconds, or None if they are not known

    def frames(self) -> PresentedFrames:
        times = None if self.times is None else array("d", self.times)
        return PresentedFrames(number=self.number, rate=self.rate, slack_seconds=self.slack_seconds, times=times)


class KeptProbe(Document):
    """One line of a file of stored probes: what was read from the header of the video `path`. The line is valid as long
    as the file has the size `size` and the time of change `mtime_ns`.

    `reader` names the rules and the version of PyAV by which the header was read. The other fields are those of
    `Probe`.
    """

    path: str
    size: int
    mtime_ns: int
    reader: str
    duration: float
    frame_width: int
    frame_height: int
    rate: float
    warning: str
    frames: KeptFrames | None

    @classmethod
    def of(cls, path: str, stamp: Stamp, reader: str, probe: Probe) -> "KeptProbe":
        seen = None
        if (frames := probe.frames) is not None:
            times = None if frames.times is None else [*frames.times]
            seen = KeptFrames(number=frames.number, rate=frames.rate, slack_seconds=frames.slack_seconds, times=times)
        return cls(
            path=path, size=stamp[0], mtime_ns=stamp[1], reader=reader, duration=probe.duration,
            frame_width=probe.frame_width, frame_height=probe.frame_height, rate=probe.rate, warning=probe.warning,
            frames=seen,
        )  # fmt: skip

    def probe(self) -> Probe:
        return Probe(
            duration=self.duration, frame_width=self.frame_width, frame_height=self.frame_height, rate=self.rate,
            warning=self.warning, frames=None if self.frames is None else self.frames.frames(),
        )  # fmt: skip


def stamp_of(path: str) -> Stamp | None:
    """Returns (size in bytes, time of the last change in ns) of the file `path`. If this pair differs later, the file
    has changed. Returns None for a URL and for a path that is no file.
    """
    if is_url(path):
        return None
    try:
        status = os.stat(on_disk(path))  # noqa: PTH116 -- Path raises for long names
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


_Entry = tuple[str, Stamp, Probe]  # path of a video, and what was read from its header when it had this stamp


class KeptProbes:
    """The probes that earlier calls of `kinegraph index` have stored in a cache. A probe is what was read from the
    header of a video. `storage` holds the objects of the cache.

    `rules` names the rules by which `index` reads videos now. Probes by other rules, or by another version of PyAV, are
    not used. Several threads may call the methods `find` and `add`.
    """

    def __init__(self, storage: Storage, rules: str) -> None:
        self._storage, self._reader = storage, f"{rules}, PyAV {av.__version__}"
        self._parts = [name for name in storage.names(FOLDER) if name.endswith(".jsonl")]
        # not as KeptProbe, which takes several times the memory
        self._kept = {path: (stamp, probe) for name in sorted(self._parts) for path, stamp, probe in self._read(name)}
        self._new: list[_Entry] = []
        self._lock, self._written_at = threading.Lock(), time.monotonic()

    def _read(self, name: str) -> Iterator[_Entry]:
        """Yields (path, stamp, probe) for each usable line of the object `name`. A damaged line is skipped, so its
        video is read again.
        """
        try:
            content = self._storage.get(name)
        except FileNotFoundError:  # another `index` has just put it together with others
            return
        for line in io.BytesIO(content):  # no list of all lines
            try:
                kept = KeptProbe.model_validate_json(line)
            except (ValidationError, RecursionError):
                continue
            if kept.reader == self._reader:
                yield kept.path, (kept.size, kept.mtime_ns), kept.probe()

    def __contains__(self, path: str) -> bool:
        return path in self._kept

    def find(self, path: str, stamp: Stamp | None) -> Probe | None:
        """Returns the stored probe of the file `path`, which is what was read from its header. Returns None if no probe
        of the file is stored, or if the file has changed since it was probed. `stamp` is the present (size, time of
        change) of the file.
        """
        kept_stamp, probe = self._kept.get(path, (None, None))
        return probe if kept_stamp == stamp else None

    def add(self, path: str, stamp: Stamp | None, probe: Probe) -> None:
        """Adds `probe`, which was read from the header of the file `path`, to the probes to store. `stamp` is the
        (size, time of change) of the file before it was read.
        """
        if stamp is not None:
            with self._lock:
                self._new.append((path, stamp, probe))

    def write_if_due(self) -> None:
        """Writes the added probes if EVERY_SECONDS have passed since probes were last written."""
        if time.monotonic() - self._written_at >= EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        """Writes the probes that were added since the last call, as one object."""
        with self._lock:
            new, self._new = self._new, []
        if new:
            self._remember(new)
            self._parts.append(self._put(new))
        self._written_at = time.monotonic()

    def close(self, paths: Collection[str]) -> None:
        """Writes the probes of the videos `paths` into one object, and removes all older objects. So probes of other
        videos are forgotten. Call this method when all videos are probed. Does nothing if nothing has changed.
        """
        if not self._parts or (not self._new and len(self._parts) == 1 and self._kept.keys() <= {*paths}):
            return
        self._remember(self._new)
        self._new = []
        part = self._put((path, *self._kept[path]) for path in paths if path in self._kept)
        for name in self._parts:
            self._storage.delete(name)
        self._parts = [part]

    def _remember(self, entries: Iterable[_Entry]) -> None:
        self._kept |= {path: (stamp, probe) for path, stamp, probe in entries}

    def _put(self, entries: Iterable[_Entry]) -> str:
        name = f"{FOLDER}/{secrets.token_hex(8)}.jsonl"
        self._storage.put(name, self._lines(iter(entries)))
        return name

    def _lines(self, entries: Iterator[_Entry]) -> Iterator[bytes]:
        """Yields `entries` as lines of JSON, LINES_AT_ONCE lines together, so that never all lines are in memory."""
        while some := [*islice(entries, LINES_AT_ONCE)]:
            lines = (KeptProbe.of(path, stamp, self._reader, probe).model_dump_json() for path, stamp, probe in some)
            yield "".join(f"{line}\n" for line in lines).encode()
