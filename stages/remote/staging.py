"""Provides videos as files of this machine. A local file is used as it is. A video at a URL is copied. Torch-free.

Copies are deleted after use, so that only a few exist at a time.
"""

import queue
import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.ledger import Source
from kinegraph.stages.clock import FETCH, Clock
from kinegraph.stages.decode.counting import probe_counted
from kinegraph.stages.decode.numbered_images import images_identity
from kinegraph.stages.decode.source import source_identity
from kinegraph.stages.decode.stream import Probe, probe
from kinegraph.stages.remote.faults import NoRanges, Stopped, too_large
from kinegraph.stages.remote.folder import OwnFolder, StagingError
from kinegraph.stages.remote.info import RemoteInfo
from kinegraph.stages.remote.options import StagingOptions
from kinegraph.stages.remote.urls import is_url

if TYPE_CHECKING:
    from kinegraph.stages.remote.remote import Remote

COPIERS = 4  # copies at a time; one copy rarely fills a network
MAX_ENDING = 16  # characters; a longer ending is a name with a dot in it


@dataclass(frozen=True)
class AtHand:
    """The file of a video on this machine. `file` is the path of the video itself, or of a copy of it.

    For a copy, `original` is (URL of the video, RemoteInfo of its server or bucket), and `fetch_seconds` is the time
    that the copying took. For a local file they are None and 0.
    """

    file: str
    original: tuple[str, RemoteInfo] | None = None
    fetch_seconds: float = field(default=0.0, compare=False)

    def identity(self) -> Source | None:
        """Returns the Source that identifies the video in the ledger (size, time of change, digest). Returns None if
        the file cannot be read.

        For a copy of a video at a URL, the time of change is the one that the store reports.
        """
        source = images_identity(self.file) if Path(self.file).is_dir() else source_identity(self.file)
        return self.original[1].identified(source) if source is not None and self.original else source

    def named(self, words: str) -> str:
        """Returns `words`, a message, with the URL of the video in place of the path of its copy."""
        return words.replace(self.file, self.original[0]) if self.original else words


