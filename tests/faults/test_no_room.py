"""A full disk: said with the file's name, nothing half-written counts, and with room again the work goes on."""

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.config import load_config
from tests.caches import write_config
from tests.command_server import Ended, Run
from tests.faults.conftest import Prepared, goes_on

SAID = re.compile(r"error: \S+/cache/\S+ could not be written: (No space left on device|File too large)\. .*make room")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", bytes(mounted), b"tmpfs", 0, b"size=4m"):
        pytest.skip("mounting a file system is not allowed here; a limit on file size stands in for it")
    yield mounted
    assert libc.umount(bytes(mounted)) == 0, os.strerror(ctypes.get_errno())


def leave(folder: Path, num_bytes: int) -> Path:
    """Fill the disk of `folder` until so many bytes are free."""
    filler, disk = folder / "filler", os.statvfs(folder)
    filler.write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - num_bytes)))
    return filler


def said_so(ended: Ended) -> bool:
    return ended.code == 1 and bool(SAID.search(ended.said))


def test_a_disk_that_fills_up_while_shards_are_sealed(small_disk: Path, prepared: Prepared, run: Run) -> None:
    """Room for what the plan counts, the bytes of the arrays, but not for all files around them."""
    config = prepared.copy(small_disk / "cache")
    assert run("extract", config, "--limit", 2).code == 0
    cache = Cache(small_disk / "cache")
    filler = leave(small_disk, make_plan(load_config(config), cache).num_bytes(cache) + 4096)
    ended = run("extract", config)
    assert said_so(ended), ended.said
    assert 1 in cache.ledger.shards("clips"), "it should have come so far"
    assert not list((small_disk / "cache").rglob(".tmp-*"))
    filler.unlink()
    goes_on(config, prepared.undisturbed)


def test_a_full_disk_while_indexing(small_disk: Path, prepared: Prepared, run: Run) -> None:
    config = write_config(small_disk / "cache.yaml", prepared.document | {"cache": str(small_disk / "cache")})
    filler = leave(small_disk, 8192)
    ended = run("index", config)
    assert said_so(ended), ended.said
    filler.unlink()
    index(load_config(config))
    goes_on(config, prepared.undisturbed)


@pytest.mark.parametrize("limit_bytes", [800, 20_000])
def test_files_that_may_not_grow(tmp_path: Path, prepared: Prepared, run: Run, limit_bytes: int) -> None:
    config = prepared.copy(tmp_path / "cache")
    ended = run("extract", config, limit_bytes=limit_bytes)
    assert said_so(ended), ended.said
    goes_on(config, prepared.undisturbed)


def test_a_table_that_may_not_grow(tmp_path: Path, prepare: Callable[[str], Prepared], run: Run) -> None:
    prepared = prepare("zarr")
    config = write_config(tmp_path / "cache.yaml", prepared.document | {"cache": str(tmp_path / "cache")})
    ended = run("index", config, limit_bytes=2000)
    assert said_so(ended), ended.said
    assert "clips.parquet" in ended.said
    index(load_config(config))
    goes_on(config, prepared.undisturbed)
