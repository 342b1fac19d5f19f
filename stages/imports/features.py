"""What every reader of features that others made gives: one video's arrays, or why there are none. Torch-free.

To add a format: a file here with a class that keeps `FeatureFiles`, and a line in `recognise.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kinegraph.cache_schemas.ledger import Reason, Source
from kinegraph.stages.errors import UsageError


class FeatureFileError(UsageError):
    """Files that cannot be imported as asked; names the file, what was found and what is expected."""


class UnusableError(Exception):
    """One video's features cannot be used; the import goes on without them."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """The arrays of one video by role, T frames each: `pooled` [T, C] float32; `maps` [T, C, H, W]; or `regions`
    [T, N, C], `boxes` [T, N, 4] float32 and `count` [T] int16, zero past it. Maps and regions are float16 or float32.
    """

    arrays: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        if len({len(array) for array in self.arrays.values()}) != 1:
            raise ValueError(f"number of frames differs: {self.shapes}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by role, T first."""
        return {role: array.shape for role, array in self.arrays.items()}

    @property
    def num_frames(self) -> int:
        return len(next(iter(self.arrays.values())))

    def at(self, frames: Sequence[int]) -> "VideoFeatures":
        """These frames, in this order."""
        return VideoFeatures(arrays={role: array[list(frames)] for role, array in self.arrays.items()})

    def check_finite(self, where: str) -> None:
        """Raise UnusableError for NaN or Inf."""
        for role, array in self.arrays.items():
            if not np.isfinite(array).all():
                raise UnusableError("non_finite", f"{where}: {role} are not finite")


class FeatureFiles(Protocol):
    """Features of many videos, made by others."""

    kind: str

    def videos(self) -> Sequence[str]:
        """Ids of the videos, in order: POSIX paths as the files or groups are called. Raises FeatureFileError."""
        ...

    def where(self, video: str) -> str:
        """File, and name in it, of a video, for messages."""
        ...

    def source(self, video: str) -> Source:
        """Size, time and the xxh3_128 of all content of a video's features."""
        ...

    def read(self, video: str) -> VideoFeatures:
        """A video's features. Raises UnusableError where they are damaged, FeatureFileError where they are none."""
        ...


def as_features(array: np.ndarray, where: str) -> VideoFeatures:
    """Features of one video from [C], [T, C] or [T, C, H, W], or [1, T, ...] as `kinegraph export` writes one clip.

    Raises FeatureFileError for another shape or type, UnusableError where there is nothing in it.
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
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found later, and named
        return VideoFeatures(arrays={"maps": array, "pooled": array.mean((2, 3), dtype=np.float32)})


def as_floats(array: np.ndarray, where: str) -> np.ndarray:
    """float16 stays, all other numbers become float32. Raises FeatureFileError for what is no number."""
    if array.dtype.kind not in "fiub":
        raise FeatureFileError(f"{where} holds {array.dtype}; numbers are expected")
    with np.errstate(over="ignore"):  # to Inf, which is found later, and named
        return array if array.dtype == np.float16 else array.astype(np.float32)
