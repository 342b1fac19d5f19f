"""`--retry-failed`: failed clips are tried again, their shards reopened, and nothing else is touched."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.events import Event, Preparing, UnitSealedElsewhere
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.executors.inline import InlineExecutor
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.decode.clips import decode_clips
from tests.caches import rows_of, same_bytes
from tests.conftest import moving_square, write_video

Load = Callable[..., Config]
Complete = Callable[[Config], Cache]
Failing = Callable[[Config], Cache]
ONE_SHARD = "store.shard_clips=6"  # of batches (v1, v3), (v5, v0), (v2, v4)


class Breakable:
    """A video that can be broken and mended, to the last nanosecond of its mtime."""

    def __init__(self, path: Path) -> None:
        self.path, self.content, self.mtime_ns = path, path.read_bytes(), path.stat().st_mtime_ns

    def damage(self) -> None:
        self.path.write_bytes(b"")

    def mend(self) -> None:
        self.path.write_bytes(self.content)
        os.utime(self.path, ns=(self.mtime_ns, self.mtime_ns))


@pytest.fixture
def v3(video_folder: Path) -> Breakable:
    return Breakable(video_folder / "left" / "v3.mp4")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos decoded since, in order."""
    names: list[str] = []

    def counted(path: str, *arguments: Any) -> Any:
        names.append(Path(path).name)
        return decode_clips(path, *arguments)

    monkeypatch.setattr("kinegraph.pipeline.extraction.feed.decode_clips", counted)
    return names


@pytest.fixture(scope="module")
def failed() -> dict[str, Path]:
    """Caches in which v3 failed in every stage, by their config."""
    return {}


@pytest.fixture
def with_failure(failed: dict[str, Path], v3: Breakable, tmp_path_factory: pytest.TempPathFactory) -> Failing:
    """A cache in which v3 failed in every stage; v3 is whole again."""

    def copied(config: Config) -> Cache:
        key = config.model_dump_json(exclude={"cache", "run"})
        if key not in failed:
            failed[key] = tmp_path_factory.mktemp("failed") / "cache"
            own = config.model_copy(update={"cache": str(failed[key])})
            index(own)
            v3.damage()
            assert [failure.reason for failure in extract(own).failures] == ["unreadable"]
            v3.mend()
        shutil.copytree(failed[key], config.cache)
        return Cache(config.cache)

    return copied


@pytest.mark.parametrize(
    "override", ["store.kind=zarr", "store.kind=hdf5", "store.compression=zstd", "run.executor=local"]
)
def test_the_cache_becomes_what_it_would_have_been(
    load: Load, complete: Complete, with_failure: Failing, decoded: list[str], override: str
) -> None:
    """Data, and ledger with its sources; only the batch with the failed clip is run."""
    config, never_broken = load(override, ONE_SHARD), complete(load(override, ONE_SHARD, name="never_broken"))
    cache = with_failure(config)
    assert same_bytes(cache.root) != same_bytes(never_broken.root)
    decoded.clear()
    outcome = extract(config, retry_failed=True)
    assert (outcome.failures, outcome.clips_run) == ((), 1)
    assert decoded == ["v1.mp4", "v3.mp4"]
    assert same_bytes(cache.root) == same_bytes(never_broken.root)
    assert not extract(config, retry_failed=True).plan.units


def test_rows_that_were_ok_are_copied(load: Load, video_folder: Path, with_failure: Failing) -> None:
    """v1, in the same batch, is gone by now: its rows stay, and so does what its record says of it."""
    config = load(ONE_SHARD)
    cache = with_failure(config)
    before = {name: rows_of(cache.root, name) for name in cache.arrays()}
    source = cache.ledger.read("proposals", 0).sources["left/v1.mp4"]
    (video_folder / "left" / "v1.mp4").unlink()
    assert not extract(config, retry_failed=True).failures
    others = [0, 2, 3, 4, 5]
    for name, rows in before.items():
        assert rows_of(cache.root, name)[others].tobytes() == rows[others].tobytes(), name
        assert np.isnan(rows[1]).all() or name == "proposals/count"
        assert np.isfinite(rows_of(cache.root, name)[1]).all()
    assert cache.ledger.read("proposals", 0).sources["left/v1.mp4"] == source
    assert verify(cache.root).ok


def test_a_clip_that_fails_again(load: Load, v3: Breakable, with_failure: Failing) -> None:
    config = load(ONE_SHARD)
    cache = with_failure(config)
    before = same_bytes(cache.root)
    v3.path.write_bytes(b"words")
    (failure,) = extract(config, retry_failed=True).failures
    assert (failure.clip_id, failure.reason) == ("left/v3.mp4:0:center", "unreadable")
    after = same_bytes(cache.root)
    assert {name: after[name] for name in after if "data" in name} == {n: before[n] for n in before if "data" in n}


