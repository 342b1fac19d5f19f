from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork

from kinegraph.stages.proposals.build import PROPOSERS
from kinegraph.stages.proposals.rpn import RpnProposer
from kinegraph.stages.proposals.selection import Proposals
from kinegraph.stages.weights.random import initialise
from kinegraph.stages.weights.sources import IMAGENET_MEAN, IMAGENET_STD


def random_frames(num: int, height: int, width: int) -> Tensor:
    """Smooth noise, so that neighbouring anchors do not all see the same."""
    coarse = torch.randint(0, 256, (num, 3, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)


def detector_of(model: str) -> FasterRCNN:
    """torchvision's own, with calibrated random weights and about as many logits above -2.9 as below."""
    detector: FasterRCNN = getattr(detection, model)(weights=None, weights_backbone=None)
    initialise(detector, 0)
    with torch.no_grad():
        detector.rpn.head.bbox_pred.weight.mul_(0.1)
        detector.rpn.head.cls_logits.bias.sub_(3)
    return detector.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def proposer() -> RpnProposer:
    detector = detector_of("fasterrcnn_mobilenet_v3_large_320_fpn")
    return RpnProposer(detector.backbone, detector.rpn, IMAGENET_MEAN, IMAGENET_STD).eval()


@pytest.mark.parametrize("model", [name for name in PROPOSERS if name.startswith("fasterrcnn_")])
def test_proposals_equal_torchvisions(model: str) -> None:
    """Also where its networks leave out boxes of low scores."""
    detector = detector_of(model)
    proposer = cast(RpnProposer, PROPOSERS[model]("random:0")).eval().requires_grad_(False)
    proposer.load_state_dict({k: x for k, x in detector.state_dict().items() if not k.startswith("roi_heads.")})
    for height, width in ((96, 128), (101, 147)):
        frames = random_frames(2, height, width)
        detector.transform.min_size = (min(height, width),)  # the frames have the network's size
        images, _ = detector.transform(list(frames.float() / 255))
        expected, _ = detector.rpn(images, detector.backbone(images.tensors))
        found = proposer(frames, 50)
        assert found.count.tolist() == [min(50, len(boxes)) for boxes in expected]
        assert (0 < found.count.max() < 50) == ("mobilenet" in model)
        for boxes, theirs, count in zip(found.boxes, expected, found.count, strict=True):
            torch.testing.assert_close(boxes[:count], theirs[:count], rtol=1e-4, atol=1e-2)


def test_proposals_are_ranked_and_padded_with_zeros(proposer: RpnProposer) -> None:
    found = proposer(random_frames(2, 64, 96), 2000)
    for f, count in enumerate(found.count.tolist()):
        assert 0 < count < 2000
        assert (found.scores[f, :count].diff() <= 0).all()
        assert not found.scores[f, count:].any()
        assert not found.boxes[f, count:].any()
        x1, y1, x2, y2 = found.boxes[f, :count].unbind(1)
        assert ((x1 >= 0) & (y1 >= 0) & (x2 <= 96) & (y2 <= 64) & (x1 < x2) & (y1 < y2)).all()


def test_the_best_few_are_the_beginning_of_many(proposer: RpnProposer) -> None:
    frames = random_frames(1, 64, 96)
    few, many = proposer(frames, 10), proposer(frames, 40)
    assert torch.equal(few.boxes, many.boxes[:, :10])


def test_boxes_stay_float32_under_autocast(proposer: RpnProposer) -> None:
    """Half precision anchors would lie on a grid of whole pixels beyond 256."""
    seen = []

    def record(module: nn.Module, args: Any, output: list[Tensor]) -> None:
        seen.extend(output)

    handle = proposer.rpn.anchor_generator.register_forward_hook(record)
    with torch.autocast("cpu", torch.bfloat16):
        found = proposer(random_frames(1, 64, 288), 50)
    handle.remove()
    assert {x.dtype for x in (found.boxes, found.scores, *seen)} == {torch.float32}


class FixedHead(nn.Module):
    """One anchor per cell; logits and deltas (the same on every level) are given instead of computed."""

    def __init__(self, logits: tuple[list[float], ...], deltas: Tensor) -> None:
        super().__init__()
        self.logits, self.deltas = logits, deltas

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits = [torch.tensor(level).view(1, 1, 1, -1) for level in self.logits]
        return logits, [self.deltas.T[None, :, None]] * len(logits)


class StrideOf32(nn.Module):
    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.num_levels = num_levels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {str(level): images[:, :1, ::32, ::32] for level in range(self.num_levels)}


def fixed_proposer(*logits: list[float], deltas: Tensor | None = None) -> RpnProposer:
    """On each level a row of anchors of 16 px around x = 0, 32, 64, ... and y = 0."""
    rpn = RegionProposalNetwork(
        AnchorGenerator(((16,),) * len(logits), ((1.0,),) * len(logits)),
        FixedHead(logits, torch.zeros(len(logits[0]), 4) if deltas is None else deltas),
        0.7, 0.3, 256, 0.5, {}, {}, 0.7,
    )  # fmt: skip
    return RpnProposer(StrideOf32(len(logits)), rpn, IMAGENET_MEAN, IMAGENET_STD)


def test_ranking_is_by_logit_where_sigmoids_saturate() -> None:
    """And equal boxes of two levels do not suppress each other."""
    found = fixed_proposer([30.0, 20.0], [40.0, 50.0])(torch.zeros(1, 3, 32, 64, dtype=torch.uint8), 4)
    assert found.scores.tolist() == [[50.0, 40.0, 30.0, 20.0]]
    assert found.boxes[0].tolist() == [[24, 0, 40, 8], [0, 0, 8, 8], [0, 0, 8, 8], [24, 0, 40, 8]]


def test_empty_and_non_finite_candidates_are_dropped() -> None:
    deltas = torch.zeros(4, 4)
    deltas[0, 1] = -2.0  # moved above the frame: empty after clipping
    deltas[1, 0] = float("nan")
    logits = [4.0, 3.0, float("inf"), 1.0]
    found = fixed_proposer(logits, deltas=deltas)(torch.zeros(1, 3, 32, 128, dtype=torch.uint8), 4)
    assert found.count.tolist() == [1]
    assert found.boxes.tolist() == [[[88, 0, 104, 8], [0] * 4, [0] * 4, [0] * 4]]


def test_boxes_are_clipped_to_the_frame_and_not_to_its_padding() -> None:
    found = fixed_proposer([1.0, 2.0])(torch.zeros(1, 3, 6, 36, dtype=torch.uint8), 2)
    assert found.boxes.tolist() == [[[24, 0, 36, 6], [0, 0, 8, 6]]]


def test_padding_is_zero_after_normalisation(proposer: RpnProposer) -> None:
    images = proposer._images(torch.full((1, 3, 30, 33), 255, dtype=torch.uint8))
    assert images.shape == (1, 3, 32, 64)
    torch.testing.assert_close(images[0, :, 0, 0], (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD))
    assert not images[:, :, 30:].any()
    assert not images[..., 33:].any()


def test_proposals_check_themselves() -> None:
    with pytest.raises(ValueError, match=r"boxes=\[2, 5, 4\], scores=\[2, 4\], count=\[2\]"):
        Proposals(boxes=torch.zeros(2, 5, 4), scores=torch.zeros(2, 4), count=torch.zeros(2))
