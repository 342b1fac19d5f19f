"""Folders of numbered images go the whole way: listed, indexed, extracted, found changed, tried again."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.datasets.errors import DatasetError
from tests.caches import same_bytes
from tests.conftest import moving_square

Load = Callable[..., Config]


def write_frames(folder: Path, seed: int, pattern: str = "img_%05d.png") -> None:
    folder.mkdir(parents=True)
    for number, pixels in enumerate(moving_square(12, 96, 80, seed=seed), 1):
        Image.fromarray(pixels).save(folder / (pattern % number))


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    root = tmp_path / "frames"
    for number in range(4):
        write_frames(root / ("left" if number % 2 else "right") / f"v{number}", number)
    (root / "left" / "cover.jpg").touch()
    return root


def test_folders_of_images_are_videos(load: Load, frames: Path) -> None:
    config = load(f"dataset.root={frames}", "dataset.frame_rate=8")
    found = index(config)
    assert found.cache.clips.column("video_id") == ["left/v1", "left/v3", "right/v0", "right/v2"]
    assert (found.cache.classes, found.left_out) == (["left", "right"], {".jpg": 1})
    row = next(found.cache.clips.rows())
    assert (row.frame_rate, row.end_seconds, row.frame_width, row.frame_height) == (8.0, 1.5, 96, 80)
    assert not extract(config).failures
    assert not extract(config).plan.units
    assert verify(config.cache).ok
    before = same_bytes(config.cache)
    index(config)
    assert same_bytes(config.cache) == before
    with pytest.raises(CacheMismatch, match=r"left/v1:0:center was indexed with"):
        index(load(f"dataset.root={frames}", "dataset.frame_rate=16"))


def test_a_changed_image_is_seen_and_a_missing_one_fails_its_video(load: Load, frames: Path) -> None:
    gone = frames / "left" / "v1" / "img_00005.png"
    content = gone.read_bytes()
    gone.unlink()
    config = load(f"dataset.root={frames}", "dataset.frame_rate=8")
    assert "img_00005.png is missing" in str(index(config).unreadable["left/v1"])
    (failure,) = {(f.clip_id, f.reason, "img_00005.png is missing" in f.detail) for f in extract(config).failures}
    assert failure == ("left/v1:0:center", "unreadable", True)
    gone.write_bytes(content)
    index(config)
    assert not extract(config, retry_failed=True).failures
    Image.new("RGB", (96, 80)).save(frames / "right" / "v2" / "img_00012.png")
    assert make_plan(config, Cache(config.cache)).changed_videos == ["right/v2"]
    assert not extract(config).failures


def test_a_csv_names_folders_of_images(load: Load, frames: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label,start,end\nleft/v1,l,0,1\nleft/v1,m,0.5,1.5\nnowhere,l,,\n")
    given = (f"dataset.root={frames}", f"dataset.annotations={tmp_path / 'list.csv'}")
    with pytest.raises(DatasetError, match=r"left/v1 is a folder\. For folders of images set dataset\.frame_rate"):
        index(load(*given))
    config = load(*given, "dataset.frame_rate=8")
    found = index(config)
    assert [str(error) for error in found.unreadable.values()] == [f"missing: no file {frames}/nowhere"]
    assert [row.frame_rate for row in ClipsTable.read(found.cache.storage).rows()] == [8.0, 8.0, None]
    assert {failure.clip_id for failure in extract(config).failures} == {"nowhere:0:center"}


def test_without_a_rate_folders_of_images_are_left_out_with_a_word(
    load: Load, frames: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        DatasetError, match=r"4 folders of numbered images below .*, and no video\. For folders of images set"
    ):
        index(load(f"dataset.root={frames}"))
    (frames / "left" / "v.mp4").touch()
    found = index(load(f"dataset.root={frames}", name="other"))
    assert (found.num_videos, found.left_out) == (1, {".png": 48, ".jpg": 1})
    assert "4 folders of numbered images" in caplog.text
