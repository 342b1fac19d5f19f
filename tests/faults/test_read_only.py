"""A cache that may only be read: reading works, writing is refused in words."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from tests.command_server import Ended, Run
from tests.faults.conftest import Prepared

NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder that everybody may enter, unlike pytest's."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    for folder in (made, *(path for path in made.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    shutil.rmtree(made)


@pytest.fixture
def run_unprivileged(run: Run) -> Run:
    """Permissions do not bind root: it becomes another user."""

    def command(*arguments: object) -> Ended:
        ended = run(*arguments, **({"user": NOBODY} if os.geteuid() == 0 else {}))
        if "ModuleNotFoundError" in ended.said:
            pytest.skip("other users cannot read the Python of this machine")
        return ended

    return command


def read_only(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def refused(ended: Ended) -> bool:
    return ended.code == 1 and "could not be written: Permission denied. `status`, `verify`" in ended.said


def test_a_complete_cache(root: Path, prepared: Prepared, run_unprivileged: Run) -> None:
    config = prepared.copy(root / "cache", "undisturbed")
    read_only(root / "cache")
    assert run_unprivileged("status", root / "cache").code == 0
    assert run_unprivileged("verify", root / "cache").code == 0
    assert run_unprivileged("plan", config).code == 0
    assert run_unprivileged("extract", config).code == 0, "there is nothing to do"
    batch = CachedClips(Cache(root / "cache"), ["regions/tiny/res4"]).batch(range(6))
    assert batch["regions/tiny/res4"].isfinite().all()


def test_a_cache_with_work_left(root: Path, prepared: Prepared, run_unprivileged: Run) -> None:
    config = prepared.copy(root / "cache", "undisturbed")
    Cache(root / "cache").ledger.unseal("regions/tiny", 1)
    read_only(root / "cache")
    assert run_unprivileged("plan", config).code == 0
    ended = run_unprivileged("extract", config)
    assert refused(ended), ended.said
