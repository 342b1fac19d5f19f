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
from kinegraph.pipeline.caches.advice import open_files_advice
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
def read_all(cache, rows):
    clips = CachedClips(cache, [{POOLED!r}])
    next(iter(DataLoader(clips, batch_size=2, num_workers=1)))
    limit()
    whole = [clips.batch(range(len(clips)))[{POOLED!r}]]
    whole.append(torch.stack([sample[{POOLED!r}] for sample in clips]))
    whole.append(torch.cat([batch[{POOLED!r}].clone() for batch in DataLoader(clips, batch_size=8, num_workers=1)]))
    assert len(whole[0]) == {SHARDS}
    assert all(torch.equal(other, whole[0]) for other in whole)
    np.testing.assert_array_equal(whole[0], np.load(rows))
    assert verify(cache).ok
    export_cache(Cache(cache), cache + "-copy", kind="zarr")
for cache, rows in zip(sys.argv[1::2], sys.argv[2::2]):
    if not os.fork():
        read_all(cache, rows)
        os._exit(0)
    assert os.wait()[1] == 0, cache
"""
READ_PLAIN = f"""
import h5py, numpy as np
limit()
with h5py.File(sys.argv[1] + "/data.h5") as file:
    print(int(np.isnan(file[{POOLED!r}][:]).any((1, 2)).sum()))
"""


KINDS = ("zarr", "hdf5")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cache]:
    """By kind of store, one clip a shard; `rows.npy` beside each holds the features. Not to be changed."""
    arrays = {f"v{n:03}": features(n, 2, 3) for n in range(SHARDS)}
    made = dict[str, Cache]()
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        store = {"kind": kind, "shard_clips": 1, "compression": "none"}
        empty = Cache.create(folder / "cache", IMPORTED_CLIPS, store)
        np.save(folder / "rows.npy", np.stack([*arrays.values()]))
        made[kind] = import_features(write_npy(folder / "npy", arrays), empty.root).cache
    return made


@pytest.fixture(params=KINDS)
def cache(request: pytest.FixtureRequest, caches: dict[str, Cache]) -> Cache:
    return Cache(caches[request.param].root)


def limited(program: str, *caches: Cache) -> str:
    """What a process prints that may open `SPARE` more files."""
    paths = [path for cache in caches for path in (cache.root, str(Path(cache.root).with_name("rows.npy")))]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + program, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_rows_are_read_with_few_open_files(caches: dict[str, Cache]) -> None:
    limited(READ_ALL, *caches.values())


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
    monkeypatch.setattr("kinegraph.pipeline.caches.advice.open_files_limit", lambda: SHARDS)
    told = open_files_advice(cache)
    if cache.manifest["store"]["kind"] == "zarr":
        assert told == []
    else:
        assert "80 shard files" in told[0]
        assert "ulimit -n" in told[0]
