"""An S3-compatible server in a process of its own, to be stopped, behind a proxy whose port can be refused."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.s3_server import Server

REQUEST = re.compile(rb"(GET|PUT|HEAD|POST|DELETE) (\S+) HTTP/1\.1\r\n")
START_SECONDS = 60.0
LOOPBACK = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[1]
Strike = Callable[[str, str], None]


class Proxy(Server):
    """Passes bytes on to a port. `after`: called with each request once it is passed on, before it is answered."""

    def __init__(self, target: int) -> None:
        super().__init__()
        self.after: Strike = lambda method, path: None
        self.target, self.port = target, 0
        self._connections: set[socket.socket] = set()
        self.accept()
        self.url = f"http://{LOOPBACK}:{self.port}"

    def accept(self) -> None:
        """Listen, on the same port as before."""
        self._listening = socket.create_server((LOOPBACK, self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._listening,), daemon=True).start()

    def refuse(self) -> None:
        """Cut all connections, and take no more."""
        for each in (self._listening, *self._connections):
            _cut(each)

    def _serve(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.create_connection((LOOPBACK, self.target))
                self._connections |= {near, far}
                threading.Thread(target=self._pass, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, of_client: bool) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                found = REQUEST.match(content) if of_client else None
                request = (found[1].decode(), found[2].decode()) if found else None
                if request:
                    self.received(*request)
                sink.sendall(content)
                if request:
                    self.after(*request)
        _cut(source)
        _cut(sink)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for it
    connection.close()


@contextmanager
def server_process() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The server of s3_server.py, and its port."""
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.s3_server", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(process, port)
            yield process, port
        finally:
            process.kill()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server does not answer on port {port} after {START_SECONDS} s")


class Outage:
    """A store, and the ways in which it goes away: `stopped`, nothing answers; `refused`, connections are."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.proxy = process, Proxy(port)

    @contextmanager
    def at_the_first(self, request: str, kind: str, *, when: str, seconds: float | None = None) -> Iterator[None]:
        """Go away with the first request (`METHOD /path`) that matches, for some seconds or until the context ends.

        `when`: "before" it arrives at the store, or "after", so that its answer is lost.
        """
        begun, ended = threading.Event(), threading.Event()

        def strike(method: str, path: str) -> None:
            if re.match(request, f"{method} {path}") and not begun.is_set():
                begun.set()
                self._begin(kind)
                if seconds is not None:
                    threading.Timer(seconds, end).start()

        def end() -> None:
            self._end(kind)
            ended.set()

        setattr(self.proxy, when, strike)
        try:
            yield
        finally:
            setattr(self.proxy, when, lambda method, path: None)
            if seconds is None:
                end()
        assert begun.is_set(), f"nobody asked {request}"
        assert ended.wait(START_SECONDS)

    def _begin(self, kind: str) -> None:
        if kind == "stopped":
            self.process.send_signal(signal.SIGSTOP)
        else:
            self.proxy.refuse()

    def _end(self, kind: str) -> None:
        if kind == "stopped":
            self.process.send_signal(signal.SIGCONT)
        else:
            self.proxy.accept()
