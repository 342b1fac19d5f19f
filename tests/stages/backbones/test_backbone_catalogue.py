import subprocess
import sys

import pytest
import torch
from torchvision.models import get_model_weights

from stages.backbones.build import BUILDERS
from stages.backbones.catalogue import CATALOGUE, entry
from stages.weights.sources import WeightSource


def test_every_backbone_has_an_entry_and_a_builder() -> None:
    assert CATALOGUE.keys() == BUILDERS.keys()
    assert all(known.name == name for name, known in CATALOGUE.items())


@pytest.mark.parametrize("model", CATALOGUE)
@pytest.mark.parametrize(("num_frames", "size"), [(8, 224), (5, 65), (4, 97)])
def test_taps_have_the_shapes_of_the_real_network(model: str, num_frames: int, size: int) -> None:
    with torch.device("meta"):
        network = BUILDERS[model]().eval()
        maps = network(torch.empty(2, 3, num_frames, size, size))
    expected = {}
    for tap in CATALOGUE[model].taps:
        frames, channels, height, width = tap.shape(num_frames, size)
        expected[tap.name] = (2, channels, frames, height, width)
    assert {name: tuple(x.shape) for name, x in maps.items()} == expected


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="resnet18, resnet34"):
        entry("resnet19")
    with pytest.raises(ValueError, match="stem, res2, res3, res4, res5"):
        entry("resnet18").tap("layer4")


def test_a_weight_source_is_public_or_shipped() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        WeightSource(file_name="x.pth", sha256="00", licence="MIT")


def test_planning_needs_no_torch() -> None:
    modules = "stages.backbones.catalogue, stages.proposals.catalogue, stages.regions.geometry"
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; sys.exit('torch' in sys.modules)"], check=True)


@pytest.mark.parametrize("model", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_public_files_are_those_that_torchvision_names(model: str) -> None:
    theirs = {weights.name.lower(): weights.url for weights in get_model_weights(model)}
    assert {name: source.url for name, source in CATALOGUE[model].weights.items()} == theirs
