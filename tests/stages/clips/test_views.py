"""Views are drawn for a clip and an epoch alone, stay inside the row's crop, and pixels and boxes agree in them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.crops import crop_rectangle
from kinegraph.pipeline.training.decoded_clips import _apply, _coloured, _viewed
from kinegraph.stages.clips.views import View, ViewOptions, check_views, view_of
from kinegraph.stages.decode.squares import FramePixels
from kinegraph.stages.decode.wanted import Square
from kinegraph.stages.regions.geometry import on_input

WIDTH, HEIGHT, SIZE = 120, 80, 64
OPTIONS = ViewOptions(short_side=(64, 112), mirror=True, brightness=0.5, contrast=0.5, saturation=0.5)


def row(number: int = 0, crop: str = "full") -> ClipRow:
    return ClipRow(
        clip_id=f"v{number}.mp4:0:{crop}", video_id=f"v{number}.mp4", path="v.mp4", split="train", start_seconds=0,
        end_seconds=1, labels=(0,), target_times=(0.5,), crop=crop_rectangle(crop, WIDTH, HEIGHT), frame_width=WIDTH,
        frame_height=HEIGHT, mirrored=crop.endswith("_flip"),
    )  # fmt: skip


def test_a_view_is_a_pure_function_of_seed_epoch_and_clip() -> None:
    known = [*product((0, 1), (1, 2), range(5))]
    views = {(seed, epoch, n): view_of(row(n), SIZE, OPTIONS, seed, epoch) for seed, epoch, n in known}
    assert len(set(views.values())) == 20
    for (seed, epoch, n), view in reversed(views.items()):
        assert view_of(row(n), SIZE, OPTIONS, seed, epoch) == view
    assert {view.mirrored for view in views.values()} == {True, False}


@pytest.mark.parametrize("crop", ["full", "center", "left_flip"])
def test_squares_stay_inside_the_crop_and_have_the_asked_sides(crop: str) -> None:
    x1, y1, x2, y2 = row(0, crop).crop
    for number in range(50):
        rectangle = view_of(row(number, crop), SIZE, OPTIONS, 0, 1).rectangle
        assert rectangle is not None
        left, top, right, bottom = rectangle
        assert x1 <= left < right <= x2 + 1e-9
        assert y1 <= top < bottom <= y2 + 1e-9
        assert right - left == pytest.approx(bottom - top)
        assert 80 * 64 / 112 <= right - left <= 80


@pytest.mark.parametrize("crop", ["full", "center", "center_flip"])
def test_a_marked_pixel_stays_in_its_box(crop: str) -> None:
    """A white spot of 6 px in each of 60 random views; its box is dropped where the view does not show it."""
    rng, seen = np.random.default_rng(0), 0
    for number in range(60):
        x, y = rng.uniform(8, WIDTH - 8), rng.uniform(8, HEIGHT - 8)
        box = (x - 5, y - 5, x + 5, y + 5)
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        pixels[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = 255
        clip, view = row(number, crop), view_of(row(number, crop), SIZE, OPTIONS, 3, 1)
        picture = FramePixels.of(Image.fromarray(pixels)).square(Square(size=SIZE, every=1), _viewed(clip, view))
        batch = {
            "clips/crop": torch.zeros(1, 4, dtype=torch.float64),
            "proposals/boxes": torch.tensor([[[(0.0, 0.0, 1.0, 1.0), box]]]),
            "proposals/scores": torch.tensor([[[0.9, 0.8]]]),
            "proposals/count": torch.tensor([[2]], dtype=torch.int16),
            "tracks/id": torch.tensor([[[4, 7]]], dtype=torch.int32),
        }
        _apply(view, clip, batch, 0)
        kept = [place for place in range(int(batch["proposals/count"])) if batch["tracks/id"][0, 0, place] == 7]
        if not kept:
            assert picture.max() < 255
            continue
        seen += 1
        x1, y1, x2, y2 = on_input(
            batch["proposals/boxes"][0, 0, kept[0]].double(), batch["clips/crop"][0], SIZE
        ).tolist()
        rows, columns = np.nonzero(picture[..., 0] > 128)
        if len(rows):
            assert x1 <= columns.min() <= columns.max() <= x2
            assert y1 <= rows.min() <= rows.max() <= y2
        left = int(batch["proposals/count"])
        assert not batch["proposals/boxes"][0, 0, left:].any()
        assert (batch["tracks/id"][0, 0, left:] == -1).all()
    assert seen > 20


def test_mirrored_twice_is_once() -> None:
    clip, batch = row(0, "center"), {"clips/crop": torch.tensor([[20.0, 0.0, 100.0, 80.0]])}
    once = _viewed(clip, View(mirrored=True))
    assert once.mirrored
    assert replace(_viewed(once, View(mirrored=True))) == clip
    for expected in ([100.0, 0.0, 20.0, 80.0], [20.0, 0.0, 100.0, 80.0]):
        _apply(View(mirrored=True), clip, batch, 0)
        assert batch["clips/crop"][0].tolist() == expected


def test_colours_change_alike_in_all_frames() -> None:
    frame = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = frame.repeat(3, 1, 1, 1)
    assert torch.equal(_coloured(clip, View()), clip)
    changed = _coloured(clip, View(brightness=0.5, contrast=1.2, saturation=0.7))
    assert torch.equal(changed[0], changed[2])
    assert not torch.equal(changed, clip)
    assert _coloured(clip, View(brightness=0.5)).float().mean() == pytest.approx(clip.float().mean() / 2, abs=1)


def test_views_that_leave_the_cached_crop_are_refused() -> None:
    check_views(OPTIONS, SIZE, ["center", "full"])
    check_views(OPTIONS.model_copy(update={"region": "frame"}), SIZE, ["full", "full_flip"])
    with pytest.raises(ValueError, match=r"views.region: .*crop center.*or a cache with `clips.crops: \[full\]`"):
        check_views(OPTIONS.model_copy(update={"region": "frame"}), SIZE, ["center"])
    with pytest.raises(ValueError, match=r"views.short_side: .*allowed: from 65 px on"):
        check_views(OPTIONS, 65, ["center"])


def test_random_offsets_take_a_frame_of_each_segment() -> None:
    """A row of four frames between 2 and 6 seconds has four segments of a second."""
    clip = replace(
        row(), start_seconds=2.0, end_seconds=6.0, target_times=(2.5, 3.5, 4.5, 5.5), target_frames=(5, 7, 9, 11)
    )
    options = OPTIONS.model_copy(update={"offsets": "random"})
    views = [view_of(clip, SIZE, options, 0, epoch) for epoch in range(1, 30)]
    times = np.array([view.times for view in views])
    assert (np.floor(times) == [2, 3, 4, 5]).all()
    assert len({*map(tuple, (times % 1).round(6).tolist())}) == 29, "each frame and each epoch has its own"
    assert np.ptp(times % 1, axis=1).min() > 0
    assert view_of(clip, SIZE, options, 0, 3) == views[2]
    cached = view_of(clip, SIZE, OPTIONS, 0, 3)
    assert (cached.times, replace(views[2], times=None)) == (None, cached), "other draws are those of before"
    seen = _viewed(clip, views[2])
    assert (seen.target_times, seen.target_frames) == (views[2].times, None)
    assert _viewed(clip, cached).target_frames == (5, 7, 9, 11)


def test_random_offsets_are_refused_where_the_cache_belongs_to_its_frames() -> None:
    options = ViewOptions(offsets="random")
    check_views(options, SIZE, ["center"], "uniform", [])
    with pytest.raises(ValueError, match=r"views.offsets: given 'random', allowed: cached with clips.sampling dense"):
        check_views(options, SIZE, ["center"], "dense")
    with pytest.raises(ValueError, match=r"views.offsets: .* because proposals/boxes belong to the cached frames"):
        check_views(options, SIZE, ["center"], "uniform", ["proposals/boxes"])
    assert "offsets" not in ViewOptions().model_dump(), "records of earlier versions lack it"
    assert options.model_dump()["offsets"] == "random"
    assert ViewOptions(**options.model_dump()) == options
