"""Draws the mean weights of a head's graphs between the frames of clips, and how much these weights differ from frame
to frame. Torch-free.

Shapes: T frames.
"""

from collections.abc import Iterator

import numpy as np

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.pictures.matrices import matrix
from kinegraph.stages.pictures.picture import Picture


def divergences(weights: np.ndarray) -> np.ndarray:
    """Compares how frames weight their neighbours. Returns the Jensen-Shannon divergences in bits, from 0 to 1: [T - 2,
    T - 2]. Entry (i, j) compares frame i + 1 with frame j + 1.

    Row t of `weights` [T, T] has the weights of frame t for all frames. A frame has three shares: its weights for the
    frame before, for itself and for the frame after, divided by their sum. The entry is NaN if the three weights of one
    of the frames are 0.
    """
    inner = np.arange(1, len(weights) - 1)[:, None]
    near = weights[inner, inner + np.arange(-1, 2)]  # [T - 2, 3]
    sums = near.sum(1, keepdims=True)
    shares = np.where(sums > 0, near / np.where(sums > 0, sums, 1), np.nan)  # [T - 2, 3]
    entropy = _entropy(shares)
    between: np.ndarray = _entropy((shares[:, None] + shares) / 2) - (entropy[:, None] + entropy) / 2
    return between


def _entropy(shares: np.ndarray) -> np.ndarray:
    """Returns the entropy, in bits, of the distributions along the last axis of `shares`."""
    logarithms = np.log2(np.where(shares > 0, shares, 1))
    return np.asarray(-(shares * logarithms).sum(-1))


def relation_pictures(weights: np.ndarray, num_clips: int, title: str, name: str) -> Iterator[Picture]:
    """Yields a Picture of `weights` [T, T], the mean weights between T frames over `num_clips` clips. If T is at least
    4, also yields a Picture of the divergences between the rows of `weights`.

    `title` and `name` are those of the first Picture.
    """
    steps = [str(step) for step in range(len(weights))]
    text = f"Mean weights between {counted(len(weights), 'frame')} over {counted(num_clips, 'clip')}; the largest is"
    axes = "frame", "frame that is added"
    yield matrix(name, title, weights, steps, steps, *axes, f"{text} {weights.max():.3f}.")
    if len(weights) < 4:
        return
    between = divergences(weights)
    others = between[~np.eye(len(between), dtype=bool)]
    text = (
        "Jensen-Shannon divergence in bits (0: equal, 1: apart) between the mean weights of two frames for themselves "
        f"and the frames before and after. The mean is {np.nanmean(others):.4f}, the largest {np.nanmax(others):.4f}."
        if np.isfinite(others).any()
        else "No row has weights."
    )
    yield matrix(f"{name}_js", f"{title}, divergence", between, steps[1:-1], steps[1:-1], "frame", "frame", text)
