"""Reads a sample of the boxes of a cache and computes their sizes, places and overlaps. Torch-free.

Shapes: F frames, R rows, T time steps, N places for boxes in a frame.
"""

from dataclasses import dataclass

import numpy as np

from kinegraph.pipeline.reports.samples import BOXES, COUNT, SCORES, ArraySamples

MOST_FRAMES, SIDE = 4096, 24  # frames whose boxes are drawn on a raster of SIDE x SIDE cells
BINS = 24


@dataclass(frozen=True, kw_only=True)
class BoxSummary:
    """A summary of the boxes of a cache, for a report. All values are of a sample of R rows. A row has T frames with
    boxes, the time steps. A time step has room for N boxes.
    """

    rows: np.ndarray  # [R], the row numbers of the sample
    counts: np.ndarray  # [R * T], the number of boxes at each time step
    most_boxes: int  # N
    # [N], the mean score of the best boxes of all time steps, then of the second best boxes, and so on. NaN if no time
    # step has so many boxes.
    score_by_rank: np.ndarray
    sizes: np.ndarray  # for each box, the square root of its share of the frame's area
    scores: np.ndarray  # the score of each box
    centres: np.ndarray  # [SIDE, SIDE], the number of boxes whose centre lies in each cell of a raster over the frame
    covered: np.ndarray  # for each frame, the share of its area that lies inside a box
    overlaps: np.ndarray  # for each box, its largest intersection over union with a box of the next time step
    has_scores: bool  # false if all scores are 0


def box_summary(samples: ArraySamples) -> BoxSummary | None:
    """Returns a BoxSummary of the boxes of a cache: their numbers, sizes, places and overlaps. Returns None if no row
    has boxes.
    """
    if BOXES not in samples.specs:
        return None
    rows = samples.rows(BOXES, SCORES, COUNT)
    if not len(rows):
        return None
    boxes, scores, counts = (samples.read(name, rows) for name in (BOXES, SCORES, COUNT))
    width, height = np.maximum(samples.numbers.frame_sizes[rows].T, 1)[..., None, None]  # [R, 1, 1]
    there = np.arange(boxes.shape[2]) < counts[..., None]  # [R, T, N]
    corners = boxes / np.stack([width, height, width, height], -1)
    area = np.clip(corners[..., 2] - corners[..., 0], 0, 1) * np.clip(corners[..., 3] - corners[..., 1], 0, 1)
    centre = np.clip((corners[..., :2] + corners[..., 2:]) / 2, 0, 1 - 1e-6)[there]
    cells, _, _ = np.histogram2d(centre[:, 1], centre[:, 0], SIDE, ((0, 1), (0, 1)))
    of_rank = there.sum((0, 1))
    total = np.where(there, scores, 0).sum((0, 1), dtype=np.float64)
    return BoxSummary(
        rows=rows,
        counts=counts.ravel(),
        most_boxes=boxes.shape[2],
        score_by_rank=np.where(of_rank > 0, total / np.maximum(of_rank, 1), np.nan),
        sizes=np.sqrt(area[there]),
        scores=scores[there].astype(np.float64),
        centres=cells,
        covered=_covered(corners, there),
        overlaps=_overlaps(boxes, there),
        has_scores=bool((scores[there] != 0).any()),
    )


def _covered(corners: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Returns, for each frame, the share of its area that lies inside a box. It is measured at SIDE x SIDE points.

    `corners` [rows, time steps, N, 4] are N boxes per time step, in shares of the frame's width and height. `there`
    [rows, time steps, N] is true for the places that have a box.
    """
    flat, valid = corners.reshape(-1, *corners.shape[2:]), there.reshape(-1, there.shape[2])
    step = max(1, len(flat) // MOST_FRAMES)
    flat, valid = flat[::step], valid[::step]
    points = (np.arange(SIDE) + 0.5) / SIDE
    covered = np.zeros((len(flat), SIDE, SIDE), bool)
    for place in range(flat.shape[1]):
        box = np.where(valid[:, place, None], flat[:, place], 2.0)  # a box outside of the frame covers nothing
        in_x = (points >= box[:, 0, None]) & (points < box[:, 2, None])
        in_y = (points >= box[:, 1, None]) & (points < box[:, 3, None])
        covered |= in_y[:, :, None] & in_x[:, None, :]
    shares: np.ndarray = covered.mean((1, 2))
    return shares


def _overlaps(boxes: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Returns, for each box, its largest intersection over union with a box of the next time step. Boxes of the last
    time step are left out.

    `boxes` is [rows, time steps, N, 4], with N boxes per time step. `there` [rows, time steps, N] is true for the
    places that have a box.
    """
    step = max(1, boxes.shape[0] * boxes.shape[1] // MOST_FRAMES)
    now, then = boxes[::step, :-1, :, None], boxes[::step, 1:, None]  # [R, T-1, N, 1, 4] and [R, T-1, 1, N, 4]
    both = there[::step, :-1, :, None] & there[::step, 1:, None]
    sides = np.minimum(now[..., 2:], then[..., 2:]) - np.maximum(now[..., :2], then[..., :2])
    shared = np.clip(sides, 0, None).prod(-1)
    areas = [np.clip(each[..., 2:] - each[..., :2], 0, None).prod(-1) for each in (now, then)]
    union = areas[0] + areas[1] - shared
    overlap = np.divide(shared, union, out=np.zeros_like(shared), where=(union > 0) & both)
    largest: np.ndarray = overlap.max(-1, initial=0)[there[::step, :-1]]
    return largest
