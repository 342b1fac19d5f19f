"""Stops the process after a signal such as Ctrl-C, at a safe moment. Imports no torch.

The signal handler only notes the signal, because it may interrupt code that holds a lock. The main thread stops at its
next safe point: a call of `check`, which raises KeyboardInterrupt or Terminated after a signal. The waiting functions
of this module call `check` every `POLL_SECONDS`. Other threads are not interrupted. In a notebook or a user's script no
handler is installed.

A watchdog thread ends the process if the main thread does not call `check` in time, for example in compiled code that
takes minutes.
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
LIMIT_SECONDS = 30.0  # longest time from the signal to the end of the process
LOADING = {"create_module", "exec_module"}  # methods of importlib's loaders
Result = TypeVar("Result")
Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


class Terminated(KeyboardInterrupt):
    """The exception that stops a command after SIGTERM or SIGUSR1. It is a KeyboardInterrupt, so code treats both
    signals like Ctrl-C. Schedulers such as SLURM send SIGUSR1 when the time of a job is up.
    """


STOPS: dict[int, type[KeyboardInterrupt]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGUSR1: Terminated,
}
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143


@dataclass
class _Noted:
    """The signal that came, and the settings of the signal handler."""

    # No lock guards the attributes, because the handler may run while the main thread holds any lock.

    signal: int = 0  # the number of the first signal that came, or 0
    words: str = ""  # the text that is printed after a stop
    is_raised: bool = False  # whether `check` has raised its exception
    obeying_pid: int = 0  # the id of the process that called `obey`
    # The signals that are ignored from their second time on
    ignored_after_first: frozenset[int] = field(default_factory=frozenset)


_noted = _Noted()


def obey(
    signals: Collection[int] = tuple(STOPS), *, second_ends: bool = True, limit_seconds: float = LIMIT_SECONDS
) -> None:
    """Installs handlers for `signals`. After a signal, the main thread stops at its next call of `check`. Only the main
    thread may call this function. A second call in one process does nothing.

    If the process has not ended `limit_seconds` after the signal, it is ended by force. If `second_ends` is true, a
    second signal of the same kind ends the process at once. Otherwise a second signal is ignored.
    """
    if _noted.obeying_pid == os.getpid():
        return
    _noted.signal, _noted.is_raised, _noted.obeying_pid = 0, False, os.getpid()
    _noted.ignored_after_first = frozenset() if second_ends else frozenset(signals)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(
        target=_watch, args=(reading, frozenset(signals), limit_seconds), name="watchdog", daemon=True
    ).start()
    sys.meta_path.insert(0, _Imports())
    for signal_number in signals:
        signal.signal(signal_number, _note)


class _Imports:
    """An import hook that stops the process at its next import after a signal. Python asks the objects in
    `sys.meta_path` before each import, and one object of this class is among them.

    After the exception of the stop was raised, imports are not stopped, because code that tidies up may import. Imports
    inside a native module are not stopped either, because torch's native module would drop the exception.
    """

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if _noted.signal and not _noted.is_raised and not _is_in_native_module():
            check()


def _is_in_native_module() -> bool:
    """Returns whether this call happens while Python loads a native module (compiled code)."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in LOADING and isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


def _note(signal_number: int, frame: FrameType | None) -> None:
    signal.signal(signal_number, signal.SIG_IGN if signal_number in _noted.ignored_after_first else signal.SIG_DFL)
    _noted.signal = _noted.signal or signal_number


def _watch(pipe: int, signals: frozenset[int], limit_seconds: float) -> None:
    """Ends the process by force if it still runs `limit_seconds` after the first of `signals`. This function runs in
    the watchdog thread. It reads the numbers of the signals from the file descriptor `pipe`.

    If the main thread has not even noted the first signal, a second signal of the same kind ends the process at once,
    unless `obey` was called with `second_ends=False`.
    """
    first = 0
    while first not in signals:
        first = os.read(pipe, 1)[0]
    name, deadline = signal.Signals(first).name, monotonic() + limit_seconds
    while (left := deadline - monotonic()) > 0:
        if select.select([pipe], [], [], left)[0] and os.read(pipe, 1)[0] == first and not _noted.signal:
            if first in _noted.ignored_after_first:
                continue
            _end(first, f"a second {name} came")
    _end(first, f"{limit_seconds:g} s after {name} it had not stopped by itself")


def _end(signal_number: int, why: str) -> None:
    """Prints the reason `why` and ends this process at once. The exit code is that of the signal `signal_number`.
    Processes that were started through multiprocessing are ended first.
    """
    line = "\n".join(["", f"ended: {why}.", *([_noted.words] if _noted.words else []), ""])
    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:  # a full pipe would block, and sys.stderr may be locked
            os.write(2, line.encode())
    with suppress(Exception):
        if (module := sys.modules.get("multiprocessing")) is not None:
            for process in module.active_children():
                process.terminate()
    os._exit(exit_code_of(STOPS[signal_number]))


