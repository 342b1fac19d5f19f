"""However the work is cut up, the cache ends with the same bytes."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheMismatch, CacheNotFound
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan, parse_part, why
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.decode.clips import decode_clips
from tests.caches import rows_of, same_bytes
from tests.conftest import moving_square, write_video

Load = Callable[..., Config]
Complete = Callable[..., Cache]
STAGES = ["features", "proposals", "regions", "features/tiny", "regions/tiny", "clips"]


def data(cache: Cache, array: str = "") -> dict[str, Any]:
    """The objects of the cache, or those of one array."""
    return {name: value for name, value in same_bytes(cache.root).items() if name.startswith(f"data.zarr/{array}")}


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_stages_and_parts(load: Load, whole: Cache, seed: int) -> None:
    """Random stages on random parts of the shards; at last everything that is left."""
    draw = random.Random(seed)
    config = load()
    cache = index(config).cache
    for _ in range(4):
        stages = draw.sample(STAGES, draw.choice([1, 1, 2]))
        part, limit = draw.choice([(0, 1), (0, 2), (1, 2), (2, 3)]), draw.choice([None, None, 3])
        planned = make_plan(config, cache, stages=stages, part=part, limit=limit)
        outcome = extract(config, stages=stages, part=part, limit=limit)
        assert outcome.plan.units == planned.units
        assert not make_plan(config, cache, stages=stages, part=part, limit=limit).units
    extract(config)
    assert same_bytes(cache.root) == same_bytes(whole.root)


def test_parts_and_limits(load: Load) -> None:
    config = load()
    cache = index(config).cache
    assert [unit.shard for unit in make_plan(config, cache, part=(1, 2)).units] == [1]
    assert [unit.shard for unit in make_plan(config, cache, limit=3).units] == [0, 1]
    assert make_plan(config, cache, part=(3, 4)).units == ()
    assert parse_part("2/3") == (2, 3)
    for text in ("3/3", "a/b", "1", "-1/2", "1/0"):
        with pytest.raises(ConfigError, match="expected I/N with 0 <= I < N"):
            parse_part(text)
    with pytest.raises(ConfigError, match=r"--stage graphs: the config has clips, features/tiny, proposals, regions"):
        make_plan(config, cache, stages=["graphs"])


def test_what_a_stage_needs_comes_along(load: Load) -> None:
    config = load()
    cache = index(config).cache
    assert make_plan(config, cache, stages=["proposals"]).keys == ("clips", "proposals")
    assert make_plan(config, cache, stages=["regions"]).keys == ("clips", "proposals", "regions/tiny")
    assert make_plan(config, cache).keys == ("clips", "features/tiny", "proposals", "regions/tiny")


@pytest.mark.parametrize("store", ["[maps, pooled]", "[pooled]"])
@pytest.mark.parametrize("stages", [["features"], ["proposals"], ["features", "proposals"]])
def test_bad_videos_leave_the_same_traces_in_any_order(
    load: Load, complete: Complete, video_folder: Path, store: str, stages: list[str]
) -> None:
    """A video that fails and one with a warning: status arrays and ledger tell the same, decoded or read from maps."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 80, 96, 3), dtype=np.uint8)
    damaged = write_video(video_folder / "left" / "v1.mp4", noise, options={"movflags": "faststart"})
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    damaged.write_bytes(content)
    (video_folder / "left" / "v3.mp4").write_text("words")
    for name in ("v1", "v3"):
        os.utime(video_folder / "left" / f"{name}.mp4", (0, 0))  # so that `complete` knows them again
    together, apart = (load(f"backbones.tiny.store={store}", name=name) for name in ("together", "apart"))
    complete(together)
    complete(apart, stages=stages)
    extract(apart)
    assert same_bytes(Path(apart.cache)) == same_bytes(Path(together.cache))
    record = Cache(apart.cache).ledger.read("regions/tiny", 0)
    assert record is not None
    assert [(failure.clip_id, failure.reason) for failure in record.failures] == [
        ("left/v3.mp4:0:center", "unreadable")
    ]
    assert [warned.clip_id for warned in record.warnings] == ["left/v1.mp4:0:center"]
    assert set(record.sources) == {"left/v1.mp4", "left/v3.mp4"}


def test_regions_do_not_depend_on_stored_maps(load: Load, whole: Cache) -> None:
    overrides = ["backbones.tiny.store=[pooled]"]
    config = load(*overrides)
    cache = index(config).cache
    extract(config, stages=["features", "proposals"])
    extract(config, stages=["regions"])
    assert data(cache, "regions") == data(whole, "regions")
    assert not data(cache, "features/tiny/res4/")
    assert data(cache, "features/tiny/res4_pooled") == data(whole, "features/tiny/res4_pooled")


