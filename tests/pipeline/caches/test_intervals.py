"""Intervals of videos, listed in a csv: rows of their own, which share the video and the files beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinegraph.pipeline.extraction.feed
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_columns import SCHEMA
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.exchange.importing import import_features
from kinegraph.pipeline.exchange.to_npy import export_npy
from kinegraph.pipeline.extraction.estimate import estimate
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.wanted import Square, Wanted
from tests.caches import rows_of, same_bytes
from tests.coded_videos import write
from tests.conftest import moving_square, write_video

Load = Callable[..., Config]
FIRST, SECOND = "left/v1.mp4", "right/v0.mp4"  # of 13 and 12 frames, 8 a second
LINES = (
    f"{SECOND},right,train,0.50,1.25",
    f"{SECOND},left;right,test,0,.5",
    f"{SECOND},right,train,,",
    f"{FIRST},left,train,0.25,9",
)
IDS = [f"{FIRST}@0.25-9", SECOND, f"{SECOND}@0-0.5", f"{SECOND}@0.5-1.25"]
INTERVALS = [(0.25, 13 / 8), (0.0, 1.5), (0.0, 0.5), (0.5, 1.25)]  # as far as the videos go
NO_MAPS = ("backbones={}", "regions=null")


@pytest.fixture
def listed(tmp_path: Path, load: Load) -> Load:
    """A config whose videos are those of a csv, with these lines."""

    def made(*overrides: str, lines: tuple[str, ...] = LINES, name: str = "cache") -> Config:
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["path,label,split,start,end", *lines]))
        return load(f"dataset.annotations={path}", *overrides, name=name)

    return made


def rows(config: Config) -> list[ClipRow]:
    return [*index(config).cache.clips.rows()]


def files_beside(folder: Path, video_folder: Path, frames: Callable[[int], list[dict[str, Any]]]) -> str:
    """A json beside each video: `frames` of its number of frames."""
    for name in (FIRST, SECOND):
        path = (folder / name).with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        num_frames = 12 + int(path.stem[1:])
        path.write_text(json.dumps({"num_frames": num_frames, "frames": frames(num_frames)}))
    return f"{folder}/{{stem}}.json"


def boxes(num_frames: int, right_edge: int = 60) -> list[dict[str, Any]]:
    """In each frame one box whose left edge is the frame's number."""
    return [{"seconds": t / 8, "boxes": [[t, 2, right_edge, 40]], "scores": [1.0]} for t in range(num_frames)]


def test_each_line_is_a_row_of_its_own(listed: Load) -> None:
    found = index(listed())
    table = [*found.cache.clips.rows()]
    assert [row.video_id for row in table] == IDS
    assert [row.clip_id for row in table] == [f"{video}:0:center" for video in IDS]
    assert [row.video_name for row in table] == [FIRST, SECOND, SECOND, SECOND]
    assert [row.interval for row in table] == [(0.25, 9.0), None, (0.0, 0.5), (0.5, 1.25)]
    assert [(row.start_seconds, row.end_seconds) for row in table] == INTERVALS
    assert [(row.labels, row.split) for row in table] == [
        ((0,), "train"),
        ((1,), "train"),
        ((0, 1), "test"),
        ((1,), "train"),
    ]
    for row, (start, end) in zip(table, INTERVALS, strict=True):
        assert row.target_times == pytest.approx([start + (i + 0.5) * (end - start) / 8 for i in range(8)])
    assert (found.num_videos, found.num_intervals, found.num_new_rows) == (2, 3, 4)
    assert found.beyond_end == [IDS[0]]
    assert found.after_end == []


def test_an_interval_that_begins_where_its_video_has_ended_is_told_apart(listed: Load) -> None:
    found = index(listed(lines=(*LINES, f"{SECOND},right,train,1.5,9", f"{SECOND},right,train,4,5")))
    assert found.beyond_end == [IDS[0]]
    assert found.after_end == [f"{SECOND}@1.5-9", f"{SECOND}@4-5"]


def test_without_intervals_the_table_is_as_ever(listed: Load, tmp_path: Path) -> None:
    config = listed(lines=(f"{SECOND},right,train,,", f"{FIRST},left,train,,"))
    assert Cache(index(config).cache.root).clips.table.schema.equals(SCHEMA)
    before = (Path(config.cache) / "clips.parquet").read_bytes()
    (tmp_path / "cache.csv").write_text(f"path,label\n{SECOND},right\n{FIRST},left\n")
    assert index(config).num_new_rows == 0
    assert (Path(config.cache) / "clips.parquet").read_bytes() == before


