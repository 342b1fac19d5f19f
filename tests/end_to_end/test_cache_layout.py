"""A cache is what the contract says, read with zarr and xarray alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.config import Config
from tests.end_to_end.conftest import BAD, made

# name: shape of a row, dtype, dimension names, fill value, units, frame_step
CONTRACT = {
    "clips/frame_times": ((8,), "float64", ("frame",), np.nan, "s", 1),
    "features/tiny/res4": (
        (4, 96, 8, 8), "float16", ("frame_by_2", "res4_channel", "res4_y", "res4_x"), np.nan, None, 2,
    ),
    "features/tiny/res4_pooled": ((4, 96), "float32", ("frame_by_2", "res4_channel"), np.nan, None, 2),
    "features/slow/res2": (
        (4, 32, 16, 16), "float16", ("frame_by_2", "res2_channel", "res2_y", "res2_x"), np.nan, None, 2,
    ),
    "features/slow/res2_pooled": ((4, 32), "float32", ("frame_by_2", "res2_channel"), np.nan, None, 2),
    "features/slow/res4": (
        (2, 96, 8, 8), "float16", ("frame_by_4", "res4_channel", "res4_y", "res4_x"), np.nan, None, 4,
    ),
    "features/slow/res4_pooled": ((2, 96), "float32", ("frame_by_4", "res4_channel"), np.nan, None, 4),
    "proposals/boxes": ((4, 6, 4), "float32", ("frame_by_2", "proposal", "box_edge"), np.nan, "px", 2),
    "proposals/scores": ((4, 6), "float32", ("frame_by_2", "proposal"), np.nan, None, 2),
    "proposals/count": ((4,), "int16", ("frame_by_2",), -1, None, 2),
    "regions/tiny/res4": ((4, 6, 96), "float16", ("frame_by_2", "proposal", "res4_channel"), np.nan, None, 2),
    **{
        f"status/{key}": ((), "uint8", (), 0, None, None)
        for key in ("clips", "features/tiny", "features/slow", "proposals", "regions/tiny")
    },
}  # fmt: skip
COORDINATES = ("clip_id", "video_id", "split", "label")
ROWS, FAILED = 8, [6, 7]


@pytest.fixture(scope="module")
def cache(config_for: Callable[..., Config]) -> Path:
    found = made(config_for())
    assert [row.video_id == BAD for row in found.clips.rows()] == [row in FAILED for row in range(ROWS)]
    return Path(found.root)


@pytest.fixture(scope="module")
def group(cache: Path) -> zarr.Group:
    return zarr.open_group(cache / "data.zarr", mode="r")


def read(group: zarr.Group, name: str) -> np.ndarray:
    return np.asarray(group[name])


def test_these_arrays_and_no_others(group: zarr.Group) -> None:
    found = {name for name, member in group.members(max_depth=None) if isinstance(member, zarr.Array)}
    assert {name for name in found if name.rpartition("/")[2] not in COORDINATES} == set(CONTRACT)


@pytest.mark.parametrize("name", CONTRACT)
def test_arrays_are_as_in_the_contract(group: zarr.Group, name: str) -> None:
    array: Any = group[name]
    shape, dtype, dims, fill, units, frame_step = CONTRACT[name]
    assert array.shape == (ROWS, *shape)
    assert array.dtype == dtype
    assert array.metadata.dimension_names == ("row", *dims)
    np.testing.assert_equal(array.fill_value, np.dtype(dtype).type(fill))
    assert array.attrs.get("units") == units
    assert array.attrs.get("frame_step") == frame_step
    assert array.shards == (4, *shape)


@pytest.mark.parametrize("name", [name for name in CONTRACT if not name.startswith("status")])
def test_rows_hold_numbers_and_failed_rows_the_fill_value(group: zarr.Group, name: str) -> None:
    found, fill = read(group, name), CONTRACT[name][3]
    assert np.isfinite(found[:6]).all()
    assert (found[:6] != -1).any()
    np.testing.assert_array_equal(found[FAILED], np.full_like(found[FAILED], fill))


def test_status_of_rows(group: zarr.Group) -> None:
    for name in CONTRACT:
        if name.startswith("status"):
            assert read(group, name).tolist() == [1, 1, 1, 1, 1, 1, 2, 2], name


def test_proposals_are_ranked_inside_the_frame_and_closed_up(group: zarr.Group) -> None:
    boxes, scores, count = (read(group, f"proposals/{name}")[:6] for name in ("boxes", "scores", "count"))
    assert 0 <= count.min() < count.max() <= 6, "some frames have fewer boxes than places, or this proves little"
    valid = np.arange(6) < count[..., None]
    assert (boxes[valid] >= 0).all()
    assert (boxes[valid] <= [96, 80, 96, 80]).all()
    assert (boxes[valid][:, 2:] > boxes[valid][:, :2]).all()
    assert (np.diff(scores)[valid[..., 1:]] <= 0).all()
    assert (boxes[~valid] == 0).all()
    assert (scores[~valid] == 0).all()
    regions = read(group, "regions/tiny/res4")[:6]
    assert (regions[~valid] == 0).all()
    assert (regions[valid] != 0).any(-1).all()


def test_proposals_of_a_crop_overlap_it(group: zarr.Group) -> None:
    """Rows alternate between the left crop, x < 80, and the right one, x > 16."""
    boxes, count = read(group, "proposals/boxes")[:6], read(group, "proposals/count")[:6]
    valid = np.arange(6) < count[..., None]
    assert (boxes[::2][valid[::2]][:, 0] < 80).all()
    assert (boxes[1::2][valid[1::2]][:, 2] > 16).all()


def test_frame_times_are_the_last_frames_before_the_targets(cache: Path, group: zarr.Group) -> None:
    for row, times in zip(Cache(cache).clips.rows(), read(group, "clips/frame_times")[:6], strict=False):
        targets = np.array(row.target_times)
        np.testing.assert_allclose(times, np.floor(targets * 8 + 1e-9) / 8)


def test_every_group_opens_in_xarray(cache: Path, group: zarr.Group) -> None:
    """Without a warning: they are errors here."""
    table = Cache(cache).clips
    for folder in ("clips", "features/tiny", "features/slow", "proposals", "regions/tiny", "status", "status/features"):
        opened = xarray.open_zarr(cache / "data.zarr", group=folder, consolidated=False)
        assert opened.sizes["row"] == ROWS
        assert opened.attrs["title"].startswith("kinegraph cache")
        assert "clips.parquet" in opened.attrs["comment"]
        assert set(opened.data_vars) == {n.rpartition("/")[2] for n in CONTRACT if n.rpartition("/")[0] == folder}
        assert set(opened.coords) == {*COORDINATES}
        for name in ("clip_id", "video_id", "split"):
            assert opened[name].dims == ("row",)
            assert opened[name].values.tolist() == table.column(name), f"{name} of {folder}"
        assert opened.label.values.tolist() == [row.video_id[0] for row in table.rows()]
        for name, variable in opened.data_vars.items():
            np.testing.assert_array_equal(variable.values, read(group, f"{folder}/{name}"))
