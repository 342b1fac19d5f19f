"""Says what a server's answer means to a caller that retries: a store that is waited for, or a video that is
fetched.
"""

from collections.abc import Mapping
from typing import Literal

Meaning = Literal["gone", "credentials", "refused", "away", "broken"]

# "away" means that the request may succeed later. Other statuses of 400 to 499 are "refused", all others "broken".
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
    """Returns the HTTP status that the error itself carries, or 0 where the error carries none.

    An error of botocore has a response. An error of aiohttp has a status.
    """
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None)
    return status if isinstance(status, int) else 0


def status_of(error: BaseException | None) -> int:
    """Returns the HTTP status of an error of fsspec. fsspec keeps the client's error as the cause.

    Returns 0 where the client's error carries no status.
    """
    return status_in(error.__cause__) if error else 0
