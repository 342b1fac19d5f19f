"""Simulates days of extraction by many SLURM tasks on one cache, with deaths, and prints what they do with their time.

    python -m benchmarks.week [--workers 200] [--units 7000] [--minutes 60] ...   (--help lists all)

The tasks run the code of the package: the task of a job array with its order of units (`slurm_task`), the loop of the
`Worker` with its passes, leases with their refreshing, the revisits, the schedule with its time limit, and the ledger.
These parts are replaced:

- the clock, the sleeping and the threads, by those of `benchmarks/simulation.py`;
- the storage, by one in memory whose every operation takes 5 ms of the simulated time;
- networks and videos: a unit takes a random time, a unit is the whole shard with one stage, and the next unit is leased
  when a tenth of the present unit is left;
- the process of its own in which a unit runs that killed three workers, by a simulated process;
- SLURM: a task that was killed, or that ended with units left, is started again after a random time in the queue.

Every task has a machine of its own, with a clock that is wrong by a random time. A task is killed after a random time,
and its leases stay until they are stale. Some machines take three times as long. One unit kills every worker. The seed
decides all of it.
"""

import argparse
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.simulation import CountingStorage, Killed, Process, Simulation, Threading
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.ledger import Record
from kinegraph.cache_schemas.stopping import Terminated
from kinegraph.pipeline import slurm_task
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.clusters.slurm.submission import Work
from kinegraph.pipeline.clusters.walltime import SIGNAL_SECONDS, UnitSchedule
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import OutOfTimeError, SetAsideError, WalltimeError
from kinegraph.pipeline.extraction.events import Report
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.worker import Pass, Suspect, Worker
from kinegraph.pipeline.shards.leases import Leases, NoLeases
from kinegraph.stages.clips.stage import clips_options

KEY = "clips"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
WEEK = 7 * DAY
LATENCY_SECONDS = 0.005  # of an operation of the storage
START_UP_SECONDS = 60.0
SPREAD = 0.3  # of the logarithm of a unit's time
SLOW_SHARE, SLOW_FACTOR = 0.03, 3.0
CLOCK_SECONDS = 60.0  # standard deviation of the machines' clocks
AHEAD = 0.1  # the share of a unit that is left when the next unit is leased


@dataclass
class Account:
    """Sums of what the tasks did. `spent` has seconds of all tasks by what they were spent on."""

    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    ends: Counter[str] = field(default_factory=Counter)
    held_seconds: float = 0.0
    longest_wait_seconds: float = 0.0
    last_begun_at: float = 0.0
    sealed_at: float = 0.0
    num_sealed: int = 0


