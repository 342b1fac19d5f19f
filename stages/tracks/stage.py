"""Defines the stage `tracks`, which links proposals of consecutive frames that show the same object. Imports no
torch.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from kinegraph.cache_schemas.arrays import track_arrays
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.proposals.stage import SCORES, Proposals
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.stage import Rows, StageKind

if TYPE_CHECKING:
    import torch

    from kinegraph.stages.tracks.run import TrackRunner

VERSION = 1  # increase it when the output changes
IDS, NUM_TRACKS = "tracks/id", "tracks/count"


class Tracks(StageKind):
    kind = "tracks"

    def keys(self, recipe: Recipe) -> tuple[str, ...]:
        return () if recipe.tracks is None else (self.kind,)

    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        assert recipe.tracks is not None
        proposals = declared[Proposals.kind]
        scores = next(spec for spec in proposals.arrays if spec.name == SCORES)
        options = recipe.tracks.model_dump(mode="json")
        options |= {"version": VERSION, "reads": {Proposals.kind: proposals.fingerprint}}
        return Stage(key=key, options=options, arrays=track_arrays(scores))

    def open(self, recipe: Recipe, key: str, device: "torch.device", *, compiled: bool) -> "TrackRunner":
        from kinegraph.stages.tracks.run import TrackRunner

        assert recipe.tracks is not None
        return TrackRunner(recipe.tracks)

    def problems(self, ok: Rows) -> Iterator[tuple[str, str]]:
        """Checks the tracks of one shard. Yields (array name, kind of problem) for each array with an impossible value.

        `ok` has the rows of the n clips that did not fail. `ok["tracks/id"]` [n, T, N] is the track number of each box,
        and -1 where there is no box. `ok["tracks/count"]` [n] is the number of tracks.

        In each frame, boxes must come before entries with -1, and no track number may occur twice. A new track must
        have the next number. A track must have a box in each frame from its first to its last.
        """
        ids, num_tracks = ok[IDS], ok[NUM_TRACKS]
        in_order = np.sort(ids, -1)
        is_twice = (in_order[..., 1:] == in_order[..., :-1]) & (in_order[..., 1:] >= 0)
        is_behind_none = (ids[..., 1:] >= 0) & (ids[..., :-1] < 0)
        # The largest track number up to each box.
        largest = np.maximum.accumulate(ids.reshape(-1, ids.shape[1] * ids.shape[2]), 1)
        is_misnumbered = is_twice.any() or is_behind_none.any() or (np.diff(largest, prepend=-1) > 1).any()
        if is_misnumbered or (ids < -1).any() or _has_gap(ids):
            yield IDS, "ids"
        if (largest[:, -1] + 1 != num_tracks).any():
            yield NUM_TRACKS, "count"


def _has_gap(ids: np.ndarray) -> bool:
    """Returns whether any track lacks a box in a frame between its first frame and its last.

    `ids` [n, T, N] has the track number of each box, or -1, for n rows, T frames and at most N boxes in a frame. Each
    row has its own tracks.
    """
    rows, frames, _ = np.nonzero(ids >= 0)
    tracks = rows * 2**32 + ids[ids >= 0]  # one number for each track of each row
    by_track = np.argsort(tracks, kind="stable")  # a track's frames stay in order
    is_same_track = np.diff(tracks[by_track]) == 0
    return bool((is_same_track & (np.diff(frames[by_track]) > 1)).any())
