"""Overlays of videos of every kind, with predictions that are made up."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kinegraph.pipeline.predicting.overlay import write_overlay
from kinegraph.pipeline.predicting.pictures import Pictures
from kinegraph.pipeline.predicting.predictions import FrameBoxes, Prediction, ScoredSpan, joined_boxes
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import probe
from kinegraph.stages.decode.stream import open_video
from kinegraph.stages.pictures.overlay import Band, OverlayLayout
from kinegraph.stages.remote.options import StagingOptions
from kinegraph.stages.remote.staging import Staging
from tests import coded_videos
from tests.conftest import rotate_mp4, write_video

NAMES = ["left", "right"]
SCORES = torch.tensor([0.75, 0.25])


def frames_of(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with open_video(str(path)) as video:
        frames = [(shown.seconds, video.rgb(shown.frame)) for shown in video.frames()]
    return [seconds for seconds, _ in frames], [pixels for _, pixels in frames]


def overlaid(video: Path, target: Path, *spans: ScoredSpan, max_height: int = 720) -> list[np.ndarray]:
    """Write an overlay, require that it has the frames of the video at their times, and return its frames."""
    prediction = Prediction(video=str(video), clips=(), spans=spans)
    with Staging(StagingOptions()) as staging:
        written = write_overlay(prediction, NAMES, target, staging, max_height=max_height)
    (before, _), (after, frames) = frames_of(video), frames_of(target)
    assert after == pytest.approx(before, abs=1e-4)
    assert written.num_frames == len(frames)
    period = 1 / probe(str(video)).rate
    assert probe(str(target)).duration == pytest.approx(probe(str(video)).duration, abs=period)
    return frames


def span(start: float, end: float, *boxes: FrameBoxes) -> ScoredSpan:
    return ScoredSpan(start=start, end=end, probabilities=SCORES, boxes=boxes)


def upright(path: Path) -> Path:
    return coded_videos.write(path, num_frames=20)


def turned(path: Path) -> Path:
    rotate_mp4(coded_videos.write(path, num_frames=20), 180)
    return path


def on_its_side(path: Path) -> Path:
    rotate_mp4(coded_videos.write(path, num_frames=20), 90)
    return path


def varying(path: Path) -> Path:
    """The frames 0 to 19; some are shown for several periods."""
    pts = np.cumsum([0, *(1 + number % 4 for number in range(19))]).tolist()
    return write_video(path, np.stack([coded_videos.drawn(number) for number in range(20)]), fps=25, pts=pts)


def odd(path: Path) -> Path:
    return write_video(path, np.stack([coded_videos.drawn(number, 145, 65) for number in range(20)]), fps=25)


def with_b_frames(path: Path) -> Path:
    return coded_videos.write(path, num_frames=20, b_frames=2, clock=Fraction(1, 600))


TURNS = {"turned": 2, "on_its_side": 3}  # by 90 degrees, to read the number


@pytest.mark.parametrize("make", [upright, turned, on_its_side, varying, odd, with_b_frames])
def test_every_frame_is_there_once_upright_and_at_its_time(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    video = make(tmp_path / "video.mp4")
    told = probe(str(video))
    frames = overlaid(video, tmp_path / "out.mp4", span(0, 100))
    height, width = told.frame_height // 2 * 2, told.frame_width // 2 * 2
    assert all(frame.shape[1] == width and frame.shape[0] > height for frame in frames)
    shown = [np.rot90(frame[:height], -TURNS.get(make.__name__, 0)) for frame in frames]
    assert [coded_videos.read(np.ascontiguousarray(pixels)) for pixels in shown] == [*range(20)]


def moving_mark(path: Path) -> Path:
    """12 frames a second apart; a green mark is at x = 20, 25, ... in the middle of the height."""
    frames = np.full((12, 100, 160, 3), (90, 60, 60), np.uint8)
    for number, frame in enumerate(frames):
        frame[44:56, 20 + 5 * number : 32 + 5 * number] = (0, 220, 0)
    return write_video(path, frames, fps=1)


def white(frame: np.ndarray) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the white lines on the picture."""
    ys, xs = np.nonzero((frame[:100] > 200).all(-1))
    return (int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())) if len(xs) else None


