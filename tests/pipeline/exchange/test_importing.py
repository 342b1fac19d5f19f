"""Features made by others become a cache that heads train on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan, why
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import ConfigError, ExchangeError
from kinegraph.pipeline.exchange.imported_rows import matched
from kinegraph.pipeline.exchange.imported_stages import Naming
from kinegraph.pipeline.exchange.importing import import_features
from kinegraph.pipeline.exchange.to_npy import export_npy
from kinegraph.pipeline.exchange.to_store import export_cache
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import train_runs
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.imports.features import FeatureFileError
from kinegraph.stages.tracks.linking import link
from kinegraph.stages.tracks.options import TrackOptions
from tests.caches import rows_of, same_bytes
from tests.foreign import C, boxes, features, write_annotations, write_hdf5, write_npy, write_npz

Load = Callable[..., Config]
KILLED = Path(__file__).parents[2] / "faults" / "command_until_killed.py"
T = 4
VIDEOS = {f"{'ab'[n % 2]}/v{n}": features(n, T, C) for n in range(6)}
LABELS = {
    f"{video}.mp4": f"{'left' if n % 2 else 'right'},{'test' if n > 3 else 'train'}" for n, video in enumerate(VIDEOS)
}
POOLED, REGIONS = "features/imported/last_pooled", "regions/imported/last"


def config_of(cache: Path, run: Path, head: str, **options: str) -> Config:
    """All that a user has to write to train on imported features."""
    train = {"head": head, "options": options, "val_split": None, "epochs": 1, "run": str(run)}
    return check_config({"cache": str(cache), "train": train}, "test")


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    return write_annotations(tmp_path / "labels.csv", LABELS)


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    return write_npy(tmp_path / "npy", VIDEOS)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """A folder a video, a file a frame, 1 to 3 boxes; one frame without any."""
    for number, video in enumerate(VIDEOS):
        for frame in range(T):
            num = (number + frame) % 4 if frame else 2
            path = tmp_path / "npz" / video / f"{frame:03d}.npz"
            write_npz(path, features(10 * number + frame, num, C), boxes(10 * number + frame, num))
    return tmp_path / "npz"


@pytest.mark.parametrize("kind", ["npy", "hdf5"])
def test_a_new_cache_of_annotated_videos(tmp_path: Path, npy: Path, annotations: Path, kind: str) -> None:
    source = npy if kind == "npy" else write_hdf5(tmp_path / "f.h5", VIDEOS)
    found = import_features(source, tmp_path / "cache", annotations=annotations)
    assert (found.kind, found.num_videos, found.failures, found.left_out) == (kind, 6, (), ())
    assert verify(found.cache.root).ok
    clips = CachedClips(found.cache, [POOLED])
    assert clips.video_ids == sorted(LABELS)
    assert [found.cache.classes[label] for label in clips.labels.tolist()] == [
        LABELS[video].partition(",")[0] for video in sorted(LABELS)
    ]
    batch = clips.batch(range(6))[POOLED].numpy()
    np.testing.assert_array_equal(batch, np.stack([VIDEOS[video.removesuffix(".mp4")] for video in clips.video_ids]))
    options = found.cache.stage("features/imported").options
    assert (options["provenance"], options["format"]) == ("unknown", kind)
    record = found.cache.ledger.read("features/imported", 0)
    assert record is not None
    assert sorted(record.sources) == sorted(LABELS)
    assert "torch" not in record.versions
    for head in ("avg_pool", "lstm"):
        (run,) = train_runs(config_of(tmp_path / "cache", tmp_path / head, head))
        assert (run.results.num_train_clips, evaluate_run(run.folder).result.num_videos) == (4, 2)


def test_regions_train_the_heads_that_read_them(tmp_path: Path, npz: Path, annotations: Path) -> None:
    found = import_features(npz, tmp_path / "cache", annotations=annotations)
    assert found.kind == "bottom_up_frames"
    assert {spec.name: spec.shape for stage in found.stages for spec in stage.arrays} == {
        POOLED: (T, C), REGIONS: (T, 3, C),
        "proposals/boxes": (T, 3, 4), "proposals/scores": (T, 3), "proposals/count": (T,),
    }  # fmt: skip
    checked = verify(found.cache.root)
    assert (checked.ok, checked.warnings) == (True, ())
    row, number = found.cache.clips.column("video_id").index("a/v2.mp4"), 2
    for frame in range(T):
        num = int(rows_of(found.cache.root, "proposals/count")[row, frame])
        assert num == ((number + frame) % 4 if frame else 2)
        for array, values in ((REGIONS, features(20 + frame, num, C)), ("proposals/boxes", boxes(20 + frame, num))):
            stored = rows_of(found.cache.root, array)[row, frame]
            np.testing.assert_array_equal(stored[:num], values)
            assert not stored[num:].any()
    for head in ("strg", "proposal_pool"):
        (run,) = train_runs(config_of(tmp_path / "cache", tmp_path / head, head))
        assert (run.results.num_train_clips, evaluate_run(run.folder).result.num_videos) == (4, 2)
    for group in ("features/imported", "proposals", "regions/imported"):
        with xarray.open_zarr(tmp_path / "cache" / "data.zarr", group=group, consolidated=False) as opened:
            assert opened.sizes["row"] == 6
    copy = export_cache(found.cache, tmp_path / "copy", kind="hdf5")
    assert (copy.num_copied, verify(copy.cache.root).ok) == (3, True)


def test_imported_boxes_become_tracks_of_a_head(tmp_path: Path, npz: Path, annotations: Path) -> None:
    """Nothing of a video is known: rows are made from imported rows alone. What was imported is not planned."""
    cache = import_features(npz, tmp_path / "cache", annotations=annotations).cache
    config = config_of(tmp_path / "cache", tmp_path / "run", "proposal_pool", over="tracks")
    with pytest.raises(HeadError, match=r"Missing tracks/id\. The config needs a section `tracks:`; then run"):
        train_runs(config)
    config = config.model_copy(update={"tracks": TrackOptions(min_iou=0.1)})
    with pytest.raises(HeadError, match=r"not extracted yet: .* lacks tracks/id"):
        train_runs(config)
    assert make_plan(config, cache).keys == ("tracks",)
    assert why(config, cache) == {"clips": None, "tracks": None}
    assert not extract(config).failures
    assert (verify(cache.root).ok, make_plan(config, cache).units) == (True, ())
    boxes_of, scores, counts = (rows_of(cache.root, f"proposals/{part}") for part in ("boxes", "scores", "count"))
    ids, num_tracks = rows_of(cache.root, "tracks/id"), rows_of(cache.root, "tracks/count")
    for row in range(6):
        expected, num = link(boxes_of[row], scores[row], counts[row], 0.1)
        assert (ids[row].tolist(), num_tracks[row]) == (expected.tolist(), num)
    (run,) = train_runs(config)
    assert run.results.num_train_clips == 4


def test_boxes_that_were_imported_into_indexed_rows_become_tracks(
    tmp_path: Path, load: Load, video_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No video is decoded; a video without boxes fails as in the import; unsealed boxes are never read."""
    for video in [*video_folder.rglob("*.mp4")][1:]:
        name = video.relative_to(video_folder).with_suffix("").as_posix()
        for frame in range(T):
            write_npz(tmp_path / "npz" / name / f"{frame}.npz", features(frame, 2, C), boxes(0, 2))
    none = ("backbones={}", "proposals=null", "regions=null")
    cache = index(load(*none, "store.shard_clips=auto")).cache
    config = load(*none, "tracks={}", "store.shard_clips=auto")
    with pytest.raises(ConfigError, match="tracks: need a `proposals:` section, or imported proposals in the cache"):
        extract(config)
    import_features(tmp_path / "npz", cache.root)
    monkeypatch.setattr("kinegraph.pipeline.extraction.feed.decode_clips", None)
    index(config)
    cache.ledger.unseal("proposals", 0)
    with pytest.raises(CacheMismatch, match=r"imported proposals of shard 0 \(1 shard in all\) are not sealed"):
        extract(config)
    assert make_plan(config, cache, stages=("clips",)).units, "clips read no boxes"
    import_features(tmp_path / "npz", cache.root)
    assert [failure.reason for failure in extract(config).failures] == ["missing"]
    assert verify(cache.root).ok
    assert sorted(rows_of(cache.root, "tracks/count").tolist()) == [-1, 2, 2, 2, 2, 2]
    assert not cache.has_stage("clips")


