"""Killed at any step of an upgrade, a cache is as it was or opened by nothing else, and the next run ends it."""

import functools
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.upgrading.upgrade import upgrade
from tests.caches import write_config
from tests.command_server import Run
from tests.conftest import tiny_stages
from tests.first_rules import first_rules, of_each_kind

UPGRADE = ("verify", "--frames", "--repair")
TIMES = "times of the same frames"
PATTERNS = {"zarr": {TIMES: "*/clips/frame_times/c.1.0"}, "hdf5": {TIMES: "*/shards/clips/000001.h5"}}
BEFORE = {  # operation, path, and which of them; the cache is as it was
    "a verdict": ("replace", "*/upgrade/000001.json", 1),
    "that it begins": ("replace", "*/cache.json", 1),
}
MIDWAY = {
    "rows": ("replace", "*/clips.parquet", 1),
    "rows written": ("unlink", "*/ledger/regions/tiny/000002.json", 1),
    "some keys of a shard marked as not done": ("unlink", "*/ledger/clips/000002.json", 1),
    "a record": ("replace", "*/ledger/features/tiny/000001.json", 1),
    "the record before its object": ("unlink", "*/ledger/clips/000001.json", 1),
    "its object": ("replace", TIMES, 1),
    "its record": ("link", "*/ledger/clips/000001.json", 1),
    "a stage": ("replace", "*/stages/features/tiny.json", 1),
    "that it ends": ("replace", "*/cache.json", 2),
}
AFTER = {"verdicts removed": ("unlink", "*/upgrade/000001.json", 1)}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """By kind of store, caches `old`, by the first rules, and `upgraded`, undisturbed."""

    @functools.cache
    def made(kind: str) -> Path:
        root = tmp_path_factory.mktemp(kind)
        document = tiny_stages(root / "old", of_each_kind(root / "videos")) | {
            "store": {"kind": kind, "shard_clips": 2}
        }
        document["run"] |= {"executor": "inline"}
        config = check_config(document, "old")
        with first_rules():
            index(config)
            extract(config)
        shutil.copytree(root / "old", root / "upgraded")
        upgrade(root / "upgraded")
        return root

    return made


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


IN_FULL = ("rows written", "a record")  # before each, a cache looks much as before the step that follows
STEPS = [
    *(
        pytest.param("zarr", step, marks=[pytest.mark.faults] * (step in IN_FULL))
        for step in (*BEFORE, *MIDWAY, *AFTER)
    ),
    ("hdf5", "its object"),
    ("hdf5", "its record"),
]


@pytest.mark.parametrize(("kind", "step"), STEPS)
def test_at_every_step(tmp_path: Path, make: Callable[[str], Path], run: Run, kind: str, step: str) -> None:
    """By default at all steps but those IN_FULL in zarr, and in HDF5 where objects are written otherwise."""
    made = make(kind)
    operation, path, count = (BEFORE | MIDWAY | AFTER)[step]
    cache = tmp_path / "cache"
    shutil.copytree(made / "old", cache)
    pattern = PATTERNS[kind].get(path, path)
    ended = run(*UPGRADE, cache, strike=["SIGKILL", operation, pattern, count])
    assert ended.code == -signal.SIGKILL, ended.said
    if step in MIDWAY:
        with pytest.raises(CacheMismatch, match=rf"is half upgraded. Go on with `kinegraph verify {cache} --frames"):
            Cache(cache)
    else:
        assert verify(cache).ok
    again = run(*UPGRADE, cache)
    assert again.code == 0, again.said
    assert content(cache) == content(made / "upgraded")


def test_other_commands_say_what_to_do_meanwhile(tmp_path: Path, make: Callable[[str], Path], run: Run) -> None:
    made = make("zarr")
    cache = tmp_path / "cache"
    shutil.copytree(made / "old", cache)
    run(*UPGRADE, cache, strike=["SIGKILL", "replace", "*/clips.parquet", 1])
    config = write_config(tmp_path / "my.yaml", tiny_stages(cache, made / "videos"))
    for command in (("extract", config), ("index", config), ("train", config), ("status", cache), ("verify", cache)):
        ended = run(*command)
        assert ended.code == 2
        assert f"Go on with `kinegraph verify {cache} --frames --repair`" in ended.said
