"""A folder that does not outlive its process, whatever ends that."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kinegraph.stages.remote.folder import OwnFolder, StagingError

DIES = """
import os, signal, sys
from kinegraph.stages.remote.folder import OwnFolder
own = OwnFolder(sys.argv[1])
(own.path / "copy.mp4").write_bytes(b"left behind")
print(own.path, flush=True)
sys.stdin.read()
"""


def entries(base: Path) -> list[str]:
    return sorted(path.name for path in base.glob("*/*"))


def test_nothing_is_left_but_the_gate(tmp_path: Path) -> None:
    own = OwnFolder(str(tmp_path))
    (own.path / "copy.mp4").write_bytes(b"soon gone")
    assert own.path.parent.stat().st_mode & 0o777 == 0o700
    own.remove()
    assert entries(tmp_path) == ["gate"]


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    living = OwnFolder(str(tmp_path))
    command = [sys.executable, "-c", DIES, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        OwnFolder(str(tmp_path)).remove()
        assert (left / "copy.mp4").exists(), "of a process that lives"
        process.send_signal(signal.SIGKILL)
    assert (left / "copy.mp4").exists()
    OwnFolder(str(tmp_path)).remove()
    assert entries(tmp_path) == sorted(["gate", living.path.name, f"{living.path.name}.lock"])
    living.remove()


def test_a_thread_that_comes_late_makes_no_new_file(tmp_path: Path) -> None:
    own = OwnFolder(str(tmp_path))
    with (own.path / "begun").open("wb") as file:
        own.remove()
        file.write(b"goes nowhere")
        with pytest.raises(FileNotFoundError):
            (own.path / "next").touch()
    assert entries(tmp_path) == ["gate"]


def test_a_folder_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StagingError, match=r"file/kinegraph-staging-\d+: Not a directory.*run\.staging\.folder"):
        OwnFolder(str(tmp_path / "file"))


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    """Whoever may write to /tmp could have our copies, and what we delete, lie where they like."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"kinegraph-staging-{os.getuid()}").symlink_to(tmp_path / "theirs")
    with pytest.raises(StagingError, match="not a folder of this user"):
        OwnFolder(str(tmp_path))
