"""Defines what `predict` says about a video: scores of the whole video, of parts of it (spans), and of its clips, and
boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """The probabilities [num_classes] of one clip. The clip lasts from `start` to `end`, in seconds of the video, and
    does not include `end`.
    """

    start: float
    end: float
    probabilities: Tensor


@dataclass(frozen=True, kw_only=True)
class FrameBoxes:
    """The N boxes [N, 4] that the head read in one frame. The frame is shown at `seconds` in the video.

    A box is x1, y1, x2, y2 in pixels of the upright frame. `edges` [N, N] has the weights of the head's graph between
    the boxes. Entry (i, j) is the weight of box j in the sum for box i. The diagonal is 0. `edges` is None unless the
    caller of `predict` asked for edges. `classes` has the names of the boxes' classes, or is empty if the boxes have no
    classes.
    """

    seconds: float
    boxes: np.ndarray
    edges: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def strongest_edges(self, most: int) -> list[tuple[int, int, float]]:
        """Returns the strongest edges as (i, j, weight) with i < j, strongest first, at most `most` of them.

        i and j are numbers of boxes. The weight of an edge is the larger one of its two directions. Edges of weight 0
        are left out.
        """
        if self.edges is None:
            return []
        i, j = np.triu_indices(len(self.boxes), 1)
        weights = np.maximum(self.edges[i, j], self.edges[j, i])
        order = np.argsort(-weights, kind="stable")[:most]
        return [(int(i[pair]), int(j[pair]), float(weights[pair])) for pair in order if weights[pair] > 0]


def joined_boxes(frames: Sequence[FrameBoxes]) -> tuple[FrameBoxes, ...]:
    """Returns one FrameBoxes for each time in `frames`, in the order of time. `frames` come from several clips, which
    may have the same frames.

    Boxes with the same coordinates become one box, with the names of all their classes. Of several weights of one edge,
    the largest counts.
    """
    by_time: dict[float, list[FrameBoxes]] = {}
    for frame in frames:
        by_time.setdefault(frame.seconds, []).append(frame)
    return tuple(_joined(by_time[seconds]) for seconds in sorted(by_time))


def _joined(frames: Sequence[FrameBoxes]) -> FrameBoxes:
    boxes, number_of = np.unique(np.concatenate([frame.boxes for frame in frames]), axis=0, return_inverse=True)
    edges, first = None, 0
    for frame in frames:
        numbers = number_of.reshape(-1)[first : first + len(frame.boxes)]
        first += len(frame.boxes)
        if frame.edges is not None:
            edges = np.zeros((len(boxes), len(boxes)), np.float32) if edges is None else edges
            np.maximum.at(edges, np.ix_(numbers, numbers), frame.edges)
    if edges is not None:
        np.fill_diagonal(edges, 0)  # two boxes of a clip may have the same coordinates
    classes = [name for frame in frames for name in frame.classes]
    of_box: list[dict[str, None]] = [{} for _ in boxes]  # in the order of their first box
    for number, name in zip(number_of.reshape(-1).tolist() if classes else (), classes, strict=True):
        of_box[number][name] = None
    joined_names = tuple(" / ".join(names) for names in of_box) if classes else ()
    return FrameBoxes(seconds=frames[0].seconds, boxes=boxes, edges=edges, classes=joined_names)


@dataclass(frozen=True, kw_only=True)
class ScoredSpan:
    """A part of a video, from `start` to `end` in seconds, with its scores. `end` is not included. Several clips may
    show the same part, for example under several crops. Their scores are joined here. If the video is cut into windows,
    a span lies within one window.

    `probabilities` [num_classes] join the probabilities of the clips that did not fail. They are None if all clips
    failed. `failure` is the reason of the first failed clip, or "" if none failed. `boxes` has the frames with the
    boxes that the head read, in the order of time. It is empty unless the caller of `predict` asked for boxes.
    """

    start: float
    end: float
    probabilities: Tensor | None
    failure: str = ""
    boxes: tuple[FrameBoxes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The scores of the video `video` (a path or a URL), or the reason why it has none.

    `scores` [num_classes] float64 are the mean or the maximum over the clips of the video, as in `evaluate`.
    `probabilities` [num_classes] are the softmax of `scores`, or the sigmoids if a video may have several labels.
    If all clips failed, both are None.

    `clips` has the ClipScores of each clip that did not fail, in the order of time. `spans` has the ScoredSpans: the
    parts of the video that its clips cover, failed clips included, in the order of time. It is empty only for a video
    that could not be opened. `num_clips` is the number of clips, and `num_failed` the number of clips that failed.
    `failure` is the reason of the first failed clip, or "" if no clip failed.

    For a run over whole videos (`train.over: videos`), `clips` and `spans` have one entry, from the first window to the
    last. `num_failed` and `num_clips` count windows.
    """

    video: str
    clips: tuple[ClipScores, ...]
    spans: tuple[ScoredSpan, ...] = ()
    scores: Tensor | None = None
    probabilities: Tensor | None = None
    failure: str = ""
    num_failed: int = 0
    num_clips: int = 0

    def without_boxes(self) -> "Prediction":
        """Returns a copy without boxes, which take most of the memory."""
        return replace(self, spans=tuple(replace(span, boxes=()) for span in self.spans))

    def to_json(self, class_names: Sequence[str], top: int) -> dict[str, Any]:
        """Returns the document that `predict --json` prints: the `top` best classes of the video and of each clip.

        Clips that failed are not in `clips`. `failed_clips` is their number. `failed_intervals` has the parts of the
        video in which every clip failed, as {"start", "end", "failure"} with times in seconds.
        """
        clips = [
            {"start": clip.start, "end": clip.end, "classes": best(clip.probabilities, class_names, top)}
            for clip in self.clips
        ]
        failed = [
            {"start": span.start, "end": span.end, "failure": span.failure}
            for span in self.spans
            if span.probabilities is None
        ]
        classes = [] if self.probabilities is None else best(self.probabilities, class_names, top)
        return {
            "video": self.video,
            "classes": classes,
            "clips": clips,
            "failure": self.failure or None,
            "failed_clips": self.num_failed,
            "failed_intervals": failed,
        }


def best(probabilities: Tensor, class_names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Returns a dict with the keys `name` and `score` for each of the `top` best classes, best first. `score` is the
    probability. `probabilities` and `class_names` have one entry for each class. Classes with equal probabilities
    keep their order.
    """
    order = probabilities.argsort(descending=True, stable=True)[:top].tolist()
    return [{"name": class_names[index], "score": round(float(probabilities[index]), 6)} for index in order]
