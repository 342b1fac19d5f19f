"""Whose fault an error is, by what fsspec's implementations raise."""

import pytest

pytest.importorskip("s3fs", reason="it raises these errors")
import aiohttp
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from s3fs.errors import translate_boto_error

from kinegraph.stages.remote.faults import Fault, fault_of, in_words


def of_http(status: int) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(None, (), status=status, message="said")  # type: ignore[arg-type]


def of_s3(code: str, status: int) -> BaseException:
    response = {"Error": {"Code": code, "Message": "said"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    translated: BaseException = translate_boto_error(ClientError(response, "GetObject"))
    return translated


def because(error: Exception, cause: BaseException | None) -> Exception:
    error.__cause__ = cause
    return error


CASES: list[tuple[BaseException, Fault]] = [
    (FileNotFoundError("v.mp4"), "missing"),
    (because(FileNotFoundError("v.mp4"), of_http(404)), "missing"),
    (of_s3("NoSuchKey", 404), "missing"),
    (of_http(410), "missing"),
    (because(FileNotFoundError("v.mp4"), KeyError("v.mp4")), "missing"),
    (PermissionError("v.mp4"), "refused"),
    (IsADirectoryError("v.mp4"), "refused"),
    (of_http(403), "refused"),
    (because(FileNotFoundError("v.mp4"), of_http(403)), "refused"),
    (of_s3("AccessDenied", 403), "refused"),
    (of_http(401), "credentials"),
    (of_s3("ExpiredToken", 400), "credentials"),
    (of_s3("InvalidAccessKeyId", 403), "credentials"),
    (NoCredentialsError(), "credentials"),
    (because(FileNotFoundError("v.mp4"), ConnectionRefusedError("no one there")), "network"),
    (because(FileNotFoundError("v.mp4"), aiohttp.ServerDisconnectedError()), "network"),
    (because(FileNotFoundError("v.mp4"), of_http(503)), "network"),
    (aiohttp.ClientPayloadError("cut off"), "network"),
    (EndpointConnectionError(endpoint_url="http://s3"), "network"),
    (of_s3("SlowDown", 503), "network"),
    (of_http(429), "network"),
    (TimeoutError(), "network"),
    (OSError("who knows"), "network"),
]


@pytest.mark.parametrize(("error", "expected"), CASES, ids=lambda value: repr(value)[:50])
def test_the_fault(error: BaseException, expected: Fault) -> None:
    assert fault_of(error) == expected


def test_words_are_those_of_the_error_behind() -> None:
    error = because(FileNotFoundError("v.mp4"), ConnectionRefusedError("no one there"))
    assert in_words(error) == "ConnectionRefusedError: no one there"
