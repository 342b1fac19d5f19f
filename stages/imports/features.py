"""Defines the contract of readers for features that other programs made. Torch-free.

A reader returns the arrays of one video, or raises an error that says why it cannot. A new format is a file in this
folder with a class that fulfils `FeatureFiles`, and a line in `recognise.py`. Shapes have T frames, N regions of a
frame, C channels, and maps of H rows and W columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kinegraph.cache_schemas.ledger import Reason, Source
from kinegraph.stages.errors import UsageError


class FeatureFileError(UsageError):
    """A file of features cannot be imported. The message names the file, what it has and what was expected."""


class UnusableError(Exception):
    """The features of one video cannot be read. The import continues without this video.

    `reason` is the word that the ledger records, and `detail` is the message.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """The arrays of one video. `arrays` maps a role, such as `pooled`, to an array.

    There are T frames, N regions per frame, C channels, and maps of H rows and W columns. The roles are `pooled` [T, C]
    float32, `maps` [T, C, H, W], `regions` [T, N, C], `boxes` [T, N, 4] float32 and `count` [T] int16. Maps and regions
    are float16 or float32. A box is x1, y1, x2, y2 in pixels of the video. `count` is the number of regions that a
    frame really has. Regions and boxes past this number are zero. Raises ValueError where the arrays differ in their
    number of frames.
    """

    arrays: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        if len({len(array) for array in self.arrays.values()}) != 1:
            raise ValueError(f"number of frames differs: {self.shapes}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns role -> shape of the array. A role says what an array holds, such as `maps` or `boxes`. The first
        axis has the frames of the video.
        """
        return {role: array.shape for role, array in self.arrays.items()}

    @property
    def num_frames(self) -> int:
        """Returns the number of frames of the video."""
        return len(next(iter(self.arrays.values())))

    def at(self, frames: Sequence[int]) -> "VideoFeatures":
        """Returns the VideoFeatures of the frames with the numbers `frames`, counted from 0, in the order of `frames`.
        A number may occur twice.
        """
        return VideoFeatures(arrays={role: array[list(frames)] for role, array in self.arrays.items()})

    def check_finite(self, where: str) -> None:
        """Raises UnusableError where an array contains NaN or Inf. The message begins with `where`."""
        for role, array in self.arrays.items():
            if not np.isfinite(array).all():
                raise UnusableError("non_finite", f"{where}: {role} are not finite")


class FeatureFiles(Protocol):
    """The features of many videos, made by another program. Each format has a class with the methods of this class.
    `kind` is the name of the format.
    """

    kind: str

    def videos(self) -> Sequence[str]:
        """Returns the ids of the videos in the files. An id is the path of the video's file, folder or HDF5 group,
        without the ending (`walk/1`).

        Raises FeatureFileError where the files do not have the expected structure.
        """
        ...

    def where(self, video: str) -> str:
        """Returns the place of the features of the video `video` as text for messages: the file, and in an HDF5 file
        also the dataset (`all.h5:walk/1`).
        """
        ...

    def source(self, video: str) -> Source:
        """Returns the Source that identifies the features of the video with the id `video`: size, time of change, and
        the xxh3_128 of all their bytes.
        """
        ...

    def read(self, video: str) -> VideoFeatures:
        """Returns the VideoFeatures of the video with the id `video`.

        Raises UnusableError where the features are damaged. Raises FeatureFileError where the file holds something
        other than features.
        """
        ...


def as_features(array: np.ndarray, where: str) -> VideoFeatures:
    """Returns the VideoFeatures of one video from an array [C], [T, C] or [T, C, H, W]. `where` names the array in
    messages.

    Shapes: T frames, C channels, maps of H rows and W columns. An array [C] is one frame. An array [T, C, H, W] is
    returned as `maps`, with the means over H and W as `pooled`. Other arrays are returned as `pooled` alone. An array
    may have an axis of size 1 in front, as `kinegraph export` writes a video with one clip. Raises FeatureFileError for
    another shape or type, UnusableError for an empty array.
    """
    if array.ndim in (3, 5) and len(array) == 1:
        array = array[0]
    if array.ndim not in (1, 2, 4):
        raise FeatureFileError(f"{where} has shape {list(array.shape)}; [C], [T, C] or [T, C, H, W] is expected")
    if array.ndim == 1:
        array = array[None]
    if not array.size:
        raise UnusableError("too_short", f"{where} is empty: shape {list(array.shape)}")
    array = as_floats(array, where)
    if array.ndim == 2:
        return VideoFeatures(arrays={"pooled": array.astype(np.float32)})
    with np.errstate(invalid="ignore", over="ignore"):  # a later check names values that are not finite
        return VideoFeatures(arrays={"maps": array, "pooled": array.mean((2, 3), dtype=np.float32)})


def as_floats(array: np.ndarray, where: str) -> np.ndarray:
    """Returns an array of float16 unchanged, and an array of other numbers as float32.

    Raises FeatureFileError for values that are no numbers. The message begins with `where`.
    """
    if array.dtype.kind not in "fiub":
        raise FeatureFileError(f"{where} holds {array.dtype}; numbers are expected")
    with np.errstate(over="ignore"):  # overflow becomes Inf, which a later check names
        return array if array.dtype == np.float16 else array.astype(np.float32)
