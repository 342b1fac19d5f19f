"""What every storage has to keep: subclass `StorageContract` with the fixture `storage`."""

import multiprocessing
import pickle
import threading

import pytest
import xxhash

from kinegraph.cache_schemas import local_storage
from kinegraph.cache_schemas.errors import UnsafeName
from kinegraph.cache_schemas.files import Buffer
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.storage import Span, Storage


class StorageContract:
    methods: tuple[str, ...] = ("fork", "spawn")  # by which other processes see the objects
    has_stamps = True

    @pytest.fixture
    def storage(self) -> Storage:
        raise NotImplementedError

    def test_an_object_comes_back_with_its_size_and_digest(self, storage: Storage) -> None:
        content = b"one" + b"two" + b"three"
        expected = (len(content), xxhash.xxh3_128_hexdigest(content))
        parts: list[Buffer] = [b"one", bytearray(b"two"), memoryview(b"three")]
        assert storage.put("a/b/c.json", iter(parts)) == expected
        assert storage.get("a/b/c.json") == content
        assert storage.digest("a/b/c.json") == expected
        assert storage.exists("a/b/c.json")

    def test_put_replaces(self, storage: Storage) -> None:
        storage.put("a", [b"long content"])
        storage.put("a", [b"new"])
        assert storage.get("a") == b"new"

    @pytest.mark.parametrize("size", [0, 1, 16 << 20, (16 << 20) + 1])
    def test_objects_of_every_size(self, storage: Storage, size: int) -> None:
        content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        assert storage.put("a", [content]) == storage.digest("a") == (size, xxhash.xxh3_128_hexdigest(content))
        assert storage.get("a") == content

    def test_a_view_of_numbers_is_put_as_its_bytes(self, storage: Storage) -> None:
        import numpy as np

        rows = np.arange(12, dtype="<i4").reshape(3, 4)
        assert storage.put("a", [rows.data])[0] == 48
        assert storage.get("a") == rows.tobytes()

    def test_create_leaves_alone_what_is_there(self, storage: Storage) -> None:
        assert storage.create("a/b", b"first")
        assert not storage.create("a/b", b"second")
        assert storage.get("a/b") == b"first"
        storage.delete("a/b")
        assert storage.create("a/b", b"third")

    def test_of_many_that_create_one_wins(self, storage: Storage) -> None:
        together, made = threading.Barrier(8), []

        def create(number: int) -> None:
            together.wait()
            if storage.create("a", str(number).encode()):
                made.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert storage.creates_exclusively()
        assert [str(number).encode() for number in made] == [storage.get("a")]

    def test_finding_out_leaves_nothing(self, storage: Storage) -> None:
        storage.put("a/b", [b"x"])
        assert storage.creates_exclusively()
        assert not list(storage.names("probes"))

    def test_parts(self, storage: Storage) -> None:
        storage.put("a", [b"0123456789"])
        storage.put("b/c", [b"abc"])
        spans = [Span("a", 2, 5), Span("a", -3), Span("b/c"), Span("a", 8, 20), Span("a", 30, 40), Span("b/c", -20)]
        assert storage.read(spans) == [b"234", b"789", b"abc", b"89", b"", b"abc"]
        assert storage.read([]) == []

    def test_names_of_a_folder_at_any_depth(self, storage: Storage) -> None:
        for name in ("a/b/1", "a/b/c/2", "a/3", "ab/4", "5"):
            storage.put(name, [b"x"])
        assert sorted(storage.names("a")) == ["a/3", "a/b/1", "a/b/c/2"]
        assert sorted(storage.names("a/b")) == ["a/b/1", "a/b/c/2"]
        assert list(storage.names("none")) == []

    def test_what_others_write_is_listed_at_once(self, storage: Storage) -> None:
        other = pickle.loads(pickle.dumps(storage))
        assert list(storage.names("a")) == []
        other.put("a/1", [b"x"])
        assert list(storage.names("a")) == ["a/1"]
        assert storage.exists("a/1")
        other.delete("a/1")
        assert list(storage.names("a")) == []
        assert not storage.exists("a/1")

    @pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//b", "a/", "./x", "a\\..\\x", "a\0b", "..", "a/."])
    def test_a_name_that_leads_out_is_refused(self, storage: Storage, name: str) -> None:
        uses = (
            lambda: storage.put(name, [b"x"]), lambda: storage.create(name, b"x"), lambda: storage.get(name),
            lambda: storage.read([Span(name)]), lambda: storage.exists(name), lambda: storage.digest(name),
            lambda: storage.written_at(name), lambda: storage.stamp(name), lambda: list(storage.stamps(name)),
            lambda: list(storage.names(name)), lambda: storage.delete(name), lambda: storage.local_path(name),
        )  # fmt: skip
        for use in uses if isinstance(storage, LocalStorage) else uses[:-1]:
            with pytest.raises(UnsafeName, match="is no name below a cache"):
                use()

    def test_what_is_missing(self, storage: Storage) -> None:
        storage.put("a/b", [b"x"])
        assert not storage.exists("none")
        storage.delete("none")
        for look in (storage.get, storage.digest, lambda name: storage.read([Span("a/b"), Span(name, 0, 1)])):
            with pytest.raises(FileNotFoundError):
                look("none")

    def test_when_an_object_was_put(self, storage: Storage) -> None:
        """By one clock for all, to the second."""
        with pytest.raises(FileNotFoundError):
            storage.written_at("a")
        storage.put("a", [b"x"])
        storage.put("b", [b"x"])
        first, second = storage.written_at("a"), storage.written_at("b")
        assert first is not None
        assert second is not None
        assert first - 1 <= second < first + 600

    def test_a_stamp_stays_as_long_as_the_object(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local_storage, "SETTLED_SECONDS", 0.0)
        assert storage.stamp("a/b") is None
        assert list(storage.stamps("a")) == []
        storage.put("a/b", [b"x"])
        storage.put("a/c/d", [b"x"])
        before = dict(storage.stamps("a"))
        assert before == {name: storage.stamp(name) for name in ("a/b", "a/c/d")} == dict(storage.stamps("a"))
        storage.put("a/b", [b"y"])
        now = dict(storage.stamps("a"))
        assert now["a/c/d"] == before["a/c/d"]
        assert now["a/b"] != before["a/b"] or not self.has_stamps
        assert {stamp is not None for stamp in (*before.values(), *now.values())} == {self.has_stamps}

    def test_sweeping_takes_nothing_that_is_whole(self, storage: Storage) -> None:
        storage.put("a/b", [b"x"])
        storage.sweep()
        assert storage.get("a/b") == b"x"

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_other_processes_read_and_write(self, storage: Storage) -> None:
        """Also once this process has: what it opened must not hang or confuse its children."""
        storage.put("a", [b"x"])
        for method in self.methods:
            with multiprocessing.get_context(method).Pool(1) as pool:
                assert pool.apply_async(written, (storage, method)).get(60) == b"x"
            assert storage.get(f"from/{method}") == b"y"


def written(storage: Storage, name: str) -> bytes:
    storage.put(f"from/{name}", [b"y"])
    return storage.get("a")
