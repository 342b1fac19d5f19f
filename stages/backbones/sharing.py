"""Computes each distinct frame of a shard once, even if several clips share the frame. This is for networks that see
each frame alone.

The network runs on groups of F frames, the runs. Each distinct frame has one place: a run, and a position in the run.
Places depend only on the rows of the shard and the batch size. So the bytes of a frame do not depend on which clips
failed, were retried or are in the cache already.

Shapes: B clips of a batch, T frames of a clip that the network takes, F frames of a run, S side of the square input, C
channels, H rows and W columns of a map.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.decode.wanted import Square
from kinegraph.stages.stage import StageBatch

Maps = Callable[[Tensor], dict[str, Tensor]]


class FramePlaces:
    """Numbers the distinct frames of a shard, and assigns each frame to a run of the network. Two frames are the same
    frame if video, crop and time are equal.

    `rows` are the rows of the shard. The network takes every `every`-th frame of a clip, `num_frames` frames in all. A
    run has `run_frames` frames, which first occur in the same batch of `batch_size` rows.

    The attribute `numbers`, int64 [rows, `num_frames`], has the number of each frame, from 0 in the order of first
    occurrence. A row without frames has -1.
    """

    def __init__(self, rows: Sequence[ClipRow], every: int, num_frames: int, batch_size: int, run_frames: int) -> None:
        number_of: dict[tuple[object, ...], int] = {}
        self.run_frames, self.numbers = run_frames, np.full((len(rows), num_frames), -1, np.int64)
        firsts = []  # of each batch, the number of its first new frame
        for position, row in enumerate(rows):
            if position % batch_size == 0:
                firsts.append(len(number_of))
            frames = row.target_times if row.target_frames is None else row.target_frames
            keys = [(row.path, row.crop_name, frame) for frame in frames[::every]]
            self.numbers[position, : len(keys)] = [number_of.setdefault(key, len(number_of)) for key in keys]
        self._firsts = np.array(firsts)
        self.last_row = np.zeros(len(number_of), np.int64)  # in which a frame occurs
        for position, numbers in enumerate(self.numbers):
            self.last_row[numbers[numbers >= 0]] = position

    def runs(self, numbers: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns a list of the runs that compute the frames with the `numbers`, which must be sorted. A run is a set
        of frames that the network takes at once. In the list, it is (those of `numbers` whose frames are in the run,
        positions of these frames in the run).
        """
        if not len(numbers):
            return []
        batches = np.searchsorted(self._firsts, numbers, side="right") - 1
        within, positions = np.divmod(numbers - self._firsts[batches], self.run_frames)
        starts = np.flatnonzero(np.diff(batches, prepend=-1) | np.diff(within, prepend=-1))
        return list(zip(np.split(numbers, starts[1:]), np.split(positions, starts[1:]), strict=True))


def run_frames(num_frames: int, batch_size: int, new_frames: int) -> int:
    """Returns how many frames the network takes at once (one run), for batches of `batch_size` clips of `num_frames`
    frames. Each clip has `new_frames` frames that the clip before it does not have.
    """
    return max(num_frames, batch_size * new_frames)


class SharedFrames:
    """Computes the maps of the batches of a shard, one batch after the other, and each distinct frame only once.

    `maps` is a function that runs the network on F frames [F, 1, S, S, 3]. `square` says how frames are cut and resized
    to S x S px. Each clip has `new_frames` frames that the clip before it does not have. Only maps that later batches
    need stay in memory.
    """

    def __init__(self, maps: Maps, square: Square, new_frames: int) -> None:
        self._maps, self._square, self._new_frames = maps, square, new_frames
        self._rows: Sequence[ClipRow] = ()
        self._held = np.zeros(0, np.int64)  # numbers of the frames in `_held_maps`, sorted
        self._held_maps: dict[str, Tensor] = {}

    def of(self, batch: StageBatch) -> dict[str, Tensor]:
        """Returns {tap: maps [B, T, C, H, W]} of the batch: B clips, T frames, C channels, H rows and W columns.

        Only the clips in `batch.slots` have their own maps. The other clips have the maps of arbitrary frames, which
        must not be used.
        """
        pixels = batch.pixels(self._square)  # [B, T, S, S, 3]
        if batch.shard_rows is not self._rows:
            self._begin(batch.shard_rows, *pixels.shape[:2])
        numbers = np.full(pixels.shape[:2], -1, np.int64)
        numbers[batch.slots] = self._places.numbers[batch.offset :][batch.slots]
        wanted, first = np.unique(numbers, return_index=True)
        wanted, first = wanted[wanted >= 0], first[wanted >= 0]
        is_new = ~np.isin(wanted, self._held)
        frames = pixels.reshape(-1, 1, *pixels.shape[2:])
        parts, order = [self._held_maps] if len(self._held) else [], [self._held]
        for new, positions in self._places.runs(wanted[is_new]):
            filled = np.zeros((self._places.run_frames, *frames.shape[1:]), np.uint8)
            filled[positions] = frames[first[np.searchsorted(wanted, new)]]
            computed, where = self._maps(batch.upload(filled)), batch.upload(positions)
            parts.append({tap: x[where, 0] for tap, x in computed.items()})
            order.append(new)
        available = np.concatenate(order)
        by_number = np.argsort(available)
        place_of = by_number[np.searchsorted(available[by_number], np.maximum(numbers, wanted[0]))]
        pool = {tap: torch.cat([part[tap] for part in parts]) for tap in parts[0]}
        self._hold(available, pool, batch)
        spread = batch.upload(place_of)
        return {tap: x[spread] for tap, x in pool.items()}

    def _begin(self, rows: Sequence[ClipRow], batch_size: int, num_frames: int) -> None:
        each = run_frames(num_frames, batch_size, self._new_frames)
        self._places = FramePlaces(rows, self._square.every, num_frames, batch_size, each)
        self._rows, self._held, self._held_maps = rows, np.zeros(0, np.int64), {}

    def _hold(self, available: np.ndarray, pool: dict[str, Tensor], batch: StageBatch) -> None:
        """Keeps the maps of the frames that occur in a later batch. `pool` is {tap: maps} of the frames with the
        numbers `available`.
        """
        kept = np.flatnonzero(self._places.last_row[available] >= batch.offset + len(batch.rows))
        where = batch.upload(kept)
        self._held, self._held_maps = available[kept], {tap: x[where] for tap, x in pool.items()}
