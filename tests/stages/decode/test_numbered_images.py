"""Folders of numbered images as videos: their names, times, pixels and faults."""

import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.regular import open_regular
from kinegraph.stages.decode import numbered_images
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.numbered_images import READERS, images_changed, images_identity, open_images, probe_images
from kinegraph.stages.decode.wanted import Square, Wanted
from tests.stages.decode.conftest import clip_row

RATE = 12.0


def write_images(
    folder: Path, pattern: str = "%05d.jpg", count: int = 12, first: int = 1, size: Any = (48, 32)
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", size, (20 * (number - first), 0, 0)).save(folder / (pattern % number))
    return folder


def decoded(folder: Path, *times: list[float]) -> list[DecodedClip | DecodeError]:
    """A clip per list of times."""
    rows = [clip_row(folder, at, clip=number, frame_rate=RATE) for number, at in enumerate(times)]
    wanted = Wanted(num_frames=len(times[0]), squares=frozenset([Square(size=16, every=1)]))
    return decode_clips(str(folder), rows, wanted, 60.0)


def reds(clip: DecodedClip | DecodeError) -> list[int]:
    assert isinstance(clip, DecodedClip), clip
    (pixels,) = clip.squares.values()
    return [round(int(frame[8, 8, 0]) / 20) for frame in pixels]


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("%05d.jpg", 1),
        ("img_%05d.jpg", 1),
        ("frame_%06d.png", 0),
        ("YSKX3-%06d.jpg", 1),
        ("7_%d.JPG", 1),
        ("%d.webp", 0),
    ],
)
def test_image_i_is_shown_at_i_over_the_rate(pattern: str, first: int, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v1.5", pattern, first=first)
    (folder / "notes.txt").touch()
    probe = probe_images(str(folder), RATE)
    assert (probe.duration, probe.frame_width, probe.frame_height) == (1.0, 48, 32)
    every, late = decoded(folder, [i / RATE for i in range(12)], [(i + 0.5) / RATE for i in range(12)])
    assert reds(every) == reds(late) == [*range(12)]
    assert isinstance(late, DecodedClip)
    assert late.frame_numbers.tolist() == [*range(12)]
    assert late.frame_times == pytest.approx([i / RATE for i in range(12)])


def test_only_wanted_images_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "v")
    opened: list[str] = []

    def opening(path: Path | str) -> io.BufferedReader:
        opened.append(Path(path).name)
        return open_regular(path)

    monkeypatch.setattr(numbered_images, "open_regular", opening)
    assert reds(decoded(folder, [0.5, 0.75])[0]) == [6, 9]
    assert sorted(opened) == ["00001.jpg", "00007.jpg", "00010.jpg"], "the first one for its size"


def test_images_are_read_side_by_side_and_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, together = write_images(tmp_path / "v"), threading.Barrier(READERS, timeout=30)
    is_read = [threading.Event() for _ in range(5)]

    def opened(path: str) -> Any:
        place = int(Path(path).stem) - 1
        if place in (1, 2, 3, 4):  # all four begin before one is read, and the last comes first
            together.wait()
            assert place == 4 or is_read[place + 1].wait(30)
            is_read[place].set()
        return open_regular(path)

    monkeypatch.setattr(numbered_images, "open_regular", opened)
    assert reds(decoded(folder, [(i + 0.5) / RATE for i in range(1, 12)])[0]) == [*range(1, 12)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("image")]


def test_clips_take_the_image_that_is_on_the_screen(tmp_path: Path) -> None:
    with open_images(str(write_images(tmp_path / "v", count=40)), 29.97) as video:
        assert [video.place(i / 29.97) for i in range(42)] == [*range(40), 39, 39]
        assert [video.place((i - 0.1) / 29.97) for i in range(4)] == [0, 0, 1, 2]
        video.read_ahead([0, 0, 5, 700])
        assert [round(int(video.rgb(place)[0, 0, 0]) / 20) for place in (0, 5, 7)] == [0, 5, 7], "also one not expected"


