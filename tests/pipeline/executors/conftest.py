"""A SLURM of our own, and quick looks at it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kinegraph.pipeline.executors import slurm
from tests.pipeline.executors import fake_slurm

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """State of a fake SLURM whose commands are on the PATH."""
    home = tmp_path / "fake"
    home.mkdir()
    fake_slurm.install(home / "bin")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.1)
    yield home
    fake_slurm.stop_all(home)
