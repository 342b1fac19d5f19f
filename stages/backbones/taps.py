"""Describes the taps of a backbone. A tap is a place where the network can be cut and its maps can be cached.

A description has the layers that change the size of a map in space or in time. Imports no torch.
"""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from kinegraph.cache_schemas.words import counted

Window = tuple[int, int]  # kernel and stride of a layer; layers that keep the size are left out
HALF_UP: Window = (1, 2)  # ceil(n / 2): stride 2, padded by half of an odd kernel
HALF_DOWN: Window = (2, 2)  # floor(n / 2): pairs, without padding


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A place where a backbone can be cut. `name` is the name that configs use, such as `res5`.

    `space` has (kernel, stride) of each layer below the tap that changes the height and width of the maps. `time` has
    the same for layers that change the number of time steps. `channels` is the number of channels of the maps. The side
    of the input, in px, must be a multiple of `size_multiple`, and its number of frames a multiple of
    `frames_multiple`.
    """

    name: str
    channels: int
    space: tuple[Window, ...]
    time: tuple[Window, ...] = ()
    size_multiple: int = 1
    frames_multiple: int = 1

    @property
    def stride(self) -> int:
        """Returns the distance between neighbouring cells of a map, in pixels of the input."""
        return prod(stride for _, stride in self.space)

    @property
    def temporal_stride(self) -> int:
        """Returns the distance between neighbouring maps of a clip, in frames of the input."""
        return prod(stride for _, stride in self.time)

    @property
    def offset_px(self) -> float:
        """Returns the offset in px, along one axis, of the centre of the first map cell. It is counted from the centre
        of the first `stride` pixels.

        In a network that pads, it is 0. Without padding, the centre of the cell lies further from the edge.
        """
        centre, jump = 0.0, 1
        for kernel, stride in self.space:
            centre += jump * (kernel - 1) / 2
            jump *= stride
        return max(0.0, centre - (jump - 1) / 2)

    def shape(self, num_frames: int, size: int) -> tuple[int, int, int, int]:
        """Returns the shape (T, C, H, W) of the tap's maps for a clip of `num_frames` frames of `size` x `size` px.

        T is the number of maps, C the number of channels. A map has H rows and W columns. Raises ValueError if the
        network cannot take this size or this number of frames.
        """
        if size % self.size_multiple:
            raise ValueError(f"size {size} px: {self.name} needs a multiple of {self.size_multiple}")
        self._check_frames(num_frames)
        side = _length(size, self.space)
        return _length(num_frames, self.time), self.channels, side, side

    def shape_above(self, below: "Tap", shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Returns the shape (T, C, H, W) of this tap's maps. `shape` is the shape of the maps of `below`, a lower tap
        of the same network.

        T is the number of maps, C the number of channels. A map has H rows and W columns. Raises ValueError if the
        network cannot take this number of frames.
        """
        num_frames, _, height, width = shape
        self._check_frames(num_frames * below.temporal_stride)
        space, time = self.space[len(below.space) :], self.time[len(below.time) :]
        return _length(num_frames, time), self.channels, _length(height, space), _length(width, space)

    def _check_frames(self, num_frames: int) -> None:
        if num_frames % self.frames_multiple:
            raise ValueError(f"{counted(num_frames, 'frame')}: {self.name} needs a multiple of {self.frames_multiple}")


def _length(length: int, windows: tuple[Window, ...]) -> int:
    for kernel, stride in windows:
        length = max(0, (length - kernel) // stride + 1)
    return length


class Level(NamedTuple):
    """A tap, with the layers between the next lower tap and this one. For the lowest tap, these are all layers from the
    input up to it.

    `space` and `time` have (kernel, stride) of each of these layers that changes the size of the maps, in space or in
    time. The number of maps of a clip at this tap must be a multiple of `frames_multiple`.
    """

    name: str
    channels: int
    space: tuple[Window, ...] = ()
    time: tuple[Window, ...] = ()
    frames_multiple: int = 1


def taps_of(*levels: Level, size_multiple: int = 1) -> tuple[Tap, ...]:
    """Returns the taps of a network, from bottom to top. `levels` has one item for each tap, in the same order.

    An item describes the layers between its tap and the tap below, or from the input on for the lowest tap. The side of
    the input in px must be a multiple of `size_multiple`.
    """
    taps: list[Tap] = []
    space: tuple[Window, ...] = ()
    time: tuple[Window, ...] = ()
    frames_multiple = 1
    for level in levels:
        space, time = space + level.space, time + level.time
        if level.frames_multiple > 1:
            frames_multiple = level.frames_multiple * prod(stride for _, stride in time)
        multiples = {"size_multiple": size_multiple, "frames_multiple": frames_multiple}
        taps.append(Tap(name=level.name, channels=level.channels, space=space, time=time, **multiples))
    return tuple(taps)
