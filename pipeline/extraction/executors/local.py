"""Runs work units on this machine, with one worker in this process or with several worker processes."""

import math
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import monotonic

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.files import HOST
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.clusters.walltime import Allotment, UnitSchedule
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import OutOfTimeError, WalltimeError
from kinegraph.pipeline.extraction.events import (
    Report,
    UnitSealed,
    UnitSealedElsewhere,
    UnitSuspected,
    WorkerLost,
)
from kinegraph.pipeline.extraction.executors.contract import Job, set_aside
from kinegraph.pipeline.extraction.worker import Suspect, Worker
from kinegraph.pipeline.machine.terminal import log_to_stderr
from kinegraph.pipeline.shards.lease import lease_of
from kinegraph.pipeline.shards.leases import MAX_DEATHS


class LocalExecutor:
    """Runs work units on this machine in `workers` processes. If `workers` is 1, the units run in this process. A work
    unit is one shard with the stage keys to compute for it.

    A unit that kills three workers runs once more at the end, in a new process of its own. If it kills that process
    too, `run` raises SetAsideError. If `workers` is 1, a death ends the whole command. The lease of the shard counts
    the death for the next command.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, job: Job, report: Report) -> None:
        if self.workers == 1 or not job.units:
            run_here(job, job.units, report)
        else:
            _run_alone(job, _Pool(job, report).run(min(self.workers, len(job.units))), report)


def run_here(job: Job, units: Iterable[WorkUnit], report: Report) -> None:
    """Runs the work units `units` with one worker in this process. Takes a unit from the iterable only when the worker
    can begin it. Calls `report` with each event.

    Raises SetAsideError if units have killed the workers of several runs, and so were not tried. Raises OutOfTimeError
    if the time limit of `job` ends before all units are done. Raises WalltimeError if the time limit is too short for
    one unit.
    """
    schedule = UnitSchedule(job.allotted)
    worker = Worker(job.config, job.cache, job.keys, report, schedule, begun=job.begun, loads_in_run=True)
    _run_alone(job, worker.run(units, decode_threads=worker.decoders, max_deaths=MAX_DEATHS), report)


def _run_alone(job: Job, suspects: Iterable[Suspect], report: Report) -> None:
    """Runs each of `suspects` once more, in a process that has nothing else to do. Raises SetAsideError if units kill
    their process again.

    A unit is also set aside if it killed a worker since it became a suspect. Then another run has tried it alone, and
    hundreds of runs on one cache need not try it one after the other.
    """
    alone = [
        _Pool(replace(job, units=(suspect.unit,)), report, max_deaths=1, deaths_in_lease=suspect.deaths + 1)
        for suspect in suspects
    ]
    set_aside((suspect.unit for pool in alone for suspect in pool.run(1)), job.cache.num_shards)


@dataclass(frozen=True)
class _Failed:
    """The last message of a worker process that an exception has ended. `error` is the exception."""

    error: Exception


@dataclass(frozen=True)
class _OutOfTime:
    """The last message of a worker process whose time is up. The command raises `error` at its end.

    The worker has sealed all units that it began.
    """

    error: OutOfTimeError | WalltimeError


class _Wants:
    """The message with which a worker process asks its parent process for the next unit."""


@dataclass
class _Member:
    number: int
    process: BaseProcess
    connection: Connection
    in_flight: dict[int, WorkUnit] = field(default_factory=dict)


class _Pool:
    """Starts worker processes, sends units to them and collects their events.

    A unit whose worker died runs again. A unit that has killed `max_deaths` workers of this pool is a suspect. So is a
    unit at which `deaths_in_lease` workers of any run died, as its lease says. The pool does not run a suspect again.
    """

    def __init__(
        self, job: Job, report: Report, max_deaths: int = MAX_DEATHS, deaths_in_lease: float = math.inf
    ) -> None:
        self.job, self.report, self.max_deaths, self.deaths_in_lease = job, report, max_deaths, deaths_in_lease
        self.waiting = deque(job.units)
        self.deaths: Counter[int] = Counter()
        self.early_deaths = 0
        self.suspects: list[Suspect] = []
        self.out_of_time: OutOfTimeError | WalltimeError | None = None
        self.members: list[_Member] = []

    def run(self, workers: int) -> list[Suspect]:
        """Runs all units of the job in `workers` processes. Returns the suspects: the units that killed too many
        workers.

        Raises the error of the first worker that fails. Raises OutOfTimeError at the end if the time of a worker was
        up, also if the other workers have finished all units. Raises WalltimeError instead if the time was too short
        for one unit.
        """
        try:
            self.members = [self._start(worker_index) for worker_index in range(workers)]
            while self.members:
                stopping.check()
                ready = wait([m.connection for m in self.members], stopping.POLL_SECONDS)
                for member in [m for m in self.members if m.connection in ready]:
                    self._listen(member)
        finally:
            for member in self.members:
                member.process.terminate()
            for member in self.members:
                member.process.join()
        if self.out_of_time is not None:
            raise self.out_of_time
        return self.suspects

    def _start(self, worker_index: int, *, loads_first: bool = False) -> _Member:
        """Starts worker number `worker_index`. With `loads_first` it takes no unit before its networks are loaded. A
        worker that replaces a dead one does so, because loading may be what killed the first.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (
            self.job.config,
            self.job.cache.root,
            self.job.keys,
            worker_index,
            theirs,
            self.job.allotted,
            monotonic(),
            loads_first,
            self.deaths_in_lease,
        )
        process = context.Process(target=_work, args=arguments, daemon=True)
        with stopping.unheard_by_children():
            process.start()
        theirs.close()
        return _Member(worker_index, process, ours)

    def _listen(self, member: _Member) -> None:
        try:
            message = member.connection.recv()
        except (EOFError, OSError):  # the worker died, perhaps in the middle of a message
            self._ended(member)
            return
        if isinstance(message, _Failed):
            raise message.error
        if isinstance(message, _OutOfTime):
            self.out_of_time = message.error
            member.in_flight.clear()
            return
        if isinstance(message, _Wants):
            unit = self.waiting.popleft() if self.waiting else None
            if unit is not None:
                member.in_flight[unit.shard] = unit
            with suppress(OSError):  # the worker died after asking; its end of file is the next message
                member.connection.send(unit)
            return
        if isinstance(message, UnitSealed | UnitSealedElsewhere | UnitSuspected):
            del member.in_flight[message.unit.shard]
        if isinstance(message, UnitSuspected):
            self._suspect(message.unit)
        self.report(message)

    def _ended(self, member: _Member) -> None:
        member.process.join()
        self.members.remove(member)
        if not member.in_flight and not member.process.exitcode:
            return
        self.job.cache.storage.sweep()
        guilty = {shard for shard in member.in_flight if self._was_at(member, shard)}
        self.early_deaths += not guilty
        aside = []
        for shard, unit in member.in_flight.items():
            self.deaths[shard] += shard in guilty
            if self.deaths[shard] >= self.max_deaths:
                self._suspect(unit)
                aside.append(shard)
            else:
                self.waiting.append(unit)
        lost = tuple(member.in_flight)
        self.report(WorkerLost(shards=lost, exit_code=member.process.exitcode, set_aside=tuple(aside)))
        if self.early_deaths >= MAX_DEATHS:
            raise RuntimeError(
                f"{self.early_deaths} workers died before they took a shard, the last with exit code "
                f"{member.process.exitcode}. Is there memory for `run.workers` copies of the networks?"
            )
        if self.waiting and self.out_of_time is None:
            self.members.append(self._start(member.number, loads_first=True))

    def _suspect(self, unit: WorkUnit) -> None:
        """Adds `unit` to the suspects, with the number of deaths in the lease of its shard."""
        lease = lease_of(self.job.cache.storage, unit.shard)
        self.suspects.append(Suspect(unit, lease.deaths_if_holder_died if lease else 0))

    def _was_at(self, member: _Member, shard: int) -> bool:
        """Returns whether work on `shard` may have killed the dead worker process of `member`.

        Returns True if the process held the lease of the shard and had begun to compute the shard. Returns True for
        every shard if the storage cannot hold leases.
        """
        if not self.job.cache.storage.creates_exclusively():
            return True
        lease = lease_of(self.job.cache.storage, shard)
        return lease is not None and (lease.host, lease.pid, lease.ahead) == (HOST, member.process.pid, False)


