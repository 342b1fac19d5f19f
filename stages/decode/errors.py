"""Defines the error of videos that cannot be decoded. Its reasons are those of the ledger."""

from kinegraph.cache_schemas.ledger import Reason


class DecodeError(Exception):
    """A video, or one clip of a video, cannot be decoded. `reason` is one of the ledger's reasons. `detail` says in
    words what is wrong with the video or clip.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail
