"""Why a video gives no clips, in the ledger's words."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.opening import printable
from kinegraph.stages.decode.probing import probe
from kinegraph.stages.decode.source import source_identity
from kinegraph.stages.decode.wanted import Square, Wanted
from tests.conftest import moving_square, write_video
from tests.stages.decode.conftest import clip_row, counting_frames, write_at

NOISE = np.random.default_rng(0).integers(0, 255, (40, 32, 48, 3), dtype=np.uint8)


def outcomes(path: Path, *times: list[float], timeout: float = 60.0, **wanted: Any) -> list[DecodedClip | DecodeError]:
    """Of one clip per list of times."""
    rows = [clip_row(path, wanted_at, clip=number) for number, wanted_at in enumerate(times)]
    asked = Wanted(num_frames=len(times[0]), squares=frozenset([Square(size=16, every=1)]), **wanted)
    return decode_clips(str(path), rows, asked, timeout)


def reason(outcome: DecodedClip | DecodeError) -> str:
    return outcome.reason if isinstance(outcome, DecodeError) else "ok"


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.fixture
def bad(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("these are words, not pictures\n" * 50)
    return {
        "missing": tmp_path / "missing.mp4",
        "empty": tmp_path / "empty.mp4",
        "text": tmp_path / "text.mp4",
        "sound": write_video(tmp_path / "sound.mp4", NOISE, audio_only=True),
        "no moov": cut(write_video(tmp_path / "no_moov.mp4", NOISE), 0.5),
        "folder": tmp_path,
    }


@pytest.mark.parametrize(
    ("name", "expected", "words"),
    [
        ("missing", "missing", "no file"),
        ("empty", "unreadable", "moov|Invalid data"),
        ("text", "unreadable", "moov|Invalid data"),
        ("sound", "no_video_stream", "audio"),
        ("no moov", "unreadable", "moov atom not found"),
        ("folder", "unreadable", "is a folder; a file is expected"),
    ],
)
def test_what_cannot_be_opened(bad: dict[str, Path], name: str, expected: str, words: str) -> None:
    with pytest.raises(DecodeError, match=words) as caught:
        probe(str(bad[name]))
    assert caught.value.reason == expected
    assert caught.value.detail
    found = outcomes(bad[name], [0.0, 0.5], [0.5, 1.0])
    assert [reason(outcome) for outcome in found] == [expected] * 2


def test_clips_that_end_before_the_cut_are_ok(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", NOISE, fps=10, options={"movflags": "faststart"})
    assert probe(str(cut(path, 0.6))).duration == pytest.approx(4.0), "the header still promises all of it"
    early, late, partly = outcomes(path, [0.0, 0.3, 0.6], [3.0, 3.2, 3.9], [0.5, 1.0, 3.9])
    assert isinstance(early, DecodedClip)
    assert "decoding ended at" in early.warning
    assert (early.squares[Square(size=16, every=1)].std((1, 2, 3)) > 10).all()
    assert [reason(late), reason(partly)] == ["truncated", "truncated"]
    assert isinstance(late, DecodeError)
    assert "of 4.00 s" in late.detail


def test_a_clip_that_needs_nothing_past_the_cut_has_no_warning(tmp_path: Path) -> None:
    path = cut(write_video(tmp_path / "v.mp4", NOISE, fps=10, options={"movflags": "faststart"}), 0.6)
    (clip,) = outcomes(path, [0.0, 0.3])
    assert isinstance(clip, DecodedClip)
    assert clip.warning == ""


def test_one_frame_is_too_short(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", moving_square(1, 48, 32))
    (error,) = outcomes(path, [0.0, 0.01, 0.02])
    assert reason(error) == "too_short"
    (single,) = outcomes(path, [0.0])
    assert reason(single) == "ok", "one frame is enough for a clip of one frame"


@pytest.mark.parametrize(("short", "expected"), [("repeat_last", "ok"), ("fail", "too_short")])
def test_a_short_video(tmp_path: Path, short: str, expected: str) -> None:
    path = write_at(tmp_path / "v.mkv", counting_frames(4), [0, 100, 200, 300])
    fits, long = outcomes(path, [0.0, 0.1, 0.2, 0.3], [0.0, 0.2, 0.4, 0.6], short=short)
    assert [reason(fits), reason(long)] == ["ok", expected]
    if isinstance(long, DecodedClip):
        np.testing.assert_allclose(long.frame_times, [0.0, 0.2, 0.3, 0.3])


@pytest.mark.parametrize(("short", "expected"), [("repeat_last", "ok"), ("fail", "too_short")])
def test_a_short_interval(tmp_path: Path, short: str, expected: str) -> None:
    """Though its video goes on."""
    path = write_at(tmp_path / "v.mkv", counting_frames(8), [*range(0, 800, 100)])
    row = clip_row(path, [0.1, 0.2, 0.3], interval=(0.1, 0.3))
    (outcome,) = decode_clips(str(path), [row], Wanted(num_frames=3, short=short), 60.0)
    assert reason(outcome) == expected


@pytest.mark.parametrize("num_frames", [1, 3])
def test_an_interval_that_begins_after_the_video(tmp_path: Path, num_frames: int) -> None:
    path = write_at(tmp_path / "v.mkv", counting_frames(4), [0, 100, 200, 300])
    times = [[0.1 * t for t in range(num_frames)], [0.4] * num_frames]
    rows = [clip_row(path, at, clip=n, interval=(at[0], 0.7)) for n, at in enumerate(times)]
    found = decode_clips(str(path), rows, Wanted(num_frames=num_frames), 60.0)
    assert [reason(outcome) for outcome in found] == ["ok", "too_short"]


def test_damage_in_the_middle_is_a_warning(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", NOISE, fps=10, options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    (clip,) = outcomes(path, [0.0, 2.0, 3.9])
    assert isinstance(clip, DecodedClip), clip
    assert clip.warning


def test_time_runs_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", NOISE)
    (error,) = outcomes(path, [0.0, 1.0], timeout=0.0)
    assert reason(error) == "timeout"


def test_a_video_of_another_size_than_indexed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", moving_square(8, 64, 64))
    (error,) = outcomes(path, [0.0, 0.5])
    assert isinstance(error, DecodeError)
    assert (error.reason, "64x64" in error.detail, "48x32" in error.detail) == ("unreadable", True, True)


def test_a_complaint_belongs_to_its_own_video(tmp_path: Path) -> None:
    """FFmpeg swallows a message that repeats the last one, even if that was about another video."""
    damaged = write_video(tmp_path / "v.mp4", NOISE, fps=10, options={"movflags": "faststart"})
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    damaged.write_bytes(content)
    (tmp_path / "text.mp4").write_text("words")
    found = []
    for before in (damaged, tmp_path / "text.mp4", damaged):
        outcomes(before, [0.0, 3.9])
        (clip,) = outcomes(damaged, [0.0, 3.9])
        assert isinstance(clip, DecodedClip)
        found.append(clip.warning)
    assert found[0]
    assert found == [found[0]] * 3


def test_a_cut_avi_is_truncated_though_ffmpeg_guesses_its_duration(tmp_path: Path) -> None:
    path = cut(write_video(tmp_path / "v.avi", NOISE, fps=10), 0.5)
    assert probe(str(path)).duration == pytest.approx(4.0), "its header still counts all frames"
    early, late = outcomes(path, [0.0, 0.3], [3.0, 3.5])
    assert [reason(early), reason(late)] == ["ok", "truncated"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nother.mp4\n#EXT-X-ENDLIST\n"),
        ("a.m3u", "#EXTM3U\nother.mp4\n"),
        ("a.concat", "ffconcat version 1.0\nfile other.mp4\n"),
        ("a.txt", "ffconcat version 1.0\nfile other.mp4\n"),
        ("a.mp4", "ffconcat version 1.0\nfile other.mp4\n"),
        ("a.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nother.mp4\n#EXT-X-ENDLIST\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_a_list_of_other_files_opens_none_of_them(name: str, content: str, tmp_path: Path) -> None:
    write_video(tmp_path / "other.mp4", NOISE)
    (tmp_path / name).write_text(content)
    with pytest.raises(
        DecodeError, match="Invalid data" if name == "a.m3u" else "names other files .*list those"
    ) as error:
        probe(str(tmp_path / name))
    assert (error.value.reason, len(error.value.detail) < 200) == ("unreadable", True)


def test_a_name_that_is_not_utf8_is_read_by_its_printable_form(tmp_path: Path) -> None:
    on_disk = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    os.rename(write_video(tmp_path / "a.mp4", NOISE), on_disk)  # noqa: PTH104 -- Path takes no bytes
    name = printable(os.fsdecode(on_disk))
    assert name == str(tmp_path / r"caf\xe9.mp4")
    assert probe(name).frame_width == 48
    source = source_identity(name)
    assert source is not None
    assert source.size == os.stat(on_disk).st_size  # noqa: PTH116
    write_video(tmp_path / r"caf\xe9.mp4", NOISE[:, :16])
    assert probe(name).frame_height == 16, "a file that has this very name comes first"


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name, words in (("a\0.mp4", "a NUL is in it"), ("a" * 256 + ".mp4", "name too long")):
        with pytest.raises(DecodeError, match=words) as error:
            probe(str(tmp_path / name))
        assert error.value.reason == "unreadable"
        assert source_identity(str(tmp_path / name)) is None
