"""Boxes with tracks and scene graphs of one clip, from arrays made by hand to the page."""

import numpy as np
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.scene_graphs import SceneObject, scene_graphs
from kinegraph.pipeline.browsing import clip_pages
from kinegraph.pipeline.browsing.clip_facts import ClipFacts, _boxes
from tests.pipeline.browsing.conftest import Browsed

HOSTILE = "<img src=x onerror=alert(1)>"


def facts() -> ClipFacts:
    """Two frames with boxes, two tracks, and a graph of two objects at 1.5 s."""
    boxes = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    proposals: dict[str, np.ndarray] = {
        "proposals/boxes": boxes,
        "proposals/scores": np.array([[3, 2, 1], [5, 4, 0]], np.float32),
        "proposals/count": np.array([1, 2], np.int16),
    }
    tracks = np.array([[0, -1, -1], [0, 1, -1]], np.int32)
    graphs = {
        "graphs/times": np.array([1.5, np.nan]),
        "graphs/count": np.array([2, -1], np.int16),
        "graphs/objects": np.array([[1, 7], [-1, -1]], np.int16),
        "graphs/linked": np.array([[1, 0], [0, 0]], np.uint8),
        "graphs/relations": np.array([[[1, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]], np.uint8),
    }
    vocabulary = {"classes": ["person", HOSTILE], "relations": ["holding", "above", "near"]}
    return ClipFacts(every=2, frame_boxes=_boxes(proposals, tracks, 2), graphs=scene_graphs(graphs, vocabulary))


def test_values_of_the_arrays() -> None:
    found = facts()
    assert [(frame.place, len(frame.boxes)) for frame in found.frame_boxes] == [(0, 1), (2, 2)]
    assert found.frame_boxes[1].boxes.tolist() == [[12, 13, 14, 15], [16, 17, 18, 19]]
    assert found.num_tracks == 2
    (graph,) = found.graphs
    assert graph.seconds == 1.5
    assert graph.objects == (
        SceneObject(name=HOSTILE, is_linked=True, relations=("holding", "near")),
        SceneObject(name="classes 7", is_linked=False, relations=()),
    )


def test_classes_of_boxes_are_written_in_them(labelled: Cache, browsed: Browsed) -> None:
    page = browsed(labelled).get("/clips/0").text
    assert page.count("box 0, cup, score 0.90</title>") == 4
    assert page.count(">cup</text>") == page.count(">&lt;b&gt;dog</text>") == 4
    assert page.count('text-anchor="end"') == 4, "a word in a box on the right ends at its right side"
    assert "The name in a box is its class." in page
    assert "<b>dog" not in page


def test_the_page_draws_them(whole: Cache, browsed: Browsed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_pages, "facts_of", lambda *given: facts())
    page = browsed(whole).get("/clips/0").text
    assert "2 tracks: boxes of one track have one number and one colour." in page
    assert page.count("track 0</title>") == 2
    assert page.count('class="line track-1"') == 1
    assert 'aria-label="Scene graph at 1.50 s with 2 objects"' in page
    assert page.count('<line class="link"') == 1
    assert "holding, near</tspan>" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert HOSTILE not in page
