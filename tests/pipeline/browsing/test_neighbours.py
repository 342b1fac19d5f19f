"""The index of regions: a planted neighbour is found, and the index stays within its limits."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.browsing import neighbours
from kinegraph.pipeline.browsing.catalogue import Catalogue
from kinegraph.pipeline.browsing.neighbours import Region, RegionIndex, box_frames_of, build_index, region_arrays_of


def index_of(vectors: list[list[float]], rows: list[int]) -> RegionIndex:
    places = np.array([(row, number, 0) for number, row in enumerate(rows)], np.int32)
    return RegionIndex(vectors=neighbours.unit(np.array(vectors)), places=places, num_all=len(rows))


def test_a_planted_neighbour_is_found() -> None:
    index = index_of([[0, 1], [4, 3], [3, 4.1], [0, 0], [3, 4]], rows=[0, 1, 2, 3, 4])
    best, second = index.nearest(np.array([6, 8]), 2, without=np.array([4]))
    assert (best.region, round(best.similarity, 3)) == (Region(2, 2, 0), 1.0)
    assert (second.region, round(second.similarity, 3)) == (Region(1, 1, 0), 0.96)
    assert [one.region.row for one in index.nearest(np.array([6, 8]), 9, without=np.array([2, 4]))] == [1, 0, 3]


@pytest.mark.parametrize(
    ("num_boxes", "every", "regions", "expected"),
    [
        (8, 1, {"shape": (4, 5, 3), "frame_index": (0, 2, 4, 6)}, [0, 2, 4, 6]),  # a backbone halves the time steps
        (4, 2, {"shape": (8, 5, 3), "frame_step": 1}, [0, 0, 1, 1, 2, 2, 3, 3]),
        (4, 2, {"shape": (4, 5, 3), "frame_step": 2}, [0, 1, 2, 3]),
    ],
)
def test_the_frame_with_boxes_of_a_time_step(
    num_boxes: int, every: int, regions: dict[str, Any], expected: list[int]
) -> None:
    boxes = SimpleNamespace(shape=(num_boxes, 5, 4), frame_step=every)
    spec = SimpleNamespace(**{"frame_index": None, "frame_step": None} | regions)
    cache: Any = SimpleNamespace(array=lambda name: boxes)
    assert box_frames_of(cache, cast("Any", spec)).tolist() == expected


def test_regions_of_a_cache(whole: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, (spec,) = Catalogue(whole.root).now(), region_arrays_of(whole)
    index = build_index(clips, spec)
    T, N, D = spec.shape
    assert index.num_all == len(index.places) <= 6 * T * N
    assert index.vectors.shape == (len(index.places), D)
    place = len(index.places) // 2
    row, frame, box = index.places[place].tolist()
    values = whole.store.open_shard(spec, row // 2).row(row % 2)
    np.testing.assert_array_equal(index.vectors[place], neighbours.unit(values[frame, box]))
    monkeypatch.setattr(neighbours, "MAX_BYTES", 4 * D * 5)
    few = build_index(clips, spec)
    assert (len(few.places), few.num_all) == (min(5, N * T), pytest.approx(index.num_all, rel=0.5))
