"""Tails: the part above the tap equals the uncut network, and blocks see the clip, not loose frames."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kinegraph.stages.backbones import build
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.build import build_backbone, untrained
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.norms import NORMS
from kinegraph.stages.heads.build import build_head, rebuild_head
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.heads.insertion import Followed
from kinegraph.stages.heads.tail import Tail, build_tail, parse_tail, random_backbone, trained_backbone
from kinegraph.stages.heads.tail_options import TailOptions

# B clips, T frames, C channels, H, W.

# Model -> (cached tap, shape of its maps for one clip).
CACHED = {
    "resnet18": ("res4", (4, 256, 4, 4)),
    "tsm_r50": ("res3", (4, 512, 8, 8)),
    "nonlocal_i3d_r50": ("res2", (4, 256, 8, 8)),
}
TAPS = ("res2", "res3", "res4", "res5")


@cache
def whole(model: str) -> Backbone:
    """All taps, frozen. Not to be changed."""
    return build_backbone(model, "random:0", TAPS)


def spec_of(model: str) -> dict[str, tuple[int, ...]]:
    tap, shape = CACHED[model]
    return {f"features/net/{tap}": shape}


def tail_of(model: str, blocks: Any = (), **options: Any) -> Tail:
    given = {"from": CACHED[model][0], "model": model, "weights": "random:0", "blocks": blocks} | options
    return build_tail(spec_of(model), parsed(given), lambda options: copy.deepcopy(whole(model)))


def parsed(given: dict[str, Any]) -> TailOptions:
    found = parse_tail({"tail": given})
    assert found is not None
    return found


def cached_maps(model: str, num_clips: int = 2) -> Tensor:
    """[B, T, C, H, W], as after a ReLU."""
    return torch.rand(num_clips, *CACHED[model][1], generator=torch.Generator().manual_seed(0))


@cache
@torch.inference_mode()
def online(model: str) -> tuple[Tensor, Tensor]:
    """Maps of the cached and of the last tap [B, T, C, H, W] of the uncut network."""
    size = 64 if model != "nonlocal_i3d_r50" else 32
    num_frames = CACHED[model][1][0] * entry(model).tap(CACHED[model][0]).temporal_stride
    clips = torch.randn(2, 3, num_frames, size, size, generator=torch.Generator().manual_seed(0))
    maps = whole(model)(clips)
    return maps[CACHED[model][0]].transpose(1, 2), maps["res5"].transpose(1, 2)


@pytest.mark.parametrize("model", CACHED)
def test_above_the_tap_it_is_the_network_bit_for_bit(model: str) -> None:
    cached, last = online(model)
    tail = tail_of(model).eval()
    with torch.inference_mode():
        assert torch.equal(tail(cached), last)
    assert tail.shape == last.shape[1:]
    below = [name for name in tail.network.state_dict() if name.startswith(("conv1.", "bn1.", "layer1.", "res2."))]
    assert not below
    assert {f"features/net/{CACHED[model][0]}", "features/net/res5"} == {tail.cached_tap.maps, tail.last_tap.maps}


@pytest.mark.parametrize(("recorded", "side"), [({}, 8), ({"res5_stride": 2}, 4)])
def test_the_network_is_the_one_that_the_cache_recorded(
    monkeypatch: pytest.MonkeyPatch, recorded: dict[str, int], side: int
) -> None:
    """Also where its weights were trained in another; a cache records what is not as in the paper."""
    monkeypatch.setattr(build, "load_weights", lambda *args, **more: None)
    given = {"from": "res4", "model": "i3d_r50", "weights": "slowfast_8x8", "options": recorded}
    with torch.device("meta"):
        for make in (trained_backbone, random_backbone):
            tail = build_tail({"features/net/res4": (4, 1024, 8, 8)}, parsed(given), make)
            assert tail.shape == (4, 2048, side, side)
            assert tail(torch.empty(2, 4, 1024, 8, 8)).shape[1:] == tail.shape


def test_frames_that_leave_no_whole_groups_of_attention_are_refused() -> None:
    given = {
        "from": "res2",
        "model": "nonlocal_i3d_r50",
        "options": {"res3_attention_frames": 4},
        "weights": "random:0",
    }
    spec = {"features/net/res2": (12, 256, 8, 8)}
    with pytest.raises(HeadError, match="tail: features/net/res2 has 12 frames: res3 needs a multiple of 8"):
        build_tail(spec, parsed(given), random_backbone)


@pytest.mark.parametrize(("atr", "others"), [("in_branch", "after"), ("after", "in_branch")])
@pytest.mark.parametrize("model", CACHED)
def test_blocks_that_start_at_zero_change_no_bit(model: str, atr: str, others: str) -> None:
    """All kinds but TRG, which has no such start."""
    cached, last = online(model)
    rstg, non_local = (
        {"block": "rstg", others: "res5.0", "options": {"dim": 8}},
        {"block": "non_local", others: "res5.1"},
    )
    tail = tail_of(model, [{"block": "atr", atr: "res5"}, rstg, non_local]).eval()
    kinds = {type(module).__name__ for name, module in tail.named_modules() if "inserted" in name}
    assert kinds >= {"AtrBlock", "RstgToMap", "NonLocal"}
    with torch.inference_mode():
        assert torch.equal(tail(cached), last)


def lively(block: nn.Module) -> nn.Module:
    """Random weights, small enough for a residual network."""
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.05)
    return block


@pytest.mark.parametrize(("block", "place"), [("trg", "after"), ("atr", "in_branch"), ("non_local", "after")])
@pytest.mark.parametrize(("model", "stage"), [("resnet18", "layer4"), ("nonlocal_i3d_r50", "res5")])
@torch.inference_mode()
def test_a_block_sees_whole_clips_where_it_was_put(model: str, stage: str, block: str, place: str) -> None:
    """Against the residual block written out, on [B, T, C, H, W] all the way."""
    options = {"num_heads": 2} if block == "trg" else {}
    tail = tail_of(model, [{"block": block, place: "res5.1", "options": options}]).eval()
    outer = tail.network.get_submodule(f"{stage}.1")
    residual: Any = outer.host if isinstance(outer, Followed) else outer
    last = residual.bn3 if hasattr(residual, "bn3") else residual.bn2
    followed, norm = (outer, last) if place == "after" else (last, last.host)
    found_block, is_2d = lively(followed.get_submodule("inserted.block")), model == "resnet18"
    seen: list[Tensor] = []
    outer.register_forward_hook(lambda module, args, out: seen.extend([args[0].clone(), out.clone()]))
    tail(cached_maps(model))

    def clips(x: Tensor) -> Tensor:
        return x.unflatten(0, (2, -1)) if is_2d else x.transpose(1, 2)

    def back(x: Tensor) -> Tensor:
        return x.flatten(0, 1) if is_2d else x.transpose(1, 2)

    x, found = seen
    y = residual.conv1(x)
    y = residual.conv2(residual.bn1(y).relu())
    if hasattr(residual, "bn3"):
        y = residual.conv3(residual.bn2(y).relu())
    plain = nn.functional.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    if place == "in_branch":
        expected = (back(found_block(clips(plain))) + x).relu()
    else:
        expected = back(found_block(clips((plain + x).relu())))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected - (plain + x).relu()).std() > 0.01 * expected.std(), "the block does something"


@pytest.mark.parametrize(
    ("model", "block", "place", "options"),
    [
        ("resnet18", "trg", "after", {"num_heads": 1}),
        ("resnet18", "trg", "in_branch", {"num_heads": 1}),
        ("nonlocal_i3d_r50", "trg", "in_branch", {"num_heads": 1}),
        ("resnet18", "atr", "in_branch", {}),
        ("resnet18", "rstg", "after", {"dim": 8}),
        ("resnet18", "non_local", "in_branch", {}),
    ],
)
def test_everything_but_frozen_norms_gets_a_gradient(
    model: str, block: str, place: str, options: dict[str, Any]
) -> None:
    """Also where the shortcut is added in place to the output of a block."""
    tail = tail_of(model, [{"block": block, place: ["res5.0"], "options": options}]).train()
    for name, module in tail.named_modules():
        if name.endswith("inserted"):
            lively(module)
    tail(cached_maps(model)).square().mean().backward()
    without = {name for name, parameter in tail.named_parameters() if parameter.grad is None}
    frozen = {name for name, parameter in tail.named_parameters() if not parameter.requires_grad}
    assert without == frozen
    assert not any("inserted" in name for name in frozen)
    norms = [module for name, module in tail.named_modules() if "inserted" not in name and isinstance(module, NORMS)]
    assert len(frozen) == 2 * len(norms) > 0


@pytest.mark.parametrize("place", ["after", "in_branch"])
@pytest.mark.parametrize(("batch_norm", "num_training"), [("frozen", 0), ("partial", 1), ("train", 5)])
def test_norms_train_as_asked(batch_norm: str, num_training: int, place: str) -> None:
    """resnet18's res5 has five norms; the one of an inserted block always trains."""
    tail = tail_of("resnet18", [{"block": "atr", place: "res5.1"}], batch_norm=batch_norm).train()
    assert tail.network.training
    before = copy.deepcopy(tail.state_dict())
    optimizer = torch.optim.SGD(tail.parameters(), 0.1, weight_decay=0.1)
    tail(cached_maps("resnet18")).square().mean().backward()
    optimizer.step()
    after = tail.state_dict()
    norms = {name.rpartition(".")[0] for name in before if name.endswith("running_mean")}
    moved = {name.rpartition(".") for name in before if not torch.equal(before[name], after[name])}
    statistics = {norm for norm, _, tensor in moved if norm in norms and tensor.startswith("running")}
    affine = {norm for norm, _, tensor in moved if norm in norms and tensor in ("weight", "bias")}
    assert statistics == affine
    of_backbone = {name for name in affine if "inserted" not in name}
    assert len(of_backbone) == num_training
    assert batch_norm != "partial" or of_backbone == {"network.layer4.0.bn1"}
    assert len(affine - of_backbone) == 1
    assert not torch.equal(before["network.layer4.0.conv1.weight"], after["network.layer4.0.conv1.weight"])


