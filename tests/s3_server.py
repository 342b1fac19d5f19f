"""An S3-compatible server of our own (moto's) on the loopback, which may treat conditional puts as other servers do.

`python -m tests.s3_server PORT` runs it in a process of its own.
"""

import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import fsspec
import pytest

pytest.importorskip("moto.server", reason="the tests of object stores need `pip install 'moto[server]'`")
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import make_server

Conditions = Literal["kept", "ignored", "refused", "unnamed"]
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "anyone",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
NOT_IMPLEMENTED = b"<Error><Code>NotImplemented</Code><Message>no conditions here</Message></Error>"
FAILED = b"<Error><Code>PreconditionFailed</Code><Message>says not which</Message></Error>"


class Server:
    """Its address, what was asked of it, and what to do `before` it answers."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda method, path: None

    def received(self, method: str, path: str) -> None:
        self.requests.append((method, path))
        self.before(method, path)


@contextmanager
def running(conditions: Conditions = "kept", port: int = 0) -> Iterator[Server]:
    """A server on a port, by default a free one.

    Conditional puts are kept, ignored, refused (501), or kept without naming the header. Moto looks whether an object
    is there, then puts it; one request at a time makes that one step, as it is at S3.
    """
    moto, server, one_at_a_time = create_backend_app("s3"), Server(), threading.Lock()

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        server.received(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        condition = environ.get("HTTP_IF_NONE_MATCH")
        if condition and conditions == "refused":
            return _answer(start, "501 Not Implemented", NOT_IMPLEMENTED)
        if condition and conditions == "ignored":
            del environ["HTTP_IF_NONE_MATCH"]
        begun: list[Any] = []

        def begin(*told: Any) -> Any:
            begun.extend(told)

        with one_at_a_time:
            body = b"".join(moto(environ, begin))
        if conditions == "unnamed" and begun[0].startswith("412"):
            return _answer(start, begun[0], FAILED)
        start(*begun)
        return [body]

    listening = make_server("127.0.0.1", port, application, threaded=True)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def _answer(start: Callable[..., Any], status: str, body: bytes) -> list[bytes]:
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


@contextmanager
def used(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make `s3://` mean this server, here and in processes started from here; gives the URL of a new bucket.

    Sessions stay open: zarr's own could not be closed from here without warnings.
    """
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", server.url)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": server.url})  # it reads its variables when imported
    bucket = f"test-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(bucket)
    server.requests.clear()
    yield f"s3://{bucket}"
    server.before = lambda method, path: None


if __name__ == "__main__":
    with running(port=int(sys.argv[1])):
        threading.Event().wait()
