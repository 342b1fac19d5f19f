"""Image models of timm, where it is installed; and what is said where it is not."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights.load import weights_digest


def clips(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm/resnet10 needs timm: pip install 'kinegraph\[timm\]'"):
        entry("timm/resnet10")


@pytest.mark.parametrize(
    ("model", "size", "levels"),
    [
        ("resnet10t", 65, {"layer1": (64, 4), "layer4": (512, 32)}),
        ("mobilenetv3_small_050", 97, {"bn1": (16, 2), "blocks_5": (288, 32)}),
        ("test_vit", 160, {"blocks_0": (64, 16), "blocks_5": (64, 16)}),
    ],
)
def test_taps_are_those_of_the_model(model: str, size: int, levels: dict[str, tuple[int, int]]) -> None:
    pytest.importorskip("timm")
    known = entry(f"timm/{model}")
    assert {name: (known.tap(name).channels, known.tap(name).stride) for name in levels} == levels
    network = build_backbone(f"timm/{model}", "random:0", [*levels])
    maps = network(clips(2, 3, 3, size, size))
    assert {name: tuple(x.transpose(1, 2).shape) for name, x in maps.items()} == {
        name: (2, *known.tap(name).shape(3, size)) for name in levels
    }


def test_a_tap_of_a_transformer_is_patch_tokens_before_the_final_norm() -> None:
    pytest.importorskip("timm")
    network = build_backbone("timm/test_vit", "random:0", ["blocks_5"])
    blocks = []
    network.model.blocks[5].register_forward_hook(lambda _, __, out: blocks.append(out))
    maps = network(clips(1, 3, 1, 160, 160))["blocks_5"]  # [1, C, 1, 10, 10]
    (tokens,) = blocks  # [1, 1 + 100, C], the class token first
    assert torch.equal(maps.flatten(2).transpose(1, 2), tokens[:, 1:])


def test_frames_keep_their_place_and_what_is_above_the_cut_is_dropped() -> None:
    pytest.importorskip("timm")
    network = build_backbone("timm/resnet10t", "random:0", ["layer2"])
    assert not any(name.startswith(("layer3", "layer4", "fc")) for name in network.state_dict())
    x = clips(2, 3, 3, 64, 64)
    single = network(x[1:, :, 2:])["layer2"]
    torch.testing.assert_close(network(x)["layer2"][1:, :, 2:], single, rtol=1e-4, atol=1e-5)


def test_random_weights_depend_on_the_seed_alone_and_files_have_timms_names(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    first, again, other = (build_backbone("timm/test_vit", f"random:{seed}", ["blocks_1"]) for seed in (0, 0, 1))
    digests = [weights_digest(network, "random:0", {}) for network in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]
    whole = timm.create_model("test_vit")
    torch.save(whole.state_dict(), tmp_path / "file.pth")
    loaded = build_backbone("timm/test_vit", str(tmp_path / "file.pth"), ["blocks_1"])
    assert torch.equal(loaded.state_dict()["pos_embed"], whole.pos_embed)


@pytest.mark.parametrize("model", ["test_vit", "test_convnext", "resnet10t"])
def test_files_may_have_been_trained_for_other_classes(tmp_path: Path, model: str) -> None:
    timm = pytest.importorskip("timm")
    content = timm.create_model(model, num_classes=157).state_dict()
    last = entry(f"timm/{model}").taps[-1].name
    torch.save(content, tmp_path / "file.pth")
    loaded = build_backbone(f"timm/{model}", str(tmp_path / "file.pth"), [last]).state_dict()
    assert all(torch.equal(tensor, content[name]) for name, tensor in loaded.items())


def test_keys_beside_the_classifier_still_have_to_be_known(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    content = timm.create_model("test_convnext").state_dict() | {"head.extra.weight": torch.zeros(1)}
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"in the file only: head\.extra\.weight$"):
        build_backbone("timm/test_convnext", str(tmp_path / "file.pth"), ["stages_0"])


def test_what_timm_does_not_have_or_take_is_said() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"cannot build 'resnet19'.*timm\.list_models"):
        entry("timm/resnet19")
    with pytest.raises(ValueError, match="timm/test_vit cannot take frames of 100 x 100 px"):
        entry("timm/test_vit").tap("blocks_0").shape(8, 100)
