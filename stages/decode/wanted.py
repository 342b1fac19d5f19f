"""Describes the frames that stages need of a video, cut and resized.

This module imports neither PyAV nor torch, because plans use it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from kinegraph.cache_schemas.crops import Framing

LATEST_RULES = 2  # by which frames are found: the version of `clips`, part of every fingerprint below it
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Square(Framing):
    """The input of a backbone: the crop of a row, cut out of every `every`-th frame of the clip and resized to `size` x
    `size` px.
    """

    every: int


@dataclass(frozen=True, kw_only=True)
class WholeFrame:
    """The input of a proposal network: every `every`-th frame of a clip, whole.

    `network_size(height, width)` returns the (height, width) to which a frame is resized, in px.
    """

    network_size: Callable[[int, int], Size]
    every: int


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Describes the frames that the stages of one run need of a clip.

    numbered: the place of each frame in the video is needed too. may_repeat: a clip may show the same frame at all its
    times. Otherwise such a clip fails.
    """

    num_frames: int
    squares: frozenset[Square] = frozenset()
    whole: WholeFrame | None = None
    numbered: bool = False
    short: str = "repeat_last"
    may_repeat: bool = False

    def __or__(self, other: "Wanted") -> "Wanted":
        """Returns the frames that `self` and `other` together need of a clip.

        Raises ValueError where they need whole frames of different sizes.
        """
        if self.whole and other.whole and self.whole != other.whole:
            raise ValueError(f"whole frames are decoded once for all stages: {self.whole} or {other.whole}?")
        return replace(
            self,
            squares=self.squares | other.squares,
            whole=self.whole or other.whole,
            numbered=self.numbered or other.numbered,
        )
