"""Sums up a sample of the boxes of a cache. Torch-free.

Shapes: F frames, R rows, T time steps, N places for boxes in a frame.
"""

from dataclasses import dataclass

import numpy as np

from kinegraph.pipeline.reports.samples import BOXES, COUNT, SCORES, ArraySamples

MOST_FRAMES, SIDE = 4096, 24  # frames whose boxes are drawn on a raster of SIDE x SIDE cells
BINS = 24


@dataclass(frozen=True, kw_only=True)
class BoxSummary:
    """Sums up the boxes of a sample of rows.

    `rows` are the row numbers. `counts` [R * T] are the numbers of boxes in a frame. `score_by_rank` [N] is the mean
    score of the boxes by their rank, NaN where no frame has so many boxes. `sizes` and `scores` [n] are those of single
    boxes: a size is the square root of the box's share of the frame's area. `centres` [SIDE, SIDE] counts centres, by
    y and x. `covered` [F] is the share of a frame that lies in some box. `overlaps` [n] is, for each box, its largest
    intersection over union with a box of the next time step. `has_scores` is false if all scores are 0.
    """

    rows: np.ndarray
    counts: np.ndarray
    most_boxes: int
    score_by_rank: np.ndarray
    sizes: np.ndarray
    scores: np.ndarray
    centres: np.ndarray
    covered: np.ndarray
    overlaps: np.ndarray
    has_scores: bool


def box_summary(samples: ArraySamples) -> BoxSummary | None:
    """Returns the BoxSummary of a cache, or None if the cache has no usable row with boxes."""
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
    """Returns the share of each frame that lies in some box, [F]. `corners` [R, T, N, 4] are boxes as shares of the
    frame, and `there` [R, T, N] is true for the places that have a box. A frame is a raster of SIDE x SIDE points.
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
    """Returns, for each box that has a next time step, its largest intersection over union with a box there: [n]."""
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
