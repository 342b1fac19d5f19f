"""Frames that clips, crops and windows share go through a proposal network once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.decode.clips import DecodedClip
from kinegraph.stages.proposals.from_networks import NetworkSource
from kinegraph.stages.proposals.options import TinyOptions
from kinegraph.stages.proposals.sharing import FrameProposals
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals, PixelSource
from tests.stages.stage_contract import BatchInMemory, clip_row

FRAMES = 4
SIZES = ((64, 32), (64, 32), (32, 64))  # width and height of each video, px


@dataclass(kw_only=True)
class ShardBatch(BatchInMemory):
    """Some rows of a shard. The pixels of a frame are its time and its video."""

    all_rows: Sequence[ClipRow]
    size: int

    @property
    def shard_rows(self) -> Sequence[ClipRow]:
        return self.all_rows

    @property
    def batch_size(self) -> int:
        return self.size

    def clip(self, slot: int) -> DecodedClip:
        row, clip = self.rows[slot], super().clip(slot)
        clip.whole = np.stack([frame_at(row, seconds) for seconds in row.target_times])
        return clip


def frame_at(row: ClipRow, seconds: float) -> np.ndarray:
    frame = np.full((row.frame_height, row.frame_width, 3), 10 * int(row.path[-5]) + 30, np.uint8)
    frame[8 : 9 + int(seconds), 4 : 12 + 2 * int(seconds)] = 200
    return frame


def windows(hop: int, crops: Sequence[str] = ("full",), lengths: Sequence[int] = (9, 5, 4)) -> list[ClipRow]:
    """The rows of a shard with windows of FRAMES frames of three videos."""
    return [
        replace(
            clip_row(video), clip_id=f"{video}:{start}:{crop}", frame_width=SIZES[video][0],
            frame_height=SIZES[video][1], target_times=tuple(float(start + t) for t in range(FRAMES)),
        )
        for video, length in enumerate(lengths)
        for start in range(0, length - FRAMES + 1, hop)
        for crop in crops
    ]  # fmt: skip


def batches(rows: Sequence[ClipRow], size: int, failed: Sequence[int] = ()) -> list[ShardBatch]:
    return [
        ShardBatch(
            rows=rows[at : at + size], all_rows=rows, offset=at, size=size, is_last=at + size >= len(rows),
            slots=[slot for slot in range(len(rows[at : at + size])) if at + slot not in failed],
        )
        for at in range(0, len(rows), size)
    ]  # fmt: skip


@dataclass
class Network:
    """One box a frame. Its score is the frame, its place in the run and the length of the run."""

    frames_together: int = 4
    digest: str = ""
    frames: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)

    def propose(self, frames: ClipFrames) -> ClipProposals:
        assert frames.pixels is not None
        assert frames.pixels.shape[1:] == (frames.height, frames.width, 3)
        seen = frames.pixels.astype(int).sum((1, 2, 3))
        self.frames += [int(value) for value in seen if value]
        self.runs.append(len(seen))
        out = ClipProposals.empty(len(seen), 1)
        out.scores[:, 0] = seen + np.arange(len(seen)) / 16 + len(seen) / 1024
        return out


def scores_of(chosen: Sequence[ShardBatch], source: PixelSource) -> dict[int, np.ndarray]:
    """Row -> the scores of its frames, computed by one worker."""
    shared = FrameProposals(source, every=1)
    return {
        batch.offset + slot: proposals.scores
        for batch in chosen
        if batch.slots
        for slot, proposals in shared.of(batch).items()
    }


@pytest.mark.parametrize("together", [1, 4, 8])
@pytest.mark.parametrize(("hop", "size"), [(1, 1), (1, 3), (2, 3), (4, 20)])
def test_each_frame_goes_through_the_network_once(hop: int, size: int, together: int) -> None:
    network, rows = Network(together), windows(hop, ("left", "right"))
    scores = scores_of(batches(rows, size), network)
    distinct = {(row.path, seconds): int(frame_at(row, seconds).sum()) for row in rows for seconds in row.target_times}
    assert sorted(network.frames) == sorted(distinct.values())
    for index, row in enumerate(rows):
        assert scores[index][:, 0].astype(int).tolist() == [distinct[row.path, seconds] for seconds in row.target_times]
    allowed = {1: {1}, 4: {4}, 8: {4, 8}}
    assert {*network.runs} <= allowed[together]


def test_frames_of_clips_of_one_size_run_together() -> None:
    network = Network(frames_together=8)
    scores_of(batches(windows(4, lengths=(4, 4, 4)), size=3), network)
    assert network.runs == [8, 4]


@pytest.mark.parametrize("together", [1, 4, 8])
@pytest.mark.parametrize("failed", [(0,), (1, 2), (0, 1, 2, 3), (5, 6)])
def test_other_clips_do_not_change_a_frame(failed: tuple[int, ...], together: int) -> None:
    """The same to the last bit after a failure, and where only the batches of the failed clips run again."""
    rows = windows(1)
    whole = scores_of(batches(rows, 3), Network(together))
    with_failures = scores_of(batches(rows, 3, failed), Network(together))
    again = [batch for batch in batches(rows, 3) if any(batch.offset <= row < batch.offset + 3 for row in failed)]
    for scores in (with_failures, scores_of(again, Network(together))):
        assert all(np.array_equal(of_row, whole[row]) for row, of_row in scores.items())


def test_only_what_later_batches_need_is_held() -> None:
    shared, held = FrameProposals(Network(), every=1), []
    for batch in batches(windows(1), 3):
        shared.of(batch)
        held.append(len(shared._held))
    assert held == [3, 0, 0], "3 frames of the first video, none of a video that ended"


def test_an_interval_has_its_own_last_frame() -> None:
    first = windows(4)[0]
    rows = [first, replace(first, clip_id="other", interval=(0.0, 3.0))]
    network = Network()
    scores_of(batches(rows, 2), network)
    assert len(network.frames) == 2 * FRAMES


def test_windows_have_the_bytes_of_their_clips_alone() -> None:
    """In float32, where a run of another length would have other sums."""
    source = NetworkSource(TinyOptions(source="tiny", weights="shipped", top=9), torch.device("cpu"))
    assert isinstance(source, PixelSource)
    rows, shared = windows(1, lengths=(9, 3, 3)), FrameProposals(source, every=1)
    for batch in batches(rows, 3):
        for slot, found in shared.of(batch).items():
            row, pixels = batch.rows[slot], batch.clip(slot).whole
            frames = ClipFrames(
                video_id=row.path, width=row.frame_width, height=row.frame_height, seconds=np.zeros(4), pixels=pixels
            )
            alone = source.propose(frames)
            assert alone.count.min() > 0
            assert all(np.array_equal(found.arrays()[name], x) for name, x in alone.arrays().items())