def test_with_frozen_norms_training_computes_what_evaluation_does() -> None:
    maps = cached_maps("resnet18")
    frozen, trained = tail_of("resnet18"), tail_of("resnet18", batch_norm="train")
    assert torch.equal(frozen.train()(maps), frozen.eval()(maps))
    assert not torch.allclose(trained.train()(maps), frozen(maps), rtol=0.1)


def test_a_copy_calls_its_own_blocks() -> None:
    """An average of weights is one."""
    tail = tail_of("resnet18", {"res5.1": "atr"}).eval()
    twin, maps = copy.deepcopy(tail), cached_maps("resnet18")
    before = twin(maps)
    lively(tail.network.get_submodule("layer4.1.inserted"))
    assert torch.equal(twin(maps), before)
    assert not torch.equal(tail(maps), before)


def test_norms_stay_frozen_where_several_devices_share_them() -> None:
    """Training on several GPUs replaces each norm by one that sees all clips."""
    tail = tail_of("resnet18", [{"block": "atr", "in_branch": "res5.1"}]).eval()
    maps = cached_maps("resnet18")
    before, inserted = tail(maps), lively(tail.network.get_submodule("layer4.1.bn2.inserted"))
    assert not torch.equal(tail(maps), before)
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(tail).train()
    training = {name for name, x in shared.named_modules() if isinstance(x, nn.SyncBatchNorm) and x.training}
    assert training == {"network.layer4.1.bn2.inserted.block.norm"}
    assert shared.network.get_submodule("layer4.1.bn2.inserted") is inserted


