"""Finds the number of frames, the shapes and the type that the features of all imported videos share. Torch-free."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.imports.features import FeatureFileError, FeatureFiles, UnusableError, VideoFeatures

RAGGED = frozenset({"boxes", "regions"})  # roles whose second axis may differ among videos


@dataclass(frozen=True, kw_only=True)
class FeatureLayout:
    """The properties that the features of all videos of an import share."""

    num_frames: int  # the number of frames per video
    # {role of an array: shape of one frame}, for example {"boxes": (10, 4)}. The first axis of the roles "boxes" and
    # "regions" is the largest number of regions in any frame. Frames with fewer regions are padded.
    shapes: Mapping[str, tuple[int, ...]]
    dtype: str  # the type in which maps and regions are stored, "float16" or "float32"


def common_layout(files: FeatureFiles, videos: Iterable[str], num_frames: int | None) -> FeatureLayout:
    """Returns the FeatureLayout (number of frames, shapes and type) that the features of all `videos` share. `files`
    reads the features. Videos that cannot be read are left out.

    If `num_frames` is None, all videos must have equally many frames. Otherwise the import takes `num_frames` frames of
    each video. Raises FeatureFileError if two videos do not fit together, or if no video can be read.
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
    """Returns {role: shape} with only those axes that must be equal in all videos. The number of frames is left out,
    and for `boxes` and `regions` also the number of regions.
    """
    return {role: shape[1 + (role in RAGGED) :] for role, shape in features.shapes.items()}


def _said(features: VideoFeatures) -> str:
    role = next(role for role in ("maps", "regions", "pooled") if role in features.shapes)
    return str(list(features.shapes[role][1:]))


def chosen_frames(length: int, num_frames: int) -> Sequence[int]:
    """Returns the numbers of the `num_frames` frames to take from a video of `length` frames. These frames are the
    middles of equal parts: 2 of 10 frames -> 2 and 7.

    If the video is shorter than `num_frames`, returns all frames, and repeats the last one.
    """
    if length < num_frames:
        return [min(frame, length - 1) for frame in range(num_frames)]
    return [(2 * frame + 1) * length // (2 * num_frames) for frame in range(num_frames)]
