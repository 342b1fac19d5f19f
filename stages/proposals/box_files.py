"""Reads files of boxes, one file per video. Imports no torch.

    json: {"frames": [{"seconds": 0.0, "boxes": [[x1, y1, x2, y2], ...], "scores": [0.9, ...]}, ...]}
    npz: the arrays `seconds` [F], `boxes` [F, N, 4], `count` [F] (without it all N are valid), `scores` [F, N]

Shapes: F frames of the file, N boxes of a frame, K boxes of all frames together.

With the option `frames: index`, a file has `index` in place of `seconds`, the number of the frame in the video, from 0.
Such a file must also have `num_frames` (in json beside `frames`), the number of frames that the user's program counted
in the video. A file with `seconds` needs no `num_frames`.

With the option `labels`, a json file also has `labels` beside `boxes`, with one label for each box: a name in
the option, or the number of this name in the option, from 0. An npz file has numbers, in the array `labels` [F, N].

A frame without boxes must be listed too, with an empty list. If a file has no scores, all scores are 0 and the boxes
keep their order.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinegraph.cache_schemas.regular import read_regular
from kinegraph.cache_schemas.words import counted, few_of
from kinegraph.stages.number_files import read_npz
from kinegraph.stages.proposals.options import FileOptions


class BoxFileError(ValueError):
    """Raised if a file of boxes cannot be read, or if its content is wrong. The message says why."""


@dataclass(frozen=True, kw_only=True)
class VideoBoxes:
    """All boxes in the file of one video. F is the number of frames of the file. K is the number of boxes of all frames
    together.
    """

    # [F] float64, strictly ascending, one number for each frame. With the option `frames: seconds`, it is the time in
    # seconds from the first frame of the video. With `frames: index`, it is the number of the frame, from 0.
    frames: np.ndarray
    # [K, 4] float64, in the order of the frames. Form and unit are those of the file, which the options `box_format`
    # and `units` state.
    boxes: np.ndarray
    scores: np.ndarray  # [K] float32, the scores of the boxes
    starts: np.ndarray  # [F + 1] int64. The boxes of frame f are `boxes[starts[f]:starts[f + 1]]`.
    num_frames: int | None  # the number of frames of the video as the file states it, or None
    # [K] int16, the numbers of the classes of the boxes. None if the option `labels` is not set.
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.frames.ndim != 1 or self.scores.shape != self.boxes.shape[:1]:
            shapes = f"frames {[*self.frames.shape]}, boxes {[*self.boxes.shape]}, scores {[*self.scores.shape]}"
            raise BoxFileError(f"expected one number for each frame and one score for each box, found {shapes}")
        if not all(np.isfinite(values).all() for values in (self.frames, self.boxes, self.scores)):
            raise BoxFileError("holds NaN or Inf")
        if len(self.frames) == 0 or (np.diff(self.frames) <= 0).any():
            raise BoxFileError("expected at least one frame, each listed once, in ascending order")


def read_boxes(path: Path, frames: str, classes: Sequence[str] | None = None) -> VideoBoxes:
    """Reads the boxes of one video from the file `path` (.json or .npz). Returns a VideoBoxes.

    `frames` is "seconds" if the file has the time of each frame, or "index" if it has the number of each frame. If
    `classes`, the names of the classes, are given, each box must have a label. Raises BoxFileError if the content is
    not a list of boxes. Raises OSError if the file cannot be read.
    """
    try:
        return (_from_json if path.suffix == ".json" else _from_npz)(path, frames, classes)
    except (BoxFileError, OSError):
        raise
    except KeyError as error:
        raise BoxFileError(f"has no {error}") from error
    except Exception as error:  # readers raise errors of any type for a damaged file
        raise BoxFileError(f"cannot be read as a file of boxes: {error}") from error


def _from_json(path: Path, frames: str, classes: Sequence[str] | None) -> VideoBoxes:
    document: Any = json.loads(read_regular(path))
    listed = document["frames"]
    boxes = [_four_each(np.asarray(frame["boxes"], np.float64)) for frame in listed]
    scores = [frame.get("scores", [0.0] * len(own)) for frame, own in zip(listed, boxes, strict=True)]
    labels = [] if classes is None else [frame["labels"] if len(frame["boxes"]) else [] for frame in listed]
    for what, of_frames in (("score", scores), ("label", labels)):
        for frame, own, values in zip(listed, boxes, of_frames, strict=False):
            if len(own) != len(values):
                raise BoxFileError(
                    f"frame {frame[frames]} has {counted(len(values), what)} for {counted(len(own), 'box')}"
                )
    return VideoBoxes(
        frames=np.array([frame[frames] for frame in listed], np.float64),
        boxes=np.concatenate([np.empty((0, 4)), *boxes]),
        scores=np.array([score for of_frame in scores for score in of_frame], np.float32),
        starts=np.cumsum([0, *map(len, boxes)]),
        num_frames=document.get("num_frames"),
        labels=_numbers((label for of_frame in labels for label in of_frame), classes),
    )


def _numbers(labels: Iterable[Any], classes: Sequence[str] | None) -> np.ndarray | None:
    """Returns the class number of each of `labels`, int16, or None if `classes` is None. A label is one of `classes`,
    or its number. Raises BoxFileError for another label.
    """
    if classes is None:
        return None
    places: dict[Any, int] = {name: number for number, name in enumerate(classes)}
    places |= {number: number for number in range(len(classes))}
    labels = [*labels]
    if strange := [label for label in labels if isinstance(label, list | dict) or label not in places]:
        raise BoxFileError(
            f"label {strange[0]!r}; expected a name in proposals.labels ({few_of(classes, 5)}), "
            f"or its number from 0 to {len(classes) - 1}"
        )
    return np.array([places[label] for label in labels], np.int16)


def _four_each(boxes: np.ndarray) -> np.ndarray:
    if boxes.shape != (len(boxes), 4) and boxes.size:
        raise BoxFileError(f"boxes of shape {list(boxes.shape)}, expected four numbers each")
    return boxes.reshape(-1, 4)


def _from_npz(path: Path, frames: str, classes: Sequence[str] | None) -> VideoBoxes:
    names = (frames, "boxes", "count", "scores", "num_frames", *(() if classes is None else ("labels",)))
    arrays, _ = read_npz(path, names)
    if strange := [f"{name} holds {array.dtype}" for name, array in arrays.items() if array.dtype.kind not in "biuf"]:
        raise BoxFileError(f"{strange[0]}; numbers are expected")
    keys, boxes = arrays[frames], arrays["boxes"]
    most = boxes.shape[1] if boxes.ndim == 3 else 0
    count = arrays.get("count", np.full(keys.shape, most))
    scores = arrays.get("scores", np.zeros(boxes.shape[:2]))
    labels = scores if classes is None else arrays["labels"]
    fit_frames = boxes.ndim == 3 and keys.shape == count.shape == boxes.shape[:1]
    if not fit_frames or not labels.shape == scores.shape == boxes.shape[:2]:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in arrays.items())
        raise BoxFileError(f"shapes do not belong together: {shapes}")
    if len(bad := count[~np.isin(count, np.arange(most + 1))]):
        raise BoxFileError(f"count holds {bad[0]}, expected whole numbers from 0 to {most}, the boxes of a frame")
    valid = np.arange(boxes.shape[1]) < count[:, None]
    return VideoBoxes(
        frames=keys.astype(np.float64),
        boxes=_four_each(boxes[valid].astype(np.float64)),
        scores=scores[valid].astype(np.float32),
        starts=np.cumsum([0, *valid.sum(1)]),
        num_frames=arrays["num_frames"].item() if "num_frames" in arrays else None,
        labels=_numbers(labels[valid].tolist(), classes),
    )


def boxes_in_pixels(video_boxes: VideoBoxes, options: FileOptions, width: int, height: int) -> np.ndarray:
    """Converts the boxes of a file to (x1, y1, x2, y2) in pixels of the video. Returns float32 [boxes, 4].

    `video_boxes` is the content of the file. `options` states the format and the units of its boxes. The video has
    `width` x `height` px. Boxes are clipped to the frame. Raises BoxFileError if a box has a negative size or lies
    outside the frame, because the format or the units must then be wrong.
    """
    sides = np.array([width, height], np.float64)
    boxes: np.ndarray = video_boxes.boxes * (1 if options.units == "px" else np.tile(sides, 2))
    if options.box_format == "xywh":
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    first, last = boxes[:, :2], boxes[:, 2:]
    problems = {
        "of negative size": np.any(last < first, axis=1),
        "wholly outside the frame": np.any((last < 0) | (first > sides), axis=1),
    }
    for how, bad in problems.items():
        if bad.any():
            where = _location(video_boxes, bad, how, options)
            raise BoxFileError(f"{where} of a frame of {width}x{height} px; are they right?")
    return np.concatenate([np.clip(first, 0, sides), np.clip(last, 0, sides)], axis=1).astype(np.float32)


def _location(video_boxes: VideoBoxes, bad: np.ndarray, how: str, options: FileOptions) -> str:
    place = int(np.flatnonzero(bad)[0])
    frame = video_boxes.frames[np.searchsorted(video_boxes.starts, place, "right") - 1]
    return (
        f"{bad.sum()} of {counted(len(bad), 'box')} {how}, first {video_boxes.boxes[place].tolist()} at "
        f"{options.frames} {frame:g}, with box_format {options.box_format} and units {options.units}"
    )