def test_rows_of_a_video_are_in_the_order_of_time(listed: Load, tmp_path: Path) -> None:
    """Not in that of the text: `@0.5` before `@0.25`, `@1` before `@0.5`. What is listed later follows."""
    spans = ["0.5,1", "1,1.25", "0.25,1", "0.5,0.75", "0.125,1.5", ",", "0.0625,0.5"]
    lines = tuple(f"{SECOND},right,train,{span}" for span in spans)
    in_order = [(0.0625, 0.5), (0.125, 1.5), (0.25, 1.0), (0.5, 0.75), (0.5, 1.0), (1.0, 1.25)]
    assert [row.interval for row in rows(listed(lines=lines))] == [None, *in_order]
    first = [(0.25, 1.0), (0.5, 1.0), (1.0, 1.25)]
    assert [row.interval for row in rows(listed(lines=lines[:3], name="grown"))] == first
    grown = [*first, None, (0.0625, 0.5), (0.125, 1.5), (0.5, 0.75)]
    assert [row.interval for row in rows(listed(lines=lines, name="grown"))] == grown


def test_intervals_may_follow_and_never_go(listed: Load) -> None:
    assert index(listed(lines=LINES[2:3])).num_new_rows == 1
    grown = index(listed())
    assert grown.num_new_rows == 3
    assert [row.video_id for row in grown.cache.clips.rows()] == [IDS[1], IDS[0], *IDS[2:]]
    with pytest.raises(CacheMismatch, match=r"right/v0.mp4@0-0.5:0:center is in the cache but no longer"):
        index(listed(lines=LINES[:1] + LINES[2:]))


def test_a_video_of_which_nothing_could_be_read_is_filled_in(listed: Load, video_folder: Path) -> None:
    content = (video_folder / SECOND).read_bytes()
    (video_folder / SECOND).unlink()
    found = index(listed())
    assert [*found.unreadable] == [SECOND], "the video, not each of its intervals"
    assert [row.interval for row in found.cache.clips.rows()][2:] == [(0.0, 0.5), (0.5, 1.25)]
    (video_folder / SECOND).write_bytes(content)
    index(listed())
    assert [(row.start_seconds, row.end_seconds) for row in rows(listed())] == INTERVALS


@pytest.mark.parametrize(
    "clips", [{"sampling": "dense", "fps": 8, "per_video": 2}, {"sampling": "centre", "fps": 10, "short": "loop"}, {}]
)
def test_frames_are_those_of_the_video_at_the_same_times(listed: Load, clips: dict[str, Any]) -> None:
    """And none is presented outside the interval, also where it is shorter than a clip."""
    wanted = Wanted(num_frames=8, squares=frozenset([Square(size=64, every=1)]), numbered=True)
    overrides = [f"clips.{key}={value}" for key, value in clips.items()]
    table = rows(listed(*overrides, lines=LINES[:2]))
    everything = rows(listed("clips.num_frames=12", lines=LINES[2:3], name="all"))
    whole_wanted = Wanted(num_frames=12, squares=wanted.squares, numbered=True)
    (whole,) = decode_clips(everything[0].path, everything, whole_wanted, 60.0)
    assert isinstance(whole, DecodedClip)
    assert whole.frame_numbers.tolist() == list(range(12))
    decoded = decode_clips(table[0].path, table, wanted, 60.0)
    for row, clip in zip(table, decoded, strict=True):
        assert isinstance(clip, DecodedClip)
        assert row.interval is not None
        assert row.interval[0] <= clip.frame_times.min()
        assert clip.frame_times.max() < row.interval[1]
        assert row.end_seconds <= row.interval[1]
        (square,) = wanted.squares
        np.testing.assert_array_equal(clip.squares[square], whole.squares[square][clip.frame_numbers])


