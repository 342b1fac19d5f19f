"""Makes proposals without a network: equal cells of the frame. Imports no torch."""

import numpy as np

from kinegraph.stages.proposals.options import GridOptions
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals


class GridSource:
    """A source of proposals that divides each frame into equal cells. Each cell is a box. `options.cells` is (number of
    rows, number of columns).
    """

    digest = ""

    def __init__(self, options: GridOptions) -> None:
        self.options = options

    def propose(self, frames: ClipFrames) -> ClipProposals:
        num_frames, cells = len(frames.seconds), self.options.top
        boxes = grid_boxes(*self.options.cells, frames.width, frames.height)
        return ClipProposals(
            boxes=np.tile(boxes, (num_frames, 1, 1)),
            scores=np.zeros((num_frames, cells), np.float32),
            count=np.full(num_frames, cells, np.int16),
        )


def grid_boxes(rows: int, columns: int, width: int, height: int) -> np.ndarray:
    """Divides a frame into `rows` x `columns` equal cells. Returns the cells as boxes, float32 [rows * columns, 4], row
    by row from the top left. A box is (x1, y1, x2, y2) in pixels.

    `width` and `height` are those of the frame in pixels. Neighbouring cells share their edge.
    """
    x, y = (np.linspace(0, side, n + 1, dtype=np.float32) for side, n in ((width, columns), (height, rows)))
    corners = np.meshgrid(x[:-1], y[:-1]), np.meshgrid(x[1:], y[1:])
    return np.stack([*corners[0], *corners[1]], axis=-1).reshape(-1, 4)
