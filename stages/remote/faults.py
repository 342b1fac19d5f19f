"""Decides what is at fault if reading a video at a URL fails: the video, the credentials or the network.

Videos at URLs are read through fsspec, a package with an implementation for each kind of storage. Some implementations
raise misleading errors. For example, over HTTP every failure to read a file's headers becomes a FileNotFoundError. So
the causes of an error (`__cause__`) are checked, too.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from kinegraph.cache_schemas.answers import Meaning, meaning_of, status_in
from kinegraph.stages.decode.errors import DecodeError

Fault = Literal["missing", "refused", "credentials", "network"]
FAULTS: Mapping[Meaning, Fault] = {"gone": "missing", "credentials": "credentials", "refused": "refused"}
CREDENTIAL_CODES = frozenset(
    "ExpiredToken InvalidAccessKeyId InvalidToken RequestTimeTooSkewed SignatureDoesNotMatch".split()
)
CREDENTIAL_ERRORS = frozenset("CredentialRetrievalError NoCredentialsError PartialCredentialsError".split())


class NetworkError(RuntimeError):
    """Raised if a video cannot be reached, and nothing shows that the video itself is at fault."""


class CredentialsError(RuntimeError):
    """Raised if a store refuses the credentials, or if it needs credentials and there are none."""


class Stopped(Exception):
    """Raised in a thread that requests a video, after the caller has stopped and does not need the video any more."""


class NoRanges(Exception):
    """Raised if a part of a file was requested and the server can only send the whole file."""


def too_large(url: str, size: int, max_bytes: int) -> DecodeError:
    """Returns the DecodeError for a video that is too large to be copied to this machine.

    The video has `size` bytes or more. All copies of videos together may take at most `max_bytes`.
    """
    detail = f"{url} has {size} bytes or more, and copies may take {max_bytes}: raise run.staging.max_gib"
    return DecodeError("unreadable", detail)


def fault_of(error: BaseException) -> Fault:
    """Returns what is at fault if a request raised `error`: "missing" (there is no video), "refused" (the store refuses
    to send the video), "credentials" or "network".

    An unknown error counts as "network", so that the run stops and no video is marked as failed.
    """
    chain = [*_causes(error)]
    codes, statuses = {_code(each) for each in chain}, [status for each in chain if (status := status_in(each))]
    if codes & CREDENTIAL_CODES or {type(each).__name__ for each in chain} & CREDENTIAL_ERRORS:
        return "credentials"
    if statuses:
        return FAULTS.get(meaning_of(statuses[0]), "network")
    root = root_error(error)
    if isinstance(root, FileNotFoundError):
        return "missing"
    return "refused" if isinstance(root, PermissionError | IsADirectoryError | NotADirectoryError) else "network"


def root_error(error: BaseException) -> BaseException:
    """Returns the error that a message should report in place of `error`. If `error` is a FileNotFoundError that was
    raised because of another error, returns this other error. Otherwise returns `error`.
    """
    cause = error.__cause__
    is_known = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
    return root_error(cause) if isinstance(error, FileNotFoundError) and cause is not None and is_known else error


def in_words(error: BaseException) -> str:
    """Returns the class name and the message of an error, such as "OSError: disk full". If `error` is a
    FileNotFoundError that was raised because of another error, the text is about this other error.
    """
    root = root_error(error)
    return f"{type(root).__name__}: {root}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__


def _code(error: BaseException) -> str | None:
    """Returns the error code of S3 in an error, for example "ExpiredToken". Returns None if the error has no code."""
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None
