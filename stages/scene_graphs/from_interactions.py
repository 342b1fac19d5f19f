"""Makes the scene graphs of the generated data set `interactions` from the true positions of its shapes. Imports no
torch.

A shape is a small disc, diamond or square with a digit. Shape 0 acts, and is called the person. The other shapes are
the objects. The class labels of the videos are not used.

Array shapes: T frames of a video, K shapes, R relations.
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
    """The scene graphs of the videos of the generated data set `interactions`. The graphs are computed from `seed`, the
    seed of the data set. The videos are not read.
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
    """Returns (name of the split, number of the video in the split) of the generated video with the id `video_id`.
    Raises GraphError if `video_id` is not the id of a generated video.
    """
    match = VIDEO_ID.fullmatch(video_id)
    if match is None or not video_id.endswith(video_path(match[1], int(match[2]))):
        raise GraphError("unreadable", f"{video_id} is no video of the generated data set")
    return match[1], int(match[2])


@dataclass(frozen=True, kw_only=True)
class Relations:
    """The relations of the objects to the person, in T frames of a generated video with K - 1 objects.

    - `values`: uint8 [T, K - 1, R] for R relations. It is 1 if the object has the relation to the person, else 0.
    - `gaps_px`: the distance in pixels between the object and the person, [T, K - 1]. It is negative if the two
      overlap.
    """

    values: np.ndarray
    gaps_px: np.ndarray


@lru_cache(maxsize=1)  # rows of a video follow each other
def _video_graphs(seed: int, split: str, index: int) -> tuple[np.ndarray, Relations]:
    """Returns (class numbers of the objects [K - 1], Relations of the objects to the person) of one generated video
    with K - 1 objects.

    `index` is the number of the video in the split `split`. `seed` is the seed of the data set.
    """
    video = truth(seed, split, index)
    return np.array(video.digits[1:]) + FIRST_DIGIT_CLASS, relations_to_person(video.boxes)


def relations_to_person(boxes: np.ndarray) -> Relations:
    """Returns the Relations of K - 1 objects to the person in each of T frames. They are computed from the boxes.

    `boxes` [T, K, 4] are (x1, y1, x2, y2) in pixels. Box 0 is that of the person. All boxes must be squares. The gap
    between two boxes is the distance between the largest discs inside the boxes. The relations "approaching", "leaving"
    and "moving_together" compare each frame with the frame before.
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
    """Returns the change of `values` from the frame before to each frame, in the shape of `values`. Axis 0 is the
    frame. The first frame, which has no frame before it, gets the change of the second frame.
    """
    return np.diff(values, axis=0, prepend=2 * values[:1] - values[1:2])