def test_boxes_are_those_that_the_head_read_and_never_between(tmp_path: Path) -> None:
    """Boxes of seconds 2, 5 and 8, around the mark. At 3 and 4 the box of second 2 stays, dashed."""
    marks = {second: np.array([[12.0 + 5 * second, 36, 40 + 5 * second, 64]]) for second in (2, 5, 8)}
    boxes = [FrameBoxes(seconds=second, boxes=box) for second, box in marks.items()]
    frames = overlaid(moving_mark(tmp_path / "a.mp4"), tmp_path / "out.mp4", span(0, 10, *boxes))
    assert [white(frame) for frame in frames[:2]] == [None] * 2
    assert [white(frame) for frame in frames[10:]] == [None] * 2, "no clip is under way"
    for second in range(2, 10):
        read = max(time for time in marks if time <= second)
        left, top, right, bottom = white(frames[second]) or (0, 0, 0, 0)
        assert (left, top, right, bottom) == pytest.approx((12 + 5 * read, 36, 39 + 5 * read, 63), abs=2)
        num_white = (frames[second][36:64, 12 + 5 * read :][:, :28] > 200).all(-1).sum()
        if second == read:
            ys, xs = np.nonzero((frames[second][:100, :, 1] > 150) & (frames[second][:100, :, 0] < 80))
            assert (left < xs.min(), xs.max() < right, top < ys.min(), ys.max() < bottom) == (True,) * 4
            num_whole = num_white
        else:
            assert num_white < 0.8 * num_whole


def orange(frame: np.ndarray) -> np.ndarray:
    """Where the picture has lines of edges."""
    return np.asarray((frame[:100, :, 0] > 150) & (frame[:100, :, 2] < 110) & (frame[:100, :, 1] > 60))


def test_a_planted_edge_is_drawn_between_its_boxes(tmp_path: Path) -> None:
    """Four boxes at the corners. At second 2, box 3 (below right) collects from box 0, and at second 5 from box 1."""
    corners = [(5, 5), (5, 75), (135, 5), (135, 75)]
    boxes = np.array([[x, y, x + 20, y + 20] for x, y in corners], np.float64)
    frames = []
    for second, neighbour in ((2, 0), (5, 1)):
        edges = np.zeros((4, 4), np.float32)
        edges[3, neighbour] = 0.8
        frames.append(FrameBoxes(seconds=second, boxes=boxes, edges=edges))
    shown = overlaid(moving_mark(tmp_path / "a.mp4"), tmp_path / "out.mp4", span(0, 10, *frames))
    num_orange = [int(orange(frame).sum()) for frame in shown]
    assert [bool(number) for number in num_orange] == [2 <= second < 10 for second in range(12)]
    assert num_orange[3] < num_orange[2] / 2, "thin where the boxes are those of an earlier frame"
    ys, xs = np.nonzero(orange(shown[2]))
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == pytest.approx((15, 15, 145, 85), abs=6)
    assert np.corrcoef(xs, ys)[0, 1] > 0.95, "from above left to below right"
    ys, xs = np.nonzero(orange(shown[5]))
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == pytest.approx((15, 85, 145, 85), abs=6)


def test_the_three_strongest_edges_of_a_frame() -> None:
    """An edge counts with its larger direction, and edges without weight are none."""
    edges = np.zeros((5, 5), np.float32)
    edges[0, 1], edges[1, 0], edges[4, 2], edges[3, 1], edges[2, 3] = 0.1, 0.5, 0.9, 0.2, 0.3
    frame = FrameBoxes(seconds=0, boxes=np.zeros((5, 4)), edges=edges)
    assert [edge[:2] for edge in frame.strongest_edges(3)] == [(2, 4), (0, 1), (2, 3)]
    assert [edge[2] for edge in frame.strongest_edges(9)] == pytest.approx([0.9, 0.5, 0.3, 0.2])
    assert FrameBoxes(seconds=0, boxes=np.zeros((5, 4))).strongest_edges(3) == []
    assert FrameBoxes(seconds=0, boxes=np.zeros((0, 4)), edges=np.zeros((0, 0))).strongest_edges(3) == []


def test_boxes_of_two_clips_are_joined_with_their_edges() -> None:
    """The second clip reads the boxes in another order, and one more. The third has no boxes."""
    a, b, c = [1.0, 1, 2, 2], [0.0, 0, 1, 1], [5.0, 5, 6, 6]
    first = FrameBoxes(
        seconds=1.0, boxes=np.array([a, b]), edges=np.array([[0, 0.4], [0.1, 0]]), classes=("cup", "dog")
    )
    second = FrameBoxes(
        seconds=1.0,
        boxes=np.array([b, c, a, a]),
        edges=np.full((4, 4), 0.3) * (1 - np.eye(4)),
        classes=("dog", "hat", "cup", "mug"),
    )
    other = FrameBoxes(seconds=0.5, boxes=np.array([c]))
    earlier, joined = joined_boxes([first, second, other])
    assert (earlier.seconds, earlier.edges, joined.seconds) == (0.5, None, 1.0)
    assert joined.boxes.tolist() == [b, a, c]
    assert (joined.classes, earlier.classes) == (("dog", "cup / mug", "hat"), ())
    assert joined.edges is not None
    np.testing.assert_allclose(joined.edges, [[0, 0.3, 0.3], [0.4, 0, 0.3], [0.3, 0.3, 0]], rtol=1e-6)


