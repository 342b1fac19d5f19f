"""Provides videos as files on this machine. A local file is used as it is. A video at a URL is copied first.
Torch-free.

Each copy is deleted after use, so that only a few copies exist at a time.
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
from kinegraph.stages.decode.probing import Probe, probe
from kinegraph.stages.decode.source import source_identity
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
class LocalVideo:
    """The file of a video on this machine: the video itself, or a copy of a video at a URL."""

    file: str  # the path of the file
    # For a copy, (URL of the video, RemoteInfo of the URL). Otherwise None.
    original: tuple[str, RemoteInfo] | None = None
    fetch_seconds: float = field(default=0.0, compare=False)  # how long copying took. 0 if the file is no copy.

    def identity(self) -> Source | None:
        """Returns the Source that identifies the video in the ledger: size, time of change and digest. For a copy, the
        time of change is the one that the store reports. Returns None if the file cannot be read.
        """
        source = images_identity(self.file) if Path(self.file).is_dir() else source_identity(self.file)
        return self.original[1].identity_of(source) if source is not None and self.original else source

    def with_url(self, words: str) -> str:
        """Replaces the path of the copy by the URL of the video in the message `words`. Returns the new message."""
        return words.replace(self.file, self.original[0]) if self.original else words


class Staging:
    """Provides videos as local files. Videos at URLs are copied, and each copy is removed after use. All copies
    together take at most `options.max_bytes`.

        with Staging(options) as staging:
            following = staging.begin(url)      # copying begins
            with following as video:            # waits for the copy
                decode(video.file)
            # the copy is removed

    Copies get room on the disk in the order of the calls of `begin`, so enter the `with` blocks in this order. Several
    threads may enter videos, each thread one at a time. Entering a video raises an error if the copy fails, for example
    StagingError if the folder for copies cannot be used.
    """

    def __init__(self, options: StagingOptions) -> None:
        self._options, self._room = options, _Room(options.max_bytes)
        self._waiting: queue.SimpleQueue[_Copy | None] = queue.SimpleQueue()
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._known_remote: Remote | None = None
        self._folder: OwnFolder | None = None
        self._copies: dict[int, _Copy] = {}
        self._num_begun = 0

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *error: object) -> None:
        """Stops copying and removes all copies. Does not wait for copies in progress, because a network may never
        answer.
        """
        with self._lock:
            self._stopping.set()
            copies = [*self._copies.values()]
        self._room.close()
        for copy in copies:
            copy.ready.cancel()
        for _ in range(COPIERS):
            self._waiting.put(None)
        if self._folder is not None:
            self._folder.remove()

    def begin(self, path: str) -> AbstractContextManager[LocalVideo]:
        """Begins to copy the video at `path`. Returns a context manager that yields the LocalVideo.

        Entering the context waits for the copy. Leaving the context removes the copy. A local file is neither copied
        nor removed. Raises Stopped if `path` is a URL and this Staging has ended.
        """
        if not is_url(path):
            return nullcontext(LocalVideo(path))
        with self._lock:
            if self._stopping.is_set():
                raise Stopped
            if self._folder is None:
                self._start()
            assert self._folder is not None
            ending = PurePosixPath(path).suffix  # FFmpeg uses endings too
            name = f"{self._num_begun}{ending if len(ending) <= MAX_ENDING else ''}"
            copy = _Copy(self, path, self._num_begun, self._folder.path / name)
            self._copies[copy.number] = copy
            self._num_begun += 1
            self._waiting.put(copy)
        return copy

    def probe(self, path: str, by_number: bool = False) -> Probe:
        """Returns the Probe of the video at `path`: the facts that `kinegraph index` needs, such as duration and frame
        size. If `by_number` is true, frames are counted, too.

        For a URL, only the needed parts of the video are requested. If the server can only send whole files, the video
        is copied first. Raises DecodeError if the video cannot be read, and NetworkError if the network fails.
        """
        probe_file = probe_counted if by_number else probe
        if not is_url(path):
            return probe_file(path)
        try:
            return self._remote().probe(path, probe_file)
        except NoRanges:
            with self.begin(path) as video:
                return probe_file(video.file)

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
                local_video = self._make_copy(copy)
            except BaseException as error:
                with suppress(InvalidStateError):  # the future was cancelled, so no caller waits
                    copy.ready.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    copy.ready.set_result(local_video)

    def _make_copy(self, copy: "_Copy") -> LocalVideo:
        max_bytes = self._options.max_bytes
        try:
            info = self._remote().info(copy.url)
            if info.size is not None and info.size > max_bytes:
                raise too_large(copy.url, info.size, max_bytes)
        except BaseException:
            self._room.take(copy.number, 0)
            raise
        most_bytes = max_bytes if info.size is None else info.size
        self._room.take(copy.number, most_bytes)
        copy.num_bytes = most_bytes
        clock = Clock(FETCH)
        try:
            self._remote().copy(copy.url, copy.file, info, most_bytes)
        except OSError as error:
            raise StagingError(
                f"{copy.file.parent}: {error.strerror}. Copies of videos may take {max_bytes} bytes in each worker "
                "process: set run.staging.max_gib to the free space of the disk, or run.staging.folder to another disk."
            ) from error
        copy.num_bytes = copy.file.stat().st_size  # smaller than the room taken where the store reported no size
        self._room.give_back(most_bytes - copy.num_bytes)
        return LocalVideo(str(copy.file), (copy.url, info), clock.taken()[FETCH])

    def drop(self, copy: "_Copy") -> None:
        """Deletes `copy`, the copy of a video, after use. The disk space of `copy` is then free for the next copies."""
        with self._lock:
            del self._copies[copy.number]
        copy.file.unlink(missing_ok=True)
        self._room.give_back(copy.num_bytes)


@dataclass(eq=False)
class _Copy:
    """The copy of the video at `url` to the file `file`. `number` counts the copies in the order in which they began.

    `num_bytes` is the room on the disk that this copy takes. `ready` has the result when the copy is finished.
    """

    staging: Staging
    url: str
    number: int
    file: Path
    num_bytes: int = 0
    ready: "Future[LocalVideo]" = field(default_factory=Future)

    def __enter__(self) -> LocalVideo:
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

    Copies are numbered from 0. A copy waits until all copies with lower numbers have their bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free_bytes, self._next, self._is_closed = max_bytes, 0, False
        self._changed = threading.Condition()

    def take(self, number: int, num_bytes: int) -> None:
        """Reserves `num_bytes` bytes of the disk for copy number `number`. Waits until all copies with lower numbers
        have their bytes and until enough bytes are free.

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
