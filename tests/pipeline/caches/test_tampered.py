"""Names in documents that lead out of where they belong: refused when they are read, and nothing is written."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cli.app import app
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.clusters.slurm.submission import Work, submissions, submit
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.errors import ConfigError, ExchangeError
from kinegraph.pipeline.exchange.imported_stages import Naming
from kinegraph.pipeline.exchange.to_npy import export_npy, file_name
from kinegraph.pipeline.shards.lease import live_leases
from kinegraph.stages.training.checkpoint import RunError, load_record

ARCHIVE = Path(__file__).resolve().parents[2] / "cache_schemas" / "archive" / "v1"
CLIMBING = ["../../../x", "features/tiny/../../../../x", "/tmp/x", "features//tiny", "features\\tiny", "a\0b", ".", ""]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A copy of the archived cache, deep in a folder that must hold nothing else afterwards."""
    yield Path(shutil.copytree(ARCHIVE, tmp_path / "a" / "b" / "c" / "cache"))
    for number, folder in enumerate([tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]):
        assert [path.name for path in folder.iterdir()] == [("a", "b", "c", "cache")[number]]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


@pytest.mark.parametrize("name", CLIMBING)
def test_an_array(cache: Path, name: str) -> None:
    path = cache / "stages" / "proposals.json"
    arrays = json.loads(path.read_bytes())["arrays"]
    edit(path, arrays=[arrays[0] | {"name": name}, *arrays[1:]])
    ended = run("verify", cache, "--repair")
    assert ended.exit_code == 1
    assert "stages/proposals.json is damaged: arrays.0.name: " in ended.stdout
    for command in (("status", cache), ("export", cache, cache.parent / "copy", "--to", "npy")):
        ended = run(*command)
        assert ended.exit_code == 1
        assert "is no name below a cache" in ended.stderr
    assert not (cache.parent / "copy").exists()


def test_an_array_of_another_stage(cache: Path) -> None:
    path = cache / "stages" / "proposals.json"
    arrays = json.loads(path.read_bytes())["arrays"]
    edit(path, arrays=[arrays[0] | {"name": "clips/frame_times"}])
    with pytest.raises(CacheError, match=r"arrays: given 'clips/frame_times' .* allowed: names below proposals/"):
        Cache(cache).arrays()


@pytest.mark.parametrize("name", CLIMBING)
def test_an_object_of_a_record(cache: Path, name: str) -> None:
    path = cache / "ledger" / "proposals" / "000000.json"
    sealed = json.loads(path.read_bytes())["objects"]
    edit(path, objects=sealed | {name: {"size": 1, "xxh3_128": ""}})
    assert [(problem.object, problem.kind) for problem in verify(cache).problems] == [
        ("ledger/proposals/000000.json", "record")
    ]
    with pytest.raises(CacheError, match="is no name below a cache"):
        Cache(cache).ledger.read("proposals", 0)


@pytest.mark.parametrize("change", [{"key": "../../x"}, {"key": "clips"}, {"shard": 1}, {"shard": -1}])
def test_a_record_is_of_its_own_shard(cache: Path, change: dict[str, Any]) -> None:
    edit(cache / "ledger" / "proposals" / "000000.json", **change)
    with pytest.raises(CacheError, match=r"proposals/000000\.json is damaged: "):
        Cache(cache).ledger.read("proposals", 0)


@pytest.mark.parametrize("key", ["../../x", "clips"])
def test_a_stage_key(cache: Path, key: str) -> None:
    edit(cache / "stages" / "proposals.json", key=key, arrays=[])
    with pytest.raises(CacheError, match=r"stages/proposals\.json is damaged: "):
        Cache(cache).stage("proposals")


@pytest.mark.parametrize("change", [{"shard": "../../x"}, {"attempt": "../x"}, {"keys": ["../../x"]}])
def test_a_lease(cache: Path, change: dict[str, Any]) -> None:
    """Its name is made of numbers; what it says of itself names nothing."""
    (cache / "leases").mkdir()
    lease = {"shard": 0, "attempt": 1, "seconds": 300.0, "keys": [], "holder": "", "host": "", "pid": 0}
    (cache / "leases" / "000000.json").write_text(json.dumps(lease | change))
    assert all(lease.name == "leases/000000.json" for lease in live_leases(Cache(cache).storage))


@pytest.mark.parametrize("change", [{"name": "../../x"}, {"job_id": "--user=all"}])
def test_a_job_array(cache: Path, change: dict[str, Any]) -> None:
    record = {"name": "x", "kind": "extract", "job_id": "1", "folder": "/x", "num_tasks": 1, "submitted_at": ""}
    (cache / "slurm").mkdir()
    (cache / "slurm" / "x.json").write_text(json.dumps(record | change))
    with pytest.raises(CacheError, match=r"slurm/x\.json is damaged: .* Remove it"):
        submissions(Cache(cache).storage)


def test_the_folder_of_a_job_array(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (cache / "slurm").symlink_to(outside)
    with pytest.raises(CacheError, match="outside of the cache: a symbolic link leads there"):
        submit(check_config({"cache": str(cache)}, "x"), Work(kind="extract", num_tasks=1))
    assert not list(outside.iterdir())


def test_videos_of_an_export(cache: Path, tmp_path: Path) -> None:
    """Ids may be absolute and climb, as a list of videos may; the files of an export do not."""
    table = ClipsTable.read(Cache(cache).storage)
    ids = ["../../../../x", "/etc/x", "..\\..\\x", "a\0b"][-len(table) :]
    clip_ids = [f"{video}:0:center" for video in ids]
    rows = [replace(row, video_id=ids[n], clip_id=clip_ids[n]) for n, row in enumerate(table.rows())]
    ClipsTable.from_rows(rows).write(Cache(cache).storage)
    for path in cache.glob("ledger/**/*.json"):
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"sources": {}, "failures": []}))
    out = tmp_path / "a" / "b" / "c" / "cache" / "out"
    export_npy(Cache(cache), str(out))
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.npy")}
    assert {f"proposals/count/{file_name(video)}" for video in ids} <= names


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "", ".", "a\0", "a\n"])
def test_names_of_entries_variants_and_imports(tmp_path: Path, name: str) -> None:
    backbone = {"model": "tiny_i3d", "weights": "random:0", "taps": ["res4"]}
    documents: tuple[dict[str, Any], ...] = ({"backbones": {name: backbone}}, {"train": {"variants": {name: {}}}})
    for document in documents:
        with pytest.raises(ConfigError, match="should match pattern"):
            check_config({"cache": "cache"} | document, "x")
    for naming in ({"name": name}, {"tap": name}):
        with pytest.raises(ExchangeError, match="letters, digits, - and _ are allowed"):
            Naming(**naming)


@pytest.mark.parametrize("change", [{"reads": ["../../x"]}, {"spec": {"../../x": [1]}}])
def test_a_run(tmp_path: Path, change: dict[str, Any]) -> None:
    record = {
        "cache": "cache", "head": "avg_pool", "options": {}, "reads": ["features/tiny/res4"],
        "spec": {"features/tiny/res4": [1]}, "num_classes": 1, "class_names": ["x"], "multi_label": False,
        "cache_fingerprint": "", "metrics": {}, "train": {}, "kinegraph_version": "", "torch_version": "",
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert load_record(tmp_path).head == "avg_pool"
    (tmp_path / "run.json").write_text(json.dumps(record | change))
    with pytest.raises(RunError, match="is no name below a cache"):
        load_record(tmp_path)
