"""Defines what a reader of features from other programs has to do. Torch-free.

A reader returns the arrays of one video, or raises an error that says why it cannot. A new format is a class in this
folder with the methods of `FeatureFiles`, and a line in `recognise.py`. Shapes: T frames, N regions of a frame, C
channels, and maps of H rows and W columns.
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
    """The features of one video cannot be read. The import goes on without this video.

    `reason` is the short reason for the ledger, such as "unreadable". `detail` is the message.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """The arrays of one video. `arrays` is {role: array}. A role says what the array holds. There are T frames, N
    regions per frame, C channels, and maps of H rows and W columns.

    - `pooled`: float32 [T, C], one vector per frame.
    - `maps`: float16 or float32 [T, C, H, W].
    - `regions`: float16 or float32 [T, N, C].
    - `boxes`: float32 [T, N, 4], (x1, y1, x2, y2) in px of the video.
    - `count`: int16 [T], the number of regions of each frame. Regions and boxes after this number are zero.

    Raises ValueError if the arrays have different numbers of frames.
    """

    arrays: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        if len({len(array) for array in self.arrays.values()}) != 1:
            raise ValueError(f"number of frames differs: {self.shapes}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns {role: shape of the array}, for example {"pooled": (8, 512)}. The first axis is the frames of the
        video.
        """
        return {role: array.shape for role, array in self.arrays.items()}

    @property
    def num_frames(self) -> int:
        """Returns the number of frames of the video."""
        return len(next(iter(self.arrays.values())))

    def at(self, frames: Sequence[int]) -> "VideoFeatures":
        """Returns the VideoFeatures of the frames with the numbers `frames`, from 0, in the order of `frames`. A number
        may occur twice.
        """
        return VideoFeatures(arrays={role: array[list(frames)] for role, array in self.arrays.items()})

    def check_finite(self, where: str) -> None:
        """Raises UnusableError if an array contains NaN or Inf. The message begins with `where`."""
        for role, array in self.arrays.items():
            if not np.isfinite(array).all():
                raise UnusableError("non_finite", f"{where}: {role} are not finite")


class FeatureFiles(Protocol):
    """Reads the features of many videos, which another program wrote. Each format has a class with the methods
    `videos`, `where`, `source` and `read`. `kind` is the name of the format, such as "npy".
    """

    kind: str

    def videos(self) -> Sequence[str]:
        """Returns the ids of all videos in the files. An id is the path of the file, folder or HDF5 group of the video,
        without the ending: `walk/1`.

        Raises FeatureFileError if the files do not have the expected structure.
        """
        ...

    def where(self, video: str) -> str:
        """Returns where the features of `video` lie, as text for messages: the path of a file, and in an HDF5 file also
        the name of a dataset (`all.h5:walk/1`).
        """
        ...

    def source(self, video: str) -> Source:
        """Returns the Source that identifies the features of `video`: their size, time of change and digest (xxh3_128
        of all bytes).
        """
        ...

    def read(self, video: str) -> VideoFeatures:
        """Returns the VideoFeatures of `video`, which has the arrays of the video.

        Raises UnusableError if the features are damaged. Raises FeatureFileError if the file holds something other than
        features.
        """
        ...


def as_features(array: np.ndarray, where: str) -> VideoFeatures:
    """Returns the VideoFeatures of one video from an array [C], [T, C] or [T, C, H, W]. `where` names the array in
    messages.

    An array [C] is one frame. An array [T, C, H, W] becomes `maps`, and its means over H and W become `pooled`. Other
    arrays become `pooled`. One more axis of size 1 in front is allowed. Raises FeatureFileError for another shape or
    type, and UnusableError for an empty array.
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
    """Returns a float16 array unchanged, and an array of other numbers as float32.

    Raises FeatureFileError if the values are not numbers. The message begins with `where`.
    """
    if array.dtype.kind not in "fiub":
        raise FeatureFileError(f"{where} holds {array.dtype}; numbers are expected")
    with np.errstate(over="ignore"):  # overflow becomes Inf, which a later check names
        return array if array.dtype == np.float16 else array.astype(np.float32)
