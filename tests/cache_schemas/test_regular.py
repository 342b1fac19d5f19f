"""Only regular files are opened, and documents have a largest size."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from kinegraph.cache_schemas.regular import MIB, NotRegularError, open_regular, read_regular, require_regular


def test_a_link_to_a_regular_file_is_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"
    assert require_regular(tmp_path / "link").st_size == 3


@pytest.mark.parametrize("opener", [open_regular, read_regular, require_regular])
def test_anything_else_is_refused_and_named(tmp_path: Path, opener: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # names of sockets have at most 107 bytes
        server.bind("socket")
        os.chdir(here)
        kinds = {"fifo": "a named pipe (FIFO); only", "socket": "a socket; only", ".": "a folder; a file is expected"}
        for name, words in kinds.items():
            with pytest.raises(NotRegularError) as caught:
                opener(tmp_path / name)
            assert str(caught.value).startswith(f"{tmp_path / name} is {words}")
    with pytest.raises(NotRegularError, match="/dev/zero is a character device; only regular files are read"):
        opener(Path("/dev/zero"))
    with pytest.raises(FileNotFoundError):
        opener(tmp_path / "none")


def test_a_document_has_a_limit(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2 * MIB)
    assert len(read_regular(tmp_path / "large", 2 * MIB)) == 2 * MIB
    with pytest.raises(NotRegularError, match="large has more than 1 MiB, the limit for such a file"):
        read_regular(tmp_path / "large", MIB)
