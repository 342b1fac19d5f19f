"""Rows of one shard are read without the rest of clips.parquet."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest

from kinegraph.cache_schemas import clips_table
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow, ClipsTable

LAYOUT = {"kind": "zarr", "shard_clips": 3, "compression": "none"}


def row(number: int) -> ClipRow:
    return ClipRow(
        clip_id=f"v{number:02d}.mp4:0:full", video_id=f"v{number:02d}.mp4", path="", split="train", start_seconds=0.0,
        end_seconds=1.0, labels=(number,), target_times=(0.25, 0.75), crop=(0.0, 0.0, 8.0, 8.0),
        frame_width=8, frame_height=8,
    )  # fmt: skip


@pytest.mark.parametrize("group_rows", [1, 2, 4, 100])
def test_row_groups_and_shards_need_not_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_rows: int) -> None:
    monkeypatch.setattr(clips_table, "ROW_GROUP_ROWS", group_rows)
    rows = [row(number) for number in range(11)]
    cache = Cache.create(tmp_path, {}, LAYOUT)
    ClipsTable.from_rows(rows).write(cache.storage)
    assert pq.read_metadata(tmp_path / "clips.parquet").num_row_groups == -(-11 // group_rows)
    monkeypatch.setattr(ClipsTable, "read", Mock(side_effect=AssertionError("the whole table was read")))
    for shard in (0, 1, 2, 3, 1, 0):
        assert cache.rows(shard) == rows[3 * shard : 3 * shard + 3]


def test_shards_of_one_row_group_read_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache.create(tmp_path, {}, LAYOUT)
    ClipsTable.from_rows([row(number) for number in range(11)]).write(cache.storage)
    read = Mock(side_effect=ClipsTable.read_around)
    monkeypatch.setattr(ClipsTable, "read_around", read)
    assert [len(cache.rows(shard)) for shard in range(4)] == [3, 3, 3, 2]
    assert read.call_count == 1


def test_values_are_counted_over_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips_table, "ROW_GROUP_ROWS", 2)
    cache = Cache.create(tmp_path, {}, LAYOUT)
    ClipsTable.from_rows([replace(row(number // 3), path=f"p{number % 2}") for number in range(7)]).write(cache.storage)
    counts = ClipsTable.count_values(cache.storage, ["video_id", "path"])
    names = [("v00.mp4", "p0"), ("v00.mp4", "p1"), ("v01.mp4", "p1"), ("v01.mp4", "p0"), ("v02.mp4", "p0")]
    assert counts == dict(zip(names, [2, 1, 2, 1, 1], strict=True))
    assert ClipsTable.count_values(cache.storage, ["frame_height"]) == {(8,): 7}
