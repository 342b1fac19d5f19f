"""Describes the taps of a backbone: where the network can be cut, and the sizes of the maps. Imports no torch."""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from kinegraph.cache_schemas.words import counted

Window = tuple[int, int]  # kernel and stride of a layer; layers that keep the size are left out
HALF_UP: Window = (1, 2)  # ceil(n / 2): stride 2, padded by half of an odd kernel
HALF_DOWN: Window = (2, 2)  # floor(n / 2): pairs, without padding


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A point where a backbone can be cut, with the layers below it that change sizes in space and in time.

    size_multiple, frames_multiple: the side and the number of frames of the input must be multiples of these numbers.
    """

    name: str
    channels: int
    space: tuple[Window, ...]
    time: tuple[Window, ...] = ()
    size_multiple: int = 1
    frames_multiple: int = 1

    @property
    def stride(self) -> int:
        """Returns the number of input pixels per map cell."""
        return prod(stride for _, stride in self.space)

    @property
    def temporal_stride(self) -> int:
        """Returns the number of input frames per map row."""
        return prod(stride for _, stride in self.time)

    @property
    def offset_px(self) -> float:
        """Returns how far the centre of cell 0 lies beyond the middle of the first `stride` pixels.

        The offset is 0 where layers pad.
        """
        centre, jump = 0.0, 1
        for kernel, stride in self.space:
            centre += jump * (kernel - 1) / 2
            jump *= stride
        return max(0.0, centre - (jump - 1) / 2)

    def shape(self, num_frames: int, size: int) -> tuple[int, int, int, int]:
        """Returns (T, C, H, W) of the tap's map for a clip of `num_frames` frames of `size` x `size` px.

        Raises ValueError for a size or a number of frames that the network cannot take.
        """
        if size % self.size_multiple:
            raise ValueError(f"size {size} px: {self.name} needs a multiple of {self.size_multiple}")
        self._check_frames(num_frames)
        side = _length(size, self.space)
        return _length(num_frames, self.time), self.channels, side, side

    def shape_above(self, below: "Tap", shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Returns (T, C, H, W) of this tap's map, where `shape` is that of the tap `below` in the same network.

        Raises ValueError for a number of frames that the network cannot take.
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
    """Describes a tap by the layers between it and the tap below.

    frames_multiple: the number of frames of this level's own maps must be a multiple of this number.
    """

    name: str
    channels: int
    space: tuple[Window, ...] = ()
    time: tuple[Window, ...] = ()
    frames_multiple: int = 1


def taps_of(*levels: Level, size_multiple: int = 1) -> tuple[Tap, ...]:
    """Returns the taps of a network. `levels` go from bottom to top."""
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