def test_rows_that_come_later_find_the_same_stages(tmp_path: Path, npz: Path, annotations: Path) -> None:
    """Also where videos without a row have more regions than all others."""
    first = write_annotations(tmp_path / "first.csv", {"a/v0.mp4": LABELS["a/v0.mp4"]})
    path = next((npz / "b" / "v5").glob("*.npz"))
    write_npz(path, features(0, 9, C), boxes(0, 9))
    assert len(import_features(npz, tmp_path / "cache", annotations=first).left_out) == 5
    grown = import_features(npz, tmp_path / "cache", annotations=annotations)
    assert (grown.num_videos, grown.failures) == (6, ())
    assert verify(grown.cache.root).ok
    assert rows_of(grown.cache.root, "proposals/count").max() == 9


def test_what_was_exported_is_imported(whole: Cache, tmp_path: Path) -> None:
    export_npy(whole, str(tmp_path / "npy"), ["features/tiny/res4", "features/tiny/res4_pooled"])
    naming = Naming(name="back", tap="res4")
    import_features(tmp_path / "npy" / "features/tiny/res4", whole.root, naming=naming)
    for array in ("res4", "res4_pooled"):
        made, back = (rows_of(whole.root, f"features/{name}/{array}") for name in ("tiny", "back"))
        np.testing.assert_allclose(back, made, atol=1e-2)  # the mean is one of rounded maps now
    np.testing.assert_array_equal(rows_of(whole.root, "features/back/res4"), rows_of(whole.root, "features/tiny/res4"))


