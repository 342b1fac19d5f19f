"""A cache in another store is the same cache."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.exchange.to_store import export_cache
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.table import train_runs
from tests.caches import same_bytes
from tests.conftest import moving_square, six_videos, tiny_stages, write_video

Load = Callable[..., Config]
KILLED = Path(__file__).parents[2] / "faults" / "command_until_killed.py"


def data(cache: Path | str) -> dict[str, Any]:
    """All bytes that are not of the ledger."""
    return {name: value for name, value in same_bytes(cache).items() if not name.startswith("ledger")}


def records(cache: Path | str) -> dict[str, Any]:
    """All ledger records without what an export changes."""
    found = {path.relative_to(cache): json.loads(path.read_bytes()) for path in Path(cache, "ledger").rglob("*.json")}
    return {str(name): {k: v for k, v in r.items() if k not in ("objects", "exported")} for name, r in found.items()}


def sealed_times(cache: Path | str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(cache, "ledger").rglob("*.json")}


@pytest.fixture(scope="module")
def with_failures(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """All stages, one video that cannot be opened, three shards of three rows. Not to be changed."""
    root = tmp_path_factory.mktemp("exported")
    videos = six_videos(root / "videos")
    (videos / "left" / "words.mp4").write_text("words")
    run = {"store": {"shard_clips": 3}, "run": {"executor": "inline", "threads": 1}}
    config = check_config(tiny_stages(root / "whole", videos) | run, "test")
    index(config)
    assert len(extract(config).failures) == 1
    return Cache(config.cache)


def test_there_and_back_gives_the_same_bytes(with_failures: Cache, tmp_path: Path) -> None:
    there = export_cache(with_failures, tmp_path / "hdf5", kind="hdf5")
    assert (there.num_copied, there.num_unsealed, there.damaged) == (12, 0, ())
    assert verify(there.cache.root).ok
    assert there.cache.manifest["store"] == with_failures.manifest["store"] | {"kind": "hdf5"}
    back = export_cache(there.cache, tmp_path / "zarr", kind="zarr").cache
    assert data(back.root) == data(with_failures.root)
    assert records(back.root) == records(there.cache.root) == records(with_failures.root)
    for cache, kind in ((there.cache, "zarr"), (back, "hdf5")):
        (record,) = [r for r in cache.ledger.records("regions/tiny") if r.failures]
        assert record.exported is not None
        assert record.exported.kind == kind
    for name in ("classes.json", "labels.json", "dataset.json"):
        assert (Path(back.root) / name).read_bytes() == (Path(with_failures.root) / name).read_bytes()


def test_compressed_and_back_gives_the_same_bytes(with_failures: Cache, tmp_path: Path) -> None:
    small = export_cache(with_failures, tmp_path / "small", kind="zarr", compression="zstd").cache
    assert verify(small.root).ok
    sizes = [sum(p.stat().st_size for p in Path(c.root).rglob("c.*")) for c in (small, with_failures)]
    assert sizes[0] < sizes[1]
    copied = export_cache(small, tmp_path / "copied", kind="zarr").cache
    assert data(copied.root) == data(small.root), "compressed as the source"
    back = export_cache(small, tmp_path / "back", kind="zarr", compression="none").cache
    assert data(back.root) == data(with_failures.root)


def test_an_exported_cache_is_extracted_and_trained_on(load: Load, tmp_path: Path) -> None:
    source, config = load(name="part"), load("store.kind=hdf5", "train.epochs=1", "train.val_split=null", name="copy")
    config = config.model_copy(update={"train": config.train.model_copy(update={"run": str(tmp_path / "run")})})
    index(source)
    extract(source, stages=["proposals"], part=(0, 2))
    found = export_cache(Cache(source.cache), config.cache, kind="hdf5")
    assert (found.num_copied, found.num_unsealed) == (4, 2), "clips and proposals of two of three shards"
    assert [len(unit.keys) for unit in make_plan(config, found.cache).units] == [2, 4, 2]
    before = sealed_times(config.cache)
    assert not extract(config).failures
    assert before.items() <= sealed_times(config.cache).items()
    whole = load("store.kind=hdf5", name="whole")
    index(whole)
    extract(whole)
    assert data(config.cache) == data(whole.cache)
    assert verify(config.cache).ok
    (run,) = train_runs(config)
    assert run.results.num_train_clips == 6


def test_what_was_sealed_stays_and_what_the_source_redid_is_copied_again(load: Load, video_folder: Path) -> None:
    words = video_folder / "left" / "words.mp4"
    words.write_text("words")
    config = load("store.shard_clips=3", name="source")
    index(config)
    extract(config)
    export_cache(Cache(config.cache), f"{config.cache}_copy", kind="zarr")
    before = sealed_times(f"{config.cache}_copy")
    again = export_cache(Cache(config.cache), f"{config.cache}_copy", kind="zarr")
    assert (again.num_copied, sealed_times(f"{config.cache}_copy")) == (0, before)

    write_video(words, moving_square(12, 96, 80))
    write_video(video_folder / "zoo" / "late.mp4", moving_square(12, 96, 80))
    index(config)
    assert not extract(config, retry_failed=True).failures
    grown = export_cache(Cache(config.cache), f"{config.cache}_copy", kind="zarr")
    assert grown.num_copied == 8, "two shards of four stages: the failed clip's, and the last, which has a row more"
    assert data(grown.cache.root) == data(config.cache)
    assert verify(grown.cache.root).ok


def test_killed_again_and_again_it_goes_on(with_failures: Cache, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for moment in (2, 61):  # cache.json renamed but not durable; in the midst of sealing twelve shards
        command = [sys.executable, str(KILLED), str(moment), "export", with_failures.root, str(out), "--to", "hdf5"]
        assert subprocess.run(command, check=False, timeout=120, env=environment).returncode == -signal.SIGKILL
    before = sealed_times(out)
    assert before, "the kills should have left some work done"
    export_cache(with_failures, out, kind="hdf5")
    assert before.items() <= sealed_times(out).items(), "a sealed shard was written again"
    undisturbed = export_cache(with_failures, tmp_path / "undisturbed", kind="hdf5").cache
    assert data(out) == data(undisturbed.root)
    assert records(out) == records(undisturbed.root)
    assert not [*out.rglob(".tmp-*"), *out.rglob("leases/*")]


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_a_damaged_shard_is_named_and_not_sealed(with_failures: Cache, tmp_path: Path, kind: str) -> None:
    source = export_cache(with_failures, tmp_path / "source", kind=kind).cache
    name = next(name for name in source.ledger.read("features/tiny", 1).objects if "status" not in name)
    path = Path(source.root) / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    found = export_cache(source, tmp_path / "copy", kind="zarr")
    (said,) = found.damaged
    assert f"{name} is damaged (checksum; features/tiny shard 1)" in said
    assert found.num_copied == 11
    assert found.cache.ledger.shards("features/tiny") == [0, 2]
    assert found.cache.ledger.shards("regions/tiny") == [0, 1, 2]
    assert verify(found.cache.root).ok


def test_another_cache_is_not_written_into(
    load: Load, with_failures: Cache, tmp_path: Path, video_folder: Path
) -> None:
    with pytest.raises(ExchangeError, match="is the cache to be exported"):
        export_cache(with_failures, f"{with_failures.root}/../whole", kind="hdf5")
    export_cache(with_failures, tmp_path / "out", kind="zarr")
    with pytest.raises(CacheMismatch, match="kind: 'zarr' -> 'hdf5'"):
        export_cache(with_failures, tmp_path / "out", kind="hdf5")
    other = load("store.shard_clips=3", f"dataset.root={video_folder / 'left'}", name="other")
    index(other)
    before = data(tmp_path / "out")
    with pytest.raises(ExchangeError, match="holds other rows"):
        export_cache(Cache(other.cache), tmp_path / "out", kind="zarr")
    index(load(name="small"))
    with pytest.raises(ExchangeError, match=r"has shards of 3 rows, .* of 2"):
        export_cache(Cache(tmp_path / "small"), tmp_path / "out", kind="zarr")
    assert data(tmp_path / "out") == before
