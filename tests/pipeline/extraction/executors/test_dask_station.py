"""What a process of a Dask cluster keeps of a command that is over."""

import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.clusters.walltime import allotment
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.executors.dask import DaskExecutor, _station
from kinegraph.pipeline.extraction.executors.dask_station import Station
from kinegraph.pipeline.extraction.worker import Worker
from tests.dask_cluster import in_this_process


def test_the_time_of_the_command_is_told_by_each_machines_own_clock(
    load: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler's clock is an hour ahead of the command's, a worker's two hours behind the scheduler's."""
    monkeypatch.setattr("kinegraph.pipeline.extraction.executors.dask.agreed_versions", dict)
    monkeypatch.setattr(
        "kinegraph.pipeline.extraction.executors.dask_station.job_around", lambda worker, walltime_seconds: None
    )
    client: Any = SimpleNamespace(run_on_scheduler=lambda tell: tell() + 3600)
    config = load("run.executor=dask", "run.dask.scheduler=tcp://x:1")
    job = Job(config=config, cache=index(config).cache, keys=(), units=(), allotted=allotment(600.0))
    assert job.allotted is not None
    station = _station(job, client)
    station._dask_worker, station._time = SimpleNamespace(scheduler_delay=7200.0), None  # type: ignore[assignment]
    of_worker = station._begin_time().schedule.allotted
    assert of_worker is not None
    assert of_worker.ends_at - job.allotted.ends_at == pytest.approx(-3600, abs=60)
    assert of_worker.seconds == pytest.approx(600)


def test_gpu_memory_is_given_back_once_the_networks_are_gone(
    load: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round torch would still hold what they took."""
    opened: list[weakref.ref[Worker]] = []
    alive_when_given_back: list[list[Worker | None]] = []
    really_open = Station._open

    def open_noted(station: Station) -> Worker:
        worker = really_open(station)
        opened.append(weakref.ref(worker))
        return worker

    monkeypatch.setattr(Station, "_open", open_noted)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive_when_given_back.append([ref() for ref in opened]))
    with in_this_process(1) as cluster:
        config = load("run.executor=dask", f"run.dask.scheduler={cluster.scheduler_address}")
        cache = index(config).cache
        plan = make_plan(config, cache)
        DaskExecutor().run(Job(config=config, cache=cache, keys=plan.keys, units=plan.units), lambda event: None)
    assert alive_when_given_back == [[None]]
