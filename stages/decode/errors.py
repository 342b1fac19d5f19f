"""The error of videos that cannot be decoded, in the ledger's words."""

from kinegraph.cache_schemas.ledger import Reason


class DecodeError(Exception):
    """A video, or one clip of a video, cannot be decoded. `reason` is a reason of the ledger."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail
