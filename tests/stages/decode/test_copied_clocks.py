"""An mp4, mov or ts that was copied from an mkv, webm or flv keeps whole milliseconds on a finer clock."""

from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.counting import probe_counted
from kinegraph.stages.decode.open_videos import OpenVideos
from kinegraph.stages.decode.stream import open_video
from kinegraph.stages.decode.timeline import COPIED_TICK_SECONDS, are_copied
from kinegraph.stages.decode.wanted import Wanted
from tests.coded_videos import HEIGHT, WIDTH, copied, taken, write
from tests.stages.decode.conftest import clip_row
from tests.stages.decode.test_any_clock import MANY, RATES, STARTS, stamps

NTSC, FILM = Fraction(30000, 1001), Fraction(24000, 1001)
FINE_CLOCKS = st.sampled_from([Fraction(1, n) for n in (12288, 15360, 16000, 24000, 30000, 90000, 1200000)])
FAST = {"deadline": "realtime", "cpu-used": "8"}
COPIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mkv to mp4": ("v.mkv", "v.mp4", {}),
    "mkv to mov": ("v.mkv", "v.mov", {"b_frames": 2}),
    "webm to mp4": ("v.webm", "v.mp4", {"codec": "libvpx-vp9", "options": FAST}),
    "flv to ts": ("v.flv", "v.ts", {"b_frames": 2}),
}


def slack_seconds(path: Path) -> float:
    with open_video(str(path)) as video:
        return video.slack_seconds


@pytest.mark.parametrize(
    ("case", "rate"),
    [*(("mkv to mp4", rate) for rate in (12, 24, 30, 60, FILM, NTSC)), *((case, 24) for case in [*COPIES][1:])],
)
def test_each_frame_once(tmp_path: Path, case: str, rate: Fraction | int) -> None:
    source, name, how = COPIES[case]
    path = copied(tmp_path / name, write(tmp_path / source, 40, rate, **how))
    assert slack_seconds(path) == COPIED_TICK_SECONDS
    times = [float(k / rate) for k in range(40)]
    assert taken(path, times) == list(range(40))
    for part in (1, 2):
        fps = float(Fraction(rate) / part)
        assert taken(path, sampling="dense", fps=fps, num_frames=16) == list(range(0, 16 * part, part))
    frames = probe_counted(str(path)).frames
    assert frames is not None
    assert [frames.within((times[k], times[k + 4])) for k in range(30)] == [range(k, k + 4) for k in range(30)]


@pytest.mark.parametrize("rate", [12, 24, 25, 30, 50, 60, FILM, NTSC])
@pytest.mark.parametrize("name", ["v.mp4", "v.mov", "v.ts"])
def test_other_files_have_the_slack_of_their_own_clock(tmp_path: Path, name: str, rate: Fraction | int) -> None:
    path = write(tmp_path / name, 40, rate, b_frames=2)
    with open_video(str(path)) as video:
        assert video.slack_seconds == float(video.stream.time_base or 0) < COPIED_TICK_SECONDS


def test_a_copy_of_25_a_second_lost_nothing(tmp_path: Path) -> None:
    path = copied(tmp_path / "v.mp4", write(tmp_path / "v.mkv", 40, 25))
    assert slack_seconds(path) == 1 / 16000


@MANY
@given(rate=RATES, clock=FINE_CLOCKS, start=STARTS, number=st.integers(12, 400))
def test_stamps_of_a_fine_clock_are_its_own(rate: Fraction, clock: Fraction, start: Fraction, number: int) -> None:
    assert not are_copied(stamps(rate, clock, start, number), float(clock))


@MANY
@given(rate=RATES, clock=FINE_CLOCKS, start=STARTS, number=st.integers(12, 400))
def test_rounded_stamps_are_recognised(rate: Fraction, clock: Fraction, start: Fraction, number: int) -> None:
    """But where frames fall on whole milliseconds anyway."""
    rounded = [round(ms / 1000 / clock) for ms in stamps(rate, Fraction(1, 1000), start, number)]
    is_lost = (1000 / Fraction(rate)).denominator > 1
    assert are_copied(rounded, float(clock)) == is_lost


def test_stamps_that_nobody_rounded() -> None:
    """A recording with gaps, at 25 a second; one of a phone, on a clock of 90,000; one frame; none."""
    with_gaps = [640 * k for k in range(80) if k % 7]
    of_a_phone = [3003 * k + 37 * k % 911 for k in range(80)]
    for ticks, clock in ((with_gaps, 16000), (of_a_phone, 90000), ([0], 16000), ([], 16000)):
        assert not are_copied(ticks, 1 / clock)


def test_decode_times_that_were_made_up_do_not_hide_it() -> None:
    """FFmpeg's program gives the first B-frames of a copy times by the rate."""
    rounded = [16 * ms for ms in stamps(Fraction(24), Fraction(1, 1000), Fraction(0), 40)]
    assert are_copied([-1333, -677, *rounded], 1 / 16000)


def test_all_ways_to_open_it_take_the_same_frames(tmp_path: Path) -> None:
    """From the start, from a key frame, where it was left, and as an open file."""
    path = copied(tmp_path / "v.mp4", write(tmp_path / "v.mkv", 480, 24, key_every=48, b_frames=2))
    rows = [
        clip_row(path, [(first + n) / 24 for n in range(8)], clip=first, frame_width=WIDTH, frame_height=HEIGHT)
        for first in (1, 203, 401)
    ]
    from_start = decode_clips(str(path), rows, Wanted(num_frames=8), 60.0)
    with closing(OpenVideos(2)) as open_videos:
        for row, clip in zip(rows, from_start, strict=True):
            (late,) = decode_clips(str(path), [row], Wanted(num_frames=8), 60.0, open_videos=open_videos)
            assert isinstance(clip, DecodedClip)
            assert isinstance(late, DecodedClip)
            assert clip.frame_times.tolist() == late.frame_times.tolist()
            assert clip.coded_numbers.tolist() == [int(row.clip_id.split(":")[1]) + n for n in range(8)]
    with path.open("rb") as file:
        assert probe_counted(file) == probe_counted(str(path))
