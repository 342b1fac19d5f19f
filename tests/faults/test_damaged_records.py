"""What lies in the ledger or among the leases and is not what a worker writes: said, not believed, and mended."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError, CacheTooNew
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.verification import repair, verify
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.status import status
from tests.caches import same_bytes
from tests.faults.conftest import Prepared

ZARR = pytest.mark.parametrize("prepared", ["zarr"], indirect=True)  # stores know nothing of records and leases
RECORD = "ledger/features/tiny/000001.json"


@pytest.fixture
def config(tmp_path: Path, prepared: Prepared) -> Path:
    """Of a complete cache at `tmp_path / "cache"`."""
    return prepared.copy(tmp_path / "cache", "undisturbed")


READERS: dict[str, Callable[[Cache, Path], Any]] = {
    "status": lambda cache, config: status(cache),
    "extract": lambda cache, config: extract(load_config(config)),
    "train": lambda cache, config: CachedClips(cache, ["features/tiny/res4"]),
}


@ZARR
@pytest.mark.parametrize("content", [b"", b'{"schema_version": 1, "key": "fea', b"null", b"\xff\xfe\x00"])
def test_a_record_that_cannot_be_read(tmp_path: Path, prepared: Prepared, config: Path, content: bytes) -> None:
    cache = Cache(tmp_path / "cache")
    (tmp_path / "cache" / RECORD).write_bytes(content)
    for reads in READERS.values():
        with pytest.raises(CacheError, match=r"features/tiny/000001\.json is damaged: .*verify --repair"):
            reads(cache, config)
    (problem,) = verify(cache.root).problems
    assert (problem.object, problem.kind) == (RECORD, "record")
    repair(cache, (problem,))
    assert [(unit.shard, unit.keys) for unit in extract(load_config(config)).plan.units] == [(1, ("features/tiny",))]
    assert same_bytes(cache.root) == prepared.undisturbed


@ZARR
def test_a_record_of_a_newer_version(tmp_path: Path, config: Path) -> None:
    """It is refused by all, and nothing is repaired, because nothing is broken."""
    cache, path = Cache(tmp_path / "cache"), tmp_path / "cache" / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 3, "unknown": 1}))
    before = same_bytes(cache.root)
    for reads in (*READERS.values(), lambda cache, config: verify(cache.root)):
        with pytest.raises(CacheTooNew, match=r"schema version 3; this kinegraph knows 2\. Update kinegraph"):
            reads(cache, config)
    assert same_bytes(cache.root) == before


def test_a_record_of_an_object_that_is_not_there(tmp_path: Path, prepared: Prepared, config: Path) -> None:
    cache = Cache(tmp_path / "cache")
    record = cache.ledger.read("features/tiny", 1)
    assert record is not None
    for name in record.objects:
        (tmp_path / "cache" / name).unlink()
    problems = verify(cache.root).problems
    assert {(problem.object, problem.kind) for problem in problems} == {(name, "missing") for name in record.objects}
    with pytest.raises(FileNotFoundError, match=r"c\.1\.|000001"):
        CachedClips(cache, ["features/tiny/res4"]).batch([2])
    repair(cache, problems)
    extract(load_config(config))
    assert same_bytes(cache.root) == prepared.undisturbed


@ZARR
def test_leases_that_are_garbage(tmp_path: Path, prepared: Prepared) -> None:
    """They go stale like those of a worker that says nothing more."""
    config = prepared.copy(tmp_path / "cache")
    leases = tmp_path / "cache" / "leases"
    leases.mkdir()
    for shard, content in enumerate((b"\xff\xfe", b'{"keys": 3}', b'{"keys": [], "attempt": "first"}')):
        (leases / f"00000{shard}.json").write_bytes(content)
    assert status(Cache(tmp_path / "cache"))["clips"] == 6
    extract(load_config(config, ["run.lease_seconds=1"]))
    assert same_bytes(tmp_path / "cache") == prepared.undisturbed
    assert not list(leases.iterdir())
