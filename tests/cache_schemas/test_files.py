"""Files appear whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash

from cache_schemas.files import HOST, TEMPORARY_PREFIX, create_exclusively, file_digest, sweep, write_whole


def test_write_gives_size_and_checksum(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    assert write_whole(target, [b"abc", b"defg"]) == (7, xxhash.xxh3_128_hexdigest(b"abcdefg"))
    assert target.read_bytes() == b"abcdefg"
    assert file_digest(target) == (7, xxhash.xxh3_128_hexdigest(b"abcdefg"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_whole(target, [b"old"])

    def parts():
        yield b"new"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(target, parts())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_bytes() == b"old"


def test_only_one_creates(tmp_path: Path) -> None:
    target = tmp_path / "file"
    assert create_exclusively(target, b"first")
    assert not create_exclusively(target, b"second")
    assert target.read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 1


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
