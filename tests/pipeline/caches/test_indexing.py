"""Rows keep their numbers, grow at the end, and say what changed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import TABLE
from kinegraph.cache_schemas.errors import CacheError, CacheMismatch
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import same_bytes
from tests.conftest import moving_square, write_video

Load = Callable[..., Config]
FIRST = ["left/v1.mp4", "left/v3.mp4", "left/v5.mp4", "right/v0.mp4", "right/v2.mp4", "right/v4.mp4"]


def videos(cache: Cache) -> list[object]:
    return Cache(cache.root).clips.column("video_id")


def test_rows_are_sorted_and_described(load: Load) -> None:
    found = index(load())
    assert videos(found.cache) == FIRST
    assert (found.num_videos, found.num_new_rows, found.unreadable) == (6, 6, {})
    assert found.cache.classes == ["left", "right"]
    row = next(found.cache.clips.rows())
    assert row.clip_id == "left/v1.mp4:0:center"
    assert (row.labels, row.split) == ((0,), "train")
    assert (row.frame_width, row.frame_height, row.crop) == (96, 80, (8.0, 0.0, 88.0, 80.0))
    assert row.start_seconds == 0.0
    assert row.end_seconds == pytest.approx(13 / 8)
    assert row.target_times == pytest.approx([(i + 0.5) * 13 / 64 for i in range(8)])


def test_clips_and_crops_of_a_video_are_neighbours(load: Load) -> None:
    cache = index(load("clips.per_video=2", "clips.crops=[right, left]")).cache
    assert [row.clip_id for row in cache.clips.rows(0, 5)] == [
        "left/v1.mp4:0:left",
        "left/v1.mp4:0:right",
        "left/v1.mp4:1:left",
        "left/v1.mp4:1:right",
        "left/v3.mp4:0:left",
    ]
    assert len(cache.clips) == 24


def test_indexing_again_changes_nothing(load: Load) -> None:
    first = index(load()).cache
    before = (Path(first.root) / TABLE).read_bytes()
    again = index(load())
    assert again.num_new_rows == 0
    assert (Path(first.root) / TABLE).read_bytes() == before


def test_new_videos_follow_and_reopen_only_a_partial_last_shard(load: Load, video_folder: Path) -> None:
    """5 videos, then 6: 'a/...' sorts first but comes last; shards 0 and 1 are full, shard 2 is half full."""
    late, kept = video_folder / "right" / "v4.mp4", video_folder.parent / "late.mp4"
    late.rename(kept)
    config = load()
    cache = index(config).cache
    extract(config)
    old = same_bytes(cache.root)
    ledger = {path: path.stat().st_mtime_ns for path in (Path(cache.root) / "ledger").rglob("*.json")}
    (video_folder / "a").mkdir()
    kept.rename(video_folder / "a" / "v4.mp4")
    found = index(config)
    assert videos(cache) == [*FIRST[:-1], "a/v4.mp4"]
    assert found.num_new_rows == 1
    left = set((Path(cache.root) / "ledger").rglob("*.json"))
    assert ledger.keys() - left == {path for path in ledger if path.name == "000002.json"}
    outcome = extract(config)
    assert [unit.shard for unit in outcome.plan.units] == [2]
    assert all(path.stat().st_mtime_ns == ledger[path] for path in left), "a full shard was sealed again"
    new = same_bytes(cache.root)
    changed = {
        name for name in old if name.endswith(("c.0", "c.1", ".0.json", "000000.json")) and old[name] != new[name]
    }
    assert not changed
    assert Cache(cache.root).clips.column("labels")[:2] == [[1], [1]], "the new class a comes before left"


def test_labels_and_splits_may_change(load: Load, video_folder: Path) -> None:
    config = load()
    cache = index(config).cache
    extract(config)
    csv = video_folder.parent / "list.csv"
    csv.write_text("path,label,split\n" + "".join(f"{video},jump;{video[0]},test\n" for video in FIRST))
    listed = load(f"dataset.annotations={csv}")
    found = index(listed)
    assert set(found.cache.clips.column("split")) == {"test"}
    assert found.cache.classes == ["jump", "l", "r"]
    assert next(found.cache.clips.rows()).labels == (0, 1)
    assert not extract(listed).plan.units, "labels enter no fingerprint"
    assert videos(cache) == FIRST
    with xarray.open_zarr(f"{cache.root}/data.zarr", group="features/tiny", consolidated=False) as opened:
        assert opened.split.values.tolist() == ["test"] * len(FIRST)
        assert opened.label.values.tolist() == [f'["jump", "{video[0]}"]' for video in FIRST]


def test_videos_know_their_place_in_the_list(load: Load, video_folder: Path) -> None:
    """Rows do not move when the list does, and other places are no reason to extract again."""
    csv, config = video_folder.parent / "list.csv", load()
    index(config)
    extract(config)
    for listed in ([5, 0, 3, 1, 2, 4], [2, 5, 4, 0, 3, 1]):
        csv.write_text("path,label,split\n" + "".join(f"{FIRST[number]},jump,train\n" for number in listed))
        cache = index(load(f"dataset.annotations={csv}")).cache
        assert videos(cache) == FIRST
        assert cache.clips.column("list_index") == [listed.index(number) for number in range(6)]
        assert CachedClips(cache, ["proposals/count"]).videos == [FIRST[number] for number in listed]
    assert not extract(load(f"dataset.annotations={csv}")).plan.units


def test_a_video_that_is_damaged_later_keeps_its_times_and_gets_its_labels(load: Load, video_folder: Path) -> None:
    csv = video_folder.parent / "list.csv"
    before = next(index(load()).cache.clips.rows())
    (video_folder / FIRST[0]).write_bytes(b"")
    csv.write_text("path,label,split\n" + "".join(f"{video},jump;{video[0]},test\n" for video in FIRST[::-1]))
    now = next(index(load(f"dataset.annotations={csv}")).cache.clips.rows())
    assert now == replace(before, labels=(0, 1), split="test", list_index=5)


def test_tables_without_places_are_read_as_ever(load: Load) -> None:
    config = load()
    cache = index(config).cache
    extract(config)
    table = Path(cache.root) / TABLE
    old = cache.clips.table.drop_columns(["list_index"]).append_column("later", pa.repeat(1, 6))
    pq.write_table(old, table)
    assert CachedClips(cache.root, ["proposals/count"]).videos == FIRST
    assert [row.list_index for row in Cache(cache.root).rows(0)] == [-1, -1]
    assert index(config).cache.clips.column("list_index") == [0, 1, 2, 3, 4, 5]


def test_removed_and_changed_videos_are_refused(load: Load, video_folder: Path) -> None:
    cache = index(load()).cache
    before = (Path(cache.root) / TABLE).read_bytes()
    gone = video_folder / "left" / "v3.mp4"
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(CacheMismatch, match=r"left/v3\.mp4:0:center is in the cache but no longer in the data set"):
        index(load())
    write_video(gone, moving_square(40, 96, 80))
    with pytest.raises(CacheMismatch, match=r"left/v3\.mp4:0:center was indexed with end_seconds 1\.875, now 5\.0"):
        index(load())
    write_video(gone, moving_square(15, 80, 80))
    with pytest.raises(CacheMismatch, match=r"left/v3\.mp4:0:center was indexed with crop"):
        index(load())
    assert (Path(cache.root) / TABLE).read_bytes() == before
    gone.write_bytes(content)
    assert index(load()).num_new_rows == 0


def test_other_clip_options_are_refused(load: Load) -> None:
    cache = index(load()).cache
    before = {path: path.read_bytes() for path in Path(cache.root).iterdir() if path.is_file()}
    with pytest.raises(CacheMismatch, match=r"num_frames: 8 -> 16"):
        index(load("clips.num_frames=16"))
    assert {path: path.read_bytes() for path in Path(cache.root).iterdir() if path.is_file()} == before


def test_one_stem_twice_is_two_videos(load: Load, video_folder: Path) -> None:
    write_video(video_folder / "test.avi", moving_square(12, 96, 80))
    write_video(video_folder / "test.mp4", moving_square(12, 96, 80, seed=1))
    config = load()
    cache = index(config).cache
    assert videos(cache)[-2:] == ["test.avi", "test.mp4"]
    assert not extract(config).failures


def test_a_video_that_cannot_be_opened_keeps_its_row(load: Load, video_folder: Path) -> None:
    bad = video_folder / "left" / "v3.mp4"
    content = bad.read_bytes()
    bad.write_bytes(b"")
    found = index(load())
    assert videos(found.cache) == FIRST
    assert [*found.unreadable] == ["left/v3.mp4"]
    assert [row.is_probed for row in found.cache.clips.rows()] == [True, False, True, True, True, True]
    bad.write_bytes(content)
    again = index(load())
    assert (again.num_new_rows, again.unreadable) == (0, {})
    assert (Path(again.cache.root) / TABLE).read_bytes() == (
        Path(index(load(name="other")).cache.root) / TABLE
    ).read_bytes()


def test_a_lost_or_damaged_table_is_not_made_anew(load: Load) -> None:
    """Only the table says which row is which clip."""
    config = load()
    cache = index(config).cache
    extract(config, stages=["proposals"])
    table = Path(cache.root) / TABLE
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(CacheError, match=r"clips\.parquet cannot be read"):
        index(config)
    table.unlink()
    with pytest.raises(CacheError, match=r"clips\.parquet is gone"):
        index(config)
    assert not table.exists()


def test_a_damaged_manifest_is_named(load: Load) -> None:
    cache = index(load()).cache
    (Path(cache.root) / "cache.json").write_text("{")
    with pytest.raises(CacheError, match=r"cache\.json is damaged: "):
        index(load())


def test_a_newer_schema_is_refused(load: Load) -> None:
    cache = index(load()).cache
    manifest = json.loads((Path(cache.root) / "cache.json").read_text())
    (Path(cache.root) / "cache.json").write_text(json.dumps(manifest | {"schema_version": 3}))
    with pytest.raises(CacheError, match="has schema version 3; this kinegraph knows 2"):
        Cache(cache.root)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["clips.per_video=3", "clips.crops=[left, center]"], 60),
        (["clips.per_video=70"], 64),
        (["backbones.tiny.size=1024", "clips.per_video=4"], 20),
        (["store.shard_clips=5"], 5),
    ],
)
def test_shards_hold_whole_videos_and_fit_in_256_mib(load: Load, overrides: list[str], expected: int) -> None:
    from kinegraph.pipeline.caches.declared import auto_shard_clips

    config = load("store.shard_clips=auto", *overrides)
    assert auto_shard_clips(config) == expected
