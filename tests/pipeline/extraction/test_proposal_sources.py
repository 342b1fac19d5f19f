"""Sources that look at no pixels, through the whole extraction: grids, and files of boxes that come and change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.run import Outcome, extract
from tests.caches import rows_of, same_bytes

Load = Callable[..., Config]
BAD = "left/v1.mp4"  # of 13 frames
CROPS = "clips.crops=[left,right]"


def grid(rows: int, columns: int) -> str:
    return f"proposals={{source: grid, cells: [{rows}, {columns}], every: 2}}"


def box_files(folder: Path, ending: str = "json", **options: Any) -> str:
    given = {"source": "file", "files": f"{folder}/{{stem}}.{ending}", "every": 2, "top": 3} | options
    return f"proposals={json.dumps(given)}"


def write_boxes(folder: Path, video_id: str, num_frames: int, *, moved: float = 0) -> Path:
    """Boxes whose left edge is the number of the frame, in every frame of a video of 8 frames a second."""
    path = (folder / video_id).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [
        {"seconds": t / 8, "index": t, "boxes": [[t + moved, 2, 60, 40], [8, 8, 96, 80]], "scores": [2.0, 1.0]}
        for t in range(num_frames)
    ]
    path.write_text(json.dumps({"num_frames": num_frames, "frames": frames}))
    return path


@pytest.fixture
def boxes(tmp_path: Path, video_folder: Path) -> Path:
    """A folder of box files for all videos: video number n has 12 + n frames."""
    for video in video_folder.rglob("*.mp4"):
        video_id = video.relative_to(video_folder).as_posix()
        write_boxes(tmp_path / "boxes", video_id, 12 + int(video.stem[1:]))
    return tmp_path / "boxes"


def run(config: Config, **options: Any) -> Outcome:
    index(config)
    return extract(config, **options)


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("kinegraph.pipeline.extraction.feed.decode_clips", never)


def test_a_grid_under_crops(load: Load) -> None:
    """Frames of 96x80 px in 2 x 3 cells; a crop is a square of 80 px at the left or the right."""
    config = load(grid(2, 3), CROPS)
    assert not run(config).failures
    left, right = rows_of(config.cache, "proposals/boxes")[:2, 0]
    assert left.tolist() == right.tolist()  # 16 px beyond the edge are within a cell of 32
    assert left[:2].tolist() == [[0, 0, 32, 40], [32, 0, 64, 40]]
    assert (rows_of(config.cache, "proposals/count") == 6).all()
    assert verify(config.cache).ok
    assert verify(config.cache).proposals_per_frame == 6
    assert not verify(config.cache).warnings  # a grid has no scores


@pytest.mark.parametrize("kind", ["grid", "file"])
def test_without_pixels_nothing_is_decoded_again(
    load: Load, boxes: Path, video_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """And the cache ends as if all stages had run together, with a video that cannot be read."""
    (video_folder / BAD).write_text("no video")
    proposals = grid(2, 2) if kind == "grid" else box_files(boxes)
    together, apart = load(proposals, name="together"), load(proposals, name="apart")
    assert [failure.reason for failure in run(together).failures] == ["unreadable"]
    run(apart, stages=["features"])
    forbid_decoding(monkeypatch)
    extract(apart)
    assert same_bytes(apart.cache) == same_bytes(together.cache)


def test_files_by_index_and_by_seconds_are_the_same(load: Load, boxes: Path) -> None:
    found = []
    for name in ("seconds", "index"):
        config = load(box_files(boxes, frames=name), CROPS, name=name)
        assert not run(config).failures
        found.append({part: rows_of(config.cache, f"proposals/{part}") for part in ("boxes", "scores", "count")})
    assert all(np.array_equal(found[0][part], found[1][part]) for part in found[0])
    times = rows_of(config.cache, "clips/frame_times")[:, ::2]
    np.testing.assert_allclose(found[0]["boxes"][:, :, 0, 0], times * 8)
    assert verify(config.cache).proposals_per_frame == 2


def test_a_file_for_another_video_fails_its_clips_only(load: Load, boxes: Path) -> None:
    write_boxes(boxes, BAD, 99)
    config = load(box_files(boxes, frames="index"))
    (failure,) = run(config).failures
    assert (failure.clip_id, failure.reason) == (f"{BAD}:0:center", "unreadable")
    assert "v1.json of left/v1.mp4: was made for 99 frames, the video has 13" in failure.detail
    status = {
        key: rows_of(config.cache, f"status/{key}").tolist() for key in ("features/tiny", "proposals", "regions/tiny")
    }
    assert status == {
        "features/tiny": [1] * 6, "proposals": [2, 1, 1, 1, 1, 1], "regions/tiny": [2, 1, 1, 1, 1, 1],
    }  # fmt: skip
    assert verify(config.cache).ok


def test_a_missing_file_is_retried(load: Load, boxes: Path) -> None:
    path = write_boxes(boxes, BAD, 13)
    config, whole = load(box_files(boxes)), load(box_files(boxes), name="whole")
    run(whole)
    path.rename(path.with_suffix(".away"))
    assert [failure.reason for failure in run(config).failures] == ["missing"]
    path.with_suffix(".away").rename(path)
    assert not extract(config, retry_failed=True).failures
    assert same_bytes(config.cache) == same_bytes(whole.cache)


def test_a_changed_file_reopens_proposals_and_regions_of_its_shard(load: Load, boxes: Path) -> None:
    config = load(box_files(boxes))
    run(config)
    cache = Cache(config.cache)
    features = cache.ledger.read("features/tiny", 0)
    write_boxes(boxes, BAD, 13, moved=0.25)
    plan = make_plan(config, cache)
    assert [(unit.shard, unit.keys) for unit in plan.units] == [(0, ("proposals", "regions/tiny"))]
    assert plan.changed_videos == [BAD]
    assert not extract(config).failures
    assert rows_of(config.cache, "proposals/boxes")[0, :, 0, 0].tolist() == pytest.approx(
        rows_of(config.cache, "clips/frame_times")[0, ::2] * 8 + 0.25
    )
    assert cache.ledger.read("features/tiny", 0) == features
    assert not make_plan(config, cache).units


def test_options_of_a_file_enter_the_fingerprint_and_its_place_does_not(load: Load, boxes: Path) -> None:
    config = load(box_files(boxes))
    run(config)
    elsewhere = boxes.rename(boxes.with_name("elsewhere"))
    cache = Cache(config.cache)
    assert not make_plan(load(box_files(elsewhere)), cache).units
    with pytest.raises(ValueError, match="units: 'px' -> 'fraction'"):
        make_plan(load(box_files(elsewhere, units="fraction")), cache)
