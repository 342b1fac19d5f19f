"""Copies are there when they are needed, never more than may be, and gone afterwards."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest

from kinegraph.cache_schemas.errors import UnknownStorage
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.source import source_identity
from kinegraph.stages.remote.faults import CredentialsError, NetworkError
from kinegraph.stages.remote.folder import StagingError
from kinegraph.stages.remote.staging import Staging
from tests.http_server import Server
from tests.stages.remote.conftest import Options


def put(url: str, content: bytes) -> str:
    fsspec.filesystem("memory").pipe_file(url.removeprefix("memory:/"), content)
    return url


def copies(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.mp4"))


def content(staging: Staging, url: str) -> bytes:
    """Begin and use a video."""
    with staging.begin(url) as video:
        return Path(video.file).read_bytes()


def answering(statuses: list[int | None]) -> Callable[[str, str], int | None]:
    """The next of `statuses` for each GET; None is a proper answer, and so is all that follows."""
    left = iter(statuses)
    return lambda method, path: next(left, None) if method == "GET" else None


def test_a_local_file_is_used_where_it_is(tmp_path: Path, options: Options) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"video")
    with Staging(options()) as staging, staging.begin(str(path)) as video:
        assert video.file == str(path)
        assert video.identity() == source_identity(str(path))
        assert video.with_url(f"{path}: odd") == f"{path}: odd"
    assert not (tmp_path / "staging").exists()


def test_a_copy_lasts_as_long_as_it_is_used(memory: str, tmp_path: Path, options: Options) -> None:
    url = put(f"{memory}/a/v.mp4", b"video")
    with Staging(options()) as staging:
        with staging.begin(url) as video:
            assert Path(video.file).read_bytes() == b"video"
            assert Path(video.file).is_relative_to(tmp_path / "staging")
            found = video.identity()
            assert found is not None
            assert (found.size, found.digest) == (5, source_identity(video.file).digest)
            assert video.with_url(f"in {video.file}: odd") == f"in {url}: odd"
        assert not Path(video.file).exists()
    assert not copies(tmp_path)


def test_the_next_are_copied_while_one_is_used(memory: str, tmp_path: Path, options: Options) -> None:
    urls = [put(f"{memory}/{number}.mp4", b"video") for number in range(3)]
    with Staging(options()) as staging:
        first, *following = [staging.begin(url) for url in urls]
        with first:
            limit = time.monotonic() + 20
            while len(copies(tmp_path)) < 3:
                assert time.monotonic() < limit
                time.sleep(0.005)
        for begun in following:
            with begun as video:
                assert Path(video.file).read_bytes() == b"video"


def test_copies_together_never_take_more_than_they_may(memory: str, tmp_path: Path, options: Options) -> None:
    """Sizes that fit in pairs at most; four threads use them. The watcher sees all there is at any time."""
    urls = [put(f"{memory}/{number}.mp4", bytes(100 + 150 * (number % 4))) for number in range(40)]
    seen, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            with suppress(FileNotFoundError):
                there = copies(tmp_path)
                total = sum(path.stat().st_size for path in there)
                if copies(tmp_path) == there:  # so they all were there at one time: no name comes twice
                    seen.append(total)

    def use(video: Any) -> int:
        with video as at_hand:
            time.sleep(0.002)
            return Path(at_hand.file).stat().st_size

    watcher = threading.Thread(target=watch)
    watcher.start()
    with Staging(options(max_bytes=600)) as staging, ThreadPoolExecutor(4) as pool:
        sizes = [*pool.map(use, [staging.begin(url) for url in urls])]
    stop.set()
    watcher.join()
    assert sizes == [100 + 150 * (number % 4) for number in range(40)]
    assert 0 < max(seen) <= 600


def test_room_is_given_in_order(memory: str, options: Options) -> None:
    """The large one comes first though small ones, copied beside it, would fit: used one by one, none waits forever."""
    urls = [put(f"{memory}/{number}.mp4", bytes(size)) for number, size in enumerate([400, 600, 300, 300, 300, 1000])]
    with Staging(options(max_bytes=1000)) as staging:
        for begun in [staging.begin(url) for url in urls]:
            with begun as video:
                assert Path(video.file).exists()


def test_a_larger_video_fails_by_itself_and_both_numbers_are_named(memory: str, options: Options) -> None:
    large, small = put(f"{memory}/large.mp4", bytes(1001)), put(f"{memory}/small.mp4", b"small")
    with Staging(options(max_bytes=1000)) as staging:
        first, second = staging.begin(large), staging.begin(small)
        with pytest.raises(DecodeError, match=r"large.mp4 has 1001 bytes.* 1000: raise run\.staging\.max_gib"), first:
            pass
        with second as video:
            assert Path(video.file).read_bytes() == b"small"


def test_a_video_that_is_not_there_fails_by_itself(memory: str, options: Options) -> None:
    put(f"{memory}/other.mp4", b"video")
    with Staging(options()) as staging, pytest.raises(DecodeError, match=f"no file {memory}/v.mp4") as caught:
        content(staging, f"{memory}/v.mp4")
    assert caught.value.reason == "missing"


def test_leaving_early_waits_for_no_network(web: Server, tmp_path: Path, options: Options) -> None:
    """One copy is used, one hangs, one waits for room: all end, and nobody waits for one that will never come."""
    hanging = threading.Event()
    web.before = lambda method, path: hanging.wait(60) and None if path == "/1.mp4" and method == "GET" else None
    with ThreadPoolExecutor(1) as pool:
        with Staging(options(max_bytes=600)) as staging:
            begun = [staging.begin(f"{web.url}/{number}.mp4") for number in range(3)]
            with begun[0] as video:
                assert Path(video.file).exists()
            waiting = pool.submit(begun[1].__enter__)
            before = time.monotonic()
        with pytest.raises(CancelledError):
            waiting.result(timeout=20)
        assert time.monotonic() - before < 20
    hanging.set()
    assert not copies(tmp_path / "staging")


def test_a_network_that_comes_back(web: Server, options: Options) -> None:
    web.before = answering([503, 502])
    with Staging(options(tries=3)) as staging:
        assert content(staging, f"{web.url}/1.mp4") == bytes([1]) * 300


def test_a_network_that_stays_away_is_no_video_s_fault(web: Server, options: Options) -> None:
    web.stop()
    try:
        with Staging(options(tries=3)) as staging, pytest.raises(NetworkError, match=r"1\.mp4: 3 tries.*as failed"):
            content(staging, f"{web.url}/1.mp4")
    finally:
        web.start()


def test_a_video_that_never_comes_while_others_do_is_at_fault(web: Server, options: Options) -> None:
    web.before = lambda method, path: 500 if path == "/1.mp4" and method == "GET" else None
    with Staging(options(tries=2)) as staging:
        content(staging, f"{web.url}/0.mp4")
        with pytest.raises(DecodeError, match=r"1\.mp4: 2 tries.*500.*0\.mp4 can be read") as caught:
            content(staging, f"{web.url}/1.mp4")
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(("status", "expected"), [(403, DecodeError), (404, DecodeError), (401, CredentialsError)])
def test_what_a_server_refuses(web: Server, options: Options, status: int, expected: type[Exception]) -> None:
    web.before = lambda method, path: status
    with Staging(options()) as staging, pytest.raises(expected, match=r"1\.mp4"):
        content(staging, f"{web.url}/1.mp4")
    assert len(web.requests) <= 4, "refused once, not asked again and again"


def test_a_copy_that_was_cut_off_is_made_again(memory: str, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    url = put(f"{memory}/v.mp4", b"video")
    system = type(fsspec.filesystem("memory"))
    whole, calls = system.get_file, []

    def cut_off(self: object, path: str, target: str, **settings: object) -> None:
        calls.append(path)
        if len(calls) == 1:
            Path(target).write_bytes(b"vid")
        else:
            whole(self, path, target, **settings)

    monkeypatch.setattr(system, "get_file", cut_off)
    with Staging(options()) as staging:
        assert content(staging, url) == b"video"
    assert len(calls) == 2


def test_a_video_that_grows_meanwhile_is_not_called_too_large(
    memory: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than was told comes: no room was taken for it."""
    url, good = put(f"{memory}/v.mp4", bytes(500)), put(f"{memory}/good.mp4", b"video")
    system = type(fsspec.filesystem("memory"))
    told = system.info
    monkeypatch.setattr(
        system, "info", lambda self, path, **settings: told(self, path) | ({"size": 400} if "v.mp4" in path else {})
    )
    with Staging(options(max_bytes=1000)) as staging:
        assert content(staging, good) == b"video"
        with pytest.raises(DecodeError, match=r"3 tries, the last: ConnectionError: more than 400 bytes came"):
            content(staging, url)


