"""Describes the taps of a backbone. A tap is a named layer at which the network can be cut and whose output (maps) can
be cached.

A description has the layers that change the size of a map in space or in time. Imports no torch.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from kinegraph.cache_schemas.words import counted

Window = tuple[int, int]  # kernel and stride of a layer; layers that keep the size are left out
HALF_UP: Window = (1, 2)  # ceil(n / 2): stride 2, padded by half of an odd kernel
HALF_DOWN: Window = (2, 2)  # floor(n / 2): pairs, without padding
Steps = Literal["frame", "clip"]  # of a class token: one for each map, or one for the whole clip


class WrongSize(ValueError):
    """Raised if frames have a size that the network cannot take."""


class WrongFrames(ValueError):
    """Raised if clips have a number of frames that the network cannot take."""


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A tap: a named layer at which a backbone can be cut. The output of the layer is called maps."""

    name: str  # the name in configs, such as `res5`
    channels: int  # the number of channels of the maps
    # (kernel, stride) of each layer that changes the height and width of the maps, from the input up to the tap
    space: tuple[Window, ...]
    # (kernel, stride) of each layer that changes the number of time steps, from the input up to the tap
    time: tuple[Window, ...] = ()
    size_multiple: int = 1  # the side of the input in px must be a multiple of this number
    frames_multiple: int = 1  # the number of frames of the input must be a multiple of this number
    only_size: int | None = None  # the side of the input in px, if the network takes only one size. Otherwise None.
    # The number of frames of the input, if the network takes only one number. Otherwise None.
    only_frames: int | None = None
    # "frame" if the network has a class token for each map of the tap, "clip" if it has one for the whole clip, None if
    # it has none. A class token has as many channels as a map.
    class_token: Steps | None = None
    # If true, the maps are those of the frames that `spread_frames` returns, from the first frame to the last. If
    # false, neighbouring maps are `temporal_stride` frames apart.
    is_spread: bool = False

    @property
    def stride(self) -> int:
        """Returns the distance between neighbouring cells of a map, in pixels of the input."""
        return prod(stride for _, stride in self.space)

    @property
    def temporal_stride(self) -> int:
        """Returns the distance between neighbouring maps of a clip, in frames of the input."""
        return prod(stride for _, stride in self.time)

    def frames_of_maps(self, num_maps: int, num_frames: int) -> slice | list[int]:
        """Returns the index (a slice or a list of numbers) that chooses frames from an array of `num_frames` frames:
        one frame for each of the `num_maps` maps of the tap.

        The array may have all frames of the clip, or frames at equal steps, for example only the frames with boxes.
        """
        if not self.is_spread:
            return slice(0, None, num_frames // num_maps)
        num_inputs = num_maps * self.temporal_stride
        return [frame * num_frames // num_inputs for frame in spread_frames(num_inputs, num_maps)]

    @property
    def offset_px(self) -> float:
        """Returns how far the centre of the first map cell lies from its usual place, in px of the input along one
        axis. The usual place is the middle of the first `stride` pixels.

        The offset is 0 in a network that pads. Without padding, the first cell lies further from the edge.
        """
        centre, jump = 0.0, 1
        for kernel, stride in self.space:
            centre += jump * (kernel - 1) / 2
            jump *= stride
        return max(0.0, centre - (jump - 1) / 2)

    def shape(self, num_frames: int, size: int) -> tuple[int, int, int, int]:
        """Returns the shape (T, C, H, W) of the tap's maps for a clip of `num_frames` frames of `size` x `size` px: T
        maps with C channels, H rows and W columns.

        Raises WrongSize if the network cannot take this size. Raises WrongFrames if it cannot take this number of
        frames.
        """
        if self.only_size not in (None, size):
            raise WrongSize(f"size {size} px: {self.name} needs exactly {self.only_size} px")
        if size % self.size_multiple:
            raise WrongSize(f"size {size} px: {self.name} needs a multiple of {self.size_multiple}")
        self._check_frames(num_frames)
        side = _length(size, self.space)
        return _length(num_frames, self.time), self.channels, side, side

    def shape_above(self, below: "Tap", shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Returns the shape (T, C, H, W) of this tap's maps: T maps with C channels, H rows and W columns. `shape` is
        the shape of the maps of `below`, a lower tap of the same network.

        Raises WrongFrames if the network cannot take this number of frames.
        """
        num_frames, _, height, width = shape
        self._check_frames(num_frames * below.temporal_stride)
        space, time = self.space[len(below.space) :], self.time[len(below.time) :]
        return _length(num_frames, time), self.channels, _length(height, space), _length(width, space)

    def class_shape(self, num_frames: int) -> tuple[int, int]:
        """Returns the shape (T, C) of the class tokens for a clip of `num_frames` frames: T time steps with C channels.
        T is 1 if the clip has one class token.
        """
        return (_length(num_frames, self.time) if self.class_token == "frame" else 1), self.channels

    def _check_frames(self, num_frames: int) -> None:
        given = counted(num_frames, "frame")
        if self.only_frames not in (None, num_frames):
            raise WrongFrames(f"{given}: {self.name} needs exactly {self.only_frames}")
        if num_frames % self.frames_multiple:
            raise WrongFrames(f"{given}: {self.name} needs a multiple of {self.frames_multiple}")


def _length(length: int, windows: tuple[Window, ...]) -> int:
    for kernel, stride in windows:
        length = max(0, (length - kernel) // stride + 1)
    return length


class Level(NamedTuple):
    """A tap and the layers between the next lower tap and this tap. The layers of the lowest tap begin at the input of
    the network.
    """

    name: str  # the name of the tap
    channels: int  # the number of channels of its maps
    # (kernel, stride) of each of the layers that changes the height and width of the maps
    space: tuple[Window, ...] = ()
    time: tuple[Window, ...] = ()  # (kernel, stride) of each of the layers that changes the number of time steps
    frames_multiple: int = 1  # the number of maps of a clip at the tap must be a multiple of this number


def taps_of(*levels: Level, size_multiple: int = 1, **limits: Any) -> tuple[Tap, ...]:
    """Returns the taps of a network, from bottom to top. `levels` has one Level for each tap, in the same order.

    The side of the input in px must be a multiple of `size_multiple`. `limits` are further fields that all taps have,
    such as `class_token`.
    """
    taps: list[Tap] = []
    space: tuple[Window, ...] = ()
    time: tuple[Window, ...] = ()
    frames_multiple = 1
    for level in levels:
        space, time = space + level.space, time + level.time
        if level.frames_multiple > 1:
            frames_multiple = level.frames_multiple * prod(stride for _, stride in time)
        multiples: dict[str, Any] = {"size_multiple": size_multiple, "frames_multiple": frames_multiple} | limits
        taps.append(Tap(name=level.name, channels=level.channels, space=space, time=time, **multiples))
    return tuple(taps)


def spread_frames(num_frames: int, count: int) -> tuple[int, ...]:
    """Returns the numbers of `count` frames, spread from the first to the last of `num_frames` frames: (0, 4, 8, 13,
    17, 22, 26, 31) for 8 of 32 frames.

    The numbers are those of SlowFast's code: torch.linspace in float32, without fractions.
    """
    step = np.float32(num_frames - 1) / np.float32(max(1, count - 1))
    steps = np.arange(count, dtype=np.float32)
    from_end = np.float32(num_frames - 1) - step * steps[::-1]
    places = np.where(steps < count // 2, step * steps, from_end if count > 1 else 0)
    return tuple(places.astype(np.int64).tolist())
