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
    """Describes the pixels that a backbone needs of a clip. One of every `every` frames is cut to the crop of the row
    and resized to `size` x `size` px. If `of_flow` is true, the frames must be optical flow, and otherwise pictures.
    """

    every: int
    of_flow: bool = False


@dataclass(frozen=True, kw_only=True)
class WholeFrame:
    """The input of a proposal network: whole frames of a clip, without a crop. The network takes every `every`-th frame
    of the clip.

    `network_size` is a function: (height, width) of a frame of the video -> (height, width) of the resized frame, all
    in px. `resize` says how frames are resized, as for a Framing.
    """

    network_size: Callable[[int, int], Size]
    every: int
    resize: Resize = "pillow"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Describes the frames that the stages of one run need of a clip.

    `num_frames` is the number of frames. `short` says what happens to a video that is shorter than a clip
    ("repeat_last", "loop" or "fail"). `squares` are the cropped squares that backbones need, and `whole` are the whole
    frames that a proposal network needs. If `numbered` is true, the stages also need the number of each frame in the
    video, so the video is read to its end. A clip that shows one frame at all its times fails, unless `may_repeat` is
    true.

    `torchcodec_device` is the device on which torchcodec decodes: "cpu", "cuda" or "cuda:<index>". If it is None, PyAV
    decodes.

    If `overlapping` is true, clips that follow each other share frames, as windows do. A decoder then keeps the frames
    that the next clips may need again.
    """

    num_frames: int
    squares: frozenset[Square] = frozenset()
    whole: WholeFrame | None = None
    numbered: bool = False
    short: str = "repeat_last"
    may_repeat: bool = False
    overlapping: bool = False
    torchcodec_device: str | None = None

    def num_bytes(self, height: int, width: int) -> int:
        """Returns the number of bytes of the pixels of one clip. The frames of the video have `height` x `width` px."""
        num_bytes = sum(-(-self.num_frames // square.every) * square.size**2 * 3 for square in self.squares)
        if self.whole is not None:
            rows, columns = self.whole.network_size(height, width)
            num_bytes += -(-self.num_frames // self.whole.every) * rows * columns * 3
        return num_bytes

    def on_device(self, device: str) -> "Wanted":
        """Returns a copy of this Wanted for a worker on `device`, such as "cuda:1". If torchcodec is to decode on a
        GPU, `torchcodec_device` of the copy is this device. Otherwise nothing changes.
        """
        return replace(self, torchcodec_device=device) if self.torchcodec_device == "cuda" else self

    def require_kind(self, path: str, *, is_flow: bool) -> None:
        """Raises DecodeError if a network needs pictures of a video at `path` that is optical flow, or flow of one that
        is pictures. `is_flow` says which of them it is.
        """
        if any(square.of_flow != is_flow for square in self.squares) or (is_flow and self.whole is not None):
            kinds = "pictures", "optical flow (folders of images along x and y)"
            words = f"{path} has {kinds[is_flow]}, and a network needs {kinds[not is_flow]}"
            raise DecodeError("unreadable", words)

    def __or__(self, other: "Wanted") -> "Wanted":
        """Returns a Wanted with the frames that `self` and `other` together need of a clip.

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
