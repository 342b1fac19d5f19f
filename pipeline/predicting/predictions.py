"""Defines the result of `predict` for one video: the scores of the video, of its clips and of its spans, and the boxes
that the head read. A span is a part of the video from which one or several clips were taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """The class probabilities [num_classes] of one clip. The clip is the part [`start`, `end`) of the video, in
    seconds.
    """

    start: float
    end: float
    probabilities: Tensor


@dataclass(frozen=True, kw_only=True)
class FrameBoxes:
    """The N boxes that the head read in one frame of a video."""

    seconds: float  # the time of the frame in the video
    boxes: np.ndarray  # float [N, 4], xyxy in pixels of the upright frame
    # Float [N, N], the weights of the head's graph. Entry (i, j) is the weight of box j in the sum for box i. The
    # diagonal is 0. None if the caller of `predict` did not ask for edges.
    edges: np.ndarray | None = None
    classes: tuple[str, ...] = ()  # the name of the class of each box. Empty if the boxes have no classes.

    def strongest_edges(self, most: int) -> list[tuple[int, int, float]]:
        """Returns the `most` strongest edges between boxes, strongest first, as (i, j, weight). i and j are indices of
        boxes, with i < j.

        The weight is the larger weight of the two directions. Edges of weight 0 are left out.
        """
        if self.edges is None:
            return []
        i, j = np.triu_indices(len(self.boxes), 1)
        weights = np.maximum(self.edges[i, j], self.edges[j, i])
        order = np.argsort(-weights, kind="stable")[:most]
        return [(int(i[pair]), int(j[pair]), float(weights[pair])) for pair in order if weights[pair] > 0]


def joined_boxes(frames: Sequence[FrameBoxes]) -> tuple[FrameBoxes, ...]:
    """Merges the boxes of several clips, which may show the same frames. Returns one FrameBoxes for each different time
    in `frames`, in the order of time.

    At each time, boxes with the same coordinates become one box, with the names of all their classes. Of several edges
    (weighted connections) between the same two boxes, the one with the largest weight stays.
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
    """The scores of the part [`start`, `end`) of a video, in seconds. Several clips may show the same part, for example
    under several crops. A span combines the scores of these clips.
    """

    start: float
    end: float
    # The class probabilities [num_classes], from all clips that did not fail. None if all clips failed.
    probabilities: Tensor | None
    failure: str = ""  # why the first failed clip failed, or "" if no clip failed
    # The boxes that the head read, one FrameBoxes for each frame, in the order of time. Empty if the caller of
    # `predict` did not ask for boxes.
    boxes: tuple[FrameBoxes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The scores of one video, or the reason why it has no scores.

    A run with `train.over: videos` scores the whole video at once. Then `clips` and `spans` have one entry, which is
    the whole video, and `num_failed` and `num_clips` count its windows. If all windows failed, `clips` is empty, and
    `spans` has one entry for each window.
    """

    video: str  # the path or URL of the video
    clips: tuple[ClipScores, ...]  # one ClipScores for each clip that did not fail, in the order of time
    # One ScoredSpan for each part of the video from which clips were taken, in the order of time. Several clips of one
    # part, such as its crops, share a span. `spans` is empty if the video could not be opened.
    spans: tuple[ScoredSpan, ...] = ()
    # Float64 [num_classes], the mean or the maximum of the probabilities or logits of the clips, as `kinegraph
    # evaluate` computes it. None if no clip has scores.
    scores: Tensor | None = None
    # [num_classes], `scores` as class probabilities. None if no clip has scores.
    probabilities: Tensor | None = None
    failure: str = ""  # why the first failed clip failed, or why the video has no clips. Otherwise "".
    # `num_failed`, `num_clips`: the numbers of failed clips and of all clips
    num_failed: int = 0
    num_clips: int = 0

    def without_boxes(self) -> "Prediction":
        """Returns a copy of the prediction without its boxes. Boxes take most of the memory of a prediction."""
        return replace(self, spans=tuple(replace(span, boxes=()) for span in self.spans))

    def to_json(self, class_names: Sequence[str], top: int) -> dict[str, Any]:
        """Returns the prediction as a dict for `predict --json`, with the `top` best classes of the video and of each
        clip.

        `clips` has the clips that did not fail, and `failed_clips` the number of failed clips. `failed_intervals` has
        the parts of the video in which every clip failed, as {"start", "end", "failure"} with times in seconds.
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
    """Returns the `top` best classes, best first, as dicts {"name": name of the class, "score": probability}.

    `probabilities` and `class_names` have one entry for each class. Classes with equal probabilities keep their order.
    """
    order = probabilities.argsort(descending=True, stable=True)[:top].tolist()
    return [{"name": class_names[index], "score": round(float(probabilities[index]), 6)} for index in order]