def test_maps_bring_their_means(tmp_path: Path) -> None:
    maps = {name: features(n, T, C, 2, 3).astype(np.float16) for n, name in enumerate("abc")}
    found = import_features(
        write_npy(tmp_path / "npy", maps), tmp_path / "cache", naming=Naming(name="x3d", tap="res5")
    )
    stored = rows_of(found.cache.root, "features/x3d/res5")
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, np.stack([*maps.values()]))
    means = stored.astype(np.float32).mean((3, 4))
    np.testing.assert_allclose(rows_of(found.cache.root, "features/x3d/res5_pooled"), means, atol=1e-6)


def test_into_an_indexed_cache(load: Load, video_folder: Path, tmp_path: Path) -> None:
    """Names without endings; what has no features fails, what has no row is left out, all else stays as it was."""
    config = load()
    index(config)
    extract(config, stages=["proposals"], part=(0, 2))
    before = same_bytes(config.cache)
    videos = [path.relative_to(video_folder).with_suffix("").as_posix() for path in sorted(video_folder.rglob("*.mp4"))]
    given = {video: features(n, T, C) for n, video in enumerate(videos[1:])} | {"left/other": features(9, T, C)}
    given[videos[2]][0, 0] = np.nan
    found = import_features(write_npy(tmp_path / "npy", given), config.cache)
    assert (found.num_videos, found.left_out) == (5, ("left/other",))
    assert [(f.clip_id, f.reason) for f in found.failures] == [
        (f"{videos[0]}.mp4:0:center", "missing"), (f"{videos[2]}.mp4:0:center", "non_finite"),
    ]  # fmt: skip
    assert f"{videos[2]}.npy: pooled are not finite" in found.failures[1].detail
    assert before.items() <= same_bytes(config.cache).items()
    assert verify(config.cache).ok
    assert np.isnan(rows_of(config.cache, POOLED)[[0, 2]]).all()
    clips = CachedClips(config.cache, [POOLED])
    assert clips.video_ids == [f"{video}.mp4" for video in (videos[1], *videos[3:])]
    np.testing.assert_array_equal(clips[0][POOLED], given[videos[1]])
    assert not extract(config).failures, "further stages are no concern of the import"
    (run,) = train_runs(config_of(Path(config.cache), tmp_path / "run", "avg_pool", backbone="imported"))
    assert run.results.num_train_clips == 4


