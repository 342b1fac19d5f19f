"""The contract of readers of features that other programs made: each returns one video's arrays, or an error that says
why it cannot.

A new format is a file in this folder with a class that fulfils `FeatureFiles`, and a line in `recognise.py`.
Torch-free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kinegraph.cache_schemas.ledger import Reason, Source
from kinegraph.stages.errors import UsageError


class FeatureFileError(UsageError):
    """Files cannot be imported as asked. The message names the file, what was found and what was expected."""


class UnusableError(Exception):
    """One video's features cannot be used. The import continues without them."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """The arrays of one video by role, T frames each.

    Roles: `pooled` [T, C] float32; `maps` [T, C, H, W]; or `regions` [T, N, C], `boxes` [T, N, 4] float32 and `count`
    [T] int16, zero past it. Maps and regions are float16 or float32.
    """

    arrays: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        if len({len(array) for array in self.arrays.values()}) != 1:
            raise ValueError(f"number of frames differs: {self.shapes}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each role, T first."""
        return {role: array.shape for role, array in self.arrays.items()}

    @property
    def num_frames(self) -> int:
        """Returns T, the number of frames."""
        return len(next(iter(self.arrays.values())))

    def at(self, frames: Sequence[int]) -> "VideoFeatures":
        """Returns the given frames, in the given order."""
        return VideoFeatures(arrays={role: array[list(frames)] for role, array in self.arrays.items()})

    def check_finite(self, where: str) -> None:
        """Raises UnusableError for NaN or Inf."""
        for role, array in self.arrays.items():
            if not np.isfinite(array).all():
                raise UnusableError("non_finite", f"{where}: {role} are not finite")


class FeatureFiles(Protocol):
    """Features of many videos, made by other programs."""

    kind: str

    def videos(self) -> Sequence[str]:
        """Returns the ids of the videos, in order.

        An id is the POSIX path of the file or group. Raises FeatureFileError.
        """
        ...

    def where(self, video: str) -> str:
        """Returns the file of a video, and the name in that file, for messages."""
        ...

    def source(self, video: str) -> Source:
        """Returns size, time and the xxh3_128 of the whole content of a video's features."""
        ...

    def read(self, video: str) -> VideoFeatures:
        """Returns a video's features.

        Raises UnusableError where they are damaged, FeatureFileError where they are no features.
        """
        ...


def as_features(array: np.ndarray, where: str) -> VideoFeatures:
    """Returns the features of one video from an array [C], [T, C] or [T, C, H, W].

    An array [1, T, ...], as `kinegraph export` writes one clip, is accepted too. Raises FeatureFileError for another
    shape or type, UnusableError for an empty array.
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
    """Returns float16 unchanged, and all other numbers as float32.

    Raises FeatureFileError for values that are no numbers.
    """
    if array.dtype.kind not in "fiub":
        raise FeatureFileError(f"{where} holds {array.dtype}; numbers are expected")
    with np.errstate(over="ignore"):  # overflow becomes Inf, which a later check names
        return array if array.dtype == np.float16 else array.astype(np.float32)
