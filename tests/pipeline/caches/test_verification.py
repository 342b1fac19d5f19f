"""Damage is named with its kind, and mended to the same bytes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kinegraph.cache_schemas.arrays import status_array
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.ledger import Record
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import repair, verify
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.status import status
from tests.caches import same_bytes
from tests.conftest import moving_square, write_video

Load = Callable[..., Config]
ARCHIVE = Path(__file__).resolve().parents[2] / "cache_schemas" / "archive" / "v1"
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


NOTHING_WRONG = {"ok": True, "problems": [], "warnings": [], "proposals_per_frame": 4.0}


@pytest.mark.parametrize(("damage", "name", "kind"), DAMAGE, ids=[f"{kind} {name}" for _, name, kind in DAMAGE])
def test_damage_is_named_and_mended(
    load: Load, whole: Cache, damage: Callable[[Path], None], name: str, kind: str
) -> None:
    assert verify(whole.root).to_json() == NOTHING_WRONG
    before = same_bytes(whole.root)
    damage(Path(whole.root) / name)
    found = verify(whole.root)
    assert found.to_json()["problems"] == [{"stage": "features/tiny", "shard": 1, "object": name, "kind": kind}]
    assert not found.ok
    repair(whole, found.problems)
    assert verify(whole.root).ok, "a shard that is marked as not done is not checked"
    outcome = extract(load(name="whole"))
    assert [(unit.shard, unit.keys) for unit in outcome.plan.units] == [(1, ("features/tiny",))]
    assert same_bytes(whole.root) == before


@pytest.fixture
def archived(tmp_path: Path) -> Cache:
    """A copy of the archived cache: two shards of two rows, the last row failed."""
    return Cache(shutil.copytree(ARCHIVE, tmp_path / "archived"))


def change(array: str, edit: Callable[[np.ndarray, dict[str, Any]], None], shard: int = 0) -> Callable[[Cache], None]:
    """Damage that the writer itself made: a shard of an array sealed with other values, checksum and all."""

    def damage(cache: Cache) -> None:
        spec = {**cache.arrays(), "status/proposals": status_array("proposals")}[array]
        record = cache.ledger.read(spec.stage, shard)
        assert record is not None
        view = cache.store.open_shard(spec, shard)
        rows, document = np.stack([view.row(number) for number in range(record.num_rows)]), record.model_dump()
        del view
        edit(rows, document)
        spec = replace(spec, shape=rows.shape[1:])
        for name, (size, digest) in cache.store.write_shard(spec.stage, shard, [(spec, rows)]).items():
            document["objects"][name] = {"size": size, "xxh3_128": digest}
        cache.ledger.unseal(spec.stage, shard)
        cache.ledger.seal(Record.model_validate(document))

    return damage


def put(where: tuple[Any, ...], value: float) -> Callable[[np.ndarray, dict[str, Any]], None]:
    return lambda rows, document: rows.__setitem__(where, value)


def swap_scores(rows: np.ndarray, document: dict[str, Any]) -> None:
    rows[0, 0, :2] = 1.0, 2.0


def cut(rows: np.ndarray, document: dict[str, Any]) -> None:
    rows.resize((2, *(size - 1 for size in rows.shape[1:])), refcheck=False)


def other_options(rows: np.ndarray, document: dict[str, Any]) -> None:
    document["fingerprint"] = "0" * 64


def one_row(rows: np.ndarray, document: dict[str, Any]) -> None:
    document["num_rows"] = 1


def unknown_clip(rows: np.ndarray, document: dict[str, Any]) -> None:
    document["failures"] = [{"clip_id": "nobody:0:center", "reason": "missing", "detail": ""}]


IMPLAUSIBLE = [
    ("features/tiny/res2", put((1, 0, 3, 0, 0), np.nan), {("features/tiny/res2", "non_finite")}),
    ("features/tiny/res2", cut, {("features/tiny/res2", "shape")}),
    ("regions/tiny/res2", put((0, 0, 0, 0), np.inf), {("regions/tiny/res2", "non_finite")}),
    ("clips/frame_times", put((0, 1), np.nan), {("clips/frame_times", "non_finite")}),
    ("proposals/boxes", put((0, 0, 0, 2), np.nan), {("proposals/boxes", "non_finite")}),
    ("proposals/count", put((0, 0), 5), {("proposals/count", "count")}),
    ("proposals/count", put((0, 0), -1), {("proposals/count", "count")}),
    ("proposals/count", put((0, 0), 1), {("proposals/scores", "scores"), ("proposals/boxes", "boxes")}),
    ("proposals/scores", swap_scores, {("proposals/scores", "scores")}),
    ("status/proposals", put((0,), 2), {("status/proposals", "status")}),
    ("proposals/scores", other_options, {("ledger", "fingerprint")}),
    ("proposals/scores", one_row, {("ledger", "rows")}),
    ("proposals/scores", unknown_clip, {("ledger", "rows")}),
]


@pytest.mark.parametrize(("array", "edit", "expected"), IMPLAUSIBLE)
def test_whole_objects_with_wrong_values_are_named(
    archived: Cache, array: str, edit: Callable[[np.ndarray, dict[str, Any]], None], expected: set[tuple[str, str]]
) -> None:
    change(array, edit)(archived)
    found = verify(archived.root)
    assert {(_array(problem.object), problem.kind) for problem in found.problems} == expected
    assert {problem.shard for problem in found.problems} == {0}
    repair(archived, found.problems)
    assert verify(archived.root).ok


def _array(name: str) -> str:
    return name.removeprefix("data.zarr/").rpartition("/")[0] if name.startswith("data") else name.partition("/")[0]


def test_zeros_warn_and_no_more(archived: Cache) -> None:
    change("features/tiny/res2_pooled", put((1,), 0.0))(archived)
    name = "data.zarr/features/tiny/res2_pooled/c.0.0.0"
    expected = {"stage": "features/tiny", "shard": 0, "object": name, "kind": "zeros"}
    found = verify(archived.root)
    assert found.ok
    early = [warning["object"] for warning in found.to_json()["warnings"] if warning["kind"] == "document"]
    assert early == ["labels.json", "dataset.json"], "an early cache has neither"
    assert found.to_json()["warnings"][2:] == [expected]
    assert found.proposals_per_frame == 1.88  # 15 boxes in the 8 frames of two clips; the third failed


@pytest.mark.parametrize("array", ["features/tiny/res2", "proposals/count"])
def test_failed_rows_that_hold_something_are_named(archived: Cache, array: str) -> None:
    """The last row failed: it holds NaN, or -1, and nothing else."""
    change(array, put((0, 0), 0), shard=1)(archived)
    found = verify(archived.root).problems
    assert [(_array(problem.object), problem.shard, problem.kind) for problem in found] == [(array, 1, "fill")]


def edit_json(**changed: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        delete,
        truncate,
        edit_json(shape=[2, 8, 96, 4, 4]),
        edit_json(shape=[600, 8, 96, 4, 4]),
        edit_json(shape=[]),
        edit_json(data_type="float32"),
        edit_json(codecs=[]),
        edit_json(node_type="group"),
    ],
)
def test_metadata_that_readers_need(whole: Cache, damage: Callable[[Path], None]) -> None:
    """It is of no shard, and mended at once."""
    name = "data.zarr/features/tiny/res4/zarr.json"
    before = same_bytes(whole.root)
    damage(Path(whole.root) / name)
    found = verify(whole.root)
    assert found.to_json()["problems"] == [
        {"stage": "features/tiny", "shard": None, "object": name, "kind": "metadata"}
    ]
    repair(whole, found.problems)
    assert same_bytes(whole.root) == before


def test_metadata_that_nobody_promised(load: Load, whole: Cache, video_folder: Path) -> None:
    """Attributes are anybody's; rows lag behind until the next extraction; what has no shard may be unfinished."""
    root = Path(whole.root)
    edit_json(attributes={"mine": 1})(root / "data.zarr/features/tiny/res4/zarr.json")
    write_video(video_folder / "zoo" / "late.mp4", moving_square(14, 96, 80, seed=9))
    index(load(name="whole"))
    for shard in range(3):
        whole.ledger.unseal("regions/tiny", shard)
    delete(root / "data.zarr/regions/tiny/res4/zarr.json")
    assert verify(root).ok