def test_a_size_that_nobody_tells(memory: str, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take all there is, and no more."""
    urls = [put(f"{memory}/{number}.mp4", bytes(size)) for number, size in enumerate([300, 700, 1001])]
    system = type(fsspec.filesystem("memory"))
    told = system.info
    monkeypatch.setattr(system, "info", lambda self, path, **settings: told(self, path) | {"size": None})
    with Staging(options(max_bytes=1000)) as staging:
        first, second, third = [staging.begin(url) for url in urls]
        for begun, size in ((first, 300), (second, 700)):
            with begun as video:
                assert Path(video.file).stat().st_size == size
        with pytest.raises(DecodeError, match="1001 bytes or more, and copies may take 1000"), third:
            pass


def test_a_full_disk_ends_the_run(memory: str, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", full)
    url = put(f"{memory}/v.mp4", b"video")
    with Staging(options()) as staging, pytest.raises(StagingError, match=r"No space left.*run\.staging\.max_gib"):
        content(staging, url)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("http://missing/v.mp4", r"pip install 'kinegraph\[http\]'"),
        ("s3://missing/v.mp4", r"pip install 'kinegraph\[s3\]'"),
        ("gs://missing/v.mp4", r"install what fsspec needs \(no such package\)"),
    ],
)
def test_a_missing_package_is_named(url: str, remedy: str, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*arguments: object, **settings: object) -> None:
        raise ImportError("no such package")

    monkeypatch.setattr(fsspec, "url_to_fs", lacking)
    with Staging(options()) as staging, pytest.raises(UnknownStorage, match=remedy):
        staging.probe(url)


def test_a_url_that_nothing_opens(options: Options) -> None:
    with Staging(options()) as staging, pytest.raises(UnknownStorage, match="nosuch"):
        content(staging, "nosuch://h/v")
