import copy

import pytest
import torch
from torch import Tensor, nn

from kinegraph.stages.backbones import build
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.folding import fold_batch_norms
from kinegraph.stages.backbones.norms import NORMS
from kinegraph.stages.device import computing_in, move_network
from kinegraph.stages.weights.load import weights_digest

TAPS = ["stem", "res2", "res3", "res4", "res5"]

# One of each kind of layer and block.
NETWORKS = [
    "resnet50",
    "inception_v3",
    "bn_inception",
    "tsm_r50",
    "i3d_r50",
    "nonlocal_i3d_r50",
    "slowonly_r50",
    "s3d",
    "inception_i3d",
    "x3d_s",
    "slowfast_r50_8x8",
    "r2plus1d_18",
    "swin3d_t",
    "tiny_i3d",
]
# Non-local blocks' `norm`; norms after the pair of convolutions of R(2+1)D, which is a module.
NOT_FOLDED = {"nonlocal_i3d_r50": 5, "r2plus1d_18": 16}


def random_clips(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet18() -> Backbone:
    return build_backbone("resnet18", "random:0", TAPS)


def test_the_network_is_cut_above_its_highest_tap_and_frozen() -> None:
    network = build_backbone("resnet18", "random:0", ["res3", "stem"])
    assert {name.split(".")[0] for name in network.state_dict()} == {"conv1", "bn1", "layer1", "layer2"}
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    assert list(network(random_clips(1, 3, 1, 32, 32))) == ["stem", "res3"]


def test_named_weights_are_loaded_into_the_network_they_were_trained_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "load_weights", lambda *args, **more: None)
    with torch.device("meta"):
        trained = build_backbone("i3d_r50", "slowfast_8x8", ["res5"])
        papers = build_backbone("i3d_r50", "slowfast_8x8", ["res5"], geometry="paper")
        maps = [network(torch.empty(1, 3, 8, 64, 64))["res5"] for network in (trained, papers)]
    assert [x.shape[2:] for x in maps] == [(4, 2, 2), (4, 4, 4)]


def test_what_was_cut_away_cannot_be_asked_for(resnet18: Backbone) -> None:
    network = build_backbone("resnet18", "random:0", ["res2"])
    with pytest.raises(ValueError, match=r"its taps are \['res2'\]"):
        network.cut(["res3"])
    with pytest.raises(ValueError, match="cannot cut"):
        resnet18.cut([])
    with pytest.raises(ValueError, match="has no tap 'res6'"):
        build_backbone("resnet18", "random:0", ["res6"])


def test_frames_of_a_2d_network_keep_their_clip_and_place(resnet18: Backbone) -> None:
    clips = random_clips(2, 3, 3, 32, 32)
    maps = resnet18(clips)["res4"]
    for b in range(2):
        for t in range(3):
            single = resnet18(clips[b : b + 1, :, t : t + 1])["res4"]
            torch.testing.assert_close(maps[b, :, t], single[0, :, 0], rtol=1e-4, atol=1e-4)


def test_decoded_clips_reach_a_2d_network_without_a_copy(resnet18: Backbone) -> None:
    seen: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.extend(args)

    clips = random_clips(2, 3, 32, 32, 3).permute(0, 4, 1, 2, 3)  # memory [B, T, H, W, 3], as decoded
    handle = resnet18.get_submodule("conv1").register_forward_pre_hook(record)
    resnet18(clips)
    handle.remove()
    assert seen[0].data_ptr() == clips.data_ptr()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest) -> tuple[str, Backbone]:
    """A model with all its taps. The parameter has the scope of the module, so that pytest builds each model once."""
    return request.param, build_backbone(request.param, "random:0", [tap.name for tap in entry(request.param).taps])


@pytest.mark.parametrize("whole", [*NETWORKS, "resnet101", "i3d_r101", "csn_r101"], indirect=True, scope="module")
@torch.inference_mode()
def test_random_weights_keep_activations_near_one(whole: tuple[str, Backbone]) -> None:
    model, network = whole
    num_frames, size = (2, 160) if model == "inception_v3" else (8, 64)
    maps = network(random_clips(1, 3, num_frames, size, size))
    assert [*maps] == [tap.name for tap in entry(model).taps]
    for x in maps.values():
        assert x.isfinite().all()
        assert 0.05 < x.std() < 20
        assert x.abs().max() < 1000  # float16 ends at 65504


@pytest.mark.parametrize("whole", NETWORKS, indirect=True, scope="module")
@torch.inference_mode()
def test_folded_norms_change_rounding_only_and_bf16_stays_near_float32(whole: tuple[str, Backbone]) -> None:
    """float32: 1e-5 of the standard deviation (RMS); bf16: 2 %. Weights and statistics as training might leave them."""
    model, network = whole[0], copy.deepcopy(whole[1])
    top = entry(model).taps[-1].name
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, NORMS):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.1, generator=generator)
    # CPUs without bf16 are slow at the 3D convolutions of residual networks: they get few pixels.
    is_slow = any(isinstance(module, nn.Conv3d) for module in network.modules()) and model != "s3d"
    num_frames, size = (1, 107) if model == "inception_v3" else (4, 32) if is_slow else (8, 64)
    clips = random_clips(1, num_frames, size, size, 3).permute(0, 4, 1, 2, 3)
    expected = network(clips)[top]
    fold_batch_norms(network)
    assert sum(isinstance(module, NORMS) for module in network.modules()) == NOT_FOLDED.get(model, 0)

    def error(found: Tensor) -> float:
        return float((found.float() - expected).square().mean().sqrt() / expected.std())

    assert error(network(clips)[top]) < 1e-5
    with computing_in("bf16", torch.device("cpu")):
        assert error(move_network(network, torch.device("cpu"))(clips)[top]) < 0.02


def test_random_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    digests: dict[str, str] = {}
    for seed in ("random:0", "random:1"):
        torch.manual_seed(len(digests))
        first, again = (build_backbone("resnet18", seed, ["res2"]) for _ in range(2))
        digests[seed] = weights_digest(first, seed, {})
        assert digests[seed] == weights_digest(again, seed, {})
    assert len(set(digests.values())) == 2
    torch.set_rng_state(state)
    build_backbone("resnet18", "random:0", ["res2"])
    assert torch.equal(torch.get_rng_state(), state)


def test_random_weights_below_the_cut_do_not_depend_on_the_cut(resnet18: Backbone) -> None:
    low = build_backbone("resnet18", "random:0", ["res3"])
    whole = resnet18.state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in low.state_dict().items())
    assert weights_digest(low, "random:0", {}) != weights_digest(resnet18, "random:0", {})
