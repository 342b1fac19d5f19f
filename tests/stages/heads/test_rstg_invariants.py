"""The properties that follow from the definition of RSTG, its sizes, and its published counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kinegraph.stages.heads.build import build_head, parse_options
from kinegraph.stages.heads.grid_graph import links, pooling, positions, upsampling
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.heads.rstg import GridNodes, RstgOptions, RstgToMap, RstgToVec
from kinegraph.stages.heads.rstg_graph import Attention, Send, SpaceTimeGraph
from tests.stages.heads.conftest import learns_by_heart

SCALES = (3, 2, 1)
B, T, D, C, SIZE = 2, 4, 6, 5, 7
SCHEDULES = ["all_temp", "one_temp", "space_only", "time_only", "homogeneous"]
ATTENTIONS = ["paper", "tf_dot", "tf_sum", "torch_dot"]


def _options(**options: Any) -> RstgOptions:
    parsed = parse_options("rstg", {"dim": D, **options})
    assert isinstance(parsed, RstgOptions)
    return parsed


def _random(module: nn.Module) -> nn.Module:
    """Weights that keep signals alive through ReLUs, none of them zero, in float64."""
    for parameter in module.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.2, std=0.3)
        else:
            nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
    return module.double().eval()


def _graph(**options: Any) -> nn.Module:
    return _random(SpaceTimeGraph(_options(**options)))


def _nodes(num_frames: int = T) -> Tensor:
    return torch.randn(B, num_frames, 14, D, dtype=torch.float64)


# 5.8.1
@pytest.mark.parametrize("schedule", ["all_temp", "one_temp", "time_only", "homogeneous"])
@pytest.mark.parametrize("norm", ["layer", "none"])
def test_the_past_does_not_see_the_future(schedule: str, norm: str) -> None:
    graph, nodes = _graph(schedule=schedule, norm=norm), _nodes()
    changed = nodes.clone()
    changed[:, 2] += torch.randn(B, 14, D, dtype=torch.float64)
    before, after = graph(nodes)[0], graph(changed)[0]
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_the_released_norm_over_the_clip_does_see_the_future() -> None:
    graph, nodes = _graph(norm="layer_clip"), _nodes()
    changed = nodes.clone()
    changed[:, -1] += 1
    assert not torch.allclose(graph(nodes)[0][:, 0], graph(changed)[0][:, 0])


# 5.8.2
@pytest.mark.parametrize("schedule", ["all_temp", "one_temp", "time_only", "homogeneous"])
def test_frame_by_frame_equals_the_whole_sequence(schedule: str) -> None:
    graph, nodes = _graph(schedule=schedule), _nodes()
    whole, last = graph(nodes)
    states, frames = None, []
    for t in range(T):
        frame, states = graph(nodes[:, t : t + 1], states)
        frames.append(frame)
    torch.testing.assert_close(torch.cat(frames, 1), whole)
    assert states is not None
    for online, batched in zip(states, last, strict=True):
        torch.testing.assert_close(online, batched)


# 5.8.3
def test_the_grid_has_45_edges() -> None:
    pairs = links(SCALES)
    assert len(pairs) == 2 * 45
    assert all((j, i) in pairs and i != j for i, j in pairs)
    degrees = [sum(i == node for i, _ in pairs) for node in range(14)]
    assert degrees == [4, 6, 4, 6, 9, 6, 4, 6, 4, 7, 7, 7, 7, 13]


# 5.8.4
def test_space_only_does_not_know_the_order_of_frames_and_all_temp_does() -> None:
    order = torch.tensor([2, 0, 3, 1])
    nodes = _nodes()
    space_only, all_temp = _graph(schedule="space_only"), _graph(schedule="all_temp")
    torch.testing.assert_close(space_only(nodes)[0], space_only(nodes[:, order])[0])
    assert (all_temp(nodes)[0][:, -1] - all_temp(nodes[:, order])[0][:, -1]).abs().max() > 1e-7


def test_time_only_links_no_two_nodes() -> None:
    graph, nodes = _graph(schedule="time_only", norm="none"), _nodes().requires_grad_()
    graph(nodes)[0][:, -1, 0].sum().backward()
    assert nodes.grad is not None
    assert nodes.grad[:, :, 0].abs().sum() > 0
    assert nodes.grad[:, :, 1:].abs().sum() == 0


# 5.8.5
TURNS: list[Callable[[Tensor], Tensor]] = [
    lambda maps: maps.flip(-1),
    lambda maps: maps.flip(-2),
    lambda maps: maps.rot90(1, (-2, -1)),
]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("turn", TURNS)
def test_without_positions_the_graph_does_not_know_left_from_right(
    attention: str, turn: Callable[[Tensor], Tensor]
) -> None:
    maps = torch.randn(B, T, C, SIZE, SIZE, dtype=torch.float64)
    to_vec = _random(RstgToVec(C, SIZE, SIZE, _options(attention=attention)))
    to_map = _random(RstgToMap(C, SIZE, SIZE, _options(attention=attention)))
    torch.testing.assert_close(to_vec(turn(maps)), to_vec(maps))
    torch.testing.assert_close(to_map(turn(maps)), turn(to_map(maps)))


@pytest.mark.parametrize("turn", TURNS)
def test_with_positions_it_does(turn: Callable[[Tensor], Tensor]) -> None:
    maps = torch.randn(B, T, C, SIZE, SIZE, dtype=torch.float64)
    to_vec = _random(RstgToVec(C, SIZE, SIZE, _options(positional=True)))
    assert not torch.allclose(to_vec(turn(maps)), to_vec(maps))


# 5.8.6
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_to_map_is_the_identity_at_the_start(schedule: str) -> None:
    maps = torch.randn(B, T, C, SIZE, SIZE)
    assert torch.equal(RstgToMap(C, SIZE, SIZE, _options(schedule=schedule))(maps), maps)
    to_vec = RstgToVec(C, SIZE, SIZE, _options(schedule=schedule, residual=True))
    assert torch.equal(to_vec(maps), maps.mean((1, 3, 4)))


# 5.8.7
def test_one_space_stage_reaches_the_neighbours_and_two_reach_all() -> None:
    neighbours = {0, *(j for i, j in links(SCALES) if i == 0)}
    for num_iterations, reached in ((1, neighbours), (2, set(range(14)))):
        graph = _random(
            SpaceTimeGraph(_options(schedule="one_temp", norm="none", num_iterations=num_iterations, dim=16))
        )
        nodes = torch.randn(B, 1, 14, 16, dtype=torch.float64, requires_grad=True)
        graph(nodes)[0][:, 0, 0].sum().backward()
        assert nodes.grad is not None
        assert set(nodes.grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist()) == reached


# 5.8.8
@pytest.mark.parametrize(("height", "width"), [(6, 6), (7, 10), (8, 14), (2, 3), (1, 1)])
def test_area_means_and_painting_keep_constants(height: int, width: int) -> None:
    means, painted = pooling(SCALES, height, width), upsampling(SCALES, height, width)
    torch.testing.assert_close(means.sum(1), torch.ones(14, dtype=torch.float64))
    torch.testing.assert_close(painted.sum(1), torch.full((height * width,), 3.0, dtype=torch.float64))


def test_area_means_count_a_cut_pixel_by_its_part() -> None:
    row = pooling((3,), 1, 4)[:3]  # cells are 4/3 of a pixel wide
    expected = torch.tensor([[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 1, 3]], dtype=torch.float64) / 4
    torch.testing.assert_close(row, expected)


def test_positions_are_gaussian_bumps_in_their_cells() -> None:
    maps = positions(SCALES).view(14, 6, 6)
    six = torch.tensor([0.458, 0.755, 0.969, 0.969, 0.755, 0.458], dtype=torch.float64)
    torch.testing.assert_close(maps[13], torch.outer(six, six), atol=5e-4, rtol=0)
    assert torch.equal(maps[5] > 0, (positions((3,)).view(9, 6, 6)[5] > 0))
    assert [int((node > 0).sum()) for node in maps] == [4] * 9 + [9] * 4 + [36]
    torch.testing.assert_close(maps[9, 0, :3], 0.8825 * torch.tensor([0.8825, 1, 0.8825]).double(), atol=1e-4, rtol=0)


# 5.8.9
def test_a_node_without_neighbours_gathers_nothing() -> None:
    graph = _graph(scales=(1,))
    assert graph.space.receives.shape == (1, 0)
    nodes = torch.randn(B, T, 1, D, dtype=torch.float64)
    silent = torch.cat([nodes, torch.zeros_like(nodes)], -1)
    torch.testing.assert_close(graph.space(nodes), graph.space.update(silent))


# 5.8.10
def test_parameters_are_those_of_the_paper() -> None:
    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        graph = SpaceTimeGraph(parse_options("rstg", {"attention": "tf_dot", "norm": "none"}))  # type: ignore[arg-type]
        assert count(graph.get_submodule("intern")) == count(graph.get_submodule("extern")) == 2_101_248
        assert count(graph.space.send) == 787_456
        assert count(Send(512 + 36, 512, False)) == 824_320
        assert count(graph.space.attention) == 525_824
        assert count(graph.space.update) == 787_456
        scalewise = SpaceTimeGraph(parse_options("rstg", {"update": "scalewise"}))  # type: ignore[arg-type]
        assert count(scalewise.space.update.networks) == 3 * 787_456


@pytest.mark.parametrize(("num_frames", "published"), [(10, 3260), (16, 5216)])
def test_messages_are_those_of_the_paper(num_frames: int, published: int) -> None:
    graph, rows = _graph(norm="none"), 0

    def in_space(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        nonlocal rows
        rows += inputs[0][..., 0].numel()

    graph.space.send.second.register_forward_hook(in_space)
    for lstm in (graph.intern, graph.extern):
        lstm.register_forward_hook(in_space)
    graph(_nodes(num_frames)[:1])
    assert rows == published


def test_macs_follow_the_formula() -> None:
    """Per frame and iteration, at D = 512, without the LSTMs, which the counter does not see as matrix products."""
    options: Any = parse_options("rstg", {"schedule": "space_only", "norm": "none"})
    with torch.device("meta"):
        graph = SpaceTimeGraph(options)
        nodes = torch.empty(1, 10, 14, 512)
    with FlopCounterMode(display=False) as counter:
        graph(nodes)
    v, p, d = 14, 90, 512
    send = 2 * v * d * d + p * d * d
    attend = 2 * v * d * d + v * v * d
    gather = v * p * d
    update = 2 * v * d * d + v * d * d
    assert counter.get_total_flops() == 2 * 10 * 3 * (send + attend + gather + update)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("output", ["vec", "map"])
def test_every_parameter_gets_a_gradient(schedule: str, attention: str, output: str) -> None:
    spec = {"features/i3d/res5": (T, C, SIZE, SIZE)}
    head = build_head("rstg", spec, 3, dim=D, schedule=schedule, attention=attention, output=output, positional=True)
    _random(head)
    head(_maps()).pow(2).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (3, 0)}, "option scales is 0: Input should be greater than 0"),
        ({"scales": (-1,)}, "option scales is -1: Input should be greater than 0"),
        ({"scales": (7, 1), "positional": True}, "scales: given 7, allowed with `positional`: up to 6"),
    ],
)
def test_scales_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        build_head("rstg", {"features/i3d/res5": (T, C, SIZE, SIZE)}, 3, dim=D, **options)
    assert build_head("rstg", {"features/i3d/res5": (T, C, 6, 6)}, 3, dim=D, scales=(7,))


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("form", ["tf_sum", "torch_dot"])
def test_the_released_attentions_are_those_of_a_plain_loop(form: str, norm: str) -> None:
    options = _options(attention=form, norm=norm)
    attention = Attention(D, options, layered=norm == "layer")
    _random(attention)
    nodes, messages = (torch.randn(*shape, dtype=torch.float64) for shape in ((14, D), (14, 14, D)))
    sender, receiver, linked = attention.of_sender, attention.of_receiver, set(links(SCALES))
    gathered = torch.zeros(14, D, dtype=torch.float64)
    for i in range(14):
        logits = []
        for j in range(14):
            if form == "torch_dot":
                logits.append((receiver.weight @ nodes[i] + receiver.bias) @ (sender.weight @ nodes[j] + sender.bias))
            else:
                added = receiver.weight[0] @ nodes[i] + receiver.bias[0] + sender.weight[0] @ nodes[j] + sender.bias[0]
                a = float((i, j) in linked)
                logits.append(nn.functional.leaky_relu(a * added, 0.2) + a)
        gathered[i] = torch.stack(logits).softmax(0) @ messages[i]
    assert attention.bias is not None
    gathered += attention.bias
    if form == "tf_sum" and norm == "layer":
        gathered = (gathered - gathered.mean()) / (gathered.var(correction=0) + 1e-5).sqrt()
        gathered = gathered * attention.norm.weight + attention.norm.bias
    weighed = torch.einsum("ij,ijd->id", attention.weights(nodes), messages)
    torch.testing.assert_close(attention.finish(weighed), gathered.relu())


@pytest.mark.parametrize(("old", "new"), [("tf_simple", "tf_sum"), ("port", "torch_dot")])
def test_forms_that_were_not_the_released_ones_are_refused_in_words(old: str, new: str) -> None:
    with pytest.raises(HeadError, match=f"'{old}' lacked biases .*'{new}' has them. A run .* train it again"):
        parse_options("rstg", {"attention": old})


@pytest.mark.parametrize("norm", ["layer", "layer_clip", "batch", "none"])
def test_a_single_clip_trains(norm: str) -> None:
    head = build_head("rstg", {"features/i3d/res5": (T, C, SIZE, SIZE)}, 3, dim=D, norm=norm).double().train()
    assert head(_maps(1)).isfinite().all()


def _maps(num_clips: int = B) -> dict[str, Tensor]:
    return {"features/i3d/res5": torch.randn(num_clips, T, C, SIZE, SIZE, dtype=torch.float64)}


def test_nodes_are_projected_means_of_cells() -> None:
    nodes = GridNodes(C, 6, 6, _options()).double()
    maps = torch.randn(B, T, C, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(nodes(maps)[:, :, 4], nodes.project(maps[..., 2:4, 2:4].mean((3, 4))))
    torch.testing.assert_close(nodes(maps)[:, :, 13], nodes.project(maps.mean((3, 4))))


def test_it_learns_the_order_of_two_frames() -> None:
    maps = torch.randn(16, 1, C, 3, 3).repeat(1, 2, 1, 1, 1)
    maps[:, 1] += 1
    clips = {"features/i3d/res5": torch.cat([maps, maps.flip(1)])}
    labels = torch.arange(2).repeat_interleave(16)
    head = build_head("rstg", {"features/i3d/res5": (2, C, 3, 3)}, 2, dim=16, dropout=0.0)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(clips), labels).backward()
        optimizer.step()
    assert (head(clips).argmax(1) == labels).all()


@pytest.mark.parametrize("output", ["vec", pytest.param("map", marks=pytest.mark.faults)])
def test_it_learns_32_random_clips_by_heart(output: str) -> None:
    clips = {"features/i3d/res5": torch.randn(32, 3, 48, 4, 4)}
    labels = torch.arange(32) % 4
    head = build_head("rstg", {"features/i3d/res5": (3, 48, 4, 4)}, 4, dim=16, output=output, dropout=0.0)
    assert learns_by_heart(head, clips, labels, 3e-3, steps=200)
