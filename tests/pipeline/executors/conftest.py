"""A SLURM of our own, and quick looks at it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.executors import slurm
from tests.pipeline.executors import fake_slurm

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """State of a fake SLURM whose commands are on the PATH."""
    home = tmp_path / "fake"
    home.mkdir()
    fake_slurm.install(home / "bin")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setenv("PATH", f"{home / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.1)
    yield home
    fake_slurm.stop_all(home)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "slurm" not in config.getoption("markexpr"):
        for item in items:
            if item.get_closest_marker("slurm"):
                item.add_marker(pytest.mark.skip(reason="starts SLURM: make test-slurm"))
