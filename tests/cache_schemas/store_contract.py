"""What every store has to keep: subclass `StoreContract` with `store`, and `plain`, which reads it without us.

It lies on a `storage`: a folder, unless a subclass says otherwise.
"""

import dataclasses
import math
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kinegraph.cache_schemas.arrays import ArraySpec, status_array
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.store import Store

SHARD_CLIPS = 4
LARGE = (16, 200)  # a row of it is an inner chunk of its own
PlainReader = Callable[[str], np.ndarray]


def spec(
    name: str = "regions/b/t", shape: tuple[int, ...] = LARGE, dtype: str = "float16", fill: float = math.nan
) -> ArraySpec:
    dims = tuple(f"d{axis}" for axis in range(len(shape)))
    return ArraySpec(name=name, stage="regions/b", shape=shape, dtype=dtype, dims=dims, fill=fill, about="a test")


SPECS = [spec(), spec("regions/b/small", (3, 5), "float32"), spec("regions/b/count", (2,), "int16", -1)]
SPECS.append(status_array("regions/b"))


def values(array: ArraySpec, num_rows: int, seed: int = 0) -> np.ndarray:
    """Rows that compress."""
    found: np.ndarray = np.random.default_rng(seed).integers(1, 9, (num_rows, *array.shape)).astype(array.dtype)
    return found


def fill_store(store: Store, num_rows: int, shards: range | None = None) -> None:
    store.declare(SPECS, num_rows)
    for shard in shards if shards is not None else range(-(-num_rows // SHARD_CLIPS)):
        rows = slice(SHARD_CLIPS * shard, SHARD_CLIPS * (shard + 1))
        store.write_shard("regions/b", shard, [(array, values(array, num_rows)[rows]) for array in SPECS])


class StoreContract:
    methods: tuple[str, ...] = ("fork", "spawn")  # by which other processes see the objects

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(tmp_path)

    @pytest.fixture
    def store(self, storage: Storage) -> Store:
        raise NotImplementedError

    @pytest.fixture
    def plain(self, storage: Storage) -> PlainReader:
        raise NotImplementedError

    @pytest.mark.parametrize("num_rows", [8, 6, 3], ids=["whole shards", "short last shard", "one short shard"])
    def test_the_same_values_come_back(self, store: Store, plain: PlainReader, num_rows: int) -> None:
        fill_store(store, num_rows)
        for array in SPECS:
            expected = values(array, num_rows)
            read = plain(array.name)
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, expected)
            for row in range(num_rows):
                found = store.open_shard(array, row // SHARD_CLIPS).row(row % SHARD_CLIPS)
                assert found.dtype == array.dtype
                np.testing.assert_array_equal(found, expected[row])
                assert not found.flags.writeable

    def test_rows_may_be_read_in_any_order_from_one_view(self, store: Store) -> None:
        fill_store(store, 4)
        for array in SPECS:
            view = store.open_shard(array, 0)
            held = [(row, view.row(row)) for row in (3, 0, 2, 0, 1)]
            for row, found in held:
                np.testing.assert_array_equal(found, values(array, 4)[row])

    def test_growing_keeps_old_rows_and_makes_room(self, store: Store, plain: PlainReader) -> None:
        fill_store(store, 6)
        store.declare(SPECS, 10)
        for array in SPECS:
            read = plain(array.name)
            np.testing.assert_array_equal(read[:6], values(array, 6))
            np.testing.assert_array_equal(read[6:], array.empty(4))
        fill_store(store, 10)
        for array in SPECS:
            np.testing.assert_array_equal(plain(array.name), values(array, 10))

    def test_absent_shards_read_as_fill_and_appear_once_written(self, store: Store, plain: PlainReader) -> None:
        fill_store(store, 8, range(1, 2))
        for array in SPECS:
            np.testing.assert_array_equal(plain(array.name)[:4], array.empty(4))
            np.testing.assert_array_equal(plain(array.name)[4:], values(array, 8)[4:])
            with pytest.raises(FileNotFoundError):
                store.open_shard(array, 0)
        fill_store(store, 8, range(1))
        for array in SPECS:
            np.testing.assert_array_equal(plain(array.name), values(array, 8))

    def test_arrays_declared_later_join_the_others(self, store: Store, plain: PlainReader) -> None:
        fill_store(store, 4)
        later = dataclasses.replace(spec("proposals/boxes"), stage="proposals")
        store.declare([*SPECS, later], 4)
        np.testing.assert_array_equal(plain(SPECS[0].name), values(SPECS[0], 4))
        np.testing.assert_array_equal(plain(later.name), later.empty(4))

    def test_the_same_rows_give_the_same_bytes(self, store: Store, storage: Storage) -> None:
        fill_store(store, 6)
        first = objects(storage)
        for name in first:
            storage.delete(name)
        fill_store(store, 6)
        assert objects(storage) == first
        assert first

    def test_declaring_again_writes_nothing(
        self, store: Store, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.declare(SPECS, 6)
        monkeypatch.setattr(storage, "put", None)
        store.declare(SPECS, 6)

    def test_objects_that_do_not_describe_the_arrays_are_named(self, store: Store, storage: Storage) -> None:
        store.declare(SPECS, 6)
        assert store.misdeclared(SPECS, range(6, 7)) == []
        assert store.misdeclared(SPECS, range(4, 9)) == []
        assert store.misdeclared(SPECS, range(7, 9))
        for other in (spec("regions/b/other"), spec(shape=(16, 201)), spec(dtype="float32"), spec(fill=0)):
            assert store.misdeclared([other], range(6, 7)), other
        for name, content in objects(storage).items():
            storage.put(name, [content[:-5]])
            assert store.misdeclared(SPECS, range(6, 7)) == [name]
            storage.delete(name)
            assert store.misdeclared(SPECS, range(6, 7)) == [name]
            storage.put(name, [content])

    def test_rows_of_a_shard_are_told_without_cache_json(self, store: Store, storage: Storage) -> None:
        assert store.declared_shard_clips(SPECS) is None
        store.declare(SPECS, 6)
        assert store.declared_shard_clips(SPECS) == SHARD_CLIPS
        for name in [*objects(storage)]:
            storage.put(name, [b"[]"])
        assert store.declared_shard_clips(SPECS) is None

    def test_what_was_written_is_named_with_its_size_and_checksum(self, store: Store, storage: Storage) -> None:
        written = store.write_shard("regions/b", 0, [(array, values(array, 4)) for array in SPECS])
        assert written == {name: storage.digest(name) for name in objects(storage)}

    @pytest.mark.parametrize("kept", [0, 0.3, 0.5, 0.99], ids=str)
    def test_a_truncated_object_is_named(self, store: Store, storage: Storage, kept: float) -> None:
        fill_store(store, 4)
        for name, content in objects(storage).items():
            storage.put(name, [content[: int(kept * len(content))]])
        for array in SPECS:
            with pytest.raises(ValueError, match="kinegraph verify"):
                store.open_shard(array, 0)

    def test_wrong_rows_are_refused(self, store: Store) -> None:
        for wrong in (np.ones((2, 3), "float16"), values(SPECS[0], 5), values(SPECS[0], 2).astype("float32")):
            with pytest.raises(ValueError, match="no shard of"):
                store.write_shard("regions/b", 0, [(SPECS[0], wrong)])

    def test_a_store_travels_by_pickle(self, store: Store) -> None:
        fill_store(store, 4)
        view = pickle.loads(pickle.dumps(store)).open_shard(SPECS[0], 0)
        np.testing.assert_array_equal(view.row(1), values(SPECS[0], 4)[1])

    def test_shards_and_rows_are_opened_and_read_together(self, store: Store) -> None:
        fill_store(store, 8)
        wanted = [(array, shard) for array in SPECS for shard in (1, 0)]
        opened = store.open_shards(wanted)
        places = [(shard, row) for shard in opened for row in (2, 0, 2)]
        expected = [values(array, 8)[4 * shard + row] for array, shard in wanted for row in (2, 0, 2)]
        for found, row in zip(store.rows(places), expected, strict=True):
            np.testing.assert_array_equal(found, row)
            assert not found.flags.writeable
        with pytest.raises(FileNotFoundError):
            store.open_shards([(SPECS[0], 0), (SPECS[0], 2)])

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_other_processes_read_too(self, store: Store) -> None:
        """Also once this process has read: what it opened must not hang or confuse its children."""
        fill_store(store, 4)
        view = store.open_shard(SPECS[0], 0)
        view.row(0)
        for method in self.methods:
            with multiprocessing.get_context(method).Pool(1) as pool:
                found = pool.apply(read_row, (store, SPECS[0], 2))
                np.testing.assert_array_equal(found, values(SPECS[0], 4)[2])
        np.testing.assert_array_equal(view.row(3), values(SPECS[0], 4)[3])


def read_row(store: Store, array: ArraySpec, row: int) -> np.ndarray:
    return store.open_shard(array, 0).row(row).copy()


def objects(storage: Storage) -> dict[str, bytes]:
    """All shards and what declares them."""
    names = [name for folder in ("data.zarr", "shards") for name in storage.names(folder)]
    return {name: storage.get(name) for name in [*names, *(["data.h5"] if storage.exists("data.h5") else [])]}


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
