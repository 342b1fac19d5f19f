"""The properties that follow from the equations of ATR, numbered as in the design's list, and its size."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kinegraph.stages.heads.atr import (
    AtrBlock,
    AtrBlockOptions,
    EfficientReasoner,
    GraphReasoner,
    Locator,
    aggregate,
)
from tests.stages.heads.conftest import Lively

T, C, H, W = 9, 32, 3, 4
OPTIONS: list[dict[str, Any]] = [
    {},
    {"locator": "none"},
    {"locator": "appearance", "reasoner": "graph"},
    {"locator": "motion", "last_motion": "repeat", "distribution": "scaling"},
    {"last_motion": "wrap", "map_fusion": "concat", "sigmoid_in_adding": False},
    {"reasoner": "none", "channel_transform": "none"},
    {"locator": "both", "distribution": "none"},
    {"reasoner": "graph", "channel_transform": "bottleneck", "num_reasoners": 1},
    {"channel_transform": "depthwise", "num_reasoners": 3, "radius": 2, "reduction": 64},
    {"locator_activation": True, "locator_kernel": 5, "locator_bias": True, "activate_last": True},
]


def _block(channels: int = C, **options: Any) -> AtrBlock:
    return AtrBlock(channels, AtrBlockOptions(**options))


def _locator(lively: Lively, **options: Any) -> Locator:
    return lively(Locator(C, AtrBlockOptions(**options)))


def _clips(frames: int = T, height: int = H, width: int = W) -> Tensor:
    return torch.randn(2, frames, C, height, width, dtype=torch.float64)


def _reach(network: Callable[[Tensor], Tensor], x: Tensor, frame: int) -> list[int]:
    """The frames of x [B, T, ...] on which frame `frame` of the output depends."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[:, frame].square().sum(), x)
    return gradient.transpose(0, 1).flatten(1).any(1).nonzero()[:, 0].tolist()


def test_1_positions_share_a_frame_and_only_differences_of_the_map_count() -> None:
    x, located = _clips(), torch.randn(2, T, 1, H, W, dtype=torch.float64)
    summary = aggregate(x, located)
    torch.testing.assert_close(aggregate(torch.ones_like(x), located), torch.ones_like(summary))
    torch.testing.assert_close(aggregate(x, located + torch.randn(2, T, 1, 1, 1, dtype=torch.float64)), summary)
    only = torch.full_like(located, -1e9)
    only[..., 2, 1] = 0
    torch.testing.assert_close(aggregate(x, only), x[..., 2, 1])


def test_2_a_constant_map_gives_the_average() -> None:
    x = _clips()
    torch.testing.assert_close(aggregate(x, torch.full((2, T, 1, H, W), 3.0, dtype=torch.float64)), x.mean((3, 4)))


def test_2_without_a_locator_the_block_reasons_about_averages(lively: Lively) -> None:
    block, x = lively(_block(locator="none")), _clips()
    z = block.reason(x.mean((3, 4)))
    change = (block(x) - x - block.norm.bias[:, None, None]).mean((3, 4))
    scale = block.norm.weight * (block.norm.running_var + block.norm.eps).rsqrt()
    torch.testing.assert_close(change, (z - block.norm.running_mean) * scale)


def test_3_two_efficient_reasoners_reach_two_frames_and_motion_one_more(lively: Lively) -> None:
    block, x = lively(_block()), _clips()
    assert _reach(block.reason, x.mean((3, 4)), 4) == [2, 3, 4, 5, 6]
    assert _reach(block, x, 4) == [2, 3, 4, 5, 6, 7]
    assert _reach(block, x, 8) == [6, 7, 8]
    assert _reach(lively(_block(radius=2, num_reasoners=1)).reason, x.mean((3, 4)), 4) == [2, 3, 4, 5, 6]
    assert _reach(lively(_block(reasoner="graph", num_reasoners=1)), x, 4) == list(range(T))


def test_3_the_last_motion_against_the_first_frame_reaches_it(lively: Lively) -> None:
    assert _reach(_locator(lively, last_motion="wrap"), _clips(), 8) == [0, 8]
    assert _reach(_locator(lively, last_motion="repeat"), _clips(), 8) == [8]


