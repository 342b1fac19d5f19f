"""Graphs over frames: planted messages and scene graphs lie where they belong."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kinegraph.pipeline.reports.frames import ClipPictures
from kinegraph.pipeline.reports.messages import messages_strip, scene_strip
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.stages.pictures.strips import Strip

T = 4
CELLS = np.array([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1], [0, 0, 1, 1]])


class Finder:
    """Frames at 10, 11, 12 and 13 s of a clip that begins at 10 s."""

    def clip(self, row: int, step: int, most: int) -> ClipPictures:
        about: Any = SimpleNamespace(
            crop=(20.0, 0, 60, 40), mirrored=False, start_seconds=10.0, frame_width=80, frame_height=40, path="v",
            clip_id="v:0:full", video_id="v",
        )  # fmt: skip
        times = 10 + np.arange(T, dtype=float)
        pixels = np.zeros((T, 40, 80, 3), np.uint8)
        return ClipPictures(row=about, pixels=pixels, times=times, steps=np.arange(T), has_changed=False)


def samples(graphs: dict[str, np.ndarray] | None = None) -> Any:
    spec = SimpleNamespace(frame_index=None, frame_step=1, shape=(T, 2, 2, 2))
    options = {"vocabulary": {"classes": ["person", "cup"], "relations": ["holding", "near"]}}
    cache = SimpleNamespace(readable=dict, stage=lambda key: SimpleNamespace(options=options))
    stages = {"graphs": SimpleNamespace(usable=np.array([graphs is not None]))}
    return SimpleNamespace(
        specs={"features/a/b": spec} | (graphs or {}), read=lambda name, rows: (graphs or {})[name][None],
        numbers=SimpleNamespace(cache=cache, stages=stages),
    )  # fmt: skip


def messages(strengths: np.ndarray) -> Strip:
    finder: Any = Finder()
    pairs = [(0, 3), (4, 1)]
    return messages_strip(samples(), finder, 0, "features/a/b", strengths, pairs, CELLS, name="m", title="t")


def test_messages_lead_from_cell_to_cell_of_the_crop() -> None:
    strengths = np.zeros((T, 2))
    strengths[1] = [2.0, 0.5]
    strip = messages(strengths)
    assert [len(frame.edges) for frame in strip.frames] == [0, 2, 0, 0]
    first, second = strip.frames[1].edges
    assert (first.start, first.end, first.share) == ((30, 10), (50, 30), 1)
    assert (second.start, second.end, second.share) == ((40, 20), (50, 10), 0.25)
    heat = strip.frames[1].heat
    assert heat is not None
    assert heat.shares.tolist() == [[0, 0.25], [0, 1]]
    assert heat.rectangle == (20, 0, 60, 40)
    svg = strip.svg()
    assert svg.count("<circle") == 2
    assert messages(np.zeros((T, 2))).svg().count("<circle") == 0


def test_scene_graphs_lie_over_the_frame_of_their_time() -> None:
    graphs = {
        "graphs/times": np.array([0.9, 3.0, np.nan]),
        "graphs/count": np.array([2, 0, -1]),
        "graphs/objects": np.array([[1, 7], [-1, -1], [-1, -1]]),
        "graphs/linked": np.array([[1, 0], [0, 0], [0, 0]]),
        "graphs/relations": np.array([[[1, 1], [0, 0]]] + [[[0, 0], [0, 0]]] * 2),
    }
    finder: Any = Finder()
    strip = scene_strip(samples(graphs), finder, 0, 4)
    assert [frame.caption for frame in strip.frames] == ["11.00 s", "13.00 s"]
    texts = [[text for _, text in frame.labels] for frame in strip.frames]
    assert texts == [["person", "cup", "holding, near", "classes 7"], ["person"]]
    assert [len(frame.edges) for frame in strip.frames] == [1, 0]
    assert "0.90 s: cup: holding, near, classes 7; 3.00 s: the person alone." in strip.description
    assert ">holding, near</text>" in strip.svg()
    with pytest.raises(NothingToShowError, match="The cache has no scene graphs"):
        scene_strip(samples(), finder, 0, 4)
    graphs["graphs/count"][:] = -1
    with pytest.raises(NothingToShowError, match="No frame of the clip in row 0 has a scene graph"):
        scene_strip(samples(graphs), finder, 0, 4)