def test_a_video_is_decoded_once_for_all_its_intervals(listed: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[list[str]] = []

    def noted(path: str, of_video: list[ClipRow], *rest: Any) -> Any:
        decoded.append([row.video_id for row in of_video])
        return decode_clips(path, of_video, *rest)

    monkeypatch.setattr(kinegraph.pipeline.extraction.feed, "decode_clips", noted)
    config = listed("store.shard_clips=4", *NO_MAPS)
    index(config)
    assert not extract(config).failures
    assert decoded == [IDS[:1], IDS[1:]]
    (record,) = Cache(config.cache).ledger.records("clips")
    assert sorted(record.sources) == IDS
    assert len({source.digest for source in record.sources.values()}) == 2


def test_a_replaced_video_runs_again_with_all_its_intervals(listed: Load, video_folder: Path) -> None:
    config = listed("store.shard_clips=1", *NO_MAPS)
    index(config)
    extract(config)
    write_video(video_folder / SECOND, moving_square(12, 96, 80, seed=9))
    assert extract(config).clips_run == 3
    write_video(video_folder / SECOND, moving_square(9, 96, 80, seed=9))
    with pytest.raises(CacheMismatch, match=r"right/v0.mp4:0:center was indexed with end_seconds 1.5, now 1.125"):
        extract(config)


def test_memory_counts_all_intervals_of_a_video(listed: Load) -> None:
    def bytes_of(*lines: str) -> int:
        config = listed("store.shard_clips=4", lines=lines, name=f"with_{len(lines)}")
        cache = index(config).cache
        return estimate(config, cache, make_plan(config, cache)).worker_bytes

    clip = 8 * 64 * 64 * 3 + 4 * 96 * 115 * 3
    assert bytes_of(*LINES[:3]) - bytes_of(*LINES[:1]) == 2 * clip


def test_boxes_are_found_by_the_video(listed: Load, video_folder: Path, tmp_path: Path) -> None:
    pattern = files_beside(tmp_path / "boxes", video_folder, boxes)
    source = json.dumps({"source": "file", "files": pattern, "every": 2, "top": 1, "tolerance_seconds": 0.0625})
    config = listed(f"proposals={source}", *NO_MAPS)
    index(config)
    assert not extract(config).failures
    found, times = rows_of(config.cache, "proposals/boxes"), rows_of(config.cache, "clips/frame_times")
    np.testing.assert_allclose(found[:, :, 0, 0], times[:, ::2] * 8)
    records = [*Cache(config.cache).ledger.records("proposals")]
    assert sorted(video for record in records for video in record.files) == IDS
    before = same_bytes(config.cache)
    assert extract(config).clips_run == 0

    files_beside(tmp_path / "boxes", video_folder, lambda num_frames: boxes(num_frames, right_edge=61 + num_frames))
    assert not extract(config).failures
    assert rows_of(config.cache, "proposals/boxes")[:, 0, 0, 2].tolist() == [74.0, 73.0, 73.0, 73.0]
    assert same_bytes(config.cache) != before


def test_graphs_are_those_inside(listed: Load, video_folder: Path, tmp_path: Path) -> None:
    """Half-open, as all intervals: the one at the end of an interval is not in it. Times are from its start."""

    def graphs(num_frames: int) -> list[dict[str, Any]]:
        return [{"seconds": t / 8, "objects": []} for t in range(num_frames)]

    options = {"source": "file", "files": files_beside(tmp_path / "graphs", video_folder, graphs), "max_frames": 16}
    names = {"classes": ["person", "cup"], "relations": ["holding"]}
    config = listed(f"graphs={json.dumps(options | {'vocabulary': names})}", "proposals=null", *NO_MAPS)
    index(config)
    assert not extract(config).failures
    records = Cache(config.cache).ledger.records("graphs")
    assert sorted(video for record in records for video in record.files) == IDS
    times = rows_of(config.cache, "graphs/times")
    assert [row[~np.isnan(row)].tolist() for row in times] == [
        [t / 8 for t in range(11)],
        [t / 8 for t in range(12)],
        [0.0, 0.125, 0.25, 0.375],
        [0.0, 0.125, 0.25, 0.375, 0.5, 0.625],
    ]


def test_one_that_begins_after_the_video_fails_alone(listed: Load) -> None:
    config = listed(*NO_MAPS, lines=(*LINES, f"{FIRST},left,train,3,4"))
    index(config)
    failures = extract(config).failures
    assert [failure.clip_id for failure in failures] == [f"{FIRST}@3-4:0:center"] * len(failures)
    assert {(failure.reason, failure.detail) for failure in failures} == {
        ("too_short", "the interval begins at 3.00 s, the video ends at 1.62 s")
    }


def test_there_and_back_in_npy(listed: Load, tmp_path: Path) -> None:
    config = listed("proposals=null", "regions=null")
    index(config)
    extract(config)
    export_npy(Cache(config.cache), str(tmp_path / "npy"), ["features/tiny/res4_pooled"])
    files = tmp_path / "npy" / "features" / "tiny" / "res4_pooled"
    assert sorted(path.relative_to(files).as_posix() for path in files.rglob("*.npy")) == [f"{v}.npy" for v in IDS]
    for path in files.rglob("*.npy"):
        np.save(path, np.load(path)[0])  # one clip a video
    into = tmp_path / "imported"
    import_features(files, into, annotations=tmp_path / "cache.csv")
    imported = Cache(into)
    assert [(row.video_id, row.interval, row.split) for row in imported.clips.rows()] == [
        (row.video_id, row.interval, row.split) for row in Cache(config.cache).clips.rows()
    ]


def test_intervals_of_a_long_video_are_the_same_in_any_order_of_units(listed: Load, video_folder: Path) -> None:
    """Read on from shard to shard, or each shard sought by itself."""
    write(video_folder / "left" / "film.mp4", 450, key_every=30, b_frames=2)
    lines = tuple(f"left/film.mp4,left,train,{start},{start + 1}" for start in (16, 0, 7.5, 9, 2, 14))
    caches = []
    for name, parts in (("at_once", [(0, 1)]), ("in_parts", [(2, 3), (0, 3), (1, 3)])):
        config = listed("store.shard_clips=2", *NO_MAPS, lines=lines, name=name)
        index(config)
        for part in parts:
            assert not extract(config, part=part).failures
        caches.append(same_bytes(config.cache))
    assert caches[0] == caches[1]
