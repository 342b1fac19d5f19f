"""Files in memory and on a web server of our own; no time passes between tries."""

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from kinegraph.stages.remote.options import GIB, StagingOptions
from tests.http_server import Server, serving

Options = Callable[..., StagingOptions]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinegraph.stages.remote.remote.FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr("kinegraph.stages.remote.remote.LONGEST_WAIT_SECONDS", 0.01)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    def made(max_bytes: int = 1000, tries: int = 3) -> StagingOptions:
        return StagingOptions(folder=str(tmp_path / "staging"), max_gib=max_bytes / GIB, tries=tries)

    return made


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[str]:
    """URL of an empty folder in memory."""
    system = fsspec.filesystem("memory")
    yield f"memory://{tmp_path.name}"
    system.rm(f"/{tmp_path.name}", recursive=True)


@pytest.fixture
def web_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.mp4").write_bytes(bytes([number]) * 300)
    return folder


@pytest.fixture
def web(web_folder: Path) -> Iterator[Server]:
    with serving(web_folder) as server:
        yield server
