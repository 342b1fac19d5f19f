"""Time under Dask: workers begin no unit that cannot end, leave before their job does, and that is no death.

The workers are threads of this process, so that a test can move their clocks and say when their jobs end.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import LocalCluster, Reschedule
from distributed import Worker as DaskWorker

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.clusters import walltime
from kinegraph.pipeline.clusters.dask import walltime as dask_walltime
from kinegraph.pipeline.clusters.dask import workers as dask_workers
from kinegraph.pipeline.clusters.dask.walltime import FRESH_SECONDS, time_of
from kinegraph.pipeline.clusters.walltime import Allotment
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ClusterLost, OutOfTimeError, WalltimeError
from kinegraph.pipeline.extraction.events import Event, WorkerLost
from kinegraph.pipeline.extraction.executors import dask_station
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.executors.dask import DaskExecutor
from kinegraph.pipeline.extraction.executors.dask_station import Station
from kinegraph.pipeline.extraction.shard import ShardInProgress
from tests.caches import same_bytes
from tests.dask_cluster import in_this_process

Load = Callable[..., Config]
HOUR = 3600.0
TINY = "regions/tiny"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Our idea of the time, not Dask's: it stands still unless a test moves it."""
    found = SimpleNamespace(now=time.time())
    monkeypatch.setattr(walltime, "time", SimpleNamespace(time=lambda: found.now))
    return found