def test_what_is_sealed_stays_and_other_files_are_refused(tmp_path: Path, npy: Path, annotations: Path) -> None:
    cache = tmp_path / "cache"
    import_features(npy, cache, annotations=annotations)
    before = {path: path.stat().st_mtime_ns for path in (cache / "ledger").rglob("*.json")}
    import_features(npy, cache, annotations=annotations)
    import_features(npy, cache)
    assert {path: path.stat().st_mtime_ns for path in (cache / "ledger").rglob("*.json")} == before
    write_npy(npy, {"a/v0": features(77, T, C)})
    with pytest.raises(CacheMismatch, match="files_xxh3_128"):
        import_features(npy, cache)
    import_features(npy, cache, naming=Naming(name="second"))
    assert Cache(cache).stage_keys() == ["features/imported", "features/second"]
    assert Cache(cache).classes == ["left", "right"]


def test_labels_may_come_and_change_later(tmp_path: Path, npy: Path) -> None:
    cache = tmp_path / "cache"
    assert import_features(npy, cache).cache.classes == []
    with pytest.raises(ConfigError, match=r"no labels to train on: .* `kinegraph import ... --annotations CSV`"):
        train_runs(config_of(cache, tmp_path / "run", "avg_pool"))
    before = same_bytes(cache)
    more = LABELS | {"a/v9.mp4": "up,train"}
    found = import_features(npy, cache, annotations=write_annotations(tmp_path / "more.csv", more))
    assert found.cache.classes == ["left", "right", "up"]
    assert found.cache.clips.column("video_id") == [*sorted(VIDEOS), "a/v9.mp4"]
    assert [(f.clip_id, f.reason) for f in found.failures] == [("a/v9.mp4:0:full", "missing")]
    assert {name for name, value in same_bytes(cache).items() if before.get(name) != value} >= {"clips.parquet"}
    with xarray.open_zarr(cache / "data.zarr", group="features/imported", consolidated=False) as opened:
        assert opened.label.values.tolist() == [found.cache.classes[row.labels[0]] for row in found.cache.clips.rows()]
    assert verify(cache).ok
    (run,) = train_runs(config_of(cache, tmp_path / "run", "avg_pool"))
    assert run.results.num_train_clips == 4
    fewer = write_annotations(tmp_path / "fewer.csv", dict([*LABELS.items()][:3]))
    with pytest.raises(ExchangeError, match=r"fewer.csv has no line for a/v4 \(4 videos\); rows are never removed"):
        import_features(npy, cache, annotations=fewer)


def test_killed_again_and_again_it_goes_on(tmp_path: Path, npz: Path, annotations: Path) -> None:
    cache = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for moment in (4, 153):  # classes.json written but not the rows; one of three records sealed
        command = [sys.executable, str(KILLED), str(moment), "import", str(npz), "--into", str(cache)]
        died = subprocess.run([*command, "--annotations", str(annotations)], check=False, timeout=120, env=environment)
        assert died.returncode == -signal.SIGKILL
    sealed = {path: path.stat().st_mtime_ns for path in (cache / "ledger").rglob("*.json")}
    assert [path.parent.parent.name for path in sealed] == ["features"]
    import_features(npz, cache, annotations=annotations)
    assert all(path.stat().st_mtime_ns == time for path, time in sealed.items()), "a sealed shard was written again"
    assert same_bytes(cache) == same_bytes(import_features(npz, tmp_path / "whole", annotations=annotations).cache.root)
    assert not [*cache.rglob(".tmp-*"), *cache.rglob("leases/*")]


