"""Graphs of heads in a report: planted weights are found, and a head without training is drawn."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import kinegraph
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.closure import features_fingerprint
from kinegraph.pipeline.reports.contents import Contents
from kinegraph.pipeline.reports.graphs import _boxes_graph, head_graphs, heaviest, heaviest_path
from kinegraph.pipeline.reports.head_sections import graphs
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.runs import Runs
from kinegraph.pipeline.reports.section import Section
from kinegraph.pipeline.training.results import find_results
from kinegraph.stages.heads.clip_graphs import ClipGraph
from kinegraph.stages.pictures.picture import Picture
from kinegraph.stages.pictures.strips import Strip
from tests.made_reports import write_runs

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
    drawn = [*head_graphs(look.samples, look.finder, "strg", head, rows)]
    assert len(drawn) == 2 * len(head.graph_links)
    assert all(isinstance(each, Strip) and "<image" in each.svg() for each in drawn)
    similar = next(each for each in drawn if "similarity" in each.name)
    assert 0 < similar.data["weight"][1:].sum() <= 1
    assert [*head_graphs(look.samples, look.finder, "avg", kinegraph.build_head("avg_pool", clips.spec, 2), rows)] == []
    failed = int(np.flatnonzero(~look.numbers.usable)[0])
    with pytest.raises(NothingToShowError, match=f"The clip in row {failed} has no values of"):
        next(head_graphs(look.samples, look.finder, "strg", head, [failed]))
    trg = kinegraph.build_head("trg", clips.spec, 2, dim=8, num_blocks=1, num_heads=1)
    frames = [*head_graphs(look.samples, look.finder, "trg", trg, rows)]
    assert all(isinstance(each, Picture) for each in frames)
    assert frames[0].data["values"].sum(1) == pytest.approx(np.ones(len(frames[0].data["values"])), abs=1e-3)


def parts(contents: Contents) -> list[Any]:
    section = graphs(contents)
    assert isinstance(section, Section)
    return list(section.parts)


def test_graphs_are_of_features_that_fit_the_run(
    hostile: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of a cache with other features has no graphs, and the report says why."""
    write_runs(tmp_path, hostile.root, seeds=(0,))
    look = kinegraph.look(hostile)
    contents = Contents(look=look, runs=Runs(find_results(tmp_path)))
    (tmp_path / "strg_joint/seed0/model.safetensors").touch()
    clips = kinegraph.CachedClips(hostile, [*look.samples.specs])
    head = kinegraph.build_head("strg", clips.spec, 2, dim=8)
    record = SimpleNamespace(
        head="strg", spec={name: clips.spec[name] for name in head.reads}, class_names=tuple(hostile.classes),
        num_classes=2, cache_fingerprint="of another cache", features=None, finetune=None,
    )  # fmt: skip
    monkeypatch.setattr("kinegraph.stages.training.checkpoint.load_run", lambda folder, **options: (head, record))
    (told,) = parts(contents)
    assert "The features were made with other options than those the run was trained on" in told.text
    record.cache_fingerprint = features_fingerprint(hostile, head.reads)
    assert len(parts(contents)) > 1
    record.class_names = ("a", "b")
    (told,) = parts(contents)
    assert "This cache does not fit the run" in told.text


def test_a_time_step_has_the_boxes_of_its_frame(hostile: Cache) -> None:
    """The time steps of a head may be of some frames with boxes alone."""
    look = kinegraph.look(hostile)
    row = int(np.flatnonzero(look.numbers.usable)[0])
    weights = torch.zeros(1, T, N, T, N)
    weights[0, 2, 0, 3, 1] = 0.5
    graph = ClipGraph(weights=weights, links="boxes", frames=(0, 0, 1, 3))
    strip = _boxes_graph(look.samples, look.finder, graph, 0, row, "planted")
    boxes = look.samples.read("proposals/boxes", np.array([row]))[0]
    assert [frame.boxes.tolist() for frame in strip.frames] == [[boxes[1, 0].tolist()], [boxes[3, 1].tolist()]]
