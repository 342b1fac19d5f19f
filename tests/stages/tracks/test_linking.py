"""Boxes of consecutive frames become tracks: by hand, and against loops that follow the definition word by word."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinegraph.stages.tracks.linking import iou, link

Box = tuple[float, float, float, float]
MIN_IOU = 0.3


def linked(*frames: Sequence[Box], scores: Sequence[Sequence[float]] = (), min_iou: float = MIN_IOU) -> list[list[int]]:
    """The tracks of the boxes of each frame; places past the boxes hold what is no box."""
    top = max(1, *(len(frame) for frame in frames)) + 1
    boxes, ranks = np.zeros((len(frames), top, 4), np.float32), np.zeros((len(frames), top), np.float32)
    boxes[:] = (0, 0, 1, 1)  # would be linked, if `count` were not heeded
    for number, frame in enumerate(frames):
        boxes[number, : len(frame)] = np.reshape(frame, (-1, 4))
        ranks[number, : len(frame)] = scores[number] if scores else 0
    ids, num_tracks = link(boxes, ranks, np.array([len(frame) for frame in frames], np.int16), min_iou)
    assert (ids.dtype.name, ids.shape) == ("int32", (len(frames), top))
    assert all((row[len(frame) :] == -1).all() for row, frame in zip(ids, frames, strict=True))
    found = [row[: len(frame)].tolist() for row, frame in zip(ids, frames, strict=True)]
    assert num_tracks == len({track for row in found for track in row})
    return found


def square(x: float, y: float = 0, side: float = 10) -> Box:
    return x, y, x + side, y + side


def test_a_moving_box_keeps_its_track_and_another_begins_one() -> None:
    assert linked([square(0)], [square(50), square(2)], [square(4), square(51)]) == [[0], [1, 0], [0, 1]]


def test_crossing_boxes_go_on_with_the_larger_overlap() -> None:
    """Two boxes pass each other: at each step each overlaps both, and the nearer one more."""
    rightwards, leftwards = [square(x) for x in (0, 2, 4, 6)], [square(x) for x in (5, 3.5, 2, 0.5)]
    frames = [[*pair] for pair in zip(rightwards, leftwards, strict=True)]
    assert linked(*frames) == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_the_largest_overlap_is_taken_first_even_if_another_pair_goes_without() -> None:
    """The best total would be 0-0 and 1-1; greedily 0-1 goes first, which leaves 1 and 0 too far apart."""
    assert linked([square(0), square(5)], [square(-4), square(1)]) == [[0, 1], [2, 0]]


def test_a_gap_of_one_frame_ends_a_track() -> None:
    assert linked([square(0), square(50)], [square(50)], [square(0), square(50)]) == [[0, 1], [1], [2, 1]]
    assert linked([square(0)], [], [square(0)]) == [[0], [], [1]]


def test_of_equal_overlaps_the_higher_score_then_the_lower_index_goes_on() -> None:
    """Both later boxes are as far from the one box before them; then two boxes before share one later box."""
    left_and_right = [square(-2), square(2)]
    assert linked([square(0)], left_and_right, scores=[[0], [0, 0]]) == [[0], [0, 1]]
    assert linked([square(0)], left_and_right, scores=[[0], [0, 1]]) == [[0], [1, 0]]
    assert linked(left_and_right, [square(0)]) == [[0, 1], [0]]
    assert linked([square(0)] * 2, [square(0)] * 2) == [[0, 1], [0, 1]]
    assert linked([square(0)] * 2, [square(0)] * 2, scores=[[0, 0], [0, 1]]) == [[0, 1], [1, 0]]


def test_clips_without_boxes_and_of_one_frame() -> None:
    assert linked([], [], []) == [[], [], []]
    assert linked([], [square(0)]) == [[], [0]]
    assert linked([square(0), square(0)]) == [[0, 1]]


def test_the_least_overlap_is_enough_and_boxes_without_an_area_have_none() -> None:
    """3 of 10 columns are shared: IoU 0.3."""
    assert linked([(0, 0, 10, 1)], [(0, 0, 3, 1)], min_iou=0.3) == [[0], [0]]
    assert linked([(0, 0, 10, 1)], [(0, 0, 3, 1)], min_iou=0.31) == [[0], [1]]
    assert linked([(5, 5, 5, 5)], [(5, 5, 5, 5)], [(9, 9, 4, 4)], [(9, 9, 4, 4)]) == [[0], [1], [2], [3]]


def naive_iou(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    union = sum(max(x2 - x1, 0) * max(y2 - y1, 0) for x1, y1, x2, y2 in (a, b)) - common
    return common / union if union > 0 else 0


def naively(frames: Sequence[Sequence[Box]], scores: Sequence[Sequence[float]]) -> list[list[int]]:
    found: list[list[int]] = []
    num_tracks = 0
    for t, frame in enumerate(frames):
        tracks: list[int | None] = [None] * len(frame)
        ends = dict(enumerate(found[-1])) if t else {}
        while True:
            pairs = [
                (-overlap, -scores[t][j], j, i)
                for i in ends
                for j, box in enumerate(frame)
                if tracks[j] is None and (overlap := naive_iou(frames[t - 1][i], box)) >= MIN_IOU
            ]
            if not pairs:
                break
            *_, j, i = min(pairs)
            tracks[j] = ends.pop(i)
        for j, track in enumerate(tracks):
            if track is None:
                tracks[j], num_tracks = num_tracks, num_tracks + 1
        found.append([track for track in tracks if track is not None])
    return found


PLACES = st.integers(0, 6)  # few, so that overlaps and scores are often equal
BOXES = st.builds(lambda x, y, w, h: (float(x), float(y), float(x + w), float(y + h)), PLACES, PLACES, PLACES, PLACES)
FRAMES = st.lists(st.lists(st.tuples(BOXES, st.integers(0, 2)), max_size=5), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(FRAMES)
def test_they_are_those_of_naive_loops(frames: list[list[tuple[Box, int]]]) -> None:
    boxes = [[box for box, _ in frame] for frame in frames]
    scores = [[float(score) for _, score in frame] for frame in frames]
    assert linked(*boxes, scores=scores) == naively(boxes, scores)


def test_overlaps_of_equal_boxes_are_equal_wherever_they_lie() -> None:
    """In float32 the areas would be rounded differently, and ties be broken by rounding."""
    here = np.array([[1000.1, 2000.1, 1003.3, 2004.7]], np.float32)
    assert iou(here, here) == pytest.approx(1, abs=0)
    assert iou(here, here[:0]).shape == (1, 0)
