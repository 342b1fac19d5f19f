"""Generates SyncMNIST, videos of wandering digits. The class is the pair of digits that move alike. Imports no torch.

The data set is that of Nicolicioiu, Duta and Leordeanu, "Recurrent Space-time Graph Neural Networks" (NeurIPS 2019),
section 3.1. Details that the paper leaves open are as in its released generator. Two digits move in step if they make
the same steps.

Shapes: T frames, n digits of a clip. Positions are (row, column) of a digit's top left corner on the canvas, in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from kinegraph.stages.datasets.options import SyncMnistOptions
from kinegraph.stages.generated.digits import SIDE_PX, DigitImages, digits_of
from kinegraph.stages.generated.generating import GeneratedVideo, encode, generate_videos

GENERATOR_VERSION = 2
NUM_FRAMES = 10
FPS = 5
CANVAS_PX, FRAME_PX = 100, 64
LAST_CORNER = CANVAS_PX - SIDE_PX - 1  # 71, the largest first corner
MAX_STEP_PX = 10
MAX_CONSTANT_STEP_PX = 5
NUM_STARTS = 20  # `constant` draws this many starts and keeps the one with the digits farthest apart
RANDOM_ODDS = 92  # one sample in this many has no pair
INK = 10  # a pixel of at least this value hides what is behind it
SPLITS = ("train", "val", "test")
UInt8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SyncSample:
    """One generated clip. `label` is its class number. The first two digits of the clip make the same steps, unless the
    label is that of the last class, `none`.

    `frames` [T, side, side] are T frames of grey pixels. `corners` [T, n, 2] are the top left corners (row, column) of
    the n digits in pixels. `digits` are the n numbers, 0..9, that the digits show.
    """

    frames: UInt8Array  # [NUM_FRAMES, FRAME_PX, FRAME_PX] grey
    corners: IntArray  # [NUM_FRAMES, n, 2]
    digits: tuple[int, ...]  # the value of each digit
    label: int


def pair_label(first: int, second: int) -> int:
    """Returns the class number of the pair of two different digits. The order of `first` and `second` does not matter.

    The number is i (i - 1) / 2 + j for digits i > j.
    """
    i, j = max(first, second), min(first, second)
    return i * (i - 1) // 2 + j


def classes(digit_values: int) -> tuple[str, ...]:
    """Returns the class names in the order of the class numbers, the last of which is `none`. The other names are
    `i-j`, one for each pair of digits i > j below `digit_values` (`1-0`, `2-0`, `2-1`, ...).
    """
    return (*(f"{i}-{j}" for i in range(digit_values) for j in range(i)), "none")


@dataclass(frozen=True, kw_only=True)
class Cast:
    """The digits of one clip, chosen from the pictures of the split. `chosen` has the index of the picture of each
    digit. `values` has the number, 0..9, that each of these pictures shows.

    `in_step` is true if the first two digits make the same steps, else false.
    """

    chosen: tuple[int, ...]
    values: tuple[int, ...]
    in_step: bool

    def label(self, digit_values: int) -> int:
        """Returns the class number of the clip. The digits of the data set are less than `digit_values`.

        If the first two digits move in step, each pair of their values has a class of its own. All other clips have the
        last class.
        """
        none = digit_values * (digit_values - 1) // 2
        return pair_label(self.values[0], self.values[1]) if self.in_step else none


def cast(rng: np.random.Generator, images: DigitImages, first: int, num_digits: int, digit_values: int = 10) -> Cast:
    """Returns the Cast of a clip: `num_digits` random digits, and whether the first two of them move in step.

    The first digit is the image `images.images[first]`. Each of the other digits is a random image. All digits of the
    clip have different values, which are less than `digit_values`.
    """
    value = int(images.values[first])
    others = rng.permutation([other for other in range(digit_values) if other != value])[: num_digits - 1].tolist()
    chosen = (first, *(int(rng.choice(images.by_value[other])) for other in others))
    return Cast(chosen=chosen, values=(value, *others), in_step=bool(rng.integers(RANDOM_ODDS)))


def walk(rng: np.random.Generator, num_digits: int, in_step: bool) -> IntArray:
    """Returns the top left corners [T, n, 2], (row, column) in pixels, of n = `num_digits` digits in T frames. Each
    digit walks at random.

    The digits move one step before each frame, also before the first. Along each axis, a step is a random whole number
    of pixels from -10 to 9. The range is smaller near the edges: for a digit at position p, a step is at least -p and
    less than 71 - p. With `in_step`, digits 0 and 1 take one common step from the range that is allowed for both. If
    there is no such range, both do not move.
    """
    at = rng.integers(0, LAST_CORNER + 1, (num_digits, 2))
    frames = []
    for _ in range(NUM_FRAMES):
        low, high = np.maximum(-MAX_STEP_PX, -at), np.minimum(MAX_STEP_PX, LAST_CORNER - at)
        if in_step:
            low[:2], high[:2] = low[:2].max(axis=0), high[:2].min(axis=0)
        step = np.where(low < high, rng.integers(low, np.maximum(high, low + 1)), 0)
        if in_step:
            step[1] = step[0]
        at = at + step
        frames.append(at)
    return np.stack(frames)


def constant(rng: np.random.Generator, num_digits: int, in_step: bool) -> IntArray:
    """Returns the top left corners [T, n, 2], (row, column) in pixels, of n = `num_digits` digits in T frames. Each
    digit repeats one random step. This variant of the data set is easier than the variants in the paper.

    A step is a whole number from -5 to 5 along each axis. With `in_step`, digits 0 and 1 have the same step. Otherwise
    all digits have steps of their own. The first corners are drawn NUM_STARTS times, uniformly among those from which
    no digit leaves the canvas. The draw in which the digits stay farthest apart is used, because digits that cover each
    other cannot be recognised.
    """
    step = rng.integers(-MAX_CONSTANT_STEP_PX, MAX_CONSTANT_STEP_PX + 1, (num_digits, 2))
    if in_step:
        step[1] = step[0]
    travelled = np.arange(1, NUM_FRAMES + 1)[:, None, None] * step
    low, high = np.maximum(0, -travelled[-1]), np.minimum(LAST_CORNER, LAST_CORNER - travelled[-1])
    starts = rng.integers(low, high + 1, (NUM_STARTS, num_digits, 2))
    i, j = np.triu_indices(num_digits, 1)
    between = starts[:, None, i] + travelled[:, i] - starts[:, None, j] - travelled[:, j]  # [NUM_STARTS, T, pairs, 2]
    nearest = (between**2).sum(-1).min((1, 2), initial=2 * CANVAS_PX**2)
    return np.asarray(starts[nearest.argmax()] + travelled)


def drawn(images: list[UInt8Array], corners: IntArray) -> UInt8Array:
    """Returns T grey frames [T, FRAME_PX, FRAME_PX] uint8 of n digits on a black canvas. Later digits are in front.

    `images` has the pictures of the n digits, [SIDE_PX, SIDE_PX] each. `corners` [T, n, 2] are their top left corners
    (row, column) on the canvas, in pixels. A canvas of CANVAS_PX pixels a side is drawn, and resized bilinearly to a
    frame.
    """
    frames = []
    for places in corners:
        canvas = np.zeros((CANVAS_PX, CANVAS_PX), np.uint8)
        for image, (row, column) in zip(images, places, strict=True):
            patch = canvas[row : row + SIDE_PX, column : column + SIDE_PX]
            np.copyto(patch, image, where=image >= INK)
        small = Image.fromarray(canvas).resize((FRAME_PX, FRAME_PX), Image.Resampling.BILINEAR)
        frames.append(np.asarray(small))
    return np.stack(frames)


@dataclass(frozen=True, kw_only=True)
class SyncMnist:
    """The generated data set that `options` describe. A clip is made anew from its split and number at each request."""

    options: SyncMnistOptions

    def images(self, split: str) -> DigitImages:
        return _images(split, self.options.digits, self.options.val_images, self.options.digit_values)

    def num_videos(self, split: str) -> int:
        repeats = self.options.multiplier if split == "train" else self.options.test_multiplier
        return repeats * len(self.images(split))

    def _begin(self, split: str, index: int) -> tuple[np.random.Generator, Cast]:
        rng, images = np.random.default_rng([self.options.seed, index, *split.encode()]), self.images(split)
        return rng, cast(rng, images, index % len(images), self.options.num_digits, self.options.digit_values)

    def sample(self, split: str, index: int) -> SyncSample:
        """Returns clip number `index` of `split`, from 0, as a SyncSample. Equal arguments always return equal pixels.

        The first digit of the clip is image number `index` modulo the number of images of the split.
        """
        rng, roles = self._begin(split, index)
        tracks = walk if self.options.motion == "walk" else constant
        corners = tracks(rng, self.options.num_digits, roles.in_step)
        images = self.images(split).images
        frames = drawn([images[which] for which in roles.chosen], corners)
        label = roles.label(self.options.digit_values)
        return SyncSample(frames=frames, corners=corners, digits=roles.values, label=label)

    def render(self, video: GeneratedVideo) -> bytes:
        grey = self.sample(video.split, video.index).frames
        return encode(np.repeat(grey[..., None], 3, axis=-1), FPS)

    def videos(self) -> list[GeneratedVideo]:
        """Returns all videos of all splits. Each thousand videos of a split lie in one folder."""
        return [self._listed(split, index) for split in SPLITS for index in range(self.num_videos(split))]

    def _listed(self, split: str, index: int) -> GeneratedVideo:
        values = self.options.digit_values
        label = classes(values)[self._begin(split, index)[1].label(values)]
        path = f"{split}/{index // 1000:03d}/{index:06d}.mp4"
        return GeneratedVideo(path=path, label=label, split=split, index=index)

    def parameters(self) -> dict[str, object]:
        """Returns a dict of all values on which the pixels of the videos depend: the version of the generator, the
        options, and digests of the digit images. The path of the folder of digit images is not in it, because the
        digests identify the images.
        """
        digests = {split: self.images(split).digest for split in SPLITS}
        return {"version": GENERATOR_VERSION, "digits": digests} | self.options.model_dump(exclude={"root", "digits"})


@cache
def _images(split: str, folder: str | None, num_val: int, digit_values: int) -> DigitImages:
    return digits_of(split, folder, num_val).below(digit_values)


def generate(options: SyncMnistOptions, *, workers: int = 1, progress: Callable[[int], None] | None = None) -> None:
    """Writes the videos of the data set below `options.root`. A second call continues after an interruption.

    The videos are made by `workers` processes. `progress` is called with the number of videos finished since its last
    call. Raises DigitsError if a digit file is missing or damaged. Raises ValueError if the folder has a data set that
    was made with other options.
    """
    data_set = SyncMnist(options=options)
    generate_videos(
        Path(options.root), "sync_mnist", data_set.parameters(), videos=data_set.videos, render=data_set.render,
        workers=workers, progress=progress,
    )  # fmt: skip
