from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.regions import roi
from kinegraph.stages.regions.extract import regions_of_clips
from kinegraph.stages.regions.geometry import on_input
from kinegraph.stages.regions.options import RegionOptions
from kinegraph.stages.regions.roi import RegionBatch
from kinegraph.stages.regions.roi import region_features as of_valid
from tests.conftest import SHARED

STRIDE = 10
RECORDED = SHARED / "fixtures" / "d2_rpn"


def regions(maps: Tensor, boxes: Tensor, count: Tensor, *args: Any, **options: Any) -> RegionBatch:
    """The first `count` boxes of each frame are valid."""
    return of_valid(maps, boxes, torch.arange(boxes.shape[1]) < count[:, None], *args, **options)


def region_features(*args: Any, **options: Any) -> Tensor:
    return regions(*args, **options).features


def test_by_eye_on_a_map_of_5_by_5() -> None:
    """Cells are 10 px. The box covers rows and columns 1 to 3 exactly, so a 3x3 grid samples each cell's centre."""
    cells = torch.tensor(
        [
            [90, 90, 90, 90, 90],
            [90, 11, 12, 13, 90],
            [90, 21, 22, 23, 90],
            [90, 31, 32, 33, 90],
            [90, 90, 90, 90, 90],
        ]
    )
    maps = torch.stack([cells, -cells])[None].float()  # [1, 2, 5, 5]
    boxes = torch.tensor([[[10.0, 10.0, 40.0, 40.0], [10.0, 10.0, 30.0, 20.0]]])
    features = region_features(maps, boxes, torch.tensor([2]), STRIDE, size=3)
    assert features[0, 0].tolist() == [33, -11]
    # The second box covers cells 11 and 12: its samples lie between the centres of row 0 and row 2.
    mean = region_features(maps, boxes, torch.tensor([2]), STRIDE, size=1, reduce="mean")
    assert mean[0, 0].tolist() == [22, -22]
    assert mean[0, 1].tolist() == [11.5, -11.5]


def test_by_eye_from_the_video_to_a_map_of_5_by_5() -> None:
    """A crop of 40x20 px at (10, 20) becomes the 50x50 px input: x is stretched by 1.25, y by 2.5.

    So the box (18, 24, 34, 36) px becomes (10, 10, 30, 40): columns 1 and 2, rows 1 to 3 of cells of 10 px. A box that
    reaches beyond the crop is clipped to it.
    """
    boxes = torch.tensor([[[18.0, 24.0, 34.0, 36.0], [-100.0, -100.0, 18.0, 24.0]]])
    inside = on_input(boxes, torch.tensor([10.0, 20.0, 50.0, 40.0]), 50)
    assert inside.tolist() == [[[10, 10, 30, 40], [0, 0, 10, 10]]]
    cells = torch.arange(25.0).view(1, 1, 5, 5)
    found = regions(cells, inside, torch.tensor([2]), STRIDE, size=2, reduce="mean", with_grid=True)
    assert found.grid is not None
    # Cell (row, column) holds 5 row + column. Two bins share rows 1 to 3: the middle of the upper one is row 1.25.
    assert found.grid[0, 0, 0].tolist() == [[7.25, 8.25], [14.75, 15.75]]
    # The clipped box is cell (0, 0): samples at 0.25 and at -0.25, beyond the outermost centres, where the map goes on.
    assert found.features[0, :, 0].tolist() == [11.5, 0.75]


