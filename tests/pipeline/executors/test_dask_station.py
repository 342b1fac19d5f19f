"""What a process of a Dask cluster keeps of a command that is over."""

import weakref
from collections.abc import Callable

import pytest
import torch

from pipeline.config import Config
from pipeline.executors.contract import Job
from pipeline.executors.dask import DaskExecutor
from pipeline.executors.dask_station import Station
from pipeline.indexing import index
from pipeline.plan import make_plan
from pipeline.worker import Worker
from tests.dask_cluster import in_this_process


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
