"""Files appear whole or not at all."""

import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import xxhash

from kinegraph.cache_schemas.errors import CacheNotWritable
from kinegraph.cache_schemas.files import (
    HOST,
    TEMPORARY_PREFIX,
    _host,
    create_exclusively,
    file_digest,
    remove_durably,
    shortened,
    sweep,
    write_whole,
    writing_whole,
)


def test_write_gives_size_and_checksum(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    assert write_whole(target, [b"abc", b"defg"]) == (7, xxhash.xxh3_128_hexdigest(b"abcdefg"))
    assert target.read_bytes() == b"abcdefg"
    assert file_digest(target) == (7, xxhash.xxh3_128_hexdigest(b"abcdefg"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_whole(target, [b"old"])

    def parts() -> Iterator[bytes]:
        yield b"new"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(target, parts())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EFBIG, "make room"), (errno.EACCES, "only read"), (errno.EROFS, "only read")],
)
def test_a_disk_that_takes_nothing_is_told_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    for write in (lambda path: write_whole(path, [b"x"]), lambda path: create_exclusively(path, b"x")):
        with pytest.raises(CacheNotWritable, match=rf"/file could not be written: {os.strerror(number)}\. .*{advice}"):
            write(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_only_one_creates(tmp_path: Path) -> None:
    target = tmp_path / "file"
    assert create_exclusively(target, b"first")
    assert not create_exclusively(target, b"second")
    assert target.read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 1


def test_who_won_hears_so_though_the_first_answer_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats a request, and the second is told that there is such a file: its own."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert create_exclusively(tmp_path / "file", b"first")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.setattr(os, "link", link)
    assert not create_exclusively(tmp_path / "file", b"second")


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(CacheNotWritable, match=r"/file could not be created: its file system makes no hard links \(Op"):
        create_exclusively(tmp_path / "file", b"x")
    assert not list(tmp_path.iterdir())


def test_what_is_removed_stays_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is synced: else a power cut could bring a record back for objects that were replaced since."""
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    (tmp_path / "record").touch()
    remove_durably(tmp_path / "record")
    assert synced == [tmp_path]
    remove_durably(tmp_path / "record")
    remove_durably(tmp_path / "nowhere" / "record")
    assert synced == [tmp_path]


def test_sweep_spares_the_living(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "of this process": f"{TEMPORARY_PREFIX}{os.getpid()}-{HOST}-1-x",
        "of a dead process": f"{TEMPORARY_PREFIX}{dead.pid}-{HOST}-1-x",
        "foreign, new": f"{TEMPORARY_PREFIX}{dead.pid}-other-1-x",
        "foreign, old": f"{TEMPORARY_PREFIX}{dead.pid}-other-2-x",
    }
    folder = tmp_path / "data.zarr" / "proposals"
    folder.mkdir(parents=True)
    for name in names.values():
        (folder / name).touch()
    os.utime(folder / names["foreign, old"], (0, 0))
    assert sweep(tmp_path) == 2
    assert {path.name for path in folder.iterdir()} == {names["of this process"], names["foreign, new"]}


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
def test_the_age_of_files_is_by_the_clock_of_their_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """Which is two hours ahead of this machine's, or behind it."""
    new, old = (tmp_path / f"{TEMPORARY_PREFIX}7-other-{number}-x" for number in range(2))
    there = time.time() + ahead
    for path, age in ((new, 60), (old, 3660)):
        path.touch()
        os.utime(path, (there - age, there - age))
    touch = Path.touch

    def touched_there(path: Path, **settings: bool) -> None:
        touch(path, **settings)
        os.utime(path, (there, there))

    monkeypatch.setattr(Path, "touch", touched_there)
    assert sweep(tmp_path) == 1
    assert [*tmp_path.iterdir()] == [new]


def test_sweep_beside_a_writer_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which renames its file after it was listed; and files whose names only begin as ours do."""
    foreign = tmp_path / f"{TEMPORARY_PREFIX}7-other-1-x"
    strange = tmp_path / f"{TEMPORARY_PREFIX}abc"
    for path in (foreign, strange):
        path.touch()
        os.utime(path, (0, 0))
    stat = Path.stat

    def renamed_before(path: Path) -> os.stat_result:
        path.rename(tmp_path / "x")
        return stat(path)

    monkeypatch.setattr(Path, "stat", renamed_before)
    assert sweep(tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"x", strange.name}


def test_process_numbers_mean_the_same_only_here(tmp_path: Path) -> None:
    """Not after the machine was started anew, nor in another container of one host name."""

    def proc(name: str, boot_id: str) -> Path:
        for file, text in {"sys/kernel/random/boot_id": boot_id, "self/ns/pid": ""}.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True)
            path.write_text(text)
        return tmp_path / name

    first, other_namespace, nothing = proc("first", "1\n"), proc("other", "1\n"), tmp_path / "no proc"
    seen = {_host(first), _host(other_namespace), _host(nothing)}
    (first / "sys/kernel/random/boot_id").write_text("2\n")
    seen.add(_host(first))
    assert len(seen) == 4
    assert _host(first) in seen
    assert _host() == HOST


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "a" * 251 + ".npy", "a" * 250 + "." + "b" * 4])
def test_names_as_long_as_a_file_may_have_are_written(name: str, tmp_path: Path) -> None:
    write_whole(tmp_path / name, [b"x"])
    assert create_exclusively(tmp_path / name, b"y") is False
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_names_that_are_too_long_are_shortened_for_good_and_stay_apart() -> None:
    first, second = (shortened(f"{'a' * 300}{number}.npy") for number in (1, 2))
    assert first != second
    assert first == shortened(f"{'a' * 300}1.npy")
    assert (len(first), first[:230], first[-4:]) == (255, "a" * 230, ".npy")
    assert len(shortened("é" * 200).encode()) <= 255
    assert shortened("short.npy") == "short.npy"


@pytest.mark.parametrize(
    ("number", "inodes", "words"),
    [
        (errno.ENOSPC, 0, "no inodes are left, of which each file takes one .* make room by removing files"),
        (errno.ENOSPC, 5, r"No space left on device\. .* make room and"),
        (errno.EDQUOT, 0, "Disk quota exceeded, in bytes or in number of files"),
    ],
)
def test_a_full_disk_says_of_what_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, inodes: int, words: str
) -> None:
    def no_room(*given: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_files=100, f_favail=inodes))
    monkeypatch.setattr(Path, "replace", no_room)
    with pytest.raises(CacheNotWritable, match=words):
        write_whole(tmp_path / "deep" / "x", [b"x"])


def test_a_file_that_another_program_writes_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.mp4"
    with writing_whole(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == target.parent
        assert temporary.suffix == ".mp4"
        assert not target.exists()
    assert target.read_bytes() == b"new"

    def fail() -> None:
        with writing_whole(target) as temporary:
            temporary.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CacheNotWritable, match=re.escape(str(target))):
        fail()
    assert target.read_bytes() == b"new"
    assert [*target.parent.iterdir()] == [target]
