"""Listing, probing and looking at files on servers that differ in what they can do."""

import logging
import re
from pathlib import Path

import fsspec
import numpy as np
import pytest

from kinegraph.stages.decode.counting import probe_counted
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import probe
from kinegraph.stages.decode.source import SAMPLE_BYTES, source_identity
from kinegraph.stages.remote.faults import NetworkError
from kinegraph.stages.remote.info import RemoteInfo
from kinegraph.stages.remote.remote import Remote
from kinegraph.stages.remote.staging import Staging
from tests.conftest import moving_square, write_video
from tests.http_server import Server, serving
from tests.stages.remote.conftest import Options


@pytest.fixture
def video(web_folder: Path) -> Path:
    """Its index is at its end, where mp4 has it; AVI is guessed by its size."""
    return write_video(web_folder / "v.mp4", moving_square(20, 96, 80))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small video has several."""
    monkeypatch.setattr("kinegraph.stages.remote.remote.HEADER_BLOCK_BYTES", 512)


def noise() -> np.ndarray:
    """A video that is large for its length."""
    return np.random.default_rng(0).integers(0, 256, (40, 160, 160, 3), np.uint8)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("ending", ["mp4", "avi", "mkv", "ts"])
def test_a_probe_is_that_of_the_file(web_folder: Path, options: Options, ending: str, ranges: bool) -> None:
    path = write_video(web_folder / f"v.{ending}", moving_square(20, 96, 80))
    with serving(web_folder, ranges=ranges) as web, Staging(options(max_bytes=10**6)) as staging:
        assert staging.probe(f"{web.url}/v.{ending}") == probe(str(path))
        counted = staging.probe(f"{web.url}/v.{ending}", by_number=True)
        assert counted == probe_counted(str(path))
        assert counted.frames is not None
        assert counted.frames.number == 20


def test_a_server_without_ranges_is_no_news(
    web_folder: Path, options: Options, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg asks again after a failure, which PyAV would print."""
    monkeypatch.setattr("kinegraph.stages.remote.remote.HEADER_BLOCK_BYTES", 1 << 16)
    path = write_video(web_folder / "v.mp4", noise())
    with serving(web_folder, ranges=False) as web, Staging(options(max_bytes=10**7)) as staging:
        assert staging.probe(f"{web.url}/v.mp4") == probe(str(path))
    assert "PyAV" not in capfd.readouterr().err


def test_a_probe_reads_the_header_alone(web: Server, web_folder: Path, options: Options) -> None:
    path = write_video(web_folder / "long.mkv", noise())
    with Staging(options(max_bytes=1)) as staging:
        assert staging.probe(f"{web.url}/long.mkv") == probe(str(path))
    blocks = len([path for method, path in web.requests if method == "GET"])
    assert 0 < blocks * 512 < path.stat().st_size / 4


@pytest.mark.usefixtures("video")
def test_a_network_that_fails_in_the_middle_of_a_probe(web: Server, options: Options) -> None:
    """FFmpeg takes what it got for a broken file; the video is not."""
    gets: list[str] = []

    def second_fails(method: str, path: str) -> int | None:
        gets.extend([path] * (method == "GET"))
        return 503 if len(gets) == 2 else None

    web.before = second_fails
    with Staging(options()) as staging:
        assert staging.probe(f"{web.url}/v.mp4").frame_width == 96
    web.before = lambda method, path: 503 if method == "GET" else None
    with Staging(options()) as staging, pytest.raises(NetworkError, match=r"v\.mp4: 3 tries"):
        staging.probe(f"{web.url}/v.mp4")


def test_a_broken_file_is_no_network_s_fault(web: Server, options: Options) -> None:
    with Staging(options()) as staging, pytest.raises(DecodeError, match="unreadable"):
        staging.probe(f"{web.url}/1.mp4")


def test_a_server_s_pages_are_a_listing(web: Server, web_folder: Path) -> None:
    (web_folder / "a b").mkdir()
    (web_folder / "a b" / "50%.mp4").touch()
    found = dict(Remote(1).list_files(web.url))
    assert found["a b/50%.mp4"] == f"{web.url}/a%20b/50%25.mp4"
    assert {*found} == {"0.mp4", "1.mp4", "2.mp4", "3.mp4", "a b/50%.mp4"}


def test_a_listing_is_whole_or_none(web: Server, web_folder: Path) -> None:
    """A folder that fails is not passed over."""
    (web_folder / "sub").mkdir()
    web.before = lambda method, path: 500 if "sub" in path else None
    with pytest.raises(NetworkError, match="500"):
        [*Remote(2).list_files(web.url)]


def test_tries_are_told(web: Server, caplog: pytest.LogCaptureFixture) -> None:
    web.stop()
    with caplog.at_level(logging.WARNING, "kinegraph"), pytest.raises(NetworkError):
        Remote(3).info(f"{web.url}/1.mp4")
    web.start()
    assert len(re.findall(r"1\.mp4: Client.*Trying again", caplog.text)) == 2


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("size", [10, SAMPLE_BYTES, 5 * SAMPLE_BYTES])
def test_the_digest_is_that_of_the_file(web_folder: Path, size: int, ranges: bool) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (web_folder / "v.mp4").write_bytes(content[:size])
    known = source_identity(str(web_folder / "v.mp4"))
    with serving(web_folder, ranges=ranges) as web:
        assert known is not None
        assert Remote(1).digest(f"{web.url}/v.mp4", size) == known.digest


@pytest.mark.parametrize(
    ("told", "mtime_ns", "etag"),
    [
        ({"ETag": '"ab"', "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}, 1795255200 * 10**9, '"ab"'),
        ({"etag": "ab", "updated": "2026-11-21T10:00:00Z"}, 1795255200 * 10**9, "ab"),
        ({"mtime": 1795255200.5}, 1795255200 * 10**9 + 5 * 10**8, None),
        ({"mtime": "odd"}, 0, None),
        ({}, 0, None),
    ],
)
def test_versions_in_the_words_of_several_stores(told: dict[str, object], mtime_ns: int, etag: str | None) -> None:
    found = RemoteInfo.from_store(told)
    assert found == RemoteInfo(size=None, mtime_ns=mtime_ns, etag=etag)


def test_what_another_store_lists(memory: str) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file(f"{memory.removeprefix('memory:/')}/left/what?.mp4", b"video")
    assert [*Remote(1).list_files(f"{memory}/")] == [("left/what?.mp4", f"{memory}/left/what?.mp4")]
    with pytest.raises(DecodeError, match="no file memory://nothing-here"):
        [*Remote(1).list_files("memory://nothing-here")]


@pytest.mark.parametrize("size", [0, 3 << 20, (3 << 20) + 1])
@pytest.mark.parametrize("place", ["web", "memory"])
def test_a_document_has_a_largest_size(web: Server, web_folder: Path, size: int, place: str) -> None:
    content = bytes(size)
    (web_folder / "list.csv").write_bytes(content)
    url = f"{web.url}/list.csv" if place == "web" else "memory://documents/list.csv"
    if place == "memory":
        fsspec.filesystem("memory").pipe_file("/documents/list.csv", content)
    if size <= 3 << 20:
        assert Remote(1).read(url, 3 << 20) == content
        return
    with pytest.raises(DecodeError, match=r"list.csv has more than 3 MiB, the limit for such a file"):
        Remote(1).read(url, 3 << 20)
