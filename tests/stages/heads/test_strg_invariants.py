"""The properties that follow from the equations of STRG, and its size."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.graphs import iou_graphs, pairwise_iou, similarity_graph
from kinegraph.stages.heads.head import Head

Spec = dict[str, tuple[int, ...]]
Batch = dict[str, Tensor]
MakeBatch = Callable[..., Batch]
T, N = 5, 4  # as in conftest
NODE_ARRAYS = ("regions/i3d/res5", "proposals/boxes")


def _random_weights(head: Head) -> Head:
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head.double().eval()


def _dense(blocks: Tensor, *, forward: bool) -> Tensor:
    """[B, T - 1, N, N] blocks between neighbouring frames as [B, V, V]."""
    num_clips, pairs, regions, _ = blocks.shape
    dense = blocks.new_zeros(num_clips, pairs + 1, regions, pairs + 1, regions)
    for t in range(pairs):
        row, column = (t, t + 1) if forward else (t + 1, t)
        dense[:, row, :, column] = blocks[:, t]
    return dense.flatten(3, 4).flatten(1, 2)


def _valid(batch: Batch) -> Tensor:
    return torch.arange(N) < batch["proposals/count"][..., None]


@pytest.mark.parametrize("graphs", ["joint", "similarity", "fused"])
def test_at_the_start_layers_pass_their_residual_so_graphs_do_not_matter(
    graphs: str, spec: Spec, make_batch: MakeBatch
) -> None:
    head = build_head("strg", spec, 3, dim=8, graphs=graphs).double().eval()
    batch = make_batch()
    logits = head(batch)
    moved = batch | {"proposals/boxes": make_batch()["proposals/boxes"]}
    assert torch.equal(head(moved), logits)

    x = g_x = head.graph.g[0](head.project(batch["regions/i3d/res5"]))
    for _ in range(3):
        x = F.relu(F.layer_norm(x, (8,)))
    branches = 2 if graphs == "joint" else 1
    assert not torch.allclose(x, g_x)
    pooled = torch.cat([branches * x.mean((1, 2)), head.project(batch["features/i3d/res5_pooled"].mean(1))], 1)
    torch.testing.assert_close(logits, head.classifier(pooled))

    F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert bool(parameter.grad.any()) == ("affinity" not in name), name


def test_after_one_step_the_affinity_learns_too(spec: Spec, make_batch: MakeBatch) -> None:
    head = build_head("strg", spec, 3, dim=8).double()
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(head(make_batch()), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    assert head.graph.affinity.w.weight.grad.any()
    assert head.graph.affinity.w_prime.weight.grad.any()


def test_rows_sum_to_one_or_to_zero(make_batch: MakeBatch) -> None:
    batch = make_batch()
    batch["proposals/count"] = torch.tensor([[4, 0, 3, 2, 1]] * 3)
    batch["proposals/boxes"][:, 3, 0] += 1000.0  # overlaps nothing
    valid = _valid(batch)
    nodes = batch["regions/i3d/res5"].flatten(1, 2)
    similarity = similarity_graph(nodes, nodes.flip(2), valid.flatten(1, 2))
    torch.testing.assert_close(similarity.sum(2), torch.ones(3, T * N).double())
    assert not similarity.masked_select(~valid.flatten(1, 2)[:, None, :]).any()

    front, back = iou_graphs(batch["proposals/boxes"], valid)
    for rows in (front.sum(3), back.sum(3)):
        torch.testing.assert_close(rows, (rows > 0).double())
        assert 0 < rows.sum() < rows.numel()
    assert not front[:, 2, :, 0].any()
    assert not back[:, 2, 0].any()
    assert not _dense(front, forward=True).sum(2).view(3, T, N)[:, -1].any()
    assert not _dense(back, forward=False).sum(2).view(3, T, N)[:, 0].any()


def test_front_only_reaches_forward_and_back_has_its_transposed_support(make_batch: MakeBatch) -> None:
    batch = make_batch()
    blocks = iou_graphs(batch["proposals/boxes"], _valid(batch))
    front, back = _dense(blocks[0], forward=True), _dense(blocks[1], forward=False)
    assert torch.linalg.matrix_power(front, T - 1).any()
    assert not torch.linalg.matrix_power(front, T).any()
    assert torch.equal(back != 0, front.transpose(1, 2) != 0)


@pytest.mark.parametrize("branches", ["joint", "spatial_temporal", "fused"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"residual": "raw"},
        {"share_g": False},
        {"activate_last": False},
        {"num_layers": 1},
        {"dim": 12},
        {"similarity_of": "each"},
    ],
)
def test_the_network_is_the_equations_with_dense_matrices(
    branches: str, options: dict[str, object], spec: Spec, make_batch: MakeBatch
) -> None:
    options = {"dim": 8, "graphs": branches} | options
    head, batch = _random_weights(build_head("strg", spec, 3, **options)), make_batch()
    module: Any = head.graph
    x = (batch["regions/i3d/res5"] @ head.project.weight.T + head.project.bias).flatten(1, 2)
    blocks = iou_graphs(batch["proposals/boxes"], _valid(batch))
    graphs = {"front": _dense(blocks[0], forward=True), "back": _dense(blocks[1], forward=False)}
    if module.affinity is not None:
        w, w_prime = module.affinity.w.weight, module.affinity.w_prime.weight
        graphs["similarity"] = ((x @ w.T) @ (x @ w_prime.T).transpose(1, 2)).softmax(2)
    total = torch.zeros_like(x)
    for index, branch in enumerate(module.branches):
        z = x @ module.g[index % len(module.g)].weight.T
        residual = x if options.get("residual") == "raw" else z
        for number, layer in enumerate(branch.layers):
            if number and "similarity_of" in options and module.affinity is not None:
                graphs["similarity"] = ((z @ w.T) @ (z @ w_prime.T).transpose(1, 2)).softmax(2)
            z = sum(graphs[name] @ z @ weight.weight.T for name, weight in layer.weights.items()) + residual
            if number < len(branch.layers) - 1 or options.get("activate_last", True):
                norm = layer.activation[0]
                z = F.relu(F.layer_norm(z, z.shape[2:], norm.weight, norm.bias))
            residual = z
        total += z
    pooled = torch.cat([total.mean(1), head.project(batch["features/i3d/res5_pooled"].mean(1))], 1)
    torch.testing.assert_close(head(batch), head.classifier(pooled))
    assert len(module.branches) == (2 if branches == "joint" else 1)
    assert len(module.g) == (2 if branches == "joint" and "share_g" in options else 1)


def test_reversed_time_swaps_front_and_back(spec: Spec, make_batch: MakeBatch) -> None:
    head = _random_weights(build_head("strg", spec, 3, dim=8))
    batch = make_batch()
    backwards = {key: x.flip(1) for key, x in batch.items()}
    _, back = iou_graphs(batch["proposals/boxes"], _valid(batch))
    front_of_reversed, _ = iou_graphs(backwards["proposals/boxes"], _valid(batch))
    torch.testing.assert_close(front_of_reversed, back.flip(1))
    logits = head(batch)
    assert not torch.allclose(head(backwards), logits, atol=1e-6)
    for layer in head.graph.branches[1].layers:
        weights = layer.weights
        weights["front"], weights["back"] = weights["back"], weights["front"]
    torch.testing.assert_close(head(backwards), logits)


def test_the_order_of_regions_in_a_frame_does_not_matter(spec: Spec, make_batch: MakeBatch) -> None:
    head = _random_weights(build_head("strg", spec, 3, dim=8))
    batch = make_batch()
    shuffled = dict(batch)
    order = torch.rand(T, N).argsort(1)
    for name in NODE_ARRAYS:
        shuffled[name] = torch.stack([batch[name][:, t, order[t]] for t in range(T)], 1)
    torch.testing.assert_close(head(shuffled), head(batch))


@pytest.mark.parametrize(("graphs", "invariant"), [("similarity", True), ("spatial_temporal", False)])
def test_only_the_similarity_graph_ignores_the_order_of_all_nodes(
    graphs: str, invariant: bool, spec: Spec, make_batch: MakeBatch
) -> None:
    head = _random_weights(build_head("strg", spec, 3, dim=8, graphs=graphs))
    batch = make_batch()
    order = torch.randperm(T * N)
    shuffled = batch | {name: batch[name].flatten(1, 2)[:, order].view_as(batch[name]) for name in NODE_ARRAYS}
    assert torch.allclose(head(shuffled), head(batch), atol=1e-9) == invariant


@pytest.mark.parametrize(("graphs", "reach"), [("spatial_temporal", 3), ("similarity", 7)])
def test_three_layers_reach_three_frames_over_overlaps_and_everything_over_similarity(
    graphs: str, reach: int, spec: Spec, make_batch: MakeBatch
) -> None:
    long = {key: (8, *shape[1:]) for key, shape in spec.items()}
    head = _random_weights(build_head("strg", long, 3, dim=8, graphs=graphs))
    batch = make_batch(num_clips=1, frames=8)
    batch["regions/i3d/res5"].requires_grad_()
    regions, _ = head.read_regions(batch, torch.float64, head.project)
    head.graph(regions.features, regions)[:, 0].sum().backward()
    gradient = batch["regions/i3d/res5"].grad
    assert gradient is not None
    assert gradient[0].flatten(1).any(1).tolist() == [frame <= reach for frame in range(8)]


def test_overlaps_ignore_a_common_shift_scale_and_flip(make_batch: MakeBatch) -> None:
    batch = make_batch()
    boxes, valid = batch["proposals/boxes"], _valid(batch)
    mirrored = boxes[..., [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([128, 0, 128, 0])
    for other in (boxes + 17.5, boxes * 2.25, mirrored):
        torch.testing.assert_close(iou_graphs(other, valid), iou_graphs(boxes, valid))


def test_things_that_stay_follow_themselves() -> None:
    still = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]]).expand(1, 4, 3, 4)
    for graph in iou_graphs(still, torch.ones(1, 4, 3, dtype=torch.bool)):
        assert torch.equal(graph, torch.eye(3).expand(1, 3, 3, 3))


def test_overlap_of_known_boxes() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [5, 5, 5, 5]])
    b = torch.tensor([[5.0, 0, 15, 10], [10, 0, 20, 10], [0, 0, 10, 5], [5, 5, 5, 5]])
    expected = torch.tensor([[50 / 150, 0, 0.5, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(pairwise_iou(a, b), expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 3_145_728 + 6_144),
        ({"share_g": False}, 3_145_728 + 6_144 + 512**2),
        ({"graphs": "similarity"}, 6 * 512**2 + 3_072),
        ({"graphs": "spatial_temporal"}, 7 * 512**2 + 3_072),
        ({"graphs": "fused"}, 3_145_728 + 3_072),
    ],
)
def test_the_number_of_parameters_at_512_channels(options: dict[str, object], expected: int, spec: Spec) -> None:
    with torch.device("meta"):
        head = build_head("strg", spec, 3, **options)
    assert sum(parameter.numel() for parameter in head.get_submodule("graph").parameters()) == expected


def test_first_weights_are_as_in_the_paper(spec: Spec) -> None:
    head = build_head("strg", spec, 3, dim=256)
    affinity = head.graph.affinity
    for linear in (affinity.w, affinity.w_prime, head.graph.g[0], head.classifier.fc):
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not any(weight.any() for name, weight in head.named_parameters() if ".weights." in name)


def test_the_scale_of_affinities_is_the_root_of_the_width(spec: Spec, make_batch: MakeBatch) -> None:
    plain, scaled = (
        _random_weights(build_head("strg", spec, 3, dim=16, graphs="similarity", scale_similarity=scale))
        for scale in (False, True)
    )
    scaled.load_state_dict(plain.state_dict())
    batch = make_batch()
    assert not torch.allclose(scaled(batch), plain(batch))
    scaled.graph.affinity.w.weight.data *= 4
    torch.testing.assert_close(scaled(batch), plain(batch))