def random_case(channels: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(4, channels, 9, 9, generator=generator)
    corners = torch.rand(4, 5, 2, 2, generator=generator).mul(80)
    boxes = torch.cat([corners.amin(2), corners.amax(2) + 8], dim=-1)
    return maps, boxes, torch.tensor([5, 0, 3, 1])


def test_the_mean_over_a_ramp_is_the_centre_of_the_box() -> None:
    """Pixel centres lie at +0.5: cell i of a ramp holds the pixel (i + 0.5) * stride."""
    centres = (torch.arange(9) + 0.5) * STRIDE
    ramps = torch.stack([centres.expand(9, 9), centres[:, None].expand(9, 9)])[None]
    boxes = random_case()[1][:1].clamp(5, 85)
    found = region_features(ramps, boxes, torch.tensor([5]), STRIDE, reduce="mean")
    torch.testing.assert_close(found, (boxes[..., :2] + boxes[..., 2:]) / 2)


def test_each_frame_reads_its_own_map_and_rows_past_count_are_zero() -> None:
    maps, boxes, count = random_case()
    boxes[2, 3:] = float("nan")
    found = region_features(maps, boxes, count, STRIDE)
    assert found.shape == (4, 5, 6)
    for t in range(4):
        num = int(count[t])
        alone = region_features(maps[t : t + 1], boxes[t : t + 1, :num], count[t : t + 1], STRIDE)
        assert torch.equal(found[t, :num], alone[0])
        assert not found[t, num:].any()
        assert (found[t, :num] != 0).all()


def test_boxes_in_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, boxes, count = random_case()
    whole = region_features(maps, boxes, count, STRIDE)
    largest = 0

    def counted(maps: Tensor, rois: Tensor, *args: int, **options: float) -> Tensor:
        nonlocal largest
        grid: Tensor = roi_align(maps, rois, *args, **options)
        largest = max(largest, grid.nbytes)
        return grid

    monkeypatch.setattr("torchvision.ops.roi_align", counted)
    monkeypatch.setattr(roi, "POOLED_GRID_BYTES", 2 * 6 * 7 * 7 * 4 + 1)
    assert torch.equal(region_features(maps, boxes, count, STRIDE), whole)
    assert largest == 2 * 6 * 7 * 7 * 4


def test_half_precision_maps_are_read_as_stored() -> None:
    maps, boxes, count = random_case()
    half = region_features(maps.half(), boxes, count, STRIDE)
    assert half.dtype == torch.float32
    assert torch.equal(half, region_features(maps.half().float(), boxes, count, STRIDE))


def test_no_boxes_at_all() -> None:
    maps, boxes, _ = random_case()
    assert not region_features(maps, boxes, torch.zeros(4, dtype=torch.int64), STRIDE).any()


def test_boxes_move_with_the_first_cell() -> None:
    """Where cell 0 lies 6 px further in, a box 6 px further in reads the same cells; all in a crop of its own size."""
    maps = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    box, count = torch.tensor([[[[8.0, 8.0, 40.0, 24.0]]]]), torch.tensor([[1]], dtype=torch.int16)
    crop, options = torch.tensor([[0.0, 0.0, 64.0, 64.0]], dtype=torch.float64), RegionOptions(backbones=("net",))

    def features(boxes: Tensor, tap: Tap) -> Tensor:
        return regions_of_clips(maps[None], boxes, count, crop, 64, tap, options).features

    unpadded = Tap(name="unpadded", channels=2, space=((13, 1), (STRIDE, STRIDE)))
    padded = Tap(name="padded", channels=2, space=((STRIDE, STRIDE),))
    assert (unpadded.offset_px, padded.offset_px) == (6.0, 0.0)
    assert torch.equal(features(box + 6, unpadded), features(box, padded))
    assert not torch.equal(features(box + 6, padded), features(box, padded))


def test_the_grid_is_what_was_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, boxes, count = random_case()
    monkeypatch.setattr(roi, "POOLED_GRID_BYTES", 2 * 6 * 7 * 7 * 4 + 1)
    for reduce in ("max", "mean"):
        found = regions(maps, boxes, count, STRIDE, reduce=reduce, with_grid=True)
        assert found.grid is not None
        assert found.grid.shape == (4, 5, 6, 7, 7)
        reduced = found.grid.amax((3, 4)) if reduce == "max" else found.grid.mean((3, 4))
        torch.testing.assert_close(reduced, found.features)
        assert torch.equal(found.features, region_features(maps, boxes, count, STRIDE, reduce=reduce))
        assert not found.grid[2, 3:].any()
    assert regions(maps, boxes, count, STRIDE).grid is None


@pytest.mark.shared
@pytest.mark.parametrize(("level", "stride"), [("p2", 4), ("p4", 16)])
def test_recorded_maps_equal_detectron2(level: str, stride: int) -> None:
    maps = torch.from_numpy(np.load(RECORDED / "expected_frame0.npz")[level])[None]
    recorded = np.load(RECORDED / "roi_align_frame0.npz")
    boxes = torch.from_numpy(recorded["rois"])[None, :, 1:]
    found = regions(maps, boxes, torch.tensor([boxes.shape[1]]), stride, with_grid=True)
    assert found.grid is not None
    np.testing.assert_allclose(found.grid[0], recorded[f"{level}_sr0"], atol=1e-5)
    np.testing.assert_allclose(found.features[0], recorded[f"{level}_sr0_max"], atol=1e-5)
    assert np.abs(found.features[0].numpy() - recorded[f"{level}_sr0_UNALIGNED_max"]).max() > 0.1
