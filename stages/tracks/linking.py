"""Links the boxes of consecutive frames to tracks, greedily by overlap. Imports no torch.

T frames, N places for boxes a frame, P boxes of a frame, Q boxes of the next.
"""

import numpy as np

NO_BOX = -1


def link(boxes: np.ndarray, scores: np.ndarray, count: np.ndarray, min_iou: float) -> tuple[np.ndarray, int]:
    """Returns the track of each box as int32 [T, N], and the number of tracks. A place without a box has -1.

    The first `count` [T] of the boxes [T, N, 4] xyxy and scores [T, N] of a frame are valid. A box continues the track
    of a box of the previous frame if the IoU of both boxes is `min_iou` or more. Pairs are taken by descending IoU.
    Among pairs of equal IoU, the pair whose later box has the higher score is first, then the lower index of the later
    box, then the lower index of the earlier box. Each box is in at most one pair with the previous frame. A box without
    such a pair begins a track. Tracks are numbered from 0 by their first frame, then by the index of their box in that
    frame.
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
    """Returns the intersection over union of boxes [P, 4] and [Q, 4] as float64 [P, Q].

    The result is 0 for boxes without an area.
    """
    first, second = earlier[:, None].astype(np.float64), later[None].astype(np.float64)
    common = _area(np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:]))
    union = _area(first[..., :2], first[..., 2:]) + _area(second[..., :2], second[..., 2:]) - common
    overlaps: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlaps


def _area(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns the areas of rectangles from their corners [..., 2].

    A rectangle that ends before it starts has the area 0.
    """
    area: np.ndarray = np.maximum(end - start, 0).prod(-1)
    return area


def _pairs(overlaps: np.ndarray, scores: np.ndarray, min_iou: float) -> list[tuple[int, int]]:
    """Returns the pairs (earlier box, later box) to link. `overlaps` is [P, Q], `scores` [Q] are of the later boxes."""
    earlier, later = np.nonzero(overlaps >= min_iou)
    order = np.lexsort((earlier, later, -scores[later], -overlaps[earlier, later]))
    pairs: dict[int, int] = {}  # later box -> earlier box
    taken: set[int] = set()
    for first, second in zip(earlier[order].tolist(), later[order].tolist(), strict=True):
        if second not in pairs and first not in taken:
            pairs[second] = first
            taken.add(first)
    return [(first, second) for second, first in pairs.items()]
