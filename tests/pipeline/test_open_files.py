"""Caches of more shards than files may be open."""

import os
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import TooManyOpenFiles, open_files_limit
from kinegraph.pipeline.advice import open_files_advice
from kinegraph.pipeline.exchange.imported_rows import IMPORTED_CLIPS
from kinegraph.pipeline.exchange.importing import import_features
from tests.foreign import features, write_npy

POOLED = "features/imported/last_pooled"
SHARDS, SPARE = 80, 20  # files that a process may open beside those that it has
LIMITED = f"""
import os, resource, sys
def limit():
    open_now = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + {SPARE}, open_now + {SPARE}))
"""
READ_ALL = f"""
import numpy as np, torch
from torch.utils.data import DataLoader
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.exchange.to_store import export_cache
clips = CachedClips(sys.argv[1], [{POOLED!r}])
next(iter(DataLoader(clips, batch_size=2, num_workers=1)))
limit()
whole = [clips.batch(range(len(clips)))[{POOLED!r}]]
whole.append(torch.stack([sample[{POOLED!r}] for sample in clips]))
whole.append(torch.cat([batch[{POOLED!r}].clone() for batch in DataLoader(clips, batch_size=8, num_workers=1)]))
assert len(whole[0]) == {SHARDS}
assert all(torch.equal(other, whole[0]) for other in whole)
np.testing.assert_array_equal(whole[0], np.load(sys.argv[2]))
assert verify(sys.argv[1]).ok
export_cache(Cache(sys.argv[1]), sys.argv[1] + "-copy", kind="zarr")
"""
READ_PLAIN = f"""
import h5py, numpy as np
limit()
with h5py.File(sys.argv[1] + "/data.h5") as file:
    print(int(np.isnan(file[{POOLED!r}][:]).any((1, 2)).sum()))
"""


@pytest.fixture(params=["zarr", "hdf5"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Cache:
    """One clip a shard; `rows.npy` beside it holds the features."""
    arrays = {f"v{n:03}": features(n, 2, 3) for n in range(SHARDS)}
    made = Cache.create(
        tmp_path / "cache", IMPORTED_CLIPS, {"kind": request.param, "shard_clips": 1, "compression": "none"}
    )
    np.save(tmp_path / "rows.npy", np.stack([*arrays.values()]))
    return import_features(write_npy(tmp_path / "npy", arrays), made.root).cache


def limited(program: str, cache: Cache) -> str:
    """What a process prints that may open `SPARE` more files."""
    rows = str(Path(cache.root).with_name("rows.npy"))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + program, cache.root, rows], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_rows_are_read_with_few_open_files(cache: Cache) -> None:
    limited(READ_ALL, cache)


@pytest.mark.parametrize("cache", ["hdf5"], indirect=True)
def test_plain_h5py_takes_what_it_cannot_open_for_missing(cache: Cache) -> None:
    """A fact of HDF5, which docs/exchange.md and SPEC state."""
    assert int(limited(READ_PLAIN, cache)) >= SHARDS - SPARE


def test_the_file_and_the_limit_are_named(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process has no descriptor left, whoever took them."""
    monkeypatch.setattr("kinegraph.cache_schemas.errors.open_files_limit", lambda: 77)
    spec, (soft, hard) = cache.array(POOLED), resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(TooManyOpenFiles, match=r"000003|c\.3\.") as caught:
            cache.store.open_shard(spec, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
    assert "as many files open as it may, 77 (`ulimit -n`)" in str(caught.value)


def test_shards_beyond_the_limit_are_told_of_in_hdf5(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_files_limit() > 0
    assert open_files_advice(cache) == []
    monkeypatch.setattr("kinegraph.pipeline.advice.open_files_limit", lambda: SHARDS)
    told = open_files_advice(cache)
    if cache.manifest["store"]["kind"] == "zarr":
        assert told == []
    else:
        assert "80 shard files" in told[0]
        assert "ulimit -n" in told[0]
