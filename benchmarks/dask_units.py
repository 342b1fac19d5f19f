"""Measures what the Dask executor costs: CPU time per empty work unit, and the growth of the scheduler's memory.

    python dask_units.py [UNITS]   (100,000 units)

A scheduler and two workers run in processes of their own. The workers answer at once, without work. CPU time is the sum
over the four processes, including the client. Memory is read after a tenth of the units, and after all units.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.clusters.dask.cluster import dask_client
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.events import Event, UnitSealed
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.executors.dask import DaskSubmission
from kinegraph.pipeline.extraction.executors.dask_station import Station
from kinegraph.pipeline.shards.leases import MAX_DEATHS

WORKERS, KEYS = 2, ("clips", "features/i3d", "proposals", "regions/i3d")


class EmptyStation(Station):
    """A station of a Dask worker that reports each unit as sealed without doing anything."""

    def run(self, unit: WorkUnit, max_deaths: int) -> tuple[Event, ...]:
        return (UnitSealed(unit=unit, failed_clips=()),)


@contextmanager
def cluster(file: str) -> Iterator[list[psutil.Process]]:
    """Starts a Dask scheduler and its workers, and yields their processes, the scheduler first. The scheduler writes
    its address to `file`.
    """
    common = ["--scheduler-file", file, "--host", "127.0.0.1", "--no-dashboard"]
    commands = [("scheduler", ["--port", "0"]), *[("worker", ["--no-nanny", "--nthreads", "4"])] * WORKERS]
    with ExitStack() as stack:
        processes = []
        for name, options in commands:
            command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *common, *options]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.terminate)
            processes.append(psutil.Process(process.pid))
        while not Path(file).exists():
            time.sleep(0.1)
        yield processes


def cpu_seconds(processes: list[psutil.Process]) -> np.ndarray:
    """Returns the CPU time in seconds that each of the `processes` has used so far, as an array."""
    return np.array([sum(process.cpu_times()[:2]) for process in processes])


def main() -> None:
    num_units = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder, cluster(f"{folder}/scheduler.json") as processes:
        run: dict[str, Any] = {"executor": "dask", "dask": {"scheduler_file": f"{folder}/scheduler.json"}}
        config = Config(cache=folder, run=run)
        station = EmptyStation(config, folder, KEYS, {}, of_client=False)
        units = tuple(WorkUnit(shard=shard, keys=KEYS) for shard in range(num_units))
        job = Job(config=config, cache=None, keys=KEYS, units=units)  # type: ignore[arg-type]  # nothing dies
        memory, sealed = [], 0

        def report(event: Event) -> None:
            nonlocal sealed
            sealed += 1
            if sealed in (num_units // 10, num_units):
                memory.append(processes[0].memory_info().rss / 1e6)

        with dask_client(config.run) as client:
            client.wait_for_workers(WORKERS)
            client.register_plugin(station, name=station.name)
            measured = [*processes, psutil.Process()]
            begun, before = time.perf_counter(), cpu_seconds(measured)
            assert not DaskSubmission(client, job, station, report).run(units, MAX_DEATHS)
            seconds, used = time.perf_counter() - begun, cpu_seconds(measured) - before
    scheduler, *workers, client = used / num_units * 1e3
    print(
        f"{num_units:,} units: {seconds / num_units * 1e3:.2f} ms each, CPU {scheduler + client + sum(workers):.2f}: "
        f"scheduler {scheduler:.2f}, client {client:.2f}, workers {sum(workers):.2f}"
    )
    few, many = memory
    print(
        f"scheduler after {num_units // 10:,}: {few:.0f} MB, after {num_units:,}: {many:.0f} MB ({many / few - 1:+.1%})"
    )


if __name__ == "__main__":
    main()