def test_4_without_weights_off_centre_frames_do_not_mix() -> None:
    reasoner, s = EfficientReasoner(1, nn.Linear(C, C, bias=False)).double(), torch.randn(2, T, C, dtype=torch.float64)
    torch.testing.assert_close(reasoner(s), reasoner.transform(s))


@pytest.mark.parametrize(("w", "commutes"), [((0.3, 0.5, 0.3), True), ((0.3, 0.5, -0.3), False)])
def test_4_symmetric_weights_do_not_know_the_direction_of_time(w: tuple[float, ...], commutes: bool) -> None:
    reasoner, s = EfficientReasoner(1, nn.Identity()).double(), torch.randn(2, T, C, dtype=torch.float64)
    reasoner.w.data = torch.tensor(w, dtype=torch.float64)
    assert torch.allclose(reasoner(s.flip(1)), reasoner(s).flip(1)) == commutes
    order = torch.randperm(T)
    assert not torch.allclose(reasoner(s[:, order]), reasoner(s)[:, order], atol=1e-3)


def test_4_the_efficient_reasoner_is_its_equation() -> None:
    reasoner, s = EfficientReasoner(2, nn.Linear(C, C)).double(), torch.randn(1, T, C, dtype=torch.float64)
    nn.init.normal_(reasoner.w)
    g = reasoner.transform(s)[0]
    torch.testing.assert_close(reasoner(s)[0, 4], sum(reasoner.w[i + 2] * g[4 + i] for i in range(-2, 3)))
    torch.testing.assert_close(reasoner(s)[0, 0], sum(reasoner.w[i + 2] * g[i] for i in range(3)))


def test_4_layer_norm_and_relu_stand_between_reasoners_only(lively: Lively) -> None:
    reason, s = lively(_block(num_reasoners=2)).reason, torch.randn(2, T, C, dtype=torch.float64)
    first, norm, _, second = reason.children()
    torch.testing.assert_close(reason(s), second(norm(first(s)).relu()))
    assert (reason(s) < 0).any()


def test_4_behind_the_last_reasoner_they_stand_if_asked_for(lively: Lively) -> None:
    reason, s = lively(_block(num_reasoners=1, activate_last=True)).reason, torch.randn(2, T, C, dtype=torch.float64)
    only, norm, _ = reason.children()
    torch.testing.assert_close(reason(s), norm(only(s)).relu())


def test_what_is_open_about_the_locator_is_an_option(lively: Lively) -> None:
    x = _clips()
    biased = _locator(lively, locator_bias=True)
    raised = biased(x)
    biased.phi2.bias.data += 0.5
    torch.testing.assert_close(biased(x), raised + 1.0)  # once for either map
    activated = _locator(lively, locator_activation=True, locator_kernel=5)
    assert activated.phi1 is not None
    assert activated.phi3 is not None
    convolution, _, _ = activated.phi3.children()
    assert convolution.weight.shape == (2, 1, 5, 5)
    reduced = activated.reduce(x[:, 3])
    assert reduced.amin() == 0
    motion = activated.phi2(activated.phi1(activated.reduce(x[:, 4])) - reduced)
    torch.testing.assert_close(activated(x)[:, 3], activated.phi2(activated.phi3(reduced)) + motion)


def test_the_block_is_its_equations(lively: Lively) -> None:
    block, x = lively(_block()), _clips()
    assert block.locate is not None
    located = block.locate(x)
    y = block.reason(aggregate(x, located))[..., None, None] + located.sigmoid()
    torch.testing.assert_close(block(x)[:, 3], x[:, 3] + block.norm(y[:, 3]))


def test_4_and_5_the_graph_reasoner_has_no_order_and_rows_of_shares() -> None:
    reasoner = GraphReasoner(*(nn.Linear(C, C, bias=False) for _ in range(3))).double()
    s, order = torch.randn(2, T, C, dtype=torch.float64), torch.randperm(T)
    torch.testing.assert_close(reasoner(s[:, order]), reasoner(s)[:, order])
    torch.testing.assert_close(reasoner.weights(s).sum(2), torch.ones(2, T, dtype=torch.float64))
    affinity = reasoner.theta(s[0, 1]) @ reasoner.phi(s[0]).T
    torch.testing.assert_close(reasoner(s)[0, 1], affinity.softmax(0) @ reasoner.g(s[0]))


