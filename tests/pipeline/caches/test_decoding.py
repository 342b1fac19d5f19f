"""`kinegraph.probe` and `kinegraph.decode` outside any cache: times, intervals, folders of images, what is refused."""

from pathlib import Path
from typing import Any

import pytest

import kinegraph
from tests.coded_videos import read, write
from tests.stages.decode.test_numbered_images import write_images


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """50 frames, 25 a second."""
    return write(tmp_path / "v.mp4")


def numbers(frames: Any) -> list[int]:
    assert isinstance(frames, kinegraph.Frames), frames
    return [read(pixels) for pixels in frames.pixels]


def test_any_number_of_times_in_any_order(video: Path) -> None:
    for times, expected in (
        ([1.0, 0.2, 0.2, -1.0, 9.0], [25, 5, 5, 0, 49]),
        ([1.0, 1.0], [25, 25]),
        ([1.0, 1.01], [25, 25]),
        ([0.4], [10]),
    ):
        assert numbers(*kinegraph.decode(video, times=times)) == expected
    (many,) = kinegraph.decode(video, times=[0.4] * 10_001, size=4)
    assert isinstance(many, kinegraph.Frames)
    assert many.pixels.shape == (10_001, 4, 4, 3)


def test_times_stay_within_intervals(video: Path) -> None:
    late, early = kinegraph.decode(video, times=[0.0, 1.0, 1.9], intervals=[(0.8, 1.2), (0, 0.4)])
    assert (numbers(late), numbers(early)) == ([20, 25, 29], [0, 9, 9])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"times": [0.0, float("nan")]}, "times: given nan, allowed: finite"),
        ({"times": [float("inf")]}, "times: given inf, allowed: finite"),
        ({"times": [0.0], "size": 0}, "size: given 0, allowed"),
        ({"times": [0.0], "size": 6.5}, "size: given 6.5, allowed"),
        ({"intervals": [(1, 0.5)]}, r"intervals: given \(1, 0.5\), allowed.*0 <= start < end"),
        ({"intervals": [(0, float("nan"))]}, "allowed.*0 <= start < end"),
        ({"intervals": (0, 1)}, "intervals: given 0, allowed"),
        ({"clips": {"num_frame": 2}}, "clips.num_frame: unknown key; .*known here: num_frames, fps"),
        ({"frame_rate": 0}, "frame_rate: given 0, allowed: above 0"),
    ],
)
def test_what_cannot_be_used_is_named(video: Path, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(kinegraph.ConfigError, match=words):
        kinegraph.decode(video, **asked)


def test_folders_of_numbered_images(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v", "img_%05d.png")
    told = kinegraph.probe(folder, frame_rate=12)
    assert (told.duration, told.width, told.height, told.rate) == (1.0, 48, 32, 12)
    (frames,) = kinegraph.decode(folder, times=[0.5, 0.0], frame_rate=12)
    assert isinstance(frames, kinegraph.Frames)
    assert frames.pixels.shape == (2, 32, 48, 3)
    assert frames.pixels[:, 0, 0, 0].tolist() == [120, 0]
    (counted,) = kinegraph.decode(folder, clips={"fps": "native", "num_frames": 3, "frame_step": 2}, frame_rate=12)
    assert isinstance(counted, kinegraph.Frames)
    assert counted.pixels[:, 0, 0, 0].tolist() == [0, 40, 80]

    (error,) = kinegraph.decode(folder, times=[0.0])
    assert isinstance(error, kinegraph.DecodeError)
    assert "a file is expected, or frame_rate, images a second" in error.detail
    (folder / "img_00001.png").write_text("no image")
    with pytest.raises(kinegraph.DecodeError, match=r"img_00001.png: no image; expected one of BMP"):
        kinegraph.probe(folder, frame_rate=12)
