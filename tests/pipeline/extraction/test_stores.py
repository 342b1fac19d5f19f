"""Extraction gives the same values in every store, and what was chosen when the cache was made stays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import rows_of, same_bytes
from tests.conftest import moving_square, write_video

Load = Callable[..., Config]
Made = Callable[[Config], Cache]
HDF5, ZSTD, LZ4_REGIONS = "store.kind=hdf5", "store.compression=zstd", "store.compression={regions: lz4}"


@pytest.fixture
def made(complete: Callable[[Config], Cache], tmp_path: Path) -> Made:
    """All stages; a plan foretells the number of files."""

    def extracted(config: Config) -> Cache:
        cache, before = complete(config), config.model_copy(update={"cache": str(tmp_path / "planned")})
        planned = make_plan(before, index(before).cache)
        sealed = [path for path in Path(cache.root).rglob("*") if {"shards", "ledger"} & {*path.parts}]
        sealed += [path for path in Path(cache.root).rglob("c.*") if "data.zarr" in path.parts]
        assert len([path for path in sealed if path.is_file()]) == planned.num_objects(cache)
        return cache

    return extracted


@pytest.mark.parametrize("override", [HDF5, ZSTD, LZ4_REGIONS])
def test_the_same_values_in_every_store(load: Load, made: Made, whole: Cache, override: str) -> None:
    cache = made(load(override))
    assert verify(cache.root).ok
    names = list(whole.arrays())
    for name in [*names, *(f"status/{key}" for key in whole.stage_keys())]:
        assert rows_of(cache.root, name).tobytes() == rows_of(whole.root, name).tobytes(), name
    ours, theirs = (CachedClips(c, names).batch([5, 0, 3]) for c in (cache, whole))
    for name in theirs:
        assert ours[name].numpy().tobytes() == theirs[name].numpy().tobytes(), name


def test_codecs_are_those_of_the_config(load: Load, made: Made) -> None:
    config = load(LZ4_REGIONS)
    cache = made(config)
    group = zarr.open_group(f"{cache.root}/data.zarr", mode="r")
    compressed = {name for name in cache.arrays() if group[name].compressors}
    assert compressed == {"regions/tiny/res4"}
    assert json.loads((Path(cache.root) / "cache.json").read_text())["store"]["compression"] == {"regions": "lz4"}


@pytest.mark.parametrize("override", [HDF5, ZSTD])
def test_stages_one_after_the_other_and_a_data_set_that_grows(load: Load, video_folder: Path, override: str) -> None:
    """Ends with the bytes of one run over all videos."""
    config = load(override, "store.shard_clips=4")
    index(config)
    extract(config, stages=["features"])
    extract(config)
    write_video(video_folder / "zoo" / "late.mp4", moving_square(14, 96, 80, seed=9))
    index(config)
    extract(config)
    at_once = load(override, "store.shard_clips=4", name="at_once")
    index(at_once)
    extract(at_once)
    assert same_bytes(config.cache) == same_bytes(at_once.cache)
    assert np.isfinite(rows_of(config.cache, "regions/tiny/res4")).all()


def test_the_stages_of_a_run_are_declared_together(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(HDF5)
    index(config)
    names: list[str] = []
    put = LocalStorage.put

    def noted(storage: LocalStorage, name: str, parts: Any) -> tuple[int, str]:
        names.append(name)
        return put(storage, name, parts)

    monkeypatch.setattr(LocalStorage, "put", noted)
    extract(config)
    assert names.count("data.h5") == 1


@pytest.mark.parametrize(
    ("first", "then", "difference"),
    [
        ("store.kind=zarr", HDF5, "kind: 'zarr' -> 'hdf5'"),
        (ZSTD, "store.compression=none", "compression.features: 'zstd' -> 'none'"),
        (LZ4_REGIONS, "store.compression={regions: zstd}", "compression.regions: 'lz4' -> 'zstd'"),
    ],
)
def test_another_layout_is_refused(load: Load, first: str, then: str, difference: str) -> None:
    index(load(first))
    for again in (index, extract):
        with pytest.raises(CacheMismatch, match="holds 'store' made with other options") as caught:
            again(load(then))
        assert difference in str(caught.value)


def test_the_same_layout_in_other_words_is_no_mismatch(load: Load) -> None:
    index(load("store.compression=none"))
    index(load("store.compression={features: none}"))


@pytest.mark.parametrize("override", [HDF5, ZSTD])
def test_a_damaged_shard_is_named_where_it_is_read(load: Load, made: Made, override: str) -> None:
    cache = made(load(override))
    (shard,) = {p for p in cache.ledger.read("regions/tiny", 1).objects if "status" not in p}
    path = Path(cache.root) / shard
    path.write_bytes(path.read_bytes()[:-30])
    clips = CachedClips(cache, ["regions/tiny/res4"])
    clips[0]
    with pytest.raises(ValueError, match="kinegraph verify"):
        clips[2]
    assert [(p.stage, p.shard, p.kind) for p in verify(cache.root).problems] == [("regions/tiny", 1, "size")]