def test_words_are_written_in_boxes_and_stay_on_the_picture() -> None:
    layout = OverlayLayout.fitted(160, 100, 720, num_bars=0)
    pixels, boxes = np.zeros((100, 160, 3), np.uint8), np.array([[10.0, 10, 60, 60], [150, 50, 158, 90], [9, 9, 9, 9]])
    plain = layout.drawn(pixels, boxes, Band(""), dashed=False)
    worded = layout.drawn(pixels, boxes, Band(""), dashed=False, classes=("cup", "person", "none"))
    ys, xs = np.nonzero((worded != plain).any(-1))
    left, right = xs < 80, xs >= 80
    assert (xs[left].min() >= 10, xs[left].max() < 60, ys[left].max() < 30) == (True,) * 3
    assert (xs[right].max() < 160, xs[right].min() < 150, ys[right].min() >= 45) == (True,) * 3


def test_the_band_is_that_of_the_clip_under_way(tmp_path: Path) -> None:
    video = moving_mark(tmp_path / "a.mp4")
    failed = ScoredSpan(start=6, end=9, probabilities=None, failure="too_short: it ends")
    frames = overlaid(video, tmp_path / "out.mp4", span(0, 3), span(3, 6), failed)
    bands = [frame[100:].astype(int) for frame in frames]
    changes = [number for number in range(1, 12) if abs(bands[number] - bands[number - 1]).max() > 100]
    assert changes == [3, 6, 9]


def test_a_video_with_sound_is_told(tmp_path: Path) -> None:
    heard = coded_videos.write(tmp_path / "a.mp4", num_frames=10, sound_seconds=0.4)
    silent = coded_videos.write(tmp_path / "b.mp4", num_frames=10)
    with Staging(StagingOptions()) as staging:
        for video, has_sound in ((heard, True), (silent, False)):
            prediction = Prediction(video=str(video), clips=(), spans=(span(0, 1),))
            told = write_overlay(prediction, NAMES, tmp_path / "out.mp4", staging, max_height=720)
            assert told.has_sound == has_sound
    with open_video(str(tmp_path / "out.mp4")) as video_file:
        assert not video_file.container.streams.audio


@pytest.mark.parametrize("error", [DecodeError("truncated", "gone"), KeyboardInterrupt()])
def test_an_error_in_the_midst_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    video = upright(tmp_path / "a.mp4")
    (tmp_path / "out.mp4").write_bytes(b"old")

    def stop(num_frames: int) -> None:
        if num_frames == 10:
            raise error

    with Staging(StagingOptions()) as staging, pytest.raises(type(error)):
        write_overlay(
            Prediction(video=str(video), clips=(), spans=(span(0, 1),)), NAMES, tmp_path / "out.mp4", staging,
            max_height=720, on_frame=stop,
        )  # fmt: skip
    assert (tmp_path / "out.mp4").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "out.mp4"]


def test_a_video_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = Prediction(video=str(tmp_path / "gone.mp4"), clips=(), spans=(span(0, 1),))
    with Staging(StagingOptions()) as staging, pytest.raises(DecodeError, match=r"missing.*gone\.mp4"):
        write_overlay(gone, NAMES, tmp_path / "out.mp4", staging, max_height=720)
    assert [*tmp_path.iterdir()] == []


def test_one_video_without_an_overlay_stops_no_other(tmp_path: Path) -> None:
    """The second video is gone after it was scored."""
    videos = [str(upright(tmp_path / "a.mp4")), str(tmp_path / "gone.mp4"), str(upright(tmp_path / "c.mp4"))]
    pictures = Pictures(videos, tmp_path / "out", None, top=5, max_height=720, overwrite=False)
    predictions = [
        Prediction(video=video, clips=(), spans=(span(0, 1),), scores=SCORES, probabilities=SCORES) for video in videos
    ]
    predictor: Any = SimpleNamespace(
        class_names=NAMES, config=SimpleNamespace(run=SimpleNamespace(staging=StagingOptions()))
    )
    told: list[tuple[str, int, int]] = []
    drawn = [*pictures.drawn(predictor, predictions, lambda *progress: told.append(progress))]
    assert [one.video for one in drawn] == videos
    assert pictures.written == [tmp_path / "out" / "a.mp4", tmp_path / "out" / "c.mp4"]
    assert [failure.partition(": ")[0] for failure in pictures.failures] == [videos[1]]
    assert told[-1] == ("frames of overlays", 40, 0)
