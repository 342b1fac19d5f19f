from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.wanted import Square, Wanted
from kinegraph.stages.regions.geometry import boxes_in_crop, on_input
from kinegraph.stages.regions.roi import region_features
from tests.stages.decode.conftest import clip_row, write_at

CROP = (10.0, 20.0, 50.0, 60.0)
BOXES = np.array(
    [
        [0, 0, 10, 60],  # touches the crop's left edge
        [5, 15, 30, 40],
        [12, 22, 20, 30],
        [60, 20, 70, 30],  # to the right of it
        [20, 30, 20, 40],  # without width
        [49, 59, 90, 90],
        [10, 20, 50, 60],  # past count
    ],
    np.float32,
)
SCORES = np.arange(7, 0, -1, dtype=np.float32)


def test_boxes_outside_the_crop_are_removed_and_the_rest_closed_up() -> None:
    boxes, scores, count = boxes_in_crop(BOXES, SCORES, 6, CROP, top=5)
    assert count == 3
    assert boxes[:3].tolist() == BOXES[[1, 2, 5]].tolist()
    assert scores.tolist() == [6, 5, 2, 0, 0]
    assert not boxes[3:].any()
    assert {boxes.dtype.name, scores.dtype.name} == {"float32"}


def test_only_the_first_boxes_are_kept() -> None:
    boxes, scores, count = boxes_in_crop(BOXES, SCORES, 6, CROP, top=2)
    assert (count, scores.tolist()) == (2, [6, 5])
    assert boxes.tolist() == BOXES[[1, 2]].tolist()


def test_a_frame_without_boxes() -> None:
    boxes, _, count = boxes_in_crop(BOXES, SCORES, 0, CROP, top=4)
    assert count == 0
    assert not boxes.any()


def test_boxes_are_scaled_per_axis_and_clipped_to_the_input() -> None:
    inside = on_input(np.array([[20, 30, 30, 50], [0, 0, 90, 25]]), np.array([10.0, 20.0, 50.0, 40.0]), 80)
    assert inside.tolist() == [[20, 40, 40, 80], [0, 0, 80, 20]]


def test_a_mirrored_crop_mirrors_its_boxes() -> None:
    boxes = np.array([[20, 30, 30, 50], [0, 0, 90, 25]], np.float32)
    plain, mirrored = (on_input(boxes, np.array([x1, 20.0, x2, 40.0]), 80) for x1, x2 in ((10.0, 50.0), (50.0, 10.0)))
    assert mirrored.tolist() == [[40, 40, 60, 80], [0, 0, 80, 20]]
    np.testing.assert_array_equal(mirrored, np.stack([80 - plain[:, 2], plain[:, 1], 80 - plain[:, 0], plain[:, 3]], 1))


@pytest.mark.parametrize("seed", range(20))
def test_a_drawn_rectangle_lands_on_its_box(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(0, 60, 2)
    x2, y2 = x1 + rng.integers(8, 40), y1 + rng.integers(8, 40)
    frame = np.zeros((100, 120), np.uint8)
    frame[y1:y2, x1:x2] = 255
    crop = (
        x1 - rng.uniform(0, x1),
        y1 - rng.uniform(0, y1),
        x2 + rng.uniform(0, 120 - x2),
        y2 + rng.uniform(0, 100 - y2),
    )
    size = int(rng.choice([48, 97, 160]))
    seen = np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR, box=crop)) > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    drawn = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    projected = on_input(np.array([x1, y1, x2, y2], np.float32), np.asarray(crop, np.float64), size)
    np.testing.assert_allclose(drawn, projected, atol=1)


@pytest.mark.parametrize("seed", range(8))
def test_a_rectangle_drawn_in_a_video_is_found_in_its_crop_after_decoding(tmp_path: Path, seed: int) -> None:
    """All the way: encoded, decoded, cropped and resized as for a backbone, and seen through RoIAlign."""
    rng = np.random.default_rng(seed)
    x1, y1 = (int(value) for value in rng.integers(8, 48, 2))
    x2, y2 = x1 + int(rng.integers(24, 40)), y1 + int(rng.integers(24, 40))
    frames = np.zeros((2, 96, 112, 3), np.uint8)
    frames[:, y1:y2, x1:x2] = 255
    path = write_at(tmp_path / "v.mp4", frames, [0, 100])
    crop = (x1 - rng.uniform(2, x1), y1 - rng.uniform(2, y1), x2 + rng.uniform(2, 20), float(rng.uniform(y2 + 2, 96)))
    row = clip_row(path, [0.0, 0.1], crop=crop, frame_width=112, frame_height=96)
    square = Square(size=64, every=1)
    (clip,) = decode_clips(str(path), [row], Wanted(num_frames=2, squares=frozenset([square])), 60.0)
    assert isinstance(clip, DecodedClip)
    seen = clip.squares[square][0, ..., 0]
    box = on_input(np.array([x1, y1, x2, y2], np.float32), np.asarray(crop, np.float64), 64)
    bright = seen > 127
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], box, atol=1.5)
    maps, valid = torch.from_numpy(seen.copy())[None, None].float(), torch.tensor([[True]])
    mean = region_features(maps, torch.from_numpy(box)[None, None], valid, stride=1, reduce="mean").features
    assert mean.item() > 0.9 * 255 > 0.9 * 255 * bright.mean()
