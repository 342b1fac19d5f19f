"""Defines the runner that links the proposals of each clip to tracks. Imports no torch."""

import numpy as np

from kinegraph.stages.proposals.stage import BOXES, COUNT, SCORES
from kinegraph.stages.stage import StageBatch
from kinegraph.stages.tracks.linking import link
from kinegraph.stages.tracks.options import TrackOptions


class TrackRunner:
    """The runner of the stage `tracks`, which links the boxes of each clip to tracks as `options` say. A track has the
    boxes of one object in several frames. Each crop of a clip has its own tracks.
    """

    digest = ""

    def __init__(self, options: TrackOptions) -> None:
        self.options = options

    def run(self, batch: StageBatch) -> None:
        for slot in batch.slots:
            boxes, scores, count = (np.asarray(batch.read(array, slot)) for array in (BOXES, SCORES, COUNT))
            ids, num_tracks = link(boxes, scores, count, self.options.min_iou)
            batch.write("tracks/id", [slot], ids[None])
            batch.write("tracks/count", [slot], np.array([num_tracks], np.int32))
