"""Defines the base class of frozen backbones. A backbone is a network with taps. A tap is a named layer whose output,
the maps, can be cached.

The network can be cut at each tap, so that it computes nothing above the tap.

Shapes: B clips, T frames, C channels, H rows and W columns of a frame. T', H' and W' are the sizes of a map, which
`Tap.shape` in taps.py computes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from kinegraph.cache_schemas.arrays import HEAD

MAP_RANK = 5  # axes of maps: clip, channel, time, row, column; vectors have fewer


class Backbone(nn.Module):
    """A network that takes clips and returns the maps of the wanted taps. A tap is a named layer. Its output is called
    maps.

    A subclass sets `stages`: {tap: dotted paths of the submodules that compute the tap, in running order}, from the
    bottom to the top. Each tap takes the output of the tap below. A subclass whose submodules do not form such a chain
    overrides `step`.

    If `wants_class_tokens` is true, `forward` also returns the class token of each tap. If `wants_head` is true, it
    also returns the output `head` after the last tap. The method `want` sets both attributes.

    - `taps`: the names of the wanted taps. These are all taps until `cut` is called.
    - `levels`: the names of the taps whose submodules are still in the network.
    """

    stages: ClassVar[Mapping[str, tuple[str, ...]]]

    def __init__(self) -> None:
        super().__init__()
        self.levels = self.taps = tuple(self.stages)
        self.wants_class_tokens = self.wants_head = False

    def want(self, *, class_tokens: bool, head: bool) -> None:
        """Chooses what `forward` returns besides the maps. If `class_tokens` is true, it returns the class token of
        each wanted tap. If `head` is true, it returns the output `head` after the last tap.

        The network must have the chosen outputs. Call this method before `cut`, because `head` needs the layers above
        the highest tap.
        """
        self.wants_class_tokens, self.wants_head = class_tokens, head

    def cut(self, taps: Sequence[str]) -> None:
        """Makes `taps` the wanted taps. Removes the submodules above the highest of them. If the output `head` is
        wanted, all submodules stay. A tap is a named layer, and `forward` returns the output of each wanted tap.

        `taps` must be a part of the present wanted taps. Raises ValueError if it is not, or if it is empty.
        """
        self._want_taps(taps)
        if not self.wants_head:
            self._keep(self.levels[: self.levels.index(self.taps[-1]) + 1])

    def _want_taps(self, taps: Sequence[str]) -> None:
        """Makes `taps` the wanted taps. Raises ValueError if `taps` is empty, or if a tap in it is not one of the
        wanted taps so far.
        """
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
        """Removes the submodules of all taps except `levels`, which are names of taps from bottom to top."""
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
        """Returns whether the tensor `name` of a weights file belongs to a classifier. Such a tensor is not loaded,
        because this network has no classifier.
        """
        return False

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Runs the network on B clips. Returns {tap: maps [B, C, T', H', W']} for each wanted tap (a named layer).

        `clips` are normalised pixels [B, 3, T, H, W]. After `cut_below(tap)`, `clips` are maps of `tap`, [B, C, T, H,
        W].

        If class tokens are wanted, the result also has `<tap>_class` -> [B, T', C], or [B, 1, C] if a clip has one
        class token. If the output after the last tap is wanted, the result has `head` -> [B, C], or [B, T, C] in a
        network that sees each frame alone.
        """
        return self.run(clips)

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Returns {tap: maps} for each wanted tap (a named layer), in the layout in which the submodules compute: [B,
        C, T, H, W] in a 3D network, and [B*T, C, H, W] in a 2D network.

        `x` is the input of the network, in the same layout. In a network that `cut_below` has cut, `x` has maps. If the
        output after the last tap is wanted, the result also has `head`, as `head_of` returns it.
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
        """Returns the output `head` [B, C], for B clips and C channels, of a network with such an output. `x` is the
        output of the last tap.
        """
        raise NotImplementedError(f"{type(self).__name__} has no output `head`")

    def step(self, tap: str, x: Tensor) -> Tensor:
        """Returns the output of the tap (named layer) `tap`. `x` is the output of the tap below, or the input of the
        network for the lowest tap.

        `x` and the result are [B, C, T, H, W] in a 3D network, and [B*T, C, H, W] in a 2D network: B clips of T frames.
        """
        for path in self.stages[tap]:
            x = self.get_submodule(path)(x)
        return x


def frame_by_frame(run: Callable[[Tensor], dict[str, Tensor]], clips: Tensor) -> dict[str, Tensor]:
    """Runs the 2D network `run` on each frame of B clips. Returns {tap: maps [B, C, T, H', W']}.

    `clips` are [B, 3, T, H, W]. `run` takes the frames of all clips as one batch [B*T, 3, H, W] and returns {tap: maps
    [B*T, C, H', W']}. Vectors [B*T, C] become [B, T, C]. Clips whose memory layout is [B, T, H, W, 3] are not copied.
    """
    num_clips = clips.shape[0]
    maps = run(clips.transpose(1, 2).flatten(0, 1))
    by_clip = {name: x.view(num_clips, -1, *x.shape[1:]) for name, x in maps.items()}
    return {name: x.transpose(1, 2) if x.ndim == MAP_RANK else x for name, x in by_clip.items()}
