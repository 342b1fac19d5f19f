"""Relations of frames and the divergences of their rows, against values by hand."""

import numpy as np
import pytest

from kinegraph.pipeline.reports.head_maps import in_boxes
from kinegraph.pipeline.reports.relations import divergences, relation_pictures


def test_divergences_of_planted_rows() -> None:
    """Rows 1 and 2 have equal shares near the diagonal, row 3 has none of theirs, and row 4 is empty."""
    weights = np.zeros((6, 6))
    weights[1, [0, 2]] = weights[2, [1, 3]] = 0.3  # shares 1/2, 0, 1/2
    weights[1, 5] = 0.4  # far from the diagonal
    weights[3, 3] = 1
    found = divergences(weights)
    assert found[:3, :3] == pytest.approx(np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]]))
    assert np.isnan(found[3]).all()
    weights[3, 4] = 1
    shared = 1.5 - 1  # of 1/2, 0, 1/2 and 0, 1/2, 1/2: their mean has 1.5 bits, each has 1
    assert divergences(weights)[0, 2] == pytest.approx(shared)


def test_pictures_of_relations() -> None:
    mean, between = relation_pictures(np.eye(5), 3, "trg: block1", "graph")
    assert "over 3 clips; the largest is 1.000" in mean.description
    assert (between.name, between.data["values"].shape) == ("graph_js", (3, 3))
    assert "The mean is 0.0000, the largest 0.0000." in between.description
    assert between.data["row"].tolist() == ["1", "2", "3"]
    assert len([*relation_pictures(np.eye(3), 3, "t", "n")]) == 1
    assert "No row has weights" in [*relation_pictures(np.zeros((4, 4)), 1, "t", "n")][1].description


@pytest.mark.parametrize("mirrored", [False, True])
def test_means_of_a_map_in_boxes(mirrored: bool) -> None:
    values = np.array([[1.0, 2], [3, 4]])
    rectangle = (50.0, 0, 10, 40) if mirrored else (10.0, 0, 50, 40)
    boxes = np.array([[10.0, 0, 30, 20], [20, 0, 40, 20], [0, 0, 99, 99], [60, 0, 70, 9], [30, 20, 50, 30]])
    expected = [2, 1.5, 2.5, np.nan, 3] if mirrored else [1, 1.5, 2.5, np.nan, 4]
    assert in_boxes(values, rectangle, boxes) == pytest.approx(expected, nan_ok=True)
