"""What `auto` chooses from measurements, and that a cache keeps one choice. The clock is a number here."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction import tuning
from kinegraph.pipeline.extraction.events import Event, Measured
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.extraction.scratch import scratch
from kinegraph.pipeline.extraction.tuning import Choice, WorkerShare, choose, fastest_batch, worth_compiling
from kinegraph.stages.backbones.run import BackboneRunner
from kinegraph.stages.errors import UsageError

Load = Callable[..., Config]
CPU = torch.device("cpu")
KEPT = "tuning/cpu-1.json"


class Clock:
    now = 0.0


class Network:
    """Takes `overhead` + 1 second a clip, multiplied by `compiled` if it is compiled, which takes 40 s. Batches of more
    than `most` clips do not fit into memory.
    """

    digest = ""

    def __init__(self, overhead: float = 1.0, *, most: int = 99, compiled: float = 0.5) -> None:
        self.overhead, self.most, self.compiled = overhead, most, compiled
        self.is_on = self.was_compiled = False
        self.sizes: list[int] = []

    def try_out(self, num_clips: int) -> None:
        if num_clips > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(num_clips)
        seconds = (self.overhead + num_clips) * (self.compiled if self.is_on else 1)
        Clock.now += seconds + 40 * (self.is_on and not self.was_compiled)
        self.was_compiled |= self.is_on

    def use_compiler(self, is_on: bool) -> None:
        if is_on and not self.compiled:
            raise UsageError("g++ is not on the PATH")
        self.is_on = is_on

    def run(self, batch: object) -> None:
        raise AssertionError


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "perf_counter", lambda: Clock.now)


@pytest.mark.parametrize(
    ("network", "work", "chosen_size", "words"),
    [
        (
            Network(),
            WorkerShare(10_000, 64),
            32,
            "takes 32. Time of a clip by batch size: 1: 2000 ms, 2: 1500 ms, 4: 1250 ms",
        ),
        (Network(0.0), WorkerShare(10_000, 64), 1, "takes 1. Time of a clip by batch size: 1: 1000 ms, 2: 1000 ms"),
        (Network(most=4), WorkerShare(10_000, 64), 4, ". 8 do not fit into memory"),
        (Network(), WorkerShare(500, 64), 4, ". A larger size would take too long to measure"),
        (Network(), WorkerShare(100, 64), 8, "takes 8. A larger size would take too long to measure"),
        (Network(), WorkerShare(10_000, 1), 1, "takes 1. Shards have one clip"),
        (Network(0.5), WorkerShare(10_000, 5), 1, "1: 1500 ms, 2: 1500 ms"),  # the third batch of a shard has one clip
    ],
)
def test_the_fastest_batch(network: Network, work: WorkerShare, chosen_size: int, words: str) -> None:
    told: list[str] = []
    assert fastest_batch({"features/a": network}, work, told.append) == chosen_size
    assert words in told[0]


def test_compilation_is_used_where_it_saves_more_than_it_takes() -> None:
    told: list[str] = []
    faster, slower, failing = Network(), Network(compiled=1.1), Network(compiled=0)
    tunable = {"features/a": faster, "features/b": slower, "features/c": failing}
    assert worth_compiling(tunable, 4, WorkerShare(400, 4), print, told.append) == ["features/a"]
    assert told[0].endswith(
        "auto compiles features/a. A batch takes 2500 ms with compilation and 5000 ms without, compilation 42 s, and "
        "one worker has 100 batches"
    )
    assert "does not compile features/b" in told[1]
    assert "leaves features/c without compilation, which fails here: g++ is not on the PATH" in told[2]
    assert worth_compiling({"features/a": Network()}, 4, WorkerShare(400, 4), print, told.append) == []
    assert told[3].endswith("One worker has 500 s of work, and compilation is tried from 600 s on")


def test_a_busier_machine_after_the_compilation_slows_both_sides_of_the_comparison() -> None:
    class Slowing(Network):
        def try_out(self, num_clips: int) -> None:
            super().try_out(num_clips)
            Clock.now += 9.0 * self.was_compiled

    told: list[str] = []
    assert worth_compiling({"features/a": Slowing()}, 4, WorkerShare(600, 4), print, told.append) == ["features/a"]
    assert "A batch takes 11500 ms with compilation and 14000 ms without" in told[0]


def test_a_compiler_that_ctrl_c_ends_is_no_reason_against_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the cache would keep that nothing is compiled."""

    class Interrupted(Network):
        def try_out(self, num_clips: int) -> None:
            if self.is_on:
                monkeypatch.setattr(stopping._noted, "signal", signal.SIGINT)
                raise RuntimeError("CppCompileError: C++ compile error")
            super().try_out(num_clips)

    with pytest.raises(KeyboardInterrupt):
        worth_compiling({"features/a": Interrupted()}, 4, WorkerShare(600, 4), print, print)


