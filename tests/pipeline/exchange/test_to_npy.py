"""One .npy per array and video holds what the cache holds."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.exchange.to_npy import export_npy, file_name
from kinegraph.pipeline.exchange.to_store import export_cache
from kinegraph.pipeline.extraction.run import extract

Load = Callable[..., Config]
MAPS, COUNT = "features/tiny/res4", "proposals/count"
TWO_CLIPS = ("clips.per_video=2", "store.shard_clips=3")  # so that videos span two shards


def clips_of(out: Path) -> list[dict[str, str]]:
    with (out / "clips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def cache(load: Load, video_folder: Path) -> Cache:
    """Two clips of each of seven videos, one of which cannot be opened."""
    (video_folder / "left" / "words.mp4").write_text("words")
    config = load(*TWO_CLIPS)
    index(config)
    assert len(extract(config).failures) == 2
    return Cache(config.cache)


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_files_hold_what_the_reader_gives(cache: Cache, tmp_path: Path, kind: str) -> None:
    source = export_cache(cache, tmp_path / "source", kind=kind).cache
    out = tmp_path / "npy"
    found = export_npy(source, str(out))
    names = list(source.arrays())
    assert (found.num_files, found.num_failed, found.unsealed, found.damaged) == (7 * len(names), 2, {}, [])
    listed = clips_of(out)
    assert [entry["clip_id"] for entry in listed] == source.clips.column("clip_id")
    clips = CachedClips(source, names)
    for position, row in enumerate(clips.rows):
        entry = listed[row]
        assert (entry["failed"], entry["labels"]) == ("", entry["video_id"].partition("/")[0])
        for name in names:
            stacked = np.load(out / name / entry["file"], allow_pickle=False)
            expected = clips[position][name].numpy()
            assert (stacked.shape, stacked.dtype) == ((2, *expected.shape), expected.dtype)
            np.testing.assert_array_equal(stacked[int(entry["index"])], expected)
    failed = [entry for entry in listed if entry["failed"]]
    assert [entry["video_id"] for entry in failed] == ["left/words.mp4"] * 2
    assert failed[0]["failed"].split("; ")[1] == "features/tiny: unreadable"
    assert np.isnan(np.load(out / MAPS / "left" / "words.mp4.npy")).all()
    assert (np.load(out / COUNT / "left" / "words.mp4.npy") == -1).all()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["stages"]["regions/tiny"]["fingerprint"] == source.stage("regions/tiny").fingerprint
    assert manifest["arrays"][COUNT]["dtype"] == "int16"


def test_what_is_not_sealed_is_left_out_and_named(load: Load, tmp_path: Path) -> None:
    config = load(*TWO_CLIPS)
    index(config)
    extract(config, stages=["proposals"], part=(1, 2))  # shards 1 and 3 of 0..3: of rows 3, 4, 5 and 9, 10, 11
    out = tmp_path / "npy"
    found = export_npy(Cache(config.cache), str(out), [COUNT])
    videos = sorted({str(video) for video in Cache(config.cache).clips.column("video_id")})
    assert [path.relative_to(out / COUNT).as_posix() for path in sorted(out.rglob("*.npy"))] == [
        f"{videos[2]}.npy", f"{videos[5]}.npy",
    ]  # fmt: skip
    assert found.unsealed == {"proposals": [videos[0], videos[1], videos[3], videos[4]]}
    assert json.loads((out / "manifest.json").read_text())["not_sealed"] == found.unsealed
    extract(config, stages=["proposals"])
    assert export_npy(Cache(config.cache), str(out), [COUNT]).num_files == 6, "the same export, on a cache that grew"


def test_a_damaged_shard_is_named_and_its_videos_are_left_out(cache: Cache, tmp_path: Path) -> None:
    path = Path(cache.root) / "data.zarr" / MAPS / "c.1.0.0.0.0"  # rows 3, 4, 5: of the second and third video
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    found = export_npy(cache, str(tmp_path / "npy"), [MAPS, COUNT])
    assert ["c.1.0.0.0.0 is damaged (checksum" in sentence for sentence in found.damaged] == [True]
    assert (found.num_files, len(list((tmp_path / "npy" / MAPS).rglob("*.npy")))) == (12, 5)
    pooled = export_npy(cache, str(tmp_path / "pooled"), [f"{MAPS}_pooled"])
    assert (pooled.num_files, pooled.damaged) == (7, []), "objects that are not asked for are not read"


def test_other_files_are_not_written_among(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "npy").mkdir()
    (tmp_path / "npy" / "mine.txt").touch()
    with pytest.raises(ExchangeError, match="neither empty nor such an export"):
        export_npy(cache, str(tmp_path / "npy"), [COUNT])
    export_npy(cache, str(tmp_path / "out"), [COUNT])
    with pytest.raises(ExchangeError, match="other features or arrays"):
        export_npy(cache, str(tmp_path / "out"), [MAPS])
    for content in ("", "{", "[]", "null", "[" * 100_000):
        (tmp_path / "out" / "manifest.json").write_text(content)
        with pytest.raises(CacheError, match=r"manifest\.json is damaged: .*\. Remove the file and"):
            export_npy(cache, str(tmp_path / "out"), [COUNT])
    with pytest.raises(ExchangeError, match=r"--array proposals/cuont: .* has clips/frame_times, "):
        export_npy(cache, str(tmp_path / "other"), ["proposals/cuont"])


@pytest.mark.parametrize(
    ("video_id", "expected"),
    [
        ("a/b.mp4", "a/b.mp4.npy"),
        ("a/b.avi", "a/b.avi.npy"),
        ("/data/b.mp4", "%/data/b.mp4.npy"),
        ("../b.mp4", "%2E%2E/b.mp4.npy"),
        ("%2E%2E/b.mp4", "%252E%252E/b.mp4.npy"),
    ],
)
def test_file_names_stay_below_their_folder_and_differ(video_id: str, expected: str) -> None:
    assert file_name(video_id) == expected


def test_frame_times_of_both_clips(cache: Cache, tmp_path: Path) -> None:
    """Clips of a video are told apart by their place, in row order."""
    export_npy(cache, str(tmp_path / "npy"), ["clips/frame_times"])
    for entry in clips_of(tmp_path / "npy"):
        times: Any = np.load(tmp_path / "npy" / "clips/frame_times" / entry["file"])[int(entry["index"])]
        row = next(row for row in cache.clips.rows() if row.clip_id == entry["clip_id"])
        if not entry["failed"]:
            np.testing.assert_allclose(times, row.target_times, atol=0.13)  # one frame of 8 a second
