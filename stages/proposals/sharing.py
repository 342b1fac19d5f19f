"""Computes the proposals of each distinct frame of a shard once, even if clips or crops share the frame. Imports no
torch.

A proposal network runs on groups of frames, the runs. Each distinct frame has one place: a run, and a position in the
run. Places depend only on the rows of the shard and the batch size. So the bytes of a frame do not depend on which
clips failed, were retried or are in the cache already.

Shapes: T frames of a clip that the network takes, h rows and w columns of a frame.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals, PixelSource
from kinegraph.stages.stage import StageBatch

ShownFrame = tuple[object, ...]  # the file, the interval of the data set's list, and the time or the number


class FramesOfBatch(NamedTuple):
    """The key of a group of frames of a shard: the frames of `width` x `height` px that occur for the first time in
    batch number `batch`. Batches are counted from 0.
    """

    batch: int
    width: int
    height: int


class FramePlace(NamedTuple):
    """The place of a frame: its position in run number `run` of a group. A run is a set of frames that the network
    takes at once. Runs and positions are counted from 0.
    """

    group: FramesOfBatch
    run: int
    position: int


class PlacesInRuns:
    """Assigns a place to each distinct frame of a shard: a run of the network, and a position in the run. A run is a
    set of frames that the network takes at once. The frames of a run have the same size, and occur first in the same
    batch.

    `rows` are the rows of the shard. The network takes every `every`-th frame of a clip. A batch has `batch_size` rows.
    A run has whole clips with at most `frames_together` frames, but at least one clip. If `frames_together` is 1, each
    run has one frame.

    - `of_row`: the frames of each row. A frame is a tuple that identifies it: file, interval, and time or number. The
      list is empty if the video could not be opened.
    - `place_of`: {frame: FramePlace}.
    - `last_row`: {frame: index of the last row that has the frame}.
    """

    def __init__(self, rows: Sequence[ClipRow], every: int, batch_size: int, frames_together: int) -> None:
        self.of_row = [_frames(row, every) for row in rows]
        self._per_clip = 1 if frames_together == 1 else max(map(len, self.of_row))
        self._per_run = self._per_clip * max(1, frames_together // max(1, self._per_clip))
        self.place_of: dict[ShownFrame, FramePlace] = {}
        self.last_row: dict[ShownFrame, int] = {}
        self._num: Counter[FramesOfBatch] = Counter()
        for index, (row, frames) in enumerate(zip(rows, self.of_row, strict=True)):
            group = FramesOfBatch(index // batch_size, row.frame_width, row.frame_height)
            for frame in frames:
                if frame not in self.place_of:
                    self.place_of[frame] = FramePlace(group, *divmod(self._num[group], self._per_run))
                    self._num[group] += 1
                self.last_row[frame] = index

    def length(self, place: FramePlace) -> int:
        """Returns the number of frames of the run that has `place`: 1, or a multiple of the frames of one clip."""
        left = self._num[place.group] - place.run * self._per_run
        return min(self._per_run, -(-left // self._per_clip) * self._per_clip)


def _frames(row: ClipRow, every: int) -> list[ShownFrame]:
    # the interval decides which frame is shown at a time near its end
    shown = row.target_times if row.target_frames is None else row.target_frames
    return [(row.path, row.interval, frame) for frame in shown[::every]]


class FrameProposals:
    """Computes the proposals of the batches of a shard, one batch after the other. The source of proposals `source`
    takes every `every`-th frame of a clip.

    The proposals of a frame stay in memory only as long as later batches of the shard have the frame.
    """

    def __init__(self, source: PixelSource, every: int) -> None:
        self._source, self._every = source, every
        self._rows: Sequence[ClipRow] = ()
        self._held: dict[ShownFrame, dict[str, np.ndarray]] = {}  # of each frame, the arrays of its proposals

    def of(self, batch: StageBatch) -> dict[int, ClipProposals]:
        """Returns {slot: ClipProposals} for each of `batch.slots`. A slot is the position of a clip in the batch. A
        ClipProposals has all boxes of the whole frames, also boxes outside the crop of the clip.
        """
        if batch.shard_rows is not self._rows:
            self._places = PlacesInRuns(batch.shard_rows, self._every, batch.batch_size, self._source.frames_together)
            self._rows, self._held = batch.shard_rows, {}
        frames = {slot: self._places.of_row[batch.offset + slot] for slot in batch.slots}
        runs: dict[object, dict[ShownFrame, np.ndarray]] = defaultdict(dict)
        for slot, of_clip in frames.items():
            whole = batch.clip(slot).whole
            assert whole is not None
            for frame, pixels in zip(of_clip, whole, strict=True):
                if frame not in self._held:
                    group, run, _ = self._places.place_of[frame]
                    runs[group, run, pixels.shape][frame] = pixels
        for new in runs.values():
            self._held |= self._computed(new)
        found = {slot: _joined([self._held[frame] for frame in of_clip]) for slot, of_clip in frames.items()}
        next_row = batch.offset + len(batch.rows)
        self._held = {frame: x for frame, x in self._held.items() if self._places.last_row[frame] >= next_row}
        if batch.is_last:
            self._rows, self._held = (), {}
        return found

    def _computed(self, new: Mapping[ShownFrame, np.ndarray]) -> dict[ShownFrame, dict[str, np.ndarray]]:
        """Runs the source once on the frames `new` of one run, {frame: pixels [h, w, 3]}. Returns {frame: {array name:
        array}}.
        """
        places = {frame: self._places.place_of[frame] for frame in new}
        first = next(iter(places.values()))
        pixels = np.zeros((self._places.length(first), *next(iter(new.values())).shape), np.uint8)
        for frame, place in places.items():
            pixels[place.position] = new[frame]
        seconds = np.full(len(pixels), np.nan)
        width, height = first.group.width, first.group.height
        found = self._source.propose(
            ClipFrames(video_id="", width=width, height=height, seconds=seconds, pixels=pixels)
        ).arrays()
        return {frame: {name: x[place.position] for name, x in found.items()} for frame, place in places.items()}


def _joined(frames: Sequence[Mapping[str, np.ndarray]]) -> ClipProposals:
    return ClipProposals(**{name: np.stack([arrays[name] for arrays in frames]) for name in frames[0]})
