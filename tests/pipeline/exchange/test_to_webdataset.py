"""Tar files with a sample per clip, read by the package webdataset and by tarfile alone."""

import csv
import errno
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheNotWritable
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.exchange.to_webdataset import export_webdataset, key_of

POOLED, MEMBER = "features/tiny/res4_pooled", "features.tiny.res4_pooled.npy"


@pytest.fixture(scope="module")
def exported(windows_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 windows of `long` in train, 3 of `mid` in test, and one of `words` that failed."""
    out = tmp_path_factory.mktemp("tars") / "out"
    found = export_webdataset(Cache(windows_config.cache), str(out), [POOLED], tar_clips=8)
    assert (found.num_clips, found.num_tars, found.damaged) == (20, 4, [])
    assert found.left_out == {"words.mp4:0:center": "features/tiny: unreadable"}
    return out


def content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_tarfile_reads_it(exported: Path, windows_cache: Cache) -> None:
    assert [*content(exported)] == [
        "clips.csv", "manifest.json", "test-000000.tar", "train-000000.tar", "train-000001.tar", "train-000002.tar",
    ]  # fmt: skip
    values, facts, sizes = {}, {}, {}
    for path in sorted(exported.glob("*.tar")):
        assert path.stat().st_size % tarfile.RECORDSIZE == 0
        with tarfile.open(path, "r:") as archive:
            members = archive.getmembers()
            assert {(member.mtime, member.uid, member.gid, member.mode) for member in members} == {(0, 0, 0, 0o644)}
            sizes[path.stem] = len(members) // 2
            for member in members:
                key, _, rest = member.name.partition(".")
                file = archive.extractfile(member)
                assert file is not None
                if rest == "json":
                    facts[key] = json.load(file)
                else:
                    assert rest == MEMBER
                    path = exported.parent / "member.npy"
                    path.write_bytes(file.read())
                    values[key] = np.load(path, allow_pickle=False)
    assert sizes == {"test-000000": 3, "train-000000": 8, "train-000001": 8, "train-000002": 1}
    clips = CachedClips(windows_cache, [POOLED])
    ids = windows_cache.clips.column("clip_id")
    assert len(clips) == len(values) == 20
    for position, row in enumerate(clips.rows):
        key = key_of(ids[row])
        np.testing.assert_array_equal(values[key], clips[position][POOLED].numpy())
        assert facts[key]["clip_id"] == ids[row]
    first = facts["long%2Emp4:1:center"]
    assert (first["split"], first["labels"], first["label_ids"]) == ("train", ["left", "right"], [0, 1])
    assert (first["start_seconds"], len(first["times"])) == (0.25, 8)
    with (exported / "clips.csv").open(newline="") as text:
        listed = {entry["clip_id"]: entry for entry in csv.DictReader(text)}
    assert listed["long.mp4:16:center"]["tar"] == "train-000002.tar"
    assert (listed["words.mp4:0:center"]["key"], listed["words.mp4:0:center"]["left_out"]) == (
        "", "features/tiny: unreadable",
    )  # fmt: skip
    manifest = json.loads((exported / "manifest.json").read_text())
    assert (manifest["complete"], manifest["members"]) == (True, {POOLED: MEMBER})


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_it(exported: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is part of the extra `dev`")
    files = [str(path) for path in sorted(exported.glob("train-*.tar"))]
    samples = list(webdataset.WebDataset(files, shardshuffle=False).decode())
    assert [sample["json"]["clip_id"] for sample in samples] == [f"long.mp4:{clip}:center" for clip in range(17)]
    assert {sample[MEMBER].dtype.name for sample in samples} == {"float32"}
    assert {sample[MEMBER].shape for sample in samples} == {samples[0][MEMBER].shape}


def test_a_second_call_writes_equal_bytes_and_no_old_tar_stays(windows_cache: Cache, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_webdataset(windows_cache, str(out), tar_clips=8)
    before = content(out)
    (out / "val-000000.tar").write_bytes(b"of an earlier split")
    export_webdataset(windows_cache, str(out), tar_clips=8)
    assert content(out) == before
    with pytest.raises(ExchangeError, match="holds an export of other features or arrays"):
        export_webdataset(windows_cache, str(out), tar_clips=9)


def test_what_is_not_sealed_or_damaged_is_left_out(windows_cache: Cache, tmp_path: Path) -> None:
    part = Cache(shutil.copytree(windows_cache.root, tmp_path / "part"))
    part.ledger.unseal("features/tiny", 0)
    (Path(part.root) / "data.zarr/features/tiny/res4_pooled/c.1.0.0").write_bytes(b"damaged")
    found = export_webdataset(part, str(tmp_path / "out"))
    reasons = [found.left_out.get(str(clip_id)) for clip_id in part.clips.column("clip_id")]
    assert reasons[:14] == ["not sealed yet"] * 7 + ["damaged"] * 7
    assert (found.num_clips, len(found.damaged)) == (21 - len(found.left_out), 1)


def test_a_full_disk_leaves_nothing_that_looks_finished(
    windows_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, fsync = 0, os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # of the second tar: each file and its folder are synced, and the manifest comes first
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    with pytest.raises(CacheNotWritable):
        export_webdataset(windows_cache, str(out), tar_clips=8)
    assert [*content(out)] == ["manifest.json", "train-000000.tar"]
    assert json.loads((out / "manifest.json").read_text())["complete"] is False
    export_webdataset(windows_cache, str(out), tar_clips=8)
    assert json.loads((out / "manifest.json").read_text())["complete"] is True


@pytest.mark.parametrize(
    ("clip_id", "key"),
    [
        ("push/1.mp4@2-5.5:0:full", "push%2F1%2Emp4@2-5%2E5:0:full"),
        ("../a:0:full", "%2E%2E%2Fa:0:full"),
        ("ä\n:0:full", "%C3%A4%0A:0:full"),
    ],
)
def test_keys(clip_id: str, key: str) -> None:
    assert key_of(clip_id) == key


def test_long_keys_differ() -> None:
    keys = {key_of(f"{'a' * 300}{end}:0:full") for end in "xy"}
    assert len(keys) == 2
    assert max(map(len, keys)) <= 120
