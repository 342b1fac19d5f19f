from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import detection

from kinegraph.stages.errors import WeightsError
from kinegraph.stages.proposals.build import PROPOSERS, build_proposer
from kinegraph.stages.proposals.rpn import RpnProposer
from kinegraph.stages.weights.load import weights_digest

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
TORCHVISION = [name for name in PROPOSERS if name.startswith("fasterrcnn_")]


@pytest.fixture(scope="module")
def small() -> RpnProposer:
    proposer = build_proposer(SMALL, "random:0")
    assert isinstance(proposer, RpnProposer)
    return proposer


@pytest.mark.parametrize("model", TORCHVISION)
def test_parameters_are_those_of_torchvisions_file(model: str) -> None:
    with torch.device("meta"):
        ours = PROPOSERS[model]("random:0").state_dict()
        theirs = getattr(detection, model)(weights=None, weights_backbone=None).state_dict()
    assert {name: x.shape for name, x in ours.items()} == {
        name: x.shape for name, x in theirs.items() if not name.startswith("roi_heads.")
    }


@pytest.mark.parametrize(
    ("model", "weights", "epsilon"),
    [
        ("fasterrcnn_resnet50_fpn", "coco_v1", torch.finfo(torch.float32).tiny),
        ("fasterrcnn_resnet50_fpn", "my/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", torch.finfo(torch.float32).tiny),
        ("fasterrcnn_resnet50_fpn", "my/own.pth", 1e-5),
        ("fasterrcnn_resnet50_fpn", "random:0", 1e-5),
        ("fasterrcnn_resnet50_fpn_v2", "coco_v1", 1e-5),
    ],
)
def test_only_the_published_file_has_norms_without_epsilon(model: str, weights: str, epsilon: float) -> None:
    with torch.device("meta"):
        norms = [module for module in PROPOSERS[model](weights).modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) >= 53
    assert {norm.eps for norm in norms} == {epsilon}


@pytest.mark.parametrize("model", TORCHVISION)
def test_random_weights_give_enough_boxes(model: str) -> None:
    proposer = build_proposer(model, "random:0")
    frames = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = proposer(frames, 20)
    assert found.count.tolist() == [20]
    assert found.scores.abs().max() < 1000


def test_the_network_is_frozen(small: RpnProposer) -> None:
    assert not any(parameter.requires_grad for parameter in small.parameters())
    assert not any(module.training for module in small.modules())


def test_a_detectors_file_is_read_without_its_second_stage(tmp_path: Path, small: RpnProposer) -> None:
    state = dict(small.state_dict())
    # As files from 2019 call it and without counters, as frozen norms are saved.
    for kind in ("weight", "bias"):
        state[f"rpn.head.conv.{kind}"] = state.pop(f"rpn.head.conv.0.0.{kind}")
    state = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(state | {"roi_heads.box_head.fc6.weight": torch.ones(1)}, tmp_path / "file.pth")
    loaded = build_proposer(SMALL, str(tmp_path / "file.pth"))
    assert weights_digest(loaded, "random:0", {}) == weights_digest(small, "random:0", {})


def test_another_detectors_file_is_refused(tmp_path: Path, small: RpnProposer) -> None:
    torch.save(small.state_dict(), tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"in the network only: backbone\.body\.conv1\.weight") as caught:
        build_proposer("fasterrcnn_resnet50_fpn", str(tmp_path / "file.pth"))
    assert len(str(caught.value)) < 4000
