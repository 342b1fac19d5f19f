"""Copies of videos do not outlive a run that is told to stop; those of one that is killed the next removes."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import load_config
from tests.caches import same_bytes, write_config
from tests.command_server import Ended, Run
from tests.conftest import six_videos, tiny_stages
from tests.http_server import Server, serving

DECODING = ("decode", "*staging*", 3)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Server]:
    with serving(six_videos(tmp_path / "videos")) as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, web: Server) -> Path:
    """Indexed; videos are copied to `tmp_path / "staging"`."""
    document = tiny_stages(tmp_path / "cache", tmp_path) | {"dataset": {"kind": "folder", "root": web.url}}
    document["run"] |= {"staging": {"folder": str(tmp_path / "staging")}}
    path = write_config(tmp_path / "config.yaml", document)
    index(load_config(path))
    return path


def copies(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "staging").glob("*/*") if path.name != "gate"]


def test_a_killed_run_s_copies_go_with_the_next(config: Path, run: Run, tmp_path: Path) -> None:
    undisturbed = shutil.copytree(tmp_path / "cache", tmp_path / "undisturbed")
    killed: Ended = run("extract", config, strike=["SIGKILL", *DECODING])
    assert killed.code == -signal.SIGKILL
    assert [path for path in copies(tmp_path) if any(path.glob("*.mp4"))]
    assert run("extract", config).code == 0
    assert not copies(tmp_path)
    assert run("extract", config, "--set", f"cache={undisturbed}").code == 0
    assert same_bytes(tmp_path / "cache") == same_bytes(undisturbed)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_removes_its_copies(
    config: Path, run: Run, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    assert run("extract", config, strike=[sent.name, *DECODING]).code == code
    assert not copies(tmp_path)
