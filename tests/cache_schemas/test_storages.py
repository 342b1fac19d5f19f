"""Every storage keeps the one contract; what object stores do differently, and what they say when they fail."""

import pickle
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheNotFound, StorageError, UnknownStorage, UnsafeName
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.object_storage import ObjectStorage
from kinegraph.cache_schemas.storage import Span, Storage
from kinegraph.cache_schemas.storages import open_storage
from tests.cache_schemas.storage_contract import StorageContract
from tests.s3_server import Conditions, Server, running, used


class TestLocal(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return open_storage(tmp_path)


class TestMemory(StorageContract):
    methods = ()  # it lives in one process
    has_stamps = False  # it keeps no etags

    @pytest.fixture
    def storage(self) -> Storage:
        return open_storage(f"memory://{uuid.uuid4().hex}/cache")

    # It looks whether there is one, then writes: threads may do so at once.
    test_of_many_that_create_one_wins = None  # type: ignore[assignment]


class TestS3(StorageContract):
    @pytest.fixture
    def storage(self, s3: str) -> Storage:
        return open_storage(f"{s3}/deep/cache/")


class TestS3Bucket(StorageContract):
    """A cache that is a whole bucket."""

    methods = ()

    @pytest.fixture
    def storage(self, s3: str) -> Storage:
        return open_storage(s3)


def test_a_url_of_files_is_a_folder(tmp_path: Path) -> None:
    storage = open_storage(f"file://{tmp_path}")
    storage.put("a", [b"x"])
    assert isinstance(storage, LocalStorage)
    assert (tmp_path / "a").read_bytes() == b"x"


def test_links_are_read_but_not_written_through(tmp_path: Path) -> None:
    """What a link below the root places outside is not the cache's to change; the root itself may be a link."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "x").write_bytes(b"outside")
    (inside / "link").symlink_to(outside)
    (inside / "file").symlink_to(outside / "x")
    (inside / "within").symlink_to("real")
    (inside / "real").mkdir()
    (tmp_path / "cache").symlink_to(inside)
    storage = open_storage(tmp_path / "cache")
    assert storage.get("link/x") == storage.get("file") == b"outside"
    for change in (lambda: storage.put("link/x", [b"y"]), lambda: storage.create("link/z/y", b"y"),
                   lambda: storage.delete("link/x")):  # fmt: skip
        with pytest.raises(UnsafeName, match="outside of the cache: a symbolic link leads there"):
            change()
    storage.put("file", [b"inside"])
    storage.put("within/x", [b"inside"])
    assert [path.name for path in outside.iterdir()] == ["x"]
    assert (outside / "x").read_bytes() == b"outside"
    assert (inside / "file").read_bytes() == (inside / "real" / "x").read_bytes() == b"inside"


@pytest.fixture
def server_with(monkeypatch: pytest.MonkeyPatch, conditions: Conditions) -> Iterator[str]:
    with running(conditions) as server, used(server, monkeypatch) as bucket:
        yield bucket


@pytest.mark.parametrize(("conditions", "exclusive"), [("ignored", False), ("refused", False), ("unnamed", True)])
def test_servers_that_take_conditions_otherwise(server_with: str, exclusive: bool) -> None:
    """What was there is left alone all the same; only at the same moment may two succeed."""
    storage = open_storage(f"{server_with}/cache")
    assert storage.creates_exclusively() is exclusive
    assert pickle.loads(pickle.dumps(storage)).creates_exclusively() is exclusive
    assert list(storage.names("probes")) == []
    assert storage.create("a", b"first")
    assert not storage.create("a", b"second")
    assert storage.get("a") == b"first"


def test_a_put_that_is_repeated_because_its_answer_was_lost_counts(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ObjectStorage(f"{s3}/cache")
    really_put = storage._pipe

    def twice(name: str, content: bytes, **settings: str) -> None:
        really_put(name, content, **settings)
        really_put(name, content, **settings)

    monkeypatch.setattr(storage, "_pipe", twice)
    assert storage.create("a", b"ours")


def test_folders_that_are_objects_are_not_listed(s3: str) -> None:
    storage = open_storage(f"{s3}/cache")
    storage.put("ledger/clips/000000.json", [b""])
    for name in ("ledger/", "ledger/clips/"):  # as consoles make them
        S3FileSystem().call_s3("put_object", Bucket=s3.removeprefix("s3://"), Key=f"cache/{name}")
    assert list(storage.names("ledger")) == ["ledger/clips/000000.json"]


def test_many_parts_are_fetched_at_once(s3: str, s3_server: Server) -> None:
    storage = open_storage(f"{s3}/cache")
    storage.put("a", [bytes(100)])
    s3_server.requests.clear()
    storage.read([Span("a", number, number + 1) for number in range(100)])
    assert [method for method, _ in s3_server.requests] == ["GET"] * 100


class TestMessages:
    def test_no_bucket(self, s3: str) -> None:
        missing = f"{s3}-none/cache"
        with pytest.raises(CacheNotFound, match="No cache at s3://"):
            Cache(missing)
        for write in (lambda: open_storage(missing).put("a", [b"x"]), lambda: open_storage(missing).create("a", b"x")):
            with pytest.raises(StorageError, match=rf"{missing}/a cannot be written: is there such a bucket\?"):
                write()

    def test_no_credentials(self, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setattr(S3FileSystem, "_cache", {})
        with pytest.raises(StorageError, match=rf"{s3}/cache/cache.json: NoCredentialsError.*AWS_ACCESS_KEY_ID"):
            Cache(f"{s3}/cache")

    def test_no_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "s3fs", None)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
        with pytest.raises(UnknownStorage, match=r"opens s3://\. For it, pip install 'kinegraph\[s3\]'"):
            open_storage("s3://bucket/cache")

    def test_no_such_kind_of_url(self) -> None:
        with pytest.raises(UnknownStorage, match=r"s4://bucket/cache: Protocol not known: s4\. Give a folder, "):
            open_storage("s4://bucket/cache")


def test_threads_share_one_session(s3: str) -> None:
    """The lease is refreshed by a thread, shards are put by another."""
    storage, found = open_storage(f"{s3}/cache"), []
    storage.put("a", [b"x"])
    threads = [threading.Thread(target=lambda: found.append(storage.get("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"x"] * 8


@pytest.mark.parametrize(
    "url",
    [
        "s3://me:s3cret@bucket/x",
        "simplecache::https://me:s3cret@host/x",
        "https://s3cret@host/x",
        "https://host/x?s3cret",
    ],
)
def test_a_url_with_a_secret_is_refused_and_the_secret_kept(url: str) -> None:
    with pytest.raises(UnknownStorage, match=r"(bucket|host)/x names a user, a password or a query") as caught:
        Cache(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["ftp", "http"])
def test_what_does_not_answer_is_named_without_advice_for_others(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"{scheme}://127.0.0.1:{free.getsockname()[1]}/cache"
    with pytest.raises(StorageError, match=rf"{url}/?.*: .*Check the URL") as caught:
        open_storage(url).put("a", [b"x"])
    assert "AWS" not in str(caught.value)
