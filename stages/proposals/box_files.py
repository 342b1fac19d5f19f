"""Reads files of boxes, one file per video. Imports no torch.

    json: {"frames": [{"seconds": 0.0, "boxes": [[x1, y1, x2, y2], ...], "scores": [0.9, ...]}, ...]}
    npz: the arrays `seconds` [F], `boxes` [F, N, 4], `count` [F] (without it all N are valid), `scores` [F, N]

Shapes: F frames of the file, N boxes of a frame, K boxes of all frames together.

With the option `frames: index`, a file has `index` in place of `seconds`, the number of the frame in the video, from 0.
Such a file must also have `num_frames` (in json beside `frames`), the number of frames that the user's program counted
in the video. A file with `seconds` needs no `num_frames`.

A frame without boxes must be listed too, with an empty list. If a file has no scores, all scores are 0 and the boxes
keep their order.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kinegraph.cache_schemas.regular import read_regular
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.number_files import read_npz
from kinegraph.stages.proposals.options import FileOptions


class BoxFileError(ValueError):
    """Raised if a file of boxes cannot be read, or if its content is wrong. The message says why."""


@dataclass(frozen=True, kw_only=True)
class VideoBoxes:
    """All boxes of one file. The file has F frames, with K boxes in all frames together.

    `frames` [F] float64 has one number for each frame, strictly ascending. It is the time in seconds from the first
    frame of the video if the option `frames` is "seconds". With "index" it is the number of the frame, from 0.

    `boxes` [K, 4] float64 have the form and unit that the options `box_format` and `units` state, as in the file.
    `scores` [K] float32 belong to them. Both are in the order of the frames. The boxes of frame f are
    `boxes[starts[f]:starts[f + 1]]`, so `starts` is int64 [F + 1]. `num_frames` is the number of frames of the video as
    the file states it, or None.
    """

    frames: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    starts: np.ndarray
    num_frames: int | None

    def __post_init__(self) -> None:
        if self.frames.ndim != 1 or self.scores.shape != self.boxes.shape[:1]:
            shapes = f"frames {[*self.frames.shape]}, boxes {[*self.boxes.shape]}, scores {[*self.scores.shape]}"
            raise BoxFileError(f"expected one number for each frame and one score for each box, found {shapes}")
        if not all(np.isfinite(values).all() for values in (self.frames, self.boxes, self.scores)):
            raise BoxFileError("holds NaN or Inf")
        if len(self.frames) == 0 or (np.diff(self.frames) <= 0).any():
            raise BoxFileError("expected at least one frame, each listed once, in ascending order")


def read_boxes(path: Path, frames: str) -> VideoBoxes:
    """Returns the VideoBoxes of one video, read from the file `path`.

    If `frames` is "seconds", the file has the time of each frame in seconds. If it is "index", the file has the number
    of each frame. Raises BoxFileError if the content is not a list of boxes. Raises OSError if the file cannot be read.
    """
    try:
        return _from_json(path, frames) if path.suffix == ".json" else _from_npz(path, frames)
    except (BoxFileError, OSError):
        raise
    except KeyError as error:
        raise BoxFileError(f"has no {error}") from error
    except Exception as error:  # readers raise errors of any type for a damaged file
        raise BoxFileError(f"cannot be read as a file of boxes: {error}") from error


def _from_json(path: Path, frames: str) -> VideoBoxes:
    document: Any = json.loads(read_regular(path))
    listed = document["frames"]
    boxes = [_four_each(np.asarray(frame["boxes"], np.float64)) for frame in listed]
    scores = [frame.get("scores", [0.0] * len(own)) for frame, own in zip(listed, boxes, strict=True)]
    for frame, own, score in zip(listed, boxes, scores, strict=True):
        if len(own) != len(score):
            raise BoxFileError(
                f"frame {frame[frames]} has {counted(len(score), 'score')} for {counted(len(own), 'box')}"
            )
    return VideoBoxes(
        frames=np.array([frame[frames] for frame in listed], np.float64),
        boxes=np.concatenate([np.empty((0, 4)), *boxes]),
        scores=np.array([score for of_frame in scores for score in of_frame], np.float32),
        starts=np.cumsum([0, *map(len, boxes)]),
        num_frames=document.get("num_frames"),
    )


def _four_each(boxes: np.ndarray) -> np.ndarray:
    if boxes.shape != (len(boxes), 4) and boxes.size:
        raise BoxFileError(f"boxes of shape {list(boxes.shape)}, expected four numbers each")
    return boxes.reshape(-1, 4)


def _from_npz(path: Path, frames: str) -> VideoBoxes:
    arrays, _ = read_npz(path, (frames, "boxes", "count", "scores", "num_frames"))
    if strange := [f"{name} holds {array.dtype}" for name, array in arrays.items() if array.dtype.kind not in "biuf"]:
        raise BoxFileError(f"{strange[0]}; numbers are expected")
    keys, boxes = arrays[frames], arrays["boxes"]
    most = boxes.shape[1] if boxes.ndim == 3 else 0
    count = arrays.get("count", np.full(keys.shape, most))
    scores = arrays.get("scores", np.zeros(boxes.shape[:2]))
    if boxes.ndim != 3 or not keys.shape == count.shape == boxes.shape[:1] or scores.shape != boxes.shape[:2]:
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
    )


def boxes_in_pixels(listed: VideoBoxes, options: FileOptions, width: int, height: int) -> np.ndarray:
    """Returns the boxes `listed` of a file as float32 [boxes, 4], with (x1, y1, x2, y2) in pixels of the video.

    The boxes in the file have the format and the units that `options` says. The video has `width` x `height` px. Boxes
    are clipped to the frame, so a box may have no area afterwards. Raises BoxFileError if a box has a negative size or
    lies completely outside the frame. The format or the units in `options` must then be wrong.
    """
    sides = np.array([width, height], np.float64)
    boxes: np.ndarray = listed.boxes * (1 if options.units == "px" else np.tile(sides, 2))
    if options.box_format == "xywh":
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    first, last = boxes[:, :2], boxes[:, 2:]
    problems = {
        "of negative size": np.any(last < first, axis=1),
        "wholly outside the frame": np.any((last < 0) | (first > sides), axis=1),
    }
    for how, bad in problems.items():
        if bad.any():
            raise BoxFileError(f"{_told(listed, bad, how, options)} of a frame of {width}x{height} px; are they right?")
    return np.concatenate([np.clip(first, 0, sides), np.clip(last, 0, sides)], axis=1).astype(np.float32)


def _told(listed: VideoBoxes, bad: np.ndarray, how: str, options: FileOptions) -> str:
    place = int(np.flatnonzero(bad)[0])
    frame = listed.frames[np.searchsorted(listed.starts, place, "right") - 1]
    return (
        f"{bad.sum()} of {counted(len(bad), 'box')} {how}, first {listed.boxes[place].tolist()} at {options.frames} "
        f"{frame:g}, with box_format {options.box_format} and units {options.units}"
    )
