"""`status` reads only new and replaced records, and says the same without kept summaries and with damaged ones."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas import local_storage, sealed_rows
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import TABLE
from kinegraph.cache_schemas.ledger import Failure, Record
from kinegraph.pipeline.caches import kept_summaries
from kinegraph.pipeline.caches.kept_summaries import KeptSummaries
from kinegraph.pipeline.status import status

Look = Callable[[], tuple[dict[str, Any], list[tuple[str, int]]]]
FAILED = [Failure(clip_id="left/a.mp4:0:center", reason="timeout", detail="no answer")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder for caches, in which summaries of few records are kept, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(kept_summaries, "RECORDS_AT_ONCE", 1)
    monkeypatch.setattr(local_storage, "SETTLED_SECONDS", 0.0)
    return tmp_path / "home"


@pytest.fixture
def look(home: Path, whole: Cache, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Returns what status says and which records it read. Fails where it says something else without kept summaries."""
    read: list[tuple[str, int]] = []
    plain = sealed_rows.records_of

    def noted(cache: Cache, key: str, shards: Sequence[int]) -> Iterator[Record]:
        read.extend((key, shard) for shard in shards)
        return plain(cache, key, shards)

    monkeypatch.setattr(kept_summaries, "records_of", noted)

    def looked() -> tuple[dict[str, Any], list[tuple[str, int]]]:
        read.clear()
        said, had_to_read = status(Cache(whole.root)), [*read]
        with monkeypatch.context() as without:
            without.setenv("XDG_CACHE_HOME", str(home / "none"))
            without.setattr(kept_summaries, "RECORDS_AT_ONCE", 1000)
            assert said == status(Cache(whole.root))
        return said, had_to_read

    return looked


def all_records(cache: Cache) -> list[tuple[str, int]]:
    return [(key, shard) for key in cache.stage_keys() for shard in cache.ledger.shards(key)]


def kept_file(home: Path) -> Path:
    (path,) = home.rglob("*.json")
    return path


def test_the_second_look_reads_what_changed(whole: Cache, look: Look) -> None:
    before, read = look()
    assert read == all_records(whole)
    assert look() == (before, [])
    record = whole.ledger.read("proposals", 1)
    assert record is not None
    whole.ledger.unseal("proposals", 1)
    said, read = look()
    assert (said["stages"]["proposals"]["shards"]["missing"], read) == (1, [])
    whole.ledger.seal(record.model_copy(update={"failures": FAILED}))
    said, read = look()
    assert (said["stages"]["proposals"]["failed"], read) == ({"timeout": 1}, [("proposals", 1)])
    whole.ledger.restamp(record, record.fingerprint)  # as an upgrade does
    assert look() == (before, [("proposals", 1)])
    assert look() == (before, [])


def test_a_record_that_is_written_in_place_with_its_old_time_is_read(whole: Cache, look: Look) -> None:
    look()
    path = Path(whole.root, whole.ledger.name("clips", 0))
    status_before, content = path.stat(), path.read_bytes()
    path.write_bytes(content.replace(b'"num_rows": 2', b'"num_rows": 1'))
    os.utime(path, ns=(status_before.st_atime_ns, status_before.st_mtime_ns))
    said, read = look()
    assert (said["stages"]["clips"]["clips"]["missing"], read) == (1, [("clips", 0)])
    assert look() == (said, [("clips", 0)]), "a record with fewer rows than the cache has there needs a look each time"


def test_other_rows_or_another_cache_at_the_same_place(whole: Cache, look: Look, tmp_path: Path) -> None:
    before, _ = look()
    whole.storage.put(TABLE, [whole.storage.get(TABLE)])
    assert look() == (before, all_records(whole))
    shutil.move(whole.root, tmp_path / "old")
    shutil.copytree(tmp_path / "old", whole.root)
    assert look() == (before, all_records(whole))
    assert look() == (before, [])


def replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new))

    return replace


def instead(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        path.unlink()
        make(path)

    return made


def other_fields(path: Path) -> None:
    path.write_bytes(kept_summaries._head(b"[]") + b"[]")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "deleted": Path.unlink,
    "empty": instead(Path.touch),
    "torn": lambda path: os.truncate(path, path.stat().st_size - 20),
    "another number": replaced(b'"timeout":1', b'"timeout":2'),
    "an earlier format": replaced(b"summaries 1", b"summaries 0"),
    "other fields": other_fields,
    "a folder": instead(Path.mkdir),
    "a pipe": instead(os.mkfifo),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_not_needed(home: Path, whole: Cache, look: Look, damage: str) -> None:
    record = whole.ledger.read("clips", 0)
    assert record is not None
    whole.ledger.unseal("clips", 0)
    whole.ledger.seal(record.model_copy(update={"failures": FAILED}))
    before, _ = look()
    content = kept_file(home).read_bytes()
    DAMAGE[damage](kept_file(home))
    assert look() == (before, all_records(whole))
    if damage != "a folder":
        assert kept_file(home).read_bytes() == content
        assert look() == (before, [])


@pytest.mark.parametrize("home_is", ["a file", "read-only", "missing"])
def test_a_user_without_a_folder_for_it(
    home: Path, look: Look, home_is: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if home_is == "a file":
        home.write_text("")
    elif home_is == "read-only":
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    else:
        monkeypatch.setattr(kept_summaries, "user_cache", lambda name: None)
    (before, read), (again, read_again) = look(), look()
    assert (again, read_again) == (before, read)
    told = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    if home_is == "missing":
        assert told == []
    else:
        assert "cannot be kept in" in told[0]
        assert "The next `status` reads all of them again. XDG_CACHE_HOME" in told[0]


def test_two_at_once(home: Path, whole: Cache, look: Look) -> None:
    """One of them looked earlier and writes last."""
    early, late = KeptSummaries(whole), KeptSummaries(whole)
    for key in whole.stage_keys():
        early.summaries(key)
    record = whole.ledger.read("proposals", 0)
    assert record is not None
    whole.ledger.unseal("proposals", 0)
    whole.ledger.seal(record.model_copy(update={"failures": FAILED}))
    for key in whole.stage_keys():
        late.summaries(key)
    late.write()
    early.write()
    said, read = look()
    assert (said["stages"]["proposals"]["failed"], read) == ({"timeout": 1}, [("proposals", 0)])
    assert not [*home.rglob(".tmp-*")]


def test_records_of_the_last_minute_are_not_kept(home: Path, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_storage, "SETTLED_SECONDS", 60.0)
    look()
    assert not home.exists()


def test_few_records_leave_nothing(home: Path, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_summaries, "RECORDS_AT_ONCE", 100)
    look()
    assert not home.exists()


def test_files_that_nobody_looks_at_are_removed(home: Path, look: Look) -> None:
    old = home / "kinegraph" / "status" / "old.json"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (0, 0))
    look()
    assert not old.exists()
    assert kept_file(home).exists()