@pytest.mark.parametrize("channels", [16, 48])
def test_5_an_efficient_reasoner_has_2k_plus_1_numbers_of_time(channels: int) -> None:
    for radius in (1, 3):
        block = _block(channels, radius=radius, channel_transform="none", num_reasoners=3)
        times = [reasoner.w.numel() for reasoner in block.reason.children() if isinstance(reasoner, EfficientReasoner)]
        assert times == [2 * radius + 1] * 3


def test_6_a_still_clip_has_no_motion_where_phi1_is_the_identity(lively: Lively) -> None:
    both, appearance = _locator(lively, last_motion="repeat"), _locator(lively, locator="appearance")
    appearance.load_state_dict(both.state_dict(), strict=False)
    still = _clips(1).expand(-1, T, -1, -1, -1)
    assert not torch.allclose(both(still), appearance(still), atol=1e-3)
    assert both.phi1 is not None
    weight = both.phi1.get_parameter("weight")
    weight.data = torch.zeros_like(weight)
    weight.data[:, 0, 1, 1] = 1
    torch.testing.assert_close(both(still), appearance(still))


def test_6_the_map_is_appearance_plus_motion(lively: Lively) -> None:
    locator, x = _locator(lively), _clips()
    assert locator.phi1 is not None
    assert locator.phi3 is not None
    reduced = [locator.reduce(frames) for frames in x.transpose(0, 1)]  # each [B, R, H, W]
    motion = locator.phi1(reduced[3]) - reduced[2]
    torch.testing.assert_close(locator(x)[:, 2], locator.phi2(locator.phi3(reduced[2])) + locator.phi2(motion))
    torch.testing.assert_close(locator(x)[:, -1], locator.phi2(locator.phi3(reduced[-1])))


def test_6_maps_side_by_side_start_as_their_sum() -> None:
    summed, side_by_side = (Locator(C, AtrBlockOptions(map_fusion=fusion)).double() for fusion in ("sum", "concat"))
    side_by_side.load_state_dict(summed.state_dict(), strict=False)
    x = _clips()
    torch.testing.assert_close(side_by_side(x), summed(x))


def test_7_scaling_by_a_very_low_map_leaves_what_batch_norm_makes_of_0(lively: Lively) -> None:
    block, z = lively(_block(distribution="scaling")), torch.randn(2, T, C, dtype=torch.float64)
    assert not block.distribute(z, torch.full((2, T, 1, H, W), -1e9, dtype=torch.float64)).any()


@pytest.mark.parametrize(("distribution", "separate"), [("adding", True), ("scaling", False)])
def test_7_only_scaling_lets_the_map_decide_how_much_is_learned(distribution: str, separate: bool) -> None:
    block = _block(distribution=distribution).double()
    z = torch.randn(2, T, C, dtype=torch.float64, requires_grad=True)
    gradients = []
    for _ in range(2):
        located = torch.randn(2, T, 1, H, W, dtype=torch.float64)
        gradients.append(torch.autograd.grad(block.distribute(z, located).sum(), z)[0])
    assert torch.equal(*gradients) == separate


@pytest.mark.parametrize("sigmoid", [True, False])
def test_7_adding_takes_the_map_or_its_sigmoid(sigmoid: bool) -> None:
    block, z = _block(sigmoid_in_adding=sigmoid), torch.zeros(1, T, C)
    located = torch.randn(1, T, 1, H, W)
    expected = located.sigmoid() if sigmoid else located
    assert torch.equal(block.distribute(z, located), expected.expand(-1, -1, C, -1, -1))


def test_7_without_distribution_the_map_only_says_what_is_collected(lively: Lively) -> None:
    block, x = lively(_block(distribution="none")), _clips()
    assert block.locate is not None
    z = block.reason(aggregate(x, block.locate(x)))
    scale = block.norm.weight * (block.norm.running_var + block.norm.eps).rsqrt()
    change = (z - block.norm.running_mean) * scale + block.norm.bias
    torch.testing.assert_close(block(x) - x, change[..., None, None].expand_as(x))


