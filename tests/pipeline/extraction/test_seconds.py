"""Where the time of an extraction went, as its ledger records say, by a clock that only slow work moves."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.ledger import Record
from kinegraph.cache_schemas.zarr_shards import ZarrStore
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction import networks
from kinegraph.pipeline.extraction.feed import Feed
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.shards.pace import Sealed
from kinegraph.pipeline.status import status
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.clock import BESIDE, COMPUTING, FIRST_BATCH, START_UP, THREADS, of_computing, of_prefix
from kinegraph.stages.decode.squares import FramePixels
from kinegraph.stages.decode.stream import OpenVideo
from kinegraph.stages.decode.wanted import Square, Wanted
from kinegraph.stages.remote.info import RemoteInfo
from kinegraph.stages.remote.remote import Remote
from kinegraph.stages.transfers import InPlace
from tests.clock import Clock as Time

Load = Callable[..., Config]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    for place in ("stages.clock", "pipeline.extraction.worker", "pipeline.extraction.run"):
        monkeypatch.setattr(f"kinegraph.{place}.monotonic", time)
    return time


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, time: Time) -> Callable[[Any, str, float], None]:
    """Makes a function or method take so many seconds by `time`, and no other time passes."""

    def slowed(owner: Any, name: str, seconds: float) -> None:
        original = getattr(owner, name)

        def called(*arguments: Any, **options: Any) -> Any:
            time.now += seconds
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, called)

    return slowed


def records(cache: Cache, key: str) -> list[Record]:
    found = [cache.ledger.read(key, shard) for shard in range(cache.num_shards)]
    return [record for record in found if record is not None]


def test_each_kind_of_work_has_its_seconds_and_all_are_the_wall(load: Load, time: Time, slow: Any) -> None:
    config = load("clips.num_frames=4", "store.shard_clips=4", "run.batch_size=2")
    cache = index(config).cache
    slow(networks, "declare", 500)  # twice, in start-up
    slow(OpenVideo, "rgb", 0.25)  # 4 frames a clip
    slow(FeatureExtractor, "maps", 7)
    slow(InPlace, "download", 0.5)
    begun = time.now
    extract(config)
    first, second = records(cache, "regions/tiny")
    common = {"features/tiny", "proposals", "regions/tiny", "copy", "waiting for writer", "rest", "waiting for decode"}
    assert of_computing(first.seconds).keys() == common | {FIRST_BATCH}
    assert of_computing(second.seconds).keys() == common
    assert START_UP not in second.seconds, "the record of the first shard has it"
    assert first.seconds[START_UP] >= 1000
    assert (first.seconds[FIRST_BATCH], first.seconds["waiting for decode"]) == (2, 2)
    assert (first.seconds["features/tiny"], second.seconds["features/tiny"]) == (14, 7)
    assert first.seconds["copy"] == 2 * second.seconds["copy"] > 0
    assert first.seconds["threads: convert and resize"] == 4
    wall = sum(sum(of_computing(record.seconds).values()) for record in (first, second))
    assert time.now - begun == first.seconds[START_UP] + wall, "no second is missing, none counts twice"
    assert Sealed.of(first).seconds == sum(of_computing(first.seconds).values())


def test_writing_has_seconds_beside_the_wall(load: Load, slow: Any) -> None:
    config = load()
    cache = index(config).cache
    slow(ZarrStore, "write_shard", 100)
    extract(config, limit=2)
    seconds = {key: records(cache, key)[0].seconds for key in cache.stage_keys()}
    assert {key: found["threads: write"] for key, found in seconds.items()} == {
        "clips": 100, "features/tiny": 200, "proposals": 300, "regions/tiny": 400,
    }, "those of the unit so far"  # fmt: skip
    assert sum(of_computing(seconds["regions/tiny"]).values()) == 0


def test_decoding_in_other_threads_is_no_wait_where_nobody_waits(load: Load, time: Time, slow: Any) -> None:
    """The clips of a unit are decoded before its first batch, so that the clock of the other thread stands still."""
    config = load("clips.num_frames=4")
    cache = index(config).cache
    slow(FramePixels, "square", 3)
    extract(config.model_copy(update={"run": config.run.model_copy(update={"executor": "local"})}), limit=2)
    (record,) = records(cache, "features/tiny")
    assert record.seconds["threads: convert and resize"] == 2 * 4 * 3


def test_copies_of_urls_and_waits_for_them(load: Load, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load()
    cache = index(config).cache
    video = cache.rows(0)[0].path

    def info(remote: Remote, url: str) -> RemoteInfo:
        return RemoteInfo(size=None, mtime_ns=0, etag=None)

    def copy(remote: Remote, url: str, to: Path, *_: Any) -> None:
        time.now += 60
        shutil.copy(video, to)

    monkeypatch.setattr(Remote, "info", info)
    monkeypatch.setattr(Remote, "copy", copy)
    row = replace(cache.rows(0)[0], path="https://example.org/video.mp4")
    unit = WorkUnit(shard=0, keys=("features/tiny",))
    wanted = Wanted(num_frames=len(row.target_times), squares=frozenset([Square(size=64, every=1)]))
    feed = Feed(lambda unit: [row], lambda unit: wanted, batch_size=1, timeout_seconds=60.0, threads=0)
    (batch,) = feed.batches([unit])
    assert batch.thread_seconds["fetch"] == 60
    others = sum(batch.thread_seconds[kind] for kind in ("decode", "waiting for fetch", "convert and resize"))
    assert others in (0, 60), "0 if the copy was there before anyone waited"


def test_kinds_are_those_that_are_documented(whole: Cache) -> None:
    for key in whole.stage_keys():
        for record in records(whole, key):
            computing = of_computing(record.seconds).keys() - {*whole.stage_keys()}
            assert computing <= COMPUTING.keys()
            assert of_prefix(THREADS, record.seconds).keys() <= BESIDE.keys()
            assert {"waiting for writer", "copy", "rest", *whole.stage_keys()} - {"clips"} <= record.seconds.keys()
    specification = (ROOT / "cache_schemas" / "SPEC.md").read_text()
    written = [*COMPUTING, *(f"{THREADS}{kind}" for kind in BESIDE), START_UP]
    assert [kind for kind in written if f"| `{kind}` |" not in specification] == []


def test_records_of_earlier_versions_keep_their_names(whole: Cache) -> None:
    earlier = {"waiting for decode": 1.0, "network": 3600.0}
    for shard in range(whole.num_shards):
        record = whole.ledger.read("proposals", shard)
        assert record is not None
        whole.ledger.unseal("proposals", shard)
        whole.ledger.seal(record.model_copy(update={"seconds": earlier}))
    stage = status(whole)["stages"]["proposals"]
    assert stage["seconds"] == {"waiting for decode": 3.0, "network": 10800.0}
