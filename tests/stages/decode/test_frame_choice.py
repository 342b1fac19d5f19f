"""Which frame stands for a time: the last with pts <= t, on the clock of the first presented frame."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.stream import OpenVideo, open_video
from kinegraph.stages.decode.wanted import Square, Wanted, WholeFrame
from tests.stages.decode.conftest import clip_row, counting_frames, numbers, write_at

SMALL, COARSE = Square(size=16, every=1), Square(size=8, every=2)
EVEN = [100 * n for n in range(10)]
VARIABLE = [0, 40, 80, 400, 440, 900, 910, 1500]


def counting_video(path: Path, times_ms: Sequence[int], **how: Any) -> Path:
    return write_at(path, counting_frames(len(times_ms)), times_ms, **how)


def decoded(path: Path, rows: list[ClipRow], **wanted: Any) -> list[DecodedClip]:
    known: dict[str, Any] = {"num_frames": len(rows[0].target_times), "squares": frozenset([SMALL])}
    asked = Wanted(**known | wanted)
    clips = [clip for clip in decode_clips(str(path), rows, asked, 60.0) if isinstance(clip, DecodedClip)]
    assert len(clips) == len(rows)
    return clips


@pytest.mark.parametrize(
    ("shown_at", "times", "expected"),
    [
        (EVEN, [0.0, 0.05, 0.1, 0.199, 0.2, 0.55, 0.9, 0.95], [0, 0, 1, 1, 2, 5, 9, 9]),
        (VARIABLE, [0.0, 0.079, 0.08, 0.39, 0.4, 0.905, 1.499, 1.5], [0, 1, 2, 2, 3, 5, 6, 7]),
        ([700 + t for t in EVEN], [0.0, 0.25, 0.3, 0.9], [0, 2, 3, 9]),
    ],
    ids=["constant rate", "variable rate", "first frame not at 0"],
)
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_last_frame_at_or_before_the_time(
    tmp_path: Path, codec: str, shown_at: list[int], times: list[float], expected: list[int]
) -> None:
    path = counting_video(tmp_path / "v.mkv", shown_at, codec=codec)
    (clip,) = decoded(path, [clip_row(path, times)])
    assert numbers(clip.squares[SMALL]) == expected
    np.testing.assert_allclose(clip.frame_times, [(shown_at[n] - shown_at[0]) / 1000 for n in expected], atol=1e-9)


def test_a_time_before_the_first_frame_gives_the_first(tmp_path: Path) -> None:
    path = counting_video(tmp_path / "v.mkv", EVEN)
    (clip,) = decoded(path, [clip_row(path, [-0.5, 0.35])])
    assert numbers(clip.squares[SMALL]) == [0, 3]


def test_b_frames_come_in_presentation_order(tmp_path: Path) -> None:
    path = counting_video(
        tmp_path / "v.mp4", EVEN, codec="libx264", options={"x264-params": "bframes=3:b-adapt=0:scenecut=0"}
    )
    with open_video(str(path)) as video:
        stamps = [packet.pts for packet in video.container.demux(video.stream) if packet.pts is not None]
    assert stamps != sorted(stamps), "no b-frames in the file: the test would prove nothing"
    (clip,) = decoded(path, [clip_row(path, [t / 1000 for t in EVEN])])
    assert numbers(clip.squares[SMALL]) == list(range(10))


def test_rounded_times_name_their_own_frame(tmp_path: Path) -> None:
    """i / fps as a float may fall short of the pts it means."""
    path = counting_video(tmp_path / "v.mkv", EVEN)
    (clip,) = decoded(path, [clip_row(path, [float(np.nextafter(n / 10, -1)) for n in range(10)])])
    assert numbers(clip.squares[SMALL]) == list(range(10))


@pytest.mark.parametrize("times", [[0.0, 0.5, 0.92, 5.0], [0.9, 0.1, 0.5, 0.1]], ids=["past the end", "not sorted"])
def test_times_past_the_end_and_in_any_order(tmp_path: Path, times: list[float]) -> None:
    path = counting_video(tmp_path / "v.mkv", EVEN)
    (clip,) = decoded(path, [clip_row(path, times)])
    assert numbers(clip.squares[SMALL]) == [min(int(10 * t), 9) for t in times]


def test_every_second_frame(tmp_path: Path) -> None:
    path = counting_video(tmp_path / "v.mkv", EVEN)
    whole = WholeFrame(network_size=lambda height, width: (height // 2, width // 2), every=3)
    row = clip_row(path, [n / 10 for n in range(6)])
    (clip,) = decoded(path, [row], squares=frozenset([SMALL, COARSE]), whole=whole)
    assert numbers(clip.squares[SMALL]) == [0, 1, 2, 3, 4, 5]
    assert numbers(clip.squares[COARSE]) == [0, 2, 4]
    assert clip.whole is not None
    assert clip.whole.shape == (2, 16, 24, 3)
    assert numbers(clip.whole) == [0, 3]


def test_one_pass_for_several_clips_and_crops_is_several_passes(tmp_path: Path) -> None:
    frames = counting_frames(8)
    frames[:, 8:24, 4:12] += 40
    path = write_at(tmp_path / "v.mkv", frames, VARIABLE)
    whole = WholeFrame(network_size=lambda height, width: (16, 24), every=2)
    crops = {"left": (0.0, 0.0, 32.0, 32.0), "right": (16.0, 0.0, 48.0, 32.0)}
    rows = [
        clip_row(path, times, clip=number, crop_name=name, crop=crop)
        for number, times in enumerate([[0.0, 0.4, 0.41, 1.5], [0.05, 0.3, 0.95, 0.96]])
        for name, crop in crops.items()
    ]
    together = decoded(path, rows, whole=whole)
    for row, clip in zip(rows, together, strict=True):
        (alone,) = decoded(path, [row], whole=whole)
        np.testing.assert_array_equal(clip.frame_times, alone.frame_times)
        np.testing.assert_array_equal(clip.squares[SMALL], alone.squares[SMALL])
        assert clip.whole is not None
        assert alone.whole is not None
        np.testing.assert_array_equal(clip.whole, alone.whole)
    assert together[0].whole is together[1].whole, "crops of a clip share the whole frames"
    assert together[0].whole is not together[2].whole
    assert (together[0].squares[SMALL] != together[1].squares[SMALL]).any()


def test_decoding_stops_once_all_is_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = counting_video(tmp_path / "v.mkv", EVEN)
    seen = []
    really_frames = OpenVideo.frames

    def frames(self: OpenVideo, deadline: float) -> Any:
        for shown in really_frames(self, deadline):
            seen.append(shown.seconds)
            yield shown

    monkeypatch.setattr(OpenVideo, "frames", frames)
    decoded(path, [clip_row(path, [0.0, 0.2])])
    assert len(seen) == 4, "frames 0 to 2, and the one that shows that 2 is the last before its successor"


@pytest.mark.parametrize("times", [[0.0, 0.05, 0.905, 1.5], [0.0, 0.04]], ids=["to the end", "the beginning only"])
def test_places_in_the_video_where_they_are_asked_for(tmp_path: Path, times: list[float]) -> None:
    """Counted as presented, whether the video is needed to its end or not."""
    path = counting_video(tmp_path / "v.mp4", VARIABLE)
    (clip,) = decoded(path, [clip_row(path, times)], numbered=True)
    assert clip.frame_numbers.tolist() == numbers(clip.squares[SMALL])
    assert clip.video_frames == len(VARIABLE)
    (plain,) = decoded(path, [clip_row(path, times)])
    assert np.array_equal(plain.squares[SMALL], clip.squares[SMALL])
