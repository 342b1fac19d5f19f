"""Why a video gave no frames, in the ledger's words."""

from kinegraph.cache_schemas.ledger import Reason


class DecodeError(Exception):
    """A video, or one clip of it, that cannot be decoded; `reason` is the ledger's."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail
