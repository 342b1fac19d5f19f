"""Killed anywhere, a cache never holds a wrong record, and the next run ends with the bytes of an undisturbed one."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.backbones.catalogue import CATALOGUE
from kinegraph.stages.backbones.tiny_i3d import TinyI3D
from tests import class_tokens
from tests.caches import same_bytes, write_config
from tests.command_server import Run
from tests.faults.conftest import Prepared, goes_on

OBJECT, UNFLUSHED, FOLDER = "an object", "an object under its temporary name", "the folder of an object"
PATTERNS = {
    "zarr": {
        OBJECT: "*/data.zarr/features/*/c.1.*",
        UNFLUSHED: "*/data.zarr/features/*/.tmp-*c.1.*",
        FOLDER: "*/data.zarr/regions/tiny/res4",
        "arrays": "*/res4/zarr.json",
    },
    "hdf5": {
        OBJECT: "*/shards/features/tiny/000001.h5",
        UNFLUSHED: "*/shards/features/tiny/.tmp-*1.h5",
        FOLDER: "*/shards/regions/tiny",
        "arrays": "*/data.h5",
    },
}
OFTEN_REFRESHED = ("--set", "run.lease_seconds=0.1")  # every 25 ms
STEPS = {  # operation, path, and which of them
    "stage written, not linked": ("link", "*/stages/*", 3),
    "some arrays declared": ("replace", "arrays", 1),
    "lease written, not linked": ("link", "*/leases/000001.json", 1),
    "lease being refreshed": ("replace", "*/leases/*", 1),
    "decoding": ("decode", "*/v5.mp4", 1),
    "half an object written": ("write", OBJECT, 1),
    "object not flushed": ("fsync", UNFLUSHED, 1),
    "object not renamed": ("replace", OBJECT, 1),
    "object renamed, folder not flushed": ("fsync", FOLDER, 2),
    "half a record written": ("write", "*/ledger/proposals/*", 2),
    "record not flushed": ("fsync", "*/ledger/clips/.tmp-*", 2),
    "record not linked": ("link", "*/ledger/features/*", 2),
    "record linked, its other name not removed": ("unlink", "*/ledger/regions/*/.tmp-*", 2),
    "lease not given back": ("unlink", "*/leases/000001.json", 1),
}

OF_BOTH_STORES = (  # one of each kind: what is declared, decoded, written, renamed, recorded
    "some arrays declared",
    "decoding",
    "half an object written",
    "object not renamed",
    "record not linked",
)


def in_full(*values: object, **options: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.faults, **options)


@pytest.mark.parametrize(
    ("prepared", "step"),
    [
        (kind, step) if kind == "zarr" or step in OF_BOTH_STORES else in_full(kind, step)
        for kind in PATTERNS
        for step in STEPS
    ],
    indirect=["prepared"],
)
def test_at_every_step_between_decode_and_ledger(tmp_path: Path, prepared: Prepared, run: Run, step: str) -> None:
    """By default at all steps in zarr, and at OF_BOTH_STORES in HDF5, which writes by the same code."""
    operation, path, count = STEPS[step]
    pattern = PATTERNS[prepared.document["store"]["kind"]].get(path, path)
    config = prepared.copy(tmp_path / "cache")
    ended = run("extract", config, *OFTEN_REFRESHED, strike=["SIGKILL", operation, pattern, count])
    assert ended.code == -signal.SIGKILL, ended.said
    goes_on(config, prepared.undisturbed)


TRACKED: dict[str, Any] = {
    "backbones": {}, "regions": None, "proposals": {"source": "grid", "every": 2}, "tracks": {},
}  # fmt: skip


def test_between_maps_and_class_tokens(
    tmp_path: Path, prepare: Callable[[str], Prepared], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard with maps, their means and class tokens has some of its objects, and no record."""
    monkeypatch.setattr(TinyI3D, "run", class_tokens.run)
    monkeypatch.setitem(CATALOGUE, "tiny_i3d", class_tokens.ENTRY)
    prepared = prepare("zarr")
    tiny = prepared.document["backbones"]["tiny"] | {"tokens": "both"}
    sections: dict[str, Any] = {"backbones": {"tiny": tiny}, "proposals": None, "regions": None}
    whole = prepared.copy(tmp_path / "whole", **sections)
    extract(load_config(whole))
    config = prepared.copy(tmp_path / "cache", **sections)
    script = str(Path(__file__).parent / "class_tokens_killed.py")
    assert run(config, "*/features/tiny/res4_class/c.1.*", script=script).code == -signal.SIGKILL
    kept = {
        path.relative_to(tmp_path / "cache" / "data.zarr").as_posix() for path in (tmp_path / "cache").rglob("c.1.*")
    }
    assert "features/tiny/res4_class/c.1.0.0" not in kept
    assert any(name.startswith("features/tiny/res4") for name in kept)
    goes_on(config, same_bytes(tmp_path / "whole"))