class Cluster:
    """The simulated cluster: its clock, its storage, and the random times of its units and tasks."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.account = asked, Account()
        self.random = np.random.default_rng(asked.seed)
        self.simulation = Simulation()
        self.storage = CountingStorage(self.simulation, LATENCY_SECONDS)
        mean = asked.minutes * MINUTE
        self.unit_seconds = self.random.lognormal(math.log(mean) - SPREAD**2 / 2, SPREAD, asked.units)
        self.deadly = asked.units // 3
        slow = self.random.permutation(asked.workers)[: round(SLOW_SHARE * asked.workers)]
        self.slowness = np.ones(asked.workers)
        self.slowness[slow] = SLOW_FACTOR
        self.config = self._config()
        units = tuple(WorkUnit(shard=shard, keys=(KEY,)) for shard in range(asked.units))
        self.work = Work(kind="extract", num_tasks=asked.workers, keys=(KEY,), units=units)

    def _config(self) -> Config:
        run = {"executor": "slurm", "workers": self.asked.workers, "threads": 1}
        limits = {"walltime_seconds": self.asked.hours * HOUR, "lease_seconds": self.asked.lease_seconds}
        return check_config({"cache": "memory", "run": run | limits}, "week")

    def task(self, index: int) -> None:
        """Runs the task number `index` of the job array, again and again until it has nothing left to do."""
        queue = Process()
        while True:
            self.simulation.become(queue)
            if self.simulation.now:
                self.simulation.sleep(self.random.exponential(self.asked.queue_minutes * MINUTE))
            if not self._run_once(index):
                return

    def _run_once(self, index: int) -> bool:
        """Runs the task once. Returns whether it has to be submitted again."""
        now, account = self.simulation.now, self.account
        process = SimulatedTask(
            slowness=self.slowness[index],
            clock_ahead=self.random.normal(0.0, CLOCK_SECONDS),
            killed_at=now + self.random.exponential(DAY / self.asked.deaths_a_day),
            signalled_at=now + self.asked.hours * HOUR - SIGNAL_SECONDS,
        )
        self.simulation.become(process)
        end = "done"
        try:
            slurm_task._extract(self.config, self.work, index, now)
        except Killed:
            end = "killed"
        except Terminated:
            end = "cut off by SLURM"
        except (OutOfTimeError, WalltimeError, SetAsideError) as error:
            end = type(error).__name__
        process.stop_waiting(self)
        account.held_seconds += self.simulation.now - now
        account.ends[end] += 1
        return end not in ("done", "SetAsideError")

    def rest(self, seconds: float) -> None:
        """Replaces `stopping.sleep` in a worker that waits for the units of other workers."""
        process = self.simulation.process
        assert isinstance(process, SimulatedTask)
        if process.waits_since is None:
            process.waits_since = self.simulation.now
        self.simulation.sleep_unless_signalled(seconds)


class SimulatedTask(Process):
    """A process that computes units. `slowness` multiplies the time of a unit. `waits_since` is the time since which
    the process has no unit, or None while it has one.
    """

    def __init__(self, slowness: float, **times: float) -> None:
        super().__init__(**times)
        self.slowness, self.waits_since = slowness, None

    waits_since: float | None

    def child(self) -> "SimulatedTask":
        child = SimulatedTask(self.slowness, clock_ahead=self.clock_ahead, killed_at=self.killed_at)
        child.signalled_at = self.signalled_at
        return child

    def stop_waiting(self, cluster: Cluster) -> None:
        if self.waits_since is None:
            return
        account, now = cluster.account, cluster.simulation.now
        account.spent["waiting"] += now - self.waits_since
        until = min(now, account.sealed_at) if account.num_sealed == cluster.asked.units - 1 else now
        account.longest_wait_seconds = max(account.longest_wait_seconds, until - self.waits_since)
        self.waits_since = None


class SimulatedShard:
    """Replaces `ShardInProgress`. It writes the ledger record of a unit, and no arrays."""

    def __init__(self, cluster: Cluster, cache: Cache, unit: WorkUnit, seconds: float) -> None:
        self.cluster, self.cache, self.unit, self.seconds = cluster, cache, unit, seconds

    def seal(self, leases: Leases | NoLeases) -> tuple[str, ...] | None:
        account, shard = self.cluster.account, self.unit.shard
        is_ours = leases.is_ours(shard) and not self.cache.ledger.has(KEY, shard)
        record = Record(key=KEY, shard=shard, num_rows=1, fingerprint="", objects={})
        if not is_ours or not self.cache.ledger.seal(record):
            account.spent["twice"] += self.seconds
            return None
        account.spent["sealed"] += self.seconds
        account.num_sealed, account.sealed_at = account.num_sealed + 1, self.cluster.simulation.now
        return ()


def worker_of(cluster: Cluster) -> type[Worker]:
    """Returns the class of the workers: a `Worker` without networks, whose units take a simulated time."""
    simulation, account = cluster.simulation, cluster.account

    class SimulatedWorker(Worker):
        def __init__(
            self,
            config: Config,
            cache: Cache,
            keys: Iterable[str],
            report: Report,
            schedule: UnitSchedule | None = None,
            loaded: Any = SimpleNamespace(),  # noqa: B008
            begun: float | None = None,
            *,
            loads_in_run: bool = False,
        ) -> None:
            super().__init__(config, cache, keys, report, schedule, loaded, begun)
            account.spent["start-up"] += START_UP_SECONDS
            simulation.sleep_unless_signalled(START_UP_SECONDS)

        @property
        def decoders(self) -> int:
            return 1

        def run_free(self, units: Any, current_pass: Pass, *, decode_threads: int) -> None:
            taken = self._taken(units, current_pass)
            unit = next(taken, None)
            while unit is not None:
                current_pass.leases.note(unit.shard, "computing")
                seconds = cluster.unit_seconds[unit.shard] * simulation.process.slowness  # type: ignore[attr-defined]
                self._spend(unit, seconds * (1 - AHEAD))
                if (following := next(taken, None)) is not None:
                    current_pass.leases.note(following.shard, "decoding")
                    current_pass.leases.note(following.shard, "decoded")
                self._spend(unit, seconds * AHEAD, before=seconds * (1 - AHEAD))
                self._seal(SimulatedShard(cluster, self.cache, unit, seconds), current_pass)  # type: ignore[arg-type]
                unit = following

        def _spend(self, unit: WorkUnit, seconds: float, before: float = 0.0) -> None:
            """Lets the time `seconds` of `unit` pass, after `before` seconds of it have passed."""
            process, begun = simulation.process, simulation.now
            assert isinstance(process, SimulatedTask)
            process.stop_waiting(cluster)
            if not before and unit.shard != cluster.deadly:
                account.last_begun_at = begun
            if unit.shard == cluster.deadly and before:
                process.killed_at = begun
            try:
                simulation.sleep_unless_signalled(seconds)
            except (Killed, Terminated) as end:
                why = "deadly" if unit.shard == cluster.deadly else "killed" if isinstance(end, Killed) else "cut off"
                account.spent[why] += before + simulation.now - begun
                raise

    return SimulatedWorker


def pool_of(cluster: Cluster) -> Any:
    """Returns the class that replaces the pool of one process, in which a unit runs that killed other workers."""

    class Pool:
        def __init__(self, job: Job, report: Any, max_deaths: int, deaths_in_lease: float) -> None:
            self.job, self.report, self.deaths_in_lease = job, report, deaths_in_lease

        def run(self, workers: int) -> list[Suspect]:
            parent = cluster.simulation.process
            assert isinstance(parent, SimulatedTask)
            child, job = parent.child(), self.job
            child.waits_since, parent.waits_since = parent.waits_since, None
            cluster.simulation.become(child)
            cluster.account.ends["alone"] += 1
            try:
                worker = worker_of(cluster)(job.config, job.cache, job.keys, self.report, UnitSchedule(job.allotted))
                return worker.run(job.units, decode_threads=1, max_deaths=self.deaths_in_lease)
            except Killed:
                if cluster.simulation.now >= parent.killed_at:
                    raise
                return [Suspect(unit, 0) for unit in job.units]
            finally:
                child.stop_waiting(cluster)
                cluster.simulation.become(parent)

    return Pool


class Silent:
    """Replaces the progress bar."""

    def __call__(self, event: object) -> None: ...

    def close(self) -> None: ...


@contextmanager
def replaced(cluster: Cluster) -> Iterator[None]:
    """Replaces clocks, threads, storage, networks and processes of the package by those of `cluster`."""
    simulation, pipeline = cluster.simulation, "kinegraph.pipeline"
    clock = SimpleNamespace(time=simulation.time)
    new = {
        "kinegraph.cache_schemas.cache.open_storage": lambda root: cluster.storage,
        "kinegraph.cache_schemas.cache.ClipsTable.count": lambda storage: cluster.asked.units,
        f"{pipeline}.shards.lease.HOST": "another",  # no task can see that the process of another one is dead
        f"{pipeline}.shards.watching.monotonic": simulation.monotonic,
        f"{pipeline}.shards.leases.time": clock,
        f"{pipeline}.shards.leases.threading": Threading(simulation),
        f"{pipeline}.shards.revisiting.stopping": SimpleNamespace(sleep=cluster.rest),
        f"{pipeline}.clusters.walltime.time": clock,
        f"{pipeline}.clusters.walltime.threading": Threading(simulation),
        f"{pipeline}.extraction.worker.monotonic": simulation.monotonic,
        f"{pipeline}.extraction.executors.local.Worker": worker_of(cluster),
        f"{pipeline}.extraction.executors.local._Pool": pool_of(cluster),
        f"{pipeline}.slurm_task.Progress": lambda clips: Silent(),
        f"{pipeline}.slurm_task.clips_of": lambda cache, units: {},
    }
    with ExitStack() as stack:
        for name, replacement in new.items():
            stack.enter_context(patch(name, replacement))
        yield


def run(cluster: Cluster) -> None:
    layout = {"kind": "zarr", "shard_clips": 1, "compression": "none"}
    with replaced(cluster):
        cluster.simulation.start(Process(), lambda: Cache.create("memory", clips_options(cluster.config.clips), layout))
        cluster.simulation.run()
        cluster.storage.operations.clear()
        cluster.storage.of_minute.clear()
        cluster.simulation.now = 0.0
        for index in range(cluster.asked.workers):
            cluster.simulation.start(Process(), partial(cluster.task, index))
        cluster.simulation.run()
    sealed = {name for name in cluster.storage.created if name.startswith("ledger/")}
    expected = {f"ledger/{KEY}/{shard:06d}.json" for shard in range(cluster.asked.units) if shard != cluster.deadly}
    assert sealed == expected, "units were not sealed"
    assert all(cluster.storage.created[name] == 1 for name in sealed), "units were sealed twice"


def print_account(cluster: Cluster) -> None:
    account, asked, storage = cluster.account, cluster.asked, cluster.storage
    held, spent = account.held_seconds, account.spent

    def share(*kinds: str) -> str:
        seconds = sum(spent[kind] for kind in kinds)
        return f"{seconds / HOUR:,.1f} h, {seconds / held:.2%}"

    minutes = storage.of_minute
    peak = max(minutes, key=lambda minute: minutes[minute])
    total = sum(storage.operations.values())
    print(
        f"{asked.units:,} units of {asked.minutes:g} min on {asked.workers} workers, {asked.hours:g} h a job, "
        f"{asked.deaths_a_day:g} deaths a worker a day, seed {asked.seed}\n"
        f"last unit sealed after {account.sealed_at / DAY:.2f} days, last task ended after "
        f"{cluster.simulation.now / DAY:.2f} days; allotted {held / HOUR:,.0f} h\n"
        f"utilisation: {spent['sealed'] / held:.2%} of the allotted time computed units that were sealed\n"
        f"start-up: {share('start-up')}\n"
        f"lost to deaths: {share('killed')}; to time limits: {share('cut off')}; computed twice: {share('twice')}; "
        f"deadly unit: {share('deadly')}\n"
        f"waiting without a unit: {share('waiting')}; longest: {account.longest_wait_seconds / MINUTE:.1f} min\n"
        f"the last unit began {(account.sealed_at - account.last_begun_at) / MINUTE:.0f} min before the last seal\n"
        f"operations of the storage: {total:,} ({dict(storage.operations)})\n"
        f"{total / cluster.simulation.now:.1f} a second, at most {minutes[peak] / MINUTE:.1f} a second, in the minute "
        f"{(account.sealed_at / MINUTE - peak):.0f} min before the last seal\n"
        f"ends of tasks: {dict(account.ends)}\n"
        f"{account.num_sealed:,} units were sealed exactly once, and the deadly one was set aside"
    )


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--units", type=int, default=7_000, help="30000 are a week of 200 workers")
    parser.add_argument("--minutes", type=float, default=60.0, help="mean time of a unit")
    parser.add_argument("--hours", type=float, default=8.0, help="time limit of a job")
    parser.add_argument("--queue-minutes", type=float, default=10.0, help="mean wait of a job in the queue")
    parser.add_argument("--deaths-a-day", type=float, default=1.0, help="mean deaths of a worker a day")
    parser.add_argument("--lease-seconds", type=float, default=300.0, help="run.lease_seconds")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main() -> None:
    cluster, begun = Cluster(arguments()), time.perf_counter()
    run(cluster)
    print_account(cluster)
    print(f"simulated in {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
