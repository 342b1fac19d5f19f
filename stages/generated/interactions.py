"""Generates the videos of the demo, in which two small shapes interact. Imports no torch.

A thing is a disc, a diamond or a square with a digit on it. There are ten classes of interactions, such as "pushes" and
"fetches". `MOTIONS` has the motions of each class.

A network can find the class only if it sees which things touch. A single frame is not enough, because every class has a
partner that is the same backwards in time (`REVERSED`). Things look alike in every class. Two other things, the
distractors, perform the motions of a random class without touching anything.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from kinegraph.stages.generated.drawing import FRAME_SIZE, boxes_around, draw, ground, pick_digit, sprite
from kinegraph.stages.generated.generating import GeneratedVideo, generate_videos
from kinegraph.stages.generated.generating import encode as encode_video

GENERATOR_VERSION = 1
NUM_FRAMES = 16
FPS = 8
NUM_THINGS = 4
DEFAULT_VIDEOS: Mapping[str, int] = MappingProxyType({"train": 3000, "val": 300, "test": 600})
FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Describes how two things, the actor and the other thing, move along a line before and after the moment of
    contact.
    """

    # (speed before contact, speed after contact) in units of a random speed. Negative speeds go backwards.
    actor: tuple[int, int]
    other: tuple[int, int]  # the same two speeds for the other thing
    # The range of the angle at contact between the line and the direction from the actor to the other thing
    contact_degrees: tuple[float, float] = (-25, 25)
    gap_px: float = 0  # the distance between the two things at contact
    joined: bool = True  # whether both things have the same unit of speed. If not, each thing has a unit of its own.


MOTIONS: Mapping[str, Motion] = MappingProxyType(
    {
        "pushes": Motion(actor=(1, 1), other=(0, 1)),
        "lets_go": Motion(actor=(1, 1), other=(1, 0), contact_degrees=(155, 205)),
        "fetches": Motion(actor=(1, -1), other=(0, -1)),
        "delivers": Motion(actor=(1, -1), other=(1, 0)),
        "comes_to": Motion(actor=(1, 0), other=(0, 0)),
        "leaves": Motion(actor=(0, -1), other=(0, 0)),
        "meets": Motion(actor=(1, 0), other=(-1, 0), joined=False),
        "parts": Motion(actor=(0, -1), other=(0, 1), joined=False),
        "passes_by": Motion(actor=(1, 1), other=(-1, -1), contact_degrees=(80, 100), gap_px=1.5, joined=False),
        "moves_together": Motion(actor=(1, 1), other=(1, 1), contact_degrees=(-180, 180)),
    }
)
CLASSES = tuple(MOTIONS)
_PAIRS = (("pushes", "lets_go"), ("fetches", "delivers"), ("comes_to", "leaves"), ("meets", "parts"))
# class -> class of the clips played backwards. passes_by and moves_together are their own partners
REVERSED: Mapping[str, str] = MappingProxyType(
    {name: name for name in CLASSES} | dict(_PAIRS) | {after: before for before, after in _PAIRS}
)

