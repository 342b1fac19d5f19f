"""Shards that we write are what any zarr library reads."""

import json
import math
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import zarr

from kinegraph.cache_schemas.arrays import ArraySpec, feature_arrays, proposal_arrays, status_array
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.zarr_shards import DATA, ZarrStore, array_metadata, object_name


def store_at(folder: Path) -> ZarrStore:
    return ZarrStore(LocalStorage(folder), 4)


def spec(shape: tuple[int, ...], dtype: str = "float16") -> ArraySpec:
    dims = tuple(f"d{axis}" for axis in range(len(shape)))
    return ArraySpec(name="a/b", stage="a", shape=shape, dtype=dtype, dims=dims, fill=math.nan, about="a test")


@pytest.mark.parametrize("shape", [(3, 5), (64, 64), (2,)], ids=["small rows", "large rows", "tiny rows"])
@pytest.mark.parametrize("num_rows", [8, 6], ids=["whole shards", "short last shard"])
def test_zarr_reads_what_we_write(tmp_path: Path, shape: tuple[int, ...], num_rows: int) -> None:
    array = spec(shape)
    rows = np.random.default_rng(0).normal(size=(num_rows, *shape)).astype(array.dtype)
    store = store_at(tmp_path)
    store.declare([array], num_rows)
    for shard in range(2):
        store.write_shard("a", shard, [(array, rows[4 * shard : 4 * shard + 4])])
    read = zarr.open_array(str(tmp_path / DATA / "a/b"), mode="r")
    np.testing.assert_array_equal(read[:], rows)
    view = store.open_shard(array, 1)
    np.testing.assert_array_equal(view.row(1), rows[5])


def test_absent_shards_read_as_nan(tmp_path: Path) -> None:
    array = spec((3,))
    store_at(tmp_path).declare([array], 8)
    store_at(tmp_path).write_shard("a", 1, [(array, np.ones((4, 3), np.float16))])
    read = zarr.open_array(str(tmp_path / DATA / "a/b"), mode="r")[:]
    assert np.isnan(read[:4]).all()
    assert (read[4:] == 1).all()


FEATURES = feature_arrays("b", "t", (4, 8, 3, 3), 2, ("maps", "pooled"), "float16")


@pytest.mark.parametrize("array", [*FEATURES, *proposal_arrays(8, 5, 1), status_array("x/y")], ids=lambda a: a.name)
def test_metadata_is_what_zarr_would_write(array: ArraySpec) -> None:
    store, attributes = zarr.storage.MemoryStore(), cast(dict[str, Any], array.attributes())
    zarr.create_array(
        store, shape=(10, *array.shape), dtype=array.dtype, fill_value=array.fill, compressors=None,
        chunks=(array.inner_rows(4), *array.shape), shards=(4, *array.shape), attributes=attributes,
        chunk_key_encoding={"name": "default", "separator": "."}, dimension_names=("row", *array.dims),
    )  # fmt: skip
    theirs = json.loads(store._store_dict["zarr.json"].to_bytes())
    assert json.loads(array_metadata(array, 10, 4)) == theirs


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    array = spec((64, 64))
    store_at(tmp_path).write_shard("a", 0, [(array, np.ones((4, 64, 64), np.float16))])
    path = tmp_path / object_name("a/b", 0, 3)
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"checksum.*kinegraph verify"):
        store_at(tmp_path).open_shard(array, 0)
    path.write_bytes(data[:40])
    with pytest.raises(ValueError, match="40 bytes, shorter"):
        store_at(tmp_path).open_shard(array, 0)


def test_wrong_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no shard of"):
        store_at(tmp_path).write_shard("a", 0, [(spec((3,)), np.ones((2, 3), np.float32))])


def test_index_lies_at_the_end(tmp_path: Path) -> None:
    array = spec((64, 64))
    store_at(tmp_path).write_shard("a", 0, [(array, np.ones((3, 64, 64), np.float16))])
    tail = (tmp_path / object_name("a/b", 0, 3)).read_bytes()[-68:-4]
    assert struct.unpack("<8Q", tail) == (0, 8192, 8192, 8192, 16384, 8192, 2**64 - 1, 2**64 - 1)
