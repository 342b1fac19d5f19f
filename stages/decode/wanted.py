"""Describes which frames of a clip the stages need, and how the frames are cut and resized.

This module imports neither PyAV nor torch, because plans use it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from kinegraph.cache_schemas.crops import Framing, Resize
from kinegraph.stages.decode.errors import DecodeError

LATEST_RULES = 2  # by which frames are found: the version of `clips`, part of every fingerprint below it
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Square(Framing):
    """The square pictures that a backbone takes from a clip. Every `every`-th frame is cut to the clip's crop, and
    resized to `size` x `size` px. If `of_flow` is true, the backbone takes optical flow, else pictures.
    """

    every: int
    of_flow: bool = False


@dataclass(frozen=True, kw_only=True)
class WholeFrame:
    """The pictures that a proposal network takes from a clip: whole frames, without a crop. The network takes every
    `every`-th frame.

    `network_size` is a function: (height, width) of a frame of the video -> (height, width) of the resized frame, all
    in px. `resize` is the way of resizing: "pillow", "bicubic", "torch" or "swscale".
    """

    network_size: Callable[[int, int], Size]
    every: int
    resize: Resize = "pillow"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The frames and pixels that the stages of one run need of each clip."""

    num_frames: int  # the number of frames of a clip
    squares: frozenset[Square] = frozenset()  # the cropped pictures that backbones take
    whole: WholeFrame | None = None  # the whole frames that a proposal network takes, or None
    # If true, the stages need the number of each frame in the video. Then the video is read to its end.
    numbered: bool = False
    short: str = "repeat_last"  # what happens if the video is shorter than a clip: "repeat_last", "loop" or "fail"
    may_repeat: bool = False  # if false, a clip that shows one frame at all its times fails
    # If true, clips that follow each other share frames. A decoder then keeps the frames for the next clips.
    overlapping: bool = False
    # The device on which torchcodec decodes, "cpu", "cuda" or "cuda:<index>". None means PyAV.
    torchcodec_device: str | None = None

    def num_bytes(self, height: int, width: int) -> int:
        """Returns the number of bytes of the pixels of one clip, for a video with frames of `height` x `width` px."""
        num_bytes = sum(-(-self.num_frames // square.every) * square.size**2 * 3 for square in self.squares)
        if self.whole is not None:
            rows, columns = self.whole.network_size(height, width)
            num_bytes += -(-self.num_frames // self.whole.every) * rows * columns * 3
        return num_bytes

    def on_device(self, device: str) -> "Wanted":
        """Returns a copy of this Wanted for a worker on the device `device`, such as "cuda:1". If `torchcodec_device`
        is "cuda", the copy has `device` in its place. Otherwise the copy is equal to this Wanted.
        """
        return replace(self, torchcodec_device=device) if self.torchcodec_device == "cuda" else self

    def require_kind(self, path: str, *, is_flow: bool) -> None:
        """Raises DecodeError if the video at `path` is of the wrong kind for a network: optical flow in place of
        pictures, or pictures in place of optical flow. `is_flow` says whether the video is optical flow.
        """
        if any(square.of_flow != is_flow for square in self.squares) or (is_flow and self.whole is not None):
            kinds = "pictures", "optical flow (folders of images along x and y)"
            words = f"{path} has {kinds[is_flow]}, and a network needs {kinds[not is_flow]}"
            raise DecodeError("unreadable", words)

    def __or__(self, other: "Wanted") -> "Wanted":
        """Returns a Wanted with all pixels that `self` or `other` asks for. Raises ValueError if `self` and `other` ask
        for whole frames of different sizes.
        """
        if self.whole and other.whole and self.whole != other.whole:
            raise ValueError(f"whole frames are decoded once for all stages: {self.whole} or {other.whole}?")
        return replace(
            self,
            squares=self.squares | other.squares,
            whole=self.whole or other.whole,
            numbered=self.numbered or other.numbered,
        )
