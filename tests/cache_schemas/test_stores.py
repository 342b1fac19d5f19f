"""Every store keeps the one contract, and what is its own."""

import json
import time
import uuid
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.hdf5_shards import Hdf5Store
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cache_schemas.store import Store
from kinegraph.cache_schemas.stores import open_store
from kinegraph.cache_schemas.zarr_shards import DATA, ZarrStore, array_metadata, object_name
from tests.cache_schemas.store_contract import (
    SHARD_CLIPS,
    SPECS,
    PlainReader,
    StoreContract,
    files,
    fill_store,
    spec,
    values,
)


class ZarrContract(StoreContract):
    compression = "none"

    @pytest.fixture
    def store(self, storage: Storage) -> Store:
        return ZarrStore(storage, SHARD_CLIPS, self.compression)

    @pytest.fixture
    def plain(self, storage: Storage) -> PlainReader:
        return lambda name: np.asarray(zarr.open_array(f"{storage.root}/{DATA}/{name}", mode="r")[...])


class TestZarr(ZarrContract):
    pass


class TestZarrInMemory(ZarrContract):
    """`memory://`, which lies in one process, and which zarr wraps into an asynchronous file system."""

    methods = ()

    @pytest.fixture
    def storage(self) -> Storage:
        return open_storage(f"memory://{uuid.uuid4().hex}")


class TestZarrOnS3(ZarrContract):
    """A request takes 10 ms, so that one case stands for several which differ above the storage."""

    @pytest.fixture
    def storage(self, s3: str) -> Storage:
        return open_storage(f"{s3}/cache")

    @pytest.mark.parametrize("num_rows", [6], ids=["short last shard"])
    def test_the_same_values_come_back(self, store: Store, plain: PlainReader, num_rows: int) -> None:
        super().test_the_same_values_come_back(store, plain, num_rows)

    @pytest.mark.parametrize("kept", [0, 0.5], ids=str)
    def test_a_truncated_object_is_named(self, store: Store, storage: Storage, kept: float) -> None:
        super().test_a_truncated_object_is_named(store, storage, kept)

    def test_objects_that_do_not_describe_the_arrays_are_named(self, store: Store, storage: Storage) -> None:
        store.declare(SPECS[:1], 6)
        assert store.misdeclared(SPECS[:1], range(6, 7)) == []
        name = f"{DATA}/{SPECS[0].name}/zarr.json"
        storage.put(name, [storage.get(name)[:-5]])
        assert store.misdeclared(SPECS[:1], range(6, 7)) == [name]
        storage.delete(name)
        assert store.misdeclared(SPECS[:1], range(6, 7)) == [name]


class CompressedContract(ZarrContract):
    @pytest.mark.parametrize("array", SPECS, ids=lambda array: array.name)
    def test_metadata_is_what_zarr_would_write(self, array: ArraySpec) -> None:
        memory, attributes = zarr.storage.MemoryStore(), cast(dict[str, Any], array.attributes())
        zarr.create_array(
            memory, shape=(10, *array.shape), dtype=array.dtype, fill_value=array.fill,
            compressors=BloscCodec(cname=cast(Any, self.compression), clevel=5, shuffle="bitshuffle"),
            chunks=(array.inner_rows(4), *array.shape), shards=(4, *array.shape), attributes=attributes,
            chunk_key_encoding={"name": "default", "separator": "."}, dimension_names=("row", *array.dims),
        )  # fmt: skip
        theirs = json.loads(memory._store_dict["zarr.json"].to_bytes())
        assert json.loads(array_metadata(array, 10, 4, self.compression)) == theirs

    def test_it_is_smaller(self, store: Store) -> None:
        written = store.write_shard("regions/b", 0, [(SPECS[0], values(SPECS[0], 4))])
        assert sum(size for size, _ in written.values()) < 0.5 * 4 * SPECS[0].row_bytes

    def test_a_damaged_chunk_is_named(self, store: Store, storage: Storage) -> None:
        fill_store(store, 4)
        name = object_name(SPECS[0].name, 0, 3)
        content = bytearray(storage.get(name))
        content[4:16] = b"\xff" * 12  # sizes in the Blosc header
        storage.put(name, [content])
        view = store.open_shard(SPECS[0], 0)
        with pytest.raises(ValueError, match=r"c\.0\.0\.0: .*damaged header; run `kinegraph verify`"):
            view.row(0)
        np.testing.assert_array_equal(view.row(1), values(SPECS[0], 4)[1])


