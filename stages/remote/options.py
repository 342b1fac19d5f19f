"""Defines the config section `run.staging`: how videos at URLs are copied. Torch-free."""

from pydantic import Field

from kinegraph.stages.options import StageOptions

GIB = 1 << 30


class StagingOptions(StageOptions):
    """The config section `run.staging`, for videos at URLs. A video is copied to `folder` before it is decoded, and its
    copy is deleted afterwards.

    `max_gib`: the most GiB that all copies of one worker process take together.
    `tries`: the most requests for a video while the network fails.

    The limits are for one worker process. Four worker processes on a node may take four times as much disk space.
    """

    folder: str | None = Field(
        None,
        description="folder for copies on a disk of the node; null: the system's temporary folder "
        "(`TMPDIR`, else /tmp)",
    )
    max_gib: float = Field(
        16.0,
        gt=0,
        le=1_000_000,
        description="most GiB that the copies of one worker process take; a larger video fails and is named",
    )
    tries: int = Field(
        7,
        ge=1,
        le=1000,
        description="requests before a worker gives up on the network, with pauses of 1, 2, 4, 8, 16, 30 "
        "s ... between them",
    )

    @property
    def max_bytes(self) -> int:
        """Returns how many bytes all copies of one worker process may take together."""
        return int(self.max_gib * GIB)
