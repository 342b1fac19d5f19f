"""The graphs that heads return: B clips, T time steps, N boxes of a frame."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kinegraph.pipeline.predicting.predictor import WITH_EDGES
from kinegraph.stages.heads.build import HEADS, build_head
from kinegraph.stages.heads.clip_graphs import ClipGraph
from kinegraph.stages.heads.head import Head
from tests.stages.heads.conftest import Lively

Spec = dict[str, tuple[int, ...]]
MakeBatch = Callable[..., dict[str, Tensor]]
T, N, C = 5, 4, 12  # as in conftest
BOTH = ["front", "back"]
FRAMES = [f"block{block}_graph{graph}" for block in (1, 2) for graph in (1, 2)]
WITH_GRAPHS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "strg": ("strg", {}, ["similarity", *BOTH]),
    "fused": ("strg", {"graphs": "fused"}, ["similarity", *BOTH]),
    "similar": ("strg", {"graphs": "similarity"}, ["similarity"]),
    "linked": ("strg", {"graphs": "spatial_temporal"}, BOTH),
    "each": ("strg", {"similarity_of": "each"}, ["similarity", "similarity_2", "similarity_3", *BOTH]),
    "maps": ("strg", {"regions_from": "maps", "num_regions": 3}, ["similarity", *BOTH]),
    "trg": ("trg", {"dim": 8, "num_blocks": 2, "num_heads": 2}, FRAMES),
    "atr": ("atr", {"reasoner": "graph", "num_blocks": 2, "num_reasoners": 2}, FRAMES),
}


def built(case: str, spec: Spec) -> Head:
    name, options, _ = WITH_GRAPHS[case]
    return build_head(name, spec, 3, **({"dim": 8} if name == "strg" else {}) | options)


def padded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """One clip has frames with fewer boxes, and one has no box at all."""
    count = torch.tensor([[N] * T, [4, 0, 3, 2, 1], [0] * T], dtype=torch.int16)
    return batch | {"proposals/count": count}


@pytest.mark.parametrize("case", WITH_GRAPHS)
def test_every_graph_keeps_to_the_contract(case: str, spec: Spec, make_batch: MakeBatch, lively: Lively) -> None:
    head, batch = lively(built(case, spec)), padded(make_batch())
    logits = head(batch)
    graphs = head.clip_graphs(batch)
    assert [*graphs] == [*head.graph_links] == WITH_GRAPHS[case][2]
    assert {name: graph.links for name, graph in graphs.items()} == head.graph_links
    for graph in graphs.values():
        nodes = 1 if graph.links == "frames" else head.options.get("num_regions") or N
        assert (graph.weights.dtype, graph.weights.shape) == (torch.float32, (3, T, nodes, T, nodes))
        assert graph.weights.min() >= 0
        exists = torch.ones(3, T, 1, dtype=torch.bool)
        if graph.links != "frames":
            exists = torch.arange(nodes) < batch["proposals/count"][..., None]
        of_padding = ~(exists.flatten(1)[:, :, None] & exists.flatten(1)[:, None, :])
        assert graph.matrix.shape == (3, T * nodes, T * nodes)
        assert not graph.matrix[of_padding].any()
        sums = graph.matrix.sum(2)[exists.flatten(1)]
        expected = (sums > 0).float() if "neighbouring" in graph.links else torch.ones_like(sums)
        torch.testing.assert_close(sums, expected)
        within = graph.within_frames
        assert within.shape == (3, T, nodes, nodes)
        assert not within.diagonal(dim1=2, dim2=3).any()
        for step in range(T):
            off_diagonal = graph.weights[:, step, :, step] * (1 - torch.eye(nodes))
            assert torch.equal(within[:, step], off_diagonal)
        assert bool(within.any()) == (graph.links == "boxes")
    assert torch.equal(head(batch), logits), "no hook stays"


@pytest.mark.parametrize("name", HEADS)
def test_a_head_returns_the_graphs_that_it_names(name: str, spec: Spec, make_batch: MakeBatch) -> None:
    """With the options of their papers, three heads name graphs. The command names those that link boxes of a frame."""
    head = build_head(name, spec, 3, **({"dim": 8} if name == "trg" else {})).eval()
    batch = {key: x.float() if x.is_floating_point() else x for key, x in make_batch().items()}
    assert [*head.clip_graphs(batch)] == [*head.graph_links]
    assert bool(head.graph_links) == (name in ("strg", "trg"))
    assert ("boxes" in head.graph_links.values()) == WITH_EDGES.startswith(name)


def test_boxes_of_one_look_are_each_others_strongest_edge(spec: Spec, make_batch: MakeBatch) -> None:
    """Boxes 1 and 3 of each frame have features of their own, which all others lack."""
    head, batch = build_head("strg", spec, 3, dim=None).double().eval(), make_batch()
    features = torch.zeros(3, T, N, C, dtype=torch.float64)
    features[:, range(T), 1, range(T)] = features[:, range(T), 3, range(T)] = 3.0
    for linear in (head.graph.affinity.w, head.graph.affinity.w_prime):
        linear.weight.data.copy_(torch.eye(C))
    within = head.clip_graphs(batch | {"regions/i3d/res5": features})["similarity"].within_frames
    assert (within.flatten(2).topk(2).indices.sort().values == torch.tensor([1 * N + 3, 3 * N + 1])).all()
    assert within[:, :, 1, 3].min() > 0.4


def test_graphs_of_boxes_lead_to_neighbouring_frames(spec: Spec, make_batch: MakeBatch) -> None:
    """Box i of each frame lies where box i + 1 of the next frame lies, and far from all others."""
    head, batch = build_head("strg", spec, 3, graphs="spatial_temporal").eval(), make_batch()
    batch = {key: x.float() if x.is_floating_point() else x for key, x in batch.items()}
    starts = 20.0 * ((torch.arange(N) - torch.arange(T)[:, None]) % N)
    boxes = torch.stack([starts, starts, starts + 9, starts + 9], -1).expand(3, T, N, 4)
    graphs = head.clip_graphs(batch | {"proposals/boxes": boxes})
    weights = {name: graph.weights for name, graph in graphs.items()}
    for step in range(T - 1):
        for box in range(N):
            assert (weights["front"][:, step, box, step + 1, (box + 1) % N] == 1).all()
            assert (weights["back"][:, step + 1, (box + 1) % N, step, box] == 1).all()
    assert weights["front"].sum() == weights["back"].sum() == 3 * (T - 1) * N


def test_a_head_that_reads_every_second_frame_says_so(spec: Spec, make_batch: MakeBatch) -> None:
    """The cache has boxes for 2 T frames and maps for T."""
    boxes_of_more = {"proposals/boxes": (2 * T, N, 4), "proposals/count": (2 * T,), "proposals/scores": (2 * T, N)}
    head = build_head("strg", spec | boxes_of_more, 3, dim=8, regions_from="maps").double().eval()
    batch = make_batch(frames=2 * T) | {"features/i3d/res5": make_batch()["features/i3d/res5"]}
    graphs = head.clip_graphs(batch)
    assert {graph.frame_step for graph in graphs.values()} == {2}
    assert graphs["similarity"].weights.shape == (3, T, N, T, N)


def test_nodes_are_numbered_frame_by_frame() -> None:
    weights = torch.rand(2, 3, 4, 3, 4)
    graph = ClipGraph(weights=weights, links="boxes")
    assert graph.matrix[1, 2 * 4 + 3, 1 * 4 + 2] == weights[1, 2, 3, 1, 2]


def test_a_tail_is_passed_through(make_batch: MakeBatch) -> None:
    options = {"model": "resnet18", "weights": "random:0", "from": "res4"}
    spec = {"features/i3d/res4": (2, 256, 2, 2)}
    head = build_head("trg", spec, 3, dim=8, num_blocks=1, tail=options).eval()
    batch = {"features/i3d/res4": torch.randn(1, *spec["features/i3d/res4"])}
    graphs = head.clip_graphs(batch)
    assert head.class_map_array == "features/i3d/res4"
    torch.testing.assert_close(head.class_maps(batch).mean((2, 3, 4)), head(batch), atol=1e-5, rtol=1e-4)
    assert [*graphs] == [*head.graph_links] == ["block1_graph1", "block1_graph2", "block1_graph3"]
    assert graphs["block1_graph1"].weights.shape == (1, 2, 1, 2, 1)
