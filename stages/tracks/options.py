"""The options of tracks. Imports no torch."""

from pydantic import Field

from kinegraph.stages.options import StageOptions


class TrackOptions(StageOptions):
    """Tracks link the proposals of consecutive frames of a clip.

    The largest overlaps are linked first. A box has one track.
    """

    min_iou: float = Field(
        0.3,
        gt=0,
        le=1,
        description="least overlap (intersection over union) of two linked boxes; a track without such a box ends",
    )