_CLEARANCE_PX = 5.0
_CANDIDATES = 64


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The content of a generated clip of the demo: four things, which are small shapes with a digit. Thing 0, the
    actor, interacts with thing 1. Things 2 and 3 are distractors, which touch nothing.
    """

    # The box (x1, y1, x2, y2) of each thing in each frame, in px, [NUM_FRAMES, 4, 4]
    boxes: FloatArray
    label: int  # the class number
    # The digit, 0 to 9, on each thing
    digits: tuple[int, ...]

    @property
    def name(self) -> str:
        """Returns the name of the class of the clip."""
        return CLASSES[self.label]


@dataclass(frozen=True, kw_only=True)
class Interaction(Truth):
    """One generated clip of the demo. `frames` has its pixels, uint8 RGB [NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3]. The
    other fields say what the frames show.
    """

    frames: npt.NDArray[np.uint8]  # [NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3] RGB


def _unit(degrees: FloatArray) -> FloatArray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1)


def _along(line: FloatArray, speeds: tuple[int, int], speed_px: FloatArray, event: FloatArray) -> FloatArray:
    """Returns the displacements of a thing along a line, [K, T, 2] in px, in T frames, for K candidates of its motion.
    Candidate k moves along the unit vector `line[k]`.

    `event` [K] is the time of contact in frames. There the displacement is 0, and the speed changes. The speed is
    `speed_px` times `speeds[0]` before it, and `speed_px` times `speeds[1]` after it. `speed_px` [K] is in px per
    frame.
    """
    since = np.arange(NUM_FRAMES) - event[:, None]
    travelled = speeds[0] * np.minimum(since, 0) + speeds[1] * np.maximum(since, 0)
    return np.asarray((speed_px[:, None] * travelled)[..., None] * line[:, None])


def _speeds(rng: np.random.Generator) -> FloatArray:
    return rng.uniform(1.8, 3.6, _CANDIDATES)


def _anywhere(rng: np.random.Generator) -> FloatArray:
    return rng.uniform(10, FRAME_SIZE - 10, (_CANDIDATES, 1, 2))


def _candidate_pairs(rng: np.random.Generator, motion: Motion, sizes: IntArray) -> FloatArray:
    """Returns the centres (x, y) in px of random pairs of things that move as `motion` describes: [_CANDIDATES, T
    frames, 2 things, 2].

    `sizes` [2] are the sides of the two things in px. Some of these pairs leave the frame. The caller drops them.
    """
    event = rng.uniform(5, 10, _CANDIDATES)
    heading = rng.uniform(0, 360, _CANDIDATES)
    line = _unit(heading)
    towards_other = _unit(heading + rng.uniform(*motion.contact_degrees, _CANDIDATES))
    distance = sizes.mean() + rng.uniform(0, 1, (_CANDIDATES, 1)) + motion.gap_px
    speed = _speeds(rng)
    actor = _anywhere(rng) + _along(line, motion.actor, speed, event)
    other_speed = speed if motion.joined else _speeds(rng)
    other = actor[:, :1] - _along(line, motion.actor, speed, event)[:, :1] + (towards_other * distance)[:, None]
    return np.stack([actor, other + _along(line, motion.other, other_speed, event)], axis=2)


def _candidate_strangers(rng: np.random.Generator, motion: Motion) -> FloatArray:
    """Returns the centres (x, y) in px of random pairs of distractors: [_CANDIDATES, T frames, 2 things, 2].

    The things of a pair have the speeds of the actor and of the other thing of `motion`. Each thing moves along a line
    of its own.
    """
    event = rng.uniform(5, 10, _CANDIDATES)
    tracks = [
        _anywhere(rng) + _along(_unit(rng.uniform(0, 360, _CANDIDATES)), speeds, _speeds(rng), event)
        for speeds in (motion.actor, motion.other)
    ]
    return np.stack(tracks, axis=2)


def _inside(centres: FloatArray, sizes: IntArray) -> npt.NDArray[np.bool_]:
    """Returns for each of K candidates whether all its things stay inside the frame, at least one pixel away from the
    edge, in all T frames: bool [K].

    A candidate is a possible motion of n things. `centres` [K, T, n, 2] are the centres (x, y) of the things, and
    `sizes` [n] are their sides, in px.
    """
    margin = sizes[:, None] / 2 + 1
    inside = (centres >= margin) & (centres <= FRAME_SIZE - margin)
    return np.asarray(inside.all(axis=(1, 2, 3)))


def _clear(first: FloatArray, second: FloatArray, sizes: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Returns for each of K pairs of motions whether the gap between the two moving things is at least _CLEARANCE_PX px
    in all frames: bool [K].

    `first` and `second` [K, T frames, 2] are the centres (x, y) of the two things in px. `sizes` are their sides in px.
    """
    distance = np.linalg.norm(first - second, axis=-1).min(axis=-1)
    return np.asarray(distance >= sum(sizes) / 2 + _CLEARANCE_PX)


def _distractors(rng: np.random.Generator, motion: Motion, pair: FloatArray, sizes: IntArray) -> FloatArray | None:
    """Returns the centres (x, y) in px of two distractors, [T frames, 2 things, 2]. They move as `motion` says, but
    touch nothing.

    Random candidates are drawn. A candidate fits if it stays inside the frame, away from the two interacting things,
    and away from the other distractor. Returns None if no candidate fits. `pair` [T, 2, 2] has the centres of the
    interacting things. `sizes` [4] are the sides in px of the interacting things and of the distractors.
    """
    tracks = _candidate_strangers(rng, motion)
    everyone = np.concatenate([np.broadcast_to(pair, tracks.shape), tracks], axis=2)
    good = _inside(tracks, sizes[2:])
    for first, second in ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)):
        good &= _clear(everyone[:, :, first], everyone[:, :, second], (sizes[first], sizes[second]))
    return tracks[good][0] if good.any() else None


