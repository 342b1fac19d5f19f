"""A video replaced by another after it was cached reopens its shards, and no others."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import same_bytes
from tests.conftest import moving_square, write_video

Load = Callable[..., Config]


def data(cache: Cache) -> dict[str, object]:
    return {name: value for name, value in same_bytes(cache.root).items() if name.startswith("data.zarr")}


def test_a_replaced_video_runs_again_with_its_shard(load: Load, whole: Cache, video_folder: Path) -> None:
    config, before = load(name="whole"), data(whole)
    write_video(video_folder / "left" / "v1.mp4", moving_square(13, 96, 80, seed=9))
    plan = make_plan(config, whole)
    assert plan.changed == {0: ["left/v1.mp4"]}
    outcome = extract(config, stages=["proposals"])
    assert [(unit.shard, unit.keys) for unit in outcome.plan.units] == [(0, ("clips", "proposals"))]
    assert not whole.ledger.has("features/tiny", 0), "every key is reopened, whatever was selected"
    assert [unit.shard for unit in extract(config).plan.units] == [0]
    changed = {name for name, content in data(whole).items() if content != before[name]}
    assert "data.zarr/features/tiny/res4/c.0.0.0.0.0" in changed
    assert all(".".join(name.rpartition("/")[2].split(".")[:2]) == "c.0" for name in changed)
    fresh = load(name="fresh")
    index(fresh)
    extract(fresh)
    assert data(whole) == data(Cache(fresh.cache))
    assert not make_plan(config, whole).units


def test_touched_and_deleted_videos_have_not_changed(load: Load, whole: Cache, video_folder: Path) -> None:
    os.utime(video_folder / "left" / "v1.mp4", (1, 1))
    (video_folder / "left" / "v3.mp4").unlink()
    assert not make_plan(load(name="whole"), whole).units


def test_other_times_are_refused_before_anything_is_reopened(load: Load, whole: Cache, video_folder: Path) -> None:
    before = same_bytes(whole.root)
    write_video(video_folder / "left" / "v1.mp4", moving_square(30, 96, 80))
    with pytest.raises(CacheMismatch, match=r"left/v1\.mp4:0:center was indexed with .*Start a new cache"):
        extract(load(name="whole"))
    assert same_bytes(whole.root) == before
