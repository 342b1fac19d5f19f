"""Many units through one scheduler, which keeps nothing of those that are done."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from dask.utils import key_split
from distributed import Client, LocalCluster

from kinegraph.cache_schemas.storages import open_storage
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.clusters.dask.cluster import UNITS_AT_ONCE
from kinegraph.pipeline.clusters.walltime import Allotment
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ClusterLost, OutOfTimeError
from kinegraph.pipeline.extraction.events import Event, Measured, UnitLeased, UnitSealed
from kinegraph.pipeline.extraction.executors import dask as executor
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.executors.dask import DaskSubmission
from kinegraph.pipeline.extraction.executors.dask_station import Station
from kinegraph.pipeline.shards import revisiting
from kinegraph.pipeline.shards.leases import MAX_DEATHS

KEYS = ("clips",)


class EmptyStation(Station):
    """Every unit is sealed as soon as it comes."""

    def run(self, unit: WorkUnit, max_deaths: int) -> tuple[Event, ...]:
        return (UnitSealed(unit=unit, failed_clips=()),)


class BusyStation(Station):
    """Another run is at every unit."""

    def run(self, unit: WorkUnit, max_deaths: int) -> tuple[Event, ...]:
        return (UnitLeased(unit=unit),)


def test_the_result_of_a_measurement_comes_with_the_first_answer(load: Callable[..., Config]) -> None:
    config = load("run.executor=dask")
    station, unit = Station(config, config.cache, KEYS, {}, of_client=False), WorkUnit(shard=0, keys=KEYS)
    station.setup(SimpleNamespace())  # type: ignore[arg-type]
    answer: Future[tuple[Event, ...]] = Future()
    station._answers[0] = answer
    events = (Measured(result="run.batch_size: auto takes 4"), UnitSealed(unit=unit, failed_clips=()))
    for event in events:
        station._report(event)
    assert answer.result(0) == events


def test_waiting_for_others_ends_with_the_time(load: Callable[..., Config], dask_cluster: LocalCluster) -> None:
    config = load("run.executor=dask", f"run.dask.scheduler={dask_cluster.scheduler_address}")
    station = BusyStation(config, config.cache, KEYS, {}, of_client=False)
    units = (WorkUnit(shard=0, keys=KEYS),)
    job = Job(config=config, cache=None, keys=KEYS, units=units, allotted=Allotment(began_at=0, ends_at=1))  # type: ignore[arg-type]
    with Client(dask_cluster) as client:
        client.register_plugin(station, name=station.name)
        with pytest.raises(OutOfTimeError, match="other runs have the shards that are left"):
            DaskSubmission(client, job, station, lambda event: None).run(units, MAX_DEATHS)
        client.unregister_worker_plugin(station.name)


def test_workers_that_die_before_they_take_a_shard(
    load: Callable[..., Config], dask_cluster: LocalCluster, tmp_path: Path
) -> None:
    """Three in a row are enough; beside a shard that kills its workers, others may well have none yet."""
    config = load("run.executor=dask", f"run.dask.scheduler={dask_cluster.scheduler_address}")
    storage = open_storage(str(tmp_path))
    job = Job(config=config, cache=SimpleNamespace(storage=storage), keys=KEYS, units=())  # type: ignore[arg-type]
    with Client(dask_cluster) as client:
        submission = DaskSubmission(client, job, EmptyStation(config, config.cache, KEYS, {}, of_client=False), print)
        for attempt in range(1, 6):
            storage.create(f"leases/000001.{attempt}.json", b"of a worker that died")
            submission._died((0, 1, 2, 3))
        submission._died((0, 1, 2, 3))
        submission._died((0, 1, 2, 3))
        submission._died(())
        with pytest.raises(ClusterLost, match="again and again before they took a shard"):
            submission._died((4, 5))


class BusyForAWhile(Station):
    """Another run is at every unit, until one worker has asked three times."""

    asked: Counter[int]

    def run(self, unit: WorkUnit, max_deaths: int) -> tuple[Event, ...]:
        self.asked = Counter() if not hasattr(self, "asked") else self.asked
        self.asked[unit.shard] += 1
        done = self.asked[unit.shard] == 3
        return (UnitSealed(unit=unit, failed_clips=()) if done else UnitLeased(unit=unit),)


def test_a_unit_that_others_have_is_watched_by_one_worker(
    load: Callable[..., Config], dask_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody might look on for as long as a dead run's lease takes to go stale."""
    monkeypatch.setattr(revisiting, "REVISIT_SECONDS", 0.01)
    config = load("run.executor=dask", f"run.dask.scheduler={dask_cluster.scheduler_address}")
    station = BusyForAWhile(config, config.cache, KEYS, {}, of_client=False)
    units = tuple(WorkUnit(shard=shard, keys=KEYS) for shard in range(6))
    job = Job(config=config, cache=None, keys=KEYS, units=units)  # type: ignore[arg-type]
    heard: list[Event] = []
    with Client(dask_cluster) as client:
        client.register_plugin(station, name=station.name)
        assert len(client.nthreads()) == 2
        assert not DaskSubmission(client, job, station, heard.append).run(units, MAX_DEATHS)
        client.unregister_worker_plugin(station.name)
    assert [sum(isinstance(event, kind) for event in heard) for kind in (UnitLeased, UnitSealed)] == [12, 6]


class CountedSubmission(DaskSubmission):
    """Notes how many units the scheduler has, whenever it is given one."""

    held: list[int]

    def _submit(self, units: Sequence[WorkUnit], max_deaths: int) -> None:
        super()._submit(units, max_deaths)
        self.held.append(len(self.in_flight))


def test_the_scheduler_has_few_units_at_a_time_and_forgets_those_that_are_done(
    load: Callable[..., Config], dask_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "FORGET_EVERY", 10)
    monkeypatch.setattr(executor, "_submitted", itertools.count(1))  # so the last one of 30 forgets
    config = load("run.executor=dask", f"run.dask.scheduler={dask_cluster.scheduler_address}")
    station = EmptyStation(config, config.cache, KEYS, {}, of_client=False)
    units = tuple(WorkUnit(shard=shard, keys=KEYS) for shard in range(30))
    job = Job(config=config, cache=None, keys=KEYS, units=units)  # type: ignore[arg-type]  # nothing dies
    sealed: list[Event] = []
    key_split.cache_clear()
    with Client(dask_cluster) as client:
        client.register_plugin(station, name=station.name)
        submission = CountedSubmission(client, job, station, sealed.append)
        submission.held = []
        assert not submission.run(units, MAX_DEATHS)
        client.unregister_worker_plugin(station.name)
    assert len(sealed) == 30
    assert max(submission.held) == 2 * UNITS_AT_ONCE, "as many as keep both workers busy"
    spans = dask_cluster.scheduler.extensions["spans"].spans.values()
    assert sum(len(span.metadata["collections"]) for span in spans) < 10, "what was submitted since it forgot"
    assert key_split.cache_info().currsize < 15, "of this process, in which the scheduler runs"
