"""The options of tracks. Imports no torch."""

from pydantic import Field

from kinegraph.stages.options import StageOptions


class TrackOptions(StageOptions):
    """The options of tracks. A track links boxes in consecutive frames of a clip, each of which overlaps the next one.

    The two boxes with the largest overlap are linked first. Each box belongs to exactly one track.
    """

    min_iou: float = Field(
        0.3,
        gt=0,
        le=1,
        description="least overlap (intersection over union) of two linked boxes; a track without such a box ends",
    )
