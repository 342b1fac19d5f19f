"""Makes the scene graphs of the generated data set from the true positions of its things. Imports no torch.

A thing is a small shape with a digit. Thing 0 is the person. The class labels of the videos are not used.

Shapes: T frames of a video, K things, R relations.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.generated.interactions import FPS, NUM_FRAMES, truth, video_path
from kinegraph.stages.scene_graphs.options import INTERACTION_RELATIONS, InteractionGraphOptions
from kinegraph.stages.scene_graphs.source import ClipGraphs, GraphError

TOUCHING_PX = 1.25  # things in contact are at most 1 px apart, passing things at least 1.5 px
NEAR_PX = 10.0
STILL_PX = 0.5  # px per frame; slower is no motion, and moving things have at least 1.8
FIRST_DIGIT_CLASS = 1
VIDEO_ID = re.compile(r"(?:.*/)?([^/]+)/[a-z_]+_(\d{5,})\.mp4")


class InteractionGraphs:
    """A source of scene graphs for the videos of the generated data set. It computes where things are from the seed of
    the data set and does not read the video.
    """

    def __init__(self, options: InteractionGraphOptions, seed: int) -> None:
        self.options, self.seed = options, seed

    def graphs(self, row: ClipRow, frame_times: np.ndarray) -> ClipGraphs:
        classes, relations = _video_graphs(self.seed, *_clip_of(row.video_id))
        seconds = frame_times[:: self.options.every]
        frame_numbers = np.rint(seconds * FPS).astype(int)
        if frame_numbers.max() >= NUM_FRAMES:
            raise GraphError("unreadable", f"{row.video_id} is longer than a generated video: {seconds.max():g} s")
        out = ClipGraphs.empty(self.options.shape(len(frame_times)))
        out.times[:] = np.maximum(seconds - row.start_seconds, 0)  # the first frame may have begun before the clip
        out.count[:] = len(classes)
        out.linked[:] = 1
        for t, frame_number in enumerate(frame_numbers):
            # Sorted by gap, because the original order would show which things interact.
            nearest = np.argsort(relations.gaps_px[frame_number], kind="stable")
            out.objects[t] = classes[nearest]
            out.relations[t] = relations.values[frame_number, nearest]
        return out


def _clip_of(video_id: str) -> tuple[str, int]:
    """Returns (split, number in the split) of the generated video with the id `video_id`.

    Raises GraphError if `video_id` is not the id of a generated video.
    """
    match = VIDEO_ID.fullmatch(video_id)
    if match is None or not video_id.endswith(video_path(match[1], int(match[2]))):
        raise GraphError("unreadable", f"{video_id} is no video of the generated data set")
    return match[1], int(match[2])


@dataclass(frozen=True, kw_only=True)
class Relations:
    """The relations of things to the person, in T frames of a video of K things. The person is thing 0.

    `values` uint8 [T, K - 1, R] is 1 if the thing has the relation to the person, else 0. R is the number of relations.
    `gaps_px` [T, K - 1] are the distances in pixels between the thing and the person, negative if the two overlap.
    """

    values: np.ndarray
    gaps_px: np.ndarray


@lru_cache(maxsize=1)  # rows of a video follow each other
def _video_graphs(seed: int, split: str, index: int) -> tuple[np.ndarray, Relations]:
    """Returns (class numbers [K - 1], Relations) of one generated video with K things. The first thing plays the
    person, and the others are its objects. The class numbers are those of the objects. The Relations are those of each
    object to the person in each frame.

    `index` is the number of the video in the split `split`. `seed` is the seed of the data set.
    """
    shown = truth(seed, split, index)
    return np.array(shown.digits[1:]) + FIRST_DIGIT_CLASS, relations_to_person(shown.boxes)


def relations_to_person(boxes: np.ndarray) -> Relations:
    """Returns the Relations between the person, thing 0, and K - 1 other things in each of T frames.

    `boxes` [T, K, 4] are (x1, y1, x2, y2) in pixels, with y growing downwards. All boxes must be squares. A gap in
    `gaps_px` of the result is the distance between the largest discs in two boxes. It is negative if the discs overlap.
    A relation of movement ("approaching", "leaving", "moving_together") compares each frame with the frame before it.
    """
    centres, sizes = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2] - boxes[..., 0]
    offsets = centres[:, 1:] - centres[:, :1]  # [T, K - 1, 2]
    gaps = np.linalg.norm(offsets, axis=-1) - (sizes[:, 1:] + sizes[:, :1]) / 2
    widening, velocities = _change(gaps), _change(centres)
    moves = np.linalg.norm(velocities, axis=-1) > STILL_PX  # [T, K]
    drift = np.linalg.norm(velocities[:, 1:] - velocities[:, :1], axis=-1)
    by_name = {
        "near": gaps < NEAR_PX,
        "touching": gaps < TOUCHING_PX,
        "left_of": offsets[..., 0] < 0,
        "right_of": offsets[..., 0] > 0,
        "above": offsets[..., 1] < 0,
        "below": offsets[..., 1] > 0,
        "approaching": widening < -STILL_PX,
        "leaving": widening > STILL_PX,
        "moving_together": moves[:, 1:] & moves[:, :1] & (drift < STILL_PX),
    }
    values = np.stack([by_name[name] for name in INTERACTION_RELATIONS], axis=-1)
    return Relations(values=values.astype(np.uint8), gaps_px=gaps)


def _change(values: np.ndarray) -> np.ndarray:
    """Returns `values` of each frame minus `values` of the frame before it, in the shape of `values`. Axis 0 is the
    frame.

    The first frame has no frame before it, so it has the difference of the second frame.
    """
    return np.diff(values, axis=0, prepend=2 * values[:1] - values[1:2])
