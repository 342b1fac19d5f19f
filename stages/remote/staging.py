"""Videos as files of this machine: those that are, and copies of those at URLs, few at a time. Torch-free."""

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

COPIERS = 4  # at a time; one rarely fills a network
MAX_ENDING = 16  # characters; a longer one is but a name with a dot in it


@dataclass(frozen=True)
class AtHand:
    """A video's file on this machine, perhaps a copy of `original`."""

    file: str
    original: tuple[str, RemoteInfo] | None = None

    def identity(self) -> Source | None:
        """What the ledger is to know of the video. The digest of a copy is that of the original."""
        found = images_identity(self.file) if Path(self.file).is_dir() else source_identity(self.file)
        return self.original[1].identified(found) if found is not None and self.original else found

    def named(self, words: str) -> str:
        """The words, with the video's own name in place of that of a copy."""
        return words.replace(self.file, self.original[0]) if self.original else words


class Staging:
    """Gives files for paths and URLs; on leaving it, no copy is left. Copies together never take more than is allowed.

        with Staging(options) as staging:
            following = staging.begin(url)      # copying begins
            with following as video:            # waits for it
                decode(video.file)
            # the copy is gone

    Files are to be used in the order in which they were begun, by any number of threads, one at a time by each; room is
    given out in that order, so that no video waits for one behind it. What was begun need not be used. Raises on
    entering a video what `Remote` does, and StagingError.
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
        """Stop copying at once, without waiting for a network that may hang, and remove all copies."""
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
        """A video that will be needed: entered, it is there; left, it may go."""
        if not is_url(path):
            return nullcontext(AtHand(path))
        with self._lock:
            if self._stopping.is_set():
                raise Stopped
            if self._folder is None:
                self._start()
            assert self._folder is not None
            ending = PurePosixPath(path).suffix  # FFmpeg looks at endings too
            name = f"{self._num_begun}{ending if len(ending) <= MAX_ENDING else ''}"
            copy = _Copy(self, path, self._num_begun, self._folder.path / name)
            self._begun[copy.number] = copy
            self._num_begun += 1
            self._waiting.put(copy)
        return copy

    def probe(self, path: str, by_number: bool = False) -> Probe:
        """What indexing needs to know of a video; from a copy, where a server gives no parts of files.

        `by_number`: also its frames.
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
                # takes time to import, which folders need not wait for
                from kinegraph.stages.remote.remote import Remote

                self._known_remote = Remote(self._options.tries, self._stopping)
            return self._known_remote

    def _start(self) -> None:
        self._folder = OwnFolder(self._options.folder)
        for number in range(COPIERS):  # daemons: no exit waits for a network
            threading.Thread(target=self._work, name=f"copy-{number}", daemon=True).start()

    def _work(self) -> None:
        while (copy := self._waiting.get()) is not None:
            try:
                found = self._copied(copy)
            except BaseException as error:
                with suppress(InvalidStateError):  # cancelled: nobody waits
                    copy.ready.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    copy.ready.set_result(found)

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
        try:
            self._remote().copy(copy.url, copy.file, info, told)
        except OSError as error:
            raise StagingError(
                f"{copy.file.parent}: {error.strerror}. Copies of videos may take {max_bytes} bytes in each worker "
                "process: set run.staging.max_gib to what there is room for, or run.staging.folder to another disk."
            ) from error
        copy.num_bytes = copy.file.stat().st_size  # less than was taken where the size was not told
        self._room.give_back(told - copy.num_bytes)
        return AtHand(str(copy.file), (copy.url, info))

    def drop(self, copy: "_Copy") -> None:
        """Remove a copy that was used; what it took is free again."""
        with self._lock:
            del self._begun[copy.number]
        copy.file.unlink(missing_ok=True)
        self._room.give_back(copy.num_bytes)


@dataclass(eq=False)
class _Copy:
    """One video under way, the `number`-th that was begun. `num_bytes`: room taken for it."""

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
    """Bytes that are given out in the order of numbers, and given back in any."""

    def __init__(self, max_bytes: int) -> None:
        self._free_bytes, self._next, self._is_closed = max_bytes, 0, False
        self._changed = threading.Condition()

    def take(self, number: int, num_bytes: int) -> None:
        """Wait until all before `number` have theirs and there is room for it. Raises Stopped."""
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
