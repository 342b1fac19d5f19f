"""Videos probed side by side, each for a limited time. Torch-free."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.stream import Probe

LOOK_SECONDS = 0.2  # between two looks at what takes too long
MOST_HANGING = 64  # threads that wait for a video whose time is up
Answer = Probe | DecodeError


class VideosHangError(RuntimeError):
    """So many videos give no answer that their file system must be at fault."""


def probe_all(
    paths: Sequence[str], probe: Callable[[str], Probe], num_threads: int, limit_seconds: Callable[[str], float]
) -> Iterator[tuple[str, Answer]]:
    """Each path and what `probe` says of it, in the order of the answers.

    A video that gives no answer within its `limit_seconds` is a DecodeError (`timeout`), and another thread goes on
    with the rest. Its own thread cannot be ended: a daemon, it keeps no process from ending.
    Raises what `probe` raises except DecodeError, and VideosHangError where MOST_HANGING threads hang.
    """
    pool = _Pool(paths, probe)
    try:
        for _ in range(min(num_threads, len(paths))):
            pool.start_thread()
        unanswered = set(paths)
        while unanswered:
            for path, answer in [*pool.answers(), *pool.overdue(limit_seconds)]:
                if path in unanswered:
                    unanswered.remove(path)
                    yield path, answer
    finally:
        pool.stopping.set()


class _Pool:
    """Threads that probe what waits. One that hangs is given up, and replaced."""

    def __init__(self, paths: Sequence[str], probe: Callable[[str], Probe]) -> None:
        self.stopping = threading.Event()
        self._probe = probe
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._done: queue.Queue[tuple[str, Answer | BaseException]] = queue.Queue()
        self._begun: dict[str, float] = {}  # when, of those under way
        self._hanging: set[str] = set()
        for path in paths:
            self._waiting.put(path)

    def start_thread(self) -> None:
        threading.Thread(target=self._work, name="probe", daemon=True).start()

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """The next answer, where one comes soon."""
        try:
            path, answer = stopping.get(self._done, LOOK_SECONDS)
        except queue.Empty:
            return
        self._begun.pop(path, None)
        self._hanging.discard(path)
        if not isinstance(answer, Probe | DecodeError):
            raise answer
        yield path, answer

    def overdue(self, limit_seconds: Callable[[str], float]) -> Iterator[tuple[str, DecodeError]]:
        """Videos whose time is up. Raises VideosHangError."""
        for path, begun in [*self._begun.items()]:
            if path in self._hanging or time.monotonic() - begun <= limit_seconds(path):
                continue
            self._hanging.add(path)
            words = f"no answer within run.video_timeout_seconds ({limit_seconds(path):g} s)"
            if len(self._hanging) >= MOST_HANGING:
                raise VideosHangError(
                    f"{counted(len(self._hanging), 'video')} gave {words}, the last is {path}. Does their file "
                    "system answer? Nothing was indexed: run the same command again when it does."
                )
            self.start_thread()
            yield path, DecodeError("timeout", words)

    def _work(self) -> None:
        while not self.stopping.is_set():
            try:
                path = self._waiting.get_nowait()
            except queue.Empty:
                return
            self._begun[path] = time.monotonic()
            try:
                answer: Answer | BaseException = self._probe(path)
            except BaseException as error:
                answer = error
            gives_way = path in self._hanging  # another thread has its place
            self._done.put((path, answer))
            if gives_way:
                return