def test_the_later_of_two_runs_does_nothing_again(load: Load, v3: Breakable, with_failure: Failing) -> None:
    """Also where the clip failed again: the record is not the one that was planned on."""
    config = load(ONE_SHARD)
    cache = with_failure(config)
    v3.damage()
    later = make_plan(config, cache, retry_failed=True)
    assert extract(config, retry_failed=True).clips_run == 1
    events: list[Event] = []
    InlineExecutor().run(Job(config=config, cache=cache, keys=later.keys, units=later.units), events.append)
    assert [event for event in events if not isinstance(event, Preparing)] == [UnitSealedElsewhere(unit=later.units[0])]


def test_damage_is_not_copied_under_a_new_checksum(load: Load, whole: Cache, with_failure: Failing) -> None:
    config = load()
    cache = with_failure(config)
    path = Path(cache.root) / "data.zarr/features/tiny/res4/c.0.0.0.0.0"
    content = bytearray(path.read_bytes())
    content[100] ^= 1  # in the row of v1
    path.write_bytes(content)
    extract(config, retry_failed=True)
    assert verify(cache.root).ok
    assert same_bytes(cache.root) == same_bytes(whole.root)


def test_stages_that_lack_the_shard_run_on_all_of_it(load: Load, whole: Cache, v3: Breakable) -> None:
    config = load()
    cache = index(config).cache
    v3.damage()
    extract(config, stages=["features"])
    v3.mend()
    assert not extract(config, retry_failed=True).failures
    assert same_bytes(cache.root) == same_bytes(whole.root)


def test_a_video_that_lost_only_some_clips_and_is_another_now_runs_whole(load: Load, video_folder: Path) -> None:
    """Its rows that were ok are those of the old file: none is kept."""
    overrides = ["clips.per_video=2", "clips.sampling=dense", "clips.fps=8"]
    path = video_folder / "right" / "cut.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (40, 80, 96, 3), dtype=np.uint8)
    content = write_video(path, noise, options={"movflags": "faststart"}).read_bytes()
    config = load(*overrides)
    cache = index(config).cache
    path.write_bytes(content[: len(content) // 2])
    (failure,) = extract(config).failures
    assert (failure.clip_id, failure.reason) == ("right/cut.mp4:1:center", "truncated")
    write_video(path, moving_square(40, 96, 80), options={"movflags": "faststart"})
    assert not extract(config).plan.units, "without --retry-failed nothing is touched"
    assert not extract(config, retry_failed=True).failures
    fresh = load(*overrides, name="fresh")
    index(fresh)
    extract(fresh)
    assert same_bytes(cache.root) == same_bytes(fresh.cache)


@pytest.mark.parametrize("missing_at_index", [True, False], ids=["bad when indexed", "bad when extracted"])
def test_a_repaired_video_and_retry_failed(
    load: Load, whole: Cache, video_folder: Path, missing_at_index: bool
) -> None:
    video, config = video_folder / "left" / "v3.mp4", load()
    content = video.read_bytes()
    if not missing_at_index:
        index(config)
    video.write_bytes(b"")
    cache = index(config).cache if missing_at_index else Cache(config.cache)
    assert len(extract(config).failures) == 1
    again = extract(config)
    assert (len(again.failures), again.plan.units) == (1, ())
    video.write_bytes(content)
    index(config)
    assert len(extract(config).failures) == 1, "without --retry-failed nothing is touched"
    outcome = extract(config, retry_failed=True)
    assert [unit.shard for unit in outcome.plan.units] == [0]
    assert not outcome.failures
    old, new = same_bytes(whole.root), same_bytes(cache.root)
    for found in (old, new):
        for name in found:
            if name.startswith("ledger"):
                del found[name]["sources"]
    assert new == old


def test_stages_that_read_a_retried_one_are_reopened_for_the_same_clips(load: Load, with_failure: Failing) -> None:
    """Regions fail still, because features were not selected, and say so; no row of theirs is lost."""
    config = load()
    cache = with_failure(config)
    before = rows_of(cache.root, "regions/tiny/res4")
    outcome = extract(config, stages=["proposals"], retry_failed=True)
    assert [unit.keys for unit in outcome.plan.units] == [("clips", "proposals", "regions/tiny")]
    assert [failure.detail for failure in outcome.failures] == ["failed in features/tiny"]
    assert cache.ledger.read("proposals", 0).failures == []
    assert cache.ledger.shards("regions/tiny") == [0, 1, 2]
    assert rows_of(cache.root, "regions/tiny/res4").tobytes() == before.tobytes()
    assert not extract(config, retry_failed=True).failures