def _work(
    config: Config,
    cache: str,
    keys: tuple[str, ...],
    worker_index: int,
    connection: Connection,
    allotted: Allotment | None,
    begun: float,
    loads_first: bool,
    max_deaths: float,
) -> None:
    """Runs the worker number `worker_index` in this child process. The worker asks the parent process for units until
    no unit is left or its time is up.

    - `cache`: the path or URL of the cache.
    - `keys`: the keys of the stages to compute.
    - `connection`: the connection to the parent process.
    - `allotted`: the time limit, or None if the time is not limited.
    - `begun`: the time at which the parent process started this process, by time.monotonic.
    - `loads_first`: whether the worker loads its networks before it asks for a unit.
    - `max_deaths`: a unit that has killed this many workers is not run.
    """
    log_to_stderr()
    for decided_by_parent in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(decided_by_parent, signal.SIG_IGN)
    stopping.obey([signal.SIGTERM], second_ends=False)  # the parent's SIGTERM may follow one to all processes
    sending, asking = threading.Lock(), threading.Lock()

    def send(message: object) -> None:
        with sending:
            connection.send(message)

    def units() -> Iterator[WorkUnit]:
        while True:
            with asking:
                send(_Wants())
                unit = connection.recv()
            if unit is None:
                return
            yield unit

    last_word: object = None
    try:
        if config.run.device != "cpu":
            from kinegraph.pipeline.machine.devices import on_device_of  # imports torch

            config = on_device_of(config, worker_index)
        schedule = UnitSchedule(allotted)
        worker = Worker(config, Cache(cache), keys, send, schedule, begun=begun, loads_in_run=not loads_first)
        worker.run(units(), decode_threads=worker.decoders, max_deaths=max_deaths)
    except KeyboardInterrupt:
        os._exit(1)  # unfinished files are cleaned up; ending torch under running threads only prints errors
    except (OutOfTimeError, WalltimeError) as error:
        last_word = _OutOfTime(error)
    except Exception as error:
        last_word = _Failed(error)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the parent may end this process before it reads the last message
    if last_word:
        send(last_word)
