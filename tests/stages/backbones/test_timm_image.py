"""Image models of timm, where it is installed; and what is said where it is not."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinegraph.cache_schemas.crops import Framing
from kinegraph.stages.backbones.build import backbone_digest, build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.pixels import framing_of
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


@pytest.mark.parametrize("final_norm", ["applied", "none"])
@torch.inference_mode()
def test_the_last_tap_of_a_transformer_is_after_the_final_norm(final_norm: str) -> None:
    """Unless the config says otherwise, for caches of earlier versions. Lower taps are never normed."""
    pytest.importorskip("timm")
    network = build_backbone("timm/test_vit", "random:0", ["blocks_0", "blocks_5"], final_norm=final_norm)
    model: Any = network.model
    blocks: list[Tensor] = []
    for number in (0, 5):
        model.blocks[number].register_forward_hook(lambda _, __, out: blocks.append(out))
    maps = network(clips(1, 3, 1, 160, 160))  # [1, C, 1, 10, 10]
    low, high = blocks  # [1, 1 + 100, C], the class token first
    expected = model.norm(high) if final_norm == "applied" else high
    assert torch.equal(maps["blocks_0"].flatten(2).transpose(1, 2), low[:, 1:])
    torch.testing.assert_close(maps["blocks_5"].flatten(2).transpose(1, 2), expected[:, 1:])


@pytest.mark.parametrize(
    ("model", "size", "num_prefix"), [("test_vit", 96, 1), ("eva02_tiny_patch14_224", 56, 1), ("test_vit", 160, 1)]
)
@torch.inference_mode()
def test_class_tokens_and_head_are_timms(model: str, size: int, num_prefix: int) -> None:
    """Also of a size that is not the model's own. EVA02 has no norm before its mean, and one after it."""
    timm = pytest.importorskip("timm")
    first, *_, last = (tap.name for tap in entry(f"timm/{model}").taps)
    ours = build_backbone(f"timm/{model}", "random:0", [first, last], tokens="both", head=True)
    theirs = timm.create_model(model, dynamic_img_size=True).eval()
    assert all("head" in name for name in theirs.load_state_dict(ours.state_dict(), strict=False).missing_keys)
    low: list[Tensor] = []
    theirs.blocks[0].register_forward_hook(lambda _, __, out: low.append(out))
    frames = clips(2, 3, 3, size, size)
    found = ours(frames)
    tokens = theirs.forward_features(frames.transpose(1, 2).flatten(0, 1))  # [2 * 3, 1 + H W, C]
    for tap, expected in ((first, low[0]), (last, tokens)):
        close(found[f"{tap}_class"].flatten(0, 1), expected[:, 0])
        close(found[tap].transpose(1, 2).flatten(3).flatten(0, 1), expected[:, num_prefix:].transpose(1, 2))
    close(found["head"].flatten(0, 1), theirs.forward_head(tokens, pre_logits=True))
    assert found["head"].shape == (2, *entry(f"timm/{model}").head_shape(3))


def close(found: Tensor, expected: Tensor) -> None:
    error, std = found - expected, expected.std()
    assert error.square().mean().sqrt() <= 1e-5 * std
    assert error.abs().max() <= 5e-5 * std


@torch.inference_mode()
def test_the_projection_of_clip_is_no_classifier(tmp_path: Path) -> None:
    """A file must have it if `head` is asked for."""
    timm = pytest.importorskip("timm")
    model = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"
    known = entry(f"timm/{model}")
    assert known.head_channels == 512
    content = timm.create_model(model).state_dict()
    torch.save(content, tmp_path / "file.pth")
    loaded = build_backbone(f"timm/{model}", str(tmp_path / "file.pth"), [known.taps[-1].name], head=True)
    assert torch.equal(loaded.state_dict()["head.weight"], content["head.weight"])
    assert loaded(clips(1, 3, 2, 32, 32))["head"].shape == (1, 2, 512)
    torch.save({name: x for name, x in content.items() if not name.startswith("head")}, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"in the network only: head\.weight, head\.bias"):
        build_backbone(f"timm/{model}", str(tmp_path / "file.pth"), [known.taps[-1].name], head=True)


def test_a_model_without_a_class_token_says_so() -> None:
    pytest.importorskip("timm")
    for model, tap in (("test_vit2", "blocks_7"), ("resnet10t", "layer4")):  # test_vit2 has a register token alone
        with pytest.raises(ValueError, match=f"allowed: patch, because {tap} of timm/{model} has no"):
            build_backbone(f"timm/{model}", "random:0", [tap], tokens="class")


def test_published_weights_come_from_the_folder_of_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network: where the file is missing, its name and the command are said."""
    timm = pytest.importorskip("timm")
    import huggingface_hub
    from safetensors.torch import save_file

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket", None)
    with pytest.raises(WeightsError, match=r"hf download timm/test_vit\.r160_in1k model\.safetensors"):
        build_backbone("timm/test_vit", "pretrained", ["blocks_5"])
    folder = tmp_path / "models--timm--test_vit.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    file, content = folder / "snapshots" / "abc" / "model.safetensors", timm.create_model("test_vit").state_dict()
    save_file(content, file)
    network = build_backbone("timm/test_vit", "pretrained", ["blocks_5"])
    assert all(torch.equal(x, content[name]) for name, x in network.state_dict().items())
    digest = backbone_digest(network, entry("timm/test_vit"), "pretrained")
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    asked = BackboneOptions(model="timm/test_vit", weights="pretrained", taps=("blocks_5",))
    tested = Framing(size=160, resize_short=168, resize="bicubic")  # 160 / 0.95, rounded down
    assert framing_of(asked, entry("timm/test_vit")) == tested
    save_file({name: x for name, x in content.items() if name != "norm.bias"}, file)
    with pytest.raises(WeightsError, match=r"in the network only: norm\.bias"):
        build_backbone("timm/test_vit", "pretrained", ["blocks_5"])


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
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = timm.create_model("eva02_tiny_patch14_224").state_dict()
    network = build_backbone("timm/eva02_tiny_patch14_224", "random:0", ["blocks_0"])
    assert all(torch.equal(x, drawn[name]) for name, x in network.state_dict().items())
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
    with pytest.raises(ValueError, match=r"timm/test_vit cannot take frames of 100 x 100 px.*any multiple of 16 px$"):
        entry("timm/test_vit").tap("blocks_0").shape(8, 100)
