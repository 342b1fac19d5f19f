"""Draws maps that a head computes, such as class activation maps, over the frames of a clip. Torch-free.

Shapes: T time steps of a head, H rows and W columns of a map, N boxes.
"""

from collections.abc import Sequence

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.crops import Rectangle, directed
from kinegraph.pipeline.reports.clip_strips import ALL_STEPS, NO_BOXES, clip_frame, evenly_spread
from kinegraph.pipeline.reports.frames import FrameFinder, FramesMissingError
from kinegraph.pipeline.reports.samples import BOXES, COUNT, ArraySamples
from kinegraph.stages.pictures.strips import Heat, Strip

MOST_FRAMES, MOST_BOXES = 4, 3


def maps_strip(
    samples: ArraySamples, finder: FrameFinder, row: int, array: str, lines: Sequence[tuple[str, np.ndarray]], *,
    name: str, title: str, description: str, with_boxes: bool = False,
) -> Strip:  # fmt: skip
    """Returns a Strip with frames of a clip and heat maps over the frames. Each item of `lines` is a line of at most 4
    frames.

    - `row`: the row number of the clip.
    - `array`: the cached array from which the maps were computed. They cover the part of the frame that the network
      saw.
    - `lines`: (caption, maps) of each line. Maps are [time steps, rows, columns]. The colours go from the smallest to
      the largest value of the line.
    - `name`, `title`, `description`: those of the Strip. Its `data` is {caption: maps}.
    - `with_boxes`: if true, each frame also has the three cached boxes in which the mean of the map is largest.

    Raises FramesMissingError if the clip has no frames to show, or if its video has changed.
    """
    clip = finder.clip(row, 1, ALL_STEPS)
    if clip.has_changed:
        raise FramesMissingError(f"{clip.row.path} has changed since the cache was made, so its maps do not fit.")
    rectangle = seen_rectangle(samples.numbers.cache, array, clip.row)
    frames = []
    for caption, maps in lines:
        low, high = float(maps.min()), float(maps.max())
        shares = (maps - low) / (high - low or 1.0)
        sampled = frames_of(samples.specs[array], len(maps))
        for step in evenly_spread(len(maps), MOST_FRAMES):
            at = min(int(sampled[step]), len(clip.pixels) - 1)
            words = f"{caption}, {clip.times[at]:.2f} s"
            heat = Heat(shares=shares[step], rectangle=rectangle)
            boxes = _boxes_of(samples, row, int(sampled[step])) if with_boxes else NO_BOXES
            means = in_boxes(maps[step], rectangle, boxes)
            order = [at for at in np.argsort(-means, kind="stable")[:MOST_BOXES] if np.isfinite(means[at])]
            names = [f"box {box}, mean {means[box]:.3f}" for box in order]
            frames.append(clip_frame(clip, at, boxes=boxes[order], names=names, chosen=0, caption=words, heat=heat))
    return Strip(
        name=name, title=title, description=description, frames=frames, columns=len(frames) // max(1, len(lines)),
        data=dict(lines),
    )  # fmt: skip


def in_boxes(values: np.ndarray, rectangle: Rectangle, boxes: np.ndarray) -> np.ndarray:
    """Returns the mean of a map in each of N boxes, float64 [N]. A cell counts with its area inside the box. A box
    outside of the map has NaN.

    - `values`: [H, W], the map.
    - `rectangle`: (x1, y1, x2, y2), the part of the frame that the map covers, in px.
    - `boxes`: [N, 4], (x1, y1, x2, y2) in px of the frame.
    """
    height, width = values.shape
    left, top, right, bottom = rectangle
    columns, rows = np.linspace(left, right, width + 1), np.linspace(top, bottom, height + 1)
    low, high = np.minimum(columns[:-1], columns[1:]), np.maximum(columns[:-1], columns[1:])
    across = np.clip(np.minimum(high, boxes[:, 2:3]) - np.maximum(low, boxes[:, 0:1]), 0, None)  # [N, W]
    down = np.clip(np.minimum(rows[1:], boxes[:, 3:4]) - np.maximum(rows[:-1], boxes[:, 1:2]), 0, None)  # [N, H]
    total, area = np.einsum("nh,hw,nw->n", down, values, across), down.sum(1) * across.sum(1)
    means: np.ndarray = np.where(area > 0, total / np.where(area > 0, area, 1), np.nan)
    return means


def _boxes_of(samples: ArraySamples, row: int, frame: int) -> np.ndarray:
    """Returns the cached boxes of a frame of a clip, [number of boxes, 4]. `row` is the row number of the clip, and
    `frame` the number of the frame, from 0. Returns no box, [0, 4], if the frame has no boxes.
    """
    spec = samples.specs.get(BOXES)
    if spec is None or frame % (spec.frame_step or 1) or not samples.numbers.stages[spec.stage].usable[row]:
        return NO_BOXES
    step = frame // (spec.frame_step or 1)
    boxes, count = (samples.read(name, np.array([row]))[0, step] for name in (BOXES, COUNT))
    return np.asarray(boxes[:count], float)


def frames_of(spec: ArraySpec, num_steps: int) -> np.ndarray:
    """Returns int64 [num_steps]. Element t is the number, from 0, of the frame of the clip that belongs to time step t
    of a head. The head reads the array `spec`. If the array has more time steps, the head's time steps are spread
    evenly over them.
    """
    frames = np.array(spec.frame_index or np.arange(spec.shape[0]) * (spec.frame_step or 1))
    chosen: np.ndarray = frames[np.arange(num_steps) * len(frames) // num_steps]
    return chosen


def seen_rectangle(cache: Cache, array: str, row: ClipRow) -> Rectangle:
    """Returns the rectangle (x1, y1, x2, y2) of the frame, in px, that the network saw when it computed `array` for the
    clip `row`. If x1 > x2, the network saw a mirrored picture.
    """
    entry = array.split("/")[1]
    if f"clips/crop/{entry}" in cache.readable():
        return row.seen(cache.framing(entry))
    return directed(row.crop, mirrored=row.mirrored)
