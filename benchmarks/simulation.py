"""Simulates processes with a clock of their own, and a storage that counts its operations.

A simulated thread is a greenlet. It runs real code until the code sleeps, waits or asks the storage. Then the simulated
time moves on to the thread that is due next. So a week of sleeping takes no time. `greenlet` comes with the packages of
the extra `dev`.
"""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from greenlet import getcurrent, greenlet

from kinegraph.cache_schemas.files import Buffer
from kinegraph.cache_schemas.stopping import Terminated
from kinegraph.cache_schemas.storage import Span


class Killed(BaseException):
    """The end of a simulated process by `kill -9`. Storages refuse each later operation of the process."""


class Process:
    """A simulated process on a machine of its own. All times are in seconds of the simulation.

    clock_ahead: how far the clock of the machine is ahead.
    killed_at: when the process is killed.
    signalled_at: when SLURM signals the process, because its time limit is near.
    """

    def __init__(self, clock_ahead: float = 0.0, killed_at: float = math.inf, signalled_at: float = math.inf) -> None:
        self.clock_ahead, self.killed_at, self.signalled_at = clock_ahead, killed_at, signalled_at


class _SimulatedThread(greenlet):  # type: ignore[misc]  # greenlet has no types
    process: Process
    wakes = 0  # how often the thread was scheduled; only its newest entry in the queue counts


class Simulation:
    """Runs simulated threads in the order of the times at which they are due. `now` is the time in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._hub = getcurrent()
        self._due: list[tuple[float, int, int, _SimulatedThread]] = []
        self._numbers = itertools.count()

    @property
    def process(self) -> Process:
        return self._thread.process

    @property
    def _thread(self) -> _SimulatedThread:
        return cast(_SimulatedThread, getcurrent())

    def start(self, process: Process, call: Callable[[], object]) -> _SimulatedThread:
        """Starts a thread of `process` that calls `call`, and returns it."""

        def run() -> None:
            with suppress(Killed):
                call()

        thread = _SimulatedThread(run, self._hub)
        thread.process = process
        self._schedule(thread, self.now)
        return thread

    def become(self, process: Process) -> None:
        """Makes the present thread a thread of `process`."""
        self._thread.process = process

    def run(self) -> None:
        """Runs all threads to their end."""
        while self._due:
            at, _, wake, thread = heapq.heappop(self._due)
            if wake == thread.wakes and not thread.dead:
                self.now = max(self.now, at)
                thread.switch()

    def sleep(self, seconds: float) -> None:
        """Lets `seconds` pass. Raises Killed if the process is killed meanwhile."""
        thread = self._thread
        self._schedule(thread, min(self.now + seconds, max(self.now, thread.process.killed_at)))
        self._hub.switch()
        if self.now >= thread.process.killed_at:
            raise Killed

    def sleep_unless_signalled(self, seconds: float) -> None:
        """Lets `seconds` pass. Raises Terminated at the moment of SLURM's signal to the process."""
        until = min(self.now + seconds, self.process.signalled_at)
        self.sleep(max(0.0, until - self.now))
        if self.now >= self.process.signalled_at:
            raise Terminated

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        """Returns the time by the clock of the present process's machine."""
        return self.now + self.process.clock_ahead

    def wake(self, thread: _SimulatedThread) -> None:
        self._schedule(thread, self.now)

    def _schedule(self, thread: _SimulatedThread, at: float) -> None:
        thread.wakes += 1
        heapq.heappush(self._due, (at, next(self._numbers), thread.wakes, thread))


class Threading:
    """Replaces the module `threading`, with the threads of a simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def Lock(self) -> "_Lock":  # noqa: N802
        return _Lock(self._simulation)

    def Event(self) -> "_Event":  # noqa: N802
        return _Event(self._simulation)

    def Thread(self, target: Callable[[], object], **options: Any) -> "_Thread":  # noqa: N802
        return _Thread(self._simulation, target)


class _Lock:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation, self._is_taken = simulation, False

    def __enter__(self) -> None:
        while self._is_taken:
            self._simulation.sleep(0.001)
        self._is_taken = True

    def __exit__(self, *error: object) -> None:
        self._is_taken = False


class _Event:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation, self._is_set = simulation, False
        self._waiting: list[_SimulatedThread] = []

    def set(self) -> None:
        self._is_set = True
        for thread in self._waiting:
            self._simulation.wake(thread)

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, seconds: float) -> bool:
        self._waiting.append(cast(_SimulatedThread, getcurrent()))
        self._simulation.sleep(0.0 if self._is_set else seconds)
        self._waiting.remove(cast(_SimulatedThread, getcurrent()))
        return self._is_set


class _Thread:
    def __init__(self, simulation: Simulation, target: Callable[[], object]) -> None:
        self._simulation, self._target = simulation, target

    def start(self) -> None:
        self._thread = self._simulation.start(self._simulation.process, self._target)

    def join(self) -> None:
        while not self._thread.dead:
            self._simulation.sleep(0.001)


class CountingStorage:
    """A `Storage` in memory. Each operation takes `latency_seconds` of the simulated time, and then happens at once.
    It is counted in `operations`, by its kind, and in `of_minute`, by the minute of the simulation.

    Only the methods that leases and ledgers use exist.
    """

    root = "memory"

    def __init__(self, simulation: Simulation, latency_seconds: float) -> None:
        self.simulation, self.latency_seconds = simulation, latency_seconds
        self.operations: Counter[str] = Counter()
        self.of_minute: Counter[int] = Counter()
        self.created: Counter[str] = Counter()
        self._folders: dict[str, dict[str, bytes]] = {}

    def put(self, name: str, parts: Iterable[Buffer]) -> tuple[int, str]:
        self._operate("put")
        self._folder(name)[name] = b"".join(parts)
        return len(self._folder(name)[name]), ""

    def create(self, name: str, content: bytes) -> bool:
        self._operate("create")
        if is_new := name not in self._folder(name):
            self._folder(name)[name] = content
            self.created[name] += 1
        return is_new

    def creates_exclusively(self) -> bool:
        return True

    def get(self, name: str) -> bytes:
        self._operate("get")
        try:
            return self._folder(name)[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def exists(self, name: str) -> bool:
        self._operate("exists")
        return name in self._folder(name)

    def names(self, folder: str) -> Iterator[str]:
        self._operate("list")
        return iter(list(self._folders.get(folder, ())))

    def delete(self, name: str) -> None:
        self._operate("delete")
        self._folder(name).pop(name, None)

    def local_path(self, name: str) -> Path | None:
        return None

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        return [self.get(span.name)[span.start : span.stop] for span in spans]

    def _folder(self, name: str) -> dict[str, bytes]:
        return self._folders.setdefault(name.rpartition("/")[0], {})

    def _operate(self, kind: str) -> None:
        self.operations[kind] += 1
        self.of_minute[int(self.simulation.now // 60)] += 1
        self.simulation.sleep(self.latency_seconds)
