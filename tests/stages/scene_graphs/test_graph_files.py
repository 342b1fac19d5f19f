"""What a user's files of scene graphs may look like, the arrays they become, and what is said of unusable ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.scene_graphs.from_files import FileGraphs
from kinegraph.stages.scene_graphs.options import GraphFileOptions
from kinegraph.stages.scene_graphs.source import ClipGraphs, GraphError
from kinegraph.stages.scene_graphs.vocabulary import NAMED
from tests.stages.scene_graphs.source_contract import GraphSourceContract, a_row

NAMES = {"classes": ["person", "cup", "chair"], "relations": ["holding", "sitting_on"], "ignored_relations": ["unsure"]}
Graphs = Callable[..., ClipGraphs]
NO_RELATION = {"class": "cup", "relations": []}


def row(start: float = 0.0, end: float = 10.0) -> ClipRow:
    return a_row("a/v.mp4", start, end)


def frame(seconds: Any, *objects: dict[str, Any]) -> dict[str, Any]:
    return {"seconds": seconds, "objects": [*objects]}


@pytest.fixture
def graphs(tmp_path: Path) -> Graphs:
    """The graphs of a clip from a file with these frames, or with this text."""

    def found(content: Any, clip: ClipRow | None = None, **options: Any) -> ClipGraphs:
        path = tmp_path / "a" / "v.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps({"frames": content}))
        given = {"vocabulary": NAMES, "max_frames": 4, "max_objects": 2} | options
        source = FileGraphs(GraphFileOptions(source="file", files=f"{tmp_path}/{{stem}}.json", **given))
        return source.graphs(clip or row(), np.zeros(1))

    return found


class TestContract(GraphSourceContract):
    @pytest.fixture
    def options(self, tmp_path: Path) -> GraphFileOptions:
        frames = [frame(0.5, {"class": "cup", "relations": ["holding"]}), frame(1.5, NO_RELATION, NO_RELATION)]
        (tmp_path / "v.json").write_text(json.dumps({"frames": frames}))
        return GraphFileOptions(source="file", files=f"{tmp_path}/{{stem}}.json", vocabulary=NAMES)

    @pytest.fixture
    def source(self, options: GraphFileOptions) -> FileGraphs:
        return FileGraphs(options)

    @pytest.fixture
    def row(self) -> ClipRow:
        return a_row("v.mp4")


def test_arrays_of_a_file(graphs: Graphs) -> None:
    """Names are compared without case and signs; an ignored relation is no relation, null is no edge."""
    frames = [
        frame(1.5, {"class": "Chair", "relations": ["sittingon", "unsure"]}, {"class": "cup", "relations": None}),
        frame(2, {"class": "cup", "relations": ["holding", "sitting on"], "box": [1, 2, 3, 4]}),
        frame(3),
    ]
    found = graphs(frames, row(start=1.0))
    np.testing.assert_array_equal(found.times, [0.5, 1.0, 2.0, np.nan])
    assert found.count.tolist() == [2, 1, 0, -1]
    assert found.objects.tolist() == [[2, 1], [1, -1], [-1, -1], [-1, -1]]
    assert found.linked.tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]
    assert found.relations.tolist() == [[[0, 1], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]
    types = {name: value.dtype.name for name, value in vars(found).items()}
    assert types == {"times": "float64", "count": "int16", "objects": "int16", "linked": "uint8", "relations": "uint8"}


def test_a_clip_has_the_graphs_of_its_interval(graphs: Graphs) -> None:
    """[start, end): the first second is in, the last is not; a clip without any is a clip all the same."""
    frames = [frame(second, NO_RELATION) for second in range(6)]
    assert graphs(frames, row(2, 5)).times[:3].tolist() == [0, 1, 2]
    assert (graphs(frames, row(2, 5)).count >= 0).sum() == 3
    assert (graphs(frames, row(6, 9)).count == -1).all()


def test_more_graphs_than_fit_are_thinned_evenly(graphs: Graphs, caplog: pytest.LogCaptureFixture) -> None:
    frames = [frame(second, NO_RELATION) for second in range(10)]
    assert graphs(frames[:4]).times.tolist() == [0, 1, 2, 3]
    assert not caplog.messages
    assert graphs(frames).times.tolist() == [1, 3, 6, 8]  # (i + 0.5) * 10 / 4, rounded down
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "a/v.mp4:0:full has 10 scene graphs",
    ]
    assert "graphs.max_frames takes 4" in caplog.text


def test_files_are_found_by_the_video_of_an_interval(graphs: Graphs) -> None:
    frames = [frame(second, NO_RELATION) for second in range(6)]
    part = replace(row(2, 5), video_id="a/v.mp4@2-5", interval=(2.0, 5.0))
    assert graphs(frames, part).times[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json", "Invalid JSON"),
        ("{}", "frames: Field required"),
        ([frame(1, {"class": "cup"})], r"frames\.0\.objects\.0\.relations: Field required"),
        ('{"frames": [{"seconds": NaN, "objects": []}]}', r"frames\.0\.seconds: Input should be a finite number"),
        ([frame(2), frame(2)], "lists 2 s after 2 s; expected ascending times"),
        ([frame(1, {"class": "dog", "relations": []})], "class 'dog' at 1 s is not in graphs.vocabulary"),
        ([frame(1, {"class": "cup", "relations": ["eating"]})], "relation 'eating' at 1 s is not in graphs.vocabulary"),
        ([frame(1, *[NO_RELATION] * 3)], "has 3 objects at 1 s, graphs.max_objects is 2: raise it"),
    ],
)
def test_unusable_files(graphs: Graphs, content: Any, words: str) -> None:
    with pytest.raises(GraphError, match=rf"unreadable: file of scene graphs .*a/v\.json of a/v\.mp4: {words}"):
        graphs(content)


def test_a_missing_file(tmp_path: Path) -> None:
    source = FileGraphs(GraphFileOptions(source="file", files=f"{tmp_path}/{{video_id}}.json", vocabulary=NAMES))
    with pytest.raises(GraphError, match=r"missing: no file of scene graphs .*/a/v\.mp4\.json for a/v\.mp4"):
        source.graphs(row(), np.zeros(1))


def test_action_genome_has_25_relations_or_the_26_of_its_file(graphs: Graphs) -> None:
    assert [len(names) for names in (NAMED["action_genome"].classes, NAMED["action_genome"].relations)] == [36, 25]
    whole = NAMED["action_genome_26"].relations
    assert {*whole} - {*NAMED["action_genome"].relations} == {"otherrelationship"} == {whole[18]}
    frames = [frame(0, {"class": "cup/glass/bottle", "relations": ["drinking_from", "other_relationship"]})]
    for name, numbers in (("action_genome", [11]), ("action_genome_26", [11, 18])):
        found = graphs(frames, vocabulary=name)
        assert found.objects[0, 0] == 10
        assert np.flatnonzero(found.relations[0, 0]).tolist() == numbers


def test_a_vocabulary_of_a_file(graphs: Graphs, tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps(NAMES))
    frames = [frame(0, {"class": "chair", "relations": ["holding"]})]
    for ours, theirs in zip(
        *(vars(graphs(frames, vocabulary=given)).values() for given in (str(path), NAMES)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    path.write_text("[" * 100_000)
    with pytest.raises(ValidationError, match="recursion"):
        GraphFileOptions(source="file", files="{stem}.json", vocabulary=str(path))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("gnome", "vocabulary: given 'gnome', allowed: action_genome, action_genome_26, or a json file .*No such file"),
        (NAMES | {"classes": ["cup", "person", "Cup"]}, "classes: given .*, allowed: each name once"),
        (NAMES | {"relations": ["unsure"]}, "relations: given .*, allowed: each name once"),
        ({"classes": ["cup"]}, "relations\n  Field required"),
    ],
)
def test_unusable_vocabularies(given: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        GraphFileOptions(source="file", files="{stem}.json", vocabulary=given)
