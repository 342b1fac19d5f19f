"""Clips of annotated frames: exactly these frames, with their graphs and boxes, in a cache that verifies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.decoding import decode
from kinegraph.pipeline.caches.indexing import Indexed, index
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.wanted import Wanted, WholeFrame
from tests.action_genome import dataset, number_in, numbered, persons, write_annotations, write_pickle, write_videos
from tests.conftest import write_video

Made = Callable[..., Config]
LONG = "Charades_v1_480/001YG.mp4"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Writes the tiny layout, and returns a config on it with graphs and boxes. Keywords are of section `clips`."""
    write_annotations(tmp_path)
    write_videos(tmp_path / "videos")

    def config(labels: str = "video", **clips: Any) -> Config:
        document = {
            "cache": str(tmp_path / "cache"),
            "dataset": dataset(tmp_path, labels=labels),
            "clips": {"num_frames": 6, "sampling": "annotated", "crops": ["full"]} | clips,
            "graphs": {"source": "action_genome"},
            "proposals": {"source": "action_genome", "top": 4},
            "store": {"shard_clips": 2},
            "run": {"executor": "inline", "threads": 1},
        }
        return check_config(document, "here")

    return config


def _frames_of(result: Indexed) -> dict[str, tuple[int, ...] | None]:
    return {row.video_id.removeprefix("Charades_v1_480/"): row.target_frames for row in result.cache.clips.rows()}


def test_the_annotated_frames_are_the_clip(made: Made) -> None:
    """Number 1 of the annotations is the first frame. Frames carry their number in their pixels."""
    result = index(made())
    assert _frames_of(result) == {
        "001YG.mp4": (0, 1, 8, 39, 39, 39),
        "150E6.mp4": (4, 11, 11, 11, 11, 11),
        "46GP8.mp4": (2, 2, 2, 2, 2, 2),
    }
    assert _frames_of(index(made())) == _frames_of(result)
    wanted = Wanted(num_frames=6, may_repeat=True, whole=WholeFrame(network_size=lambda h, w: (h, w), every=1))
    for row in result.cache.clips.rows():
        [clip] = decode_clips(row.path, [row], wanted, 60.0)
        assert isinstance(clip, DecodedClip)
        assert clip.whole is not None
        assert tuple(map(number_in, clip.whole)) == row.target_frames
    assert _frames_of(index(made(num_frames=3).model_copy(update={"cache": f"{result.cache.root}_3"}))) == {
        "001YG.mp4": (0, 8, 39), "150E6.mp4": (4, 11, 11), "46GP8.mp4": (2, 2, 2),
    }  # fmt: skip


def test_intervals_have_the_frames_within_them(made: Made) -> None:
    result = index(made("interval", num_frames=3))
    assert _frames_of(result) == {
        "001YG.mp4@0-2": (0, 1, 8),
        "001YG.mp4@0-2.001": (0, 1, 8),
        "001YG.mp4@4.5-5": (39, 39, 39),
        "150E6.mp4@0.3-1": (4, 11, 11),
    }
    assert result.without_frame == [f"{LONG}@2.2-3"]
    assert not result.warnings


def test_extracted_graphs_and_boxes(made: Made, tmp_path: Path) -> None:
    config = made()
    index(config)
    extract(config)
    cache = Cache(config.cache)
    assert verify(cache.root).ok
    first, second, third = (
        {name: cache.store.open_shard(cache.array(name), row // 2).row(row % 2) for name in NAMES} for row in range(3)
    )
    np.testing.assert_allclose(first["graphs/times"][:4], [0, 0.125, 1, 4.875])
    assert np.isnan(first["graphs/times"][4:]).all()
    assert first["graphs/count"].tolist() == [1, 0, 2, 1, -1, -1]
    np.testing.assert_allclose(second["graphs/times"][:2], [4 / 12, 11 / 12], atol=1e-4)
    assert third["graphs/count"].tolist() == [0, -1, -1, -1, -1, -1]
    assert first["proposals/count"].tolist() == [2, 1, 3, 1, 1, 1]
    assert third["proposals/boxes"][0, 0].tolist() == [10, 5, 45, 75]
    changed = persons()
    changed["46GP8.mp4/000003.png"]["bbox"] += 2
    write_pickle(tmp_path / "person_bbox.pkl", changed)
    extract(config)  # the boxes are computed again, because the file has changed
    assert Cache(config.cache).store.open_shard(cache.array("proposals/boxes"), 1).row(0)[0, 0].tolist() == [
        11,
        6,
        46,
        76,
    ]


NAMES = ("graphs/times", "graphs/count", "proposals/count", "proposals/boxes")


def test_a_file_with_too_few_frames_is_another_encoding(made: Made, tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / LONG, numbered(39), fps=8)
    result = index(made())
    words = "frame 40 is annotated, and the file has 39 frames at 8 a second. It is another encoding of the video"
    assert words in str(result.unreadable[LONG])
    assert _frames_of(result)["001YG.mp4"] is None
    other = made(beyond_end="leave_out").model_copy(update={"cache": str(tmp_path / "other")})
    result = index(other)
    assert _frames_of(result)["001YG.mp4"] == (0, 1, 8, 8, 8, 8)
    assert result.warnings[0].startswith(
        "1 annotated frame beyond the end of 1 file left out (clips.beyond_end), first"
    )
    write_video(tmp_path / "videos" / LONG, numbered(40), fps=8)
    assert _frames_of(index(made()))["001YG.mp4"] == (0, 1, 8, 39, 39, 39)  # with the right file, the row is filled in


def test_another_rate_is_said(made: Made, tmp_path: Path) -> None:
    """At 24 frames a second, the annotated frames lie where no action is."""
    write_video(tmp_path / "videos/Charades_v1_480/150E6.mp4", numbered(60), fps=48)
    result = index(made("interval"))
    assert len(result.warnings) == 1
    assert "1 video has most of the annotated frames outside of all intervals" in result.warnings[0]


@pytest.mark.parametrize(
    ("section", "keys", "words"),
    [
        ("clips", {"sampling": "uniform"}, "source: .*only with dataset.kind action_genome"),
        ("clips", {"per_video": 2}, "per_video: given 2, allowed: 1 with sampling: annotated"),
        ("clips", {"short": "loop"}, "short: given 'loop', allowed: repeat_last"),
        ("clips", {"sampling": "uniform", "beyond_end": "leave_out"}, "beyond_end: given 'leave_out'"),
        (
            "dataset",
            {"kind": "folder"},
            "clips.sampling: given 'annotated', allowed: only with dataset.kind action_gen",
        ),
    ],
)
def test_what_does_not_fit_is_refused(made: Made, section: str, keys: dict[str, Any], words: str) -> None:
    document = made().model_dump(mode="json", exclude_unset=True)
    document[section] |= keys
    if keys == {"kind": "folder"}:
        document[section] = {"kind": "folder", "root": "."}
    with pytest.raises(ConfigError, match=words):
        check_config(document, "here")


def test_decode_has_no_annotations(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"decode: clips.sampling: given 'annotated', which needs a data set"):
        decode(tmp_path / "v.mp4", clips={"sampling": "annotated"})
