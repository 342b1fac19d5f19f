"""Graphs of heads in a report: planted weights are found, and a head without training is drawn."""

import numpy as np
import pytest

import kinegraph
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.reports.graphs import head_graphs, heaviest, heaviest_path
from kinegraph.stages.pictures.picture import Picture
from kinegraph.stages.pictures.strips import Strip

T, N = 4, 3


def test_the_largest_weights_of_a_box() -> None:
    weights = np.zeros((T, N, T, N))
    weights[1, 0, 1, 0], weights[1, 0, 3, 2], weights[1, 0, 0, 1] = 9, 0.5, 0.25
    assert heaviest(weights, (1, 0), 5) == [((3, 2), 0.5), ((0, 1), 0.25)]  # not the box itself
    assert heaviest(weights, (1, 0), 1) == [((3, 2), 0.5)]


@pytest.mark.parametrize("forwards", [True, False])
def test_a_path_of_the_largest_weights(forwards: bool) -> None:
    weights = np.zeros((T, N, T, N))
    steps = range(T) if forwards else range(T)[::-1]
    weights[steps[0], 0, steps[1], 2] = 0.75
    weights[steps[0], 0, steps[1], 1] = 0.25
    weights[steps[1], 2, steps[2], 1] = 0.5
    assert heaviest_path(weights) == [((steps[0], 0), 1.0), ((steps[1], 2), 0.75), ((steps[2], 1), 0.5)]
    assert heaviest_path(np.zeros((1, N, 1, N))) == [((0, 0), 1.0)]


def test_graphs_of_a_head(hostile: Cache) -> None:
    look = kinegraph.look(hostile)
    clips = kinegraph.CachedClips(hostile, [*look.samples.specs])
    rows = clips.rows[:2].tolist()
    head = kinegraph.build_head("strg", clips.spec, 2, dim=8)
    drawn = [*head_graphs(look, "strg", head, rows)]
    assert len(drawn) == 2 * len(head.graph_links)
    assert all(isinstance(each, Strip) and "<image" in each.svg() for each in drawn)
    similar = next(each for each in drawn if "similarity" in each.name)
    assert 0 < similar.data["weight"][1:].sum() <= 1
    assert [*head_graphs(look, "avg", kinegraph.build_head("avg_pool", clips.spec, 2), rows)] == []
    frames = [
        *head_graphs(look, "trg", kinegraph.build_head("trg", clips.spec, 2, dim=8, num_blocks=1, num_heads=1), rows)
    ]
    assert all(isinstance(each, Picture) for each in frames)
    assert frames[0].data["values"].sum(1) == pytest.approx(np.ones(len(frames[0].data["values"])), abs=1e-3)