@pytest.mark.parametrize("options", OPTIONS)
def test_8_a_new_block_is_the_identity(options: dict[str, Any]) -> None:
    x = _clips()
    assert torch.equal(_block(**options).double().eval()(x), x)
    assert not torch.equal(_block(**options, zero_init_norm=False).double().eval()(x), x)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 1, 1), (2, 5, 3), (12, 3, 3)])
def test_9_a_block_runs_on_any_size(
    options: dict[str, Any], frames: int, height: int, width: int, lively: Lively
) -> None:
    x = _clips(frames, height, width)
    out = lively(_block(**options))(x)
    assert out.shape == x.shape
    assert out.isfinite().all()


@pytest.mark.parametrize(("channels", "millions"), [(512, 0.543), (1024, 2.168), (2048, 8.661)])
def test_10_number_of_parameters_at_paper_size(channels: int, millions: float) -> None:
    with torch.device("meta"):
        block = _block(channels)
    expected = channels**2 // 16 + 19 * channels // 16 + 2 * (channels**2 + 3) + 2 * channels + 2 * channels
    assert sum(parameter.numel() for parameter in block.parameters()) == expected
    assert expected / 1e6 == pytest.approx(millions, abs=0.0005)


def test_10_thirteen_blocks_have_41_million_parameters_and_1_71_gmac() -> None:
    """After the residual blocks of stages 3 to 5 of a ResNet-50 on 8 frames of 224 px."""
    total, params = 0, 0
    for channels, side, count in ((512, 28, 4), (1024, 14, 6), (2048, 7, 3)):
        with torch.device("meta"):
            block, x = _block(channels), torch.empty(1, 8, channels, side, side)
        counter = FlopCounterMode(display=False)
        with counter:
            block(x)
        positions, reduced = side**2, channels // 16
        locator = (8 * channels * reduced + (8 + 7) * 9 * reduced + 2 * 8 * reduced) * positions
        reasoners = 2 * 8 * channels**2  # the counter leaves out their sums over three frames
        assert counter.get_total_flops() == 2 * (locator + 8 * channels * positions + reasoners)
        total += count * counter.get_total_flops() // 2
        params += count * sum(parameter.numel() for parameter in block.parameters())
    assert params / 1e6 == pytest.approx(41.2, abs=0.05)
    assert total / 1e9 == pytest.approx(1.71, rel=0.01)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"channel_transform": "full"}, C**2 + 3),
        ({"channel_transform": "bottleneck", "bottleneck": 4}, C**2 // 2 + 3),
        ({"channel_transform": "depthwise"}, C + 3),
        ({"channel_transform": "none", "radius": 2}, 5),
        ({"reasoner": "graph"}, 3 * C**2),
        ({"reasoner": "none"}, 0),
    ],
)
def test_10_number_of_parameters_of_a_reasoner(options: dict[str, Any], expected: int) -> None:
    block = _block(locator="none", num_reasoners=1, **options)
    assert sum(parameter.numel() for parameter in block.reason.parameters()) == expected


def test_11_depth_wise_convolutions_keep_channels_apart(lively: Lively) -> None:
    locator = _locator(lively)
    x = torch.randn(1, C // 16, H, W, dtype=torch.float64, requires_grad=True)
    assert locator.phi3 is not None
    (gradient,) = torch.autograd.grad(locator.phi3(x)[:, 0].sum(), x)
    assert gradient[:, 0].any()
    assert not gradient[:, 1:].any()


@pytest.mark.parametrize("channel", [0, 3])
def test_11_the_depth_wise_transform_keeps_channels_apart(channel: int, lively: Lively) -> None:
    reasoner = lively(_block(channel_transform="depthwise", num_reasoners=1)).reason
    s = torch.randn(1, T, C, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(reasoner(s)[..., channel].sum(), s)
    assert gradient.any(1)[0].nonzero()[:, 0].tolist() == [channel]