def test_a_cache_keeps_one_choice(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tuning, "TRIAL_SHARE", 100)
    config = load("run.batch_size=auto", "run.compile=auto", "store.shard_clips=2")
    cache = index(config).cache
    events: list[Event] = []
    assert choose(config, cache, {"features/a": Network()}, CPU, events.append) == Choice(batch_size=2)
    assert json.loads(cache.storage.get(KEPT)) == {"batch_size": 2, "compiled": []}
    of_size, of_compiler = (event.result for event in events if isinstance(event, Measured))
    assert "auto takes 2. Time of a clip" in of_size
    assert "auto compiles nothing" in of_compiler
    events.clear()
    other = Network(0.0)
    assert choose(config, cache, {"features/a": other}, CPU, events.append) == Choice(batch_size=2)
    assert other.sizes == [], "nothing is measured twice"
    assert not [event for event in events if isinstance(event, Measured)]
    copy = scratch(config, cache, tmp_path / "scratch")
    assert choose(config, copy, {"features/a": other}, CPU, print) == Choice(batch_size=2)
    assert other.sizes == [], "a trial run takes the choice of the cache"
    cache.storage.put(KEPT, [b'{"batch_size": 4, "compiled": ["features/a"]}'])
    assert choose(config, cache, {"features/a": other}, CPU, print).compiled == {"features/a"}
    assert other.is_on, "compiled, as the shards before"
    with pytest.raises(UsageError, match="not on the PATH"):
        choose(config, cache, {"features/a": Network(compiled=0)}, CPU, print)
    given = load("run.batch_size=3", "run.compile=auto", name="other")
    assert choose(given, cache, {"features/a": Network()}, CPU, print) == Choice(
        batch_size=3, compiled=frozenset({"features/a"})
    )


def test_a_later_measurement_adds_to_the_kept_choice(load: Load) -> None:
    config = load("run.batch_size=auto")
    cache = index(config).cache
    assert choose(config, cache, {"features/a": Network()}, CPU, print) == Choice(batch_size=2)
    compiling = load("run.batch_size=3", "run.compile=auto", name="other")
    assert choose(compiling, cache, {"features/a": Network()}, CPU, print) == Choice(batch_size=3)
    assert json.loads(cache.storage.get(KEPT)) == {"batch_size": 2, "compiled": []}
    assert choose(config, cache, {}, CPU, print) == Choice(batch_size=8), "no network has a say"


def test_an_extraction_records_the_measured_batch_size_and_what_was_compiled(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[bool] = []
    monkeypatch.setattr(BackboneRunner, "use_compiler", lambda self, is_on: compiled.append(is_on))
    monkeypatch.setattr(
        tuning, "fastest_batch", lambda tunable, work, tell: [net.try_out(2) for net in tunable.values()] and 3
    )
    monkeypatch.setattr(tuning, "worth_compiling", lambda tunable, batch_size, work, report, tell: ["features/tiny"])
    config = load("run.batch_size=auto", "run.compile=auto")
    cache = Cache(index(config).cache.root)
    extract(config)
    features, boxes = (cache.ledger.read(key, 0) for key in ("features/tiny", "proposals"))
    assert features is not None
    assert boxes is not None
    assert (features.batch_size, features.versions.get("torch.compile"), compiled) == (3, "on", [True])
    assert "torch.compile" not in boxes.versions
