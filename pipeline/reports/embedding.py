"""Draws clips as points in a plane. PCA or t-SNE computes the plane from one vector per clip. Torch-free.

Shapes: n clips, C channels of a vector.
"""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import numpy as np

from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.numbers import CacheNumbers
from kinegraph.stages.pictures.picture import Picture
from kinegraph.stages.pictures.scatter import scatter

MOST_CLIPS, MOST_CLASSES, SEED = 200, 20, 0
TSNE_CHANNELS, PERPLEXITY = 50, 30
LEAST_CLIPS = 3
Method = Literal["pca", "tsne"]
WITHOUT = "t-SNE needs scikit-learn (pip install scikit-learn), so this is PCA."


def chosen_clips(numbers: CacheNumbers, rows: np.ndarray, most: int = MOST_CLIPS) -> np.ndarray:
    """Returns at most `most` of the row numbers `rows`, in ascending order. The rows are drawn at random from the clips
    whose first label is one of the 20 most frequent labels. The seed is fixed, so equal arguments give equal rows.
    """
    labels = numbers.first_label[rows]
    frequent = [label for label, _ in Counter(labels[labels >= 0].tolist()).most_common(MOST_CLASSES)]
    return evenly(rows[np.isin(labels, frequent)], most)


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """Returns at most `most` of the row numbers `rows`, in ascending order. The rows are drawn at random with a fixed
    seed, so equal arguments give equal rows.
    """
    drawn = np.random.default_rng(SEED).choice(rows, min(most, len(rows)), replace=False)
    return np.sort(drawn)


def pca(vectors: np.ndarray, axes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Returns the principal component analysis of n vectors with C channels, `vectors` [n, C], as (points, shares).
    Points [n, axes] are the coordinates on the first `axes` principal axes. Shares [axes] are the parts of the variance
    along these axes. The largest component of an axis is always positive.
    """
    centred = np.asarray(vectors, float) - vectors.mean(0, dtype=float)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])
    points = np.zeros((len(vectors), axes))
    kept = min(axes, len(values))
    points[:, :kept] = (left * values * signs)[:, :kept]
    shares = np.zeros(axes)
    shares[:kept] = values[:kept] ** 2 / max(float((values**2).sum()), 1e-30)
    return points, shares


def tsne(vectors: np.ndarray) -> np.ndarray:
    """Computes a t-SNE of n vectors with C channels, `vectors` [n, C]. Returns points in a plane, [n, 2]. The t-SNE
    starts from a PCA and has a fixed seed. Imports scikit-learn.
    """
    from sklearn.manifold import TSNE

    reduced, _ = pca(vectors, min(TSNE_CHANNELS, *vectors.shape))
    start = reduced[:, :2] / max(float(reduced[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    points: np.ndarray = TSNE(init=start, perplexity=perplexity, random_state=SEED).fit_transform(reduced)
    return points


def embedding(
    numbers: CacheNumbers, rows: np.ndarray, vectors: np.ndarray, method: Method, *, name: str, of: str
) -> Picture:
    """Draws n clips as points in a plane. Points of one class have the same colour and shape. `rows` [n] are the row
    numbers of the clips, and `vectors` [n, C] has a vector for each clip.

    - `method`: "pca" or "tsne". Without scikit-learn, a PCA is drawn, and the description says so.
    - `name`: the name of the figure for files.
    - `of`: what the vectors are, for title and description.

    Raises NothingToShowError if fewer than 3 clips have finite vectors.
    """
    finite = np.isfinite(vectors).all(1)
    rows, vectors = rows[finite], vectors[finite]
    if len(rows) < LEAST_CLIPS:
        raise NothingToShowError(f"{of}: fewer than {counted(LEAST_CLIPS, 'clip')} have a label and finite values.")
    lacks = method == "tsne" and find_spec("sklearn") is None
    if method == "tsne" and not lacks:
        points, axes = tsne(vectors), ("t-SNE 1", "t-SNE 2")
        text = f"t-SNE of {of}, begun at PCA, seed {SEED}. Distances between far points say little."
    else:
        points, shares = pca(vectors)
        axes = f"axis 1, {shares[0]:.0%} of variance", f"axis 2, {shares[1]:.0%} of variance"
        text = f"PCA of {of}: {shares.sum():.0%} of the variance lies in the plane. {WITHOUT if lacks else ''}".strip()
    labels, groups = _by_frequency(numbers.first_label[rows])
    title = f"{'t-SNE' if axes[0].startswith('t') else 'PCA'} of {of}"
    return scatter(name, title, points, groups, [numbers.class_name(at) for at in labels], axes, text)


def _by_frequency(labels: np.ndarray) -> tuple[Sequence[int], np.ndarray]:
    """Returns (classes, groups) of the `labels` of n clips. `classes` are the different labels, the most frequent one
    first. `groups` int64 [n] is the index of each clip's label in `classes`.
    """
    order = [label for label, _ in Counter(sorted(labels.tolist())).most_common()]
    return order, np.array([order.index(label) for label in labels.tolist()])
