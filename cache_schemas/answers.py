"""Interprets the answers of object stores, such as S3. Finds the HTTP status behind an error, says what the status
means, and reads the etag of an object.
"""

from collections.abc import Mapping
from typing import Any, Literal

ETAGS = ("ETag", "etag")  # keys of the etag in answers of fsspec's file systems
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
    """Returns what the HTTP status `status` means to a caller that may repeat its request. The result is one of five
    words:

    "gone": there is no such object (404, 410).
    "credentials": the server asks for other credentials (401, 407).
    "away": a later request may succeed (for example 503).
    "refused": any other status from 400 to 499.
    "broken": every other status.
    """
    return MEANINGS.get(status, "refused" if 400 <= status < 500 else "broken")


def etag_of(info: Mapping[str, Any]) -> str | None:
    """Returns the etag of an object, which is the text by which its store tells versions of the object apart. Returns
    None if the store reports no etag. `info` is what fsspec's method `info` returns for the object.
    """
    return next((str(info[key]) for key in ETAGS if info.get(key)), None)


def status_in(error: BaseException | None) -> int:
    """Returns the HTTP status that the error object `error` carries, or 0 if it carries none.

    An error of botocore, the client for S3, carries the status in the attribute `response`. An error of aiohttp, the
    client for http, carries the status in the attribute `status`.
    """
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None)
    return status if isinstance(status, int) else 0


def status_of(error: BaseException | None) -> int:
    """Returns the HTTP status behind `error`, an error of fsspec, or 0 if there is none. fsspec is the library that
    opens URLs.

    fsspec keeps the error of its HTTP client as `__cause__`, and the client's error carries the status.
    """
    return status_in(error.__cause__) if error else 0
