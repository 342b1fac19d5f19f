"""Region proposals and RoIAlign on a GPU against the CPU."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from kinegraph.stages.proposals.from_networks import NetworkSource
from kinegraph.stages.proposals.options import TinyOptions, TorchvisionOptions
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals
from kinegraph.stages.regions.roi import region_features
from tests.gpu.checks import Check, apart

CPU = torch.device("cpu")
TINY = TinyOptions(source="tiny", weights="random:0", top=20, precision="fp32")
RESNET50 = TorchvisionOptions(source="torchvision", weights="random:0", top=50, short_side=300, precision="fp32")


def part(device: torch.device, small: bool) -> Iterator[Check]:
    for options in (TINY,) if small else (TINY, RESNET50):
        yield _lost_boxes(options, device)
    yield from _region_features(device)


def _lost_boxes(options: TinyOptions | TorchvisionOptions, device: torch.device) -> Check:
    """A box of almost the score of another may be another one on another device, so some may be lost."""
    rng, side = np.random.default_rng(0), 96 if options.source == "tiny" else 320
    pixels = rng.integers(0, 256, (2, side // 8, side // 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    frames = ClipFrames(video_id="v", width=side, height=side, seconds=np.arange(2.0), pixels=pixels)
    expected, found = (NetworkSource(options, each).propose(frames) for each in (CPU, device))
    lost = max(_share_lost(expected, found, frame) for frame in range(2))
    return Check(what=f"{options.source} proposals: share of boxes not found", found=lost, allowed=0.05)


def _share_lost(expected: ClipProposals, found: ClipProposals, frame: int) -> float:
    """The share of the CPU's boxes of a frame that no box of the GPU covers to 99 %."""
    theirs, ours = (torch.from_numpy(each.boxes[frame, : each.count[frame]]) for each in (expected, found))
    nearest: Tensor = box_iou(theirs, ours).amax(1)
    return float((nearest < 0.99).float().mean())


def _region_features(device: torch.device) -> Iterator[Check]:
    generator = torch.Generator().manual_seed(0)
    maps, corners = torch.randn(4, 16, 14, 14, generator=generator), torch.rand(4, 9, 2, 2, generator=generator) * 200
    boxes = torch.cat([corners.amin(2), corners.amax(2) + 8], -1)
    valid = torch.arange(9) < torch.tensor([9, 0, 4, 1])[:, None]
    features = {}
    for each in (CPU, device):
        features[each] = region_features(maps.to(each), boxes.to(each), valid.to(each), 16.0, with_grid=True)
        places = valid.nonzero().T.to(each)
        again = region_features(maps.to(each), boxes.to(each), valid.to(each), 16.0, places=places).features
        difference = float((again - features[each].features).abs().max())
        yield Check(what=f"RoIAlign, {each.type}: places of the host or the device", found=difference, allowed=0.0)
    found, expected = features[device], features[CPU]
    assert found.grid is not None
    assert expected.grid is not None
    yield Check(
        what="RoIAlign: distance from the CPU", found=apart(found.grid, expected.grid), allowed=1e-5, unit="std"
    )


def gradients(device: torch.device, small: bool) -> Iterator[Check]:
    """Of the region features to the maps, which fine-tuning needs. The sums of a GPU have no fixed order."""
    grown = {}
    for each in (CPU, device):
        generator = torch.Generator().manual_seed(0)
        maps = torch.randn(2, 8, 14, 14, generator=generator).to(each).requires_grad_()
        boxes = torch.tensor([[[0.0, 0, 100, 120]], [[30.0, 20, 200, 210]]]).to(each)
        valid = torch.ones(2, 1, dtype=torch.bool, device=each)
        region_features(maps, boxes, valid, 16.0, reduce="mean").features.square().sum().backward()
        assert maps.grad is not None
        grown[each] = maps.grad
    found = apart(grown[device], grown[CPU])
    yield Check(what="RoIAlign: gradient, distance from the CPU", found=found, allowed=1e-4, unit="std")
