"""Reads the headers of many videos in parallel, with a time limit for each video. Imports no torch."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import Probe

LOOK_SECONDS = 0.2  # between two checks for videos that take too long
MOST_HANGING = 64  # threads that wait for a video whose time is up
ProbeAnswer = Probe | DecodeError


class VideosHangError(RuntimeError):
    """MOST_HANGING videos hang at the same time, which means that they did not answer within their time limit. The
    fault must lie in the file system.
    """


def probe_all(
    paths: Sequence[str], probe: Callable[[str], Probe], num_threads: int, limit_seconds: Callable[[str], float]
) -> Iterator[tuple[str, ProbeAnswer]]:
    """Calls `probe` for each of `paths` in `num_threads` threads. Yields (path, result) in the order in which the calls
    end. The result is what `probe` returned, or the DecodeError that it raised.

    `limit_seconds` returns the time limit of a path. If a video takes longer, its result is a DecodeError (`timeout`),
    and a new thread replaces the thread that hangs. Raises VideosHangError if MOST_HANGING threads hang at the same
    time. Raises any other error of `probe`.
    """
    pool = _ProbeThreads(paths, probe)
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


class _ProbeThreads:
    """Threads that call `probe` for each of `paths`. A new thread replaces a thread that hangs."""

    def __init__(self, paths: Sequence[str], probe: Callable[[str], Probe]) -> None:
        self.stopping = threading.Event()
        self._probe = probe
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._done: queue.Queue[tuple[str, ProbeAnswer | BaseException]] = queue.Queue()
        self._begun: dict[str, float] = {}  # path under way -> time.monotonic() at its start
        self._hanging: set[str] = set()
        for path in paths:
            self._waiting.put(path)

    def start_thread(self) -> None:
        threading.Thread(target=self._work, name="probe", daemon=True).start()

    def answers(self) -> Iterator[tuple[str, ProbeAnswer]]:
        """Waits until a call of `probe` ends, at most LOOK_SECONDS. Yields one pair (path, result), or nothing if no
        call ended.

        The result is what `probe` returned, or the DecodeError that it raised. Any other error of `probe` is raised.
        """
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
        """Yields (path, DecodeError) once for each video whose call of `probe` takes longer than its time limit.
        `limit_seconds` is called with a path and returns its time limit.

        A new thread replaces the thread that hangs. Raises VideosHangError if MOST_HANGING threads hang.
        """
        for path, begun in self._begun.copy().items():  # threads change it; the copy is one step for them
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
                answer: ProbeAnswer | BaseException = self._probe(path)
            except BaseException as error:
                answer = error
            self._begun.pop(path, None)  # here: answers may wait in thousands, and each look goes over all that began
            gives_way = path in self._hanging  # another thread has replaced this one
            self._done.put((path, answer))
            if gives_way:
                return
