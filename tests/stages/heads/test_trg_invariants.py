"""The properties that follow from the equations of TRG, numbered as in the design's list, and its size."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.trg import Attention, BilinearRelation, DotRelation, Mean, TrgBlock, TrgBlockOptions
from tests.stages.heads.conftest import Lively

T, N, C, H, W = 4, 3, 5, 3, 4
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_heads": 1},
    {"num_heads": 12, "aggregator": "mean"},
    {"relation": "sum", "aggregator": "concatenation"},
    {"relation": "bilinear", "fusion": "concat"},
    {"scale_relation": False, "norm_after": "graph"},
]


def _block(channels: int = C, **options: Any) -> TrgBlock:
    return TrgBlock(channels, TrgBlockOptions(**options))


def _clips(frames: int = T, height: int = H, width: int = W) -> Tensor:
    return torch.randn(2, frames, C, height, width, dtype=torch.float64)


@pytest.mark.parametrize("options", OPTIONS)
def test_1_rows_of_the_adjacency_are_shares(options: dict[str, Any], lively: Lively) -> None:
    adjacency = lively(_block(**options)).adjacency(_clips())
    assert adjacency.shape == (2, options.get("num_heads", N), T, T)
    assert (adjacency >= 0).all()
    torch.testing.assert_close(adjacency.sum(3), torch.ones(adjacency.shape[:3], dtype=torch.float64))


@pytest.mark.parametrize("relation", ["dot", "sum"])
def test_1_relations_are_symmetric_their_shares_are_not(relation: str, lively: Lively) -> None:
    block = lively(_block(relation=relation))
    relations = block.relation(torch.rand(2, N, T, C, H * W, dtype=torch.float64))
    torch.testing.assert_close(relations, relations.transpose(2, 3))
    adjacency = block.adjacency(_clips())
    assert not torch.allclose(adjacency, adjacency.transpose(2, 3), atol=1e-3)


def test_2_shares_of_the_heads_sum_to_1_and_one_head_has_all() -> None:
    z = torch.rand(2, T, N, C, H, W, dtype=torch.float64)
    attention = Attention(N, C).double()
    nn.init.normal_(attention.weight.weight)
    shares = attention.shares(z)
    assert ((shares > 0) & (shares < 1)).all()
    torch.testing.assert_close(shares.sum(2), torch.ones(2, T, dtype=torch.float64))
    assert not torch.allclose(shares, torch.full_like(shares, 1 / N), atol=1e-3)
    assert torch.equal(Attention(1, C).double()(z[:, :, :1]), z[:, :, 0])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 1, 1), (2, 5, 3), (7, 3, 3)])
def test_3_and_4_any_size_keeps_its_shape_and_is_not_negative(
    options: dict[str, Any], frames: int, height: int, width: int, lively: Lively
) -> None:
    x, block = _clips(frames, height, width), lively(_block(**options))
    out = block(x)
    assert out.shape == x.shape
    assert (out >= 0).all()
    if frames == 1:
        assert torch.equal(block.adjacency(x), torch.ones(2, options.get("num_heads", N), 1, 1, dtype=torch.float64))


@pytest.mark.parametrize("options", OPTIONS)
def test_5_permuted_frames_give_permuted_frames(options: dict[str, Any], lively: Lively) -> None:
    block, x, order = lively(_block(**options)), _clips(), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])


def test_5_the_head_ignores_the_order_of_frames_unless_its_backbone_knows_it(lively: Lively) -> None:
    head = lively(build_head("trg", {"features/r50/res5": (T, C, H, W)}, 3, dim=4))
    backbone, x = nn.Conv3d(C, C, (3, 1, 1), padding=(1, 0, 0)).double(), _clips()
    logits, reversed_logits = (head({"features/r50/res5": clips}) for clips in (x, x.flip(1)))
    torch.testing.assert_close(logits, reversed_logits)
    moving, reversed_moving = (
        head({"features/r50/res5": backbone(clips.transpose(1, 2)).transpose(1, 2)}) for clips in (x, x.flip(1))
    )
    assert not torch.allclose(moving, reversed_moving, atol=1e-3)


@pytest.mark.parametrize("options", OPTIONS)
def test_6_a_still_clip_gives_the_output_of_its_one_frame(options: dict[str, Any], lively: Lively) -> None:
    block, frame = lively(_block(**options)), _clips(1)
    still = frame.expand(-1, T, -1, -1, -1)
    torch.testing.assert_close(block(still), block(frame).expand(-1, T, -1, -1, -1))
    adjacency = block.adjacency(still)
    torch.testing.assert_close(adjacency, torch.full_like(adjacency, 1 / T))


@pytest.mark.parametrize(
    ("options", "beside_embedding_and_convolution"),
    [
        ({}, N**2),
        ({"num_heads": 12}, 12**2),
        ({"aggregator": "mean"}, 0),
        ({"aggregator": "concatenation"}, N * C**2 + 2 * C),
        ({"relation": "sum"}, N**2 + N * C),
        ({"relation": "bilinear"}, N**2 + N * C**2),
        ({"fusion": "concat"}, N**2 + 2 * C**2 + 2 * C),
    ],
)
def test_7_number_of_parameters(options: dict[str, Any], beside_embedding_and_convolution: int) -> None:
    heads = options.get("num_heads", N)
    expected = heads * C**2 + 9 * heads * C**2 + 2 * (2 * heads * C) + beside_embedding_and_convolution
    assert sum(parameter.numel() for parameter in _block(**options).parameters()) == expected


def test_7_three_blocks_at_paper_size_have_378_million_parameters_and_148_gmac() -> None:
    with torch.device("meta"):
        blocks = nn.Sequential(*(_block(2048) for _ in range(3)))
        x = torch.empty(1, 8, 2048, 7, 7)
    counter = FlopCounterMode(display=False)
    with counter:
        blocks(x)
    frame_products = 2 * 3 * 8**2 * 2048 * 49  # relations, and what frames collect
    aggregation = 8 * 3**2 + 8 * 3 * 2048 * 49
    expected = 3 * (10 * 3 * 2048**2 * 8 * 49 + frame_products + aggregation)
    assert counter.get_total_flops() == 2 * expected
    assert expected / 1e9 == pytest.approx(148, rel=0.005)
    assert sum(parameter.numel() for parameter in blocks.parameters()) / 1e6 == pytest.approx(378, rel=0.005)


@pytest.mark.parametrize("relation", ["dot", "sum", "bilinear"])
def test_8_the_adjacency_ignores_a_common_permutation_of_positions(relation: str, lively: Lively) -> None:
    block, x, order = lively(_block(relation=relation)), _clips(), torch.randperm(H * W)
    shuffled = x.flatten(3)[..., order].view_as(x)
    torch.testing.assert_close(block.adjacency(shuffled), block.adjacency(x))
    assert not torch.allclose(block(shuffled), block(x).flatten(3)[..., order].view_as(x), atol=1e-3)


def test_8_the_graph_convolution_follows_a_shift_away_from_the_borders(lively: Lively) -> None:
    block, x = lively(_block()), _clips(width=8)
    adjacency = block.adjacency(x)
    z, shifted = block.collect(adjacency, x), block.collect(adjacency, x.roll(1, 4))
    torch.testing.assert_close(shifted[..., 2:-1], z[..., 1:-2])


def test_9_heads_have_no_order_and_without_weights_are_averaged() -> None:
    z, order = torch.rand(2, T, N, C, H, W, dtype=torch.float64), torch.tensor([2, 0, 1])
    aggregate, permuted = Attention(N, C).double(), Attention(N, C).double()
    nn.init.normal_(aggregate.weight.weight)
    permuted.weight.weight.data = aggregate.weight.weight.data[order][:, order]
    torch.testing.assert_close(permuted(z[:, :, order]), aggregate(z))
    nn.init.zeros_(aggregate.weight.weight)
    torch.testing.assert_close(aggregate(z), Mean(N, C)(z))


def test_10_frames_that_resemble_only_themselves_do_not_mix(lively: Lively) -> None:
    block = lively(_block(num_heads=1, scale_relation=False))
    block.embed = nn.Sequential()
    x = torch.zeros(1, T, C, H, W, dtype=torch.float64)
    x[0, range(T), range(T)] = 100.0
    adjacency = block.adjacency(x)
    assert torch.equal(adjacency[0, 0], torch.eye(T, dtype=torch.float64))
    alone = block.norm(block.convolution(x[0])).relu()
    torch.testing.assert_close(block.collect(adjacency, x)[0, :, 0], alone)


def test_batch_norm_before_or_after_the_graph_is_the_same_in_evaluation_and_not_in_training(lively: Lively) -> None:
    before, after = (lively(_block(norm_after=place)) for place in ("convolution", "graph"))
    after.load_state_dict(before.state_dict())
    x = _clips()
    torch.testing.assert_close(after(x), before(x))
    assert not torch.allclose(after.train()(x), before.train()(x), atol=1e-3)


def test_bilinear_relations_start_as_dot_products() -> None:
    u = torch.randn(2, N, T, C, H * W, dtype=torch.float64)
    torch.testing.assert_close(BilinearRelation(N, C).double()(u), DotRelation(N, C)(u))


def test_relations_are_those_of_the_equations(lively: Lively) -> None:
    u = torch.randn(1, N, T, C, H * W, dtype=torch.float64)
    by_sum, bilinear = (lively(_block(relation=name)).relation for name in ("sum", "bilinear"))
    i, j, n = 1, 3, 2
    u_i, u_j = u[0, n, i], u[0, n, j]  # [C, HW]
    torch.testing.assert_close(by_sum(u)[0, n, i, j], (by_sum.v[n] @ (u_i + u_j).tanh()).sum())
    torch.testing.assert_close(bilinear(u)[0, n, i, j], (u_i * (bilinear.w[n] @ u_j)).sum())


def test_the_block_is_its_equations(lively: Lively) -> None:
    block, x = lively(_block()), _clips()
    adjacency, (i, n) = block.adjacency(x), (1, 2)
    convolved = [block.norm(block.convolution(x[:, j]))[:, n * C : (n + 1) * C] for j in range(T)]
    collected = sum(adjacency[:, n, i, j, None, None, None] * convolved[j] for j in range(T))
    z = block.collect(adjacency, x)
    torch.testing.assert_close(z[:, i, n], collected.relu())
    shares = (z[:, i].mean((2, 3, 4)) @ block.aggregate.weight.weight.T).relu().softmax(1)
    torch.testing.assert_close(block(x)[:, i], (x[:, i] + (shares[..., None, None, None] * z[:, i]).sum(1)).relu())


@pytest.mark.parametrize("options", [{"aggregator": "concatenation"}, {"fusion": "concat"}])
def test_concatenation_keeps_its_parts_apart(options: dict[str, Any], lively: Lively) -> None:
    """Both the first and the last part count, each with weights of its own."""
    part = lively(_block(**options))
    merge = part.fuse or part.aggregate
    z = torch.randn(1, T, merge.merge[0].in_channels // C, C, H, W, dtype=torch.float64)
    by_hand = merge.merge(z[0].reshape(T, -1, H, W))
    torch.testing.assert_close(merge(z)[0], by_hand)
    assert not torch.allclose(merge(z.flip(2))[0], by_hand, atol=1e-3)


def test_the_scale_is_the_root_of_the_size_of_a_frame(lively: Lively) -> None:
    plain, scaled = (lively(_block(scale_relation=scale)) for scale in (False, True))
    scaled.load_state_dict(plain.state_dict())
    x = _clips()
    convolution, norm, _ = plain.get_submodule("embed").children()
    u = torch.stack([norm(convolution(clip)).relu() for clip in x]).view(2, T, N, C, H * W)
    logits = plain.relation(u.transpose(1, 2))
    torch.testing.assert_close(plain.adjacency(x), logits.softmax(3))
    torch.testing.assert_close(scaled.adjacency(x), (logits / (C * H * W) ** 0.5).softmax(3))


@pytest.mark.parametrize("options", [{}, {"scale_relation": False}, {"relation": "bilinear"}])
def test_relations_of_the_largest_maps_pass_the_end_of_float16(options: dict[str, Any]) -> None:
    """The dot product of two frames that resemble each other is about 400,000 here; float16 ends at 65,504."""
    block, frame = _block(256, num_heads=1, **options), torch.randn(1, 1, 256, 56, 56)
    clip = frame + 0.05 * torch.randn(1, 2, 256, 56, 56)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        shares = block.adjacency(clip)
    torch.testing.assert_close(shares, block.adjacency(clip), atol=0.01, rtol=0)
