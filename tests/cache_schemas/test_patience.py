"""How long a store that is away is waited for, by a clock that a test moves."""

from collections.abc import Callable, Iterator

import aiohttp
import pytest

from kinegraph.cache_schemas import patience
from kinegraph.cache_schemas.errors import StorageError
from kinegraph.cache_schemas.object_storage import ObjectStorage
from kinegraph.cache_schemas.patience import PATIENCE_SECONDS, Patience


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(patience, "sleep", made.sleep)
    monkeypatch.setattr(patience, "monotonic", lambda: made.now)
    return made


@pytest.fixture
def known(clock: Clock) -> Patience:
    """Of a store that has answered."""
    made = Patience("s3://bucket")
    made.outlast(lambda: None)
    return made


def failing(*errors: Exception) -> Callable[..., str]:
    left: Iterator[Exception] = iter(errors)

    def ask(*arguments: object, **options: object) -> str:
        for error in left:
            raise error
        return "answer"

    return ask


def test_it_asks_again_until_there_is_an_answer(
    known: Patience, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert known.outlast(failing(*[ConnectionRefusedError("refused")] * 6)) == "answer"
    assert clock.pauses == [1, 2, 4, 8, 15, 15]
    assert caplog.messages == [
        "s3://bucket does not answer (ConnectionRefusedError: refused); waiting for it, up to 180 s",
        "s3://bucket answers again, after 45 s",
    ]


def test_it_gives_up_for_all_who_ask(known: Patience, clock: Clock) -> None:
    """The second to ask waits no more, until there was an answer."""
    for _ in range(2):
        with pytest.raises(TimeoutError):
            known.outlast(failing(*[TimeoutError()] * 100))
        assert PATIENCE_SECONDS <= sum(clock.pauses) < PATIENCE_SECONDS + 15
    known.outlast(lambda: None)
    assert known.outlast(failing(TimeoutError())) == "answer"


def test_an_address_that_never_answered_is_told_at_once(clock: Clock) -> None:
    with pytest.raises(ConnectionRefusedError):
        Patience("s3://bucket").outlast(failing(ConnectionRefusedError("refused")))
    assert clock.pauses == []


def test_an_answer_is_no_outage(known: Patience, clock: Clock) -> None:
    for error in (FileNotFoundError("none"), PermissionError("not yours"), ValueError("nonsense")):
        with pytest.raises(type(error)):
            known.outlast(failing(error))
    assert clock.pauses == []


@pytest.mark.parametrize("name", ["EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError"])
def test_errors_of_s3_clients_are_known(known: Patience, clock: Clock, name: str) -> None:
    """They are no ConnectionError or TimeoutError of Python's."""
    exceptions = pytest.importorskip("botocore.exceptions")
    error = getattr(exceptions, name)(endpoint_url="http://there", error="gone")
    assert known.outlast(failing(error)) == "answer"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_says_it_cannot_now(known: Patience, clock: Clock, status: int) -> None:
    """s3fs has its own errors, of which botocore's are the cause."""
    exceptions = pytest.importorskip("botocore.exceptions")
    error = OSError(5, "Please reduce your request rate")
    told = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error.__cause__ = exceptions.ClientError(told, "PutObject")
    assert known.outlast(failing(error)) == "answer"


def test_a_web_server_that_cannot_now_is_no_missing_file(known: Patience) -> None:
    """As fsspec calls whatever keeps it from a file's headers."""
    error = FileNotFoundError("http://host/a")
    error.__cause__ = aiohttp.ClientResponseError(None, (), status=503)  # type: ignore[arg-type]
    assert known.outlast(failing(error)) == "answer"


def test_what_a_storage_says_at_last(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ObjectStorage("memory://patience/cache")
    storage.put("a", [b"x"])
    system, _ = storage._at("")
    monkeypatch.setattr(system, "find", failing(*[ConnectionResetError("reset")] * 100))
    with pytest.raises(StorageError, match=r"/cache/ledger: ConnectionResetError: reset\. It answered before\."):
        list(storage.names("ledger"))
