"""One bad place in a video fails the clips that it touches, and says what it is."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kinegraph
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import probe
from kinegraph.stages.decode.stream import OpenVideo
from kinegraph.stages.decode.wanted import Wanted
from tests.coded_videos import clip_options, joined, read, taken, write
from tests.stages.decode.conftest import clip_row


def told(result: kinegraph.Frames | kinegraph.DecodeError) -> list[int] | str:
    return result.detail if isinstance(result, DecodeError) else [read(pixels) for pixels in result.pixels]


@pytest.fixture
def growing(tmp_path: Path) -> Path:
    """144x64 px for 2 s, then twice as large for 2 s, then as before."""
    parts = [
        write(tmp_path / f"{n}.ts", first=50 * n, start=2 * n, size=size)
        for n, size in enumerate([(144, 64), (288, 128), (144, 64)])
    ]
    return joined(tmp_path / "v.ts", *parts)


def test_a_size_that_changes_fails_the_clips_it_touches(growing: Path) -> None:
    spans = [(0.0, 1.6), (1.6, 3.2), (2.4, 3.2), (4.4, 6.0)]
    before, over, within, after = kinegraph.decode(str(growing), clips=clip_options(), intervals=spans)
    assert told(before) == [2, 7, 12, 17, 22, 27, 32, 37]
    assert told(over) == told(within) == "the frame size changes from 144x64 to 288x128 at 2.0 s"
    assert told(after) == [112, 117, 122, 127, 132, 137, 142, 147]


def test_time_that_is_up_fails_what_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "v.mp4")
    really_decoded, now = OpenVideo._decoded, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slowly(self: OpenVideo) -> Iterator[Any]:
        for frame in really_decoded(self):
            now[0] += 1
            yield frame

    monkeypatch.setattr(OpenVideo, "_decoded", slowly)
    rows = [
        clip_row(path, times, clip=n, frame_width=144, frame_height=64)
        for n, times in enumerate([(0.0, 0.4), (0.2, 1.6)])
    ]
    early, late = decode_clips(str(path), rows, Wanted(num_frames=2), 20)
    assert isinstance(early, DecodedClip)
    assert early.frame_times.tolist() == [0.0, 0.4]
    assert isinstance(late, DecodeError)
    assert (late.reason, late.detail) == ("timeout", "decoding had reached 0.8 s of the video when its time was up")
    numbered = decode_clips(str(path), rows, Wanted(num_frames=2, numbered=True), 20)
    assert [clip.reason for clip in numbered if isinstance(clip, DecodeError)] == ["timeout"] * 2


def test_a_stretch_that_cannot_be_read_is_told_by_the_clips_within_it(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.ts", 100)
    content = bytearray(whole.read_bytes())
    packets = len(content) // 188
    content[packets * 3 // 10 * 188 : packets * 7 // 10 * 188] = bytes((packets * 7 // 10 - packets * 3 // 10) * 188)
    path = tmp_path / "v.ts"
    path.write_bytes(content)
    early, within, late = kinegraph.decode(
        str(path), clips=clip_options(num_frames=2), intervals=[(0.0, 0.8), (1.8, 2.2), (3.4, 3.9)]
    )
    assert told(early) == [5, 15]
    assert isinstance(within, DecodeError)
    words = r"only one distinct frame for a clip of 2, from 1.\d\d s to [23].\d\d s there is no other"
    assert re.fullmatch(words, within.detail)
    assert told(late) == [88, 94]


def test_a_frame_that_cannot_be_shown_fails_its_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "v.mp4")
    really_rgb = OpenVideo.rgb

    def rgb(self: OpenVideo, frame: Any) -> Any:
        if frame.pts * frame.time_base > 1:
            raise ValueError("no way to convert it")
        return really_rgb(self, frame)

    monkeypatch.setattr(OpenVideo, "rgb", rgb)
    early, late = kinegraph.decode(str(path), clips=clip_options(), intervals=[(0, 0.8), (1.2, 2)])
    assert len(told(early)) == 8
    assert told(late) == "the frame at 1.24 s cannot be shown: no way to convert it"


def test_a_codec_that_nobody_knows_is_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path / "v.avi", codec="mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"WHO?"))
    with pytest.raises(DecodeError, match=r"no decoder for its codec|Could not find codec") as caught:
        probe(str(path))
    assert caught.value.reason == "unreadable"
    (error,) = kinegraph.decode(str(path), times=[0.0])
    assert isinstance(error, DecodeError)


def test_tags_that_are_not_utf_8_stop_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", container_options={}, options={})
    content = path.read_bytes()
    assert b"DURATION" in content
    path.write_bytes(content.replace(b"DURATION", b"DUR\xe9TION"))
    assert len(taken(path)) == 8
