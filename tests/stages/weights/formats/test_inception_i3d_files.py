"""Files of Inception I3D in both public naming schemes, whose names are spelled out from the code that wrote them."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights.files import read_state
from kinegraph.stages.weights.formats.convert import convert

BLOCKS = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
CONVOLUTIONS = ("1a_7x7", "2b_1x1", "2c_3x3")
# A branch of a block in pytorch-i3d, in kinetics_i3d_pytorch. The third branch there begins with a pool.
BRANCHES = ("b0 branch_0", "b1a branch_1.0", "b1b branch_1.1", "b2a branch_2.0", "b2b branch_2.1", "b3b branch_3.1")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
CLASSIFIERS = ("logits", "conv3d_0c_1x1")


def layers() -> list[tuple[str, str]]:
    found = [(f"Conv3d_{name}", f"conv3d_{name}") for name in CONVOLUTIONS]
    for block in BLOCKS:
        found += [(f"Mixed_{block}.{a}", f"mixed_{block}.{b}") for a, b in map(str.split, BRANCHES)]
    return found


def names() -> dict[str, str]:
    """Each name in pytorch-i3d -> the same in kinetics_i3d_pytorch, without the classifier."""
    found = {f"{a}.conv3d.weight": f"{b}.conv3d.weight" for a, b in layers()}
    return found | {f"{a}.bn.{leaf}": f"{b}.batch3d.{leaf}" for a, b in layers() for leaf in NORM}


@pytest.fixture(scope="module")
def written() -> Backbone:
    network = build_backbone("inception_i3d", "random:3", ["mixed_5c"])
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5, generator=generator)
    return network


def content_of(network: Backbone, scheme: int) -> dict[str, Tensor]:
    renamed = {name: (name, names()[name])[scheme] for name in names()}
    classifier = f"{CLASSIFIERS[scheme]}.conv3d"
    head = {f"{classifier}.weight": torch.zeros(400, 1024, 1, 1, 1), f"{classifier}.bias": torch.zeros(400)}
    return {renamed[name]: tensor for name, tensor in network.state_dict().items()} | head


@pytest.mark.parametrize(("scheme", "old"), [(0, True), (1, False)], ids=["pytorch-i3d", "kinetics_i3d_pytorch"])
def test_all_344_tensors_are_used_or_ignored_for_a_reason(
    tmp_path: Path, written: Backbone, scheme: int, old: bool
) -> None:
    """Old files are of torch 0.3: they lack the counts of batches, and are no zip."""
    content = content_of(written, scheme)
    assert len(content) == 344
    if old:
        content = {name: x for name, x in content.items() if not name.endswith("tracked")}
    torch.save(content, tmp_path / "rgb.pt", _use_new_zipfile_serialization=not old)
    found = build_backbone("inception_i3d", str(tmp_path / "rgb.pt"), ["mixed_5c"]).state_dict()
    assert found.keys() == names().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in written.state_dict().items())
    converted = convert(read_state(tmp_path / "rgb.pt"))
    assert converted.format.name == ("pytorch-i3d's names", "kinetics_i3d_pytorch's names")[scheme]
    assert (converted.classes, converted.unknown, {*converted.ignored.values()}) == (400, (), {"classifier"})
    assert {converted.format.to_file(name) for name in names()} == {(a, b)[scheme] for a, b in names().items()}


@pytest.mark.parametrize("scheme", [0, 1])
def test_a_tensor_too_many_or_too_few_is_named(tmp_path: Path, written: Backbone, scheme: int) -> None:
    content = content_of(written, scheme)
    lost = ("Mixed_4d.b2a.bn.bias", "mixed_4d.branch_2.0.batch3d.bias")[scheme]
    extra = ("Mixed_6a.b0.conv3d.weight", "mixed_4d.branch_3.0.conv3d.weight")[scheme]
    torch.save({name: x for name, x in content.items() if name != lost} | {extra: torch.zeros(1)}, tmp_path / "rgb.pt")
    with pytest.raises(WeightsError, match=rf"in the file only: {re.escape(extra)}\n.*\n?.*{re.escape(lost)}"):
        build_backbone("inception_i3d", str(tmp_path / "rgb.pt"), ["mixed_5c"])


def test_a_file_of_the_flow_network_is_refused_in_words(tmp_path: Path, written: Backbone) -> None:
    content = content_of(written, 1)
    content["conv3d_1a_7x7.conv3d.weight"] = torch.zeros(64, 2, 7, 7, 7)
    torch.save(content, tmp_path / "flow.pt")
    with pytest.raises(WeightsError, match="sees the 2 channels of optical flow, and this network sees RGB"):
        build_backbone("inception_i3d", str(tmp_path / "flow.pt"), ["conv3d_2c"])
