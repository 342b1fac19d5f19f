"""Passes that skip give what a pass from the start gives; counts of decoded frames show that they skip."""

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from kinegraph.stages.decode import seeking
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.open_videos import OpenVideos
from kinegraph.stages.decode.stream import OpenVideo
from kinegraph.stages.decode.wanted import Wanted, WholeFrame
from tests.coded_videos import HEIGHT, WIDTH, cut_by_edit_list, drawn, read, write
from tests.stages.decode.conftest import clip_row

WANTED = Wanted(num_frames=6, whole=WholeFrame(network_size=lambda height, width: (height, width), every=1))
NUM_FRAMES = 450  # 18 s at 25 a second
X264 = "open-gop=1:b-adapt=0:bframes=3:scenecut=0:keyint=30:min-keyint=30"
Outcome = list[DecodedClip | DecodeError]
Counted = Callable[[], int]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """The number of frames that were decoded since it was asked last."""
    really_decoded, count = OpenVideo._decoded, [0]

    def decoded(self: OpenVideo) -> Iterator[Any]:
        for frame in really_decoded(self):
            count[0] += 1
            yield frame

    def since() -> int:
        number, count[0] = count[0], 0
        return number

    monkeypatch.setattr(OpenVideo, "_decoded", decoded)
    return since


def rows_at(path: Path, starts: Sequence[float], step: float = 0.04) -> list[Any]:
    return [
        clip_row(path, tuple(start + step * n for n in range(6)), clip=n, frame_width=WIDTH, frame_height=HEIGHT)
        for n, start in enumerate(starts)
    ]


def assert_same(one: Outcome, other: Outcome) -> None:
    for a, b in zip(one, other, strict=True):
        if isinstance(a, DecodeError) or isinstance(b, DecodeError):
            assert str(a) == str(b)
            continue
        assert a.warning == b.warning
        np.testing.assert_array_equal(a.frame_times, b.frame_times)
        assert a.whole is not None
        assert b.whole is not None
        np.testing.assert_array_equal(a.whole, b.whole)


def both_ways(path: Path, rows: list[Any], counted: Counted) -> tuple[Outcome, int, int]:
    """What a pass with skips gives, which is the same as from the start, and how many frames each of them decoded."""
    from_start = decode_clips(str(path), rows, WANTED, 60.0)
    all_frames = counted()
    with closing(OpenVideos()) as open_videos:
        skipping = decode_clips(str(path), rows, WANTED, 60.0, 2, open_videos)
    assert_same(skipping, from_start)
    return skipping, counted(), all_frames


SEEKABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("v.mp4", {"key_every": 30}),
    "h264 with B-frames": ("v.mp4", {"key_every": 30, "b_frames": 3}),
    "open groups": ("v.mp4", {"b_frames": 3, "options": {"x264-params": X264}}),
    "open groups in mkv": ("v.mkv", {"b_frames": 3, "options": {"x264-params": X264}}),
    "hevc": (
        "v.mp4",
        {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=30:bframes=3"}},
    ),
    "mpeg4": ("v.mp4", {"codec": "mpeg4", "key_every": 30}),
    "mpeg4 with B-frames": ("v.mov", {"codec": "mpeg4", "key_every": 30, "b_frames": 2}),
    "vp8": ("v.webm", {"codec": "libvpx", "key_every": 30}),
    "vp9": ("v.webm", {"codec": "libvpx-vp9", "key_every": 30, "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "av1": ("v.mkv", {"codec": "libsvtav1", "key_every": 30, "options": {"preset": "12"}}),
    "mkv": ("v.mkv", {"key_every": 30, "b_frames": 2}),
    "sound": ("v.mp4", {"key_every": 30, "b_frames": 2, "sound_seconds": 18.0}),
    "mkv with sound": ("v.mkv", {"key_every": 30, "sound_seconds": 18.0}),
    "late start": ("v.mkv", {"key_every": 30, "b_frames": 2, "start": 3.3}),
    "late start in mp4": ("v.mp4", {"key_every": 30, "start": 3.3, "clock": Fraction(1, 90000)}),
    "29.97": ("v.mkv", {"key_every": 30, "b_frames": 2, "rate": Fraction(30000, 1001)}),
    "fragments": ("v.mp4", {"key_every": 30, "container_options": {"movflags": "frag_keyframe+empty_moov"}}),
}


@pytest.mark.parametrize("case", SEEKABLE)
def test_late_rows_are_those_of_a_pass_from_the_start(case: str, tmp_path: Path, counted: Counted) -> None:
    name, how = SEEKABLE[case]
    path = write(tmp_path / name, NUM_FRAMES, **how)
    clips, num_skipping, num_all = both_ways(path, rows_at(path, [0.2, 7.53, 7.6, 14.4]), counted)
    assert all(isinstance(clip, DecodedClip) for clip in clips)
    assert num_all > 300
    assert num_skipping < 220, "what lies between is not decoded"


@pytest.mark.parametrize("start", [6.0, 7.16, 7.2, 7.24, 8.39, 8.4, 8.44, 9.6, 12.0, 17.5, 17.9])
def test_every_place_of_an_open_group(start: float, tmp_path: Path, counted: Counted) -> None:
    """At a key frame, just before and behind it, and at the end of the video."""
    path = write(tmp_path / "v.mp4", NUM_FRAMES, b_frames=3, options={"x264-params": X264})
    with av.open(str(path)) as file:
        shown = [(packet.pts, packet.is_keyframe) for packet in file.demux(video=0) if packet.pts is not None]
        assert any(pts < max(key for key, is_key in shown[:n] if is_key) for n, (pts, _) in enumerate(shown) if n)
    _, num_skipping, _ = both_ways(path, rows_at(path, [start]), counted)
    assert num_skipping < 90


def test_an_edit_list(tmp_path: Path, counted: Counted) -> None:
    path = cut_by_edit_list(write(tmp_path / "v.mp4", NUM_FRAMES, key_every=30, b_frames=2), 2.0, 15.0)
    clips, num_skipping, num_all = both_ways(path, rows_at(path, [0.02, 9.02]), counted)
    assert isinstance(clips[1], DecodedClip)
    assert clips[1].whole is not None
    assert [read(pixels) for pixels in clips[1].whole] == [275, 276, 277, 278, 279, 280]
    assert num_skipping < num_all - 150


def write_variable(path: Path) -> Path:
    """Frames last 1/25, 2/25, 3/25 s by turns."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25, options={"g": "20", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        tick = 0
        for number in range(250):
            frame = av.VideoFrame.from_ndarray(drawn(number), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            tick += 1 + number % 3
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_variable_rates(ending: str, tmp_path: Path, counted: Counted) -> None:
    path = write_variable(tmp_path / f"v.{ending}")
    _, num_skipping, num_all = both_ways(path, rows_at(path, [0.0, 9.5, 18.3], step=0.05), counted)
    assert num_skipping < num_all - 100


def test_seeks_below_the_least_gain_are_not_made(tmp_path: Path, counted: Counted) -> None:
    path = write(tmp_path / "v.mp4", 150, key_every=30)
    _, num_skipping, num_all = both_ways(path, rows_at(path, [4.9]), counted)
    assert num_skipping == num_all


FROM_START: dict[str, tuple[str, dict[str, Any]]] = {
    "avi": ("v.avi", {"codec": "mpeg4", "key_every": 30}),
    "ts": ("v.ts", {"key_every": 30}),
    "mpg": ("v.mpg", {"codec": "mpeg1video", "key_every": 15}),
    "raw": ("v.h264", {"key_every": 30, "format": "h264"}),
    "mkv without cues": ("v.mkv", {"key_every": 30, "container_options": {"live": "1"}}),
    "no codec of ours": ("v.mkv", {"codec": "mpeg2video", "key_every": 15}),
}


@pytest.mark.parametrize("case", FROM_START)
def test_what_is_read_from_the_start(case: str, tmp_path: Path, counted: Counted) -> None:
    name, how = FROM_START[case]
    path = write(tmp_path / name, NUM_FRAMES, **how)
    _, num_skipping, num_all = both_ways(path, rows_at(path, [0.2, 7.53, 14.4]), counted)
    assert num_skipping == num_all


def test_places_in_the_video_are_counted_from_the_start(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", NUM_FRAMES, key_every=30)
    (clip,) = decode_clips(str(path), rows_at(path, [14.4]), Wanted(num_frames=6, numbered=True), 60.0, 2, OpenVideos())
    assert isinstance(clip, DecodedClip)
    assert clip.frame_numbers.tolist() == clip.coded_numbers.tolist() == [360, 361, 362, 363, 364, 365]
    assert clip.video_frames == NUM_FRAMES
    (clip,) = decode_clips(str(path), rows_at(path, [14.4]), Wanted(num_frames=6), 60.0, 2, OpenVideos())
    assert isinstance(clip, DecodedClip)
    assert clip.frame_numbers.tolist() == clip.coded_numbers.tolist() == [-1] * 6


def test_an_index_that_names_other_frames_as_key_frames(tmp_path: Path, counted: Counted) -> None:
    """An mp4 whose table of key frames names the frames behind them."""
    path = write(tmp_path / "v.mp4", NUM_FRAMES, key_every=30)
    content = bytearray(path.read_bytes())
    at = content.index(b"stss") + 4
    (count,) = struct.unpack_from(">I", content, at + 4)
    for number in range(1, count):
        (sample,) = struct.unpack_from(">I", content, at + 8 + 4 * number)
        struct.pack_into(">I", content, at + 8 + 4 * number, sample + 7)
    path.write_bytes(content)
    _, num_skipping, num_all = both_ways(path, rows_at(path, [7.53, 14.4]), counted)
    assert num_skipping > num_all, "sought in vain, then read from the start"


def test_refreshes_in_place_of_key_frames(tmp_path: Path, counted: Counted) -> None:
    """x264 marks where a refresh begins, which is complete some frames later."""
    path = write(tmp_path / "v.mp4", NUM_FRAMES, options={"x264-params": "intra-refresh=1:keyint=30:scenecut=0"})
    both_ways(path, rows_at(path, [7.53, 14.4]), counted)


def test_cues_that_name_other_places(tmp_path: Path, counted: Counted) -> None:
    """The cues of a Matroska file say times of which frames lie elsewhere."""
    path = write(tmp_path / "v.mkv", NUM_FRAMES, key_every=30)
    with av.open(str(path)) as file:
        file.seek(0, stream=file.streams.video[0])
        times = [entry.timestamp for entry in file.streams.video[0].index_entries]
    content = bytearray(path.read_bytes())
    cues = content.rindex(b"\x1c\x53\xbb\x6b")
    for before, after in itertools.pairwise(times[3:]):
        at = content.index(b"\xb3\x82" + before.to_bytes(2, "big"), cues)
        content[at + 2 : at + 4] = (after - 100).to_bytes(2, "big")
        cues = at + 4
    path.write_bytes(content)
    both_ways(path, rows_at(path, [7.53, 14.4]), counted)


@pytest.mark.parametrize("damaged", [(0.30, 0.34), (0.55, 0.75)])
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_damaged_files(name: str, damaged: tuple[float, float], tmp_path: Path, counted: Counted) -> None:
    """What was skipped has no say; what was read is read again from the start where anything is wrong with it."""
    path = write(tmp_path / name, NUM_FRAMES, key_every=30, b_frames=2)
    rows = rows_at(path, [10.0, 12.5])
    content = bytearray(path.read_bytes())
    first, last = (round(part * len(content)) for part in damaged)
    content[first:last] = np.random.default_rng(0).bytes(last - first)
    path.write_bytes(content)
    from_start = decode_clips(str(path), rows, WANTED, 60.0)
    skipping = decode_clips(str(path), rows, WANTED, 60.0, 2, OpenVideos())
    for row, a, b in zip(rows, skipping, from_start, strict=True):
        if isinstance(a, DecodedClip) and a.warning == "":
            assert a.whole is not None
            assert [read(pixels) for pixels in a.whole] == [int(t * 25 + 1e-6) for t in row.target_times]
        else:
            assert_same([a], [b])


def test_a_download_that_broke_off(tmp_path: Path, counted: Counted) -> None:
    path = write(tmp_path / "v.mp4", NUM_FRAMES, key_every=30, options={"movflags": "faststart"})
    faststart = tmp_path / "fast.mp4"
    write(faststart, NUM_FRAMES, key_every=30, container_options={"movflags": "faststart"})
    path.write_bytes(faststart.read_bytes()[: faststart.stat().st_size * 2 // 3])
    clips, _, _ = both_ways(path, rows_at(path, [7.0, 17.0]), counted)
    assert [clip.reason for clip in clips if isinstance(clip, DecodeError)] == ["truncated"]


def test_a_video_is_read_on_where_it_was_left(tmp_path: Path, counted: Counted) -> None:
    path = write(tmp_path / "v.mp4", NUM_FRAMES, key_every=250, b_frames=2)
    rows = rows_at(path, [0.24 * n for n in range(70)])
    from_start = decode_clips(str(path), rows, WANTED, 60.0)
    num_all = counted()
    with closing(OpenVideos(1)) as open_videos:
        units = [decode_clips(str(path), rows[n : n + 10], WANTED, 60.0, 2, open_videos) for n in range(0, 70, 10)]
    assert_same([clip for unit in units for clip in unit], from_start)
    assert counted() == num_all
    (clip, *_) = units[3]
    assert isinstance(clip, DecodedClip)
    assert clip.coded_numbers.tolist() == [*range(180, 186)]


def test_a_video_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", 100)
    early, late = rows_at(path, [0.2, 2.0])
    with closing(OpenVideos(1)) as open_videos:
        decode_clips(str(path), [early], WANTED, 60.0, 2, open_videos)
        write(tmp_path / "w.mp4", 100, first=200).replace(path)
        (clip,) = decode_clips(str(path), [late], WANTED, 60.0, 2, open_videos)
    assert isinstance(clip, DecodedClip)
    assert clip.whole is not None
    assert [read(pixels) for pixels in clip.whole] == [*range(250, 256)]


def test_earlier_times_and_closed_lenders_open_anew(tmp_path: Path, counted: Counted) -> None:
    path = write(tmp_path / "v.mp4", 100)
    early, late = rows_at(path, [0.2, 2.0])
    open_videos = OpenVideos(1)
    decode_clips(str(path), [late], WANTED, 60.0, 2, open_videos)
    again = decode_clips(str(path), [early], WANTED, 60.0, 2, open_videos)
    assert_same(again, decode_clips(str(path), [early], WANTED, 60.0))
    open_videos.close()
    decode_clips(str(path), [early], WANTED, 60.0, 2, open_videos)
    assert not open_videos._idle


def test_time_that_was_up_leaves_no_frame_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "v.mp4", 100)
    rows = rows_at(path, [2.0])
    with closing(OpenVideos(1)) as open_videos:
        (late,) = decode_clips(str(path), rows, WANTED, -1.0, 2, open_videos)
        assert isinstance(late, DecodeError)
        assert late.reason == "timeout"
        again = decode_clips(str(path), rows, WANTED, 60.0, 2, open_videos)
    assert_same(again, decode_clips(str(path), rows, WANTED, 60.0))


def test_skipped_frames_take_no_time_of_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late clip of a long film is not charged for what lies before it."""
    path = write(tmp_path / "v.mp4", NUM_FRAMES, key_every=30)
    now = [0.0]
    really_decoded = OpenVideo._decoded

    def slowly(self: OpenVideo) -> Iterator[Any]:
        for frame in really_decoded(self):
            now[0] += 1
            yield frame

    monkeypatch.setattr(OpenVideo, "_decoded", slowly)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    (from_start,) = decode_clips(str(path), rows_at(path, [14.5]), WANTED, 60.0)
    (skipping,) = decode_clips(str(path), rows_at(path, [14.5]), WANTED, 60.0, 2, OpenVideos())
    assert isinstance(from_start, DecodeError)
    assert from_start.reason == "timeout"
    assert isinstance(skipping, DecodedClip)


@pytest.mark.parametrize(
    ("stamps", "left_out", "keys"),
    [
        ([0, 10, 20, 30], [], [0, 10, 20, 30]),
        ([0, 10, 5, 20], [], []),  # a recording may have been joined where nobody reads
        ([0, 10, 20, 30], [0, 3], [10, 20]),
        ([0, 10, 20, 30], [1], []),  # an edit list with two entries
    ],
)
def test_which_key_frames_of_an_index_count(stamps: list[int], left_out: list[int], keys: list[int]) -> None:
    entries = [
        SimpleNamespace(timestamp=stamp, is_keyframe=True, is_discard=number in left_out)
        for number, stamp in enumerate(stamps)
    ]
    stream: Any = SimpleNamespace(index_entries=entries)
    assert seeking._in_order(stream) == keys


@pytest.mark.parametrize(
    ("unit", "is_entry"),
    [
        ("6588", True),  # IDR
        ("0605", False),
        ("060601c0", True),  # a recovery point: 0 frames, exact
        ("06060180", False),  # not exact
        ("06060140", False),  # after some frames
        ("060501000601c0", True),  # behind another message
        ("41", False),
    ],
)
def test_where_h264_starts_anew(unit: str, is_entry: bool) -> None:
    content = bytes.fromhex(unit) + bytes(4)
    packet = len(content).to_bytes(4, "big") + content
    avcc = b"\x01\x64\x00\x0a\xff\xe1\x00"
    assert seeking.starts_anew("h264", avcc, packet) == is_entry
    assert not seeking.starts_anew("h264", b"\x00\x00\x01\x67\x00\x00\x00", packet), "start codes are not read"