@pytest.fixture
def ten_seconds_a_unit(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def later() -> None:
        clock.now += 10

    before_each(monkeypatch, "seal", later)


def jobs_end(monkeypatch: pytest.MonkeyPatch, ends: dict[int, Allotment]) -> None:
    """The jobs around these workers; others have none."""

    def job_around(worker: DaskWorker, walltime_seconds: float | None) -> Allotment | None:
        return ends.get(int(str(worker.name)))

    monkeypatch.setattr(dask_station, "job_around", job_around)


def job_of(load: Load, cluster: LocalCluster, allotted: Allotment | None = None) -> Job:
    config = load("run.executor=dask", f"run.dask.scheduler={cluster.scheduler_address}")
    cache = index(config).cache
    plan = make_plan(config, cache)
    return Job(config=config, cache=cache, keys=plan.keys, units=plan.units, allotted=allotted)


def attempts(cache: Cache) -> set[int]:
    return {json.loads(path.read_bytes())["attempt"] for path in Path(cache.root).glob("ledger/*/*/*.json")}


@pytest.mark.usefixtures("ten_seconds_a_unit")
def test_the_time_of_the_command_ends(
    load: Load, whole: Cache, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """Three units of 10 s in 25 s: two in a first run, one in a second; the bytes are those of one run."""
    with in_this_process(1) as cluster:
        job = job_of(load, cluster, Allotment(began_at=clock.now, ends_at=clock.now + 25))
        with pytest.raises(OutOfTimeError, match=r"25 s of this job: one took up to 10\.0 s"):
            DaskExecutor().run(job, lambda event: None)
        assert len(job.cache.ledger.shards(TINY)) == 2
        assert not [*job.cache.storage.names("leases")]
        DaskExecutor().run(job_of(load, cluster), lambda event: None)
    assert same_bytes(job.cache.root) == same_bytes(whole.root)
    assert not [record for record in caplog.records if record.levelname == "ERROR"], "it is no failure"


@pytest.mark.usefixtures("ten_seconds_a_unit")
def test_a_command_without_time_for_one_unit(load: Load, clock: SimpleNamespace) -> None:
    with in_this_process(1) as cluster:
        job = job_of(load, cluster, Allotment(began_at=clock.now, ends_at=clock.now + 8))
        with pytest.raises(
            WalltimeError, match=r"8\.0 s is shorter than start-up \(0\.0 s\) plus one shard \(10\.0 s\)"
        ):
            DaskExecutor().run(job, lambda event: None)
    assert len(job.cache.ledger.shards(TINY)) == 1, "the first unit always runs"


def before_each(monkeypatch: pytest.MonkeyPatch, method: str, happens: Callable[[], object]) -> None:
    """Something happens before each call of a method of shards in progress."""
    really = getattr(ShardInProgress, method)

    def call(shard: ShardInProgress, *arguments: Any) -> Any:
        happens()
        return really(shard, *arguments)

    monkeypatch.setattr(ShardInProgress, method, call)


def test_a_worker_whose_job_ends_leaves_the_rest_to_others(
    load: Load, whole: Cache, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has time for one unit. Then it leaves, which is no death, and another that has come does the rest."""
    heard: list[Event] = []
    jobs_end(monkeypatch, {0: Allotment(began_at=clock.now, ends_at=clock.now + 15)})
    monkeypatch.setattr(walltime, "SIGNAL_SECONDS", -HOUR)  # it leaves because no unit fits, not because time is up
    with in_this_process(1) as cluster:
        job = job_of(load, cluster)

        def ten_seconds_later_there_are_two() -> None:
            clock.now += 10
            cluster.scale(2)

        before_each(monkeypatch, "seal", ten_seconds_later_there_are_two)
        DaskExecutor().run(job, heard.append)
        assert running(cluster) == [1]
    assert same_bytes(job.cache.root) == same_bytes(whole.root)
    assert attempts(job.cache) == {1}
    assert not [event for event in heard if isinstance(event, WorkerLost)]


def running(cluster: LocalCluster) -> list[int]:
    return [worker.name for worker in cluster.workers.values() if worker.status.name == "running"]


@pytest.fixture
def stations(monkeypatch: pytest.MonkeyPatch) -> list[Station]:
    """Those that have begun."""
    found: list[Station] = []
    begin = Station._begin_time

    def begun(station: Station) -> Any:
        found.append(station)
        return begin(station)

    monkeypatch.setattr(Station, "_begin_time", begun)
    return found


def before_the_first_batch(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    left = [happens]
    before_each(monkeypatch, "add", lambda: left and left.pop()())


def test_the_end_of_a_job_comes_into_its_first_unit(
    load: Load, monkeypatch: pytest.MonkeyPatch, stations: list[Station]
) -> None:
    now = time.time()
    jobs_end(monkeypatch, {0: Allotment(began_at=now, ends_at=now + 1)})

    def until_time_is_up() -> None:
        while stations[0]._end is None:
            time.sleep(0.01)

    before_the_first_batch(monkeypatch, until_time_is_up)
    with in_this_process(1) as cluster:
        job = job_of(load, cluster)
        with pytest.raises(WalltimeError, match=r"walltime of 1\.0 s is shorter than .* \((more than|not begun)"):
            DaskExecutor().run(job, lambda event: None)
    assert not job.cache.ledger.shards(TINY)
    assert not [*job.cache.storage.names("leases")]


def test_the_end_of_a_job_comes_into_a_unit_that_began_late(
    load: Load, whole: Cache, monkeypatch: pytest.MonkeyPatch, stations: list[Station]
) -> None:
    """The worker was there long before the command: it says nothing of other jobs, and the unit runs elsewhere."""
    now = time.time()
    jobs_end(monkeypatch, {0: Allotment(began_at=now - 2 * FRESH_SECONDS, ends_at=now + HOUR)})
    heard: list[Event] = []
    with in_this_process(1) as cluster:
        job = job_of(load, cluster)

        def time_is_up() -> None:
            cluster.scale(2)
            assert stations[0]._time is not None
            stations[0]._cut_off(stations[0]._time)
            assert stations[0]._stopping.wait(30)

        before_the_first_batch(monkeypatch, time_is_up)
        DaskExecutor().run(job, heard.append)
        assert running(cluster) == [1]
    assert attempts(job.cache) == {1}
    assert same_bytes(job.cache.root) == same_bytes(whole.root)
    assert not [event for event in heard if isinstance(event, WorkerLost)]


@pytest.mark.parametrize(("in_order", "error"), [(True, OutOfTimeError), (False, ClusterLost)])
def test_no_worker_is_left(load: Load, monkeypatch: pytest.MonkeyPatch, in_order: bool, error: type[Exception]) -> None:
    """Nobody waits for ever for workers that somebody else has to start."""
    monkeypatch.setattr(dask_workers, "COUNT_WORKERS_SECONDS", 0.05)
    monkeypatch.setattr("kinegraph.pipeline.extraction.executors.dask.COUNT_WORKERS_SECONDS", 0.05)
    with in_this_process(1) as cluster:
        job = job_of(load, cluster)
        options = job.config.run.dask.model_copy(update={"timeout_seconds": 0.3})
        run = job.config.run.model_copy(update={"dask": options})
        job = Job(
            config=job.config.model_copy(update={"run": run}), cache=job.cache, keys=job.keys, units=job.units[:1]
        )
        (worker,) = cluster.workers.values()

        def goes(station: Station, *_: Any) -> Any:
            end = dask_walltime.leave if in_order else worker.close
            worker.loop.add_callback(end, *([worker] if in_order else []))
            time.sleep(0.5)
            raise Reschedule

        monkeypatch.setattr(Station, "run", goes)
        with pytest.raises(
            error, match=r"The last worker of the Dask scheduler at tcp://\S+ (left|died), and none came"
        ):
            DaskExecutor().run(job, lambda event: None)


def test_whichever_ends_first_says_what_happens() -> None:
    now = time.time()
    long, short = Allotment(began_at=now, ends_at=now + HOUR), Allotment(began_at=now, ends_at=now + 60)
    assert time_of(None, None).schedule.allotted is None
    assert time_of(None, short).is_own
    assert time_of(long, short).is_own
    assert not time_of(short, long).is_own
    assert time_of(short, long).seconds_left is None
    left = time_of(long, short).seconds_left
    assert left is not None
    assert 53 < left <= 54, "a tenth of a minute is left to leave"
