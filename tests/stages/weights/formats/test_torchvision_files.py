"""State dicts as torchvision's own networks have them: all is used but the classifiers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import video

from kinegraph.stages.backbones.build import build_backbone, untrained
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights.files import read_state
from kinegraph.stages.weights.formats.convert import convert
from kinegraph.stages.weights.load import load_weights

NETWORKS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "resnet18": (models.resnet18, {"fc"}),
    "inception_v3": (lambda: models.inception_v3(init_weights=False), {"fc", "AuxLogits"}),
    "s3d": (video.s3d, {"classifier"}),
    "r2plus1d_18": (video.r2plus1d_18, {"fc"}),
    "swin3d_t": (video.swin3d_t, {"head"}),
}


@pytest.mark.parametrize("model", NETWORKS)
def test_all_but_the_classifiers_is_used(tmp_path: Path, model: str) -> None:
    build, classifiers = NETWORKS[model]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = build().state_dict()
    path = tmp_path / "file.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)  # as before torch 1.6
    found = build_backbone(model, str(path), [entry(model).taps[-1].name]).state_dict()
    left_out = state.keys() - found.keys()
    assert {name.split(".")[0] for name in left_out} == classifiers
    assert all(torch.equal(found[name], state[name]) for name in found)
    converted = convert(read_state(path))
    by_network = set(filter(untrained(model).is_classifier, converted.state))
    assert (converted.ignored.keys() | by_network, converted.unknown) == (left_out, ())


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("resnet50", "looks like ResNet-18\n  in the network only: layer1.0.conv3.weight"),
        ("i3d_r50", "no time axis; weights of images are given"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is a no-op")
def test_a_smaller_network_of_images_is_named(tmp_path: Path, model: str, told: str) -> None:
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in models.resnet18().state_dict().items()}
        network = untrained(model)
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}, tmp_path / "file.pth")
    with pytest.raises(WeightsError) as caught:
        load_weights(network, str(tmp_path / "file.pth"), {}, model=model)
    assert told in str(caught.value)


def test_a_detector_is_no_backbone(tmp_path: Path) -> None:
    state = {"backbone.body.conv1.weight": torch.zeros(64, 3, 7, 7), "rpn.head.cls_logits.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"in the file only: backbone\.body\.conv1\.weight, rpn\.head\.cls_logits"):
        build_backbone("resnet18", str(tmp_path / "file.pth"), ["res2"])
