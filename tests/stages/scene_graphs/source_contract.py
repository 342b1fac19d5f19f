"""What every source of scene graphs must do: subclass `GraphSourceContract` and give its fixtures."""

import numpy as np
import pytest

from kinegraph.cache_schemas.arrays import graph_arrays
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.scene_graphs.options import GraphOptions
from kinegraph.stages.scene_graphs.source import ClipGraphs, GraphSource

FRAME_TIMES = np.arange(16) / 8


def a_row(video_id: str, start: float = 0.0, end: float = 2.0) -> ClipRow:
    return ClipRow(
        clip_id=f"{video_id}:0:full", video_id=video_id, path=video_id, split="train", start_seconds=start,
        end_seconds=end, labels=(), target_times=(0.0,), crop=(0, 0, 96, 96), frame_width=96, frame_height=96,
    )  # fmt: skip


class GraphSourceContract:
    """The fixtures `options`, `source` and `row`: a clip that has graphs at FRAME_TIMES."""

    @pytest.fixture
    def found(self, source: GraphSource, row: ClipRow) -> ClipGraphs:
        return source.graphs(row, FRAME_TIMES)

    def test_they_are_what_is_cached(self, options: GraphOptions, found: ClipGraphs) -> None:
        for spec in graph_arrays(options.shape(len(FRAME_TIMES)), options.frame_step):
            value = getattr(found, spec.name.removeprefix("graphs/"))
            assert (value.shape, value.dtype.name) == (spec.shape, spec.dtype), spec.name

    def test_they_are_the_same_each_time(self, source: GraphSource, row: ClipRow, found: ClipGraphs) -> None:
        for value, again in zip(vars(found).values(), vars(source.graphs(row, FRAME_TIMES)).values(), strict=True):
            np.testing.assert_array_equal(value, again)

    def test_graphs_come_first_in_order_of_time(self, found: ClipGraphs) -> None:
        num_graphs = int((found.count >= 0).sum())
        assert num_graphs > 0
        assert (found.count[num_graphs:] == -1).all()
        assert np.isnan(found.times[num_graphs:]).all()
        assert (np.diff(found.times[:num_graphs]) > 0).all()
        assert found.times[0] >= 0

    def test_numbers_are_those_of_the_vocabulary(self, options: GraphOptions, found: ClipGraphs) -> None:
        within = np.arange(found.objects.shape[1]) < found.count[:, None]
        assert ((found.objects >= 0) == within).all()
        assert found.objects.max() < len(options.vocabulary.classes)
        assert (found.linked <= within).all()
        assert (found.relations <= found.linked[..., None]).all()
        assert found.relations.any()
