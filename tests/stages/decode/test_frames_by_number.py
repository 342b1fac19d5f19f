"""`fps: native`: frames by their number among those presented, against plain loops over the decoded frames."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

import kinegraph
from kinegraph.cache_schemas.clips_table import Interval
from kinegraph.cache_schemas.regular import open_regular
from kinegraph.pipeline.caches.indexing import video_rows
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.datasets.listing import Video
from kinegraph.stages.decode import numbered_images
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.counting import probe_counted
from kinegraph.stages.decode.numbered_images import probe_images
from kinegraph.stages.decode.stream import open_video
from kinegraph.stages.decode.wanted import Square, Wanted
from tests.coded_videos import _coded, _void, clip_options, cut_by_edit_list, joined, read, write, write_packed
from tests.stages.decode.conftest import counting_frames, numbers, write_at
from tests.stages.decode.test_numbered_images import reds, write_images

H264: dict[str, Any] = {"codec": "libx264", "b_frames": 2}
ALT_REF = {"options": {"auto-alt-ref": "1", "lag-in-frames": "16"}}
VARIABLE_MS = [0, 40, 80, 400, 440, 480, 900, 910, 950, 1500, 1540, 1580, 1620, 2600]


def shown(path: Path) -> tuple[list[int], list[float]]:
    """The reference: what every frame shows, and when, in one loop over the whole video."""
    with open_video(str(path)) as video:
        frames = [(read(video.rgb(frame)), seconds) for seconds, frame, *_ in video.frames()]
    return [number for number, _ in frames], [seconds for _, seconds in frames]


def taken(path: Path, intervals: Sequence[Interval] | None = None, **clips: Any) -> list[list[int] | str]:
    """What the frames of each result show, or why it failed."""
    options = {"fps": "native", "num_frames": 8, "crops": ["full"]} | clips
    found = kinegraph.decode(str(path), clips=options, intervals=intervals)
    return [[read(pixels) for pixels in one.pixels] if isinstance(one, kinegraph.Frames) else str(one) for one in found]


def looped(of: Sequence[int], K: int = 1, step: int = 1, **clips: Any) -> list[list[int]]:
    """The rule as a plain loop over the frames of a video or an interval, clip by clip."""
    n, T, short = len(of), 8, clips.get("short", "repeat_last")
    found = []
    for k in range(K):
        if clips.get("sampling", "dense") == "uniform":
            found.append([of[int((i + Fraction(2 * k + 1, 2 * K)) * n / T)] for i in range(T)])
            continue
        share = Fraction(k, K - 1) if K > 1 else Fraction(clips.get("sampling") == "centre", 2)
        start = int(max(0, n - T * step) * share)
        places = [start + i * step for i in range(T)]
        found.append([of[place % n if short == "loop" else min(place, n - 1)] for place in places])
    return found


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("v.mp4", H264),
        ("v.mp4", H264 | {"rate": Fraction(30000, 1001), "clock": Fraction(1, 600)}),
        ("v.mp4", H264 | {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("v.mov", {"codec": "mpeg4", "b_frames": 2}),
        ("v.mkv", H264 | {"rate": Fraction(24000, 1001)}),
        ("v.webm", {"codec": "libvpx", "rate": 12} | ALT_REF),
        ("v.webm", {"codec": "libvpx-vp9", "rate": 30} | ALT_REF),
        ("v.avi", {"codec": "mpeg4", "b_frames": 2}),
        ("v.avi", H264),
        ("v.ts", H264),
        ("v.mpg", {"codec": "mpeg2video", "b_frames": 2}),
        ("v.flv", {"codec": "libx264"}),
        ("v.h264", H264),
    ],
    ids=lambda value: value if isinstance(value, str) else value["codec"],
)
def test_frames_are_counted_in_any_container(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    path = write(tmp_path / name, 60, **how)
    frames = probe_counted(str(path)).frames
    assert frames is not None
    assert (frames.number, frames.rate) == (60, pytest.approx(float(how.get("rate", 25)), rel=1e-3))
    of = shown(path)[0]
    assert of == [*range(60)]
    assert taken(path, sampling="uniform", per_video=3) == looped(of, 3, sampling="uniform")
    assert taken(path, sampling="centre", frame_step=5) == looped(of, step=5, sampling="centre")
    assert taken(path, per_video=4, frame_step=3) == looped(of, 4, 3)


def test_a_late_clip_of_a_video_with_many_key_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", 300, 30, **H264, key_every=10)
    assert taken(path, [(8.0, 10.0)], frame_step=2) == [[*range(240, 256, 2)]]


def test_pictures_that_are_not_coded_and_packed_ones(tmp_path: Path) -> None:
    """A packet without a picture, and one with two, are in avi files by DivX and XviD."""
    assert taken(write_packed(tmp_path / "packed.avi"), sampling="uniform") == looped([*range(50)], sampling="uniform")
    path, packets = tmp_path / "void.avi", [(content, key) for _, content, key in _coded(1)]
    packets += [(_void(tick), False) for tick in range(1, 20)]
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 144, 64, "yuv420p"
        for number, (content, is_key) in enumerate(packets * 3):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), is_key
            packet.pts = packet.dts = number
            out.mux(packet)
    frames = probe_counted(str(path)).frames
    assert frames is not None
    assert frames.number == len(shown(path)[0]) < len(packets * 3)


def test_only_what_an_edit_list_shows_is_counted(tmp_path: Path) -> None:
    path = cut_by_edit_list(write(tmp_path / "v.mp4", 60, **H264), 0.52, 1.0)
    assert taken(path, sampling="uniform") == looped(range(13, 38), sampling="uniform")


def test_joined_recordings_and_a_stream_that_begins_within_a_group(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{n}.ts", 30, first=30 * n, **H264) for n in range(2)]
    path = joined(tmp_path / "v.ts", *parts)
    assert (
        taken(path, sampling="uniform")
        == looped(shown(path)[0], sampling="uniform")
        == looped([*range(60)], sampling="uniform")
    )
    whole = write(tmp_path / "whole.ts", key_every=20, options={"sc_threshold": "0"}).read_bytes()
    packets = [whole[at : at + 188] for at in range(0, len(whole), 188)]
    path.write_bytes(b"".join([*packets[:3], *packets[len(packets) // 6 :]]))
    assert taken(path, sampling="uniform") == looped(range(20, 50), sampling="uniform")


@pytest.mark.parametrize("ending", ["mkv", "mp4", "avi"])
def test_intervals_hold_the_frames_that_are_shown_in_them(tmp_path: Path, ending: str) -> None:
    """At 29.97 frames a second, whose stamps matroska rounds to milliseconds."""
    path = write(tmp_path / f"v.{ending}", 60, Fraction(30000, 1001), "mpeg4", clock=None)
    of, times = shown(path)
    for interval in [(0, 1), (0.52, 1.24), (times[20], times[40]), (times[7] - 0.01, times[8] - 0.01), (1.5, 9.0)]:
        assert taken(path, [interval], sampling="uniform") == looped(inside(of, times, interval), sampling="uniform")


def inside(of: Sequence[int], times: Sequence[float], interval: Interval) -> list[int]:
    """From the frame on the screen at the start to the last that is presented before the end."""
    first = max(n for n, t in enumerate(times) if t <= interval[0] + 1e-6)
    return [of[n] for n in range(first, len(of)) if times[n] < interval[1] - 1e-6]


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4", "v.mov", "v.ts"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_rate_that_varies(tmp_path: Path, name: str, codec: str) -> None:
    path = write_at(tmp_path / name, counting_frames(len(VARIABLE_MS)), VARIABLE_MS, codec=codec)
    with open_video(str(path)) as video:
        times = [timed.seconds for timed in video.frames()]
    assert len(times) == len(VARIABLE_MS)
    for interval in [None, (0.1, 0.95), (0.41, 1.0), (0.5, 0.8), (0.9, 1.58)]:
        for clips in ({"sampling": "uniform"}, {"frame_step": 2}, {"short": "loop"}):
            found = kinegraph.decode(
                str(path),
                clips={"fps": "native", "num_frames": 8, "crops": ["full"]} | clips,
                intervals=None if interval is None else [interval],
            )
            of = [*range(len(times))] if interval is None else inside(range(len(times)), times, interval)
            expected = looped(of, step=int(clips.get("frame_step", 1)), **clips)
            if len({*expected[0]}) == 1:
                assert isinstance(found[0], kinegraph.DecodeError)
                continue
            assert isinstance(found[0], kinegraph.Frames), found
            assert [numbers(found[0].pixels)] == expected
            assert found[0].times.tolist() == [times[n] for n in expected[0]]


@pytest.mark.parametrize("interval", [None, (0.2, 0.4)])
def test_what_a_short_video_or_interval_does(tmp_path: Path, interval: Interval | None) -> None:
    path = write(tmp_path / "v.mp4", 5 if interval is None else 50, **H264)
    of = [*range(5)] if interval is None else [*range(5, 10)]
    intervals = None if interval is None else [interval]
    for K, step in ((1, 1), (2, 1), (1, 3)):
        for short in ("repeat_last", "loop"):
            found = taken(path, intervals, short=short, per_video=K, frame_step=step)
            assert found == looped(of, K, step, short=short)
    (failed,) = taken(path, intervals, short="fail")
    words = "the clip reaches frame 7, the video has 5" if interval is None else "its interval 0.40 s"
    assert f"{failed}".startswith("too_short: "), failed
    assert words in failed
    assert taken(path, intervals, short="fail", num_frames=5) == [of]


def test_an_interval_that_begins_when_the_video_has_ended(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", 50, **H264)
    for begin in (2.0, 3.0):
        (failed,) = taken(path, [(begin, 4.0)], sampling="uniform")
        assert failed == f"too_short: the interval begins at {begin:.2f} s, the video ends at 2.00 s"


@pytest.mark.parametrize(("name", "codec"), [("v.webm", "libvpx"), ("v.mkv", "libx264"), ("v.flv", "libx264")])
def test_clips_of_what_a_broken_download_lacks_are_truncated(tmp_path: Path, name: str, codec: str) -> None:
    path = write(tmp_path / name, 100, codec=codec, sound_seconds=4)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    early, late = taken(path, [(0, 1), (3, 4)], sampling="uniform")
    assert [early] == looped(range(25), sampling="uniform")
    assert f"{late}".startswith("truncated: decoding ended at 2.")
    (whole,) = taken(path, sampling="uniform")
    assert f"{whole}".startswith("truncated: ")


def test_a_broken_mp4_is_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", 100, container_options={"movflags": "faststart"}, **H264)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    early, late = taken(path, [(0, 1), (3, 4)], sampling="uniform")
    assert [early] == looped(range(25), sampling="uniform")
    assert f"{late}".startswith("truncated: ")


def test_a_stream_without_a_rate_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", 30, 1200, **H264)
    (failed,) = taken(path)
    assert failed == (
        "unreadable: it tells no frame rate, which clips.fps: native needs; set clips.fps to a number for it"
    )
    (frames,) = kinegraph.decode(str(path), clips=clip_options())
    assert isinstance(frames, kinegraph.Frames)


def test_options_that_exclude_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", 5)
    for clips, words in (
        ({"fps": 6, "frame_step": 2}, "allowed: 1 with fps: 6"),
        ({"fps": "native", "sampling": "uniform", "frame_step": 2}, "allowed: 1 with sampling: uniform"),
        ({"fps": "nativ"}, r"clips\.fps.*native"),
    ):
        with pytest.raises(kinegraph.ConfigError, match=words):
            kinegraph.decode(str(path), clips=clips)


def test_images_by_number_and_only_those_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rate = write_images(tmp_path / "v"), 12.0
    opened: list[str] = []
    probe = probe_images(str(folder), rate)

    def opening(path: Path | str) -> io.BufferedReader:
        opened.append(Path(path).name)
        return open_regular(path)

    monkeypatch.setattr(numbered_images, "open_regular", opening)
    for clips, interval, expected in (
        ({"sampling": "uniform"}, None, [2, 6, 10]),
        ({"frame_step": 4}, None, [0, 4, 8]),
        ({"frame_step": 2}, (0.25, 0.75), [3, 5, 7]),
    ):
        options = ClipOptions.model_validate({"fps": "native", "num_frames": 3, "crops": ["full"]} | clips)
        video = Video(
            video_id="v", path=str(folder), split="", labels=(), list_index=0, interval=interval, frame_rate=rate
        )
        rows = [*video_rows(video, probe, options)]
        (clip,) = decode_clips(
            str(folder), rows, Wanted(num_frames=3, squares=frozenset([Square(size=16, every=1)])), 60
        )
        assert reds(clip) == expected
        assert isinstance(clip, DecodedClip)
        assert clip.frame_numbers.tolist() == expected == [*(rows[0].target_frames or ())]
        assert {*opened} == {"00001.jpg", *(f"{number + 1:05d}.jpg" for number in expected)}
        opened.clear()
