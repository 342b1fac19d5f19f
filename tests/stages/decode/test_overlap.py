"""Windows of one video in several units: every frame is decoded once, and is the frame of a pass over all of them."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.sampling import clips_of
from kinegraph.stages.decode import overlap
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.counting import probe_counted
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.open_videos import OpenVideos
from kinegraph.stages.decode.stream import OpenVideo
from kinegraph.stages.decode.wanted import LATEST_RULES, Wanted, WholeFrame
from tests.coded_videos import HEIGHT, WIDTH, write
from tests.stages.decode.conftest import clip_row

WHOLE = WholeFrame(network_size=lambda height, width: (height, width), every=1)
WANTED = Wanted(num_frames=8, whole=WHOLE, may_repeat=True, overlapping=True)
NUM_FRAMES, UNIT = 90, 5  # of a video at 25 a second; windows of a unit
VIDEOS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("v.mp4", {"b_frames": 2}),
    "avi": ("v.avi", {"codec": "mpeg4"}),
    "ts": ("v.ts", {"b_frames": 2}),
}
Outcome = list[DecodedClip | DecodeError]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Has an item for each decoded frame."""
    really_decoded = OpenVideo._decoded
    frames: list[None] = []

    def counted(self: OpenVideo) -> Iterator[Any]:
        for frame in really_decoded(self):
            frames.append(None)
            yield frame

    monkeypatch.setattr(OpenVideo, "_decoded", counted)
    return frames


def windows(path: Path, **options: Any) -> list[Any]:
    """The rows of all windows of a video."""
    known = {"num_frames": 8, "fps": "native", "sampling": "windows", "hop_frames": 3} | options
    probe = probe_counted(str(path))
    assert probe.frames is not None
    assert probe.frames.number == NUM_FRAMES
    clips = clips_of(ClipOptions.model_validate(known), probe.duration, None, probe.frames)
    return [
        clip_row(path, clip.times, clip=number, frame_width=WIDTH, frame_height=HEIGHT)
        for number, clip in enumerate(clips)
    ]


def units(rows: list[Any]) -> list[list[Any]]:
    return [rows[start : start + UNIT] for start in range(0, len(rows), UNIT)]


def assert_same(one: Outcome, other: Outcome) -> None:
    for a, b in zip(one, other, strict=True):
        assert isinstance(a, DecodedClip), a
        assert isinstance(b, DecodedClip), b
        assert a.warning == b.warning
        np.testing.assert_array_equal(a.frame_times, b.frame_times)
        assert a.whole is not None
        np.testing.assert_array_equal(a.whole, b.whole)


@pytest.mark.parametrize("options", [{}, {"tail": "pad", "hop_frames": 1}, {"hop_frames": 11}, {"fps": 7.0}], ids=str)
@pytest.mark.parametrize("case", VIDEOS)
def test_each_frame_is_decoded_once(case: str, options: dict[str, Any], tmp_path: Path, decoded: list[None]) -> None:
    """In a thread that takes one unit after the other, also at the end of the video."""
    name, how = VIDEOS[case]
    path = write(tmp_path / name, NUM_FRAMES, **how)
    rows = windows(path, **options)
    at_once = decode_clips(str(path), rows, WANTED, 60.0)
    assert [clip.frame_times.tolist() for clip in at_once if isinstance(clip, DecodedClip)] == [
        pytest.approx([min(math.floor(t * 25 + 1e-6), NUM_FRAMES - 1) / 25 for t in row.target_times]) for row in rows
    ]
    decoded.clear()
    with closing(OpenVideos(2)) as open_videos:
        found = [
            clip
            for unit in units(rows)
            for clip in decode_clips(str(path), unit, WANTED, 60.0, LATEST_RULES, open_videos)
        ]
    assert len(decoded) <= NUM_FRAMES
    assert_same(found, at_once)


def test_frames_that_take_too_much_memory_are_decoded_again(
    tmp_path: Path, decoded: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "KEPT_BYTES", 2 * WIDTH * HEIGHT * overlap.PIXEL_BYTES)
    path = write(tmp_path / "v.mp4", NUM_FRAMES)
    rows = windows(path)
    at_once = decode_clips(str(path), rows, WANTED, 60.0)
    decoded.clear()
    with closing(OpenVideos(2)) as open_videos:
        found = [
            clip
            for unit in units(rows)
            for clip in decode_clips(str(path), unit, WANTED, 60.0, LATEST_RULES, open_videos)
        ]
    assert len(decoded) > NUM_FRAMES
    assert_same(found, at_once)


@pytest.mark.parametrize("case", VIDEOS)
def test_threads_of_one_video_take_turns(case: str, tmp_path: Path) -> None:
    name, how = VIDEOS[case]
    path = write(tmp_path / name, NUM_FRAMES, **how)
    rows = windows(path)
    at_once = decode_clips(str(path), rows, WANTED, 60.0)
    with closing(OpenVideos(2)) as open_videos, ThreadPoolExecutor(3) as pool:
        parts = pool.map(
            lambda unit: decode_clips(str(path), unit, WANTED, 60.0, LATEST_RULES, open_videos), units(rows)
        )
        assert_same([clip for part in parts for clip in part], at_once)
