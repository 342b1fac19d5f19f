"""Caches of every schema version that was ever released are read, by kinegraph and by plain zarr and xarray."""

from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.verification import verify

ARCHIVE = Path(__file__).with_name("archive")
ARRAYS = [
    "clips/frame_times", "features/tiny/res2", "features/tiny/res2_pooled",
    "proposals/boxes", "proposals/scores", "proposals/count", "regions/tiny/res2",
]  # fmt: skip


@pytest.fixture(params=["v1"])
def archived(request: pytest.FixtureRequest) -> Path:
    name: str = request.param
    return ARCHIVE / name


def test_an_archived_cache_is_read(archived: Path) -> None:
    clips = CachedClips(archived, ARRAYS)
    assert clips.cache.classes == ["left", "right"]
    assert (clips.video_ids, clips.failed_videos) == (["left/v0.mp4", "right/v1.mp4"], ["right/words.mp4"])
    assert clips.videos == ["left/v0.mp4", "right/v1.mp4", "right/words.mp4"]
    batch = clips.batch([0, 1])
    assert batch["labels"].tolist() == [0, 1]
    data = zarr.open_group(archived / "data.zarr", mode="r")
    for name in ARRAYS:
        whole = np.asarray(data[name])
        np.testing.assert_array_equal(batch[name].numpy(), whole[:2])
        assert (whole[2] == -1).all() if name == "proposals/count" else np.isnan(whole[2]).all()
    np.testing.assert_array_equal(batch["clips/frame_times"][0], [0.125, 0.375, 0.625, 0.875])
    for name in ARRAYS:
        group, _, member = name.rpartition("/")
        with xarray.open_zarr(archived / "data.zarr", group=group, consolidated=False) as opened:
            np.testing.assert_array_equal(opened[member].values, np.asarray(data[name]))
            assert opened[member].dims[0] == "row"


def test_an_archived_cache_verifies(archived: Path) -> None:
    assert verify(archived).ok