class TestZarrLz4(CompressedContract):
    compression = "lz4"


class TestZarrZstd(CompressedContract):
    compression, methods = "zstd", ("fork",)


class TestZarrZstdInMemory(CompressedContract):
    compression, methods = "zstd", ()

    @pytest.fixture
    def storage(self) -> Storage:
        return open_storage(f"memory://{uuid.uuid4().hex}")


class TestHdf5(StoreContract):
    @pytest.fixture
    def store(self, storage: Storage) -> Store:
        return Hdf5Store(storage, SHARD_CLIPS)

    @pytest.fixture
    def plain(self, tmp_path: Path) -> PlainReader:
        def read(name: str) -> np.ndarray:
            with h5py.File(tmp_path / "data.h5") as file:
                return np.asarray(file[name][...])

        return read

    def test_dimension_names_and_units_are_attributes(self, store: Store, tmp_path: Path) -> None:
        fill_store(store, 4)
        with h5py.File(tmp_path / "data.h5") as file:
            attributes = file["regions/b/t"].attrs
            assert list(attributes["dimension_names"]) == ["row", "d0", "d1"]
            assert attributes["long_name"] == "a test"
            assert json.loads(attributes["kinegraph"]) == {"schema": 1, "stage": "regions/b"}

    def test_no_time_of_day_is_in_a_file(self, store: Store, tmp_path: Path) -> None:
        fill_store(store, 4)
        before = files(tmp_path)
        (tmp_path / "data.h5").unlink()
        time.sleep(1.1)
        fill_store(store, 4)
        assert files(tmp_path) == before

    def test_a_damaged_join_is_written_again(self, store: Store, plain: PlainReader, tmp_path: Path) -> None:
        fill_store(store, 4)
        (tmp_path / "data.h5").write_bytes(b"no HDF5")
        store.declare(SPECS, 4)
        np.testing.assert_array_equal(plain(SPECS[0].name), values(SPECS[0], 4))

    def test_plain_h5py_may_have_it_open(self, store: Store, tmp_path: Path) -> None:
        """HDF5 refuses to open a file in two ways within one process."""
        fill_store(store, 4)
        with h5py.File(tmp_path / "data.h5") as file:
            joined = file[SPECS[0].name]
            np.testing.assert_array_equal(joined[1], store.open_shard(SPECS[0], 0).row(1))
            store.declare(SPECS, 4)
            np.testing.assert_array_equal(joined[2], store.open_shard(SPECS[0], 0).row(2))

    def test_axes_have_scales_in_the_form_of_netcdf(self, store: Store, tmp_path: Path) -> None:
        fill_store(store, 6)
        with h5py.File(tmp_path / "data.h5") as file:
            assert file.attrs["title"].startswith("kinegraph cache")
            for array in (SPECS[0], SPECS[-1]):
                dataset = file[array.name]
                assert [axis.keys() for axis in dataset.dims] == [
                    [f"This is a netCDF dimension but not a netCDF variable.{size:10d}"] for size in dataset.shape
                ]
                scales = [axis[0] for axis in dataset.dims]
                assert [scale.name.rpartition("/")[2] for scale in scales] == ["row", *array.dims]
                assert [scale.id.get_storage_size() for scale in scales] == [0] * len(scales)

    def test_an_array_may_have_the_name_of_a_dimension(self, store: Store, plain: PlainReader) -> None:
        named = [spec("regions/b/row"), spec("regions/b/small", (3, 5), "float32")]
        store.declare(named, 6)
        assert plain("regions/b/row").shape == (6, *named[0].shape)

    def test_rows_are_mapped_and_aligned(self, store: Store) -> None:
        fill_store(store, 4)
        for array in SPECS:
            row = store.open_shard(array, 0).row(1)
            assert not row.flags.owndata
            assert not row.flags.writeable
            assert row.flags.aligned


def test_compression_by_kind_of_array(tmp_path: Path) -> None:
    layout = {"kind": "zarr", "shard_clips": SHARD_CLIPS, "compression": {"regions": "zstd"}}
    fill_store(open_store(LocalStorage(tmp_path), layout), 4)
    group = zarr.open_group(tmp_path / DATA, mode="r")
    assert {name: bool(group[name].compressors) for name in ("regions/b/t", "status/regions/b")} == {
        "regions/b/t": True,
        "status/regions/b": False,
    }