@pytest.mark.parametrize("prepared", ["zarr", "hdf5"], indirect=True)
def test_while_a_stage_is_made_from_sealed_stages(tmp_path: Path, prepared: Prepared, run: Run) -> None:
    """No video is decoded: the first run had sealed all but the tracks of shards 1 and 2."""
    undisturbed, config = (prepared.copy(tmp_path / name, **TRACKED) for name in ("undisturbed", "cache"))
    extract(load_config(undisturbed))
    extract(load_config(config), stages=["proposals"])
    strike = ["SIGKILL", "link", "*/ledger/tracks/000001.json", 1]
    assert run("extract", config, strike=strike).code == -signal.SIGKILL
    assert [path.name for path in sorted((tmp_path / "cache" / "ledger" / "tracks").glob("0*"))] == ["000000.json"]
    goes_on(config, same_bytes(tmp_path / "undisturbed"))


RETRYING = {
    "records being removed": ("unlink", "*/ledger/features/tiny/000000.json", 1),
    "objects being replaced": ("replace", "*/features/*0*", 1),
    "new records being written": ("link", "*/ledger/proposals/000000.json", 1),
    "all written": ("unlink", "*/leases/000000.json", 1),
}


@pytest.mark.parametrize(
    ("prepared", "step"),
    [
        ("zarr", "records being removed"),
        ("zarr", "objects being replaced"),
        ("zarr", "new records being written"),
        in_full("zarr", "all written"),
        in_full("hdf5", "records being removed"),
        ("hdf5", "objects being replaced"),
        in_full("hdf5", "new records being written"),
        in_full("hdf5", "all written"),
    ],
    indirect=["prepared"],
)
def test_while_failed_clips_are_tried_again(tmp_path: Path, prepared: Prepared, run: Run, step: str) -> None:
    """By default at each change of a sealed shard in zarr, and in HDF5 at that of the data, where stores differ."""
    video = Path(prepared.document["dataset"]["root"]) / "left" / "v3.mp4"
    away = video.rename(tmp_path / "away")
    config = prepared.copy(tmp_path / "cache")
    try:
        assert len(extract(load_config(config)).failures) == 1
    finally:
        away.rename(video)
    assert run("extract", config, "--retry-failed", strike=["SIGKILL", *RETRYING[step]]).code == -signal.SIGKILL
    goes_on(config, prepared.undisturbed, retry_failed=True)


@pytest.mark.parametrize(
    ("prepared", "name"),
    [
        ("zarr", "cache.json"),
        ("zarr", "classes.json"),
        ("hdf5", "clips.parquet"),
        *(in_full("hdf5", name) for name in ("cache.json", "classes.json")),
        in_full("zarr", "clips.parquet"),
    ],
    indirect=["prepared"],
)
def test_while_indexing(tmp_path: Path, prepared: Prepared, run: Run, name: str) -> None:
    """Each file once by default: it is the same in both stores."""
    config = write_config(tmp_path / "cache.yaml", prepared.document | {"cache": str(tmp_path / "cache")})
    assert run("index", config, strike=["SIGKILL", "write", f"*/{name}", 1]).code == -signal.SIGKILL
    index(load_config(config))
    goes_on(config, prepared.undisturbed)


def killed_at_random(tmp_path: Path, prepared: Prepared, run: Run, kills: int, draw: random.Random) -> None:
    """Until so many kills hit a run, with decoding threads beside it as by default."""
    run("plan", prepared.copy(tmp_path / "first"))  # the first child is slower
    begun = time.monotonic()
    assert run("extract", tmp_path / "first.yaml", "--executor", "local").code == 0
    duration = time.monotonic() - begun
    while kills:
        config = prepared.copy(tmp_path / "cache")
        ended = run("extract", config, "--executor", "local", after_seconds=draw.uniform(0, duration))
        assert ended.code in (0, -signal.SIGKILL), ended.said
        kills -= ended.code != 0
        goes_on(config, prepared.undisturbed)
        shutil.rmtree(tmp_path / "cache")


def test_at_three_random_moments(tmp_path: Path, prepare: Callable[[str], Prepared], run: Run) -> None:
    killed_at_random(tmp_path, prepare("zarr"), run, 3, random.Random(0))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_at_a_hundred_random_moments(tmp_path: Path, prepared: Prepared, run: Run) -> None:
    seed = int(os.environ.get("FAULTS_SEED", time.time_ns() % 10**6))
    print(f"FAULTS_SEED={seed}")
    killed_at_random(tmp_path, prepared, run, 100, random.Random(seed))
