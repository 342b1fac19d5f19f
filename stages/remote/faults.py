"""What an error of a file system means: is it about one video, about credentials, or about the network?

Implementations of fsspec translate errors differently, and some wrongly: for HTTP, whatever keeps it from a file's
headers is a FileNotFoundError. So the causes of an error are looked at too.
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
    """Videos that cannot be reached, as far as one can tell through no fault of their own."""


class CredentialsError(RuntimeError):
    """A store that wants other credentials, or any."""


class Stopped(Exception):
    """Nobody waits for the answer any more."""


class NoRanges(Exception):
    """A server that gives files only whole."""


def too_large(url: str, size: int, max_bytes: int) -> DecodeError:
    detail = f"{url} has {size} bytes or more, and copies may take {max_bytes}: raise run.staging.max_gib"
    return DecodeError("unreadable", detail)


def fault_of(error: BaseException) -> Fault:
    """Whose fault an error is. What is not known is the network's: a run that stops loses nothing."""
    chain = [*_causes(error)]
    codes, statuses = {_code(each) for each in chain}, [status for each in chain if (status := status_in(each))]
    if codes & CREDENTIAL_CODES or {type(each).__name__ for each in chain} & CREDENTIAL_ERRORS:
        return "credentials"
    if statuses:
        return FAULTS.get(meaning_of(statuses[0]), "network")
    root = blamed(error)
    if isinstance(root, FileNotFoundError):
        return "missing"
    return "refused" if isinstance(root, PermissionError | IsADirectoryError | NotADirectoryError) else "network"


def blamed(error: BaseException) -> BaseException:
    """The error behind a FileNotFoundError that is none."""
    cause = error.__cause__
    is_known = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
    return blamed(cause) if isinstance(error, FileNotFoundError) and cause is not None and is_known else error


def in_words(error: BaseException) -> str:
    root = blamed(error)
    return f"{type(root).__name__}: {root}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__


def _code(error: BaseException) -> str | None:
    """S3's own word for an error."""
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None
