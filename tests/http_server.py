"""A web server of our own on the loopback: files of a folder, their listing, and whatever a test wants to go wrong."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="the tests of videos on web servers need `pip install 'fsspec[http]'`")


class Server:
    """`before(method, path)` may wait, or give a status to answer with. It may be stopped, and started at its port."""

    def __init__(self, folder: Path, *, ranges: bool) -> None:
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], int | None] = lambda method, path: None
        self._handler = partial(_Handler, server_of=self, directory=str(folder), ranges=ranges)
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._listening = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler)
        self._listening.daemon_threads = True
        self._port = self._listening.server_port
        self._thread = threading.Thread(target=self._listening.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._listening.shutdown()
        self._thread.join()
        self._listening.server_close()

    def received(self, method: str, path: str) -> int | None:
        self.requests.append((method, path))
        return self.before(method, path)


class _Handler(SimpleHTTPRequestHandler):
    """Python's own knows no ranges. HTTP/1.0: no connection outlives its answer, so a stopped server is gone."""

    def __init__(self, *arguments: object, server_of: Server, ranges: bool, directory: str) -> None:
        self.ours, self.ranges = server_of, ranges
        super().__init__(*arguments, directory=directory)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        if (status := self.ours.received("HEAD", self.path)) is not None:
            self.send_error(status)
        else:
            super().do_HEAD()

    def do_GET(self) -> None:
        status = self.ours.received("GET", self.path)
        wanted = self.headers.get("Range", "")
        if status is not None:
            self.send_error(status)
        elif self.ranges and wanted:
            self._send_range(*wanted.removeprefix("bytes=").split("-"))
        else:
            super().do_GET()

    def _send_range(self, first: str, last: str) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        start, stop = int(first), min(int(last or len(content)) + 1, len(content))
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(content[start:stop])

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def serving(folder: Path, *, ranges: bool = True) -> Iterator[Server]:
    server = Server(folder, ranges=ranges)
    try:
        yield server
    finally:
        server.stop()
