"""Links the boxes of consecutive frames to tracks by their overlap (IoU). Imports no torch.

Shapes: T frames, at most N boxes in a frame, P boxes of a frame, Q boxes of the next frame.
"""

import numpy as np

NO_BOX = -1


def link(boxes: np.ndarray, scores: np.ndarray, count: np.ndarray, min_iou: float) -> tuple[np.ndarray, int]:
    """Links the boxes of a clip to tracks. Returns (track number of each box, number of tracks). The track numbers are
    int32 [T, N] for T frames with at most N boxes, and -1 where there is no box.

    `boxes` [T, N, 4] are (x1, y1, x2, y2) in pixels of the video. `scores` is [T, N]. Only the first `count` [T] boxes
    of a frame are valid. A box may continue the track of a box of the previous frame if their IoU is at least
    `min_iou`. A track has at most one box in each frame. A box that continues no track begins a track.

    Pairs of boxes are chosen in this order: largest IoU first, then the higher score of the box in the later frame,
    then the lower index of this box, then the lower index of the other box. Tracks are numbered from 0 by their first
    frame, then by the index of their box in that frame.
    """
    ids = np.full(scores.shape, NO_BOX, np.int32)
    num_tracks, last = 0, np.empty((0, 4), np.float32)
    for frame, num_boxes in enumerate(count):
        now, tracks = boxes[frame, :num_boxes], ids[frame, :num_boxes]
        for earlier, later in _pairs(iou(last, now), scores[frame, :num_boxes], min_iou):
            tracks[later] = ids[frame - 1, earlier]
        begun = tracks == NO_BOX
        tracks[begun] = np.arange(num_tracks, num_tracks + begun.sum())
        num_tracks, last = num_tracks + int(begun.sum()), now
    return ids, num_tracks


def iou(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Returns float64 [P, Q]: the IoU (intersection over union) of each box in `earlier` [P, 4] with each box in
    `later` [Q, 4].

    A box is (x1, y1, x2, y2). All boxes have the same unit. The IoU with a box without an area is 0.
    """
    first, second = earlier[:, None].astype(np.float64), later[None].astype(np.float64)
    common = _area(np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:]))
    union = _area(first[..., :2], first[..., 2:]) + _area(second[..., :2], second[..., 2:]) - common
    overlaps: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlaps


def _area(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns the areas of rectangles with the top left corners `start` [..., 2] and the bottom right corners `end`
    [..., 2]. A rectangle whose `end` is left of or above its `start` has the area 0.
    """
    area: np.ndarray = np.maximum(end - start, 0).prod(-1)
    return area


def _pairs(overlaps: np.ndarray, scores: np.ndarray, min_iou: float) -> list[tuple[int, int]]:
    """Chooses which boxes of two consecutive frames belong together. Returns a list of (index of the earlier box, index
    of the later box).

    `overlaps` [P, Q] are the IoUs of earlier and later boxes. `scores` [Q] are the scores of the later boxes. Pairs
    with the largest IoU are chosen first. Among equal IoUs, the pair whose later box has the larger score comes first.
    A box is in at most one pair. No pair has an IoU below `min_iou`.
    """
    earlier, later = np.nonzero(overlaps >= min_iou)
    order = np.lexsort((earlier, later, -scores[later], -overlaps[earlier, later]))
    pairs: dict[int, int] = {}  # later box -> earlier box
    taken: set[int] = set()
    for first, second in zip(earlier[order].tolist(), later[order].tolist(), strict=True):
        if second not in pairs and first not in taken:
            pairs[second] = first
            taken.add(first)
    return [(first, second) for second, first in pairs.items()]
