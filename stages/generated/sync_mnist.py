"""Generates SyncMNIST, videos of moving digits. The class of a video is the pair of digits that make the same steps.
Imports no torch.

The data set is that of Nicolicioiu, Duta and Leordeanu, "Recurrent Space-time Graph Neural Networks" (NeurIPS 2019),
section 3.1. Details that the paper leaves open are as in its released generator. Two digits move in step if they make
the same steps.

Letters: T frames, n digits of a clip. Positions are (row, column) of a digit's top left corner on the canvas, in px.
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
    """One generated clip of SyncMNIST: T frames in which n digits move. The first two digits make the same steps,
    unless the class is the last one, `none`.
    """

    # Grey pixels, uint8 [T, 64, 64]
    frames: UInt8Array
    # The top left corner (row, column) of each digit in each frame, in px of the canvas, [T, n, 2]
    corners: IntArray
    # The n values, 0 to 9, that the digits show
    digits: tuple[int, ...]
    label: int  # the class number


def pair_label(first: int, second: int) -> int:
    """Returns the class number of a pair of two different digits: i (i - 1) / 2 + j for the digits i > j. The order of
    `first` and `second` does not matter.
    """
    i, j = max(first, second), min(first, second)
    return i * (i - 1) // 2 + j


def classes(digit_values: int) -> tuple[str, ...]:
    """Returns the class names in the order of the class numbers: "1-0", "2-0", "2-1" and so on, and "none" at the end.
    There is a name `i-j` for each pair of digits i > j below `digit_values`.
    """
    return (*(f"{i}-{j}" for i in range(digit_values) for j in range(i)), "none")


@dataclass(frozen=True, kw_only=True)
class ClipDigits:
    """The digits of one clip, before it is drawn."""

    image_indices: tuple[int, ...]  # the index of the picture of each digit, in the pictures of the split
    values: tuple[int, ...]  # the value, 0 to 9, that each of these pictures shows
    in_step: bool  # whether the first two digits make the same steps

    def label(self, digit_values: int) -> int:
        """Returns the class number of the clip. `digit_values` is the number of values that digits of the data set
        have.

        If the first two digits make the same steps, the class is that of their two values. All other clips have the
        last class.
        """
        none = digit_values * (digit_values - 1) // 2
        return pair_label(self.values[0], self.values[1]) if self.in_step else none


def choose_digits(
    rng: np.random.Generator, images: DigitImages, first: int, num_digits: int, digit_values: int = 10
) -> ClipDigits:
    """Chooses the digits of a clip at random. Returns a ClipDigits, which also says whether the first two digits move
    in step, which means by the same steps at the same time.

    The first digit is the picture with the index `first`. The other digits are random pictures. All `num_digits` digits
    have different values, which are less than `digit_values`.
    """
    value = int(images.values[first])
    others = rng.permutation([other for other in range(digit_values) if other != value])[: num_digits - 1].tolist()
    image_indices = (first, *(int(rng.choice(images.by_value[other])) for other in others))
    return ClipDigits(image_indices=image_indices, values=(value, *others), in_step=bool(rng.integers(RANDOM_ODDS)))


def walk(rng: np.random.Generator, num_digits: int, in_step: bool) -> IntArray:
    """Returns the paths of `num_digits` digits that walk at random, [T, n, 2] for T frames and n digits. A path has the
    digit's top left corner (row, column) in each frame, in px. If `in_step` is true, the first two digits make the same
    steps.

    A digit moves by one step before each frame, also before the first. Along each axis, a step is a random whole number
    from -10 to 9. No digit leaves the canvas: at position p, its step is at least -p and less than 71 - p. If no step
    is allowed for both digits in step, both stay where they are along this axis.
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
    """Returns the paths of n = `num_digits` digits in T frames, [T, n, 2]. A path has the digit's top left corner (row,
    column) in each frame, in px. Each digit repeats one random step. If `in_step` is true, the first two digits have
    the same step. These paths are easier to classify than the random walk of the paper.

    A step is a random whole number from -5 to 5 along each axis. A digit never leaves the canvas. The starts of all
    digits are drawn NUM_STARTS times. The draw in which the digits stay farthest from each other is taken.
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


def draw_digits(images: list[UInt8Array], corners: IntArray) -> UInt8Array:
    """Draws n digits on a black background. Returns T grey frames, uint8 [T, 64, 64]. Later digits hide earlier digits.

    `images` has the picture of each digit, [28, 28] uint8. `corners` [T, n, 2] has the top left corner (row, column) of
    each digit in each frame, in px of a canvas of 100 x 100 px. The canvas is resized bilinearly to a frame.
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
    """The data set SyncMNIST that `options` describe. No clip is kept. Each request generates its clip from the split
    and the number of the clip.
    """

    options: SyncMnistOptions

    def images(self, split: str) -> DigitImages:
        return _images(split, self.options.digits, self.options.val_images, self.options.digit_values)

    def num_videos(self, split: str) -> int:
        repeats = self.options.multiplier if split == "train" else self.options.test_multiplier
        return repeats * len(self.images(split))

    def _begin(self, split: str, index: int) -> tuple[np.random.Generator, ClipDigits]:
        rng, images = np.random.default_rng([self.options.seed, index, *split.encode()]), self.images(split)
        return rng, choose_digits(rng, images, index % len(images), self.options.num_digits, self.options.digit_values)

    def sample(self, split: str, index: int) -> SyncSample:
        """Returns clip number `index` of `split`, from 0, as a SyncSample. Equal arguments always return equal pixels.

        The first digit of the clip is picture number `index` modulo the number of pictures of the split.
        """
        rng, roles = self._begin(split, index)
        tracks = walk if self.options.motion == "walk" else constant
        corners = tracks(rng, self.options.num_digits, roles.in_step)
        images = self.images(split).images
        frames = draw_digits([images[which] for which in roles.image_indices], corners)
        label = roles.label(self.options.digit_values)
        return SyncSample(frames=frames, corners=corners, digits=roles.values, label=label)

    def render(self, video: GeneratedVideo) -> bytes:
        grey = self.sample(video.split, video.index).frames
        return encode(np.repeat(grey[..., None], 3, axis=-1), FPS)

    def videos(self) -> list[GeneratedVideo]:
        """Returns a GeneratedVideo (path, class and split) for each video of all splits. A folder holds at most a
        thousand videos of a split.
        """
        return [self._listed(split, index) for split in SPLITS for index in range(self.num_videos(split))]

    def _listed(self, split: str, index: int) -> GeneratedVideo:
        values = self.options.digit_values
        label = classes(values)[self._begin(split, index)[1].label(values)]
        path = f"{split}/{index // 1000:03d}/{index:06d}.mp4"
        return GeneratedVideo(path=path, label=label, split=split, index=index)

    def parameters(self) -> dict[str, object]:
        """Returns a dictionary of all values on which the pixels of the videos depend: the version of the generator,
        the options, and digests of the pictures of digits. The folder of the pictures is left out, because the digests
        identify the pictures.
        """
        digests = {split: self.images(split).digest for split in SPLITS}
        return {"version": GENERATOR_VERSION, "digits": digests} | self.options.model_dump(exclude={"root", "digits"})


@cache
def _images(split: str, folder: str | None, num_val: int, digit_values: int) -> DigitImages:
    return digits_of(split, folder, num_val).below(digit_values)


def generate(options: SyncMnistOptions, *, workers: int = 1, progress: Callable[[int], None] | None = None) -> None:
    """Writes the videos of the data set below `options.root`. A second call continues after an interruption.

    `workers` processes make the videos. `progress` is called with the number of videos finished since its last call.
    Raises DigitsError if a digit file is missing or damaged. Raises UsageError if the folder has a data set that was
    made with other options.
    """
    data_set = SyncMnist(options=options)
    generate_videos(
        Path(options.root), "sync_mnist", data_set.parameters(), videos=data_set.videos, render=data_set.render,
        workers=workers, progress=progress,
    )  # fmt: skip
