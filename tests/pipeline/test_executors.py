"""What every executor promises: the same bytes, an account of every unit, errors as they are, and no process left."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache_schemas.cache import Cache
from cache_schemas.errors import CacheMismatch
from pipeline.config import Config
from pipeline.events import ClipsDone, Event, UnitSealed
from pipeline.executors.contract import Executor, Job
from pipeline.extraction import executor_of, extract
from pipeline.indexing import index
from pipeline.leases import Leases
from pipeline.plan import make_plan
from tests.caches import same_bytes

Load = Callable[..., Config]
Loaded = tuple[Config, Cache]
EXECUTORS = {
    "inline": ["run.executor=inline"],
    "one process": ["run.executor=local"],
    "processes": ["run.executor=local", "run.workers=2"],
    "dask": ["run.executor=dask"],
}


@pytest.fixture(params=EXECUTORS)
def overrides(request: pytest.FixtureRequest) -> list[str]:
    """Config of one executor; of dask that of a cluster that runs already."""
    found = EXECUTORS[request.param]
    if request.param == "dask":
        address = request.getfixturevalue("dask_cluster").scheduler_address
        found = [*found, f"run.dask.scheduler={address}"]
    return found


class TestExecutor:
    """The contract. A new executor is a line in EXECUTORS."""

    def test_same_bytes_and_an_account_of_all(
        self, load: Load, whole: Cache, video_folder: Path, overrides: list[str]
    ) -> None:
        config = load(*overrides)
        cache = index(config).cache
        events, executor = self._run(config, cache)
        sealed = [event.unit.shard for event in events if isinstance(event, UnitSealed)]
        assert sorted(sealed) == [0, 1, 2]
        assert sum(event.clips for event in events if isinstance(event, ClipsDone)) == 6
        assert same_bytes(cache.root) == same_bytes(whole.root)
        assert list(cache.storage.names("leases")) == []
        assert list(cache.storage.names("probes")) == []

    def _run(self, config: Config, cache: Cache) -> tuple[list[Event], Executor]:
        plan, events, executor = make_plan(config, cache), list[Event](), executor_of(config)
        before = set(multiprocessing.active_children())
        executor.run(Job(config=config, cache=cache, keys=plan.keys, units=plan.units), events.append)
        assert set(multiprocessing.active_children()) == before
        return events, executor

    def test_failed_clips_are_named(self, load: Load, video_folder: Path, overrides: list[str]) -> None:
        (video_folder / "left" / "v3.mp4").write_text("no video")
        config = load(*overrides)
        events, _ = self._run(config, index(config).cache)
        failed = {event.unit.shard: event.failed_clips for event in events if isinstance(event, UnitSealed)}
        assert failed == {0: ("left/v3.mp4:0:center",), 1: (), 2: ()}

    def test_a_shard_of_another_run_is_visited_again(self, load: Load, overrides: list[str]) -> None:
        """Its lease goes stale while all else is done."""
        config = load(*overrides)
        cache = index(config).cache
        others = Leases(cache.storage, seconds=0.1)
        assert others.take(1, ("clips",))
        others._closing.set()  # it is refreshed no more, and never given back
        events, _ = self._run(config, cache)
        assert [event.unit.shard for event in events if isinstance(event, UnitSealed)][-1] == 1

    def test_weights_of_another_kind_are_refused(
        self, load: Load, inline_document: dict[str, Any], overrides: list[str]
    ) -> None:
        config = load(*overrides)
        index(config)
        extract(load("run.executor=inline"), limit=2)
        inline_document["backbones"]["tiny"]["weights"] = "random:1"
        with pytest.raises(CacheMismatch, match="weights"):
            extract(load(*overrides))

    def test_nothing_left_is_no_work(self, load: Load, overrides: list[str], whole: Cache) -> None:
        outcome = extract(load(*overrides, name="whole"))
        assert (outcome.plan.units, outcome.clips_run) == ((), 0)
