"""The base class of frozen backbones. A backbone is a network with named taps, one above the other.

A tap is a place in the network whose output (maps) can be cached. The network can be cut at each tap, so that it
computes nothing above the tap.

Shapes: B clips, T frames, C channels, H rows and W columns of a frame. T', H' and W' are the sizes of a map, which
`Tap.shape` in taps.py computes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from kinegraph.cache_schemas.arrays import HEAD

MAP_RANK = 5  # axes of maps: clip, channel, time, row, column; vectors have fewer


class Backbone(nn.Module):
    """A network that takes clips and returns the maps of the wanted taps. A tap is a named layer whose output is used.

    A subclass sets `stages`: name of the tap -> dotted paths of the submodules that compute the tap, in running order.
    Taps go from bottom to top: the lowest tap takes the input of the network, every other tap the output of the tap
    below. A subclass whose submodules do not form such a chain overrides `step`.

    A network may have a class token beside each map, and an output `head` after its last tap. Such a subclass returns
    them from `forward` if `wants_class_tokens` or `wants_head` is true. The method `want` sets both.

    `taps` has the wanted taps, which are all taps until `cut` is called. `levels` has the taps whose submodules are
    still in the network.
    """

    stages: ClassVar[Mapping[str, tuple[str, ...]]]

    def __init__(self) -> None:
        super().__init__()
        self.levels = self.taps = tuple(self.stages)
        self.wants_class_tokens = self.wants_head = False

    def want(self, *, class_tokens: bool, head: bool) -> None:
        """Chooses what `forward` returns beside the maps: the class token of each wanted tap, and the output `head`.

        The network must have them. Call this method before `cut`, because layers above the highest tap are needed for
        `head`.
        """
        self.wants_class_tokens, self.wants_head = class_tokens, head

    def cut(self, taps: Sequence[str]) -> None:
        """Makes `taps` the wanted taps, whose maps `forward` returns. Removes the submodules above the highest of them,
        unless the output `head` is wanted.

        Raises ValueError if `taps` is empty, or if one of them is not among the wanted taps so far.
        """
        self._want_taps(taps)
        if not self.wants_head:
            self._keep(self.levels[: self.levels.index(self.taps[-1]) + 1])

    def _want_taps(self, taps: Sequence[str]) -> None:
        """Makes `taps` the wanted taps. Raises ValueError if it is empty, or has a tap that was not wanted before."""
        unknown = [name for name in taps if name not in self.taps]
        if unknown or not taps:
            raise ValueError(f"cannot cut {type(self).__name__} at {list(taps)}; its taps are {list(self.taps)}")
        self.taps = tuple(name for name in self.taps if name in taps)

    def cut_below(self, tap: str) -> None:
        """Removes the submodules of `tap` and of all taps below it. Afterwards the network takes maps of `tap` in place
        of clips.

        Raises ValueError if the network has no such tap, or if no wanted tap is above it.
        """
        if tap not in self.levels or tap == self.taps[-1]:
            below = [name for name in self.levels if name != self.taps[-1]]
            raise ValueError(f"{type(self).__name__} has nothing above the tap {tap!r}; it has above {below}")
        above = self.levels[self.levels.index(tap) + 1 :]
        self.taps = tuple(name for name in self.taps if name in above)
        self._keep(above)

    def _keep(self, levels: tuple[str, ...]) -> None:
        """Removes the submodules of all taps except those in `levels`, which are names of taps, from bottom to top."""
        present = {path for path, _ in self.named_modules()}
        for name in set(self.levels).difference(levels):
            for path in present.intersection(self.stages[name]):
                parent, _, child = path.rpartition(".")
                delattr(self.get_submodule(parent), child)
        self.levels = levels

    def adopt(self, network: nn.Module) -> None:
        """Moves the submodules that `stages` lists from `network` into this network. Parameters keep their names."""
        for path in (path for paths in self.stages.values() for path in paths):
            child = path.partition(".")[0]
            self.add_module(child, network.get_submodule(child))

    def is_classifier(self, name: str) -> bool:
        """Returns whether the tensor `name` of a weights file belongs to the classifier, which this network does not
        have.
        """
        return False

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Returns tap -> maps [B, C, T', H', W'] for the wanted taps. `clips` are normalised pixels [B, 3, T, H, W].

        There are B clips of T frames with H rows and W columns. A tap has T' maps with C channels, H' rows and W'
        columns. After `cut_below(tap)`, `clips` are maps of `tap` in place of pixels, [B, C, T, H, W].

        If class tokens are wanted, the result also has `<tap>_class` -> class tokens of the tap, [B, T', C], or [B, 1,
        C] if the clip has one class token. If the output after the last tap is wanted, the result has `head` -> [B, C],
        or [B, T, C] in a network that sees each frame alone.
        """
        return self.run(clips)

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Returns tap name -> maps, for each tap in `taps`.

        `x` is the input of the whole network. In a network that `cut_below` has cut at a tap, `x` has maps of that tap.
        `x` and the maps are [B, C, T, H, W] in a 3D network, and [B*T, C, H, W] in a 2D network. B is the number of
        clips, C of channels, T of frames or maps, H of rows and W of columns.
        """
        maps: dict[str, Tensor] = {}
        for tap in self.levels:
            x = self.step(tap, x)
            if tap in self.taps:
                maps[tap] = x
        if self.wants_head:
            maps[HEAD] = self.head_of(x)
        return maps

    def head_of(self, x: Tensor) -> Tensor:
        """Returns the output `head` [B, C] of a network that has one. `x` is the output of its last tap."""
        raise NotImplementedError(f"{type(self).__name__} has no output `head`")

    def step(self, tap: str, x: Tensor) -> Tensor:
        """Returns the output of the tap `tap`. `x` is the output of the tap below, or the input of the network if `tap`
        is the lowest. Both are [B, C, T, H, W].
        """
        for path in self.stages[tap]:
            x = self.get_submodule(path)(x)
        return x


def frame_by_frame(run: Callable[[Tensor], dict[str, Tensor]], clips: Tensor) -> dict[str, Tensor]:
    """Runs a 2D network on each frame of `clips` [B, 3, T, H, W]: B clips of T frames with H rows and W columns.
    Returns tap -> maps of the clips [B, C, T, H', W'], with C channels, H' rows and W' columns.

    `run` is the network. It takes the frames of all clips as one batch [B*T, 3, H, W] and returns tap -> maps [B*T, C,
    H', W']. Vectors [B*T, C] that it returns beside the maps become [B, T, C]. Clips whose memory layout is [B, T, H,
    W, 3] are not copied.
    """
    num_clips = clips.shape[0]
    maps = run(clips.transpose(1, 2).flatten(0, 1))
    by_clip = {name: x.view(num_clips, -1, *x.shape[1:]) for name, x in maps.items()}
    return {name: x.transpose(1, 2) if x.ndim == MAP_RANK else x for name, x in by_clip.items()}
