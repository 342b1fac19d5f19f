"""Damage is named with its kind, and mended to the same bytes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cache_schemas.cache import Cache
from cache_schemas.errors import CacheError
from pipeline.config import Config
from pipeline.extraction import extract
from pipeline.indexing import index
from pipeline.status import status
from pipeline.verification import repair, verify
from tests.caches import same_bytes

Load = Callable[..., Config]
OBJECT = "data.zarr/features/tiny/res4/c.1.0.0.0.0"
RECORD = "ledger/features/tiny/000001.json"


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = [
    (delete, OBJECT, "missing"),
    (truncate, OBJECT, "size"),
    (flip_a_bit, OBJECT, "checksum"),
    (flip_a_bit, "data.zarr/status/features/tiny/c.1", "checksum"),
    (truncate, RECORD, "record"),
]


@pytest.mark.parametrize(("damage", "name", "kind"), DAMAGE, ids=[f"{kind} {name}" for _, name, kind in DAMAGE])
def test_damage_is_named_and_mended(
    load: Load, whole: Cache, damage: Callable[[Path], None], name: str, kind: str
) -> None:
    assert verify(whole.root).to_json() == {"ok": True, "problems": [], "warnings": []}
    before = same_bytes(whole.root)
    damage(Path(whole.root) / name)
    found = verify(whole.root)
    assert found.to_json()["problems"] == [{"stage": "features/tiny", "shard": 1, "object": name, "kind": kind}]
    assert not found.ok
    repair(whole, found.problems)
    assert verify(whole.root).ok, "what is un-marked is no longer promised"
    outcome = extract(load(name="whole"))
    assert [(unit.shard, unit.keys) for unit in outcome.plan.units] == [(1, ("features/tiny",))]
    assert same_bytes(whole.root) == before


def test_several_problems_are_all_told(whole: Cache) -> None:
    delete(Path(whole.root) / "data.zarr/proposals/boxes/c.0.0.0.0")
    truncate(Path(whole.root) / "data.zarr/clips/frame_times/c.2.0")
    found = [(problem.stage, problem.shard, problem.kind) for problem in verify(whole.root).problems]
    assert found == [("clips", 2, "size"), ("proposals", 0, "missing")]


def test_a_damaged_record_is_an_error_that_says_what_to_do(whole: Cache) -> None:
    truncate(Path(whole.root) / RECORD)
    with pytest.raises(CacheError, match=r"000001\.json is not a ledger record .*verify --repair"):
        status(whole)


def test_a_record_of_a_newer_version_is_not_called_damaged(whole: Cache) -> None:
    path = Path(whole.root) / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    with pytest.raises(CacheError, match="schema version 2"):
        verify(whole.root)


def test_status_counts(load: Load, video_folder: Path) -> None:
    (video_folder / "left" / "v3.mp4").write_text("words")
    (video_folder / "right" / "v4.mp4").unlink()
    (video_folder / "right" / "v4.mp4").touch()
    config = load()
    cache = index(config).cache
    assert status(cache) == {"schema": 1, "clips": 6, "shards": 3, "stages": {}}
    extract(config, limit=2)
    extract(config, stages=["proposals"])
    found = status(cache)["stages"]
    assert set(found) == {"clips", "features/tiny", "proposals", "regions/tiny"}
    features, proposals = found["features/tiny"], found["proposals"]
    assert features["shards"] == {"done": 1, "running": 0, "missing": 2}
    assert features["clips"] == {"ok": 1, "warned": 0, "failed": 1, "missing": 4}
    assert features["failed"] == {"unreadable": 1}
    assert proposals["shards"] == {"done": 3, "running": 0, "missing": 0}
    assert proposals["clips"] == {"ok": 4, "warned": 0, "failed": 2, "missing": 0}
    assert proposals["failed"] == {"unreadable": 2}
    sealed = [path for path in (Path(cache.root) / "data.zarr").rglob("c.*") if "proposals" in path.parts]
    assert proposals["bytes"] == sum(path.stat().st_size for path in sealed)
