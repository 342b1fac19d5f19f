"""The right frame at its right time, whatever a container knows of times: every frame shows its number."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import kinegraph
from tests.coded_videos import clip_options, cut_by_edit_list, joined, middles, read, taken, write, write_packed

EIGHT_OF_50 = [3, 9, 15, 21, 28, 34, 40, 46]
H264 = {"codec": "libx264", "b_frames": 2}
PYRAMID = {"codec": "libx264", "b_frames": 3, "options": {"x264-params": "b-pyramid=normal:b-adapt=0:scenecut=0"}}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("v.avi", H264),
        ("v.avi", PYRAMID),
        ("v.avi", {"codec": "mpeg4", "b_frames": 2}),
        ("v.avi", {"codec": "mjpeg", "options": {"strict": "-1"}}),
        ("v.asf", H264),
        ("v.wmv", {"codec": "wmv2"}),
        ("v.asf", {"codec": "mpeg4", "b_frames": 2}),
        ("v.h264", H264),
        ("v.h264", {"codec": "libx264"}),
        ("v.m4v", {"codec": "mpeg4", "b_frames": 2, "format": "m4v"}),
        ("v.m2v", {"codec": "mpeg2video", "b_frames": 2, "format": "mpeg2video"}),
        ("v.mpg", {"codec": "libx264"}),
        ("v.mpg", {"codec": "mpeg2video", "b_frames": 2}),
        ("v.vob", {"codec": "mpeg2video", "b_frames": 2, "format": "vob"}),
        ("v.ts", H264),
        ("v.ts", {"codec": "mpeg2video", "b_frames": 2}),
        ("v.flv", H264),
        ("v.mkv", PYRAMID),
        ("v.mp4", PYRAMID),
        ("v.mp4", H264 | {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("v.mxf", {"codec": "mpeg2video", "b_frames": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["codec"],
)
def test_every_frame_once_in_order(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    path = write(tmp_path / name, **how)
    told = kinegraph.probe(str(path))
    assert (told.duration, told.rate) == (pytest.approx(2.0, abs=0.021), 25)
    assert taken(path, middles(50)) == list(range(50))
    assert taken(path) == EIGHT_OF_50


def test_packed_b_frames(tmp_path: Path) -> None:
    path = write_packed(tmp_path / "v.avi")
    assert taken(path, middles(50)) == list(range(50))


def test_a_raw_stream_has_the_rate_that_it_tells(tmp_path: Path) -> None:
    how: dict[str, Any] = {"codec": "libx265", "format": "hevc", "options": {"x265-params": "log-level=none:bframes=3"}}
    path = write(tmp_path / "v.hevc", 60, 30, **how)
    assert (kinegraph.probe(str(path)).rate, kinegraph.probe(str(path)).duration) == (30, pytest.approx(2))
    assert taken(path, middles(60, 30)) == list(range(60))


RATES = (12, 24, 25, 30, Fraction(30000, 1001), Fraction(24000, 1001), 50, 60)
# WebM is Matroska with a codec that is slow to encode.
RATED = [(name, rate) for name in ("v.mkv", "v.flv", "v.ts", "v.mov", "v.mp4") for rate in RATES]
RATED += [("v.webm", Fraction(30000, 1001)), ("v.webm", 60)]


@pytest.mark.parametrize(("name", "rate"), RATED)
def test_each_frame_once_at_the_native_rate_and_at_its_parts(tmp_path: Path, name: str, rate: Fraction | int) -> None:
    codec = "libvpx" if name.endswith("webm") else "libx264"
    container: dict[str, Any] = {"container_options": {"video_track_timescale": "600"}} if name == "v.mov" else {}
    path = write(tmp_path / name, 40, rate, codec, **container)
    assert taken(path, [float(k / rate) for k in range(40)]) == list(range(40))
    for part in (2, 3, 4):
        fps = float(Fraction(rate) / part)
        assert taken(path, sampling="dense", fps=fps, num_frames=8) == list(range(0, 8 * part, part))


def test_an_interval_holds_no_frame_that_is_shown_at_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", 48, 12, clock=Fraction(1, 1000))
    options = clip_options(sampling="dense", fps=12, num_frames=12)
    spans = [(k / 12, (k + 12) / 12) for k in range(24)]
    for start, frames in enumerate(kinegraph.decode(str(path), clips=options, intervals=spans)):
        assert isinstance(frames, kinegraph.Frames)
        assert len(frames.times) == 12
        short = clip_options(sampling="dense", fps=12, num_frames=14)
        (longer,) = kinegraph.decode(str(path), clips=short, intervals=[spans[start]])
        assert isinstance(longer, kinegraph.Frames)
        assert longer.times.max() == frames.times.max() < spans[start][1]


@pytest.mark.parametrize("start", [0, 0.4, 5])
@pytest.mark.parametrize("name", ["v.mkv", "v.webm", "v.ts", "v.flv", "v.mp4", "v.asf"])
def test_a_recording_that_does_not_begin_at_0(tmp_path: Path, name: str, start: float) -> None:
    codec = "libvpx" if name.endswith("webm") else "libx264"
    path = write(tmp_path / name, codec=codec, start=Fraction(start).limit_denominator(1000))
    assert kinegraph.probe(str(path)).duration == pytest.approx(2.0, abs=0.01)
    assert taken(path) == EIGHT_OF_50


@pytest.mark.parametrize(
    ("start", "seconds", "first"), [(4, 2, 100), (3.84, 2, 96), (0, 2, 0), (0.2, 9.8, 5)],
    ids=["within a group", "at a key frame", "the beginning", "all but the beginning"],
)  # fmt: skip
@pytest.mark.parametrize("b_frames", [0, 2])
def test_edit_lists(tmp_path: Path, start: float, seconds: float, first: int, b_frames: int) -> None:
    path = cut_by_edit_list(write(tmp_path / "v.mp4", 250, b_frames=b_frames, key_every=24), start, seconds)
    assert kinegraph.probe(str(path)).duration == pytest.approx(seconds, abs=0.001)
    stride = seconds * 25 / 8
    assert taken(path) == [first + int((k + 0.5) * stride + 1e-6) for k in range(8)]


@pytest.mark.parametrize("b_frames", [0, 2])
def test_recordings_that_were_joined_are_counted_on(tmp_path: Path, b_frames: int) -> None:
    parts = [write(tmp_path / f"{n}.ts", first=50 * n, b_frames=b_frames) for n in range(3)]
    path = joined(tmp_path / "v.ts", *parts)
    told = kinegraph.probe(str(path))
    assert told.duration == pytest.approx(6.0)
    assert "time stamps jump 2 times, first from" in told.warning
    assert taken(path, middles(150)) == list(range(150))


@pytest.mark.parametrize(("name", "goes_on"), [("v.ts", True), ("v.mpg", True), ("v.mkv", False)])
def test_a_gap_is_another_recording_where_they_are_joined(tmp_path: Path, name: str, goes_on: bool) -> None:
    """In mkv it is a picture that stays."""
    if name == "v.mkv":
        path = write(tmp_path / name, 2, Fraction(1, 20))
        assert kinegraph.probe(str(path)).duration == pytest.approx(40, abs=1)
        assert taken(path, [0.0, 19.9, 20.0]) == [0, 0, 1]
        return
    codec = "mpeg2video" if name == "v.mpg" else "libx264"
    parts = [write(tmp_path / f"{n}_{name}", codec=codec, first=50 * n, start=30 * n) for n in range(2)]
    path = joined(tmp_path / name, *parts)
    assert kinegraph.probe(str(path)).duration == pytest.approx(4.0, abs=0.05)
    assert taken(path, middles(100)) == list(range(100))


def test_a_stream_that_begins_within_a_group(tmp_path: Path) -> None:
    """What comes before its first key frame cannot be shown: it is counted, and time begins behind it."""
    whole = write(tmp_path / "whole.ts", key_every=20, options={"sc_threshold": "0"})
    content = whole.read_bytes()
    path = tmp_path / "v.ts"
    packets = [content[at : at + 188] for at in range(0, len(content), 188)]
    path.write_bytes(b"".join([*packets[:3], *packets[len(packets) // 6 :]]))  # the first three are tables
    told = kinegraph.probe(str(path))
    (frames,) = kinegraph.decode(str(path), times=[0.0, 0.04, 0.4])
    assert isinstance(frames, kinegraph.Frames)
    assert [read(pixels) for pixels in frames.pixels] == [20, 21, 30]
    assert told.duration == pytest.approx(30 / 25)
    assert frames.warning
    assert told.warning


@pytest.mark.parametrize(("name", "codec"), [("v.webm", "libvpx"), ("v.mkv", "libx264"), ("v.flv", "libx264")])
def test_a_download_that_broke_off_is_truncated(tmp_path: Path, name: str, codec: str) -> None:
    path = write(tmp_path / name, 100, codec=codec, sound_seconds=4)
    assert taken(path) == [6, 18, 31, 43, 56, 68, 81, 93]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    told = kinegraph.probe(str(path))
    assert told.duration == pytest.approx(4.0, abs=0.1)
    early, late = kinegraph.decode(str(path), clips=clip_options(), intervals=[(0, 1), (3, 4)])
    assert isinstance(early, kinegraph.Frames)
    assert isinstance(late, kinegraph.DecodeError)
    assert late.reason == "truncated"
    assert "decoding ended at 2." in late.detail


@pytest.mark.parametrize("name", ["v.mkv", "v.webm", "v.flv", "v.mp4", "v.avi", "v.ts", "v.asf"])
def test_sound_that_is_longer_than_the_pictures(tmp_path: Path, name: str) -> None:
    codec = "libvpx" if name.endswith("webm") else "libx264"
    path = write(tmp_path / name, codec=codec, sound_seconds=4)
    assert kinegraph.probe(str(path)).duration == pytest.approx(2.0, abs=0.05)
    if name != "v.avi":  # FFmpeg writes an empty frame into it
        assert taken(path) == EIGHT_OF_50