def test_frames_may_be_chosen(tmp_path: Path) -> None:
    videos = {"long": features(0, 8, C), "short": features(1, 2, C), "one": features(2, C)}
    npy = write_npy(tmp_path / "npy", videos)
    with pytest.raises(FeatureFileError, match="--frames T"):
        import_features(npy, tmp_path / "cache")
    assert not (tmp_path / "cache").exists(), "nothing is written before all is known to fit"
    found = import_features(npy, tmp_path / "cache", num_frames=4)
    expected = [videos["long"][[1, 3, 5, 7]], np.stack([videos["one"]] * 4), videos["short"][[0, 1, 1, 1]]]
    np.testing.assert_array_equal(rows_of(found.cache.root, POOLED), np.stack(expected))
    assert found.cache.stage("features/imported").options["frames"] == 4


def test_numbers_too_large_are_not_finite(tmp_path: Path) -> None:
    videos = {"fine": np.ones((T, C)), "large": np.full((T, C), 1e300)}
    found = import_features(write_npy(tmp_path / "npy", videos), tmp_path / "cache")
    assert [(f.clip_id, f.reason) for f in found.failures] == [("large:0:full", "non_finite")]


def test_a_cache_with_several_rows_a_video_or_labels_of_its_own(load: Load, tmp_path: Path, annotations: Path) -> None:
    npy = write_npy(tmp_path / "npy", {"right/v0": features(0, T, C)})
    one, two = load(name="one"), load("clips.per_video=2", name="two")
    index(one)
    index(two)
    with pytest.raises(ExchangeError, match=r"has 2 rows of left/v1.mp4 \(clips and crops\)"):
        import_features(npy, two.cache)
    with pytest.raises(ExchangeError, match="has the labels that `kinegraph index` gave it"):
        import_features(npy, one.cache, annotations=annotations)


def test_what_fits_nothing_is_said(load: Load, tmp_path: Path, npy: Path, npz: Path) -> None:
    config = load()
    index(config)
    extract(config, stages=["proposals"])
    with pytest.raises(ExchangeError, match=r"no video has features: .*npy has those of a/v0, ...; .* of left/v1.mp4"):
        import_features(npy, config.cache)
    given = write_npz(tmp_path / "own" / "left" / "v1.npz", features(0, 2, C), boxes(0, 2)).parents[1]
    with pytest.raises(CacheMismatch, match="holds 'proposals' made with other options"):
        import_features(given, config.cache, kind="bottom_up")
    assert Cache(config.cache).stage_keys() == ["clips", "proposals"]
    with pytest.raises(ExchangeError, match="--tap res5_pooled"):
        Naming(tap="res5_pooled")
    with pytest.raises(ExchangeError, match="--annotations: no file"):
        import_features(npz, tmp_path / "new", annotations=tmp_path / "none.csv")
    new = import_features(npy, tmp_path / "new").cache
    with pytest.raises(CacheMismatch, match="holds 'clips' made with other options"):
        make_plan(config.model_copy(update={"cache": new.root}), new)


@pytest.mark.parametrize(
    ("videos", "names", "expected"),
    [
        (["a/v.mp4"], ["a/v"], {"a/v.mp4": "a/v"}),
        (["a/v.mp4"], ["a/v.avi"], {"a/v.mp4": "a/v.avi"}),
        (["a/v.mp4", "a/v.avi"], ["a/v.mp4", "a/v.avi"], {"a/v.mp4": "a/v.mp4", "a/v.avi": "a/v.avi"}),
        (["a/v.mp4"], ["a/v.mp4", "a/v"], {"a/v.mp4": "a/v.mp4"}),
        (["v.part1", "v.part2"], ["v", "v.part2"], {"v.part2": "v.part2"}),
    ],
)
def test_videos_are_known_by_id_or_without_ending(
    videos: list[str], names: list[str], expected: dict[str, str]
) -> None:
    assert matched(videos, names) == expected


@pytest.mark.parametrize(("videos", "names"), [(["v.mp4", "v.avi"], ["v"]), (["v.mp4"], ["v", "v.avi"])])
def test_endings_that_alone_tell_videos_apart_are_refused(videos: list[str], names: list[str]) -> None:
    with pytest.raises(ExchangeError, match="differ in endings alone"):
        matched(videos, names)
