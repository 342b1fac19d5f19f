"""Networks load while the first videos are decoded, where nothing stands against it; what fails leaves nothing."""

import signal
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction import feed, networks
from kinegraph.pipeline.extraction.executors import local
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.shards.leases import Leases
from kinegraph.stages.clock import START_UP, of_computing
from kinegraph.stages.errors import WeightsError
from tests.caches import same_bytes
from tests.clock import Clock as Time

Load = Callable[..., Config]
HERE = "run.executor=local"
LONG = 60  # seconds after which a test fails that waits


class Order:
    """`happened` lists "network" for each network that was loaded, and "video" for each video that was decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.happened: list[str] = []
        self.first_video = threading.Event()
        self.before_network: Callable[[], object] = lambda: None
        decode, open_runner = feed.decode_at_hand, networks.open_runner

        def decoded(*arguments: Any) -> Any:
            clips = decode(*arguments)
            self.happened.append("video")
            self.first_video.set()
            return clips

        def loaded(*arguments: Any) -> Any:
            self.before_network()
            runner = open_runner(*arguments)
            self.happened.append("network")
            return runner

        monkeypatch.setattr(feed, "decode_at_hand", decoded)
        monkeypatch.setattr(networks, "open_runner", loaded)

    def network_after_video(self) -> None:
        assert self.first_video.wait(LONG), "no video was decoded while the networks were loaded"


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Order:
    return Order(monkeypatch)


def test_the_first_videos_are_decoded_while_networks_load(load: Load, whole: Cache, order: Order) -> None:
    """A network that is loaded after the first video is decoded: one after the other would wait for ever."""
    order.before_network = order.network_after_video
    config = load(HERE)
    cache = index(config).cache
    extract(config)
    assert "network" in order.happened
    assert same_bytes(cache.root) == same_bytes(whole.root)


def test_the_time_in_which_networks_load_is_start_up(load: Load, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no wait for the first batch, which is decoded then."""
    time = Time()
    for place in ("stages.clock", "pipeline.extraction.worker", "pipeline.extraction.run"):
        monkeypatch.setattr(f"kinegraph.{place}.monotonic", time)

    def slow() -> None:
        order.network_after_video()
        time.now += 500

    order.before_network = slow
    config = load(HERE)
    cache = index(config).cache
    extract(config, limit=2)
    (record,) = cache.ledger.records("features/tiny")
    assert record.seconds[START_UP] >= 500
    assert sum(of_computing(record.seconds).values()) < 500


@pytest.mark.parametrize(
    "overrides",
    [
        ["run.executor=inline"],
        [HERE, "run.batch_size=auto"],
        [HERE, "run.compile=auto"],
        [HERE, "run.walltime_seconds=86400"],
    ],
    ids=lambda overrides: overrides[-1],
)
def test_where_networks_are_loaded_first(load: Load, order: Order, overrides: list[str]) -> None:
    config = load(*overrides)
    index(config)
    extract(config)
    assert _networks_come_first(order)


def test_networks_are_loaded_first_without_leases(load: Load, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(HERE)
    cache = index(config).cache
    monkeypatch.setattr(type(cache.storage), "creates_exclusively", lambda storage: False)
    extract(config)
    assert _networks_come_first(order)


def test_a_shard_that_killed_a_worker_waits_for_the_networks(
    load: Load, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that memory that lacks while networks load is never the second death of one shard."""
    config = load(HERE)
    index(config)
    monkeypatch.setattr(Leases, "deaths", lambda leases, shard: 1)
    extract(config)
    assert _networks_come_first(order)


def _networks_come_first(order: Order) -> bool:
    last_network = max(place for place, event in enumerate(order.happened) if event == "network")
    return last_network < order.happened.index("video")


def no_weights() -> None:
    raise WeightsError("there are no such weights")


def ctrl_c() -> None:
    """As the handler of SIGINT notes it, and the next safe point raises."""
    stopping._noted.signal = signal.SIGINT
    stopping.check()


@pytest.mark.parametrize(
    ("fails", "error"), [(no_weights, WeightsError), (ctrl_c, KeyboardInterrupt)], ids=["weights", "Ctrl-C"]
)
def test_what_fails_while_loading_leaves_nothing(
    load: Load, order: Order, monkeypatch: pytest.MonkeyPatch, fails: Callable[[], None], error: type[BaseException]
) -> None:
    """Neither a lease nor a file, in the cache as it was indexed; the next run has the work of a whole one."""
    monkeypatch.setattr(stopping, "_noted", stopping._Noted())

    def fail() -> None:
        order.network_after_video()
        fails()

    config = load(HERE)
    cache = index(config).cache
    before = files(cache)
    order.before_network = fail
    with pytest.raises(error):
        extract(config)
    stopping._noted.signal = 0
    for thread in threading.enumerate():
        if thread.name.startswith(("assemble", "decode")):
            thread.join(LONG)
    assert files(cache) == before
    order.before_network = lambda: None
    assert extract(config).clips_run == 6


def files(cache: Cache) -> set[str]:
    return {path.relative_to(cache.root).as_posix() for path in Path(cache.root).rglob("*") if path.is_file()}


def test_a_worker_that_replaces_a_dead_one_loads_first(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each worker that dies while it loads would take another shard with it."""
    config = load()
    cache = index(config).cache
    plan = make_plan(config, cache)
    job = Job(config=config, cache=cache, keys=plan.keys, units=plan.units)
    started: list[bool] = []

    def start(pool: local._Pool, number: int, *, loads_first: bool = False) -> local._Member:
        started.append(loads_first)
        ours, theirs = Pipe()
        theirs.close()  # it is dead
        process = SimpleNamespace(pid=0, exitcode=-9, join=lambda: None, terminate=lambda: None)
        return local._Member(number, process, ours)  # type: ignore[arg-type]

    monkeypatch.setattr(local._Pool, "_start", start)
    with pytest.raises(RuntimeError, match=r"3 workers died before they took a shard.*Is there memory"):
        local.LocalExecutor(2).run(job, lambda event: None)
    assert started == [False, False, True, True]
