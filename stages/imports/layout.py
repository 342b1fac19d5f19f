"""Finds the number of frames and the shapes that the features of many videos share. Torch-free."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.imports.features import FeatureFileError, FeatureFiles, UnusableError, VideoFeatures

RAGGED = frozenset({"boxes", "regions"})  # roles whose axis after time may differ among videos


@dataclass(frozen=True, kw_only=True)
class FeatureLayout:
    """The layout that the features of all videos of an import share.

    `num_frames` is the number of frames per video. `shapes` maps the role of an array, such as `maps` or `boxes`, to
    the shape of one frame. For `boxes` and `regions` this shape has room for the frame with the most regions. `dtype`
    is the type in which maps or regions are stored.
    """

    num_frames: int
    shapes: Mapping[str, tuple[int, ...]]
    dtype: str


def common_layout(files: FeatureFiles, videos: Iterable[str], num_frames: int | None) -> FeatureLayout:
    """Returns the FeatureLayout that the features of all `videos` have in common: the number of frames, the shapes and
    the type. `files` reads the features. Videos whose features cannot be read are left out.

    If `num_frames` is None, all videos must have equally many frames. Otherwise their lengths may differ, because the
    caller later takes `num_frames` frames from each video. Raises FeatureFileError if two videos have different
    layouts, and names both videos. Raises FeatureFileError also if no video can be read.
    """
    first: tuple[str, VideoFeatures] | None = None
    shapes: dict[str, tuple[int, ...]] = {}
    is_half, unusable = True, ""
    for video in videos:
        try:
            features = files.read(video)
        except UnusableError as error:
            unusable = unusable or error.detail
            continue
        where = files.where(video)
        first = first or (where, features)
        _check_agree(first, (where, features), num_frames)
        for role, (_, *shape) in features.shapes.items():
            shapes[role] = tuple(map(max, zip(shape, shapes.get(role, shape), strict=True)))
        is_half &= all(features.arrays[role].dtype == np.float16 for role in ("maps", "regions") if role in shapes)
    if first is None:
        raise FeatureFileError(f"no video is usable; the first one: {unusable}")
    dtype = "float16" if is_half else "float32"
    return FeatureLayout(num_frames=num_frames or first[1].num_frames, shapes=shapes, dtype=dtype)


def _check_agree(first: tuple[str, VideoFeatures], other: tuple[str, VideoFeatures], num_frames: int | None) -> None:
    (there, ours), (here, theirs) = first, other
    if num_frames is None and ours.num_frames != theirs.num_frames:
        raise FeatureFileError(
            f"{there} has {counted(ours.num_frames, 'frame')}, {here} has {theirs.num_frames}. All videos of a cache "
            "need the same number. --frames T takes T evenly spaced frames of each and repeats the last of shorter ones"
        )
    if _fixed(ours) != _fixed(theirs):
        raise FeatureFileError(f"{there} has shape {_said(ours)} a frame, {here} has {_said(theirs)}")


def _fixed(features: VideoFeatures) -> dict[str, tuple[int, ...]]:
    """Returns role -> the part of an array's shape that must be equal in all videos. A role is a kind of array, such as
    `maps` or `boxes`. `features` are the arrays of one video.

    The number of frames may differ and is left out. So is the number of boxes or regions.
    """
    return {role: shape[1 + (role in RAGGED) :] for role, shape in features.shapes.items()}


def _said(features: VideoFeatures) -> str:
    role = next(role for role in ("maps", "regions", "pooled") if role in features.shapes)
    return str(list(features.shapes[role][1:]))


def chosen_frames(length: int, num_frames: int) -> Sequence[int]:
    """Returns the `num_frames` frame numbers to take of `length` frames. They are the middles of equal parts (10
    frames, 2 to take -> 2 and 7).

    If `length` is smaller than `num_frames`, all frames are taken and the number of the last frame is repeated.
    """
    if length < num_frames:
        return [min(frame, length - 1) for frame in range(num_frames)]
    return [(2 * frame + 1) * length // (2 * num_frames) for frame in range(num_frames)]
