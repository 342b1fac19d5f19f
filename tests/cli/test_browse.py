"""`browse` as a process: the address it prints, who is let in, and how it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

Command = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def indexed(kinegraph: Command, config: Path, cache: Path) -> Path:
    assert kinegraph("index", config).exit_code == 0
    return cache


def answer(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers=headers)
        got = connection.getresponse()
        return got.status, {name.lower(): value for name, value in got.getheaders()}, got.read().decode()
    finally:
        connection.close()


def test_pages_until_ctrl_c(indexed: Path) -> None:
    command = [sys.executable, "-m", "kinegraph", "browse", str(indexed)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        ) as process,
        ExitStack() as at_the_end,
    ):
        at_the_end.callback(process.kill)
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip())
        assert address.hostname == "127.0.0.1"
        port = address.port or 0
        status, headers, _ = answer(port, f"/?{address.query}")
        cookie = headers["set-cookie"].partition(";")[0]
        assert (status, headers["location"]) == (303, "/")
        status, headers, page = answer(port, "/", Cookie=cookie)
        assert (status, "6 clips." in page, "server" in headers) == (200, True, False)
        assert answer(port, "/")[0] == 403
        assert answer(port, "/", Cookie=cookie, Host="evil.example")[0] == 421
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"ssh -L {port}:127.0.0.1:{port} HOST" in said
    assert said.endswith("\nstopped. Nothing was changed.\n")
    assert "Traceback" not in said


def test_wrong_usage(kinegraph: Command, indexed: Path) -> None:
    for option, value, said in (
        ("--videos", "nowhere", "error: --videos nowhere: no such folder"),
        ("--run", "nowhere", "error: There is no results.json in nowhere"),
        ("--port", "70000", "'--port'"),
    ):
        done = kinegraph("browse", indexed, option, value)
        assert (done.exit_code, done.stdout) == (2, "")
        assert said in done.stderr


def test_no_cache(kinegraph: Command, tmp_path: Path) -> None:
    done = kinegraph("browse", tmp_path / "nothing")
    assert done.exit_code == 2
    assert "No cache at" in done.stderr


def test_a_missing_package_is_named(kinegraph: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("kinegraph.pipeline.browsing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = kinegraph("browse", tmp_path)
    assert done.exit_code == 2
    assert "error: browse needs the package uvicorn: pip install 'kinegraph[look]'" in done.stderr