def _tracks(rng: np.random.Generator, motion: Motion, sizes: IntArray) -> FloatArray:
    """Returns the centres (x, y) in px of the four things of a video, [T frames, 4 things, 2]: two things that perform
    `motion`, then two distractors. `sizes` [4] are their sides in px.

    Paths are drawn until no thing leaves the frame or comes too close to another thing.
    """
    # Drawn once. If it were drawn again, classes whose things often leave the frame would become rarer.
    others_motion = MOTIONS[CLASSES[rng.integers(len(CLASSES))]]
    while True:
        pairs = _candidate_pairs(rng, motion, sizes[:2])
        for pair in pairs[_inside(pairs, sizes[:2])][:4]:
            strangers = _distractors(rng, others_motion, pair, sizes)
            if strangers is not None:
                return np.concatenate([pair, strangers], axis=1)


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """The content of a clip before it is drawn: T frames with four things. `label` is the class number.

    `centres` [T, 4, 2] are the centres (x, y) of the things in px. `sizes` [4] are their sides in px. `digits` has
    (picture of the digit, the digit) for each thing. `rng` is the generator of the other random values, such as the
    background.
    """

    rng: np.random.Generator
    label: int
    sizes: IntArray
    centres: FloatArray
    digits: list[tuple[FloatArray, int]]

    @property
    def truth(self) -> Truth:
        digits = tuple(value for _, value in self.digits)
        return Truth(boxes=boxes_around(self.centres, self.sizes), label=self.label, digits=digits)


def _scene(seed: int, split: str, index: int) -> _Scene:
    rng = np.random.default_rng([seed, index, *split.encode()])
    label = index % len(CLASSES)
    sizes = rng.integers(14, 19, NUM_THINGS)
    centres = _tracks(rng, MOTIONS[CLASSES[label]], sizes)
    digits = [pick_digit(rng, unseen=split == "test") for _ in sizes]
    return _Scene(rng=rng, label=label, sizes=sizes, centres=centres, digits=digits)


def truth(seed: int, split: str, index: int) -> Truth:
    """Returns what clip number `index` (from 0) of `split` shows, as a Truth. The clip itself is not drawn. `seed` is
    the seed of the data set.
    """
    return _scene(seed, split, index).truth


def interaction(seed: int, split: str, index: int) -> Interaction:
    """Returns clip number `index` (from 0) of `split`, as an Interaction: its pixels and what they show. Equal
    arguments always return equal pixels. `seed` is the seed of the data set.

    The class number is `index` modulo 10. The split "test" shows pictures of digits that no other split shows.
    """
    scene = _scene(seed, split, index)
    rng = scene.rng
    sprites = [sprite(rng, image, int(size)) for (image, _), size in zip(scene.digits, scene.sizes, strict=True)]
    order = rng.permutation(NUM_THINGS)  # random, so that the order in depth carries no information
    frames = draw(ground(rng), [sprites[k] for k in order], scene.centres[:, order])
    return Interaction(frames=frames, **vars(scene.truth))


def encode(frames: npt.NDArray[np.uint8]) -> bytes:
    """Returns the bytes of an mp4 file with the RGB frames `frames`, uint8 [T, H, W, 3] (T frames, H rows, W columns).
    The video has FPS frames per second.
    """
    return encode_video(frames, FPS)


def video_path(split: str, index: int) -> str:
    """Returns the path of clip number `index` (from 0) of `split`, relative to the folder `videos` of the data set."""
    return f"{split}/{CLASSES[index % len(CLASSES)]}_{index:05d}.mp4"


def _listed(split: str, index: int) -> GeneratedVideo:
    label = CLASSES[index % len(CLASSES)]
    return GeneratedVideo(path=video_path(split, index), label=label, split=split, index=index)


def _render(seed: int, video: GeneratedVideo) -> bytes:
    return encode(interaction(seed, video.split, video.index).frames)


def generate(
    root: Path,
    *,
    videos: Mapping[str, int] = DEFAULT_VIDEOS,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes the videos of the demo below the folder `root`. A second call continues after an interruption.

    `videos` is {split: number of videos}. `seed` is the seed of all random numbers. `workers` is the number of worker
    processes. `progress` is called with the number of videos finished since its last call. A file is
    videos/<split>/<class>_<nnnnn>.mp4. Raises UsageError if `root` holds a data set with other parameters.
    """
    parameters = {"version": GENERATOR_VERSION, "seed": seed, "videos": dict(videos)}
    generate_videos(
        root, "interactions", parameters,
        videos=lambda: [_listed(split, index) for split, count in videos.items() for index in range(count)],
        render=partial(_render, seed), workers=workers, progress=progress,
    )  # fmt: skip
