"""Clips as points: planted classes lie apart, and what is drawn, left out or replaced is said."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kinegraph
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.reports import embedding as module
from kinegraph.pipeline.reports.embedding import chosen_clips, embedding, pca
from kinegraph.pipeline.reports.nothing import NothingToShowError


def planted(num_clips: int = 60, classes: int = 3) -> tuple[Any, np.ndarray]:
    """Numbers of a cache whose clip i has the label i modulo `classes`, and vectors around a corner for each class."""
    rng, labels = np.random.default_rng(1), np.arange(num_clips) % classes
    vectors = 10 * np.eye(classes, 8)[labels] + rng.standard_normal((num_clips, 8))
    return SimpleNamespace(first_label=labels, class_name=lambda label: f"class {label}"), vectors


def apart(points: np.ndarray, labels: np.ndarray) -> bool:
    """Whether each point is nearest to the centre of its own class."""
    centres = np.stack([points[labels == label].mean(0) for label in np.unique(labels)])
    return bool((np.linalg.norm(points[:, None] - centres, axis=2).argmin(1) == labels).all())


def test_pca_is_a_rotation_onto_the_widest_axes() -> None:
    line = np.arange(5.0)[:, None] * [[3.0, 0, 4]] + 7
    points, shares = pca(line)
    assert points[:, 0] == pytest.approx([-10, -5, 0, 5, 10])
    assert points[:, 1] == pytest.approx(np.zeros(5), abs=1e-9)
    assert shares == pytest.approx([1, 0])
    assert pca(np.ones((4, 1)))[0].tolist() == np.zeros((4, 2)).tolist()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_planted_classes_lie_apart(method: Any) -> None:
    numbers, vectors = planted()
    vectors[7, 2] = np.nan
    picture = embedding(numbers, np.arange(60), vectors, method, name="p", of="vectors")
    points = picture.data["points"]
    assert len(points) == 59, "a clip without finite values is left out"
    labels = np.delete(numbers.first_label, 7)
    assert apart(points, labels)
    names = picture.data["class"][picture.data["group"][:, 0]]
    assert names.tolist() == [f"class {label}" for label in labels]
    assert sorted(picture.data["clips"].tolist()) == [19, 20, 20]
    assert ("seed 0" in picture.description) == (method == "tsne")
    assert "59 points of 3 classes." in picture.description


def test_without_scikit_learn_a_tsne_is_a_pca_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, vectors = planted()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    picture = embedding(numbers, np.arange(60), vectors, "tsne", name="p", of="vectors")
    assert picture.title == "PCA of vectors"
    assert "t-SNE needs scikit-learn (pip install scikit-learn), so this is PCA." in picture.description


def test_clips_are_bounded_and_of_the_most_frequent_classes() -> None:
    labels = np.concatenate([np.repeat(np.arange(20), 5), np.full(4, 20), [-1]])
    numbers: Any = SimpleNamespace(first_label=labels)
    rows = chosen_clips(numbers, np.arange(len(labels)))
    assert rows.tolist() == [*range(100)]
    few = chosen_clips(numbers, np.arange(len(labels)), most=10)
    assert len(few) == 10
    assert few.tolist() == chosen_clips(numbers, np.arange(len(labels)), most=10).tolist() == sorted(few.tolist())


def test_the_cache_and_a_head(hostile: Cache) -> None:
    look = kinegraph.look(hostile)
    array = "regions/tiny/res4"
    picture = look.embedding(array)
    assert (picture.name, len(picture.data["points"])) == ("pca_regions_tiny_res4", 5)
    rows = look.samples.rows(array)
    values = look.samples.vectors(array, rows)
    assert look.samples.means(array, rows) == pytest.approx(np.nanmean(values, (1, 2)), abs=1e-5)
    with pytest.raises(NothingToShowError, match="fewer than 3 clips have a label and finite values"):
        embedding(look.numbers, rows[:2], np.ones((2, 3)), "pca", name="p", of="few")
