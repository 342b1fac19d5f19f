"""Boxes on frames, and the band below: where they are drawn, and how large."""

import numpy as np
import pytest

from kinegraph.stages.pictures.lettering import fitted, width_px
from kinegraph.stages.pictures.overlay import BAR, LINK, Band, Edge, OverlayLayout

NO_BOXES = np.empty((0, 4))
BAND = Band("clip 1 of 2", (("left", 0.75), ("right", 0.25)))
GREEN = (0, 200, 0)


def ground(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), (90, 60, 60), np.uint8)


def is_white(pixels: np.ndarray) -> np.ndarray:
    return np.asarray((pixels > 230).all(-1))


@pytest.mark.parametrize("size", [(96, 80), (97, 81), (1920, 1080), (1081, 1919), (33, 2001), (2, 2), (1, 1)])
@pytest.mark.parametrize("max_height", [160, 720])
def test_sizes_are_even_and_within_the_limit(size: tuple[int, int], max_height: int) -> None:
    layout = OverlayLayout.fitted(*size, max_height, 5)
    assert all(side % 2 == 0 and side >= 2 for side in (*layout.picture, *layout.size))
    assert layout.size[1] <= max_height
    assert layout.size[0] == layout.picture[0]
    assert all(shown <= max(given, 2) for shown, given in zip(layout.picture, size, strict=True))
    frame = layout.drawn(ground(*size), np.array([[0.0, 0.0, *size]]), BAND, dashed=True)
    assert (frame.shape, frame.dtype) == ((layout.size[1], layout.size[0], 3), np.uint8)


@pytest.mark.parametrize("max_height", [720, 240])  # as large as the video, and much smaller
@pytest.mark.parametrize("dashed", [False, True])
def test_a_marked_place_stays_inside_its_box(max_height: int, dashed: bool) -> None:
    pixels = ground(301, 401)
    pixels[200:220, 100:130] = GREEN
    layout = OverlayLayout.fitted(301, 401, max_height, 2)
    picture = layout.drawn(pixels, np.array([[80.0, 180, 150, 240]]), BAND, dashed=dashed)[: layout.picture[1]]
    ys, xs = np.nonzero((picture[..., 1] > 150) & (picture[..., 0] < 60))
    line_ys, line_xs = np.nonzero(is_white(picture))
    scale = layout.picture[1] / 401
    assert (line_xs.min(), line_ys.min()) == pytest.approx((80 * scale, 180 * scale), abs=1)
    assert (line_xs.max(), line_ys.max()) == pytest.approx((150 * scale, 240 * scale), abs=2)
    assert line_xs.min() < xs.min() < xs.max() < line_xs.max()
    assert line_ys.min() < ys.min() < ys.max() < line_ys.max()


def test_boxes_that_were_read_now_are_whole_and_older_ones_are_dashed() -> None:
    layout = OverlayLayout.fitted(200, 200, 720, 2)
    box = np.array([[50.0, 50, 150, 150]])
    whole, dashed = (layout.drawn(ground(200, 200), box, BAND, dashed=it) for it in (False, True))
    assert is_white(whole[:200]).sum() == 4 * 99  # one pixel wide
    assert is_white(whole[50, 50:150]).all()
    assert 0.4 < is_white(dashed[50, 50:150]).mean() < 0.7
    outside = whole[49, 60:140].max()
    assert 0 < outside < 60, "a dark edge beside the line, for light grounds"
    assert (whole[100, 100] == ground(1, 1)[0, 0]).all()


def test_a_box_beyond_the_frame_is_drawn_at_its_edge() -> None:
    layout = OverlayLayout.fitted(64, 64, 720, 2)
    picture = layout.drawn(
        ground(64, 64), np.array([[-20.0, -20, 200, 200], [70, 70, 90, 90], [9, 9, 9, 9]]), BAND, dashed=False
    )
    assert is_white(picture[0, :64]).all()
    assert is_white(picture[:64, 63]).all()


FOUR = np.array([[10.0, 10, 50, 50], [150, 10, 190, 50], [10, 150, 50, 190], [150, 150, 190, 190]])


def is_link(pixels: np.ndarray) -> np.ndarray:
    """Orange pixels, also where the ground shines through."""
    return np.asarray((pixels[..., 0] > 120) & (pixels[..., 2] < 60))


@pytest.mark.parametrize("max_height", [720, 160])
def test_an_edge_leads_from_middle_to_middle(max_height: int) -> None:
    layout = OverlayLayout.fitted(200, 200, max_height, 2)
    frame = layout.drawn(ground(200, 200), FOUR, BAND, dashed=False, edges=[Edge(0, 1, 1.0)])
    scale, picture = layout.picture[0] / 200, frame[: layout.picture[1]]
    ys, xs = np.nonzero(is_link(picture))
    assert (xs.min(), xs.max()) == pytest.approx((30 * scale, 170 * scale), abs=5)
    assert (ys.min() + ys.max()) / 2 == pytest.approx(30 * scale, abs=1.5)
    assert ys.max() - ys.min() < 10
    assert (picture[round(30 * scale), round(100 * scale)] == LINK).all(), "the strongest edge is not transparent"


def test_weaker_edges_are_narrower_and_more_transparent() -> None:
    layout = OverlayLayout.fitted(200, 200, 720, 2)
    edges = [Edge(0, 1, 1.0), Edge(2, 3, 0.1)]
    whole, dashed = (layout.drawn(ground(200, 200), FOUR, BAND, dashed=it, edges=edges)[:200] for it in (False, True))
    strong, weak = (is_link(whole[:, 100])[rows].sum() for rows in (slice(100), slice(100, 200)))
    assert strong > weak >= 1
    assert whole[30, 100, 0] > whole[170, 100, 0] > ground(1, 1)[0, 0, 0]
    assert is_link(dashed[:, 100])[:100].sum() == 1, "thin where the boxes are older"


def test_edges_of_boxes_beyond_the_frame_are_left_out() -> None:
    layout = OverlayLayout.fitted(64, 64, 720, 2)
    boxes = np.array([[4.0, 4, 30, 30], [70, 70, 90, 90]])
    plain, linked = (
        layout.drawn(ground(64, 64), boxes, BAND, dashed=False, edges=edges) for edges in ([], [Edge(0, 1, 1.0)])
    )
    assert np.array_equal(plain, linked)


def test_bars_are_as_long_as_their_scores() -> None:
    layout = OverlayLayout.fitted(400, 100, 720, 2)
    band = layout.drawn(ground(400, 100), NO_BOXES, BAND, dashed=False)[100:]
    is_bar = (band == BAR).all(-1)
    lengths = is_bar.sum(1)
    first, second = lengths[: len(band) * 2 // 3].max(), lengths[len(band) * 2 // 3 :].max()
    assert (first, second) == pytest.approx((0.75 * 392, 0.25 * 392), abs=2)
    assert is_white(band).any(), "the words"
    other = layout.drawn(ground(400, 100), NO_BOXES, Band("no clip at this time"), dashed=False)[100:]
    assert not (other == BAR).all(-1).any()


def test_words_fit_into_their_room() -> None:
    assert fitted("run", 12, 100) == "run"
    short = fitted("a very long name of a class", 12, 80)
    assert short.endswith("...")
    assert width_px(short, 12) <= 80
    assert fitted("two\nlines\x1b[31m", 12, 500) == "two\\nlines\\x1b[31m"
    assert fitted("anything", 12, 1) == ""
    assert width_px("跳", 12) > 0, "a character that the font lacks is a box"
