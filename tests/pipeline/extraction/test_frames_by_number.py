"""`clips.fps: native` the whole way: options and their digests, rows, extraction, another index."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.cache_schemas.clips_columns import SCHEMA
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.cache_schemas.fingerprint import fingerprint
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.stage import clips_options
from tests.caches import same_bytes
from tests.coded_videos import write
from tests.conftest import moving_square, write_video

Load = Callable[..., Config]
NATIVE = ("clips.fps=native", "clips.sampling=centre", "clips.frame_step=1", "clips.num_frames=4")
NO_MAPS = ("backbones={}", "regions=null")


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({}, "10117a9e86bb3fb450e32e5c713724081daa8ed3d73f4987974876cfc1e2345a"),
        (
            {"sampling": "uniform", "num_frames": 8},
            "21ce15de720043bcbe61d2bd3b94ac56bae45450e4a3b57ba849082ca036ceea",
        ),
        (
            {"fps": 10, "sampling": "centre", "per_video": 3, "crops": ["even_3"], "short": "loop"},
            "be16f5f3dd730ac74fb850618fbc88bbb9c008ca225f0a332e703fefb2ed8582",
        ),
    ],
)
def test_digests_of_options_by_time_are_what_they_were(options: dict[str, Any], digest: str) -> None:
    assert fingerprint(clips_options(ClipOptions.model_validate(options))) == digest


def test_what_is_recorded() -> None:
    known = {"num_frames": 4, "fps": "native"}
    for options, recorded in (
        ({}, {"fps": "native"}),
        ({"sampling": "uniform"}, {"fps": "native"}),
        ({"frame_step": 3}, {"fps": "native", "frame_step": 3}),
    ):
        found = clips_options(ClipOptions.model_validate(known | options))
        assert {key: found[key] for key in ("fps", "frame_step") if key in found} == recorded


def test_rows_say_frames_by_number(load: Load, video_folder: Path) -> None:
    config = load(*NATIVE)
    found = index(config)
    rows = [*found.cache.clips.rows()]
    for row in rows:
        first = (12 + int(row.video_name[-5]) - 4) // 2  # v3.mp4 has 15 frames, 8 a second
        assert row.target_frames == tuple(range(first, first + 4))
        assert row.target_times == tuple(number / 8 for number in row.target_frames)
        assert (row.start_seconds, row.end_seconds) == (first / 8, first / 8 + 0.5)
    assert not extract(config).failures
    times = CachedClips(found.cache, ["clips/frame_times"]).batch(range(len(rows)))["clips/frame_times"]
    assert times.tolist() == [[*row.target_times] for row in rows]
    assert not extract(config).plan.units
    assert verify(config.cache).ok
    before = same_bytes(config.cache)
    index(config)
    assert same_bytes(config.cache) == before
    with pytest.raises(CacheMismatch, match=r"frame_step"):
        index(load(*NATIVE, "clips.frame_step=2"))
    write_video(video_folder / "left" / "v1.mp4", moving_square(30, 96, 80, seed=1))
    with pytest.raises(CacheMismatch, match=r"left/v1\.mp4:0:center was indexed with start_seconds"):
        index(config)


def test_late_clips_of_a_long_video_are_counted_from_its_start(load: Load, tmp_path: Path) -> None:
    """Whatever is skipped of videos elsewhere: 16 s with a key frame every half second."""
    (tmp_path / "long" / "a").mkdir(parents=True)
    write(tmp_path / "long" / "a" / "v.mp4", 400, b_frames=2)
    config = load(
        f"dataset.root={tmp_path / 'long'}", *NO_MAPS, "clips.fps=native", "clips.sampling=dense",
        "clips.frame_step=3", "clips.per_video=3", "store.shard_clips=1",
    )  # fmt: skip
    cache = index(config).cache
    assert not extract(config).failures
    times = CachedClips(cache, ["clips/frame_times"]).batch(range(3))["clips/frame_times"]
    expected = [[(start + 3 * i) / 25 for i in range(8)] for start in (0, 188, 376)]
    assert times.numpy() == pytest.approx(np.array(expected))


def test_videos_that_cannot_be_read_are_filled_in(load: Load, video_folder: Path) -> None:
    config = load(*NATIVE, *NO_MAPS)
    broken = video_folder / "left" / "v1.mp4"
    content = broken.read_bytes()
    broken.write_bytes(b"no video")
    before = [row.target_frames for row in index(config).cache.clips.rows()]
    assert before[0] is None
    assert None not in before[1:]
    broken.write_bytes(content)
    after = [row.target_frames for row in index(config).cache.clips.rows()]
    assert (after[0], after[1:]) == ((4, 5, 6, 7), before[1:])
    assert not extract(config).failures


def test_other_tables_have_no_such_column(load: Load) -> None:
    assert ClipsTable.read(index(load()).cache.storage).table.column_names == SCHEMA.names
