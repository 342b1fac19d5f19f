"""Describes which frames of a clip the stages need, and how the frames are cut and resized.

This module imports neither PyAV nor torch, because plans use it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from kinegraph.cache_schemas.crops import Framing

LATEST_RULES = 2  # by which frames are found: the version of `clips`, part of every fingerprint below it
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Square(Framing):
    """The input of a backbone. The crop of a row is cut out of every `every`-th frame of the clip, and is resized to
    `size` x `size` px.
    """

    every: int


@dataclass(frozen=True, kw_only=True)
class WholeFrame:
    """The input of a proposal network. It is every `every`-th frame of a clip, without a crop.

    `network_size(height, width)` returns the (height, width) to which a frame is resized, in px.
    """

    network_size: Callable[[int, int], Size]
    every: int


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Describes the frames that the stages of one run need of a clip.

    `num_frames` and `short` are the options of `clips`. numbered: the places of the frames in the video are needed too,
    so the whole video is read. may_repeat: a clip may show one frame at all its times. Without `may_repeat` such a clip
    fails.
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