SPEC = {
    **spec_of("resnet18"),
    "features/net/res4_pooled": (4, 256),
    "clips/crop": (4,),
    "proposals/boxes": (4, 3, 4),
    "proposals/count": (4,),
    "regions/net/res4": (4, 3, 256),
    "features/other/res5_pooled": (4, 8),
}
TAIL = {"from": "res4", "model": "resnet18", "weights": "random:0"}


@pytest.mark.parametrize(
    ("name", "options", "reads"),
    [
        ("avg_pool", {}, set()),
        ("trg", {"dim": 8, "num_blocks": 1}, set()),
        ("strg", {"dim": 8, "regions_from": "maps"}, {"clips/crop", "proposals/boxes", "proposals/count"}),
    ],
)
def test_any_head_reads_what_the_tail_gives(name: str, options: dict[str, Any], reads: set[str]) -> None:
    head = build_head(name, SPEC, 3, tail=TAIL, **options).eval()
    assert set(head.reads) == reads | {"features/net/res4"}
    assert (head.name, head.options["tap"], head.options["tail"]["backbone"]) == (name, "res5", "net")
    batch = {
        "features/net/res4": cached_maps("resnet18").half(),
        "clips/crop": torch.tensor([[0.0, 0, 64, 64]] * 2),
        "proposals/boxes": torch.tensor([8.0, 8, 40, 40]).expand(2, 4, 3, 4),
        "proposals/count": torch.full((2, 4), 3),
    }
    assert head({key: batch[key] for key in head.reads}).shape == (2, 3)


