"""Stopping at signals: a handler notes the signal, and the main thread stops where it next looks. Torch-free.

A handler that raises does so inside whatever runs, in the locks of `threading` too: it leaves them taken, or its
exception is lost. So loops and waits of the main thread look by themselves. `check` raises once a signal has come, and
the waits here look every `POLL_SECONDS`. Other threads are never interrupted. Where no handler was installed (a
notebook, a user's script) nothing is noted, and Ctrl-C raises KeyboardInterrupt as Python has it.

A watchdog ends what does not look in time, as a native call of minutes. It is a thread that reads the pipe into which
Python's own C handler writes each signal, also while the main thread runs no bytecode.
"""

import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.machinery import ExtensionFileLoader
from time import monotonic
from time import sleep as pause
from types import FrameType
from typing import Protocol, TypeVar

POLL_SECONDS = 0.1
LIMIT_SECONDS = 30.0  # from the signal to the end of the process
LOADING = {"create_module", "exec_module"}  # of importlib's loaders
Result = TypeVar("Result")
Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGUSR1 (a scheduler's word that time is up), treated as Ctrl-C."""


STOPS: dict[int, type[KeyboardInterrupt]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGUSR1: Terminated,
}
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143


@dataclass
class _Noted:
    """Plain attributes, as a handler may come while the main thread holds any lock. `signal`: the first one, or 0."""

    signal: int = 0
    is_raised: bool = False
    obeying_pid: int = 0
    ignored_after_first: frozenset[int] = field(default_factory=frozenset)


_noted = _Noted()


def obey(
    numbers: Collection[int] = tuple(STOPS), *, second_ends: bool = True, limit_seconds: float = LIMIT_SECONDS
) -> None:
    """From now on these signals stop the main thread at its next `check`, and end the process after `limit_seconds`.

    A second signal of a kind ends the process at once, by Python's default; without `second_ends` it is ignored. Called
    again in the same process, it does nothing. For the main thread only.
    """
    if _noted.obeying_pid == os.getpid():
        return
    _noted.signal, _noted.is_raised, _noted.obeying_pid = 0, False, os.getpid()
    _noted.ignored_after_first = frozenset() if second_ends else frozenset(numbers)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(
        target=_watch, args=(reading, frozenset(numbers), limit_seconds), name="watchdog", daemon=True
    ).start()
    sys.meta_path.insert(0, _Imports())
    for number in numbers:
        signal.signal(number, _note)


class _Imports:
    """A safe point before each module that is imported: torch takes 30 s to import on a busy machine.

    It stops imports of the command, not those of what tidies up after the stop, and not those that a native module
    makes while it is created: torch's drops the exception, and the command went on.
    """

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if _noted.signal and not _noted.is_raised and not _is_in_native_module():
            check()


def _is_in_native_module() -> bool:
    """Whether a caller is a native module that is being created."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in LOADING and isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


def _note(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN if number in _noted.ignored_after_first else signal.SIG_DFL)
    _noted.signal = _noted.signal or number


def _watch(pipe: int, numbers: frozenset[int], limit_seconds: float) -> None:
    """Wait for the first signal, then for the limit, or for a second one that finds the handler not run yet."""
    first = 0
    while first not in numbers:
        first = os.read(pipe, 1)[0]
    name, deadline = signal.Signals(first).name, monotonic() + limit_seconds
    while (left := deadline - monotonic()) > 0:
        if select.select([pipe], [], [], left)[0] and os.read(pipe, 1)[0] == first and not _noted.signal:
            if first in _noted.ignored_after_first:
                continue
            _end(first, f"a second {name} came")
    _end(first, f"{limit_seconds:g} s after {name} it had not stopped by itself")


def _end(number: int, why: str) -> None:
    """End this process, and the processes that it started, whatever they are at."""
    line = f"\nended: {why}.\nWhat is sealed stays; the same command goes on from there.\n"
    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:  # a full pipe would block; sys.stderr may be locked
            os.write(2, line.encode())
    with suppress(Exception):
        if (module := sys.modules.get("multiprocessing")) is not None:
            for process in module.active_children():
                process.terminate()
    os._exit(exit_code_of(STOPS[number]))


def exit_code_of(stop: type[KeyboardInterrupt]) -> int:
    return EXIT_TERMINATED if issubclass(stop, Terminated) else EXIT_INTERRUPTED


def asked() -> type[KeyboardInterrupt] | None:
    """What the signal that came is raised as; None where none came. For any thread."""
    return STOPS[_noted.signal] if _noted.signal else None


def check() -> None:
    """A safe point: raise KeyboardInterrupt or Terminated, in the main thread alone, once a signal has come.

    It raises each time, so that nobody swallows it; what tidies up must not call it.
    """
    if _noted.signal and threading.current_thread() is threading.main_thread():
        _noted.is_raised = True
        raise STOPS[_noted.signal]


def checked(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with a safe point before each."""
    for item in items:
        check()
        yield item


def sleep(seconds: float) -> None:
    """`time.sleep` that a signal ends: by its exception in the main thread, early in others."""
    until = monotonic() + seconds
    check()
    while not _noted.signal and (left := until - monotonic()) > 0:
        pause(min(left, POLL_SECONDS))
        check()


def wait(event: threading.Event, seconds: float) -> bool:
    """`event.wait(seconds)` that a signal ends as it ends `sleep`."""
    until = monotonic() + seconds
    check()
    while not _noted.signal and not event.is_set() and (left := until - monotonic()) > 0:
        event.wait(min(left, POLL_SECONDS))
        check()
    return event.is_set()


def result(future: Future[Result]) -> Result:
    """`future.result()` with safe points; also raises the stop where the call failed after a signal, as by it."""
    while True:
        check()
        try:
            return future.result(POLL_SECONDS)
        except TimeoutError:
            if future.done():  # its own
                return future.result()
        except Exception:
            check()
            raise


class _Queue(Protocol[Item_co]):
    def get(self, block: bool = True, timeout: float | None = None) -> Item_co: ...


def get(items: _Queue[Item], seconds: float | None = None) -> Item:
    """`items.get(timeout=seconds)` with safe points. Raises queue.Empty.

    Not for a queue.SimpleQueue, whose `get` was seen to wait for ever when a signal came near the end of its timeout.
    """
    until = None if seconds is None else monotonic() + seconds
    while True:
        check()
        left = POLL_SECONDS if until is None else until - monotonic()
        try:
            return items.get(timeout=max(0.0, min(left, POLL_SECONDS)))
        except queue.Empty:
            if until is not None and monotonic() >= until:
                raise


def run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` that captures text, with safe points; a stop, and the time limit, end the program.

    Raises OSError and subprocess.TimeoutExpired.
    """
    until = monotonic() + seconds
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while True:
                check()
                with suppress(subprocess.TimeoutExpired):
                    stdout, stderr = process.communicate(timeout=POLL_SECONDS)
                    break
                if monotonic() >= until:
                    raise subprocess.TimeoutExpired(command, seconds)
        except BaseException:
            process.kill()
            raise
    check()  # Ctrl-C in a terminal ends the program too
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@contextmanager
def threads(count: int | None, name: str = "") -> Iterator[ThreadPoolExecutor]:
    """A pool of threads. Left, it drops what has not begun, and waits for the rest unless a signal has come."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=not _noted.signal, cancel_futures=True)


def mapped(pool: ThreadPoolExecutor, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`pool.map` with safe points."""
    futures = deque(pool.submit(call, item) for item in items)
    while futures:
        yield result(futures.popleft())


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Processes started inside never get SIGINT and SIGUSR1, which their parent decides about: not at start-up either.

    They inherit the mask of signals, unlike handlers.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
