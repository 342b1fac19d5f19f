"""What every executor promises: the same bytes, an account of every unit, errors as they are, and no process left."""

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import SlurmError
from kinegraph.pipeline.extraction.events import ClipsDone, Event, UnitSealed
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.profile import Profile, profile_of
from kinegraph.pipeline.extraction.run import executor_of, extract
from kinegraph.pipeline.shards.leases import Leases
from tests.caches import same_bytes
from tests.dask_cluster import in_this_process

Load = Callable[..., Config]
EXECUTORS = {
    "inline": ["run.executor=inline"],
    "one process": ["run.executor=local"],
    "processes": ["run.executor=local", "run.workers=2"],
    "dask": ["run.executor=dask"],
    "dask, a cluster of its own": ["run.executor=dask", "run.workers=1"],
    "slurm": ["run.executor=slurm", "run.workers=1"],
}
IN_FULL = ("dask, a cluster of its own", "slurm")
RAISING = [pytest.param(name, marks=[pytest.mark.faults] * (name in IN_FULL)) for name in EXECUTORS]
FAILED = "left/v3.mp4:0:center"


@pytest.fixture(scope="module")
def dask_here() -> Iterator[LocalCluster]:
    """A cluster that runs already. Its workers are threads: those of a cluster of its own are processes."""
    with in_this_process(2) as cluster:
        yield cluster


@pytest.fixture(params=EXECUTORS)
def overrides(request: pytest.FixtureRequest) -> list[str]:
    """Config of one executor; of dask that of a cluster that runs already, of slurm with commands that stand in."""
    found = EXECUTORS[request.param]
    if request.param == "dask":
        address = request.getfixturevalue("dask_here").scheduler_address
        found = [*found, f"run.dask.scheduler={address}"]
    if request.param == "slurm":
        request.getfixturevalue("fake")
    return found


def run(config: Config, cache: Cache) -> list[Event]:
    """All units, by the executor alone; gives what it reported."""
    plan, events = make_plan(config, cache), list[Event]()
    before = set(multiprocessing.active_children())
    executor_of(config).run(Job(config=config, cache=cache, keys=plan.keys, units=plan.units), events.append)
    assert set(multiprocessing.active_children()) == before
    return events


class TestExecutor:
    """The contract. A new executor is a line in EXECUTORS."""

    def test_same_bytes_and_an_account_of_all(
        self, load: Load, complete: Callable[[Config], Cache], video_folder: Path, overrides: list[str]
    ) -> None:
        """One clip fails. Another run's lease on shard 1 goes stale while the others are done."""
        (video_folder / "left" / "v3.mp4").write_text("no video")
        whole, config = complete(load(name="whole")), load(*overrides)
        cache = index(config).cache
        dead = Leases(cache.storage, seconds=0.1)
        assert dead.take(1, ("clips",))
        dead._closing.set()  # refreshed no more, and never given back
        events = run(config, cache)
        sealed = [event for event in events if isinstance(event, UnitSealed)]
        assert {event.unit.shard: event.failed_clips for event in sealed} == {0: (FAILED,), 2: (), 1: ()}
        assert [event.unit.shard for event in sealed][2:] == [1]
        assert sum(event.clips for event in events if isinstance(event, ClipsDone)) == 6
        assert same_bytes(cache.root) == same_bytes(whole.root)
        self._profile_has_all(profile_of(config, cache, [event.unit for event in sealed], 0.0))
        assert [*cache.storage.names("leases"), *cache.storage.names("probes")] == []

    def _profile_has_all(self, profile: Profile | None) -> None:
        assert profile is not None
        assert (profile.num_clips, profile.num_shards, profile.devices) == (6, 3, ("cpu",))
        assert profile.workers in (1, 2)
        assert profile.start_up > 0
        assert {"features/tiny", "proposals", "regions/tiny", "copy", "rest"} <= profile.computing.keys()
        assert {"decode", "write"} <= profile.beside.keys()

    @pytest.mark.parametrize("overrides", RAISING, indirect=True)
    def test_what_a_worker_raises_arrives(
        self, load: Load, inline_document: dict[str, Any], overrides: list[str]
    ) -> None:
        """By default not where it comes the way of another executor, or of a log that test_slurm.py writes itself."""
        config = load(*overrides)
        index(config)
        extract(load("run.executor=inline"), limit=4)  # what is left is one unit, for which one process starts
        inline_document["backbones"]["tiny"]["weights"] = "random:1"
        with pytest.raises((CacheMismatch, SlurmError), match="weights"):  # SLURM's come in the end of a log
            extract(load(*overrides))

    def test_nothing_left_is_no_work(self, load: Load, overrides: list[str], whole: Cache) -> None:
        outcome = extract(load(*overrides, name="whole"))
        assert (outcome.plan.units, outcome.clips_run) == ((), 0)
