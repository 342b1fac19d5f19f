"""How far proposals in half precision may be from those in float32: the tolerance that docs/networks.md states."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from kinegraph.stages.proposals.from_networks import NetworkSource
from kinegraph.stages.proposals.options import TinyOptions, TorchvisionOptions
from kinegraph.stages.proposals.source import ClipProposals
from tests.stages.proposals.source_contract import clip_of

FIXTURES = Path(__file__).with_name("fixtures")
NETWORKS: dict[str, TinyOptions | TorchvisionOptions] = {
    "tiny": TinyOptions(source="tiny", weights="shipped", top=50),
    "resnet50": TorchvisionOptions(source="torchvision", weights="random:0", top=50, short_side=150),
}


@functools.cache
def source_of(network: str) -> NetworkSource:
    return NetworkSource(NETWORKS[network], torch.device("cpu"))


def overlaps(exact: ClipProposals, found: ClipProposals) -> torch.Tensor:
    """Of each box of `exact` with the box of `found` that is nearest to it."""
    first, second = (torch.from_numpy(each.boxes[0, : each.count[0]]) for each in (exact, found))
    iou: torch.Tensor = box_iou(first, second)
    return iou.amax(1)


@pytest.mark.parametrize(("precision", "mean", "share"), [("bf16", 0.9, 0.9), ("fp16", 0.98, 0.95)])
@pytest.mark.parametrize("scene", ["scene0", pytest.param("scene1", marks=pytest.mark.faults)])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_50_best_of_float32_are_found(
    network: str, scene: str, precision: str, mean: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(network)
    frames = clip_of([np.asarray(Image.open(FIXTURES / f"{scene}.png").convert("RGB"))], NETWORKS[network])
    exact = source.propose(frames)
    monkeypatch.setattr(source, "precision", precision)
    found = source.propose(frames)
    assert not np.array_equal(exact.boxes, found.boxes)
    overlap = overlaps(exact, found)
    assert len(overlap) > 40
    assert overlap.mean() >= mean
    assert (overlap > 0.7).float().mean() >= share