def test_the_heads_backbone_is_the_tails() -> None:
    two = SPEC | {"features/other/res4": SPEC["features/net/res4"]}
    with pytest.raises(HeadError, match=r"options of train or of a variant: backbone=net .* backbone=other"):
        build_head("avg_pool", two, 3, tail=TAIL)
    assert build_head("avg_pool", two, 3, tail=TAIL, backbone="other").reads == ("features/other/res4",)


def test_a_run_builds_it_again_without_the_checkpoint() -> None:
    head = build_head("avg_pool", SPEC, 3, tail=TAIL | {"blocks": {"res5.1": "atr"}}).eval()
    options = head.options | {"tail": head.options["tail"] | {"weights": "is/gone.pth"}}
    again = rebuild_head("avg_pool", {name: SPEC[name] for name in head.reads}, 3, options).eval()
    assert again.options == options
    again.load_state_dict(head.state_dict())
    batch = {"features/net/res4": cached_maps("resnet18")}
    assert torch.equal(again(batch), head(batch))


def test_only_the_weights_of_the_backbone_have_the_tails_factor() -> None:
    head = build_head("avg_pool", SPEC, 3, tail=TAIL | {"blocks": {"res5.1": "atr"}, "learning_rate_factor": 0.1})
    factors = {name: head.learning_rate_factor_of(name) for name, _ in head.named_parameters()}
    slow = {name for name, factor in factors.items() if factor == 0.1}
    assert slow == {name for name in factors if name.startswith("tail.network.layer4.") and "inserted" not in name}
    assert {factor for name, factor in factors.items() if name not in slow} == {1.0}
    assert "head.classifier.fc.weight" in factors


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ({"from": "res3"}, "Missing features/<backbone>/res3"),
        ({"from": "res4", "weights": None}, "model and weights are missing: those of the backbone entry"),
        ({"model": "s3d"}, "backbone s3d cannot be a tail; those that can are resnet18, .*slowonly_r50"),
        ({"model": "resnet50"}, "features/net/res4 has 256 channels, res4 of resnet50 has 1024"),
        ({"weights": "random:x"}, "expected random:<seed>"),
        ({"blocks": {"res3.1": "trg"}}, "res3.1 is not above the cached tap; above are res5. .* cache a lower tap"),
        ({"blocks": {"res6": "trg"}}, "res6 is no stage of the network"),
        ({"blocks": {"res5.2": "trg"}}, "res5.2 is not there; res5 has res5.0, res5.1"),
        (
            {"blocks": {"res5.1": "gcn"}},
            "tail.blocks.0.block: Input should be 'trg', 'atr', 'rstg', 'non_local' or",
        ),
        ({"blocks": [{"block": "trg"}]}, r"given after \(\) and in_branch \(\), allowed: one of the two"),
        ({"blocks": {"res5.1": "atr", "res5": "trg"}}, "res5.1 has an inserted block already"),
        (
            {"blocks": [{"block": "atr", "after": "res5", "options": {"heads": 3}}]},
            "atr: heads is 3: .* options: locator",
        ),
        ({"blocks": 3}, "tail.blocks: Input should be a list .given 3"),
        ({"batchnorm": "frozen"}, "tail.batchnorm: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_is_said_in_words(tail: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head("avg_pool", SPEC, 3, tail=TAIL | tail)


def test_a_tail_that_nobody_reads_is_refused() -> None:
    with pytest.raises(HeadError, match=r"proposal_pool reads regions/net/res4.*a tail would do nothing"):
        build_head("proposal_pool", SPEC, 3, tail=TAIL)
    for name, options in (("strg", {}), ("proposal_pool", {"concat_global": True}), ("trg", {"tap": "res4"})):
        arrays = "features/net/res5 and features/net/res5_pooled"
        words = rf"{name} .* computes {arrays} only: .*`regions_from: maps`.* `tap`"
        with pytest.raises(HeadError, match=words):
            build_head(name, SPEC, 3, tail=TAIL, **options)
    with pytest.raises(HeadError, match="allowed for resnet18: stem, res2, res3, res4"):
        build_head("avg_pool", {"features/net/res5": (4, 512, 2, 2)}, 3, tail=TAIL | {"from": "res5"})
    small, blocks = {"features/net/res4": (4, 256, 2, 2)}, {"res5.1": "non_local"}
    with pytest.raises(HeadError, match="non_local pools 1x2x2; the maps of res5 are 1 x 1"):
        build_head("avg_pool", small, 3, tail=TAIL | {"blocks": blocks})


def test_atr_in_all_blocks_of_three_stages_costs_what_its_formula_says() -> None:
    """13 blocks on ResNet-50, T = 8, 224 px: 41.2 M parameters and 1.71 GMAC beside the network's own."""
    spec = {"features/net/res2": (8, 256, 56, 56)}
    given = {"from": "res2", "model": "resnet50", "weights": "random:0"}
    atr = [{"block": "atr", "in_branch": ["res3", "res4", "res5"]}]
    with torch.device("meta"):
        maps = torch.empty(1, *spec["features/net/res2"])
    counts = []
    for blocks in ([], atr):
        tail = build_tail(spec, parsed(given | {"blocks": blocks}), random_backbone).to("meta").eval()
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            tail(maps)
        num_params = sum(parameter.numel() for parameter in tail.parameters())
        counts.append((num_params, counter.get_total_flops() / 2e9))
    num_params, gmacs = (atr - plain for plain, atr in zip(*counts, strict=True))
    per_block = {c: c * c // 16 + 19 * c // 16 + 2 * (c * c + 3) + 2 * c + 2 * c for c in (512, 1024, 2048)}
    assert num_params == 4 * per_block[512] + 6 * per_block[1024] + 3 * per_block[2048]
    assert num_params / 1e6 == pytest.approx(41.2, abs=0.05)
    assert gmacs == pytest.approx(1.71, abs=0.01)


def test_the_network_is_cut_from_below() -> None:
    with torch.device("meta"):
        network = untrained("resnet18")
    network.cut_below("res3")
    assert (network.levels, network.taps) == (("res4", "res5"), ("res4", "res5"))
    assert {name.split(".")[0] for name in network.state_dict()} == {"layer3", "layer4"}
    with pytest.raises(ValueError, match=r"nothing above the tap 'res2'; it has above \['res4'\]"):
        network.cut_below("res2")
    with pytest.raises(ValueError, match="nothing above the tap 'res5'"):
        network.cut_below("res5")
