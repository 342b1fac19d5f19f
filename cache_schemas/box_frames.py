"""Says which frames with boxes the time steps of an array belong to, if the steps are not at equal distances.

Such arrays come from networks that take frames from the first to the last of a clip, as the slow pathway of SlowFast.
"""

from collections.abc import Mapping

from kinegraph.cache_schemas.arrays import CLIPS, FRAME_TIMES, ArraySpec

BOX_FRAMES = "clips/box_frames"  # before the name of an array: the frames with boxes of its time steps


def box_frames_arrays(specs: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    """Returns name -> ArraySpec of the arrays `clips/box_frames/<array>`. Each holds the frame with boxes of each time
    step of one array, counted from 0.

    `specs` are the stored arrays, by name. There is one result for each array with a `frame_index` whose rows belong to
    boxes or can be cut by boxes. Such arrays are not stored. Readers compute their values from `frame_index`.
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
