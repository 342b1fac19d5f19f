"""Tails of Inception networks: their blocks are places, and in one, each branch gets a block of its own."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.bn_inception import BNInception
from kinegraph.stages.backbones.build import build_backbone, untrained
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.heads.conv3d import Conv3dBlock, Conv3dBlockOptions
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.heads.insertion import Followed
from kinegraph.stages.heads.places import FAMILIES
from kinegraph.stages.heads.tail import Tail, build_tail, parse_tail, random_backbone

# Model -> cached tap, shape of its maps for one clip, side of the frames, the blocks above.
CACHED: dict[str, tuple[str, tuple[int, ...], int, tuple[str, str, str]]] = {
    "bn_inception": ("inception_4d", (4, 608, 4, 4), 64, ("inception_4e", "inception_5a", "inception_5b")),
    "inception_v3": ("mixed_6e", (4, 768, 5, 5), 107, ("mixed_7a", "mixed_7b", "mixed_7c")),
}
NUM_CLIPS = 2


@cache
def whole(model: str) -> Backbone:
    """The cached and the last tap, frozen. Not to be changed."""
    return build_backbone(model, "random:0", [CACHED[model][0], CACHED[model][3][-1]])


@cache
@torch.inference_mode()
def online(model: str) -> tuple[Tensor, Tensor]:
    """Maps of the cached and of the last tap [B, T, C, H, W] of the uncut network."""
    tap, shape, side, places = CACHED[model]
    clips = torch.randn(NUM_CLIPS, 3, shape[0], side, side, generator=torch.Generator().manual_seed(0))
    maps = whole(model)(clips)
    assert maps[tap].transpose(1, 2).shape[1:] == shape
    return maps[tap].transpose(1, 2), maps[places[-1]].transpose(1, 2)


def tail_of(model: str, blocks: Any = ()) -> Tail:
    tap, shape, *_ = CACHED[model]
    options = parse_tail({"tail": {"from": tap, "model": model, "weights": "random:0", "blocks": blocks}})
    assert options is not None
    return build_tail({f"features/net/{tap}": shape}, options, lambda options: copy.deepcopy(whole(model)))


def lively(block: nn.Module) -> nn.Module:
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.05)
    return block


@pytest.mark.parametrize("model", CACHED)
def test_above_the_tap_it_is_the_network_bit_for_bit(model: str) -> None:
    cached, last = online(model)
    tail = tail_of(model).eval()
    with torch.inference_mode():
        assert torch.equal(tail(cached), last)
    assert tail.shape == last.shape[1:]


@pytest.mark.parametrize(
    "kinds", [("in_branch", "after", "after"), ("after", "in_branch", "in_branch")], ids=["atr in", "atr after"]
)
@pytest.mark.parametrize("model", CACHED)
def test_blocks_that_start_at_zero_change_no_bit(model: str, kinds: tuple[str, str, str]) -> None:
    cached, last = online(model)
    blocks = [
        {"block": block, kind: place, "options": {"dim": 8} if block == "rstg" else {}}
        for block, kind, place in zip(("atr", "conv3d", "rstg"), kinds, CACHED[model][3], strict=True)
    ]
    tail = tail_of(model, blocks).eval()
    found = {type(module).__name__ for name, module in tail.named_modules() if "inserted" in name}
    assert found >= {"AtrBlock", "Conv3dBlock", "RstgToMap"}
    with torch.inference_mode():
        assert torch.equal(tail(cached), last)


def branches_of(network: Backbone, tap: str, x: Tensor) -> list[Tensor]:
    """What the branches of a block give for [B*T, C, H, W], by the network's own means."""
    if isinstance(network, BNInception):
        return network._branches(tap, x)
    found: list[Tensor] = network.get_submodule(network.stages[tap][-1])._forward(x)
    return found


@pytest.mark.parametrize("kind", ["after", "in_branch"])
@pytest.mark.parametrize("model", CACHED)
@torch.inference_mode()
def test_a_block_sees_whole_clips_of_the_block_or_of_each_branch(model: str, kind: str) -> None:
    place, cached = CACHED[model][3][0], online(model)[0]
    tail = tail_of(model, [{"block": "conv3d", kind: place}]).eval()
    (followed,) = (module for module in tail.modules() if isinstance(module, Followed))
    inserted: Any = lively(followed.inserted).get_submodule("block")
    seen: list[Tensor] = []
    followed.register_forward_hook(lambda module, args, out: seen.append(out.unflatten(0, (NUM_CLIPS, -1))))
    tail(cached)
    (found,) = seen  # [B, T, C, H, W]
    parts = [x.unflatten(0, (NUM_CLIPS, -1)) for x in branches_of(whole(model), place, cached.flatten(0, 1))]
    if kind == "after":
        expected = inserted(torch.cat(parts, 2))
    else:
        assert len(inserted.blocks) == len(parts)
        expected = torch.cat([block(part) for block, part in zip(inserted.blocks, parts, strict=True)], 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected - torch.cat(parts, 2)).std() > 0.01 * expected.std(), "the block does something"