def cut_data_h5(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["regions/tiny/res4"]


def replace_in_data_h5(path: Path) -> None:
    cut_data_h5(path)
    with h5py.File(path, "a") as file:
        file.create_dataset("regions/tiny/res4", (6, 8, 4, 128), "float16", chunks=(1, 8, 4, 128), fillvalue=np.nan)


@pytest.mark.parametrize("damage", [delete, truncate, cut_data_h5, replace_in_data_h5])
def test_the_file_that_joins_hdf5_shards(load: Load, damage: Callable[[Path], None]) -> None:
    config = load("store.kind=hdf5")
    cache = index(config).cache
    extract(config)
    before = same_bytes(cache.root)
    assert verify(cache.root).ok
    damage(Path(cache.root) / "data.h5")
    found = verify(cache.root)
    assert {(p.shard, p.object, p.kind) for p in found.problems} == {(None, "data.h5", "metadata")}
    assert "regions/tiny" in {p.stage for p in found.problems}
    repair(cache, found.problems)
    assert same_bytes(cache.root) == before


def test_failed_rows_and_orphans_are_no_problem(load: Load, video_folder: Path) -> None:
    (video_folder / "left" / "v3.mp4").write_text("words")
    config = load()
    cache = index(config).cache
    assert len(extract(config).failures) == 1
    cache.ledger.unseal("proposals", 2)
    delete(Path(cache.root) / "data.zarr/proposals/boxes/c.2.0.0.0")
    assert verify(cache.root).to_json() == NOTHING_WRONG


def test_several_problems_are_all_told(whole: Cache) -> None:
    delete(Path(whole.root) / "data.zarr/proposals/boxes/c.0.0.0.0")
    truncate(Path(whole.root) / "data.zarr/clips/frame_times/c.2.0")
    found = [(problem.stage, problem.shard, problem.kind) for problem in verify(whole.root).problems]
    assert found == [("clips", 2, "size"), ("proposals", 0, "missing")]


def test_a_damaged_record_is_an_error_that_says_what_to_do(whole: Cache) -> None:
    truncate(Path(whole.root) / RECORD)
    with pytest.raises(CacheError, match=r"000001\.json is damaged: .*verify --repair"):
        status(whole)


def test_a_record_of_a_newer_version_is_not_called_damaged(whole: Cache) -> None:
    path = Path(whole.root) / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 3}))
    with pytest.raises(CacheError, match="schema version 3"):
        verify(whole.root)


def test_status_counts(load: Load, video_folder: Path) -> None:
    (video_folder / "left" / "v3.mp4").write_text("words")
    (video_folder / "right" / "v4.mp4").unlink()
    (video_folder / "right" / "v4.mp4").touch()
    config = load()
    cache = index(config).cache
    assert status(cache) == {"schema": 1, "clips": 6, "shards": 3, "stages": {}, "jobs": []}
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
    rate, left = features["clips_per_second"], features["seconds_left"]
    assert rate > 0
    assert left == pytest.approx(4 / rate, rel=0.01, abs=0.1)
    assert proposals["seconds_left"] == 0
    sealed = [path for path in (Path(cache.root) / "data.zarr").rglob("c.*") if "proposals" in path.parts]
    assert proposals["bytes"] == sum(path.stat().st_size for path in sealed)
