"""What a plan says it costs: room on the disk, memory of a worker, hours."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.estimate import estimate, hours
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.errors import UsageError

Load = Callable[..., Config]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_what_does_not_fit_is_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load()
    cache = index(config).cache
    needed = estimate(config, cache, make_plan(config, cache)).bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed))
    estimate(config, cache, make_plan(config, cache)).check_fits(cache.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed - 1))
    with pytest.raises(UsageError, match=f"{needed:,} bytes to write, {needed - 1:,} bytes free"):
        extract(config)
    assert not (Path(cache.root) / "ledger").exists()
    assert not extract(config, limit=2).failures, "a part fits"


class Disk(NamedTuple):
    f_files: int
    f_favail: int


def test_files_that_no_inode_is_left_for_are_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load()
    cache = index(config).cache
    needed = estimate(config, cache, make_plan(config, cache)).files
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 10**9))  # it asks statvfs too
    for disk, free in ((Disk(10**6, needed), needed), (Disk(0, 0), None)):  # btrfs says 0 of 0
        monkeypatch.setattr(os, "statvfs", lambda path, disk=disk: disk)
        cost = estimate(config, cache, make_plan(config, cache))
        cost.check_fits(cache.root)
        assert cost.free_inodes == free
    monkeypatch.setattr(os, "statvfs", lambda path: Disk(10**6, needed - 1))
    with pytest.raises(UsageError, match=f"{needed:,} files to write, {needed - 1:,} inodes free"):
        extract(config)
    assert not (Path(cache.root) / "ledger").exists()


def test_bytes_are_those_of_the_rows(load: Load, whole: Cache) -> None:
    config = load()
    planned = estimate(config, Cache(index(config).cache.root), make_plan(config, index(config).cache))
    sealed = [record for key in whole.stage_keys() for record in whole.ledger.records(key)]
    on_disk = sum(entry.size for record in sealed for entry in record.objects.values())
    assert planned.files == sum(len(record.objects) + 1 for record in sealed)
    assert planned.bytes < on_disk < planned.bytes + 64 * planned.files, "indices of shards come on top"


def test_memory_of_a_worker(load: Load) -> None:
    config = load("run.executor=local", "run.threads=3", "run.batch_size=4")
    cache = index(config).cache
    plan = make_plan(config, cache)
    maps, pooled, proposals, regions = 4 * 96 * 64 * 2, 4 * 96 * 4, 4 * (4 * 16 + 4 * 4 + 2), 4 * 4 * 96 * 2
    row = 8 * 8 + maps + pooled + proposals + regions
    clip = 8 * 64 * 64 * 3 + 4 * 96 * 115 * 3  # 96x80 frames: short side 96
    assert estimate(config, cache, plan).worker_bytes == 2 * 2 * row + (7 * 4 + 3 + 1) * clip
    only_proposals = make_plan(config, cache, stages=["proposals"])
    assert estimate(config, cache, only_proposals).worker_bytes < estimate(config, cache, plan).worker_bytes
    three_clips = load("run.executor=local", "run.threads=9", "run.batch_size=4", "clips.per_video=3", name="three")
    cache = index(three_clips).cache
    found = estimate(three_clips, cache, make_plan(three_clips, cache)).worker_bytes
    assert found == 2 * 2 * row + (5 * 4 + 9 * 2 + 2) * clip, "each thread has a video, and a shard has 2 of its clips"


def test_hours_at_the_pace_of_earlier_shards(load: Load) -> None:
    config = load()
    cache = index(config).cache
    assert hours(cache, make_plan(config, cache)) is None
    extract(config, limit=2)
    for key in cache.stage_keys():
        record = cache.ledger.read(key, 0)
        assert record is not None
        slow = 2.0 if key == "proposals" else 1.0
        cache.ledger.unseal(key, 0)
        cache.ledger.seal(record.model_copy(update={"seconds": {"network": 3600.0 * slow}}))
    plan = make_plan(config, cache)
    assert hours(cache, plan) == pytest.approx(4.0), "two shards, two hours each in the slowest stage"
    extract(config)
    assert hours(cache, make_plan(config, cache)) == 0.0
