"""Tracks through the whole pipeline: under crops, in both stores, together with proposals and after them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.ledger import SealedObject
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.status import status
from tests.caches import rows_of, same_bytes

Load = Callable[..., Config]
BAD = "left/v1.mp4"
ALONE = ("backbones={}", "regions=null", "tracks={}")
CROPS = "clips.crops=[left,right]"


def write_boxes(folder: Path, video_id: str) -> Path:
    """A box that moves to the right, beyond 80 px from frame 12 on, and a box that stays at the left edge."""
    path = (folder / video_id).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [{"seconds": t / 8, "boxes": [[66 + 1.2 * t, 0, 73 + 1.2 * t, 9], [0, 0, 9, 9]]} for t in range(20)]
    path.write_text(json.dumps({"frames": frames}))
    return path


@pytest.fixture
def config(load: Load, tmp_path: Path, video_folder: Path) -> Load:
    for video in video_folder.rglob("*.mp4"):
        write_boxes(tmp_path / "boxes", video.relative_to(video_folder).as_posix())
    files = json.dumps({"source": "file", "files": f"{tmp_path}/boxes/{{stem}}.json", "top": 3})

    def made(*overrides: str, name: str = "cache") -> Config:
        return load(f"proposals={files}", *ALONE, *overrides, name=name)

    return made


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_each_crop_has_the_tracks_of_its_own_boxes(config: Load, kind: str) -> None:
    """The left crop ends at 80 px, the right one begins at 16 px. The last of the 8 frames of v1 is frame 12."""
    made = config(CROPS, f"store.kind={kind}")
    cache = index(made).cache
    plan = make_plan(made, cache, stages=["tracks"])
    assert plan.keys == ("clips", "proposals", "tracks")
    assert not extract(made, stages=["tracks"]).failures
    assert not make_plan(made, cache).units
    assert status(cache)["stages"]["tracks"]["clips"] == {"ok": 12, "warned": 0, "failed": 0, "missing": 0}
    ids, count = rows_of(made.cache, "tracks/id"), rows_of(made.cache, "tracks/count")
    valid = rows_of(made.cache, "proposals/count")
    assert (ids.dtype.name, count.dtype.name, ids.shape, count.shape) == ("int32", "int32", (12, 8, 3), (12,))
    assert ((ids >= 0) == (np.arange(3) < valid[..., None])).all()
    left, right = ids[:2]
    assert left.tolist() == [[0, 1, -1]] * 7 + [[1, -1, -1]]
    assert right.tolist() == [[0, -1, -1]] * 8
    assert count[:2].tolist() == [2, 1]
    assert verify(made.cache).ok


def test_they_need_neither_videos_nor_networks_where_boxes_are_sealed(
    load: Load, video_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are those of one run; a clip without boxes fails as its boxes did."""
    (video_folder / BAD).write_text("no video")
    together, apart = load(*ALONE, name="together"), load(*ALONE, name="apart")
    for made in (together, apart):
        index(made)
    extract(together)
    extract(apart, stages=["proposals"])

    def never(*arguments: Any) -> None:
        raise AssertionError("a video or a network was opened")

    monkeypatch.setattr("kinegraph.pipeline.extraction.feed.decode_clips", never)
    monkeypatch.setattr("kinegraph.stages.proposals.run.build_source", never)
    assert [failure.reason for failure in extract(apart, stages=["tracks"]).failures] == ["unreadable"]
    assert same_bytes(apart.cache) == same_bytes(together.cache)
    assert rows_of(apart.cache, "status/tracks").tolist() == [2, 1, 1, 1, 1, 1]
    assert rows_of(apart.cache, "tracks/count")[0] == -1
    assert (rows_of(apart.cache, "tracks/id")[0] == -1).all()


def test_clips_that_failed_are_tried_again(config: Load, tmp_path: Path) -> None:
    made, whole = config(), config(name="whole")
    for one in (made, whole):
        index(one)
    extract(whole)
    (tmp_path / "boxes" / "left" / "v1.json").unlink()
    assert [failure.reason for failure in extract(made).failures] == ["missing"]
    write_boxes(tmp_path / "boxes", BAD)
    plan = make_plan(made, Cache(made.cache), retry_failed=True)
    assert [(unit.shard, unit.keys) for unit in plan.units] == [(0, ("proposals", "tracks"))]
    assert not extract(made, retry_failed=True).failures
    found, expected = same_bytes(made.cache), same_bytes(whole.cache)
    assert {name for name in expected if found[name] != expected[name]} <= {
        f"ledger/{key}/000000.json" for key in ("proposals", "tracks")
    }


def test_verify_finds_a_damaged_id(config: Load) -> None:
    """The shard is sealed, with right checksums, with a track twice in a frame."""
    made = config()
    cache = index(made).cache
    extract(made)
    record, spec = cache.ledger.read("tracks", 0), cache.array("tracks/id")
    assert record is not None
    rows = {array.name: rows_of(made.cache, array.name)[:2] for array in cache.stage("tracks").arrays}
    rows["tracks/id"][0, 3, :2] = 0
    stage = cache.stage("tracks")
    written = cache.store.write_shard("tracks", 0, [(array, rows[array.name]) for array in stage.arrays])
    objects = {name: SealedObject(size=size, xxh3_128=digest) for name, (size, digest) in written.items()}
    cache.ledger.unseal("tracks", 0)
    cache.ledger.seal(record.model_copy(update={"objects": record.objects | objects}))
    (problem,) = verify(made.cache).problems
    assert (problem.stage, problem.shard, problem.kind) == ("tracks", 0, "ids")
    assert f"/{spec.name}/" in problem.object
