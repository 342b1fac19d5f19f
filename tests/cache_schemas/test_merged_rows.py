"""The table of clips over many runs of `index`: rows keep their numbers, whatever a data set becomes."""

from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kinegraph.cache_schemas import clips_table, table_order
from kinegraph.cache_schemas.clips_table import ClipRow, ClipsTable, merged, row_order
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.cache_schemas.table_order import merged_tables, sorted_table

NAN = float("nan")
VIDEOS = st.integers(0, 4).map("v{:02d}.mp4".format)
CLIPS_A_VIDEO = 2


def probed(row: ClipRow) -> ClipRow:
    return replace(
        row, start_seconds=0.0, end_seconds=1.0, target_times=(0.25,), crop=(0.0, 0.0, 8.0, 8.0), frame_width=8,
        frame_height=8,
    )  # fmt: skip


def unreadable(video: str, clip: int) -> ClipRow:
    return ClipRow(
        clip_id=f"{video}:{clip}:full", video_id=video, path=video, split="train", labels=(0,), start_seconds=NAN,
        end_seconds=NAN, target_times=(), crop=(NAN,) * 4, frame_width=0, frame_height=0,
    )  # fmt: skip


class Table(RuleBasedStateMachine):
    """A data set that grows, changes its labels, and whose files come and go; indexed whenever a rule says so."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: dict[str, ClipRow] = {}  # the data set as it is now, by clip
        self.table: list[ClipRow] = []
        self.numbers: dict[str, int] = {}  # by clip: its row when it was first indexed
        self.facts: dict[str, ClipRow] = {}  # by clip: as it was last indexed while its video could be read

    def rows_of(self, video: str) -> list[ClipRow]:
        return [row for row in self.listed.values() if row.video_id == video]

    @rule(video=VIDEOS, readable=st.booleans())
    def a_video_comes(self, video: str, readable: bool) -> None:
        for clip in range(CLIPS_A_VIDEO):
            row = unreadable(video, clip)
            self.listed.setdefault(row.clip_id, probed(row) if readable else row)

    @rule(video=VIDEOS)
    def a_file_is_broken(self, video: str) -> None:
        for row in self.rows_of(video):
            self.listed[row.clip_id] = replace(unreadable(video, int(row.clip_id[8])), labels=row.labels)

    @rule(video=VIDEOS)
    def a_file_is_mended(self, video: str) -> None:
        self.listed |= {row.clip_id: probed(row) for row in self.rows_of(video)}

    @rule(video=VIDEOS, label=st.integers(0, 3), split=st.sampled_from(["train", "test"]))
    def an_owner_corrects_labels(self, video: str, label: int, split: str) -> None:
        self.listed |= {row.clip_id: replace(row, labels=(label,), split=split) for row in self.rows_of(video)}

    @rule()
    def index(self) -> None:
        known = len(self.table)
        before, now = self.table, [*self.listed.values()]
        self.table = merged(before, now)
        with mock.patch.multiple(clips_table, ROW_GROUP_ROWS=3), mock.patch.multiple(table_order, ROW_GROUP_ROWS=3):
            columns = merged_tables(ClipsTable.from_rows(before), iter(now)) if before else sorted_table(iter(now))
        assert [*map(repr, columns.rows())] == [*map(repr, self.table)], "the same rows, with few as Python objects"
        for number, row in enumerate(self.table):
            assert self.numbers.setdefault(row.clip_id, number) == number
            if row.is_probed and self.listed[row.clip_id].is_probed:
                self.facts[row.clip_id] = row
        assert self.table[known:] == sorted(self.table[known:], key=row_order)
        assert {row.clip_id for row in self.table} == self.listed.keys()

    @precondition(lambda self: self.table)
    @rule(data=st.data())
    def a_video_that_goes_is_refused(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.table)).clip_id
        with pytest.raises(CacheMismatch, match=gone):
            merged_tables(
                ClipsTable.from_rows(self.table), (row for row in self.listed.values() if row.clip_id != gone)
            )

    @precondition(lambda self: any(row.is_probed for row in self.table))
    @rule(data=st.data())
    def another_video_under_the_name_is_refused(self, data: st.DataObject) -> None:
        other = data.draw(st.sampled_from([row for row in self.table if row.is_probed]))
        changed = self.listed | {other.clip_id: replace(other, end_seconds=2.0)}
        with pytest.raises(CacheMismatch, match="end_seconds"):
            merged(self.table, [*changed.values()])

    @invariant()
    def what_was_once_read_stays(self) -> None:
        """Times, crops and sizes of a video outlast its file; labels and splits are those of the last listing."""
        for row in self.table:
            if fact := self.facts.get(row.clip_id):
                assert replace(row, labels=fact.labels, split=fact.split) == fact


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
