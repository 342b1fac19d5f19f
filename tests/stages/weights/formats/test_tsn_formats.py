"""Files of the TSN family: a 2D network in `base_model`, with or without the temporal shift, and BN-Inception."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights.files import read_state
from kinegraph.stages.weights.formats.convert import convert

HEAD = {"module.new_fc.weight": torch.zeros(174, 8), "module.new_fc.bias": torch.zeros(174)}
CLIPS = torch.linspace(-2, 2, 3 * 4 * 64 * 64).sin().reshape(1, 3, 4, 64, 64)

# One block of the public TSM_*_RGB_resnet50_shift8_blockres_*.pth, and the stem.
TSM_KEYS = """
module.base_model.conv1.weight
module.base_model.bn1.running_var
module.base_model.layer1.0.conv1.net.weight
module.base_model.layer1.0.bn1.weight
module.base_model.layer1.0.conv2.weight
module.base_model.layer1.0.conv3.weight
module.base_model.layer1.0.downsample.0.weight
module.base_model.layer1.0.downsample.1.running_mean
module.base_model.layer2.3.conv1.net.weight
module.base_model.layer2.3.bn3.num_batches_tracked
""".split()
BN_INCEPTION_KEYS = """
conv1_7x7_s2.weight conv1_7x7_s2.bias conv1_7x7_s2_bn.running_mean conv2_3x3_reduce.weight conv2_3x3_bn.weight
inception_3a_1x1.weight inception_3a_3x3_reduce_bn.bias inception_3a_double_3x3_2.weight inception_3b_pool_proj.bias
""".split()


def shifted(name: str) -> str:
    """TSM's name of a tensor of torchvision's ResNet: blocks' conv1 is wrapped."""
    return (
        f"module.base_model.{name}".replace(".conv1.", ".conv1.net.")
        if "layer" in name
        else f"module.base_model.{name}"
    )


@pytest.fixture(scope="module")
def tsm() -> Backbone:
    return build_backbone("tsm_r50", "random:4", ["res3"])


@pytest.fixture(scope="module")
def tsm_file(tsm: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tsm") / "file.pth"
    content = {shifted(name): tensor for name, tensor in tsm.state_dict().items()}
    assert content.keys() >= {*TSM_KEYS}
    torch.save({"arch": "resnet50", "state_dict": content | HEAD, "best_prec1": torch.tensor(61.2)}, path)
    return path


def test_tsms_names(tsm: Backbone, tsm_file: Path) -> None:
    found = build_backbone("tsm_r50", str(tsm_file), ["res3"])
    assert torch.equal(found(CLIPS)["res3"], tsm(CLIPS)["res3"])
    converted = convert(read_state(tsm_file))
    assert (converted.format.name, converted.classes, [*converted.ignored]) == (
        "TSM's names",
        174,
        ["new_fc.weight", "new_fc.bias"],
    )


def test_a_network_without_shift_refuses_weights_trained_with_it(tsm_file: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not belong to resnet50: it has TSM's names, .* shift channels"):
        build_backbone("resnet50", str(tsm_file), ["res3"])


def test_tsns_names(tsm: Backbone, tmp_path: Path) -> None:
    content = {f"module.base_model.{name}": tensor for name, tensor in tsm.state_dict().items()}
    torch.save({"state_dict": content | HEAD}, tmp_path / "file.pth")
    found = build_backbone("resnet50", str(tmp_path / "file.pth"), ["res3"]).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in tsm.state_dict().items())


def old_norms(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x[None] if "_bn." in name and x.ndim == 1 else x for name, x in state.items()}


@pytest.mark.parametrize(("prefix", "old"), [("", True), ("module.base_model.", False)])
def test_bn_inception_alone_and_in_tsn(tmp_path: Path, prefix: str, old: bool) -> None:
    written = build_backbone("bn_inception", "random:5", ["inception_3b"])
    state = written.state_dict()
    assert state.keys() >= {*BN_INCEPTION_KEYS}
    content = {
        prefix + name: x for name, x in (old_norms(state) if old else state).items() if "num_batches" not in name
    }
    head = HEAD if prefix else {"last_linear.weight": torch.zeros(1000, 8), "last_linear.bias": torch.zeros(1000)}
    torch.save(content | head, tmp_path / "file.pth")
    found = build_backbone("bn_inception", str(tmp_path / "file.pth"), ["inception_3b"])
    assert torch.equal(found(CLIPS)["inception_3b"], written(CLIPS)["inception_3b"])