def test_a_stop_is_obeyed_while_an_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, end, noted = write_images(tmp_path / "v"), threading.Event(), stopping._Noted()

    def opened(path: str) -> Any:
        if path.endswith("00003.jpg"):
            noted.signal = signal.SIGTERM
            assert end.wait(30)
        return open_regular(path)

    monkeypatch.setattr(stopping, "_noted", noted)
    monkeypatch.setattr(numbered_images, "open_regular", opened)
    with pytest.raises(stopping.Terminated):
        decoded(folder, [0.0, 2 / RATE])
    end.set()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["00001.jpg", "00002.jpg", "00004.jpg"], r"the image 00003\.jpg is missing"),
        (["00005.jpg", "00006.jpg"], r"the image with number 1 is missing; the first is 00005\.jpg"),
        (["img_1.jpg", "flow_x_1.jpg"], r"numbered in 2 ways, as flow_x_1\.jpg and img_1\.jpg"),
        (["1.jpg", "2.png"], r"numbered in 2 ways, as 1\.jpg and 2\.png"),
        (["1.jpg", "01.jpg", "2.jpg"], "does not continue the numbers before it"),
        (["1.jpg", "02.jpg"], r"02\.jpg does not continue the numbers before it, as 2\.jpg would"),
        (["cover.jpg"], "a folder without numbered images"),
    ],
)
def test_folders_that_are_no_video(names: list[str], words: str, tmp_path: Path) -> None:
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(DecodeError, match=words) as error:
        probe_images(str(tmp_path), RATE)
    assert error.value.reason == "unreadable"
    assert isinstance(decoded(tmp_path, [0.0])[0], DecodeError)


