"""The training-side reader, as trainers use it: from worker processes, from memory, from a cache that still grows."""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kinegraph.cache_schemas.box_frames import box_frames_arrays
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.exchange.importing import import_features
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import train_runs
from kinegraph.stages.heads.head import FeatureSource
from kinegraph.stages.heads.inputs import MapRegionReader

Load = Callable[..., Config]
ARRAYS = ["regions/tiny/res4", "proposals/boxes", "proposals/count"]
INDICES = [[5, 0, 3], [1, 4], [2]]
LAYOUTS = {
    "mapped": "store.kind=zarr",
    "lz4": "store.compression=lz4",
    "hdf5": "store.kind=hdf5",
}


@pytest.fixture(params=LAYOUTS)
def cache(request: pytest.FixtureRequest, load: Load, complete: Callable[[Config], Cache]) -> Cache:
    return complete(load(LAYOUTS[request.param]))


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_data_loader_workers_read_the_same(cache: Cache, preload: bool) -> None:
    """Also once this process has read: what it has open must not hang or confuse its children."""
    _load_in_workers(CachedClips(cache, ARRAYS, preload=preload), cache, "fork", 2)


@pytest.mark.parametrize("cache", ["hdf5"], indirect=True)
def test_a_spawned_data_loader_worker_reads_the_same(cache: Cache) -> None:
    """Of one store: test_stores.py reads each of them in spawned processes, which load no torch."""
    _load_in_workers(CachedClips(cache, ARRAYS), cache, "spawn", 1)


def _load_in_workers(clips: Any, cache: Cache, method: str, num_workers: int) -> None:
    expected = [CachedClips(cache, ARRAYS).batch([2 * batch, 2 * batch + 1]) for batch in range(3)]
    same(clips.batch([0, 1]), expected[0])
    loader: Iterator[Any] = iter(
        DataLoader(clips, batch_size=2, num_workers=num_workers, multiprocessing_context=method, timeout=60)
    )
    for found, right in zip(loader, expected, strict=True):
        same(found, right)


def test_preloaded_clips_need_no_files(cache: Cache) -> None:
    mapped = [CachedClips(cache, ARRAYS).batch(indices) for indices in INDICES]
    clips = CachedClips(cache, ARRAYS, preload=True)
    cache.store.open_shard = None  # type: ignore[assignment, method-assign]
    for indices, expected in zip(INDICES, mapped, strict=True):
        same(clips.batch(indices), expected)


def test_preloading_more_than_memory_holds_is_refused(whole: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 6 * sum(whole.array(name).row_bytes for name in ARRAYS)
    monkeypatch.setattr("kinegraph.cache_schemas.reader.available_bytes", lambda: needed)
    assert len(CachedClips(whole, ARRAYS, preload=True)) == 6
    monkeypatch.setattr("kinegraph.cache_schemas.reader.available_bytes", lambda: needed - 1)
    with pytest.raises(CacheError, match=f"6 clips of .* take {needed:,} bytes, and {needed - 1:,} bytes of memory"):
        CachedClips(whole, ARRAYS, preload=True)


def test_preloaded_rows_do_not_travel(whole: Cache) -> None:
    """A spawned process reads its own."""
    clips = CachedClips(whole, ["features/tiny/res4"], preload=True)
    travelling = pickle.dumps(clips)
    assert len(travelling) < whole.array("features/tiny/res4").row_bytes
    same(pickle.loads(travelling)[3], clips[3])


@pytest.mark.parametrize("preload", [False, True])
def test_the_crop_of_a_row_is_an_array(load: Load, complete: Callable[[Config], Cache], preload: bool) -> None:
    """As heads need it that RoIAlign stored maps: they find the regions that extraction stored."""
    cache = complete(
        load("clips.crops=[left,right]", "backbones.tiny.storage_dtype=float32", "regions.storage_dtype=float32")
    )
    spec = {name: array.shape for name, array in cache.readable().items()}
    reader = MapRegionReader(spec, FeatureSource("tiny", "res4"))
    batch = CachedClips(cache, [*reader.reads, "regions/tiny/res4"], preload=preload).batch([3, 0])
    assert batch["clips/crop"].tolist() == [[16, 0, 96, 80], [0, 0, 80, 80]]  # of frames of 96x80 px
    found = reader(batch, batch["features/tiny/res4"])
    assert found.valid.any((1, 2)).all()
    torch.testing.assert_close(found.features, batch["regions/tiny/res4"], rtol=1e-4, atol=1e-4)


def test_the_frames_of_the_slow_pathway_are_an_array(whole: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an array with `frame_index`, such as that of a slow pathway, as heads need it for the boxes."""
    maps = whole.array("features/tiny/res4")
    frames = tuple(3 * step for step in range(maps.shape[0]))
    spread = replace(maps, frame_step=None, frame_index=frames)
    monkeypatch.setattr(
        "kinegraph.cache_schemas.cache.box_frames_arrays", lambda specs: box_frames_arrays(specs | {maps.name: spread})
    )
    name = f"clips/box_frames/{maps.name}"
    every = whole.array("clips/frame_times").shape[0] // whole.array("proposals/count").shape[0]
    for preload in (False, True):
        clips = CachedClips(whole, [name, maps.name], preload=preload)
        assert clips.spec[name] == maps.shape[:1]
        assert clips.batch([2, 0])[name].tolist() == [[frame // every for frame in frames]] * 2


def test_imported_rows_have_no_crop(tmp_path: Path) -> None:
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "a.npy", np.zeros((2, 3), np.float32))
    cache = import_features(tmp_path / "npy", tmp_path / "cache").cache
    with pytest.raises(CacheError, match="has no array 'clips/crop'"):
        CachedClips(cache, ["features/imported/last_pooled", "clips/crop"])


@pytest.mark.parametrize("preload", [False, True])
def test_a_growing_cache_does_not_change_what_was_opened(load: Load, whole: Cache, preload: bool) -> None:
    config = load()
    index(config)
    extract(config, part=(0, 2))
    clips = CachedClips(config.cache, ARRAYS, preload=preload)
    extract(config)
    assert clips.rows.tolist() == [0, 1, 4, 5]
    assert clips.num_unsealed == 2
    same(clips.batch(range(4)), CachedClips(whole, ARRAYS).batch([0, 1, 4, 5]))
    now = CachedClips(config.cache, ARRAYS)
    assert (len(now), now.num_unsealed) == (6, 0)


def test_training_on_an_incomplete_cache_says_so(load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = f"train={{head: avg_pool, epochs: 1, val_split: null, test_split: train, run: {tmp_path / 'run'}}}"
    config = load(recipe)
    index(config)
    extract(config, limit=4)
    train_runs(config)
    said = "is incomplete: 2 clips of split train are not extracted yet and left out"
    assert said in caplog.text
    caplog.clear()
    evaluate_run(tmp_path / "run")
    assert said in caplog.text
    caplog.clear()
    extract(config)
    evaluate_run(tmp_path / "run")
    assert "incomplete" not in caplog.text
