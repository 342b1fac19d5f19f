"""The search among the best candidates finds what torchvision finds among all."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from kinegraph.stages.proposals.selection import SHIFTED_NUMBERS, remaining, select

THRESHOLD = 0.7


def drawn(num: int, side: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of about `side` px in a frame of 340x256 px with their scores, and the levels of all frames."""
    generator = torch.Generator().manual_seed(num)
    centres = torch.rand(2, num, 2, generator=generator) * torch.tensor([340.0, 256.0])
    sides = side * (0.5 + torch.rand(2, num, 2, generator=generator))
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], 2)
    return boxes, torch.randn(2, num, generator=generator), torch.randint(0, 5, (num,), generator=generator)


@pytest.mark.parametrize(
    ("num", "side", "top"),
    [(1500, 60, 50), (1500, 60, 1499), (1500, 3000, 60), (SHIFTED_NUMBERS // 4 + 1, 90, 5), (200, 60, 50)],
    ids=["few tried", "all remain", "too few remain", "one box too many to shift", "shifted"],
)
def test_the_best_equal_torchvisions_to_the_last_bit(num: int, side: float, top: int) -> None:
    boxes, scores, levels = drawn(num, side)
    scores, order = scores.sort(descending=True)
    for of_frame, score, ranked in zip(boxes, scores, order, strict=True):
        box, level = of_frame[ranked], levels[ranked]
        expected = batched_nms(box, score, level, THRESHOLD)[:top]
        assert torch.equal(remaining(box, score, level, THRESHOLD, top), expected)
        assert len(expected) > 4


def test_frames_are_selected_as_one_by_one() -> None:
    """Also where some candidates are not valid, and other ones in each frame."""
    boxes, scores, levels = drawn(1500, 60)
    scores[0, ::7] = torch.nan
    boxes[1, ::3, 2] = -1.0
    found = select(boxes, scores, levels, (256, 340), THRESHOLD, 50)
    for f, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        alone = select(box[None], score[None], levels, (256, 340), THRESHOLD, 50)
        assert torch.equal(found.boxes[f], alone.boxes[0])
        assert torch.equal(found.scores[f], alone.scores[0])
        valid = score.isfinite() & (box[:, 2] > 0)
        clipped = box.clamp(torch.zeros(4), torch.tensor([340.0, 256.0] * 2))
        plain = batched_nms(clipped[valid], score[valid], levels[valid], THRESHOLD)[:50]
        assert torch.equal(found.boxes[f], clipped[valid][plain])
        assert int(found.count[f]) == 50


def test_equal_scores_stay_in_their_order() -> None:
    """The sort inside torchvision orders them as the instructions of the CPU do."""
    boxes, _, levels = drawn(1500, 6)
    found = select(boxes, torch.zeros(2, 1500), levels, (256, 340), THRESHOLD, 50)
    seen = boxes.clamp(torch.zeros(4), torch.tensor([340.0, 256.0] * 2))
    is_valid = (seen[..., 2:] > seen[..., :2]).all(-1)
    places = [torch.cdist(found.boxes[f], seen[f, is_valid[f]]).argmin(1) for f in range(2)]
    assert all((of_frame.diff() > 0).all() for of_frame in places)
