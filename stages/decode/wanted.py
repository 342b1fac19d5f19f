"""Describes the frames that stages want of a video, cut and resized.

Imports neither PyAV nor torch, because plans use it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from kinegraph.cache_schemas.crops import Framing

LATEST_RULES = 2  # by which frames are found: the version of `clips`, part of every fingerprint below it
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Square(Framing):
    """The input of a backbone: every `every`-th frame, with the row's crop at size x size px."""

    every: int


@dataclass(frozen=True, kw_only=True)
class WholeFrame:
    """The input of a proposal network: every `every`-th frame, whole, at `network_size(height, width)`."""

    network_size: Callable[[int, int], Size]
    every: int


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Describes the frames that all stages of one run together need of a clip.

    numbered: also the place of each frame in the video. may_repeat: a clip whose times all show the same frame is
    right. Otherwise such a clip fails.
    """

    num_frames: int
    squares: frozenset[Square] = frozenset()
    whole: WholeFrame | None = None
    numbered: bool = False
    short: str = "repeat_last"
    may_repeat: bool = False

    def __or__(self, other: "Wanted") -> "Wanted":
        """Returns what both need of one clip. Raises ValueError where they want whole frames of different sizes."""
        if self.whole and other.whole and self.whole != other.whole:
            raise ValueError(f"whole frames are decoded once for all stages: {self.whole} or {other.whole}?")
        return replace(
            self,
            squares=self.squares | other.squares,
            whole=self.whole or other.whole,
            numbered=self.numbered or other.numbered,
        )
