"""Draws small moving shapes with digits for the generated data set of the demo. Imports no torch.

A thing is a disc, a diamond or a square with a digit on it. A sprite is the picture of a thing.

Letters: K things, T frames, S px side of a sprite. Positions are (x, y) in pixels. The centre of the first pixel is at
0.5.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

FRAME_SIZE = 96
FIRST_UNSEEN_DIGIT = 1300
DIGITS_FILE = ("datasets", "data", "digits.csv.gz")  # below the folder of scikit-learn
FloatArray = npt.NDArray[np.floating]
UInt8Array = npt.NDArray[np.uint8]


@cache
def bundled_digits() -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Returns (images, digits) of the handwritten digits in the package scikit-learn. The images are [1797, 8, 8] with
    values from 0 to 1, and the digits are [1797].
    """
    folders = getattr(find_spec("sklearn"), "submodule_search_locations", None) or ()
    for file in (Path(folder, *DIGITS_FILE) for folder in folders):
        if file.is_file():  # the import of scikit-learn takes 50 times as long
            rows = np.loadtxt(file, np.float32, delimiter=",")
            return rows[:, :-1].reshape(-1, 8, 8) / 16, rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    bundled = load_digits()
    return (bundled.images / 16).astype(np.float32), bundled.target


def pick_digit(rng: np.random.Generator, unseen: bool) -> tuple[FloatArray, int]:
    """Returns (picture of a random digit, the digit that it shows). The picture is [8, 8] with values from 0 to 1.

    If `unseen` is true, the picture is one of those for the split "test". Otherwise it is one of those for training.
    """
    images, values = bundled_digits()
    bounds = (FIRST_UNSEEN_DIGIT, len(images)) if unseen else (0, FIRST_UNSEEN_DIGIT)
    index = int(rng.integers(*bounds))
    return images[index], int(values[index])


def _enlarge(image: FloatArray, side: int) -> FloatArray:
    """Returns the square `image`, resized bilinearly to [side, side]."""
    at = np.clip((np.arange(side) + 0.5) * len(image) / side - 0.5, 0, len(image) - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(len(image))))
    return np.asarray(weights @ image @ weights.T)


def sprite(rng: np.random.Generator, digit: FloatArray, size: int) -> FloatArray:
    """Returns a picture of a shape with a digit on it, [size, size, 4]: RGB from 0 to 255, multiplied by the opacity,
    and the opacity from 0 to 1. The shape is a disc, a diamond or a square of random colour.

    `digit` is the square picture of the digit, with values from 0 to 1. The outline is the curve |x|^p + |y|^p = 1 with
    a random p.
    """
    offsets = np.abs((np.arange(size) + 0.5) * 2 / size - 1)
    power = rng.choice([1.5, 2.0, 6.0])
    radius = (offsets[:, None] ** power + offsets**power) ** (1 / power)
    opacity = np.clip((1 - radius) * size / 2 + 0.5, 0, 1)
    colour = rng.permutation([rng.uniform(0, 70), rng.uniform(60, 230), rng.uniform(150, 255)])
    ink = 255.0 if colour.mean() < 130 else 0.0
    inner = round(0.75 * size)
    margin = (size - inner) // 2
    mark = np.zeros((size, size))
    mark[margin : margin + inner, margin : margin + inner] = _enlarge(digit, inner)
    painted = colour + (ink - colour) * mark[..., None]
    return np.dstack([painted * opacity[..., None], opacity]).astype(np.float32)


def ground(rng: np.random.Generator) -> UInt8Array:
    """Returns a random, almost grey background, [FRAME_SIZE, FRAME_SIZE, 3] uint8.

    The brightness rises or falls evenly across the background, and has a little noise.
    """
    ramp = np.linspace(-1, 1, FRAME_SIZE)
    slope = rng.uniform(-12, 12) * ramp[:, None] + rng.uniform(-12, 12) * ramp
    level = rng.uniform(60, 190) + rng.uniform(-12, 12, 3)
    noise = rng.normal(0, 2, (FRAME_SIZE, FRAME_SIZE, 1))
    return np.asarray(level + slope[..., None] + noise, dtype=np.uint8)


def _shifted(picture: FloatArray, fractions: FloatArray) -> FloatArray:
    """Returns T copies [T, S + 1, S + 1, 4] of `picture`, each moved right and down by a part of a pixel.

    `picture` [S, S, 4] has RGB and opacity, and S is its side. `fractions` [T, 2] has the shift (x, y) of each copy in
    pixels, from 0 to 1.
    """
    x, y = fractions.astype(np.float32).T[..., None, None, None]
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)))
    across = padded[:, 1:] * (1 - x) + padded[:, :-1] * x
    return np.asarray(across[:, 1:] * (1 - y) + across[:, :-1] * y)


def draw(background: UInt8Array, sprites: list[FloatArray], centres: FloatArray) -> UInt8Array:
    """Draws K moving pictures on a background. Returns the T frames, [T, FRAME_SIZE, FRAME_SIZE, 3] uint8 RGB.

    `background`: [FRAME_SIZE, FRAME_SIZE, 3].
    `sprites`: K pictures [side, side, 4]: RGB from 0 to 255, multiplied by the opacity, and the opacity from 0 to 1.
    `centres`: the centre (x, y) of each picture in each frame in px, [T, K, 2].

    A later picture hides the pictures before it. Every picture must lie inside the frame, at least one pixel away from
    the edge.
    """
    frames = np.repeat(background[None], len(centres), axis=0)
    for k, picture in enumerate(sprites):
        corners = centres[:, k] - len(picture) / 2
        whole = np.floor(corners).astype(int)
        placed = _shifted(picture, corners - whole)
        side = placed.shape[1]
        for frame, (x, y), patch in zip(frames, whole, placed, strict=True):
            target = frame[y : y + side, x : x + side]
            target[:] = target * (1 - patch[..., 3:]) + patch[..., :3] + np.float32(0.5)
    return frames


def boxes_around(centres: FloatArray, sizes: npt.NDArray[np.int64]) -> FloatArray:
    """Returns the boxes [T, K, 4] around K squares in T frames. A box is (x1, y1, x2, y2) in px.

    `centres` [T, K, 2] are the centres (x, y) of the squares in px. `sizes` [K] are their sides in px.
    """
    half = sizes[:, None] / 2
    return np.concatenate([centres - half, centres + half], axis=-1).astype(np.float32)