def test_a_bad_image_fails_the_clips_that_it_touches(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v")
    Image.new("RGB", (40, 32)).save(folder / "00004.jpg")
    (folder / "00006.jpg").write_bytes((folder / "00006.jpg").read_bytes()[:300])
    (folder / "00008.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    Image.new("CMYK", (48, 32)).save(folder / "00009.jpg")
    good, other_size, cut, eps, cmyk, last = decoded(folder, *([0.0, i / RATE] for i in (1, 3, 5, 7, 8, 11)))
    assert reds(good) == [0, 1]
    assert reds(last) == [0, 11]
    for clip, words in (
        (other_size, "00004.jpg has 40x32 px, 00001.jpg has 48x32; one size is expected"),
        (cut, "00006.jpg: Truncated File Read"),
        (eps, "00008.jpg: no image; expected one of BMP, JPEG"),
        (cmyk, "00009.jpg: of kind CMYK; expected 8-bit grey, palette or RGB"),
    ):
        assert isinstance(clip, DecodeError)
        assert (clip.reason, words in clip.detail) == ("unreadable", True), clip.detail


def test_a_fifo_is_no_image(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v")
    (folder / "00010.jpg").unlink()
    os.mkfifo(folder / "00010.jpg")
    with pytest.raises(DecodeError, match=r"the image 00010\.jpg is missing"):
        probe_images(str(folder), RATE)


def test_kinds_of_images(tmp_path: Path) -> None:
    red = Image.new("RGB", (6, 4), (255, 0, 0))
    red.paste((0, 0, 255), (0, 0, 6, 2))
    alpha = red.convert("RGBA")
    alpha.putalpha(7)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown after a quarter turn clockwise
    for number, image in enumerate((red, alpha, red.convert("P"))):
        image.save(tmp_path / f"{number}.png")
    red.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "3.png", exif=turned)
    red.convert("L").save(tmp_path / "4.png")
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "5.png")
    with open_images(str(tmp_path), RATE) as video:
        shown = [video.rgb(index) for index in range(5)]
        with pytest.raises(DecodeError, match=r"5\.png: of kind I"):
            video.rgb(5)
    for pixels in shown[:4]:
        assert np.array_equal(pixels, np.asarray(red))
    assert (shown[4].shape, shown[4].dtype) == ((4, 6, 3), np.uint8)


def test_the_identity_covers_names_sizes_and_content(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v")
    source = images_identity(str(folder))
    assert source is not None
    assert source.size == sum(path.stat().st_size for path in folder.iterdir())
    assert not images_changed(str(folder), source)
    os.utime(folder, ns=(0, source.mtime_ns + 10**9))
    assert not images_changed(str(folder), source), "other times, and the same images"
    write_images(folder, count=13)
    assert images_changed(str(folder), source)
    assert images_identity(str(tmp_path / "nowhere")) is None


def test_time_that_is_up(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v")
    with open_images(str(folder), RATE) as video, pytest.raises(DecodeError, match="timeout: 0 of 12 images"):
        next(video.frames(deadline=0.0))


def write_flow(folder: Path, pattern: str = "flow_%s_%05d.jpg", axes: str = "xy", count: int = 6) -> Path:
    """Along x 100 + 10 i everywhere, along y 50, at place i from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        for axis, value in zip(axes, (100 + 10 * number, 50), strict=True):
            Image.new("L", (48, 32), value).save(folder / (pattern % (axis, number + 1)), quality=100)
    return folder


def flow(folder: Path, *, of_flow: bool = True) -> DecodedClip | DecodeError:
    wanted = Wanted(num_frames=3, squares=frozenset([Square(size=16, every=1, of_flow=of_flow)]))
    rows = [clip_row(folder, [0.0, 0.25, 5 / RATE], frame_rate=RATE)]
    return decode_clips(str(folder), rows, wanted, 60.0)[0]


@pytest.mark.parametrize(("pattern", "axes"), [("flow_%s_%05d.jpg", "xy"), ("%s_%d.png", "xy"), ("%s%05d.png", "uv")])
def test_two_series_along_x_and_y_are_optical_flow(pattern: str, axes: str, tmp_path: Path) -> None:
    folder = write_flow(tmp_path / "v", pattern, axes)
    assert probe_images(str(folder), RATE).duration == 0.5
    clip = flow(folder)
    assert isinstance(clip, DecodedClip)
    (pixels,) = clip.squares.values()
    assert pixels[:, 8, 8].tolist() == [[100, 50, 0], [130, 50, 0], [150, 50, 0]]
    refused = flow(folder, of_flow=False)
    assert isinstance(refused, DecodeError)
    assert "has optical flow" in refused.detail
    assert "needs pictures" in refused.detail


def test_pictures_are_no_optical_flow(tmp_path: Path) -> None:
    refused = flow(write_images(tmp_path / "v"))
    assert isinstance(refused, DecodeError)
    assert "has pictures, and a network needs optical flow" in refused.detail
    video = decode_clips(
        "v.mp4",
        [clip_row(tmp_path / "v.mp4", [0.0])],
        Wanted(num_frames=1, squares=frozenset([Square(size=16, every=1, of_flow=True)])),
        60.0,
    )[0]
    assert isinstance(video, DecodeError)
    assert "needs optical flow" in video.detail


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda folder: (folder / "flow_y_00006.jpg").unlink(),
            "6 images of flow along x from flow_x_00001.jpg on, and 5",
        ),
        (lambda folder: (folder / "flow_x_00003.jpg").unlink(), "the image flow_x_00003.jpg is missing"),
        (lambda folder: write_images(folder, "img_%05d.jpg"), "are numbered in 3 ways"),
        (
            lambda folder: Image.new("RGB", (48, 32)).save(folder / "flow_y_00001.jpg"),
            "flow_y_00001.jpg: of kind RGB; flow",
        ),
        (lambda folder: Image.new("L", (48, 30)).save(folder / "flow_y_00001.jpg"), "have 48x32 and 48x30 px"),
    ],
)
def test_a_folder_of_flow_with_a_fault(change: Callable[[Path], Any], told: str, tmp_path: Path) -> None:
    change(write_flow(tmp_path / "v"))
    refused = flow(tmp_path / "v")
    assert isinstance(refused, DecodeError)
    assert told in refused.detail