def say_after_stop(words: str) -> None:
    """Sets the text that is printed after a signal has stopped this process. For example, the text says that finished
    shards are kept.
    """
    _noted.words = words


def words_after_stop() -> str:
    """Returns the text to print after a signal has stopped this process. It is "" unless `say_after_stop` was
    called.
    """
    return _noted.words


def exit_code_of(stop: type[KeyboardInterrupt]) -> int:
    """Returns the exit code for a process that was stopped by the exception class `stop`: 143 for Terminated, 130 for
    any other KeyboardInterrupt.
    """
    return EXIT_TERMINATED if issubclass(stop, Terminated) else EXIT_INTERRUPTED


def asked() -> type[KeyboardInterrupt] | None:
    """Returns the exception class for the signal that has come, or None if no signal has come. Any thread may call this
    function.
    """
    return STOPS[_noted.signal] if _noted.signal else None


def check() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed, or Terminated if SIGTERM or SIGUSR1 has come. Otherwise does
    nothing. In any other thread than the main thread, `check` never raises.

    Every later call raises again, so code that catches the exception cannot cancel the stop. Code that tidies up after
    a stop must not call `check`.
    """
    if _noted.signal and threading.current_thread() is threading.main_thread():
        _noted.is_raised = True
        raise STOPS[_noted.signal]


def checked(items: Iterable[Item]) -> Iterator[Item]:
    """Yields `items` one by one, and stops a loop over them after a signal. Before each item, raises KeyboardInterrupt
    or Terminated if a signal has come.
    """
    for item in items:
        check()
        yield item


def sleep(seconds: float) -> None:
    """Sleeps for `seconds`, but ends soon after a signal. The main thread then raises KeyboardInterrupt or
    Terminated.
    """
    until = monotonic() + seconds
    check()
    while not _noted.signal and (left := until - monotonic()) > 0:
        pause(min(left, POLL_SECONDS))
        check()


def wait(event: threading.Event, seconds: float) -> bool:
    """Waits until `event` is set, at most `seconds`. Returns whether `event` is set.

    A signal ends the waiting. The main thread then raises KeyboardInterrupt or Terminated, and other threads return.
    """
    until = monotonic() + seconds
    check()
    while not _noted.signal and not event.is_set() and (left := until - monotonic()) > 0:
        event.wait(min(left, POLL_SECONDS))
        check()
    return event.is_set()


def result(future: Future[Result]) -> Result:
    """Waits for the result of `future` and returns it. If the call behind `future` raised an exception, raises this
    exception. A signal ends the waiting and raises KeyboardInterrupt or Terminated in the main thread.
    """
    while True:
        check()
        try:
            return future.result(POLL_SECONDS)
        except TimeoutError:
            if future.done():  # the TimeoutError is the call's own error
                return future.result()
        except Exception:
            check()
            raise


class _Queue(Protocol[Item_co]):
    def get(self, block: bool = True, timeout: float | None = None) -> Item_co: ...


def get(items: _Queue[Item], seconds: float | None = None) -> Item:
    """Returns the next item of the queue `items`, like `items.get(timeout=seconds)`. A signal ends the waiting and
    raises KeyboardInterrupt or Terminated in the main thread.

    Raises queue.Empty if no item comes within `seconds`. Do not pass a queue.SimpleQueue, because its `get` was seen to
    wait for ever when a signal came near the end of the timeout.
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
    """Runs the program `command[0]` with the arguments `command[1:]`. Returns its exit code and its output as text,
    like `subprocess.run`. A signal to this process ends the program.

    Raises OSError if the program cannot be started. If the program still runs after `seconds`, ends it and raises
    subprocess.TimeoutExpired.
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
    """Yields a pool of `count` threads whose names begin with `name`. If `count` is None, Python chooses the number.

    At the end of the `with` block, tasks that no thread has begun are dropped. Begun tasks are waited for, unless a
    signal has come.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=not _noted.signal, cancel_futures=True)


def mapped(pool: ThreadPoolExecutor, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Calls `call(item)` for each item of `items` in the threads of `pool`. Yields the results in the order of the
    items. A signal ends the waiting for a result and raises KeyboardInterrupt or Terminated in the main thread.
    """
    futures = deque(pool.submit(call, item) for item in items)
    while futures:
        yield result(futures.popleft())


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Keeps the signals SIGINT and SIGUSR1 away from processes that are started inside the `with` block. This process
    has to stop those processes itself.

    For example, Ctrl-C in a terminal sends SIGINT to all processes of the terminal. With this function, Ctrl-C stops
    only this process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
