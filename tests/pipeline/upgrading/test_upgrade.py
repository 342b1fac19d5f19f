"""Caches made by the first rules for videos: compared, upgraded, and completed to what a new extraction makes."""

import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import status_array
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError, CacheMismatch, CacheTooNew
from kinegraph.cache_schemas.files import HOST
from kinegraph.cache_schemas.fingerprint import fingerprint
from kinegraph.cache_schemas.ledger import Record
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.stage import Stage
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import AnotherRunError
from kinegraph.pipeline.exchange.to_store import export_cache
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.shards import leases
from kinegraph.pipeline.shards.lease import Lease
from kinegraph.pipeline.shards.sealing import write_and_seal
from kinegraph.pipeline.upgrading import upgrade as module
from kinegraph.pipeline.upgrading.comparing import Comparer
from kinegraph.pipeline.upgrading.upgrade import compare_frames, upgrade
from kinegraph.stages.decode.source import source_identity
from tests.caches import same_bytes
from tests.conftest import moving_square, tiny_stages, write_video
from tests.first_rules import first_rules, of_each_kind

ARCHIVE = Path(__file__).resolve().parents[2] / "cache_schemas" / "archive" / "v1"
KEYS = ("clips", "features/tiny", "proposals", "regions/tiny")
Old = Callable[..., Config]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_each_kind(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module", params=["zarr", "hdf5"])
def made(request: pytest.FixtureRequest, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches `old`, by the first rules, and `new`, by the latest."""
    root = tmp_path_factory.mktemp(request.param)
    for name in ("old", "new"):
        document = tiny_stages(root / name, videos) | {"store": {"kind": request.param, "shard_clips": 2}}
        document["run"] |= {"executor": "inline"}
        config = check_config(document, name)
        if name == "new":
            index(config)
            assert not extract(config).failures
        else:
            with first_rules():
                index(config)
                assert not extract(config).failures
    return root


@pytest.fixture
def old(made: Path, videos: Path, tmp_path: Path) -> Old:
    """The config of a copy of the old cache."""
    kind = json.loads((made / "old" / "cache.json").read_text())["store"]["kind"]

    def copied(videos: Path = videos) -> Config:
        shutil.copytree(made / "old", tmp_path / "cache")
        document = tiny_stages(tmp_path / "cache", videos) | {"store": {"kind": kind, "shard_clips": 2}}
        document["run"] |= {"executor": "inline"}
        return check_config(document, "old")

    return copied


def data(root: Path) -> dict[str, Any]:
    """All bytes of arrays and rows."""
    return {name: content for name, content in same_bytes(root).items() if not name.startswith("ledger/")}


def everything(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_upgrade_keeps_what_is_right(made: Path, old: Old) -> None:
    config = old()
    root = Path(config.cache)
    before = Cache(root)
    fingerprints = {key: before.stage(key).fingerprint for key in KEYS}
    with pytest.raises(CacheMismatch, match=rf"kinegraph verify {root} --frames --repair"):
        extract(config)
    untouched = everything(root)
    report = compare_frames(root)
    assert everything(root) == untouched
    assert (report.shards, report.ok) == ({"same": 1, "retimed": 1, "differ": 1, "unread": 0}, False)
    assert report.differing == {"left/e.avi:0:center": "frame 3 in place of 2, and 7 others"}

    report = upgrade(root)
    assert (report.ok, report.upgraded) == (True, True)
    cache, new = Cache(root), Cache(made / "new")
    assert cache.manifest == new.manifest
    assert not list((root / "upgrade").glob("*"))
    for key in KEYS:
        assert cache.stage(key).document() == new.stage(key).document() | {"upgraded_from": fingerprints[key]}
        assert cache.ledger.shards(key) == [0, 1]
        for record in cache.ledger.records(key):
            assert (record.upgraded_from, record.schema_version) == (fingerprints[key], 2)
    assert verify(root).ok
    assert compare_frames(root).is_latest
    assert index(config).num_new_rows == 0
    outcome = extract(config)
    assert [(unit.shard, unit.keys) for unit in outcome.plan.units] == [(2, KEYS)]
    assert data(root) == data(made / "new")
    assert not extract(config).plan.units


def test_an_export_of_an_upgraded_cache_says_so(old: Old, tmp_path: Path) -> None:
    config = old()
    upgrade(config.cache)
    source = Cache(config.cache)
    copy = export_cache(source, tmp_path / "copy", kind="zarr", compression="none").cache
    assert [copy.stage(key).document() for key in KEYS] == [source.stage(key).document() for key in KEYS]
    assert [record.upgraded_from for record in copy.ledger.records("clips")] == [copy.stage("clips").upgraded_from] * 2
    assert verify(copy.root).ok


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_what_cannot_be_read_stops_an_upgrade(videos: Path, old: Old, tmp_path: Path) -> None:
    """Its features may be right: nothing is changed, or, if asked for, they go."""
    moved = Path(shutil.copytree(videos, tmp_path / "videos"))
    config = old(moved)
    with_own_paths(Cache(config.cache), videos, moved)
    (moved / "left" / "b.avi").unlink()
    report = upgrade(config.cache)
    assert (report.ok, report.upgraded, [*report.unread]) == (False, False, ["left/b.avi:0:center"])
    assert verify(config.cache).ok
    assert Cache(config.cache).manifest["clips"]["version"] == 1
    report = upgrade(config.cache, drop_unread=True)
    assert (report.ok, report.shards["differ"]) == (True, 2)
    cache = Cache(config.cache)
    assert [cache.ledger.shards(key) for key in KEYS] == [[1]] * 4
    assert [row.is_probed for row in cache.rows(0)] == [True, False]


def with_own_paths(cache: Cache, before: Path, now: Path) -> None:
    table = cache.clips
    rows = [replace(row, path=row.path.replace(str(before), str(now))) for row in table.rows()]
    type(table).from_rows(rows).write(cache.storage)


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_a_video_that_was_replaced_is_read_anew(videos: Path, old: Old, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(videos, tmp_path / "videos"))
    config = old(moved)
    with_own_paths(Cache(config.cache), videos, moved)
    shutil.copyfile(videos / "left" / "a.mp4", moved / "left" / "b.avi")
    assert upgrade(config.cache).differing["left/b.avi:0:center"] == "the video has changed since it was cached"


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_sealed_times_that_no_rules_give_are_no_proof(old: Old) -> None:
    """FFmpeg read the video differently when it was cached."""
    cache = Cache(old().cache)
    stage, record = cache.stage("clips"), cache.ledger.read("clips", 0)
    assert record is not None
    (spec,) = stage.arrays
    times = np.stack([cache.store.open_shard(spec, 0).row(number) for number in range(2)])
    cache.ledger.unseal("clips", 0)
    write_and_seal(
        cache, record, [(spec, times + np.array([[0.04], [0]])), (status_array("clips"), np.ones(2, np.uint8))]
    )
    assert verify(cache.root).ok
    words = compare_frames(cache.root).differing["left/a.mp4:0:center"]
    assert words == "its sealed times are not those that the earlier rules give now"


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_shards_that_were_not_extracted_get_their_rows(made: Path, old: Old) -> None:
    config = old()
    cache = Cache(config.cache)
    for key in KEYS:
        cache.ledger.unseal(key, 2)
    assert compare_frames(config.cache).ok, "nothing sealed shows other frames"
    upgrade(config.cache)
    extract(config)
    assert data(Path(config.cache)) == data(made / "new")


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_imported_stages_are_left_alone(old: Old) -> None:
    cache = Cache(old().cache)
    stage = cache.stage("features/tiny")
    imported = replace(
        stage,
        key="features/theirs",
        options={"provenance": "unknown"},
        arrays=tuple(replace(a, name=a.name.replace("tiny", "theirs"), stage="features/theirs") for a in stage.arrays),
    )
    cache.declare(imported)
    record = next(cache.ledger.records("features/tiny", {2}))
    record = record.model_copy(update={"key": imported.key, "fingerprint": imported.fingerprint, "objects": {}})
    cache.ledger.seal(record)
    upgrade(cache.root)
    now = Cache(cache.root)
    assert now.stage(imported.key).document() == imported.document()
    assert now.ledger.read(imported.key, 2) == record


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
@pytest.mark.parametrize(("key", "source"), [("graphs", "files"), ("regions/boxes", "file"), ("regions/boxes", "tiny")])
def test_what_goes_by_times_is_made_again_where_they_change(old: Old, key: str, source: str) -> None:
    cache = Cache(old().cache)
    if key != "graphs":
        proposals = cache.stage("proposals")
        proposals = replace(proposals, options={**proposals.options, "source": source})
        cache.storage.put(cache.stage_name("proposals"), [json.dumps(proposals.document()).encode()])
    reads = {"clips": "", "proposals": ""} if key != "graphs" else {"clips": ""}
    stage = Stage(key=key, options={"source": source, "reads": reads}, arrays=())
    cache.declare(stage)
    for shard in range(3):
        cache.ledger.seal(Record(key=key, shard=shard, num_rows=2, fingerprint=stage.fingerprint, objects={}))
    upgrade(cache.root)
    kept = [0] if source != "tiny" else [0, 1]
    now = Cache(cache.root)
    assert now.ledger.shards(key) == kept
    assert now.ledger.shards("features/tiny") == now.ledger.shards("clips") == [0, 1]
    assert now.ledger.shards("proposals") == (kept if key != "graphs" else [0, 1])


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_at_a_url(old: Old) -> None:
    """In memory, where a request takes no 10 ms: test_storages.py tests that S3 keeps the same contract."""
    config, url = old(), f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").put(config.cache, url, recursive=True)
    assert upgrade(url).upgraded
    upgrade(config.cache)
    here, there = Cache(config.cache), Cache(url)
    assert there.manifest == here.manifest
    assert there.clips.table == here.clips.table
    for key in KEYS:
        assert there.stage(key).document() == here.stage(key).document()
        assert there.ledger.shards(key) == [0, 1]
    assert verify(url).ok
    assert not [*there.storage.names("leases"), *there.storage.names("upgrade")]


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_another_run_is_waited_for_until_it_is_known_to_be_alive(monkeypatch: pytest.MonkeyPatch, old: Old) -> None:
    config = old()
    storage = LocalStorage(config.cache)
    lease = Lease(shard=1, attempt=1, seconds=0.2, holder="other", host="elsewhere", pid=7)
    storage.put(lease.name, [lease.content])
    sleep = stopping.sleep

    def refreshed(seconds: float) -> None:
        fresh = replace(lease, refreshes=1)
        storage.put(fresh.name, [fresh.content])
        sleep(0)

    monkeypatch.setattr(module, "LEASE_SECONDS", 0.1)
    monkeypatch.setattr(stopping, "sleep", refreshed)
    with pytest.raises(AnotherRunError, match="process 7 of elsewhere is at work on shard 1"):
        upgrade(config.cache)
    assert not [name for name in storage.names("leases") if name != lease.name]
    monkeypatch.setattr(stopping, "sleep", sleep)
    dead = replace(lease, host=HOST, pid=2**22 + 1)
    storage.put(dead.name, [dead.content])
    assert upgrade(config.cache).upgraded
    assert not [*storage.names("leases")]


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_a_run_that_comes_while_frames_are_compared(monkeypatch: pytest.MonkeyPatch, old: Old) -> None:
    """Its lease stops the upgrade. What it sealed is judged by none, so that it is made again."""
    config = old()
    storage, ledger = LocalStorage(config.cache), Cache(config.cache).ledger
    lease = Lease(shard=1, attempt=1, seconds=60.0, holder="other", host="elsewhere", pid=7)
    really_judged, judged = Comparer.verdict, []

    def verdict(self: Comparer, shard: int, **how: bool) -> Any:
        judged.append(shard)
        if shard == 1:
            storage.put(lease.name, [lease.content])
        return really_judged(self, shard, **how)

    monkeypatch.setattr(Comparer, "verdict", verdict)
    with pytest.raises(AnotherRunError, match="process 7 of elsewhere is at work on shard 1"):
        upgrade(config.cache)
    assert Cache(config.cache).manifest["clips"]["version"] == 1
    storage.delete(lease.name)
    monkeypatch.undo()

    def sealed_meanwhile(_: object) -> None:
        record = ledger.read("features/tiny", 0)
        assert record is not None
        ledger.unseal("features/tiny", 0)
        ledger.seal(record.model_copy(update={"host": "elsewhere"}))

    monkeypatch.setattr(module, "require_alone", sealed_meanwhile)
    assert upgrade(config.cache).upgraded
    assert sorted(judged) == [0, 1, 2]
    assert [ledger.shards(key) for key in KEYS] == [[0, 1], [1], [0, 1], [0, 1]]


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_a_run_that_began_before_an_upgrade_seals_nothing_after_it(monkeypatch: pytest.MonkeyPatch, old: Old) -> None:
    config = old()
    cache = Cache(config.cache)
    for key in KEYS:
        cache.ledger.unseal(key, 0)
    really_takes = leases.Leases.take

    def take(self: leases.Leases, shard: int, keys: tuple[str, ...]) -> bool:
        module._put_manifest(cache, cache.manifest | {"upgrading": True, "schema_version": 2})
        return really_takes(self, shard, keys)

    monkeypatch.setattr(leases.Leases, "take", take)
    with first_rules(), pytest.raises(CacheMismatch, match="was run while this run worked on it"):
        extract(config)
    monkeypatch.undo()
    assert cache.ledger.shards("clips") == [1, 2]
    assert not [*cache.storage.names("leases")]
    module._put_manifest(cache, {key: value for key, value in cache.manifest.items() if key != "upgrading"})
    assert upgrade(config.cache).upgraded
    with pytest.raises(CacheMismatch, match="was run while this run worked on it"):
        cache.check_not_upgraded()


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_two_upgrades_at_once(monkeypatch: pytest.MonkeyPatch, old: Old) -> None:
    """The second waits for the first, and finds nothing to do."""
    root = Path(old().cache)

    def alone(*arguments: Any) -> Any:
        monkeypatch.undo()
        assert upgrade(root).upgraded
        return leases.alone(*arguments)

    monkeypatch.setattr(module, "alone", alone)
    report = upgrade(root)
    assert (report.is_latest, report.upgraded) == (True, False)


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_an_upgrade_does_not_go_on_without_its_verdicts(old: Old) -> None:
    root = Path(old().cache)
    cache = Cache(root)
    module._put_manifest(cache, cache.manifest | {"upgrading": True, "schema_version": 2})
    with pytest.raises(CacheError, match=r"upgrade/000000\.json is gone.* Restore it from a copy"):
        upgrade(root)


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_stages_that_an_earlier_kinegraph_began_after_an_upgrade(old: Old) -> None:
    """It had opened the cache before it."""
    config = old()
    root = Path(config.cache)
    manifest = json.loads((root / "cache.json").read_text())
    clips = manifest["clips"] | {"version": 2}
    (root / "cache.json").write_text(json.dumps(manifest | {"clips": clips, "clips_digest": fingerprint(clips)}))
    with pytest.raises(CacheMismatch, match=r"verify .* --frames --repair` first"):
        extract(config)
    assert compare_frames(root).version == 1
    report = upgrade(root)
    assert (report.upgraded, report.shards["differ"]) == (True, 1)
    assert Cache(root).stage("clips").options["version"] == 2
    assert verify(root).ok


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_an_earlier_kinegraph_is_told_to_be_updated(monkeypatch: pytest.MonkeyPatch, old: Old) -> None:
    """Else it would take records for damaged, and advise to remove them."""
    config = old()
    upgrade(config.cache)
    monkeypatch.setattr(Record, "latest_schema_version", 1)
    with pytest.raises(CacheTooNew, match="Update kinegraph"):
        Cache(config.cache).ledger.read("clips", 0)


@pytest.mark.parametrize("made", ["zarr"], indirect=True)
def test_unknown_rules_are_refused(old: Old) -> None:
    root = Path(old().cache)
    manifest = json.loads((root / "cache.json").read_text())
    clips = manifest["clips"] | {"version": 9}
    (root / "cache.json").write_text(json.dumps(manifest | {"clips": clips, "clips_digest": fingerprint(clips)}))
    with pytest.raises(CacheError, match="has `clips` version 9, known are 1 to 2"):
        compare_frames(root)


def test_the_archived_cache_is_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its videos can be made again; the third cannot be read, as before."""
    cache = Cache(shutil.copytree(ARCHIVE, tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for number, label in enumerate(["left", "right"]):
        write_video(Path("videos", label, f"v{number}.mp4"), moving_square(8, 64, 48, seed=number))
    Path("videos/right/words.mp4").write_text("words")
    for key in cache.stage_keys():
        record = cache.ledger.read(key, 0)
        assert record is not None
        sources = {video: source_identity(f"videos/{video}") for video in record.sources}  # another encoder, perhaps
        cache.ledger.unseal(key, 0)
        cache.ledger.seal(record.model_copy(update={"sources": sources}))
    report = upgrade(cache.root)
    assert (report.shards["same"], report.upgraded) == (2, True)
    assert verify(cache.root).ok
    assert Cache(cache.root).stage("regions/tiny").upgraded_from == cache_fingerprint("regions/tiny")


def cache_fingerprint(key: str) -> str:
    return Cache(ARCHIVE).stage(key).fingerprint