def test_one_pass_for_all_stages_or_none(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each video is decoded once for stages that run together, and not at all for regions from stored maps."""
    opened: list[str] = []

    def counted(path: str, *arguments: Any) -> Any:
        opened.append(Path(path).name)
        return decode_clips(path, *arguments)

    monkeypatch.setattr("kinegraph.pipeline.extraction.feed.decode_clips", counted)
    config = load("clips.per_video=2", "store.shard_clips=4")
    index(config)
    extract(config, stages=["features", "proposals"])
    assert sorted(opened) == [f"v{number}.mp4" for number in range(6)]
    extract(config)
    assert len(opened) == 6


def test_a_new_backbone_is_work_and_leaves_the_old_alone(
    load: Load, complete: Complete, inline_document: dict[str, Any]
) -> None:
    cache = complete(load())
    before = data(cache)
    entry = inline_document["backbones"]["tiny"]
    inline_document["backbones"]["second"] = entry | {"taps": ["res3"], "store": ["pooled"]}
    outcome = extract(load())
    assert {key for unit in outcome.plan.units for key in unit.keys} == {"features/second"}
    after = data(cache)
    assert {name for name in before if before[name] != after[name]} == set()
    assert rows_of(cache.root, "features/second/res3_pooled")[[0, 5]].shape == (2, 4, 64)


def test_failed_clips_do_not_touch_their_neighbours(load: Load, whole: Cache, video_folder: Path) -> None:
    """v3 shares shard 0 and the batch with v1: batches have the same layout, its slot is empty."""
    (video_folder / "left" / "v3.mp4").write_text("no video")
    config = load()
    cache = index(config).cache
    (failure,) = extract(config).failures
    assert (failure.clip_id, failure.reason) == ("left/v3.mp4:0:center", "unreadable")
    others = [0, 2, 3, 4, 5]
    for array in ("features/tiny/res4", "features/tiny/res4_pooled", "proposals/boxes", "regions/tiny/res4"):
        mended, broken = (rows_of(root, array)[others] for root in (whole.root, cache.root))
        assert mended.tobytes() == broken.tobytes(), array
        assert np.isnan(rows_of(cache.root, array)[[1]]).all()


def test_a_failure_stays_with_the_stages_that_read_it(
    load: Load, inline_document: dict[str, Any], video_folder: Path
) -> None:
    """A backbone added after the video was repaired has its clip; regions that read failed features do not."""
    video, config = video_folder / "left" / "v3.mp4", load()
    cache = index(config).cache
    content = video.read_bytes()
    video.write_bytes(b"")
    extract(config, stages=["features", "proposals"])
    video.write_bytes(content)
    inline_document["backbones"]["second"] = inline_document["backbones"]["tiny"] | {"taps": ["res3"]}
    (failure,) = extract(load(), stages=["features/second", "regions/tiny"]).failures
    assert (failure.clip_id, failure.reason) == ("left/v3.mp4:0:center", "unreadable")
    (upstream,) = cache.ledger.read("regions/tiny", 0).failures
    assert (upstream.reason, upstream.detail) == ("upstream", "failed in features/tiny")
    assert cache.ledger.read("features/second", 0).failures == []
    assert np.isfinite(rows_of(cache.root, "features/second/res3_pooled")[[1]]).all()
    assert np.isnan(rows_of(cache.root, "regions/tiny/res4")[[1]]).all()


def test_every_reason_in_one_run(load: Load, video_folder: Path) -> None:
    bad = video_folder / "bad"
    frames = moving_square(40, 96, 80)
    noise = np.random.default_rng(0).integers(0, 255, frames.shape, dtype=np.uint8)
    write_video(bad / "sound.mp4", frames, audio_only=True)
    write_video(bad / "one.mp4", frames[:1])
    write_video(bad / "cut.mp4", noise, options={"movflags": "faststart"})
    content = (bad / "cut.mp4").read_bytes()
    (bad / "cut.mp4").write_bytes(content[: len(content) // 2])
    (bad / "text.mp4").write_text("words")
    (bad / "empty.mp4").touch()
    write_video(bad / "gone.mp4", frames)
    config = load("clips.per_video=2", "clips.sampling=dense", "clips.fps=8")
    cache = index(config).cache
    (bad / "gone.mp4").unlink()
    found = {failure.clip_id: failure.reason for failure in extract(config).failures}
    assert found == {
        **{f"bad/sound.mp4:{clip}:center": "no_video_stream" for clip in (0, 1)},
        **{f"bad/one.mp4:{clip}:center": "too_short" for clip in (0, 1)},
        **{f"bad/text.mp4:{clip}:center": "unreadable" for clip in (0, 1)},
        **{f"bad/empty.mp4:{clip}:center": "unreadable" for clip in (0, 1)},
        **{f"bad/gone.mp4:{clip}:center": "missing" for clip in (0, 1)},
        "bad/cut.mp4:1:center": "truncated",
    }
    group = zarr.open_group(Path(cache.root) / "data.zarr", mode="r")
    ids = cache.clips.column("clip_id")
    expected = [2 if clip_id in found else 3 if clip_id == "bad/cut.mp4:0:center" else 1 for clip_id in ids]
    for key in ("clips", "features/tiny", "proposals", "regions/tiny"):
        assert np.asarray(group[f"status/{key}"]).tolist() == expected, key


@pytest.mark.parametrize(
    ("override", "stage", "difference"),
    [
        ("backbones.tiny.size=48", "features/tiny", "size: 64 -> 48"),
        ("backbones.tiny.precision=bf16", "features/tiny", "precision: 'fp32' -> 'bf16'"),
        ("backbones.tiny.weights='random:1'", "features/tiny", "weights_sha256: "),
        ("proposals.top=3", "proposals", "top: 4 -> 3"),
        ("proposals.weights='random:1'", "proposals", "weights_sha256: "),
        ("regions.reduce=mean", "regions/tiny", "reduce: 'max' -> 'mean'"),
        ("clips.short=loop", "clips", "short: 'repeat_last' -> 'loop'"),
    ],
)
@pytest.mark.parametrize(("limit", "executor"), [(None, "local"), (3, "inline")], ids=["complete", "half done"])
def test_other_options_are_refused_and_nothing_is_changed(
    load: Load, complete: Complete, override: str, stage: str, difference: str, limit: int | None, executor: str
) -> None:
    cache = complete(load(), limit=limit)
    before = same_bytes(cache.root)
    with pytest.raises(CacheMismatch) as caught:
        extract(load(override, f"run.executor={executor}", "run.workers=2"))
    message = str(caught.value)
    assert f"holds {stage!r} made with other options" in message
    assert f"  {difference}" in message
    assert same_bytes(cache.root) == before


def test_why_tells_what_differs(load: Load, complete: Complete) -> None:
    config = load()
    cache = complete(config)
    same = why(config, cache)
    assert same == {key: [] for key in same} != {}
    found = why(load("proposals.top=3", "backbones.tiny.weights='random:1'"), cache)
    assert found["clips"] == []
    assert found["proposals"] == ["top: 4 -> 3"]
    lines = found["features/tiny"]
    assert lines is not None
    (line,) = lines
    assert line.startswith("weights_sha256: '")


def test_features_without_regions_are_checked_too(load: Load, complete: Complete) -> None:
    """All is sealed, and still other weights do not pass for those that made it."""
    complete(load(), stages=["features"])
    with pytest.raises(CacheMismatch, match="weights_sha256"):
        extract(load("backbones.tiny.weights='random:1'"), stages=["features"])


def test_regions_never_read_maps_of_other_features(load: Load, complete: Complete) -> None:
    cache = complete(load(), stages=["features", "proposals"])
    for override in ("backbones.tiny.weights='random:1'", "backbones.tiny.precision=bf16"):
        with pytest.raises(CacheMismatch, match="holds 'features/tiny' made with other options"):
            extract(load(override), stages=["regions"])
    assert not cache.has_stage("regions/tiny")


def test_the_same_weights_under_another_name_fit(load: Load, tmp_path: Path, whole: Cache) -> None:
    """Fingerprints hold the digest of a weight file, not its path."""
    from safetensors.torch import save_file

    from kinegraph.stages.backbones.build import build_backbone

    for name in ("a", "b"):
        save_file(build_backbone("tiny_i3d", "random:0", ["res4"]).state_dict(), tmp_path / f"{name}.safetensors")
    config = load(f"backbones.tiny.weights={tmp_path / 'a.safetensors'}")
    cache = index(config).cache
    extract(config, limit=2)
    moved = load(f"backbones.tiny.weights={tmp_path / 'b.safetensors'}")
    assert make_plan(moved, cache).unchecked == ("features/tiny", "regions/tiny")
    extract(moved)
    assert data(cache) == data(whole)


def test_nothing_indexed_yet(load: Load) -> None:
    with pytest.raises(CacheNotFound, match="kinegraph index"):
        extract(load())


def test_frames_that_moved_are_noticed(
    load: Load, complete: Complete, video_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features today and proposals tomorrow must be of the same frames, also if size and time say nothing."""
    monkeypatch.setattr("kinegraph.pipeline.caches.plan.changed_videos", lambda *_: {})
    config = load()
    complete(config, stages=["features"])
    write_video(video_folder / "left" / "v1.mp4", moving_square(13, 96, 80), pts=[0, 1, *range(3, 14)])
    with pytest.raises(CacheMismatch, match=r"left/v1\.mp4:0:center .* now has other frame times"):
        extract(config, stages=["proposals"])


def test_an_error_in_the_worker_leaves_nothing_behind(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = load("run.executor=local", "run.device=cuda")
    index(config)
    with pytest.raises(ValueError, match=r"run\.device: given 'cuda'"):
        extract(config)
    assert not list(Path(config.cache).rglob(".tmp-*"))
    assert not Cache(config.cache).stage_keys()


def test_workers_that_die_at_once_are_no_success(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for want of memory while the networks load: before any of them took a shard."""
    monkeypatch.setattr(
        "kinegraph.pipeline.extraction.executors.local._work", os.abort
    )  # called with arguments, it fails: exit code 1
    config = load("run.executor=local", "run.workers=2")
    index(config)
    with pytest.raises(RuntimeError, match="3 workers died before they took a shard, the last with exit code 1"):
        extract(config)