@pytest.mark.parametrize("model", CACHED)
def test_every_block_is_a_place_and_its_branches_are_as_wide_as_stated(model: str) -> None:
    known = entry(model)
    with torch.device("meta"):
        network = untrained(model).eval()
        below = dict(zip([tap.name for tap in known.taps][1:], known.taps, strict=False))
        places = [place for tap in known.taps for place in FAMILIES[model].places(network, tap.name)]
        assert [place.name for place in places] == [tap.name for tap in known.taps if "_" in tap.name]
        for place in places:
            branches = branches_of(network, place.tap, torch.empty(1, below[place.tap].channels, 8, 8))
            assert place.in_branch.channels == tuple(branch.shape[1] for branch in branches)
            assert place.after.channels == (known.tap(place.tap).channels,)


@pytest.mark.parametrize(("block", "kind"), [("trg", "after"), ("conv3d", "in_branch"), ("atr", "in_branch")])
def test_everything_but_frozen_norms_gets_a_gradient(block: str, kind: str) -> None:
    options = {"num_heads": 1} if block == "trg" else {}
    tail = tail_of("bn_inception", [{"block": block, kind: "inception_5a", "options": options}]).train()
    for name, module in tail.named_modules():
        if name.endswith("inserted"):
            lively(module)
    tail(online("bn_inception")[0].clone()).square().mean().backward()
    without = {name for name, parameter in tail.named_parameters() if parameter.grad is None}
    frozen = {name for name, parameter in tail.named_parameters() if not parameter.requires_grad}
    assert without == frozen
    assert {name.rpartition(".")[0][-3:] for name in frozen} == {"_bn"}


@pytest.mark.parametrize(
    ("model", "widths", "millions"),
    [("bn_inception", (1056, 1024, 1024), 96.4), ("inception_v3", (1280, 2048, 2048), 300.9)],
)
def test_trg_after_the_last_three_blocks_has_the_parameters_of_its_formula(
    model: str, widths: tuple[int, ...], millions: float
) -> None:
    """Where the paper reports 14.1 and 28.3 M in all."""
    tap, shape, _, places = CACHED[model]
    counts = []
    for blocks in ([], [{"block": "trg", "after": list(places)}]):
        options = parse_tail({"tail": {"from": tap, "model": model, "weights": "x", "blocks": blocks}})
        assert options is not None
        with torch.device("meta"):
            tail = build_tail({f"features/net/{tap}": shape}, options, random_backbone)
        counts.append(sum(parameter.numel() for parameter in tail.parameters()))
    heads = 3
    formula = sum(10 * heads * c**2 + heads**2 + 4 * heads * c for c in widths)
    assert counts[1] - counts[0] == formula
    assert formula / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"inception_5c": "trg"}, "inception_5c is no stage of the network"),
        ({"inception_5a.0": "trg"}, "inception_5a.0 is not there; inception_5a has inception_5a"),
        ({"inception_4d": "trg"}, "inception_4d is not above the cached tap; above are inception_4e, inception_5a"),
        (
            [{"block": "atr", "after": "inception_5a"}, {"block": "conv3d", "in_branch": "inception_5a"}],
            "inception_5a has an inserted block already",
        ),
        ([{"block": "conv3d", "after": "inception_5a", "options": {"kernel": 3}}], "kernel is 3: .* kernel, shortcut"),
    ],
)
def test_what_cannot_be_is_said_in_words(blocks: Any, message: str) -> None:
    with pytest.raises(HeadError, match=message):
        tail_of("bn_inception", blocks)


def test_a_tap_below_the_blocks_is_no_place() -> None:
    options = parse_tail(
        {"tail": {"from": "stem", "model": "bn_inception", "weights": "x", "blocks": {"conv2": "trg"}}}
    )
    assert options is not None
    with torch.device("meta"), pytest.raises(HeadError, match="conv2 is not there; conv2 has no block"):
        build_tail({"features/net/stem": (8, 64, 56, 56)}, options, random_backbone)


@pytest.mark.parametrize(("kernel", "cells"), [("3x3x3", 27), ("3x1x1", 3)])
def test_a_3d_convolution_reaches_as_far_as_its_kernel(kernel: str, cells: int) -> None:
    block = lively(Conv3dBlock(2, Conv3dBlockOptions(kernel=kernel, shortcut=False))).double().eval()
    nn.init.constant_(block.get_parameter("norm.bias"), 9.0)  # no ReLU closes
    x = torch.randn(1, 2, 5, 5, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[0, :, 2, 2, 2].sum(), x)
    assert gradient[0].any(0).sum() == cells


def test_without_a_shortcut_a_new_3d_convolution_passes_on_what_a_relu_gave() -> None:
    x = torch.rand(2, 3, 4, 5, 5)
    block = Conv3dBlock(3, Conv3dBlockOptions(shortcut=False)).eval()
    torch.testing.assert_close(block(x), x, rtol=1e-4, atol=0)
