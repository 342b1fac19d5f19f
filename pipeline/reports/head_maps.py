"""Draws maps that a head computes, such as class activation maps, over the frames of a clip. Torch-free.

Shapes: T time steps of a head, H rows and W columns of a map.
"""

from collections.abc import Sequence

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.crops import Rectangle, directed
from kinegraph.pipeline.reports.clip_strips import ALL_STEPS, clip_frame
from kinegraph.pipeline.reports.frames import FrameFinder, FramesMissingError
from kinegraph.pipeline.reports.samples import ArraySamples
from kinegraph.stages.pictures.strips import Heat, Strip

MOST_FRAMES = 4


def maps_strip(
    samples: ArraySamples, finder: FrameFinder, row: int, array: str, lines: Sequence[tuple[str, np.ndarray]], *,
    name: str, title: str, told: str,
) -> Strip:  # fmt: skip
    """Returns a Strip with a line of up to 4 frames of the clip in row `row` for each of `lines`: (caption, maps [T, H,
    W]). The maps lie over the frames as heat maps, and cover what the network of the array `array` saw of them.

    The colours of a line go from the smallest to the largest value of its maps. `data` has the maps by caption. Raises
    FramesMissingError if the clip has no frames to show, or if its video has changed.
    """
    clip = finder.clip(row, 1, ALL_STEPS)
    if clip.has_changed:
        raise FramesMissingError(f"{clip.row.path} has changed since the cache was made, so its maps do not fit.")
    rectangle = seen(samples.numbers.cache, array, clip.row)
    frames = []
    for caption, maps in lines:
        low, high = float(maps.min()), float(maps.max())
        shares = (maps - low) / (high - low or 1.0)
        sampled = frames_of(samples.specs[array], len(maps))
        for step in np.unique(np.linspace(0, len(maps) - 1, min(MOST_FRAMES, len(maps))).round().astype(int)):
            at = min(int(sampled[step]), len(clip.pixels) - 1)
            words = f"{caption}, {clip.times[at]:.2f} s"
            frames.append(clip_frame(clip, at, caption=words, heat=Heat(shares=shares[step], rectangle=rectangle)))
    return Strip(
        name=name, title=title, description=told, frames=frames, columns=len(frames) // max(1, len(lines)),
        data=dict(lines),
    )  # fmt: skip


def frames_of(spec: ArraySpec, num_steps: int) -> np.ndarray:
    """Returns the sampled frame, from 0, of each of `num_steps` time steps, int64 [num_steps]. A head computes the
    steps from the array `spec`, in which there may be more of them.
    """
    frames = np.array(spec.frame_index or np.arange(spec.shape[0]) * (spec.frame_step or 1))
    chosen: np.ndarray = frames[np.arange(num_steps) * len(frames) // num_steps]
    return chosen


def seen(cache: Cache, array: str, row: ClipRow) -> Rectangle:
    """Returns the rectangle (x1, y1, x2, y2) of the frame, in px, that the network of the array `array` saw of the clip
    `row`. x1 > x2 marks a mirrored rectangle.
    """
    entry = array.split("/")[1]
    if f"clips/crop/{entry}" in cache.readable():
        return row.seen(cache.framing(entry))
    return directed(row.crop, mirrored=row.mirrored)
