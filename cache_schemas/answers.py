"""What a server's answer means to those who retry: stores that are waited for, and videos that are fetched."""

from collections.abc import Mapping
from typing import Literal

Meaning = Literal["gone", "credentials", "refused", "away", "broken"]

# away: the same question is worth asking later. Other answers of 400 to 499 are "refused", all others "broken".
MEANINGS: Mapping[int, Meaning] = {
    401: "credentials",
    404: "gone",
    407: "credentials",
    408: "away",
    410: "gone",
    425: "away",
    429: "away",
    500: "away",
    502: "away",
    503: "away",
    504: "away",
}


def meaning_of(status: int) -> Meaning:
    """Returns what an HTTP status means, also one of S3."""
    return MEANINGS.get(status, "refused" if 400 <= status < 500 else "broken")


def status_in(error: BaseException | None) -> int:
    """Returns the status that the error itself has: botocore's have a response, aiohttp's a status. 0: none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None)
    return status if isinstance(status, int) else 0


def status_of(error: BaseException | None) -> int:
    """Returns the status behind an error of fsspec, which keeps the client's error as its cause. 0: none."""
    return status_in(error.__cause__) if error else 0
