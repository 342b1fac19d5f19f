"""Coordinates that xarray shows: copies of columns of clips.parquet, which may be missing but never stop anything."""

import json
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray

from kinegraph.cache_schemas import coordinates
from kinegraph.cache_schemas.arrays import ArraySpec, status_array
from kinegraph.cache_schemas.cache import CLASSES, LABELS, Cache
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.coordinates import Coordinate, coordinates_of, label_names
from kinegraph.cache_schemas.files import Buffer
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.zarr_shards import DATA, ZarrStore

ARCHIVE = Path(__file__).parent / "archive" / "v1"
GROUPS = ["clips", "features/tiny", "proposals", "regions/tiny", "status", "status/features", "status/regions"]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache of before there were coordinates."""
    shutil.copytree(ARCHIVE, tmp_path / "cache")
    return Cache(tmp_path / "cache")


def opened(cache: Cache, group: str) -> xarray.Dataset:
    with xarray.open_zarr(f"{cache.root}/{DATA}", group=group, consolidated=False) as found:
        loaded: xarray.Dataset = found.load()
    return loaded


def shown(cache: Cache, group: str) -> dict[str, list[str]]:
    found = opened(cache, group)
    assert all(found[name].dims == ("row",) for name in found.coords)
    return {str(name): found[name].values.tolist() for name in found.coords}


def with_splits(cache: Cache, split: str) -> Cache:
    table = cache.clips.table
    column = table.column_names.index("split")
    ClipsTable(table.set_column(column, "split", [[split] * len(table)])).write(cache.storage)
    return Cache(cache.root)


def test_every_group_with_rows_gets_them(cache: Cache) -> None:
    assert not opened(cache, "clips").coords
    before = opened(cache, "features/tiny")
    cache.declare_arrays()
    ids = cache.clips.column("clip_id")
    for group in GROUPS:
        assert shown(cache, group) == {
            "clip_id": ids,
            "video_id": cache.clips.column("video_id"),
            "split": ["train"] * 3,
            "label": ["left", "right", "right"],
        }
    now = opened(cache, "features/tiny")
    assert set(now.data_vars) == set(before.data_vars)
    assert set(now.res2.coords) == {*coordinates.COORDINATES}
    np.testing.assert_array_equal(now.set_xindex("clip_id").sel(clip_id=ids[1]).res2, before.res2[1])


def test_what_is_equal_is_not_written_again(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.declare_arrays()
    changed = with_splits(cache, "test")
    put, names = changed.storage.put, list[str]()

    def noted(name: str, parts: Iterable[Buffer]) -> tuple[int, str]:
        names.append(name)
        return put(name, parts)

    monkeypatch.setattr(changed.storage, "put", noted)
    cache.declare_arrays()
    changed.declare_arrays()
    assert not names, "only index asks whether they are equal"
    changed.declare_arrays(renew=True)
    ends = ("split/c/0", "split/zarr.json", "zarr.json")
    assert names == [f"{DATA}/{group}/{end}" for group in dict.fromkeys(map(of_group, names)) for end in ends]
    assert {of_group(name) for name in names} == {*GROUPS}
    names.clear()
    changed.declare_arrays(renew=True)
    assert not names


def of_group(name: str) -> str:
    return name.removeprefix(f"{DATA}/").removesuffix("/zarr.json").removesuffix("/c/0").removesuffix("/split")


class KilledError(Exception):
    pass


@pytest.mark.parametrize("puts", [1, 2, 3, 11])
def test_a_writer_may_die_after_any_put(cache: Cache, monkeypatch: pytest.MonkeyPatch, puts: int) -> None:
    """Each group can be read then, and the next writer ends what was begun."""
    cache.declare_arrays()
    changed = with_splits(cache, "test")
    put, names = changed.storage.put, list[str]()

    def put_and_die(name: str, parts: Iterable[bytes]) -> None:
        put(name, parts)
        names.append(name)
        if len(names) == puts:
            raise KilledError

    monkeypatch.setattr(changed.storage, "put", put_and_die)
    with pytest.raises(KilledError):
        changed.declare_arrays(renew=True)
    reached = of_group(names[-1])
    assert shown(cache, reached)["split"] == ["test"] * 3
    assert shown(cache, GROUPS[GROUPS.index(reached) + 1])["split"] == ["train"] * 3
    monkeypatch.undo()
    changed.declare_arrays(renew=True)
    assert [shown(cache, group)["split"][0] for group in (reached, GROUPS[-1])] == ["test", "test"]


def test_rows_of_many_labels_have_a_list_of_names(cache: Cache) -> None:
    cache.storage.put(LABELS, [json.dumps({"multi_label": True}).encode()])
    cache.declare_arrays()
    assert shown(cache, "clips")["label"] == ['["left"]', '["right"]', '["right"]']
    assert opened(cache, "clips").label.attrs["long_name"] == coordinates.LABELS_ABOUT
    assert label_names([[1, 0], []], ['a "b"', "é"], many=True) == ['["é", "a \\"b\\""]', "[]"]
    assert label_names([[1], []], ["a", "b"], many=False) == ["b", ""]


@pytest.mark.parametrize("classes", [None, b"[]", b"{"], ids=["missing", "too few", "damaged"])
def test_without_readable_classes_there_are_no_labels(cache: Cache, classes: bytes | None) -> None:
    cache.storage.delete(CLASSES) if classes is None else cache.storage.put(CLASSES, [classes])
    cache.declare_arrays()
    assert set(shown(cache, "clips")) == {"clip_id", "video_id", "split"}
    cache.storage.put(CLASSES, [b'["left", "right"]'])
    cache.declare_arrays()
    assert shown(cache, "clips")["label"] == ["left", "right", "right"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"attributes": {"coordinates": 1}}', b"[" * 100_000])
def test_a_damaged_group_is_written_anew(cache: Cache, content: bytes) -> None:
    cache.storage.put(f"{DATA}/clips/zarr.json", [content])
    cache.declare_arrays()
    assert shown(cache, "clips")["split"] == ["train"] * 3


def rows(number: int) -> list[Coordinate]:
    ids = [f"v{row}:0:full" for row in range(number)]
    return coordinates_of({"clip_id": ids, "video_id": ids, "split": ids}, ids, many=False)


def test_an_array_of_such_a_name_stays_an_array(tmp_path: Path) -> None:
    """A backbone may be called `label`; it may come later than the coordinate."""
    store, named = ZarrStore(LocalStorage(tmp_path), 4), status_array("features/label")
    store.declare([status_array("features/net")], 3, lambda: rows(3))
    arrays: list[ArraySpec] = [status_array("features/net"), named]
    store.declare(arrays, 3, lambda: rows(3))
    with xarray.open_zarr(tmp_path / DATA, group="status/features", consolidated=False) as found:
        assert set(found.data_vars) == {"label", "net"}
        assert set(found.coords) == {"clip_id", "video_id", "split"}
        np.testing.assert_array_equal(found.label, [0, 0, 0])
    assert store.misdeclared(arrays, range(3, 4)) == []


def test_rows_may_be_more_than_one_chunk_and_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinates, "CHUNK_ROWS", 2)
    store = ZarrStore(LocalStorage(tmp_path), 4)
    for number in (3, 5, 6):
        store.declare([status_array("clips")], number, partial(rows, number))
        with xarray.open_zarr(tmp_path / DATA, group="status", consolidated=False) as found:
            assert found.clip_id.values.tolist() == [f"v{row}:0:full" for row in range(number)]
            assert found.sizes["row"] == number