class Staging:
    """Provides videos as local files. Videos at URLs are copied, and each copy is removed after use. All copies
    together take at most `options.max_bytes`.

        with Staging(options) as staging:
            following = staging.begin(url)      # copying begins
            with following as video:            # waits for the copy
                decode(video.file)
            # the copy is gone

    The calls of `begin` decide in which order copies get room on the disk. So enter videos in the order of these calls.
    A video that is not needed any more may be left out. Several threads may enter videos, each thread one video at a
    time. Entering a video raises an error if the copy fails, for example StagingError if the folder for copies cannot
    be used.
    """

    def __init__(self, options: StagingOptions) -> None:
        self._options, self._room = options, _Room(options.max_bytes)
        self._waiting: queue.SimpleQueue[_Copy | None] = queue.SimpleQueue()
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._known_remote: Remote | None = None
        self._folder: OwnFolder | None = None
        self._begun: dict[int, _Copy] = {}
        self._num_begun = 0

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *error: object) -> None:
        """Stops copying and removes all copies. Does not wait for copies in progress, because a network may never
        answer.
        """
        with self._lock:
            self._stopping.set()
            begun = [*self._begun.values()]
        self._room.close()
        for copy in begun:
            copy.ready.cancel()
        for _ in range(COPIERS):
            self._waiting.put(None)
        if self._folder is not None:
            self._folder.remove()

    def begin(self, path: str) -> AbstractContextManager[AtHand]:
        """Begins to copy a video that will be needed. Returns a context manager that yields an AtHand, the file of the
        video on this machine.

        Entering the context waits for the copy. Leaving the context removes the copy. A local file is neither copied
        nor removed. Raises Stopped if this `Staging` has ended and `path` is a URL.
        """
        if not is_url(path):
            return nullcontext(AtHand(path))
        with self._lock:
            if self._stopping.is_set():
                raise Stopped
            if self._folder is None:
                self._start()
            assert self._folder is not None
            ending = PurePosixPath(path).suffix  # FFmpeg uses endings too
            name = f"{self._num_begun}{ending if len(ending) <= MAX_ENDING else ''}"
            copy = _Copy(self, path, self._num_begun, self._folder.path / name)
            self._begun[copy.number] = copy
            self._num_begun += 1
            self._waiting.put(copy)
        return copy

    def probe(self, path: str, by_number: bool = False) -> Probe:
        """Returns a Probe, the facts about a video that the command `index` needs. If `by_number` is True, the frames
        of the video are counted too.

        For a URL, only the needed parts of the video are requested. If the server returns whole files only, the video
        is copied first. Raises DecodeError if the video cannot be read, and NetworkError if nothing can be reached.
        """
        look = probe_counted if by_number else probe
        if not is_url(path):
            return look(path)
        try:
            return self._remote().probe(path, look)
        except NoRanges:
            with self.begin(path) as video:
                return look(video.file)

    def _remote(self) -> "Remote":
        with self._lock:
            if self._known_remote is None:
                # imported here, because folders do not need it
                from kinegraph.stages.remote.remote import Remote

                self._known_remote = Remote(self._options.tries, self._stopping)
            return self._known_remote

    def _start(self) -> None:
        self._folder = OwnFolder(self._options.folder)
        for copier in range(COPIERS):  # daemon threads, so that the exit never waits for a network
            threading.Thread(target=self._work, name=f"copy-{copier}", daemon=True).start()

    def _work(self) -> None:
        while (copy := self._waiting.get()) is not None:
            try:
                at_hand = self._copied(copy)
            except BaseException as error:
                with suppress(InvalidStateError):  # the future was cancelled, so no caller waits
                    copy.ready.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    copy.ready.set_result(at_hand)

    def _copied(self, copy: "_Copy") -> AtHand:
        max_bytes = self._options.max_bytes
        try:
            info = self._remote().info(copy.url)
            if info.size is not None and info.size > max_bytes:
                raise too_large(copy.url, info.size, max_bytes)
        except BaseException:
            self._room.take(copy.number, 0)
            raise
        told = max_bytes if info.size is None else info.size
        self._room.take(copy.number, told)
        copy.num_bytes = told
        clock = Clock(FETCH)
        try:
            self._remote().copy(copy.url, copy.file, info, told)
        except OSError as error:
            raise StagingError(
                f"{copy.file.parent}: {error.strerror}. Copies of videos may take {max_bytes} bytes in each worker "
                "process: set run.staging.max_gib to what there is room for, or run.staging.folder to another disk."
            ) from error
        copy.num_bytes = copy.file.stat().st_size  # smaller than the room taken where the store reported no size
        self._room.give_back(told - copy.num_bytes)
        return AtHand(str(copy.file), (copy.url, info), clock.taken()[FETCH])

    def drop(self, copy: "_Copy") -> None:
        """Deletes `copy`, a copy of a video, after use, so that there is room for the next copies."""
        with self._lock:
            del self._begun[copy.number]
        copy.file.unlink(missing_ok=True)
        self._room.give_back(copy.num_bytes)


@dataclass(eq=False)
class _Copy:
    """A video at `url` that is copied to `file`. `number` counts the copies in the order in which they began.

    `num_bytes` is how much this copy takes of the space that all copies may take together. `ready` has the result when
    the copy is finished.
    """

    staging: Staging
    url: str
    number: int
    file: Path
    num_bytes: int = 0
    ready: "Future[AtHand]" = field(default_factory=Future)

    def __enter__(self) -> AtHand:
        try:
            return stopping.result(self.ready)
        except BaseException:
            self.staging.drop(self)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.staging.drop(self)


class _Room:
    """Shares `max_bytes` bytes of the disk among copies of videos. `take` waits for the bytes of a copy, and
    `give_back` frees them.

    The copies are numbered from 0. A copy waits until all copies with lower numbers have their bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free_bytes, self._next, self._is_closed = max_bytes, 0, False
        self._changed = threading.Condition()

    def take(self, number: int, num_bytes: int) -> None:
        """Reserves `num_bytes` bytes of the disk for the copy with the number `number`. Waits until all copies with
        lower numbers have their bytes and until enough bytes are free.

        Raises Stopped if `close` was called before or during the wait.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or (self._next == number and num_bytes <= self._free_bytes))
            if self._is_closed:
                raise Stopped
            self._free_bytes -= num_bytes
            self._next += 1
            self._changed.notify_all()

    def give_back(self, num_bytes: int) -> None:
        with self._changed:
            self._free_bytes += num_bytes
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
