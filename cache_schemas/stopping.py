"""Stops the process at signals. A signal handler only notes that a signal came. The main thread stops later, at its
next safe point. Imports no torch.

A safe point is a call of `check`, which raises KeyboardInterrupt or Terminated once a signal has come. Loops of the
main thread call `check`, and the waiting functions of this module call it every `POLL_SECONDS`. The handler itself
raises nothing, because it may interrupt code that holds a lock, and the lock would stay taken. Other threads are not
interrupted. In a notebook or a user's script no handler is installed, and Ctrl-C raises KeyboardInterrupt as usual in
Python.

A watchdog thread ends the process if the main thread does not call `check` in time, for example during a call of
compiled code that takes minutes. It reads the signals from a pipe, into which Python writes them even during such a
call.
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
    """The exception that stops a command after SIGTERM or SIGUSR1. Both signals are treated like Ctrl-C. A scheduler of
    a cluster, such as SLURM, sends SIGUSR1 when the time of a job is up.
    """


STOPS: dict[int, type[KeyboardInterrupt]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGUSR1: Terminated,
}
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143


@dataclass
class _Noted:
    """Holds the state of the signal handler.

    `signal` is the number of the first signal that came, or 0. `words` is the text that is printed after a stop.
    `is_raised` says whether `check` has raised its exception. `obeying_pid` is the id of the process that called
    `obey`. `ignored_after_first` has the signals that are ignored from their second time on.
    """

    # No lock guards the attributes, because the handler may run while the main thread holds any lock.

    signal: int = 0
    words: str = ""
    is_raised: bool = False
    obeying_pid: int = 0
    ignored_after_first: frozenset[int] = field(default_factory=frozenset)


_noted = _Noted()


def obey(
    signals: Collection[int] = tuple(STOPS), *, second_ends: bool = True, limit_seconds: float = LIMIT_SECONDS
) -> None:
    """Installs handlers for `signals`. A signal then stops the main thread at its next call of `check`.

    If the process has not ended `limit_seconds` after the signal, the process is ended by force. A second signal of the
    same kind ends the process at once if `second_ends` is true, else the second signal is ignored. A second call of
    `obey` in one process does nothing. Only the main thread may call this function.
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
    """Stops the process at its next import after a signal. An object of this class lies in `sys.meta_path`, which
    Python asks before each import.

    Once the exception of the stop was raised, imports are not stopped, because code that tidies up may import. Imports
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
    """Ends the process by force if it still runs `limit_seconds` after the first signal in `signals`. This function
    runs in the thread of the watchdog. `pipe` is the descriptor from which it reads the numbers of signals.

    If the main thread does not even notice the first signal, a second signal of the same kind ends the process at once.
    With `second_ends=False` in `obey`, it does not.
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
    """Prints `why` and ends this process at once, whatever it is doing. The exit code is that of the signal
    `signal_number`. First ends the processes that this process started through multiprocessing.
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
    """Stores the text `words`, which is printed after a signal has stopped this process. For example, the text says
    that sealed shards are kept.
    """
    _noted.words = words


def words_after_stop() -> str:
    """Returns the text that is printed after a signal has stopped this process. It is "" until `say_after_stop` stores
    a text.
    """
    return _noted.words


def exit_code_of(stop: type[KeyboardInterrupt]) -> int:
    """Returns the exit code of a process that the exception `stop` ended: 130 for Ctrl-C, 143 for Terminated."""
    return EXIT_TERMINATED if issubclass(stop, Terminated) else EXIT_INTERRUPTED


def asked() -> type[KeyboardInterrupt] | None:
    """Returns the exception class for the signal that came, or None if no signal came. Any thread may call this
    function.
    """
    return STOPS[_noted.signal] if _noted.signal else None


def check() -> None:
    """Raises an exception in the main thread once a signal has come: KeyboardInterrupt for Ctrl-C, Terminated for
    SIGTERM and SIGUSR1. Does nothing otherwise.

    Every later call of `check` raises again, so that code which catches the exception cannot cancel the stop. Code that
    tidies up after a stop must not call `check`.
    """
    if _noted.signal and threading.current_thread() is threading.main_thread():
        _noted.is_raised = True
        raise STOPS[_noted.signal]


def checked(items: Iterable[Item]) -> Iterator[Item]:
    """Yields `items` one by one. If a signal to stop has come, raises KeyboardInterrupt or Terminated before the next
    item. So the signal ends a loop over the items.
    """
    for item in items:
        check()
        yield item


def sleep(seconds: float) -> None:
    """Sleeps like `time.sleep`, but the sleep ends soon after a signal. The main thread then raises KeyboardInterrupt
    or Terminated.
    """
    until = monotonic() + seconds
    check()
    while not _noted.signal and (left := until - monotonic()) > 0:
        pause(min(left, POLL_SECONDS))
        check()


def wait(event: threading.Event, seconds: float) -> bool:
    """Waits like `event.wait(seconds)`, but the waiting ends soon after a signal. Returns whether the event is set.

    After a signal, the function raises KeyboardInterrupt or Terminated in the main thread, and returns in other
    threads.
    """
    until = monotonic() + seconds
    check()
    while not _noted.signal and not event.is_set() and (left := until - monotonic()) > 0:
        event.wait(min(left, POLL_SECONDS))
        check()
    return event.is_set()


def result(future: Future[Result]) -> Result:
    """Waits for the result of `future` and returns it, or raises its exception.

    A signal to stop ends the wait and raises KeyboardInterrupt or Terminated, also if the future has failed.
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
    """Returns the next item of the queue `items`, like `items.get(timeout=seconds)`. Calls `check` while it waits, so a
    signal stops the waiting.

    Raises queue.Empty where no item comes within `seconds`. Do not pass a queue.SimpleQueue, because its `get` was seen
    to wait for ever when a signal came near the end of the timeout.
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
    """Runs the program `command[0]` with the other items of `command` as arguments. Returns its exit code and its
    output as text, like `subprocess.run`. A signal to this process ends the program.

    Raises OSError where the program cannot be started. Raises subprocess.TimeoutExpired after `seconds`, after ending
    the program.
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
    """Yields a pool of `count` threads whose names begin with `name`. If `count` is None, Python chooses the number. At
    the end of the `with` block, tasks that no thread has begun are dropped.

    The end of the block waits for the tasks that threads have begun, unless a signal has come.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=not _noted.signal, cancel_futures=True)


def mapped(pool: ThreadPoolExecutor, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Runs `call(item)` for each item of `items` in the threads of `pool`. Yields the results in the order of the
    items, like `pool.map`.

    The exception of a signal is raised also while this function waits for a result.
    """
    futures = deque(pool.submit(call, item) for item in items)
    while futures:
        yield result(futures.popleft())


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Keeps SIGINT and SIGUSR1 away from processes that are started inside the `with` block.

    For example, Ctrl-C in a terminal sends SIGINT to all processes of the terminal. It then stops this process, but not
    the started processes. This process has to stop them itself.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
