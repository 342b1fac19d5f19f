"""Defines the options of tracks. Imports no torch."""

from pydantic import Field

from kinegraph.stages.options import StageOptions


class TrackOptions(StageOptions):
    """The options of tracks, a section of the config. A track is a chain of boxes in consecutive frames of a clip. Each
    box overlaps the next one.

    Pairs of boxes with the largest overlap are linked first. Each box belongs to exactly one track.
    """

    min_iou: float = Field(
        0.3,
        gt=0,
        le=1,
        description="least overlap (intersection over union) of two linked boxes; a track without such a box ends",
    )
