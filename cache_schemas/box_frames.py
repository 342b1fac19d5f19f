"""Finds which frame with boxes belongs to each time step of a feature array, if the time steps are not at equal
distances.

Such arrays come from networks that take frames from the first to the last frame of a clip. An example is the slow
pathway of SlowFast, which takes the frames 0, 4, 8, 13, 17, 22, 26 and 31 of 32.
"""

from collections.abc import Mapping

import numpy as np

from kinegraph.cache_schemas.arrays import CLIPS, FRAME_TIMES, ArraySpec

BOX_FRAMES = "clips/box_frames"  # before the name of an array: the frames with boxes of its time steps


def box_frames_arrays(specs: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    """Returns {array name: ArraySpec} for the arrays `clips/box_frames/<array>`. Element t of such an array is the
    index of the frame whose boxes belong to time step t of `<array>`. The index counts only frames with boxes, from 0.

    `specs` maps the name of each stored array to its ArraySpec. Only arrays with a `frame_index` get such an array. It
    is not stored. Readers compute it from `frame_index`.
    """
    if not {FRAME_TIMES, "proposals/count"} <= specs.keys():
        return {}
    every = specs[FRAME_TIMES].shape[0] // specs["proposals/count"].shape[0]
    arrays = [
        ArraySpec(
            name=f"{BOX_FRAMES}/{spec.name}",
            stage=CLIPS,
            shape=(len(spec.frame_index),),
            dtype="int64",
            dims=spec.dims[:1],
            fill=0,
            about=f"frame with boxes of each time step of {spec.name}",
            frame_index=tuple(frame // every for frame in spec.frame_index),
        )
        for spec in specs.values()
        if spec.frame_index is not None and len(spec.shape) > 2
    ]
    return {spec.name: spec for spec in arrays}


def frames_with_boxes(features: ArraySpec, boxes: ArraySpec) -> np.ndarray:
    """Finds the boxes that belong to each of the T time steps of the array `features`. Returns int64 [T]. Element t is
    an index on the time axis of the array `boxes`: the boxes at this index belong to time step t of `features`.
    """
    frames = np.array(features.frame_index or np.arange(features.shape[0]) * (features.frame_step or 1))
    steps: np.ndarray = np.minimum(frames // (boxes.frame_step or 1), boxes.shape[0] - 1)
    return steps
