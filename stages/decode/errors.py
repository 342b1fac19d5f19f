"""Defines the error of videos that cannot be decoded."""

from kinegraph.cache_schemas.ledger import Reason


class DecodeError(Exception):
    """Raised if a video, or one clip of a video, cannot be decoded.

    `reason` is a short code that the ledger stores, such as `truncated`. `detail` says in words what is wrong.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail

    def detached(self) -> "DecodeError":
        """Returns a copy without the traceback and the cause, which hold the decoder and its frames in memory."""
        return DecodeError(self.reason, self.detail)
